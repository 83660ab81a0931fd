//! The server settings that flags and environment share.

use super::{
    environment::Environment,
    flags::{OpenBaoFlags, VaultFlags},
    value::{ConfigReport, Setting},
};

/// Server settings of one source: flags or environment.
pub(super) struct ServerFlags {
    pub(super) addr: Option<Setting>,
    pub(super) mount: Option<Setting>,
    pub(super) namespace: Option<Setting>,
    pub(super) ca_cert: Option<Setting>,
    pub(super) ca_bytes: Option<Setting>,
    pub(super) ca_directory: Option<Setting>,
    pub(super) server_name: Option<Setting>,
    pub(super) client_cert: Option<Setting>,
    pub(super) client_key: Option<Setting>,
    pub(super) skip_verify: Option<Setting>,
}

impl ServerFlags {
    pub(super) fn from_flags(vault: &VaultFlags, openbao: &OpenBaoFlags, report: &mut ConfigReport) -> Self {
        let mut merge = |suffix: &str, vault: &Option<String>, openbao: &Option<String>| {
            let vault = Setting::non_empty(format!("--vault-{suffix}"), vault.as_ref());
            let openbao = Setting::non_empty(format!("--openbao-{suffix}"), openbao.as_ref());
            if let (Some(v), Some(o)) = (&vault, &openbao)
                && v.value != o.value
            {
                report.error(format!("{v} and {o} set the same setting; pass only one of them"));
            }
            vault.or(openbao)
        };
        Self {
            addr: merge("addr", &vault.addr, &openbao.addr),
            mount: merge("mount", &vault.mount, &openbao.mount),
            namespace: merge("namespace", &vault.namespace, &openbao.namespace),
            ca_cert: merge("tls-ca-cert", &vault.ca_cert, &openbao.ca_cert),
            ca_bytes: None,
            ca_directory: merge("tls-ca-directory", &vault.ca_directory, &openbao.ca_directory),
            server_name: merge("tls-server-name", &vault.server_name, &openbao.server_name),
            client_cert: merge("tls-client-cert", &vault.client_cert, &openbao.client_cert),
            client_key: merge("tls-client-key", &vault.client_key, &openbao.client_key),
            skip_verify: merge("tls-skip-verify", &vault.skip_verify, &openbao.skip_verify),
        }
    }

    pub(super) fn from_environment(env: &Environment) -> Self {
        Self {
            addr: env.find("AGENT_ADDR").or_else(|| env.find("ADDR")),
            mount: None,
            namespace: env.find("NAMESPACE"),
            ca_cert: env.find("CACERT"),
            ca_bytes: env.find("CACERT_BYTES"),
            ca_directory: env.find("CAPATH"),
            server_name: env.find("TLS_SERVER_NAME"),
            client_cert: env.find("CLIENT_CERT"),
            client_key: env.find("CLIENT_KEY"),
            skip_verify: env.find("SKIP_VERIFY"),
        }
    }
}

impl ServerFlags {
    /// Returns the settings of trusted authorities, in the Go client's order of precedence.
    pub(super) fn ca_sources(&self) -> impl Iterator<Item = &Setting> {
        [&self.ca_cert, &self.ca_bytes, &self.ca_directory].into_iter().flatten()
    }

    pub(super) fn client_certificate_sources(&self) -> impl Iterator<Item = &Setting> {
        [&self.client_cert, &self.client_key].into_iter().flatten()
    }
}
