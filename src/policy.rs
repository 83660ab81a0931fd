//! Policy: the limits that an operator sets for tenants, and their evaluation for a class's choice.
//!
//! The driver lays a pod's volumeAttributes over the class, so anyone who may create a pod can choose all of these settings. The
//! policy is evaluated on the merged result, whatever its origin.

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

/// Server settings of a class, with the pod's volumeAttributes laid over it. An omitted field means the server's default.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServerChoice {
    /// `vaultEndpoint`: a server of the policy file, by name. Never set together with an address.
    pub endpoint: Option<String>,
    /// `vaultAddress`.
    pub address: Option<Address>,
    /// `vaultNamespace`: the Vault namespace of secrets, and of logins unless [`ServerChoice::auth_namespace`] is set.
    pub namespace: Option<String>,
    /// `vaultAuthNamespace`: the Vault namespace of logins.
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
    /// Returns true if any TLS setting is chosen.
    #[must_use]
    pub fn has_tls_settings(&self) -> bool {
        self.ca.is_some() || self.server_name.is_some() || self.client_certificate.is_some() || self.skip_verify
    }

    /// Returns the chosen certificate files, except those that the server uses by default.
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

    /// Returns the parameters without a file that change which certificate is trusted, except if they equal the server's default.
    fn trust_overrides(&self, server_tls: Option<&Tls>) -> Vec<&'static str> {
        let ca = self.ca.as_ref().filter(|ca| matches!(ca, Ca::Pem(_)) && server_tls.is_none_or(|own| own.ca != **ca));
        let name = self.server_name.as_ref();
        let name = name.filter(|name| server_tls.is_none_or(|own| own.server_name.as_ref() != Some(*name)));
        ca.map(|_| "vaultCACert").into_iter().chain(name.map(|_| "vaultTLSServerName")).collect()
    }
}

/// A server of the operator, with its login settings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VaultServer {
    /// The server's address.
    pub address: Address,
    /// Default Vault namespace of classes.
    pub namespace: Option<String>,
    /// Default auth mount of classes.
    pub auth_mount: String,
    /// TLS settings, which a class's own override.
    pub tls: Tls,
}

impl VaultServer {
    /// Returns the endpoint with the operator's TLS settings, without those of any class.
    #[must_use]
    pub fn endpoint(&self) -> Endpoint {
        Endpoint { address: self.address.clone(), tls: self.tls.clone(), deny_local_addresses: false }
    }
}

/// The operator's defaults for every class, and the limits for overriding them.
#[derive(Clone, Debug)]
pub struct OperatorPolicy {
    /// Default server of classes.
    pub server: Arc<VaultServer>,
    /// Addresses that a class may choose if there is no policy file.
    pub address_policy: AddressPolicy,
    /// Allows classes to disable verification of the server's certificate.
    pub allows_skip_verify: bool,
    /// Allows pods with a shared Vault token to read the token and its cubbyhole.
    pub allows_shared_token: bool,
    /// Directory that certificate files of classes must be in, or none to allow any path.
    pub tenant_tls_dir: Option<TenantTlsDir>,
    /// Policy file with named servers and limits per Kubernetes namespace.
    pub policy_file: Option<Arc<PolicyFile>>,
}

/// A choice to evaluate, with its origin.
#[derive(Clone, Copy)]
pub struct PolicyRequest<'a> {
    /// The class's choice.
    pub choice: &'a ServerChoice,
    /// The pod's Kubernetes namespace.
    pub namespace: &'a str,
    /// The audience of the pod's token.
    pub audience: &'a str,
    /// Default audience of classes.
    pub default_audience: &'a str,
}

/// The server and login that a mount uses.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct VaultTarget {
    /// The server.
    pub endpoint: Arc<Endpoint>,
    /// The Vault namespace of secrets.
    pub namespace: Option<String>,
    /// The Vault namespace of logins.
    pub auth_namespace: Option<String>,
    /// The auth method's mount path, without `auth/`.
    pub auth_mount: String,
    /// True if the address belongs to a server of the operator.
    pub is_operator_address: bool,
    /// The certificate files that the class chose.
    pub certificate_files: Vec<PathBuf>,
}

/// A denial by the operator's policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicyDenial {
    /// The violated rule.
    pub rule: RuleKind,
    /// The error for the tenant.
    pub error: Error,
}

impl OperatorPolicy {
    /// Merges a class's choice with the operator's settings, or denies it.
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
        // A tenant's server gets neither the operator's client certificate nor its skip_verify: the class sets its own.
        let mut server_tls = server.tls.clone();
        if limits.is_some() && !is_operator_address {
            (server_tls.skip_verify, server_tls.client) = (false, None);
        }
        let certificate_files =
            choice.certificate_files(Some(&server_tls)).into_iter().map(Path::to_owned).collect::<Vec<_>>();
        // An address of an endpoint counts as the endpoint, whether a class uses its name, its address, or another path there.
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
            is_operator_address,
            certificate_files,
        })
    }

    /// Selects the server whose defaults a choice overrides.
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
                let problem = format!(
                    "vaultEndpoint {name:?} names a server of a policy file, but the operator set no policy file"
                );
                let error = Error::new(Cause::EndpointUnknown, problem).with_fix(
                    "write vaultAddress instead, or have the operator name the server in a file (--policy-file)",
                );
                Err(PolicyDenial { rule: RuleKind::Endpoint, error })
            }
        }
    }

    /// Merges a class's TLS settings with the server's. `files` are the certificate files among them. `is_at_endpoint` is true if
    /// the address belongs to a server of the operator.
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

    /// Resolves symlinks of a class's certificate files, and denies targets outside `--tenant-tls-dir`.
    pub async fn check_symlinks(&self, target: &VaultTarget) -> Result<(), PolicyDenial> {
        let Some(tenant_tls_dir) = self.tenant_tls_dir.clone().filter(|_| !target.certificate_files.is_empty()) else {
            return Ok(());
        };
        let files = target.certificate_files.clone();
        let result =
            tokio::task::spawn_blocking(move || files.iter().try_for_each(|file| tenant_tls_dir.check_symlinks(file)));
        let task_failed = |error| PolicyDenial {
            rule: RuleKind::CertificateFile,
            error: Error::new(Cause::Internal, format!("resolving symlinks of certificate files failed: {error}")),
        };
        result.await.unwrap_or_else(|error| Err(task_failed(error)))
    }

    /// Denies an object that exposes a token or its cubbyhole in a class whose pods share that token.
    pub fn evaluate_sharing(&self, object_name: &str) -> Result<(), PolicyDenial> {
        if self.allows_shared_token {
            return Ok(());
        }
        let error = Error::new(
            Cause::TokenSharingNotAllowed,
            format!(
                "object {object_name:?} exposes the Vault token (type: token, auth/token, or its cubbyhole), but pods of the service account share that token (tokenScope: serviceAccount)"
            ),
        );
        let error =
            error.with_fix("remove tokenScope from the class, or have the operator allow it with --allow-shared-token");
        Err(PolicyDenial { rule: RuleKind::SharedToken, error })
    }

    /// Returns the server that a choice selects, even if the policy denies the choice, or none if the endpoint is unknown.
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

    /// Returns every server of the operator: that of flags and environment, and those of the policy file.
    #[must_use]
    pub fn servers(&self) -> Vec<Arc<VaultServer>> {
        let named =
            self.policy_file.iter().flat_map(|file| file.current().endpoints.values().cloned().collect::<Vec<_>>());
        std::iter::once(Arc::clone(&self.server)).chain(named).collect()
    }
}

/// Returns the name of a Vault namespace in policies. The root namespace is `root`.
fn namespace_or_root(namespace: Option<&String>) -> &str {
    namespace.map_or("root", String::as_str)
}

fn skip_verify_denial() -> PolicyDenial {
    let problem = "the class may not disable verification of the server's certificate (vaultSkipTLSVerify): this provider forbids it (--allow-skip-verify=false)";
    let error = Error::new(Cause::SkipVerifyNotAllowed, problem).with_fix("remove vaultSkipTLSVerify from the class and from the pod's volumeAttributes, and set the CA (vaultCACert, vaultCACertPath), or have the operator allow it with --allow-skip-verify");
    PolicyDenial { rule: RuleKind::SkipVerify, error }
}
