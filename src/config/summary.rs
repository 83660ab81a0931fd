//! Summary of the effective configuration for the status page: each setting by its flag or variable, without secrets.

use std::{fmt::Display, path::PathBuf, time::Duration};

use super::{Config, MintTokens};
use crate::{
    policy::AddressPolicy,
    telemetry::LogFormat,
    tls::{Ca, Tls},
};

impl Config {
    /// Returns every relevant setting with its effective value.
    #[must_use]
    pub fn summary(&self) -> Vec<(&'static str, String)> {
        let (operator, vault) = (&self.connection.operator, &self.connection.vault);
        let mint_tokens = if self.mint_tokens == MintTokens::Auto { "auto" } else { "off" };
        let status = self.status_socket.as_ref().map(|socket| &socket.path);
        let mut settings = vec![
            ("--endpoint", self.endpoints.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", ")),
            ("--health-addr", or_off(self.health_addr)),
            ("--metrics-addr", or_off(self.metrics_addr)),
            ("--status-socket", path_or_none(status)),
            ("--log-level", self.log.filter.to_string()),
            ("--log-format", if self.log.format == LogFormat::Json { "json" } else { "text" }.to_owned()),
            ("--log-filter-file", path_or_none(self.log.filter_file.as_ref())),
            ("--audit-log", self.audit_log.as_ref().map_or("none".to_owned(), ToString::to_string)),
            ("--vault-addr", operator.server.address.to_string()),
            ("--vault-namespace", or_none(operator.server.namespace.as_deref())),
            ("--vault-mount", operator.server.auth_mount.clone()),
        ];
        settings.extend(tls_settings(&operator.server.tls));
        settings.extend([
            ("--policy-file", or_none(operator.policy_file.as_ref().map(|file| file.path().display()))),
            (
                "--allow-address",
                operator
                    .policy_file
                    .as_ref()
                    .map_or_else(|| address_policy(&operator.address_policy), |_| "see the policy file".into()),
            ),
            ("--tenant-tls-dir", or_none(operator.tenant_tls_dir.as_ref().map(|folder| folder.path().display()))),
            ("--tls-min-version", vault.min_tls_version.as_str().to_owned()),
            ("--allow-skip-verify", operator.allows_skip_verify.to_string()),
            ("--allow-shared-token", operator.allows_shared_token.to_string()),
            (
                "--follow-redirects",
                or_none(Some(vault.allowed_redirect_hosts.join(", ")).filter(|hosts| !hosts.is_empty())),
            ),
            ("--mint-tokens", mint_tokens.to_owned()),
            ("--kubeconfig", path_or_none(self.kubeconfig.as_ref())),
            ("--node-name", or_none(self.node_name.as_deref())),
            ("--events", self.events_enabled.to_string()),
            ("--hmac-secret-name", self.hmac_secret_name.clone()),
            ("--hmac-key-file", path_or_none(self.hmac_key_file.as_ref())),
            ("--state-dir", path_or_none(self.state_dir.as_ref())),
            ("--refresh-interval", self.refresh_interval.map_or("never".to_owned(), format_duration)),
            ("--orphan-after", format_duration(self.orphan_after)),
            ("--drain-timeout", format_duration(self.drain_timeout)),
            ("--max-mounts", self.max_mounts.to_string()),
            ("--max-sessions", self.max_sessions.to_string()),
            ("--max-in-flight", vault.max_in_flight.to_string()),
            ("--max-mutating", vault.max_mutating.to_string()),
            ("VAULT_MAX_RETRIES", vault.max_retries.to_string()),
            ("VAULT_CLIENT_TIMEOUT", vault.request_timeout.map_or("none".to_owned(), format_duration)),
        ]);
        settings
    }
}

fn tls_settings(tls: &Tls) -> [(&'static str, String); 5] {
    let (file, directory) = match &tls.ca {
        Ca::System => ("the system's".to_owned(), or_none::<&str>(None)),
        Ca::File(file) => (path_or_none(Some(file)), or_none::<&str>(None)),
        Ca::Directory(directory) => (or_none::<&str>(None), path_or_none(Some(directory))),
        Ca::Pem(_) => ("set as PEM text".to_owned(), or_none::<&str>(None)),
    };
    [
        ("--vault-tls-ca-cert", file),
        ("--vault-tls-ca-directory", directory),
        ("--vault-tls-client-cert", path_or_none(tls.client.as_ref().map(|client| &client.certificate))),
        ("--vault-tls-server-name", or_none(tls.server_name.as_deref())),
        ("--vault-tls-skip-verify", tls.skip_verify.to_string()),
    ]
}

fn address_policy(policy: &AddressPolicy) -> String {
    match policy {
        AddressPolicy::AnyRemote => "any except this node's".to_owned(),
        AddressPolicy::None => "none".to_owned(),
        AddressPolicy::Patterns(patterns) => patterns.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "),
    }
}

fn path_or_none(path: Option<&PathBuf>) -> String {
    or_none(path.map(|path| path.display().to_string()))
}

fn or_none<T: Display>(value: Option<T>) -> String {
    value.map_or("none".to_owned(), |value| value.to_string())
}

fn or_off<T: Display>(value: Option<T>) -> String {
    value.map_or("off".to_owned(), |value| value.to_string())
}

fn format_duration(duration: Duration) -> String {
    format!("{duration:?}")
}
