//! Server settings: flags override the environment, which overrides defaults.

use std::sync::Arc;

use super::{
    client,
    environment::Environment,
    flags::{ConnectionArgs, OpenBaoFlags, VaultFlags},
    tls,
    value::{self, ConfigReport, Setting},
};
use crate::{
    policy::{AddressPolicy, OperatorPolicy, PolicyFile, TenantTlsDir, VaultServer},
    vault::{self, Address},
};

/// The default server, the operator's policy, and the client settings.
#[derive(Clone, Debug)]
pub struct Connection {
    /// The operator's server, and the limits of what a class may choose instead.
    pub operator: OperatorPolicy,
    /// Timeouts, retries, concurrency limits, proxies.
    pub vault: vault::VaultConfig,
}

/// Reads all server settings. For an invalid value it reports an error and uses the default.
pub(super) fn read(args: &ConnectionArgs, env: &Environment, report: &mut ConfigReport) -> Connection {
    let flags = ServerFlags::by_flags(&args.vault, &args.openbao, report);
    let variables = ServerFlags::by_environment(env);
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
    let allows_skip_verify = allows_skip_verify(args.allow_skip_verify.as_ref(), skip_verify, report);
    let tenant_tls_dir = guard("--tenant-tls-dir", args.tenant_tls_dir.as_ref(), "a directory", report);
    let shares = guard("--allow-shared-token", args.allow_shared_token.as_ref(), "true or false", report);
    let operator = OperatorPolicy {
        server: Arc::new(server),
        address_policy: allow(&args.allow_address, report),
        allows_skip_verify,
        tenant_tls_dir: report.read(tenant_tls_dir.as_ref(), parse_tenant_tls_dir),
        policy_file: policy(args, allows_skip_verify, report),
        allows_shared_token: report.read(shares.as_ref(), value::boolean).unwrap_or_default(),
    };
    let mut vault = client::read(&args.follow_redirects, env, report);
    let oldest = guard("--tls-min-version", args.tls_min_version.as_ref(), "1.2 or 1.3", report);
    vault.min_tls_version = report.read(oldest.as_ref(), tls::min_tls_version).unwrap_or_default();
    Connection { operator, vault }
}

/// Reads a flag that restricts tenants. An empty value, for example from an unset shell variable, is an error, because it would
/// silently remove the restriction. The error shows `example`.
fn guard(name: &'static str, value: Option<&String>, example: &str, report: &mut ConfigReport) -> Option<Setting> {
    if value.is_some_and(String::is_empty) {
        report.error(format!("{name} is empty; write {example}, or omit the flag"));
    }
    Setting::flag(name, value)
}

/// Reads `--policy-file`, which replaces `--allow-address` with limits per namespace.
fn policy(args: &ConnectionArgs, allows_skip_verify: bool, report: &mut ConfigReport) -> Option<Arc<PolicyFile>> {
    let path = guard("--policy-file", args.policy_file.as_ref(), "a file", report)?.value;
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
fn allows_skip_verify(value: Option<&String>, own: Option<&Setting>, report: &mut ConfigReport) -> bool {
    let setting = guard("--allow-skip-verify", value, "true or false", report);
    let allows = report.read(setting.as_ref(), value::boolean).unwrap_or(true);
    if let (false, Some(own)) = (allows, own.filter(|own| value::boolean(&own.value) == Ok(true))) {
        report.error(format!("{own} conflicts with --allow-skip-verify=false; set the CA instead, or allow it"));
    }
    allows
}

/// Returns the Go client's default address, `https://127.0.0.1:8200`.
fn default_address() -> Address {
    Address::Tcp { https: true, host: "127.0.0.1".to_owned(), port: 8200, prefix: String::new() }
}

/// Server settings of one source: flags or environment.
pub(super) struct ServerFlags {
    addr: Option<Setting>,
    mount: Option<Setting>,
    namespace: Option<Setting>,
    pub(super) ca_cert: Option<Setting>,
    pub(super) ca_bytes: Option<Setting>,
    pub(super) ca_directory: Option<Setting>,
    pub(super) server_name: Option<Setting>,
    pub(super) client_cert: Option<Setting>,
    pub(super) client_key: Option<Setting>,
    pub(super) skip_verify: Option<Setting>,
}

impl ServerFlags {
    fn by_flags(vault: &VaultFlags, openbao: &OpenBaoFlags, report: &mut ConfigReport) -> Self {
        let mut pick = |suffix: &str, vault: &Option<String>, openbao: &Option<String>| {
            let vault = Setting::flag(format!("--vault-{suffix}"), vault.as_ref());
            let openbao = Setting::flag(format!("--openbao-{suffix}"), openbao.as_ref());
            if let (Some(v), Some(o)) = (&vault, &openbao)
                && v.value != o.value
            {
                report.error(format!("{v} and {o} set the same setting; pass only one of them"));
            }
            vault.or(openbao)
        };
        Self {
            addr: pick("addr", &vault.addr, &openbao.addr),
            mount: pick("mount", &vault.mount, &openbao.mount),
            namespace: pick("namespace", &vault.namespace, &openbao.namespace),
            ca_cert: pick("tls-ca-cert", &vault.ca_cert, &openbao.ca_cert),
            ca_bytes: None,
            ca_directory: pick("tls-ca-directory", &vault.ca_directory, &openbao.ca_directory),
            server_name: pick("tls-server-name", &vault.server_name, &openbao.server_name),
            client_cert: pick("tls-client-cert", &vault.client_cert, &openbao.client_cert),
            client_key: pick("tls-client-key", &vault.client_key, &openbao.client_key),
            skip_verify: pick("tls-skip-verify", &vault.skip_verify, &openbao.skip_verify),
        }
    }

    fn by_environment(env: &Environment) -> Self {
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

/// Reads `--allow-address`: first each pattern alone, to report every invalid one, then all patterns together.
fn allow(values: &[String], report: &mut ConfigReport) -> AddressPolicy {
    let wrong = |values: &[String]| AddressPolicy::parse(values).err();
    let each: Vec<String> = values.iter().filter_map(|v| wrong(std::slice::from_ref(v))).collect();
    let errors = if each.is_empty() { wrong(values).into_iter().collect() } else { each };
    for why in errors {
        report.error(format!("--allow-address: {why}"));
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

    fn read_all(args: &ConnectionArgs, env: &[(&str, &str)]) -> (Connection, ConfigReport) {
        let mut report = ConfigReport::default();
        let connection = read(args, &Environment::new(env.iter().copied()), &mut report);
        (connection, report)
    }

    #[test]
    fn flags_go_before_environment() {
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
    fn two_families_must_not_contradict() {
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
    fn what_is_forbidden_to_classes_is_forbidden_to_the_operator() {
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
    fn a_guard_without_a_value_is_an_error() {
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
    fn certificate_files_of_classes_have_a_folder_by_its_own_path() {
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
    fn the_oldest_tls_is_1_2_or_what_is_said() {
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
    fn mounts_lose_their_slashes() {
        for (mount, expected) in [("/jwt/", "jwt"), ("a/b", "a/b"), ("", "kubernetes"), ("/", "kubernetes")] {
            let (connection, _) = read_all(&args(|a| a.vault.mount = Some(mount.into())), &[]);
            assert_eq!(connection.operator.server.auth_mount, expected, "{mount}");
        }
    }

    #[test]
    fn every_wrong_value_is_named_and_no_password_is() {
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
    fn debug_does_not_print_the_proxys_password() {
        let (connection, _) = read_all(&ConnectionArgs::default(), &[("VAULT_PROXY_ADDR", "http://me:pw@proxy:1")]);
        assert!(!format!("{connection:?}").contains("pw"), "{connection:?}");
    }
}
