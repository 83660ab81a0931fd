//! The environment of Vault's and OpenBao's Go clients: `BAO_…` before `VAULT_…`.

use std::{collections::HashMap, ffi::OsString};

use super::value::{self, ConfigReport, Setting};

/// Variables that the Go clients read and vaultmount ignores, each with the reason.
const IGNORED_VARIABLES: &[(&str, &str)] = &[
    ("TOKEN", "every pod logs in as itself"),
    ("MFA", "pods log in without a second factor"),
    ("HEADERS", "no headers are added to requests"),
    ("WRAP_TTL", "secrets are read unwrapped"),
    ("RATE_LIMIT", "use --max-in-flight and --max-mutating to limit requests"),
    ("CLIENT_CERT_BYTES", "pass the client certificate as a file, with --vault-tls-client-cert"),
    ("CLIENT_KEY_BYTES", "pass the client key as a file, with --vault-tls-client-key"),
];

/// Proxy variables of HTTP clients, in upper or lower case.
const PROXY_VARIABLES: [&str; 3] = ["HTTPS_PROXY", "HTTP_PROXY", "NO_PROXY"];

/// Variables that only `serve` reads. Other commands ignore them, because they may belong to other programs: Jenkins also sets
/// `NODE_NAME`.
pub const SERVE_VARIABLES: [&str; 3] = ["NODE_NAME", "VAULTMOUNT_STATUS_SOCKET", "VAULTMOUNT_STATE_DIR"];

/// The variables that begin with `VAULT_` or `BAO_`, the proxy variables, and those of `serve`.
///
/// Not all variables with these prefixes are settings: Kubernetes itself sets `VAULT_PORT` and similar ones in every pod in the
/// namespace of a Service named vault.
pub(super) struct Environment {
    variables: HashMap<String, String>,
}

impl Environment {
    /// Keeps the relevant variables. Invalid UTF-8 is replaced, and is rejected where the value is parsed.
    pub(super) fn new<K: Into<OsString>, V: Into<OsString>>(pairs: impl IntoIterator<Item = (K, V)>) -> Self {
        let variables = pairs
            .into_iter()
            .filter_map(|(name, value)| Some((name.into().into_string().ok()?, value.into())))
            .filter(|(name, _)| {
                name.starts_with("VAULT_")
                    || name.starts_with("BAO_")
                    || SERVE_VARIABLES.contains(&name.as_str())
                    || PROXY_VARIABLES.iter().any(|proxy| name.eq_ignore_ascii_case(proxy))
            })
            .map(|(name, value)| (name, value.to_string_lossy().into_owned()))
            .collect();
        Self { variables }
    }

    /// Returns `BAO_` + `suffix` if it is set, even to an empty value, else `VAULT_` + `suffix`. An empty value counts as not set.
    pub(super) fn find(&self, suffix: &str) -> Option<Setting> {
        let (name, value) = ["BAO_", "VAULT_"]
            .into_iter()
            .find_map(|prefix| self.variables.get_key_value(&format!("{prefix}{suffix}")))?;
        (!value.is_empty()).then(|| Setting { name: name.clone().into(), value: value.clone() })
    }

    /// Returns the variable of exactly this name, one of [`SERVE_VARIABLES`]. An empty value counts as not set.
    pub(super) fn find_serve_variable(&self, name: &'static str) -> Option<Setting> {
        Setting::non_empty(name, self.variables.get(name))
    }

    /// Returns the value of a proxy variable such as `HTTPS_PROXY`, by its exact name.
    pub(super) fn proxy_variable(&self, name: &str) -> Option<String> {
        self.variables.get(name).cloned()
    }

    /// Warns about each ignored variable. Their values may be secret and are not printed.
    pub(super) fn warn_of_ignored(&self, report: &mut ConfigReport) {
        for (suffix, why) in IGNORED_VARIABLES {
            if let Some(Setting { name, .. }) = self.find(suffix) {
                report.warn(format!("{name} has no effect: {why}"));
            }
        }
        let lookup = self.find("SRV_LOOKUP");
        if report.read(lookup.as_ref(), value::boolean) == Some(true) {
            report.warn(
                "VAULT_SRV_LOOKUP has no effect: SRV records are not supported; set the address of the server itself",
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bao_variable_overrides_vault_even_if_empty() {
        let env = Environment::new([
            ("VAULT_ADDR", "https://v"),
            ("BAO_ADDR", "https://b"),
            ("VAULT_NAMESPACE", "team"),
            ("BAO_CACERT", ""),
            ("VAULT_CACERT", "/ca.pem"),
        ]);
        let find = |suffix| env.find(suffix).map(|s| s.to_string());
        assert_eq!(find("ADDR").as_deref(), Some("BAO_ADDR=https://b"));
        assert_eq!(find("NAMESPACE").as_deref(), Some("VAULT_NAMESPACE=team"));
        assert_eq!(find("CACERT"), None);
    }

    #[test]
    fn ignored_variables_are_warned_of_without_value() {
        let mut report = ConfigReport::default();
        Environment::new([
            ("VAULT_TOKEN", "hvs.secret"),
            ("VAULT_HEADERS", r#"{"x":"hvs.secret"}"#),
            ("BAO_CLIENT_KEY_BYTES", "hvs.secret"),
            ("VAULT_SRV_LOOKUP", "true"),
            ("VAULT_PORT", "tcp://10.0.0.1:8200"),
            ("VAULT_SERVICE_HOST", "10.0.0.1"),
            ("VAULT_MFA", ""),
        ])
        .warn_of_ignored(&mut report);
        let warnings = report.warnings.join("\n");
        assert_eq!(report.warnings.len(), 4, "{warnings}");
        for name in ["VAULT_TOKEN ", "VAULT_HEADERS ", "BAO_CLIENT_KEY_BYTES ", "VAULT_SRV_LOOKUP"] {
            assert!(warnings.contains(name), "{name} in {warnings}");
        }
        assert!(!warnings.contains("hvs."), "{warnings}");
    }
}
