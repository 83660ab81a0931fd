//! Client settings: timeout, retries, proxy, redirects. Most of them have only the Go clients' variables, and no flag.

use super::{
    environment::Environment,
    value::{self, ConfigReport, Setting},
};
use crate::vault::{self, Proxies};

/// Reads the Go clients' variables for requests, and `--follow-redirects`.
pub(super) fn read(follow_redirects: &[String], env: &Environment, report: &mut ConfigReport) -> vault::VaultConfig {
    let defaults = vault::VaultConfig::default();
    let timeout = report.read(env.find("CLIENT_TIMEOUT").as_ref(), value::duration);
    let retries = report.read(env.find("MAX_RETRIES").as_ref(), |text| value::integer(text, 0..=1000));
    let disabled = env.find("DISABLE_REDIRECTS");
    let redirects_enabled = report.read(disabled.as_ref(), value::boolean) != Some(true);
    if let (false, false, Some(Setting { name, .. })) = (redirects_enabled, follow_redirects.is_empty(), disabled) {
        report.warn(format!("--follow-redirects has no effect: {name} overrides it"));
    }
    vault::VaultConfig {
        request_timeout: timeout.filter(|t| !t.is_zero()).or(defaults.request_timeout),
        max_retries: retries.unwrap_or(defaults.max_retries),
        proxies: proxies(env, report),
        redirects_enabled,
        allowed_redirect_hosts: follow_redirects.iter().filter_map(|host| parse_redirect_host(host, report)).collect(),
        ..defaults
    }
}

/// Reads the proxies. The Go clients' own variable overrides the general ones (such as `HTTPS_PROXY`).
fn proxies(env: &Environment, report: &mut ConfigReport) -> Proxies {
    let proxies = match env.find("PROXY_ADDR").or_else(|| env.find("HTTP_PROXY")) {
        Some(Setting { name, value }) => Proxies::for_all_hosts(&name, value),
        None => Proxies::from_vars(|name| env.proxy_variable(name)),
    };
    proxies.unwrap_or_else(|error| {
        report.error(error.to_string());
        Proxies::none()
    })
}

/// Parses `host` or `host:port`, and converts it to lower case.
fn parse_redirect_host(text: &str, report: &mut ConfigReport) -> Option<String> {
    let setting = Setting { name: "--follow-redirects".into(), value: text.to_owned() };
    report.read(Some(&setting), |text| {
        let (host, port) = match text.rsplit_once(':') {
            Some((host, port)) if !port.ends_with(']') => (host, port),
            _ => (text, "443"),
        };
        let bracketed = host.starts_with('[') && host.ends_with(']');
        let is_host = !host.is_empty()
            && host.chars().all(|c| c.is_ascii_alphanumeric() || "-._".contains(c) || bracketed && ":[]".contains(c));
        if is_host && port.parse::<u16>().is_ok() {
            Ok(text.to_ascii_lowercase())
        } else {
            Err("is not a host or host:port; write for example vault-0.vault:8200")
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_all(follow_redirects: &[&str], env: &[(&str, &str)]) -> (vault::VaultConfig, ConfigReport) {
        let mut report = ConfigReport::default();
        let hosts: Vec<String> = follow_redirects.iter().map(ToString::to_string).collect();
        let config = read(&hosts, &Environment::new(env.iter().copied()), &mut report);
        (config, report)
    }

    /// Returns the visible settings of the proxies, whose URLs are secret.
    fn describe_proxies(config: &vault::VaultConfig) -> String {
        let debug = format!("{:?}", config.proxies);
        let field =
            |name: &str| debug.split([',', '{', '}']).find(|part| part.contains(name)).unwrap().trim().to_owned();
        format!("{}, {}", field(" covers_local_hosts:"), field(" no_proxy:"))
    }

    #[test]
    fn go_client_variables_are_read() {
        let (config, report) = read_all(
            &[],
            &[
                ("VAULT_CLIENT_TIMEOUT", "90"),
                ("VAULT_MAX_RETRIES", "0"),
                ("VAULT_HTTP_PROXY", "http://old:1"),
                ("BAO_PROXY_ADDR", "http://me:pw@proxy:3128"),
                ("VAULT_DISABLE_REDIRECTS", "true"),
            ],
        );
        assert!(report.errors.is_empty() && report.warnings.is_empty(), "{:?}", report.errors);
        assert_eq!(config.request_timeout.map(|t| t.as_secs()), Some(90));
        assert_eq!((config.max_retries, config.redirects_enabled), (0, false));
        assert_eq!(describe_proxies(&config), "covers_local_hosts: true, no_proxy: \"\"");
    }

    #[test]
    fn client_timeout_of_zero_means_no_timeout() {
        let (config, report) = read_all(&[], &[("VAULT_CLIENT_TIMEOUT", "0"), ("VAULT_DISABLE_REDIRECTS", "false")]);
        assert!(report.errors.is_empty(), "{:?}", report.errors);
        assert_eq!((config.request_timeout, config.redirects_enabled), (None, true));
    }

    #[test]
    fn vault_proxy_variables_override_https_proxy() {
        let everybodys = [("HTTPS_PROXY", "http://all:1"), ("no_proxy", "vault.corp")];
        let own = ("VAULT_HTTP_PROXY", "http://own:1");
        assert_eq!(
            describe_proxies(&read_all(&[], &everybodys).0),
            "covers_local_hosts: false, no_proxy: \"vault.corp\""
        );
        assert_eq!(
            describe_proxies(&read_all(&[], &[everybodys[0], everybodys[1], own]).0),
            "covers_local_hosts: true, no_proxy: \"\""
        );
        let (_, report) = read_all(&[], &[("VAULT_PROXY_ADDR", "ftp://x"), own]);
        assert!(report.errors[0].starts_with("VAULT_PROXY_ADDR "), "{:?}", report.errors);
        let (_, report) = read_all(&[], &[("HTTPS_PROXY", "ftp://me:pw@proxy")]);
        assert_eq!(report.errors.len(), 1);
        assert!(
            report.errors[0].starts_with("HTTPS_PROXY is not a valid proxy URL") && !report.errors[0].contains("pw")
        );
    }

    #[test]
    fn follow_redirects_accepts_hosts_and_ports() {
        let (config, report) = read_all(&["Vault-0:8200", "vault.corp", "[::1]:1", "[::1]"], &[]);
        assert!(report.errors.is_empty(), "{:?}", report.errors);
        assert_eq!(config.allowed_redirect_hosts, ["vault-0:8200", "vault.corp", "[::1]:1", "[::1]"]);
        let (_, report) = read_all(&["vault"], &[("BAO_DISABLE_REDIRECTS", "1")]);
        assert_eq!(report.warnings, ["--follow-redirects has no effect: BAO_DISABLE_REDIRECTS overrides it"]);
    }

    #[test]
    fn invalid_client_variables_are_named_without_password() {
        let (_, report) = read_all(
            &["https://vault", "vault:port", "vault/x", "", "::1"],
            &[
                ("VAULT_PROXY_ADDR", "ftp://me:pw@proxy"),
                ("VAULT_CLIENT_TIMEOUT", "soon"),
                ("VAULT_MAX_RETRIES", "-1"),
                ("VAULT_DISABLE_REDIRECTS", "yes"),
            ],
        );
        let said = report.errors.join("\n");
        for name in [
            "VAULT_PROXY_ADDR is not a valid proxy URL",
            "VAULT_CLIENT_TIMEOUT=soon is not a duration",
            "VAULT_MAX_RETRIES=-1 is not a whole number",
            "VAULT_DISABLE_REDIRECTS=yes is neither",
            "--follow-redirects=https://vault is not a host",
            "--follow-redirects=vault:port is not a host",
            "--follow-redirects=vault/x is not a host",
            "--follow-redirects= is not a host",
            "--follow-redirects=::1 is not a host",
        ] {
            assert!(said.contains(name), "{name} in {said}");
        }
        assert_eq!(report.errors.len(), 9, "{said}");
        assert!(!said.contains("pw"), "{said}");
    }
}
