//! What an operator allows a tenant to choose, and what becomes of a class's choice.
//!
//! The driver lays a pod's volumeAttributes over the class, so whoever may create a pod may choose all of this: what is judged is
//! what comes of all of it, wherever it was said.

mod addresses;
mod file;
mod glob;
mod parse;
mod preview;
pub mod rule_kind;
mod rules;
mod tenant_tls_dir;
#[cfg(test)]
mod tests;

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use crate::{
    error::{Cause, Error},
    policy::rule_kind::RuleKind,
    tls::{Ca, ClientCertificate, Tls},
    vault::{Endpoint, address::Address},
};
pub use addresses::{AddressPattern, AddressPolicy};
pub use file::{PolicyFile, PolicyReload};
pub use parse::{POLICY_FIELDS, PolicyError, is_policy, is_policy_text, parse};
pub use preview::PredictedDenial;
pub use rules::{DEFAULT_ENDPOINT, Policy};
use rules::{NamespaceLimits, PolicySetting};
pub use tenant_tls_dir::TenantTlsDir;

/// What a class (or a pod's volumeAttributes over it) says about the server; every field it leaves out is the server's own.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServerChoice {
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
    pub client_certificate: Option<(PathBuf, PathBuf)>,
    /// `vaultSkipTLSVerify`. Can only switch verification off, as with the Go provider.
    pub skip_verify: bool,
}

impl ServerChoice {
    /// Whether it says something of TLS.
    #[must_use]
    pub fn has_tls_settings(&self) -> bool {
        self.ca.is_some() || self.server_name.is_some() || self.client_certificate.is_some() || self.skip_verify
    }

    /// The files that it names, but for those that a server has anyway.
    fn certificate_files(&self, server_tls: Option<&Tls>) -> Vec<&Path> {
        let is_of_server = |ca: &&Ca| server_tls.is_some_and(|own| own.ca == **ca);
        let ca = self.ca.as_ref().filter(|ca| !is_of_server(ca)).and_then(Ca::path);
        let is_server_client = |(certificate, key): &&(PathBuf, PathBuf)| {
            let client = server_tls.and_then(|own| own.client.as_ref());
            client.is_some_and(|client| client.certificate == *certificate && client.key == *key)
        };
        let client = self.client_certificate.as_ref().filter(|client| !is_server_client(client));
        ca.into_iter().chain(client.into_iter().flat_map(|(certificate, key)| [certificate.as_path(), key])).collect()
    }

    /// The parameters that say without a file whose certificate is believed, if that is not what a server has anyway.
    fn trust_overrides(&self, server_tls: Option<&Tls>) -> Vec<&'static str> {
        let ca = self.ca.as_ref().filter(|ca| matches!(ca, Ca::Pem(_)) && server_tls.is_none_or(|own| own.ca != **ca));
        let name = self.server_name.as_ref();
        let name = name.filter(|name| server_tls.is_none_or(|own| own.server_name.as_ref() != Some(*name)));
        ca.map(|_| "vaultCACert").into_iter().chain(name.map(|_| "vaultTLSServerName")).collect()
    }
}

/// A server that the operator set, and the login there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VaultServer {
    /// Where it is.
    pub address: Address,
    /// The Vault namespace of classes that name none.
    pub namespace: Option<String>,
    /// The auth mount of classes that name none.
    pub auth_mount: String,
    /// TLS settings, over which a class's own are laid.
    pub tls: Tls,
}

impl VaultServer {
    /// The server as the operator reaches it: a class may lay its own TLS settings over the address.
    #[must_use]
    pub fn endpoint(&self) -> Endpoint {
        Endpoint { address: self.address.clone(), tls: self.tls.clone(), deny_local_addresses: false }
    }
}

/// What the operator set for every class, and how far a class may differ.
#[derive(Clone, Debug)]
pub struct OperatorPolicy {
    /// The server of classes that name none.
    pub server: Arc<VaultServer>,
    /// Which other addresses a class may choose, where no policy file says so.
    pub address_policy: AddressPolicy,
    /// Whether a class may switch off the verification of the server's certificate.
    pub allows_skip_verify: bool,
    /// Whether pods that share a Vault token may have the token itself, and its cubbyhole.
    pub allows_shared_token: bool,
    /// Where the certificate files of classes must be; anywhere if none.
    pub tenant_tls_dir: Option<TenantTlsDir>,
    /// Servers by name, and what the classes of each Kubernetes namespace may use.
    pub policy_file: Option<Arc<PolicyFile>>,
}

/// Who chose what.
#[derive(Clone, Copy)]
pub struct PolicyRequest<'a> {
    /// What was chosen.
    pub choice: &'a ServerChoice,
    /// The pod's Kubernetes namespace.
    pub namespace: &'a str,
    /// The audience of the pod's token.
    pub audience: &'a str,
    /// The audience when a class names none.
    pub default_audience: &'a str,
}

/// The server and login that a mount will use.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct VaultTarget {
    /// The server.
    pub endpoint: Arc<Endpoint>,
    /// Where secrets are read.
    pub namespace: Option<String>,
    /// Where logins happen.
    pub auth_namespace: Option<String>,
    /// The auth method's mount path, without `auth/`.
    pub auth_mount: String,
    /// Whether the address is one of the operator's own.
    pub is_operator_address: bool,
    /// The certificate files that the class chose.
    pub certificate_files: Vec<PathBuf>,
}

/// What the operator does not allow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicyDenial {
    /// The rule.
    pub rule: RuleKind,
    /// What is said of it.
    pub error: Error,
}

impl OperatorPolicy {
    /// Lays a class's choice over the operator's settings, or refuses it.
    pub fn evaluate(&self, request: &PolicyRequest<'_>) -> Result<VaultTarget, PolicyDenial> {
        let choice = request.choice;
        let policy = self.policy_file.as_ref().map(|file| file.current());
        let limits = policy.as_ref().map(|policy| policy.limits_for(request.namespace));
        let server = self.select_server(choice, limits.as_ref())?;
        let address = choice.address.clone().unwrap_or_else(|| server.address.clone());
        let is_operator_address = address == server.address;
        let deny_local_addresses = match &limits {
            _ if is_operator_address => false,
            Some(limits) => limits.check_address(&address, Some(&self.server))?,
            None => self
                .address_policy
                .evaluate(&address)
                .map_err(|error| PolicyDenial { rule: RuleKind::Address, error })?,
        };
        let is_default = is_operator_address && choice.endpoint.as_deref().is_none_or(|name| name == DEFAULT_ENDPOINT);
        if let Some(limits) = limits.as_ref().filter(|_| is_default) {
            limits.check_endpoint(DEFAULT_ENDPOINT)?;
        }
        // A server of the class's own is believed, and shown a certificate, as the class says.
        let mut server_tls = server.tls.clone();
        if limits.is_some() && !is_operator_address {
            (server_tls.skip_verify, server_tls.client) = (false, None);
        }
        let certificate_files =
            choice.certificate_files(Some(&server_tls)).into_iter().map(Path::to_owned).collect::<Vec<_>>();
        // An endpoint's address is the endpoint, whether a class writes its name, the address, or another path there.
        let is_at_endpoint = limits.as_ref().is_some_and(|limits| limits.has_endpoint_at(&address, Some(&self.server)));
        let tls = self.evaluate_tls(choice, server_tls, &certificate_files, is_at_endpoint, limits.as_ref())?;
        let namespace = choice.namespace.as_ref().or(server.namespace.as_ref());
        let auth_namespace = choice.auth_namespace.as_ref().or(namespace);
        let auth_mount = choice.auth_mount.as_ref().unwrap_or(&server.auth_mount);
        if let Some(limits) = limits {
            let is_chosen = choice.namespace.is_some();
            for (namespace, is_chosen, purpose) in [
                (namespace, is_chosen, "for secrets"),
                (auth_namespace, is_chosen || choice.auth_namespace.is_some(), "for logins"),
            ] {
                let default = namespace_or_root(server.namespace.as_ref());
                limits.check_vault_namespace(
                    PolicySetting { value: namespace_or_root(namespace), default, is_chosen },
                    purpose,
                )?;
            }
            let is_chosen = choice.auth_mount.is_some();
            limits.check_auth_mount(PolicySetting { value: auth_mount, default: &server.auth_mount, is_chosen })?;
            let is_chosen = request.audience != request.default_audience;
            limits.check_audience(PolicySetting {
                value: request.audience,
                default: request.default_audience,
                is_chosen,
            })?;
        }
        Ok(VaultTarget {
            endpoint: Arc::new(Endpoint { address, tls, deny_local_addresses }),
            namespace: namespace.cloned(),
            auth_namespace: auth_namespace.cloned(),
            auth_mount: auth_mount.clone(),
            is_operator_address: is_operator_address,
            certificate_files: certificate_files,
        })
    }

    /// The server that a choice is laid over.
    fn select_server(
        &self,
        choice: &ServerChoice,
        limits: Option<&NamespaceLimits<'_>>,
    ) -> Result<Arc<VaultServer>, PolicyDenial> {
        match (&choice.endpoint, limits) {
            (None, _) => Ok(Arc::clone(&self.server)),
            (Some(name), _) if name == DEFAULT_ENDPOINT => Ok(Arc::clone(&self.server)),
            (Some(name), Some(limits)) => limits.find_endpoint(name),
            (Some(name), None) => {
                let problem =
                    format!("vaultEndpoint {name:?} names a server of a policy file, and the operator has none");
                let error = Error::new(Cause::EndpointUnknown, problem).with_fix(
                    "write vaultAddress instead, or have the operator name the server in a file (--policy-file)",
                );
                Err(PolicyDenial { rule: RuleKind::Endpoint, error })
            }
        }
    }

    /// Lays a class's TLS settings, with `files` among them, over others; `at_endpoint` is whether a server of the operator's is at
    /// the address.
    fn evaluate_tls(
        &self,
        choice: &ServerChoice,
        server_tls: Tls,
        files: &[PathBuf],
        is_at_endpoint: bool,
        limits: Option<&NamespaceLimits<'_>>,
    ) -> Result<Tls, PolicyDenial> {
        if choice.skip_verify && !server_tls.skip_verify {
            if !self.allows_skip_verify {
                return Err(skip_verify_denial());
            }
            limits.map_or(Ok(()), NamespaceLimits::check_skip_verify)?;
        }
        if let Some(limits) = limits.filter(|_| is_at_endpoint && !server_tls.skip_verify) {
            choice
                .trust_overrides(Some(&server_tls))
                .into_iter()
                .try_for_each(|parameter| limits.check_trust_override(parameter))?;
        }
        let client = choice.client_certificate.clone().map(|(certificate, key)| ClientCertificate { certificate, key });
        for file in files {
            if self.tenant_tls_dir.is_some() || limits.is_some() {
                tenant_tls_dir::require_plain_path(file)?;
            }
            self.tenant_tls_dir.as_ref().map_or(Ok(()), |folder| folder.check_path(file))?;
            limits.map_or(Ok(()), |limits| limits.check_certificate_file(file))?;
        }
        Ok(Tls {
            ca: choice.ca.clone().unwrap_or(server_tls.ca),
            client: client.or(server_tls.client),
            server_name: choice.server_name.clone().or(server_tls.server_name),
            skip_verify: choice.skip_verify || server_tls.skip_verify,
        })
    }

    /// Follows the links of the certificate files that a class chose, where they must be below `--tenant-tls-dir`.
    pub async fn check_symlinks(&self, target: &VaultTarget) -> Result<(), PolicyDenial> {
        let Some(tenant_tls_dir) = self.tenant_tls_dir.clone().filter(|_| !target.certificate_files.is_empty()) else {
            return Ok(());
        };
        let files = target.certificate_files.clone();
        let result =
            tokio::task::spawn_blocking(move || files.iter().try_for_each(|file| tenant_tls_dir.check_symlinks(file)));
        let task_failed = |error| PolicyDenial {
            rule: RuleKind::CertificateFile,
            error: Error::new(Cause::Internal, format!("following links of certificate files has broken: {error}")),
        };
        result.await.unwrap_or_else(|error| Err(task_failed(error)))
    }

    /// Refuses an object (of this name) that gives what is a token's own, in a class whose pods share one.
    pub fn evaluate_sharing(&self, object_name: &str) -> Result<(), PolicyDenial> {
        if self.allows_shared_token {
            return Ok(());
        }
        let error = Error::new(
            Cause::TokenSharingNotAllowed,
            format!(
                "object {object_name:?} is the Vault token's own (type: token, auth/token, or its cubbyhole), and pods of the service account share that token (tokenScope: serviceAccount)"
            ),
        );
        let error =
            error.with_fix("remove tokenScope from the class, or have the operator allow it with --allow-shared-token");
        Err(PolicyDenial { rule: RuleKind::SharedToken, error })
    }

    /// The server that a choice leads to, as far as that is known of one that may be refused.
    #[must_use]
    pub fn likely_server(&self, choice: &ServerChoice) -> Option<VaultServer> {
        let server = match choice.endpoint.as_deref().filter(|name| *name != DEFAULT_ENDPOINT) {
            None => Arc::clone(&self.server),
            Some(name) => Arc::clone(self.policy_file.as_ref()?.current().endpoints.get(name)?),
        };
        Some(VaultServer {
            address: choice.address.clone().unwrap_or_else(|| server.address.clone()),
            namespace: choice.namespace.clone().or_else(|| server.namespace.clone()),
            auth_mount: choice.auth_mount.clone().unwrap_or_else(|| server.auth_mount.clone()),
            tls: server.tls.clone(),
        })
    }

    /// Every server that the operator set: that of flags and environment, and those of the policy file.
    #[must_use]
    pub fn servers(&self) -> Vec<Arc<VaultServer>> {
        let named =
            self.policy_file.iter().flat_map(|file| file.current().endpoints.values().cloned().collect::<Vec<_>>());
        std::iter::once(Arc::clone(&self.server)).chain(named).collect()
    }
}

/// What a policy calls a Vault namespace.
fn namespace_or_root(namespace: Option<&String>) -> &str {
    namespace.map_or("root", String::as_str)
}

fn skip_verify_denial() -> PolicyDenial {
    let problem = "the class may not switch off the verification of the server's certificate (vaultSkipTLSVerify): this provider forbids it (--allow-skip-verify=false)";
    let error = Error::new(Cause::SkipVerifyNotAllowed, problem).with_fix("remove vaultSkipTLSVerify from the class and from the pod's volumeAttributes, and set the CA (vaultCACert, vaultCACertPath), or have the operator allow it with --allow-skip-verify");
    PolicyDenial { rule: RuleKind::SkipVerify, error }
}
