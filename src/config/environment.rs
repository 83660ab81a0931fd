//! The environment of Vault's and OpenBao's Go clients: `BAO_…` before `VAULT_…`.

use std::{collections::HashMap, ffi::OsString};

use super::value::{self, ConfigReport, Setting};

/// What the Go clients read and this process does not, and why.
const IGNORED_VARIABLES: &[(&str, &str)] = &[
    ("TOKEN", "every pod logs in as itself"),
    ("MFA", "pods log in without a second factor"),
    ("HEADERS", "no headers are added to requests"),
    ("WRAP_TTL", "secrets are read unwrapped"),
    ("RATE_LIMIT", "--max-in-flight and --max-mutating bound the requests instead"),
    ("CLIENT_CERT_BYTES", "give the client certificate as a file, by --vault-tls-client-cert"),
    ("CLIENT_KEY_BYTES", "give the client key as a file, by --vault-tls-client-key"),
];

/// Variables, in either case, that every HTTP client knows.
const PROXY_VARIABLES: [&str; 3] = ["HTTPS_PROXY", "HTTP_PROXY", "NO_PROXY"];

/// Variables that only a server reads. Elsewhere they may be another program's: Jenkins has a `NODE_NAME`, too.
pub const SERVE_VARIABLES: [&str; 3] = ["NODE_NAME", "VAULTMOUNT_STATUS_SOCKET", "VAULTMOUNT_STATE_DIR"];

/// The variables that begin with `VAULT_` or `BAO_`, the proxy's, and our own.
///
/// Not all with these prefixes are ours: Kubernetes itself sets `VAULT_PORT` and its like
/// in every pod beside a Service named vault.
pub(super) struct Environment {
    variables: HashMap<String, String>,
}

impl Environment {
    /// Keeps the variables that matter. Bytes that are no text are replaced, and fail where the value is read.
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

    /// `BAO_` + `suffix` if it is there, even when it is empty, else `VAULT_` + `suffix`. An empty value counts as none.
    pub(super) fn find(&self, suffix: &str) -> Option<Setting> {
        let (name, value) = ["BAO_", "VAULT_"]
            .into_iter()
            .find_map(|prefix| self.variables.get_key_value(&format!("{prefix}{suffix}")))?;
        (!value.is_empty()).then(|| Setting { name: name.clone().into(), value: value.clone() })
    }

    /// The variable of exactly this name, one of [`OF_SERVER`]. An empty value counts as none.
    pub(super) fn find_serve_variable(&self, name: &'static str) -> Option<Setting> {
        Setting::flag(name, self.variables.get(name))
    }

    /// The value of `HTTPS_PROXY` or its like, by exactly this name.
    pub(super) fn proxy(&self, name: &str) -> Option<String> {
        self.variables.get(name).cloned()
    }

    /// Names each variable that has no effect here. Their values may be secret and are not repeated.
    pub(super) fn warn_of_ignored(&self, report: &mut ConfigReport) {
        for (suffix, why) in IGNORED_VARIABLES {
            if let Some(Setting { name, .. }) = self.find(suffix) {
                report.warn(format!("{name} has no effect: {why}"));
            }
        }
        let lookup = self.find("SRV_LOOKUP");
        if report.read(lookup.as_ref(), value::boolean) == Some(true) {
            report.warn("SRV records are not looked up (VAULT_SRV_LOOKUP): the address must name the server itself");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bao_goes_before_vault_even_when_it_is_empty() {
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
    fn what_has_no_effect_is_named_without_its_value() {
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
        let said = report.warnings.join("\n");
        assert_eq!(report.warnings.len(), 4, "{said}");
        for name in ["VAULT_TOKEN ", "VAULT_HEADERS ", "BAO_CLIENT_KEY_BYTES ", "VAULT_SRV_LOOKUP"] {
            assert!(said.contains(name), "{name} in {said}");
        }
        assert!(!said.contains("hvs."), "{said}");
    }
}
