//! What an operator allows a tenant to choose.

use std::path::PathBuf;

use crate::tls::Ca;

/// What a class (or a pod's volumeAttributes over it) says about the server; every field it leaves out is the operator's.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Choice {
    /// `vaultAddress`.
    pub address: Option<String>,
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
