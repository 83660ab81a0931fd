//! The table of everything that can go wrong: one row each, with an id that ends its messages for good.
//!
//! `docs/errors.md` is this table ([`markdown`]), `vaultmount explain` prints its rows, and
//! `tests/integration/error_causes.rs` has a test for each.

use std::fmt::{self, Write as _};

/// gRPC's code for a failure, which decides who tries again: the driver repeats `Unavailable` at once (three times), kubelet
/// everything else after a pause.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Code {
    /// The class or the request must be changed.
    InvalidArgument,
    /// Somebody's rule forbids it.
    PermissionDenied,
    /// The service account token does not prove what it should.
    Unauthenticated,
    /// What is named is not there.
    NotFound,
    /// Something must be set up first.
    FailedPrecondition,
    /// It passes.
    Unavailable,
    /// The time ran out; what was asked for may have been done all the same, so the driver must not repeat it at once.
    DeadlineExceeded,
    /// More than fits.
    ResourceExhausted,
    /// A fault of ours.
    Internal,
}

/// A row of the table.
#[derive(Clone, Copy, Debug)]
pub struct ErrorInfo {
    /// What it is about.
    pub cause: Cause,
    /// `VM0001`; never given to anything else.
    pub id: &'static str,
    /// The code it is answered with.
    pub code: Code,
    /// The cause in one clause.
    pub title: &'static str,
    /// What it means and how it comes about. Markdown.
    pub explanation: &'static str,
    /// What to do. Markdown.
    pub fix: &'static str,
}

/// Rows that belong together.
#[derive(Clone, Copy, Debug)]
pub struct Section {
    /// Its heading.
    pub title: &'static str,
    /// Its rows.
    pub causes: &'static [Cause],
}

macro_rules! table {
    ($($section:literal { $($name:ident $id:literal $code:ident $title:literal explanation $explanation:literal fix $fix:literal)* })*) => {
        /// What went wrong, by the thing a person would have to mend.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Cause {
            $($(#[doc = concat!($id, ": ", $title, ".")] $name,)*)*
        }

        impl Cause {
            /// Its row.
            #[must_use]
            pub fn info(self) -> &'static ErrorInfo {
                match self {
                    $($(Self::$name => &ErrorInfo {
                        cause: Self::$name, id: $id, code: Code::$code, title: $title, explanation: $explanation, fix: $fix,
                    },)*)*
                }
            }
        }

        /// The table.
        pub const SECTIONS: &[Section] = &[$(Section { title: $section, causes: &[$(Cause::$name),*] },)*];
    };
}

table! {
"Reaching the server" {
    ConnectionRefused "VM0001" Unavailable "The server refuses connections"
        explanation "The host exists, but nothing listens on that port."
        fix "Check the address and its port, and that the server runs."
    ConnectTimeout "VM0002" Unavailable "The server does not answer connections"
        explanation "Neither yes nor no came back in time while the name was looked up, the connection was made, or TLS was negotiated: as a rule a firewall or network policy that drops packets, or a wrong address."
        fix "Check the address, and firewalls and network policies between the node and the server."
    NameNotFound "VM0003" Unavailable "The server's host name is not found"
        explanation "The resolver of the node (the provider's pod, in a cluster) knows no address for the name, or could not be asked."
        fix "Check the host name in the address, and DNS where the provider runs. Names of services need their namespace: `vault.vault.svc`."
    Unreachable "VM0004" Unavailable "The connection to the server fails"
        explanation "No route, a connection that was cut, an answer that took longer than `VAULT_CLIENT_TIMEOUT`, a proxy that gives no way through, or a unix socket that nobody listens on."
        fix "Read what the system or the proxy said. Check proxies (`HTTPS_PROXY`, `NO_PROXY`), and for `unix://` addresses that the agent runs."
    CertificateUntrusted "VM0005" FailedPrecondition "The server's certificate is not trusted"
        explanation "Nobody that is trusted issued it: the private CA is not configured, or is another one, or the certificate signed itself."
        fix "Set the CA that issued it, or the self-signed certificate itself: `vaultCACert` (the PEM itself) or `vaultCACertPath` in the class, `--vault-tls-ca-cert` for all."
    CertificateName "VM0006" FailedPrecondition "The server's certificate is for another name"
        explanation "It is not for the host in the address. Only subject alternative names count, the common name does not."
        fix "Use one of its names in the address, set `vaultTLSServerName` to one of them, or issue a certificate for the name in use."
    CertificateTime "VM0007" FailedPrecondition "The server's certificate is expired or not valid yet"
        explanation "By the clock of this node, its time is over or has not begun."
        fix "Renew the server's certificate; if its dates are right, set the node's clock."
    PlainToTls "VM0008" FailedPrecondition "http is spoken to a server that speaks https"
        explanation "The address begins with `http://`, and the server wants TLS, or redirects to itself with `https://`."
        fix "Write `https://` in the address."
    TlsToPlain "VM0009" FailedPrecondition "https is spoken to a server that does not speak TLS"
        explanation "The address begins with `https://`, and what answers there is no TLS: most likely plain HTTP, or another port."
        fix "Use the server's TLS port, or write `http://` if it really has no TLS."
    TlsSetup "VM0010" FailedPrecondition "TLS cannot be set up"
        explanation "The server demands a client certificate or does not accept ours, there is no TLS version or cipher in common, or a CA, certificate or key that is configured cannot be used."
        fix "Read what is said of it; check the TLS parameters of the class and the flags of the provider."
    NotVault "VM0011" FailedPrecondition "What answers is not Vault"
        explanation "A web server, a proxy or a login page answers at the address."
        fix "Check the address, which ends before `/v1`, and what stands between."
    Redirect "VM0012" FailedPrecondition "The server redirects to where may not be followed"
        explanation "A token is sent to no other host than the one in the address, unless the operator named it. A standby whose leader has just gone redirects, too, for the seconds of an election."
        fix "Set the address to the server that answers, let standbys forward requests, or name the host with `--follow-redirects`."
    AddressNotAllowed "VM0013" PermissionDenied "The operator does not allow the address"
        explanation "The class (or the pod's volumeAttributes) chose an address that neither `--allow-address` nor the policy file allows, or one that leads to the node itself."
        fix "Remove the address from the class to use the operator's own, name an endpoint of the policy file (`vaultEndpoint`), or have the operator allow it: with `--allow-address`, or with `addresses` in the policy file where there is one."
    SkipVerifyNotAllowed "VM0014" PermissionDenied "The operator does not allow certificates that are not verified"
        explanation "The class (or the pod's volumeAttributes) sets `vaultSkipTLSVerify`, and `--allow-skip-verify=false` or the policy file forbids it: whoever sits between would read every secret."
        fix "Remove `vaultSkipTLSVerify` and set the CA that issued the server's certificate: `vaultCACert` (the PEM itself) or `vaultCACertPath` in the class, `--vault-tls-ca-cert` for all. Or have the operator allow it: `--allow-skip-verify`, and `skipVerify` in the policy file where there is one."
    TenantPolicyViolation "VM0015" PermissionDenied "The operator does not allow what the class chooses"
        explanation "The policy file says what the classes of each Kubernetes namespace may use: endpoints, Vault namespaces, auth mounts, audiences, certificate files; `--tenant-tls-dir` says where the latter must be. What the class says, with the pod's volumeAttributes laid over it and the operator's defaults below it, is something else."
        fix "Choose what the message says is allowed, or have the operator change the rule that it names. What a login role may read is no matter of this policy, but of Vault's own."
    EndpointUnknown "VM0016" PermissionDenied "The operator names no such endpoint"
        explanation "`vaultEndpoint` names a server of the provider's policy file (`--policy-file`), and there is none of that name, or no such file."
        fix "Correct the name, or have the operator add the endpoint to the policy file."
}
"The server's state" {
    Sealed "VM0020" Unavailable "The server is sealed"
        explanation "Vault runs but cannot read its own storage until it is unsealed. Files of running pods stay as they are."
        fix "Unseal it (`vault operator unseal`). Mounts are tried again by themselves."
    Uninitialized "VM0021" Unavailable "The server is not initialized"
        explanation "Vault runs on an empty storage: a new server, or one that lost its volume."
        fix "Initialize it with `vault operator init`. If it should have data, look at its storage first."
    NoLeader "VM0022" Unavailable "The cluster has no active node"
        explanation "A standby answered, and knows no active node to forward to: an election is under way, or too few nodes run."
        fix "Check the cluster's leader (`vault operator raft list-peers`, `vault status`)."
    Throttled "VM0023" Unavailable "A rate limit, a standby that is behind, or an engine that is being upgraded"
        explanation "The server turned the request away (429, 412 from a standby that has not caught up, or 400 from an engine that is being made KV version 2), and sending it again, as often as is set and the time allows, did not help."
        fix "Raise the quota that applies (`sys/quotas/rate-limit`), or wait: the mount is tried again by itself."
    ServerFault "VM0024" Unavailable "The server fails"
        explanation "Vault, or a proxy before it, answered with a status of 500 or more that says nothing better known."
        fix "Look into Vault's server log."
    DeadlineExceeded "VM0025" DeadlineExceeded "The time ran out"
        explanation "The driver gives a mount a limited time (30 s are assumed when it says nothing), and Vault, or what lies behind it, did not answer within it."
        fix "Check that Vault answers within seconds. A login that hangs is often Vault asking a Kubernetes API that it cannot reach."
    OutcomeUnknown "VM0026" DeadlineExceeded "The answer was lost, and something may have been created"
        explanation "The connection ended after a request that creates a credential was sent. It is not repeated at once, as each repetition would create another."
        fix "Nothing, if it passes: the mount is tried again by itself, and what was created ends with its own lease. Otherwise look into the log of Vault and of proxies before it."
    AnswerTooLarge "VM0027" ResourceExhausted "An answer is too large"
        explanation "Vault answered with more than 8 MiB, or what it answered to one pod comes to more than 32 MiB. A volume holds at most 4 MiB."
        fix "Read a path with less in it; store large data elsewhere."
}
"Logging in" {
    TokenMissing "VM0030" FailedPrecondition "The driver passed no service account token"
        explanation "The provider logs in with a token of the pod's service account for the class's `audience` (`vault` by default), which kubelet passes when the CSIDriver object asks for it."
        fix "List the audience in the CSIDriver object `secrets-store.csi.k8s.io`: `spec.tokenRequests: [{audience: vault}]`. By hand: `--token-file` or `--kubeconfig`."
    TokenExpired "VM0031" Unauthenticated "The service account token is expired"
        explanation "Its time is over. Drivers pass a fresh one with every mount, so it is an old file, or a clock that is ahead."
        fix "Take a fresh token (`kubectl create token`). If it is fresh, compare the clocks of the node, the API server and Vault."
    ClockSkew "VM0032" Unauthenticated "Clocks differ"
        explanation "A token counts as expired or as not yet valid on one machine and as valid on another. The message says what each clock says; when Vault's and the node's agree, it is the API server's, which issued the token."
        fix "Set the clocks of the node, the API server and Vault (NTP); Vault forgives a minute or so."
    TokenAudience "VM0033" Unauthenticated "The service account token is for another audience"
        explanation "The token that was passed for an audience says itself that it is for others."
        fix "Name the audience in the CSIDriver's `tokenRequests`, or set the class's `audience` to one the token is for."
    TokenIdentity "VM0034" Unauthenticated "The service account token is another's"
        explanation "The token names another service account than the pod's: somebody wrote a token into the class or into volumeAttributes."
        fix "Remove any `csi.storage.k8s.io/serviceAccount.tokens` from both; kubelet sets it."
    AuthMountMissing "VM0035" FailedPrecondition "No auth method is mounted there"
        explanation "Nothing that takes service account tokens answers at the auth mount's path: no method is enabled there, or one of another kind. Vault itself only says `permission denied`; a login without a token, which is tried after it, shows it."
        fix "Correct `vaultKubernetesMountPath` or `vaultAuthMountPath` (without `auth/`), or the Vault namespace; or enable the method: `vault auth enable -path=PATH kubernetes`."
    AuthUnconfigured "VM0036" FailedPrecondition "The auth method is not configured"
        explanation "It is mounted, but nobody wrote its configuration."
        fix "Write it: `vault write auth/PATH/config kubernetes_host=…` (kubernetes), or `oidc_discovery_url`, `jwks_url` or `jwt_validation_pubkeys` (jwt)."
    LoginDenied "VM0037" Unauthenticated "The login was denied without a reason"
        explanation "The kubernetes method asks the cluster about each token (TokenReview), and Vault says `permission denied` for everything that goes wrong there: the API server (`kubernetes_host`) is unreachable from Vault or its certificate is not trusted; Vault's reviewer may not create TokenReviews; the token is of another cluster; the pod or its service account is gone. Every method says it to an address that is not in the role's `token_bound_cidrs`."
        fix "Vault's server log says which, at level debug. Check the role's `token_bound_cidrs`, `vault read auth/PATH/config`, and that the reviewer's service account is bound to `system:auth-delegator`."
    RoleMissing "VM0038" FailedPrecondition "The login role does not exist"
        explanation "The auth mount knows no role of that name."
        fix "Correct `roleName` or the auth mount in the class, or create the role: `vault write auth/PATH/role/NAME …`."
    AudienceUnbound "VM0039" FailedPrecondition "The login role names no audience"
        explanation "The token is for an audience, and the role says none, which the jwt method refuses."
        fix "Set it on the role: `bound_audiences` (jwt), `audience` (kubernetes)."
    AudienceWrong "VM0040" Unauthenticated "The login role takes another audience"
        explanation "The token's audience and the role's are not the same."
        fix "Make the role's audience (jwt: `bound_audiences`) and the class's `audience` the same."
    NamespaceNotBound "VM0041" PermissionDenied "The login role does not take the pod's namespace"
        explanation "The pod's Kubernetes namespace is not among the role's `bound_service_account_namespaces`."
        fix "Add it there, or run the pod in a namespace that is."
    ServiceAccountNotBound "VM0042" PermissionDenied "The login role does not take the pod's service account"
        explanation "The pod's service account is not among the role's `bound_service_account_names`."
        fix "Add it there, or set the pod's `serviceAccountName`."
    TokenSignature "VM0043" Unauthenticated "The auth method does not know who signed the token"
        explanation "The jwt method has no key of this cluster: it is configured for another one, or the cluster's key was exchanged."
        fix "Configure it for this cluster (`oidc_discovery_url`, `jwks_url` or `jwt_validation_pubkeys`), or name this cluster's auth mount in the class."
    LoginClaims "VM0044" Unauthenticated "The login role does not take the token's claims"
        explanation "A bound claim or subject of the role, or the issuer of the auth method, is not what the token says."
        fix "Compare the token's claims with `vault read auth/PATH/role/NAME`, its issuer with `vault read auth/PATH/config`."
    VaultNamespaceMissing "VM0045" FailedPrecondition "The Vault namespace does not exist"
        explanation "The server knows no namespace of that name (OpenBao, Vault Enterprise)."
        fix "Correct `vaultNamespace` (or `vaultAuthNamespace`, where it is set), or create the namespace."
    TokenUsesTooFew "VM0046" FailedPrecondition "The login role's tokens have too few uses"
        explanation "The role sets `token_num_uses: 1`, and the class reads something with a lease, which a token of one use cannot hold. More requests than a token may make are no failure: the pod is logged in again."
        fix "Raise `token_num_uses`, or set it to 0."
    VaultNamespaceLocked "VM0047" FailedPrecondition "The Vault namespace is locked"
        explanation "An administrator locked the namespace, so that it answers nobody (OpenBao, Vault Enterprise)."
        fix "Unlock it with the key that locking it gave: `vault namespace unlock`."
    LoginRoleUnusable "VM0048" FailedPrecondition "The login role is not one that pods can use"
        explanation "It is there, and made for something else: a jwt role of `role_type: oidc` is for people with a browser, and one whose `token_policies` say `root` gives what no login may."
        fix "Name a role of `role_type: jwt` with policies of its own, or correct this one."
    TokenSharingNotAllowed "VM0049" PermissionDenied "Pods may not share what is a token's own"
        explanation "The class says `tokenScope: serviceAccount`, so that pods of one service account share a Vault token, and one of its objects is that token (`type: token`), what `auth/token` tells or does of it, or lies in its cubbyhole: each pod would have in hand what the others live by."
        fix "Remove `tokenScope` from the class, so that each pod has a token of its own, or have the operator allow it with `--allow-shared-token`."
}
"Reading" {
    VaultPolicyDenied "VM0050" PermissionDenied "A policy denies the request"
        explanation "No policy of the login role allows it. Vault says the same of a path where no engine is mounted. Objects that are denied alike are told together, with a stanza for each."
        fix "Correct `secretPath`, or add the stanza in the message to a policy of the role."
    SecretMissing "VM0051" NotFound "There is no secret at the path"
        explanation "The engine is there and the policy allows reading, but nothing was written at the path. Where a policy allows `list` on the folder (`MOUNT/metadata/FOLDER/` in KV version 2), the nearest name, or what names there are, is told."
        fix "Correct `secretPath`, or create the secret. `optional: true` makes its absence no error."
    VersionDeleted "VM0052" NotFound "The secret's version was deleted or destroyed"
        explanation "KV version 2 keeps versions: the newest, or the one asked for with `?version=N`, was deleted or destroyed."
        fix "Write a new version, undelete it, or ask for another."
    Kv2Path "VM0053" NotFound "The path of a KV version 2 secret lacks `data/`"
        explanation "The engine is KV version 2, whose secrets are read at `MOUNT/data/NAME` and listed at `MOUNT/metadata/NAME`."
        fix "Use the path in the message."
    Kv1Path "VM0054" NotFound "The path of a KV version 1 secret has a `data/` that does not belong there"
        explanation "The engine is KV version 1, whose secrets are at `MOUNT/NAME`, and there is nothing below `data/`."
        fix "Use the path in the message."
    EngineMissing "VM0055" NotFound "Nothing answers at the path"
        explanation "No secrets engine is mounted there, or the one that is knows no such path. `optional: true` does not forgive it."
        fix "Correct `secretPath`: it begins with the engine's mount path (`vault secrets list`), and goes on as the engine has it (`database/creds/ROLE`, `pki/issue/ROLE`)."
    EngineRoleMissing "VM0056" FailedPrecondition "The secrets engine has no such role"
        explanation "The role at the end of `secretPath` (`database/creds/ROLE`, `pki/issue/ROLE`) does not exist."
        fix "Correct the role in `secretPath`, or create it."
    BackendDown "VM0057" Unavailable "What stands behind the secrets engine is down"
        explanation "Vault cannot reach the database, cloud or server that the engine makes credentials for."
        fix "Check that it runs, and the engine's connection settings. The mount is tried again by itself."
    MethodNotAllowed "VM0058" InvalidArgument "The path does not take this method"
        explanation "Paths that issue something, such as `pki/issue/ROLE`, are written, not read."
        fix "Set `method: PUT` and `secretArgs` for them; remove `method` to read."
    ArgumentRefused "VM0059" PermissionDenied "The engine's role does not allow these arguments"
        explanation "A PKI role does not allow the common name, the alternative names or the ttl in `secretArgs`."
        fix "Correct `secretArgs`, or the role's `allowed_domains` and its like."
    ReadRefused "VM0060" InvalidArgument "The engine refuses the request"
        explanation "Vault answered with a status below 500 for a reason of the engine's own, which the message repeats."
        fix "Correct `secretPath`, `method` or `secretArgs`."
    NoData "VM0061" NotFound "The answer holds no data"
        explanation "The request succeeded and brought nothing to make a file of, as most writes do, or something else than JSON, as `pki/ca/pem` does."
        fix "Read a path that answers with data; for certificates that is `pki/cert/ca` with `secretKey: certificate`."
    EngineSetup "VM0062" FailedPrecondition "The secrets engine's configuration refuses it"
        explanation "The role is there, and what it needs is not: its database connection does not exist, or names it not among its `allowed_roles`."
        fix "Write the connection (`vault write database/config/NAME …`), correct the role's `db_name`, or add the role to the connection's `allowed_roles`."
}
"Making files" {
    KeyMissing "VM0070" NotFound "The key is not in the secret"
        explanation "The secret is there, without the key that `secretKey` or `secretPointer` names. The message lists the keys there are, never values."
        fix "Correct the key. `optional: true` makes its absence no error."
    KeyNested "VM0071" NotFound "The key is further inside the secret"
        explanation "`secretKey` takes keys at the top of the secret's data; this one is inside another value."
        fix "Use `secretPointer`, an RFC 6901 pointer such as `/database/password`, instead of `secretKey`."
    RenderFailed "VM0072" InvalidArgument "The value cannot be made a file as the object says"
        explanation "It is not in the `encoding` that the object names, or does not fit the `format`."
        fix "Correct `encoding` or `format`, or the secret's value."
    DuplicateFile "VM0073" InvalidArgument "Two objects make the same file"
        explanation "Each `objectName` is a file of its own; it may not be another's directory either."
        fix "Give one of them another `objectName`."
    UnsafeName "VM0074" InvalidArgument "A file name is not safe"
        explanation "A name must be relative and plain: no `..`, no empty parts, no control characters, at most 255 bytes between slashes. With `secretKey: \"*\"` the keys are the names."
        fix "Choose another `objectName`; rename the key, or list the keys as objects of their own."
    FilesTooLarge "VM0075" ResourceExhausted "The volume's files are too large"
        explanation "The driver takes at most 4 MiB for a volume. The message names the largest files."
        fix "Take single keys with `secretKey`, or split the class."
}
"The class" {
    InvalidRequest "VM0080" InvalidArgument "A parameter or field is wrong"
        explanation "A parameter of the class, a field of an object, or what the driver sent cannot be understood or does not go together. All mistakes of a class are told at once."
        fix "Correct each place that the message names."
    ObjectsYaml "VM0081" InvalidArgument "`objects` is not valid YAML"
        explanation "`objects` is a text with a YAML list in it. Lines and columns count from its own beginning; `vaultmount validate` tells those of the file."
        fix "Correct the line: indentation, quotes around values that begin with `@`, `*`, `&`, `{` or a backquote, one entry per `-`."
    UnknownName "VM0082" InvalidArgument "Nobody knows a parameter or field"
        explanation "A mistyped name is ignored by a mount, which then does something else than was meant."
        fix "Correct it to the name in the message, or remove it."
    SecretObject "VM0083" InvalidArgument "`secretObjects` names a file that no object makes"
        explanation "The driver copies files into Kubernetes Secrets by their names; without the file, the Secret is not made."
        fix "Set `objectName` in `secretObjects` to that of an object in the class."
    PodOverride "VM0084" InvalidArgument "A pod changes the class"
        explanation "The driver lays the pod's `volumeAttributes` over the class's parameters, so the pod reads something else than the class says."
        fix "Remove the attribute from the pod, or give it a class of its own."
    Manifest "VM0085" InvalidArgument "The manifest cannot be used"
        explanation "It is not valid YAML, a field is missing or of the wrong type, it is for a kind or provider that nobody has, or the driver or the API server will refuse what it asks for."
        fix "Correct the place that the message names."
}
"Kubernetes" {
    KubernetesApi "VM0090" Unavailable "The Kubernetes API cannot be asked"
        explanation "It was needed (for a token, or for the key of object versions) and cannot be reached, or fails."
        fix "Check the API server, its address, and what stands between."
    KubernetesConfig "VM0091" FailedPrecondition "The way to the Kubernetes API is misconfigured"
        explanation "The kubeconfig, or the service account files of the provider's own pod, cannot be used, or lead to what is no API server or cannot be trusted: TLS fails, or the answer is a redirect or more than an object can hold."
        fix "Correct the file that the message names, or the address, name or CA in it."
    TokenRequest "VM0092" FailedPrecondition "The Kubernetes API gives no token"
        explanation "A token was asked for (`--mint-tokens=auto`, `--kubeconfig`) and refused."
        fix "Grant `create` on `serviceaccounts/token`, or better: list the audience in the CSIDriver's `tokenRequests` and set `--mint-tokens=off`."
    VersionKey "VM0093" FailedPrecondition "The key of object versions cannot be read"
        explanation "The Secret with the key (`--hmac-secret-name`) may not be read or created, or holds no key. It is told in the provider's log: mounts go on with a key of the one process, so that versions differ between nodes and after a restart."
        fix "Grant what the message says, in the provider's namespace. A damaged Secret may be deleted: it is made anew, and every object's version changes."
    PodsForbidden "VM0094" FailedPrecondition "The pods of the node may not be watched"
        explanation "The provider asks which pods of its node there are and when they end, and the Kubernetes API refuses."
        fix "Grant `get`, `list` and `watch` on `pods` to the provider's service account, in a ClusterRole: pods of a node are in all namespaces."
    EventsForbidden "VM0095" FailedPrecondition "Events may not be written"
        explanation "The provider writes events of pods for what nobody else tells, and the Kubernetes API refuses. It is told in the provider's log; nothing else suffers."
        fix "Grant `create` and `patch` on `events` to the provider's service account, in a ClusterRole, or switch them off with `--events=false`."
}
"vaultmount itself" {
    ProviderAtCapacity "VM0100" Unavailable "The provider is full"
        explanation "More mounts under way, more different endpoints, more pods, or answers of more bytes than one node's provider takes. What is of one Kubernetes namespace takes half of the places at most, so that there is one for another."
        fix "See why mounts take so long; let classes share an address and TLS settings. The mount is tried again by itself."
    Internal "VM0101" Internal "A fault of vaultmount's"
        explanation "Something that should not happen."
        fix "Report it with the provider's log."
    PodEnded "VM0102" FailedPrecondition "The pod has ended"
        explanation "While the files were made, the pod was deleted or finished. What was read for it is revoked."
        fix "Nothing is to be done: a pod that is gone needs no files."
    AllRevoked "VM0103" FailedPrecondition "Everything was revoked"
        explanation "Somebody ran `vaultmount revoke --all` on this node: the provider has revoked every token it held, and takes no mounts any more."
        fix "Restart the provider to serve pods again."
    ProcessSuperseded "VM0104" Unavailable "Another process took over"
        explanation "While the files were made, another process of vaultmount took this one's place (an update), and would not know what this mount gave."
        fix "Nothing is to be done: the driver tries again, and is answered by the other."
}
}

impl Cause {
    /// Every cause, in the table's order.
    pub fn all() -> impl Iterator<Item = Self> {
        SECTIONS.iter().flat_map(|section| section.causes).copied()
    }

    /// The cause of an id, in any case: `VM0001`.
    #[must_use]
    pub fn of_id(id: &str) -> Option<Self> {
        Self::all().find(|cause| cause.id().eq_ignore_ascii_case(id))
    }

    /// The id that ends its messages.
    #[must_use]
    pub fn id(self) -> &'static str {
        self.info().id
    }

    /// Whether files of certificates and keys, which may be mended, had a part in it.
    #[must_use]
    pub fn is_tls(self) -> bool {
        matches!(self, Self::CertificateUntrusted | Self::CertificateName | Self::CertificateTime | Self::TlsSetup)
    }

    /// Whether the operator does not allow what the class says.
    #[must_use]
    pub fn is_policy(self) -> bool {
        matches!(
            self,
            Self::AddressNotAllowed
                | Self::SkipVerifyNotAllowed
                | Self::TenantPolicyViolation
                | Self::EndpointUnknown
                | Self::TokenSharingNotAllowed
        )
    }

    /// The code it is answered with.
    #[must_use]
    pub fn code(self) -> Code {
        self.info().code
    }
}

impl Code {
    /// Every code a failure can have.
    pub const ALL: [Self; 9] = [
        Self::InvalidArgument,
        Self::PermissionDenied,
        Self::Unauthenticated,
        Self::NotFound,
        Self::FailedPrecondition,
        Self::Unavailable,
        Self::DeadlineExceeded,
        Self::ResourceExhausted,
        Self::Internal,
    ];

    /// What gRPC calls it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::InvalidArgument => "InvalidArgument",
            Self::PermissionDenied => "PermissionDenied",
            Self::Unauthenticated => "Unauthenticated",
            Self::NotFound => "NotFound",
            Self::FailedPrecondition => "FailedPrecondition",
            Self::Unavailable => "Unavailable",
            Self::DeadlineExceeded => "DeadlineExceeded",
            Self::ResourceExhausted => "ResourceExhausted",
            Self::Internal => "Internal",
        }
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The table as the page `docs/errors.md`.
#[must_use]
pub fn markdown() -> String {
    let mut page = include_str!("head.md").to_owned();
    page.push_str("\n| id | what |\n|---|---|\n");
    for row in Cause::all().map(Cause::info) {
        let _ = writeln!(page, "| [{}](#{}) | {} |", row.id, row.id.to_lowercase(), row.title);
    }
    for section in SECTIONS {
        let _ = write!(page, "\n## {}\n", section.title);
        for row in section.causes.iter().map(|cause| cause.info()) {
            let _ = write!(
                page,
                "\n### <a id=\"{}\"></a>{} {}\n\n{}\n\nMend: {}\n\nCode: `{}`\n",
                row.id.to_lowercase(),
                row.id,
                row.title,
                row.explanation,
                row.fix,
                row.code
            );
        }
    }
    page
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn ids_are_distinct_and_in_order() {
        let ids: Vec<&str> = Cause::all().map(Cause::id).collect();
        let sorted: BTreeSet<&str> = ids.iter().copied().collect();
        assert_eq!(ids, sorted.into_iter().collect::<Vec<_>>());
        assert!(ids.iter().all(|id| id.len() == 6 && id.starts_with("VM")));
        assert_eq!(Cause::of_id("vm0020"), Some(Cause::Sealed));
        assert_eq!(Cause::of_id("VM9999"), None);
    }
}
