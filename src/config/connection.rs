//! Server settings: flags override the environment, which overrides defaults.

use std::sync::Arc;

use super::{
    client,
    environment::Environment,
    flags::ConnectionArgs,
    server_flags::ServerFlags,
    tls,
    value::{self, ConfigReport, Setting},
};
use crate::{
    policy::{AddressPolicy, OperatorPolicy, PolicyFile, TenantTlsDir, VaultServer},
    vault::{self, Address},
};

/// The default server, the operator's policy, and the client settings.
#[derive(Clone, Debug)]
pub struct ConnectionConfig {
    /// The operator's server, and the limits of what a class may choose instead.
    pub operator: OperatorPolicy,
    /// Timeouts, retries, concurrency limits, proxies.
    pub vault: vault::VaultConfig,
}

/// Reads all server settings. For an invalid value it reports an error and uses the default.
pub(super) fn read(args: &ConnectionArgs, env: &Environment, report: &mut ConfigReport) -> ConnectionConfig {
    let flags = ServerFlags::from_flags(&args.vault, &args.openbao, report);
    let variables = ServerFlags::from_environment(env);
    if let (Some(flag), Some(agent)) = (&flags.addr, env.find("AGENT_ADDR"))
        && flag.value != agent.value
    {
        report.warn(format!("{} has no effect: {} overrides it", agent.name, flag.name));
    }
    let address = flags.addr.as_ref().or(variables.addr.as_ref());
    let namespace = flags.namespace.as_ref().or(variables.namespace.as_ref());
    let mount = report.read(flags.mount.as_ref(), value::header_text).map(|m| m.trim_matches('/').to_owned());
    let skip_verify = flags.skip_verify.as_ref().or(variables.skip_verify.as_ref());
    let server = VaultServer {
        address: report.read(address, Address::parse).unwrap_or_else(default_address),
        namespace: report.read(namespace, value::header_text),
        auth_mount: mount.filter(|m| !m.is_empty()).unwrap_or_else(|| "kubernetes".to_owned()),
        tls: tls::read(&flags, &variables, report),
    };
    let allows_skip_verify = read_allow_skip_verify(args.allow_skip_verify.as_ref(), skip_verify, report);
    let tenant_tls_dir = security_flag("--tenant-tls-dir", args.tenant_tls_dir.as_ref(), "a directory", report);
    let allows_shared_token =
        security_flag("--allow-shared-token", args.allow_shared_token.as_ref(), "true or false", report);
    let operator = OperatorPolicy {
        server: Arc::new(server),
        address_policy: read_address_policy(&args.allow_address, report),
        allows_skip_verify,
        tenant_tls_dir: report.read(tenant_tls_dir.as_ref(), parse_tenant_tls_dir),
        policy_file: read_policy_file(args, allows_skip_verify, report),
        allows_shared_token: report.read(allows_shared_token.as_ref(), value::boolean).unwrap_or_default(),
    };
    let mut vault = client::read(&args.follow_redirects, env, report);
    let min_tls_version = security_flag("--tls-min-version", args.tls_min_version.as_ref(), "1.2 or 1.3", report);
    vault.min_tls_version = report.read(min_tls_version.as_ref(), tls::min_tls_version).unwrap_or_default();
    ConnectionConfig { operator, vault }
}

/// Reads a flag that restricts tenants. An empty value, for example from an unset shell variable, is an error, because it would
/// silently remove the restriction. The error shows `example`.
fn security_flag(
    name: &'static str,
    value: Option<&String>,
    example: &str,
    report: &mut ConfigReport,
) -> Option<Setting> {
    if value.is_some_and(String::is_empty) {
        report.error(format!("{name} is empty; write {example}, or omit the flag"));
    }
    Setting::non_empty(name, value)
}

/// Reads `--policy-file`, which replaces `--allow-address` with limits per namespace.
fn read_policy_file(
    args: &ConnectionArgs,
    allows_skip_verify: bool,
    report: &mut ConfigReport,
) -> Option<Arc<PolicyFile>> {
    let path = security_flag("--policy-file", args.policy_file.as_ref(), "a file", report)?.value;
    // `none` is in our manifests, and does not conflict with a policy file.
    if args.allow_address.iter().any(|address| address != "none") {
        report.error("--allow-address conflicts with --policy-file; list addresses in the policy file, by namespace");
    }
    match PolicyFile::open(path.into(), !allows_skip_verify) {
        Ok(file) => Some(Arc::new(file)),
        Err(errors) => {
            for error in errors {
                report.error(format!("--policy-file: {error}"));
            }
            None
        }
    }
}

/// Reads `--tenant-tls-dir`.
fn parse_tenant_tls_dir(text: &str) -> Result<TenantTlsDir, String> {
    let folder = TenantTlsDir::new(text.into())?;
    value::directory(text).map(|_| folder)
}

/// Reads `--allow-skip-verify`, which binds the operator's own settings as well.
fn read_allow_skip_verify(
    value: Option<&String>,
    operator_setting: Option<&Setting>,
    report: &mut ConfigReport,
) -> bool {
    let setting = security_flag("--allow-skip-verify", value, "true or false", report);
    let allows = report.read(setting.as_ref(), value::boolean).unwrap_or(true);
    if let (false, Some(own)) = (allows, operator_setting.filter(|own| value::boolean(&own.value) == Ok(true))) {
        report.error(format!("{own} conflicts with --allow-skip-verify=false; set the CA instead, or allow it"));
    }
    allows
}

/// Returns the Go client's default address, `https://127.0.0.1:8200`.
fn default_address() -> Address {
    Address::Tcp { https: true, host: "127.0.0.1".to_owned(), port: 8200, prefix: String::new() }
}

/// Reads `--allow-address`: first each pattern alone, to report every invalid one, then all patterns together.
fn read_address_policy(values: &[String], report: &mut ConfigReport) -> AddressPolicy {
    let parse_errors = |values: &[String]| AddressPolicy::parse(values).err();
    let pattern_errors: Vec<String> = values.iter().filter_map(|v| parse_errors(std::slice::from_ref(v))).collect();
    let errors = if pattern_errors.is_empty() { parse_errors(values).into_iter().collect() } else { pattern_errors };
    for problem in errors {
        report.error(format!("--allow-address: {problem}"));
    }
    AddressPolicy::parse(values).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(edit: impl FnOnce(&mut ConnectionArgs)) -> ConnectionArgs {
        let mut args = ConnectionArgs::default();
        edit(&mut args);
        args
    }

    fn read_all(args: &ConnectionArgs, env: &[(&str, &str)]) -> (ConnectionConfig, ConfigReport) {
        let mut report = ConfigReport::default();
        let connection = read(args, &Environment::new(env.iter().copied()), &mut report);
        (connection, report)
    }

    #[test]
    fn server_flags_override_environment() {
        let flag = args(|a| a.vault.addr = Some("https://flag".into()));
        let openbao = args(|a| a.openbao.addr = Some("https://bao-flag".into()));
        for (args, env, address) in [
            (&ConnectionArgs::default(), &[][..], "https://127.0.0.1:8200"),
            (&ConnectionArgs::default(), &[("VAULT_ADDR", "unix:///run/agent.sock")], "unix:///run/agent.sock"),
            (&ConnectionArgs::default(), &[("VAULT_ADDR", "https://v"), ("BAO_ADDR", "https://b")], "https://b:443"),
            (
                &ConnectionArgs::default(),
                &[("VAULT_ADDR", "https://v"), ("VAULT_AGENT_ADDR", "http://a")],
                "http://a:80",
            ),
            (&flag, &[("VAULT_ADDR", "https://v"), ("BAO_ADDR", "https://b")], "https://flag:443"),
            (&openbao, &[("VAULT_ADDR", "https://v")], "https://bao-flag:443"),
        ] {
            let (connection, report) = read_all(args, env);
            assert_eq!(connection.operator.server.address.to_string(), address, "{env:?}");
            assert!(report.errors.is_empty() && report.warnings.is_empty(), "{env:?}");
        }
        let (_, report) = read_all(&flag, &[("VAULT_AGENT_ADDR", "http://a")]);
        assert_eq!(report.warnings, ["VAULT_AGENT_ADDR has no effect: --vault-addr overrides it"]);
    }

    #[test]
    fn vault_and_openbao_flags_must_not_conflict() {
        let (_, report) = read_all(
            &args(|a| {
                a.vault.namespace = Some("a".into());
                a.openbao.namespace = Some("b".into());
                a.vault.mount = Some("/jwt/".into());
                a.openbao.mount = Some("/jwt/".into());
            }),
            &[],
        );
        assert_eq!(
            report.errors,
            ["--vault-namespace=a and --openbao-namespace=b set the same setting; pass only one of them"]
        );
    }

    #[test]
    fn allow_skip_verify_false_binds_the_operator_too() {
        let strict = |own: Option<&str>| {
            args(|a| {
                a.allow_skip_verify = Some("false".into());
                a.vault.skip_verify = own.map(str::to_owned);
            })
        };
        // (flag, variable, conflicting setting)
        for (flag, variable, named) in [
            (None, "", None),
            (Some("false"), "true", None),
            (Some("true"), "", Some("--vault-tls-skip-verify=true ")),
            (None, "true", Some("VAULT_SKIP_VERIFY=true ")),
        ] {
            let (connection, report) = read_all(&strict(flag), &[("VAULT_SKIP_VERIFY", variable)]);
            assert!(!connection.operator.allows_skip_verify);
            let errors = report.errors.join("\n");
            assert!(named.map_or(errors.is_empty(), |name| errors.starts_with(name)), "{errors}");
            assert!(named.is_none() || errors.contains("--allow-skip-verify=false"), "{errors}");
        }
        assert!(read_all(&ConnectionArgs::default(), &[]).0.operator.allows_skip_verify);
    }

    #[test]
    fn empty_security_flags_are_rejected() {
        let (_, report) = read_all(
            &args(|a| {
                let empty = || Some(String::new());
                (a.policy_file, a.tenant_tls_dir, a.allow_skip_verify) = (empty(), empty(), empty());
                (a.allow_shared_token, a.tls_min_version) = (empty(), empty());
                a.allow_address = vec![String::new()];
            }),
            &[],
        );
        let said = report.errors.join("\n");
        for says in [
            "--policy-file is empty; write a file, or omit the flag",
            "--tenant-tls-dir is empty; write a directory",
            "--allow-skip-verify is empty; write true or false",
            "--allow-shared-token is empty; write true or false",
            "--tls-min-version is empty; write 1.2 or 1.3",
            "--allow-address: \"\" is not a URL; write https://host:port, or none",
        ] {
            assert!(said.contains(says), "{says} in {said}");
        }
        assert_eq!(report.errors.len(), 6, "{said}");
    }

    #[test]
    fn tenant_tls_dir_must_be_existing_absolute_directory() {
        for (given, wrong) in [
            ("/", None),
            ("/proc/", None),
            ("src", Some("is not an absolute path without `.` and `..`; write for example /vault/tls")),
            ("/proc/..", Some("is not an absolute path without")),
            ("/nowhere", Some("cannot be opened")),
            ("/proc/version", Some("is a file, not a directory")),
        ] {
            let (connection, report) = read_all(&args(|a| a.tenant_tls_dir = Some(given.into())), &[]);
            let path = connection.operator.tenant_tls_dir.map(|folder| folder.path().to_owned());
            assert_eq!(path, wrong.is_none().then(|| given.into()), "{given}");
            let says = wrong.map(|why| format!("--tenant-tls-dir={given} {why}"));
            let said = report.errors.join("\n");
            assert!(says.map_or(said.is_empty(), |says| said.starts_with(&says)), "{given}: {said}");
        }
    }

    #[test]
    fn tls_min_version_defaults_to_1_2() {
        for (given, oldest) in
            [(None, Some("1.2")), (Some("1.2"), Some("1.2")), (Some("1.3"), Some("1.3")), (Some("1.1"), None)]
        {
            let (connection, report) = read_all(&args(|a| a.tls_min_version = given.map(str::to_owned)), &[]);
            match oldest {
                Some(oldest) => assert_eq!(connection.vault.min_tls_version.as_str(), oldest, "{given:?}"),
                None => assert_eq!(report.errors, ["--tls-min-version=1.1 is neither 1.2 nor 1.3"]),
            }
        }
    }

    #[test]
    fn vault_mount_slashes_are_trimmed() {
        for (mount, expected) in [("/jwt/", "jwt"), ("a/b", "a/b"), ("", "kubernetes"), ("/", "kubernetes")] {
            let (connection, _) = read_all(&args(|a| a.vault.mount = Some(mount.into())), &[]);
            assert_eq!(connection.operator.server.auth_mount, expected, "{mount}");
        }
    }

    #[test]
    fn invalid_connection_flags_are_named_without_password() {
        let wrong = args(|a| {
            a.vault.mount = Some("kube\nrnetes".into());
            a.allow_address = vec!["ftp://x".into(), "https://ok".into(), "vault".into(), "https://me:pw@x".into()];
        });
        let (_, report) = read_all(&wrong, &[("VAULT_ADDR", "https://me:pw@vault"), ("VAULT_NAMESPACE", "a\n")]);
        let said = report.errors.join("\n");
        for name in [
            "VAULT_ADDR=… carries a user name",
            "VAULT_NAMESPACE=a contains a line break",
            "--vault-mount=kube rnetes contains a line break",
            "--allow-address: \"ftp://x\"",
            "--allow-address: \"vault\"",
            "--allow-address: … carries a user name",
        ] {
            assert!(said.contains(name), "{name} in {said}");
        }
        assert_eq!(report.errors.len(), 6, "{said}");
        assert!(!said.contains("pw"), "{said}");
        let (_, report) = read_all(&args(|a| a.allow_address = vec!["none".into(), "https://ok".into()]), &[]);
        assert_eq!(report.errors.len(), 1, "{:?}", report.errors);
    }

    #[test]
    fn connection_debug_hides_proxy_password() {
        let (connection, _) = read_all(&ConnectionArgs::default(), &[("VAULT_PROXY_ADDR", "http://me:pw@proxy:1")]);
        assert!(!format!("{connection:?}").contains("pw"), "{connection:?}");
    }
}
