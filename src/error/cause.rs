//! The table of every error: one row per cause, with a stable ID that ends its messages.
//!
//! `docs/errors.md` is this table ([`render_markdown`]), `vaultmount explain` prints its rows, and
//! `tests/integration/error_causes.rs` has a test for each.

use std::fmt::{self, Write as _};

/// gRPC status code of an error, which decides who retries: the driver repeats `Unavailable` at once (three times), kubelet
/// repeats everything else after a pause.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Code {
    /// The class or the request must be changed.
    InvalidArgument,
    /// A policy or rule denies it.
    PermissionDenied,
    /// The service account token is not valid for the login.
    Unauthenticated,
    /// The named resource does not exist.
    NotFound,
    /// Configuration is missing or wrong.
    FailedPrecondition,
    /// A transient failure.
    Unavailable,
    /// Deadline exceeded. The request may have succeeded, so the driver must not repeat it at once.
    DeadlineExceeded,
    /// A size limit was exceeded.
    ResourceExhausted,
    /// A bug in vaultmount.
    Internal,
}

/// A row of the table.
#[derive(Clone, Copy, Debug)]
pub struct ErrorInfo {
    /// The cause that this row describes.
    pub cause: Cause,
    /// Stable ID such as `VM0001`, never reused.
    pub id: &'static str,
    /// The gRPC status code of the response.
    pub code: Code,
    /// The cause in one clause.
    pub title: &'static str,
    /// Meaning and origin of the error, in Markdown.
    pub explanation: &'static str,
    /// The next steps, in Markdown.
    pub fix: &'static str,
}

/// A group of related rows.
#[derive(Clone, Copy, Debug)]
pub struct Section {
    /// The section's heading.
    pub title: &'static str,
    /// The causes of this section, in order.
    pub causes: &'static [Cause],
}

macro_rules! table {
    ($($section:literal { $($name:ident $id:literal $code:ident $title:literal explanation $explanation:literal fix $fix:literal)* })*) => {
        /// The cause of an error, named after what an operator or tenant has to fix.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Cause {
            $($(#[doc = concat!($id, ": ", $title, ".")] $name,)*)*
        }

        impl Cause {
            /// Returns the table row of this cause.
            #[must_use]
            pub fn info(self) -> &'static ErrorInfo {
                match self {
                    $($(Self::$name => &ErrorInfo {
                        cause: Self::$name, id: $id, code: Code::$code, title: $title, explanation: $explanation, fix: $fix,
                    },)*)*
                }
            }
        }

        /// All sections of the table, in order.
        pub const SECTIONS: &[Section] = &[$(Section { title: $section, causes: &[$(Cause::$name),*] },)*];
    };
}

table! {
"Connecting to the server" {
    ConnectionRefused "VM0001" Unavailable "The server refuses the connection"
        explanation "Connection refused: the host exists, but nothing listens on that port."
        fix "Check the address and its port, and that the server runs."
    ConnectTimeout "VM0002" Unavailable "Connecting to the server timed out"
        explanation "The connection timed out during DNS lookup, TCP connect or the TLS handshake. Usually a firewall or network policy drops packets, or the address is wrong."
        fix "Check the address, and firewalls and network policies between the node and the server."
    NameNotFound "VM0003" Unavailable "The server's host name is not found"
        explanation "The resolver of the node (in a cluster: of the provider's pod) found no address for the name, or the DNS server did not answer."
        fix "Check the host name in the address, and DNS where the provider runs. Names of services need their namespace: `vault.vault.svc`."
    Unreachable "VM0004" Unavailable "The connection to the server failed"
        explanation "There is no route, the connection was cut, or the response took longer than `VAULT_CLIENT_TIMEOUT`. Or a proxy refuses the connection, or nothing listens on the unix socket."
        fix "Read the message of the system or the proxy. Check proxies (`HTTPS_PROXY`, `NO_PROXY`). For `unix://` addresses, check that the agent runs."
    CertificateUntrusted "VM0005" FailedPrecondition "The server's certificate is not trusted"
        explanation "No trusted CA issued it. The private CA is not configured, a different CA is configured, or the certificate is self-signed."
        fix "Set the CA that issued it, or the self-signed certificate itself: `vaultCACert` (the PEM itself) or `vaultCACertPath` in the class, `--vault-tls-ca-cert` for all classes."
    CertificateName "VM0006" FailedPrecondition "The server's certificate is for another name"
        explanation "The certificate is not valid for the host in the address. Only subject alternative names count, the common name does not."
        fix "Use one of its names in the address, set `vaultTLSServerName` to one of them, or issue a certificate for the name in use."
    CertificateTime "VM0007" FailedPrecondition "The server's certificate is expired or not valid yet"
        explanation "By the clock of this node, the certificate has expired or its validity has not begun."
        fix "Renew the server's certificate. If its dates are right, set the node's clock."
    PlainToTls "VM0008" FailedPrecondition "The address uses http, but the server expects TLS"
        explanation "The address begins with `http://`, but the server expects TLS or redirects to itself with `https://`."
        fix "Write `https://` in the address."
    TlsToPlain "VM0009" FailedPrecondition "The address uses https, but the server does not speak TLS"
        explanation "The address begins with `https://`, but the response is not TLS. Most likely the server speaks plain HTTP, or the port is wrong."
        fix "Use the server's TLS port, or write `http://` if it really has no TLS."
    TlsSetup "VM0010" FailedPrecondition "TLS cannot be set up"
        explanation "The server requires a client certificate or rejects ours, or both sides have no TLS version or cipher in common. Or a configured CA, certificate or key cannot be used."
        fix "Read the reason in the message. Check the TLS parameters of the class and the flags of the provider."
    NotVault "VM0011" FailedPrecondition "The server at the address is not Vault"
        explanation "A web server, a proxy or a login page answers at the address."
        fix "Check the address, which ends before `/v1`, and any proxy between the node and Vault."
    Redirect "VM0012" FailedPrecondition "Redirect to a host that is not allowed"
        explanation "A token is sent only to the host in the address, and to hosts that the operator named. For the seconds of a leader election, a standby whose leader has just gone redirects as well."
        fix "Set the address to the server that answers, let standbys forward requests, or name the host with `--follow-redirects`."
    AddressNotAllowed "VM0013" PermissionDenied "The operator does not allow the address"
        explanation "The class (or the pod's volumeAttributes) chose an address that neither `--allow-address` nor the policy file allows, or one that leads to the node itself."
        fix "Remove the address from the class to use the operator's own, or name an endpoint of the policy file (`vaultEndpoint`). Or have the operator allow it: with `--allow-address`, or with `addresses` in the policy file if there is one."
    SkipVerifyNotAllowed "VM0014" PermissionDenied "The operator does not allow unverified certificates"
        explanation "The class (or the pod's volumeAttributes) sets `vaultSkipTLSVerify`, but `--allow-skip-verify=false` or the policy file forbids it. Without verification, an attacker on the network path can read every secret."
        fix "Remove `vaultSkipTLSVerify` and set the CA that issued the server's certificate: `vaultCACert` (the PEM itself) or `vaultCACertPath` in the class, `--vault-tls-ca-cert` for all classes. Or have the operator allow it: `--allow-skip-verify`, and `skipVerify` in the policy file if there is one."
    TenantPolicyViolation "VM0015" PermissionDenied "The operator does not allow what the class chooses"
        explanation "The policy file lists what the classes of each Kubernetes namespace may use: endpoints, Vault namespaces, auth mounts, audiences, certificate files. `--tenant-tls-dir` sets the directory that certificate files must be in. The check applies to the class, with the pod's volumeAttributes laid over it and the operator's defaults below it."
        fix "Choose an allowed value from the message, or have the operator change the rule that it names. vaultmount does not control what a login role can read. Use Vault policies for that."
    EndpointUnknown "VM0016" PermissionDenied "The operator defines no such endpoint"
        explanation "`vaultEndpoint` names a server of the provider's policy file (`--policy-file`). The file has no server of that name, or the operator set no policy file."
        fix "Correct the name, or have the operator add the endpoint to the policy file."
}
"Server state" {
    Sealed "VM0020" Unavailable "The server is sealed"
        explanation "Vault runs but cannot read its own storage until it is unsealed. Files of running pods stay as they are."
        fix "Unseal it (`vault operator unseal`). Mounts are retried automatically."
    Uninitialized "VM0021" Unavailable "The server is not initialized"
        explanation "Vault runs on an empty storage: a new server, or one that lost its volume."
        fix "Initialize it with `vault operator init`. If it should have data, check its storage first."
    NoLeader "VM0022" Unavailable "The cluster has no active node"
        explanation "A standby answered, but has no active node to forward to. A leader election is in progress, or too few nodes run."
        fix "Check the cluster's leader (`vault operator raft list-peers`, `vault status`)."
    Throttled "VM0023" Unavailable "Request throttled: rate limit, lagging standby, or engine upgrade"
        explanation "The server rejected the request, and retries did not help within the configured count and the deadline. The status is 429, 412 from a standby that has not caught up, or 400 from an engine that is being upgraded to KV version 2."
        fix "Raise the quota that applies (`sys/quotas/rate-limit`), or wait: the mount is retried automatically."
    ServerError "VM0024" Unavailable "The server fails"
        explanation "Vault, or a proxy in front of it, answered with a status of 500 or more that matches no more specific error."
        fix "Check Vault's server log."
    DeadlineExceeded "VM0025" DeadlineExceeded "Deadline exceeded"
        explanation "The driver limits the time of a mount (30 s are assumed if it sets no deadline). Vault, or a system behind it, did not answer within that time."
        fix "Check that Vault answers within seconds. A login that hangs is often Vault waiting for a Kubernetes API that it cannot reach."
    OutcomeUnknown "VM0026" DeadlineExceeded "The response was lost, and something may have been created"
        explanation "The connection ended after a mutating request was sent. The request is not retried at once, because each retry would create another credential."
        fix "No action needed if it is transient: the mount is retried automatically, and the lost credential ends with its own lease. Otherwise check the logs of Vault and of proxies in front of it."
    ResponseTooLarge "VM0027" ResourceExhausted "A response is too large"
        explanation "A response of Vault is larger than 8 MiB, or the responses for one pod are larger than 32 MiB together. A volume holds at most 4 MiB."
        fix "Read a path with less data. Store large data elsewhere."
}
"Login" {
    TokenMissing "VM0030" FailedPrecondition "The driver passed no service account token"
        explanation "The provider logs in with a token of the pod's service account for the class's `audience` (`vault` by default). kubelet passes that token if the CSIDriver object requests it."
        fix "List the audience in the CSIDriver object `secrets-store.csi.k8s.io`: `spec.tokenRequests: [{audience: vault}]`. For commands that you run by hand: `--token-file` or `--kubeconfig`."
    TokenExpired "VM0031" Unauthenticated "The service account token is expired"
        explanation "The token has expired. Drivers pass a fresh one with every mount, so it is an old file, or a clock that is ahead."
        fix "Take a fresh token (`kubectl create token`). If it is fresh, compare the clocks of the node, the API server and Vault."
    ClockSkew "VM0032" Unauthenticated "Clocks differ"
        explanation "One machine rejects a token as expired or not yet valid, and another accepts it. The message shows the time of each clock. If the clocks of Vault and the node agree, the clock of the API server, which issued the token, is wrong."
        fix "Set the clocks of the node, the API server and Vault (NTP). Vault tolerates a minute or so."
    TokenAudience "VM0033" Unauthenticated "The service account token is for another audience"
        explanation "The token that was passed for an audience lists other audiences in its claims."
        fix "Name the audience in the CSIDriver's `tokenRequests`, or set the class's `audience` to one the token is for."
    TokenIdentity "VM0034" Unauthenticated "The service account token belongs to another service account"
        explanation "The token names a service account other than the pod's: it was written into the class or into volumeAttributes."
        fix "Remove any `csi.storage.k8s.io/serviceAccount.tokens` from both. kubelet sets it."
    AuthMountMissing "VM0035" FailedPrecondition "No auth method is mounted at the path"
        explanation "No auth method that accepts service account tokens is enabled at the auth mount's path. Vault itself only answers `permission denied`. A login without a token, which vaultmount tries afterwards, reveals it."
        fix "Correct `vaultKubernetesMountPath` or `vaultAuthMountPath` (without `auth/`), or the Vault namespace. Or enable the method: `vault auth enable -path=PATH kubernetes`."
    AuthUnconfigured "VM0036" FailedPrecondition "The auth method is not configured"
        explanation "The auth method is mounted, but its configuration was never written."
        fix "Write it: `vault write auth/PATH/config kubernetes_host=…` (kubernetes), or `oidc_discovery_url`, `jwks_url` or `jwt_validation_pubkeys` (jwt)."
    LoginDenied "VM0037" Unauthenticated "The login was denied without a reason"
        explanation "The kubernetes method checks each token with the cluster (TokenReview), and Vault answers `permission denied` to every failure there. The API server (`kubernetes_host`) is unreachable from Vault or its certificate is not trusted. Or Vault's reviewer may not create TokenReviews, the token is from another cluster, or the pod or its service account is gone. Every method also answers this to an address that is not in the role's `token_bound_cidrs`."
        fix "Vault's server log has the reason, at level debug. Check the role's `token_bound_cidrs`, `vault read auth/PATH/config`, and that the reviewer's service account is bound to `system:auth-delegator`."
    RoleMissing "VM0038" FailedPrecondition "The login role does not exist"
        explanation "The auth mount has no role of that name."
        fix "Correct `roleName` or the auth mount in the class, or create the role: `vault write auth/PATH/role/NAME …`."
    AudienceUnbound "VM0039" FailedPrecondition "The login role names no audience"
        explanation "The token has an audience, but the role has none. The jwt method rejects such a login."
        fix "Set it on the role: `bound_audiences` (jwt), `audience` (kubernetes)."
    AudienceWrong "VM0040" Unauthenticated "The login role requires another audience"
        explanation "The token's audience and the role's are not the same."
        fix "Make the role's audience (jwt: `bound_audiences`) and the class's `audience` the same."
    NamespaceNotBound "VM0041" PermissionDenied "The login role does not allow the pod's namespace"
        explanation "The pod's Kubernetes namespace is not among the role's `bound_service_account_namespaces`."
        fix "Add it there, or run the pod in a namespace that is listed."
    ServiceAccountNotBound "VM0042" PermissionDenied "The login role does not allow the pod's service account"
        explanation "The pod's service account is not among the role's `bound_service_account_names`."
        fix "Add it there, or set the pod's `serviceAccountName`."
    TokenSignature "VM0043" Unauthenticated "The auth method cannot verify the token's signature"
        explanation "The jwt method has no key of this cluster: it is configured for another cluster, or the cluster's key was replaced."
        fix "Configure it for this cluster (`oidc_discovery_url`, `jwks_url` or `jwt_validation_pubkeys`), or name this cluster's auth mount in the class."
    LoginClaims "VM0044" Unauthenticated "The login role does not accept the token's claims"
        explanation "A bound claim or subject of the role, or the issuer of the auth method, does not match the token."
        fix "Compare the token's claims with `vault read auth/PATH/role/NAME`, its issuer with `vault read auth/PATH/config`."
    VaultNamespaceMissing "VM0045" FailedPrecondition "The Vault namespace does not exist"
        explanation "The server has no namespace of that name (OpenBao, Vault Enterprise)."
        fix "Correct `vaultNamespace` (or `vaultAuthNamespace`, if it is set), or create the namespace."
    TokenUsesTooFew "VM0046" FailedPrecondition "The login role's tokens have too few uses"
        explanation "The role sets `token_num_uses: 1`, and the class reads something with a lease, which a token of one use cannot hold. More requests than a token allows are not an error: vaultmount logs the pod in again."
        fix "Raise `token_num_uses`, or set it to 0."
    VaultNamespaceLocked "VM0047" FailedPrecondition "The Vault namespace is locked"
        explanation "An administrator locked the namespace, so that it rejects all requests (OpenBao, Vault Enterprise)."
        fix "Unlock it with the key that locking it returned: `vault namespace unlock`."
    LoginRoleUnusable "VM0048" FailedPrecondition "Pods cannot use the login role"
        explanation "The role exists, but is made for something else. A jwt role of `role_type: oidc` is for people with a browser. A role whose `token_policies` contain `root` grants what no login may grant."
        fix "Name a role of `role_type: jwt` with policies of its own, or correct this one."
    TokenSharingNotAllowed "VM0049" PermissionDenied "A shared session cannot expose the Vault token"
        explanation "The class sets `tokenScope: serviceAccount`, so that pods of one service account share a Vault token. One of its objects is that token (`type: token`), a path of `auth/token` that reads or changes the token, or a path in its cubbyhole. Each pod would hold a credential that the other pods depend on."
        fix "Remove `tokenScope` from the class, so that each pod has a token of its own, or have the operator allow it with `--allow-shared-token`."
}
"Reading secrets" {
    VaultPolicyDenied "VM0050" PermissionDenied "A policy denies the request"
        explanation "No policy of the login role allows the request. Vault gives the same answer for a path where no engine is mounted. Objects that are denied for the same reason are reported together, with a stanza for each."
        fix "Correct `secretPath`, or add the stanza in the message to a policy of the role."
    SecretMissing "VM0051" NotFound "There is no secret at the path"
        explanation "The engine exists and the policy allows reading, but nothing was written at the path. If a policy allows `list` on the folder (`MOUNT/metadata/FOLDER/` in KV version 2), the message suggests the nearest name or lists the existing names."
        fix "Correct `secretPath`, or create the secret. With `optional: true`, a missing secret is not an error."
    VersionDeleted "VM0052" NotFound "The secret's version was deleted or destroyed"
        explanation "KV version 2 keeps versions: the newest, or the one requested with `?version=N`, was deleted or destroyed."
        fix "Write a new version, undelete it, or request another."
    Kv2Path "VM0053" NotFound "The path of a KV version 2 secret needs `data/`"
        explanation "The engine is KV version 2, whose secrets are read at `MOUNT/data/NAME` and listed at `MOUNT/metadata/NAME`."
        fix "Use the path in the message."
    Kv1Path "VM0054" NotFound "The path of a KV version 1 secret must not contain `data/`"
        explanation "The engine is KV version 1, whose secrets are at `MOUNT/NAME`, and there is nothing below `data/`."
        fix "Use the path in the message."
    EngineMissing "VM0055" NotFound "No secrets engine answers at the path"
        explanation "No secrets engine is mounted there, or the engine does not support the path. `optional: true` does not suppress this error."
        fix "Correct `secretPath`: it begins with the engine's mount path (`vault secrets list`), followed by a path of the engine (`database/creds/ROLE`, `pki/issue/ROLE`)."
    EngineRoleMissing "VM0056" FailedPrecondition "The secrets engine has no such role"
        explanation "The role at the end of `secretPath` (`database/creds/ROLE`, `pki/issue/ROLE`) does not exist."
        fix "Correct the role in `secretPath`, or create it."
    BackendDown "VM0057" Unavailable "The backend of the secrets engine is down"
        explanation "Vault cannot reach the database, cloud or server that the engine creates credentials for."
        fix "Check that it runs, and the engine's connection settings. The mount is retried automatically."
    MethodNotAllowed "VM0058" InvalidArgument "The path does not support this method"
        explanation "Paths that issue something, such as `pki/issue/ROLE`, are written, not read."
        fix "Set `method: PUT` and `secretArgs` for them. Remove `method` to read."
    ArgumentNotAllowed "VM0059" PermissionDenied "The engine's role does not allow these arguments"
        explanation "A PKI role does not allow the common name, the alternative names or the TTL in `secretArgs`."
        fix "Correct `secretArgs`, or the role's `allowed_domains` and similar settings."
    RequestRejected "VM0060" InvalidArgument "The engine rejects the request"
        explanation "Vault answered with a status below 500 for a reason specific to the engine. The message repeats the reason."
        fix "Correct `secretPath`, `method` or `secretArgs`."
    NoData "VM0061" NotFound "The response contains no data"
        explanation "The request succeeded, but the response has no data for a file, as with most writes. Or the response is not JSON, as with `pki/ca/pem`."
        fix "Read a path that answers with data. For certificates that is `pki/cert/ca` with `secretKey: certificate`."
    EngineSetup "VM0062" FailedPrecondition "The secrets engine is misconfigured for the role"
        explanation "The role exists, but its database connection does not exist, or does not list the role in its `allowed_roles`."
        fix "Write the connection (`vault write database/config/NAME …`), correct the role's `db_name`, or add the role to the connection's `allowed_roles`."
}
"Rendering files" {
    KeyMissing "VM0070" NotFound "The key is not in the secret"
        explanation "The secret exists, but does not contain the key that `secretKey` or `secretPointer` names. The message lists the existing keys, never values."
        fix "Correct the key. With `optional: true`, a missing key is not an error."
    KeyNested "VM0071" NotFound "The key is further inside the secret"
        explanation "`secretKey` selects keys at the top of the secret's data, but this key is inside another value."
        fix "Use `secretPointer`, an RFC 6901 pointer such as `/database/password`, instead of `secretKey`."
    RenderFailed "VM0072" InvalidArgument "The value cannot be rendered as the object specifies"
        explanation "The value is not in the `encoding` that the object names, or does not fit the `format`."
        fix "Correct `encoding` or `format`, or the secret's value."
    DuplicateFile "VM0073" InvalidArgument "Two objects create the same file"
        explanation "Each `objectName` must be a distinct file. It must not be the directory of another file either."
        fix "Give one of them another `objectName`."
    UnsafeName "VM0074" InvalidArgument "A file name is not safe"
        explanation "A name must be relative and plain: no `..`, no empty parts, no control characters, at most 255 bytes between slashes. With `secretKey: \"*\"` the keys are the names."
        fix "Choose another `objectName`. Rename the key, or list the keys as objects of their own."
    FilesTooLarge "VM0075" ResourceExhausted "The volume's files are too large"
        explanation "The driver accepts at most 4 MiB for a volume. The message names the largest files."
        fix "Select single keys with `secretKey`, or split the class."
}
"Class and manifests" {
    InvalidRequest "VM0080" InvalidArgument "A parameter or field is invalid"
        explanation "A parameter of the class, a field of an object, or a value from the driver cannot be parsed or conflicts with another. All errors of a class are reported at once."
        fix "Correct each place that the message names."
    ObjectsYaml "VM0081" InvalidArgument "`objects` is not valid YAML"
        explanation "`objects` is a text with a YAML list in it. Lines and columns count from its own beginning. `vaultmount validate` reports positions in the file."
        fix "Correct the line: indentation, quotes around values that begin with `@`, `*`, `&`, `{` or a backquote, one entry per `-`."
    UnknownName "VM0082" InvalidArgument "Unknown parameter or field"
        explanation "A mount ignores a mistyped name, and then does not do what you intended."
        fix "Correct it to the name in the message, or remove it."
    SecretObject "VM0083" InvalidArgument "`secretObjects` names a file that no object creates"
        explanation "The driver copies files into Kubernetes Secrets by their names. Without the file, the Secret is not created."
        fix "Set `objectName` in `secretObjects` to that of an object in the class."
    PodOverride "VM0084" InvalidArgument "A pod overrides the class"
        explanation "The driver lays the pod's `volumeAttributes` over the class's parameters, so that the pod reads something other than the class specifies."
        fix "Remove the attribute from the pod, or give it a class of its own."
    Manifest "VM0085" InvalidArgument "The manifest cannot be used"
        explanation "The manifest is not valid YAML, a field is missing or of the wrong type, or the kind or provider is unknown. Or the driver or the API server will reject it."
        fix "Correct the place that the message names."
}
"Kubernetes" {
    KubernetesApi "VM0090" Unavailable "The Kubernetes API is unavailable"
        explanation "vaultmount needs the Kubernetes API (for a token, or for the key of object versions), but cannot reach it, or the request fails."
        fix "Check the API server, its address, and the network between it and the node."
    KubernetesConfig "VM0091" FailedPrecondition "Access to the Kubernetes API is misconfigured"
        explanation "The kubeconfig, or the service account files of the provider's own pod, cannot be used. Or the server that they name is not an API server or is not trusted. Then TLS fails, the server redirects, or its response is larger than an object can be."
        fix "Correct the file that the message names, or the address, name or CA in it."
    TokenRequest "VM0092" FailedPrecondition "The Kubernetes API denied a token"
        explanation "vaultmount requested a service account token (`--mint-tokens=auto`, `--kubeconfig`), and the API server denied the request."
        fix "Grant `create` on `serviceaccounts/token`, or better: list the audience in the CSIDriver's `tokenRequests` and set `--mint-tokens=off`."
    VersionKey "VM0093" FailedPrecondition "The key of object versions cannot be read"
        explanation "vaultmount may not read or create the Secret with the key (`--hmac-secret-name`), or the Secret contains no key. The provider's log reports it. Mounts continue with a process-local key, so that versions differ between nodes and after a restart."
        fix "Grant the permission in the message, in the provider's namespace. You may delete a damaged Secret: vaultmount creates a new one, and every object's version changes."
    PodsForbidden "VM0094" FailedPrecondition "Watching the pods of the node is denied"
        explanation "The provider lists and watches the pods of its node to learn when they end, and the API server denies it."
        fix "Grant `get`, `list` and `watch` on `pods` to the provider's service account, in a ClusterRole: pods of a node are in all namespaces."
    EventsForbidden "VM0095" FailedPrecondition "Writing events is denied"
        explanation "The provider writes pod events for failures that Kubernetes does not report, and the API server denies it. The provider's log reports it. Nothing else is affected."
        fix "Grant `create` and `patch` on `events` to the provider's service account, in a ClusterRole, or switch them off with `--events=false`."
}
"Provider" {
    ProviderAtCapacity "VM0100" Unavailable "The provider has reached a limit"
        explanation "One node's provider limits concurrent mounts, distinct endpoints, pods, and bytes of responses. One Kubernetes namespace may use at most half of each limit, so that others are not starved."
        fix "Find out why mounts take so long. Let classes share an address and TLS settings. The mount is retried automatically."
    Internal "VM0101" Internal "Internal error"
        explanation "This is a bug in vaultmount."
        fix "Report it with the provider's log."
    PodEnded "VM0102" FailedPrecondition "The pod has ended"
        explanation "The pod was deleted or finished during the mount. vaultmount revokes what it read for the pod."
        fix "No action needed. A pod that is gone needs no files."
    AllRevoked "VM0103" FailedPrecondition "All tokens were revoked"
        explanation "`vaultmount revoke --all` ran on this node: the provider has revoked every token it held, and rejects all mounts."
        fix "Restart the provider to serve pods again."
    ProcessSuperseded "VM0104" Unavailable "Another process took over"
        explanation "During the mount, another vaultmount process replaced this one (an update). The new process cannot see what this mount delivered."
        fix "No action needed. The driver retries, and the new process answers."
}
}

impl Cause {
    /// Iterates over every cause, in the table's order.
    pub fn all() -> impl Iterator<Item = Self> {
        SECTIONS.iter().flat_map(|section| section.causes).copied()
    }

    /// Finds the cause of an ID such as `VM0001`, ignoring case.
    #[must_use]
    pub fn from_id(id: &str) -> Option<Self> {
        Self::all().find(|cause| cause.id().eq_ignore_ascii_case(id))
    }

    /// Returns the ID that ends every message of this cause.
    #[must_use]
    pub fn id(self) -> &'static str {
        self.info().id
    }

    /// Returns true if corrected certificate or key files may fix this error.
    #[must_use]
    pub fn is_tls(self) -> bool {
        matches!(self, Self::CertificateUntrusted | Self::CertificateName | Self::CertificateTime | Self::TlsSetup)
    }

    /// Returns true if the operator's policy denies a setting of the class.
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

    /// Returns the gRPC status code of this cause.
    #[must_use]
    pub fn code(self) -> Code {
        self.info().code
    }
}

impl Code {
    /// Every status code that an error can have.
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

    /// Returns gRPC's name of the code.
    #[must_use]
    pub fn as_str(self) -> &'static str {
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
        f.write_str(self.as_str())
    }
}

/// Renders the table as the page `docs/errors.md`.
#[must_use]
pub fn render_markdown() -> String {
    let mut page = include_str!("head.md").to_owned();
    page.push_str("\n| ID | Error |\n|---|---|\n");
    for row in Cause::all().map(Cause::info) {
        let _ = writeln!(page, "| [{}](#{}) | {} |", row.id, row.id.to_lowercase(), row.title);
    }
    for section in SECTIONS {
        let _ = write!(page, "\n## {}\n", section.title);
        for row in section.causes.iter().map(|cause| cause.info()) {
            let _ = write!(
                page,
                "\n### <a id=\"{}\"></a>{} {}\n\n{}\n\nFix: {}\n\nCode: `{}`\n",
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
    fn error_ids_are_unique_and_sorted() {
        let ids: Vec<&str> = Cause::all().map(Cause::id).collect();
        let sorted: BTreeSet<&str> = ids.iter().copied().collect();
        assert_eq!(ids, sorted.into_iter().collect::<Vec<_>>());
        assert!(ids.iter().all(|id| id.len() == 6 && id.starts_with("VM")));
        assert_eq!(Cause::from_id("vm0020"), Some(Cause::Sealed));
        assert_eq!(Cause::from_id("VM9999"), None);
    }
}
