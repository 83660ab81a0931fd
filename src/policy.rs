//! What an operator allows a tenant to choose, and what becomes of a class's choice.
//!
//! The driver lays a pod's volumeAttributes over the class, so whoever may create a pod may choose all of this: what is judged is
//! what comes of all of it, wherever it was said.

mod allow;
mod file;
mod glob;
mod parse;
mod review;
mod rules;
#[cfg(test)]
mod tests;
mod tls_dir;

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use crate::{
    error::{Cause, Error},
    metrics::PolicyRule,
    tls::{Ca, ClientCertificate, Tls},
    vault::{Endpoint, address::Address},
};
pub use allow::{Allow, Pattern};
pub use file::{PolicyFile, Reread};
pub use parse::{FIELDS, Mistake, is_policy, is_policy_text, parse};
pub use review::Foreseen;
pub use rules::{DEFAULT, Policy};
use rules::{Limits, Word};
pub use tls_dir::TlsDir;

/// What a class (or a pod's volumeAttributes over it) says about the server; every field it leaves out is the server's own.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Choice {
    /// `vaultEndpoint`: a server of the policy file, by name. Never beside an address.
    pub endpoint: Option<String>,
    /// `vaultAddress`.
    pub address: Option<Address>,
    /// `vaultNamespace`: where secrets are read, and logins happen unless [`Choice::auth_namespace`] is set.
    pub namespace: Option<String>,
    /// `vaultAuthNamespace`: where logins happen.
    pub auth_namespace: Option<String>,
    /// `vaultAuthMountPath` or `vaultKubernetesMountPath`, without slashes around it.
    pub auth_mount: Option<String>,
    /// `vaultCACert`, `vaultCACertPath`, `vaultCADirectory`, in this order of precedence.
    pub ca: Option<Ca>,
    /// `vaultTLSServerName`.
    pub server_name: Option<String>,
    /// `vaultTLSClientCertPath` and `vaultTLSClientKeyPath`.
    pub client: Option<(PathBuf, PathBuf)>,
    /// `vaultSkipTLSVerify`. Can only switch verification off, as with the Go provider.
    pub skip_verify: bool,
}

impl Choice {
    /// Whether it says something of TLS.
    #[must_use]
    pub fn has_tls(&self) -> bool {
        self.ca.is_some() || self.server_name.is_some() || self.client.is_some() || self.skip_verify
    }

    /// The files that it names, but for those that a server has anyway.
    fn files(&self, own: Option<&Tls>) -> Vec<&Path> {
        let of_own = |ca: &&Ca| own.is_some_and(|own| own.ca == **ca);
        let ca = self.ca.as_ref().filter(|ca| !of_own(ca)).and_then(Ca::path);
        let has = |(certificate, key): &&(PathBuf, PathBuf)| {
            let client = own.and_then(|own| own.client.as_ref());
            client.is_some_and(|client| client.certificate == *certificate && client.key == *key)
        };
        let client = self.client.as_ref().filter(|client| !has(client));
        ca.into_iter().chain(client.into_iter().flat_map(|(certificate, key)| [certificate.as_path(), key])).collect()
    }

    /// The parameters that say without a file whose certificate is believed, if that is not what a server has anyway.
    fn believes(&self, own: Option<&Tls>) -> Vec<&'static str> {
        let ca = self.ca.as_ref().filter(|ca| matches!(ca, Ca::Pem(_)) && own.is_none_or(|own| own.ca != **ca));
        let name = self.server_name.as_ref();
        let name = name.filter(|name| own.is_none_or(|own| own.server_name.as_ref() != Some(*name)));
        ca.map(|_| "vaultCACert").into_iter().chain(name.map(|_| "vaultTLSServerName")).collect()
    }
}

/// A server that the operator set, and the login there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Server {
    /// Where it is.
    pub address: Address,
    /// The Vault namespace of classes that name none.
    pub namespace: Option<String>,
    /// The auth mount of classes that name none.
    pub auth_mount: String,
    /// TLS settings, over which a class's own are laid.
    pub tls: Tls,
}

impl Server {
    /// The server as the operator reaches it: a class may lay its own TLS settings over the address.
    #[must_use]
    pub fn endpoint(&self) -> Endpoint {
        Endpoint { address: self.address.clone(), tls: self.tls.clone(), deny_local_addresses: false }
    }
}

/// What the operator set for every class, and how far a class may differ.
#[derive(Clone, Debug)]
pub struct Operator {
    /// The server of classes that name none.
    pub server: Arc<Server>,
    /// Which other addresses a class may choose, where no policy file says so.
    pub allow: Allow,
    /// Whether a class may switch off the verification of the server's certificate.
    pub allows_skip_verify: bool,
    /// Whether pods that share a Vault token may have the token itself, and its cubbyhole.
    pub shares_tokens: bool,
    /// Where the certificate files of classes must be; anywhere if none.
    pub tls_dir: Option<TlsDir>,
    /// Servers by name, and what the classes of each Kubernetes namespace may use.
    pub policy: Option<Arc<PolicyFile>>,
}

/// Who chose what.
#[derive(Clone, Copy)]
pub struct Ask<'a> {
    /// What was chosen.
    pub choice: &'a Choice,
    /// The pod's Kubernetes namespace.
    pub namespace: &'a str,
    /// The audience of the pod's token.
    pub audience: &'a str,
    /// The audience when a class names none.
    pub default_audience: &'a str,
}

/// The server and login that a mount will use.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Target {
    /// The server.
    pub endpoint: Arc<Endpoint>,
    /// Where secrets are read.
    pub namespace: Option<String>,
    /// Where logins happen.
    pub auth_namespace: Option<String>,
    /// The auth method's mount path, without `auth/`.
    pub auth_mount: String,
    /// Whether the address is one of the operator's own.
    pub own_address: bool,
    /// The certificate files that the class chose.
    pub files: Vec<PathBuf>,
}

/// What the operator does not allow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The rule.
    pub rule: PolicyRule,
    /// What is said of it.
    pub error: Error,
}

impl Operator {
    /// Lays a class's choice over the operator's settings, or refuses it.
    pub fn judge(&self, ask: &Ask<'_>) -> Result<Target, Refusal> {
        let choice = ask.choice;
        let policy = self.policy.as_ref().map(|file| file.current());
        let limits = policy.as_ref().map(|policy| policy.limits(ask.namespace));
        let server = self.server(choice, limits.as_ref())?;
        let address = choice.address.clone().unwrap_or_else(|| server.address.clone());
        let own_address = address == server.address;
        let guarded = match &limits {
            _ if own_address => false,
            Some(limits) => limits.address(&address, Some(&self.server))?,
            None => self.allow.judge(&address).map_err(|error| Refusal { rule: PolicyRule::Address, error })?,
        };
        let is_default = own_address && choice.endpoint.as_deref().is_none_or(|name| name == DEFAULT);
        if let Some(limits) = limits.as_ref().filter(|_| is_default) {
            limits.may_use(DEFAULT)?;
        }
        // A server of the class's own is believed, and shown a certificate, as the class says.
        let mut own_tls = server.tls.clone();
        if limits.is_some() && !own_address {
            (own_tls.skip_verify, own_tls.client) = (false, None);
        }
        let files = choice.files(Some(&own_tls)).into_iter().map(Path::to_owned).collect::<Vec<_>>();
        // An endpoint's address is the endpoint, whether a class writes its name, the address, or another path there.
        let at_endpoint = limits.as_ref().is_some_and(|limits| limits.has(&address, Some(&self.server)));
        let tls = self.judge_tls(choice, own_tls, &files, at_endpoint, limits.as_ref())?;
        let namespace = choice.namespace.as_ref().or(server.namespace.as_ref());
        let auth_namespace = choice.auth_namespace.as_ref().or(namespace);
        let auth_mount = choice.auth_mount.as_ref().unwrap_or(&server.auth_mount);
        if let Some(limits) = limits {
            let is_chosen = choice.namespace.is_some();
            for (namespace, is_chosen, of) in [
                (namespace, is_chosen, "for secrets"),
                (auth_namespace, is_chosen || choice.auth_namespace.is_some(), "for logins"),
            ] {
                let own = word(server.namespace.as_ref());
                limits.vault_namespace(Word { value: word(namespace), own, is_chosen }, of)?;
            }
            let is_chosen = choice.auth_mount.is_some();
            limits.auth_mount(Word { value: auth_mount, own: &server.auth_mount, is_chosen })?;
            let is_chosen = ask.audience != ask.default_audience;
            limits.audience(Word { value: ask.audience, own: ask.default_audience, is_chosen })?;
        }
        Ok(Target {
            endpoint: Arc::new(Endpoint { address, tls, deny_local_addresses: guarded }),
            namespace: namespace.cloned(),
            auth_namespace: auth_namespace.cloned(),
            auth_mount: auth_mount.clone(),
            own_address,
            files,
        })
    }

    /// The server that a choice is laid over.
    fn server(&self, choice: &Choice, limits: Option<&Limits<'_>>) -> Result<Arc<Server>, Refusal> {
        match (&choice.endpoint, limits) {
            (None, _) => Ok(Arc::clone(&self.server)),
            (Some(name), _) if name == DEFAULT => Ok(Arc::clone(&self.server)),
            (Some(name), Some(limits)) => limits.endpoint(name),
            (Some(name), None) => {
                let what = format!("vaultEndpoint {name:?} names a server of a policy file, and the operator has none");
                let error = Error::new(Cause::EndpointUnknown, what).advice(
                    "write vaultAddress instead, or have the operator name the server in a file (--policy-file)",
                );
                Err(Refusal { rule: PolicyRule::Endpoint, error })
            }
        }
    }

    /// Lays a class's TLS settings, with `files` among them, over others; `at_endpoint` is whether a server of the operator's is at
    /// the address.
    fn judge_tls(
        &self,
        choice: &Choice,
        own: Tls,
        files: &[PathBuf],
        at_endpoint: bool,
        limits: Option<&Limits<'_>>,
    ) -> Result<Tls, Refusal> {
        if choice.skip_verify && !own.skip_verify {
            if !self.allows_skip_verify {
                return Err(unverified());
            }
            limits.map_or(Ok(()), Limits::skip_verify)?;
        }
        if let Some(limits) = limits.filter(|_| at_endpoint && !own.skip_verify) {
            choice.believes(Some(&own)).into_iter().try_for_each(|parameter| limits.trust(parameter))?;
        }
        let client = choice.client.clone().map(|(certificate, key)| ClientCertificate { certificate, key });
        for file in files {
            if self.tls_dir.is_some() || limits.is_some() {
                tls_dir::plain(file)?;
            }
            self.tls_dir.as_ref().map_or(Ok(()), |folder| folder.judge(file))?;
            limits.map_or(Ok(()), |limits| limits.certificate_file(file))?;
        }
        Ok(Tls {
            ca: choice.ca.clone().unwrap_or(own.ca),
            client: client.or(own.client),
            server_name: choice.server_name.clone().or(own.server_name),
            skip_verify: choice.skip_verify || own.skip_verify,
        })
    }

    /// Follows the links of the certificate files that a class chose, where they must be below `--tls-dir`.
    pub async fn follow(&self, target: &Target) -> Result<(), Refusal> {
        let Some(folder) = self.tls_dir.clone().filter(|_| !target.files.is_empty()) else { return Ok(()) };
        let files = target.files.clone();
        let followed = tokio::task::spawn_blocking(move || files.iter().try_for_each(|file| folder.follow(file)));
        let broken = |error| Refusal {
            rule: PolicyRule::CertificateFile,
            error: Error::new(Cause::Internal, format!("following links of certificate files has broken: {error}")),
        };
        followed.await.unwrap_or_else(|error| Err(broken(error)))
    }

    /// Refuses an object (of this name) that gives what is a token's own, in a class whose pods share one.
    pub fn judge_shared(&self, object: &str) -> Result<(), Refusal> {
        if self.shares_tokens {
            return Ok(());
        }
        let error = Error::new(
            Cause::TokenShared,
            format!(
                "object {object:?} is the Vault token's own (type: token, auth/token, or its cubbyhole), and pods of the service account share that token (tokenScope: serviceAccount)"
            ),
        );
        let error =
            error.advice("remove tokenScope from the class, or have the operator allow it with --allow-shared-token");
        Err(Refusal { rule: PolicyRule::SharedToken, error })
    }

    /// The server that a choice leads to, as far as that is known of one that may be refused.
    #[must_use]
    pub fn meant(&self, choice: &Choice) -> Option<Server> {
        let own = match choice.endpoint.as_deref().filter(|name| *name != DEFAULT) {
            None => Arc::clone(&self.server),
            Some(name) => Arc::clone(self.policy.as_ref()?.current().endpoints.get(name)?),
        };
        Some(Server {
            address: choice.address.clone().unwrap_or_else(|| own.address.clone()),
            namespace: choice.namespace.clone().or_else(|| own.namespace.clone()),
            auth_mount: choice.auth_mount.clone().unwrap_or_else(|| own.auth_mount.clone()),
            tls: own.tls.clone(),
        })
    }

    /// Every server that the operator set: that of flags and environment, and those of the policy file.
    #[must_use]
    pub fn servers(&self) -> Vec<Arc<Server>> {
        let named = self.policy.iter().flat_map(|file| file.current().endpoints.values().cloned().collect::<Vec<_>>());
        std::iter::once(Arc::clone(&self.server)).chain(named).collect()
    }
}

/// What a policy calls a Vault namespace.
fn word(namespace: Option<&String>) -> &str {
    namespace.map_or("root", String::as_str)
}

fn unverified() -> Refusal {
    let what = "the class may not switch off the verification of the server's certificate (vaultSkipTLSVerify): this provider forbids it (--allow-skip-verify=false)";
    let error = Error::new(Cause::MustVerify, what).advice("remove vaultSkipTLSVerify from the class and from the pod's volumeAttributes, and set the CA (vaultCACert, vaultCACertPath), or have the operator allow it with --allow-skip-verify");
    Refusal { rule: PolicyRule::SkipVerify, error }
}
