//! Tests of the whole configuration. Parsers of single values have their own tests.

use std::fs;

use super::*;

fn serve_args<const N: usize>(flags: [(&str, &str); N]) -> ServeArgs {
    let mut args = ServeArgs::default();
    for (flag, value) in flags {
        let value = value.to_owned();
        let field = match flag {
            "endpoint" => {
                args.endpoint.push(value);
                continue;
            }
            "health-addr" => &mut args.health_addr,
            "metrics-addr" => &mut args.metrics_addr,
            "status-socket" => &mut args.status_socket,
            "debug" => &mut args.log.debug,
            "log-level" => &mut args.log.log_level,
            "log-format" => &mut args.log.log_format,
            "drain-timeout" => &mut args.drain_timeout,
            "cache-size" => &mut args.limits.cache_size,
            "max-sessions" => &mut args.limits.max_sessions,
            "max-in-flight" => &mut args.limits.max_in_flight,
            "max-mutating" => &mut args.limits.max_mutating,
            "mint-tokens" => &mut args.kubernetes.mint_tokens,
            "node-name" => &mut args.node_name,
            "orphan-after" => &mut args.session.orphan_after,
            "refresh-interval" => &mut args.session.refresh_interval,
            "kubeconfig" => &mut args.kubernetes.kubeconfig,
            "hmac-secret-name" => &mut args.hmac_secret_name,
            "hmac-key-file" => &mut args.hmac_key_file,
            "vault-addr" => &mut args.connection.vault.addr,
            "vault-tls-ca-cert" => &mut args.connection.vault.ca_cert,
            "vault-tls-client-cert" => &mut args.connection.vault.client_cert,
            "vault-tls-skip-verify" => &mut args.connection.vault.skip_verify,
            "openbao-addr" => &mut args.connection.openbao.addr,
            _ => panic!("{flag}"),
        };
        *field = Some(value);
    }
    args
}

fn load<const N: usize>(flags: [(&str, &str); N]) -> (Config, Vec<String>) {
    Config::load(&serve_args(flags), [("", ""); 0]).unwrap()
}

#[test]
fn config_defaults_match_go_provider() {
    let (config, warnings) = load([]);
    assert_eq!(config.endpoints, [PathBuf::from("/tmp/vault.sock")]);
    assert_eq!(config.health_addr.unwrap().to_string(), "[::]:8080");
    assert_eq!(config.log.filter.level(), LevelFilter::INFO);
    assert_eq!(config.hmac_secret_name, "vault-csi-provider-hmac-key");
    assert_eq!(config.connection.operator.server.address.to_string(), "https://127.0.0.1:8200");
    assert_eq!(config.connection.operator.server.auth_mount, "kubernetes");
    assert_eq!(config.mint_tokens, MintTokens::Auto);
    assert_eq!(
        (config.max_sessions, config.connection.vault.max_in_flight, config.connection.vault.max_mutating),
        (4096, 16, 4)
    );
    assert_eq!(config.drain_timeout, Duration::from_secs(20));
    assert_eq!((config.metrics_addr, config.node_name), (None, None));
    assert_eq!(config.status_socket.unwrap().path, PathBuf::from("/tmp/vault.status"));
    assert_eq!((config.orphan_after.as_secs(), config.refresh_interval.unwrap().as_secs()), (3600, 120));
    assert!(warnings.is_empty(), "{warnings:?}");
}

#[test]
fn flags_override_config_defaults() {
    let key = tempfile::NamedTempFile::new().unwrap();
    let path = key.path().to_str().unwrap();
    let (config, warnings) = load([
        ("health-addr", "off"),
        ("drain-timeout", "1m"),
        ("metrics-addr", ":8081"),
        ("status-socket", "/s/status"),
        ("node-name", "node-1"),
        ("orphan-after", "2h"),
        ("refresh-interval", "never"),
        ("max-sessions", "10"),
        ("max-in-flight", "2"),
        ("max-mutating", "1"),
        ("mint-tokens", "off"),
        ("kubeconfig", path),
        ("hmac-key-file", path),
        ("hmac-secret-name", "openbao-csi-provider-hmac-key"),
        ("cache-size", "1000"),
    ]);
    assert_eq!(config.health_addr, None);
    assert_eq!(config.drain_timeout, Duration::from_secs(60));
    assert_eq!(config.metrics_addr.unwrap().to_string(), "[::]:8081");
    let socket = StatusSocket { path: "/s/status".into(), is_explicit: true };
    assert_eq!((config.status_socket, config.node_name.as_deref()), (Some(socket), Some("node-1")));
    assert_eq!((config.orphan_after.as_secs(), config.refresh_interval), (7200, None));
    assert_eq!(
        (config.max_sessions, config.connection.vault.max_in_flight, config.connection.vault.max_mutating),
        (10, 2, 1)
    );
    assert_eq!(config.mint_tokens, MintTokens::Off);
    assert_eq!(config.kubeconfig.as_deref(), Some(key.path()));
    assert_eq!(config.hmac_key_file.as_deref(), Some(key.path()));
    assert_eq!(config.hmac_secret_name, "openbao-csi-provider-hmac-key");
    assert!(warnings.is_empty(), "{warnings:?}");
}

#[test]
fn empty_flag_is_unset_but_disables_health_addr() {
    let (config, warnings) =
        load([("endpoint", ""), ("debug", ""), ("max-sessions", ""), ("vault-addr", ""), ("health-addr", "")]);
    assert_eq!(config.endpoints, [PathBuf::from("/tmp/vault.sock")]);
    assert_eq!((config.log.filter.level(), config.max_sessions, config.health_addr), (LevelFilter::INFO, 4096, None));
    assert_eq!(config.connection.operator.server.address.to_string(), "https://127.0.0.1:8200");
    assert!(warnings.is_empty(), "{warnings:?}");
}

#[test]
fn log_level_and_debug_follow_go_provider() {
    for (flags, level, warns) in [
        ([("debug", "true"), ("log-level", "")], LevelFilter::DEBUG, false),
        ([("debug", "false"), ("log-level", "")], LevelFilter::INFO, false),
        ([("debug", "true"), ("log-level", "warn")], LevelFilter::WARN, false),
        ([("debug", "false"), ("log-level", " TRACE")], LevelFilter::TRACE, false),
        ([("debug", "false"), ("log-level", "off")], LevelFilter::OFF, false),
        ([("debug", "true"), ("log-level", "wran")], LevelFilter::INFO, true),
    ] {
        let (config, warnings) = load(flags);
        assert_eq!(config.log.filter.level(), level, "{flags:?}");
        assert_eq!(!warnings.is_empty(), warns, "{warnings:?}");
        assert!(!warns || warnings[0].contains("did you mean warn?"), "{warnings:?}");
    }
}

#[test]
fn log_level_per_module_and_log_format_are_read() {
    let (config, warnings) = load([("log-level", "warn,vault=debug"), ("log-format", "json")]);
    assert_eq!((config.log.filter.to_string().as_str(), config.log.format), ("warn,vault=debug", LogFormat::Json));
    assert!(warnings.is_empty(), "{warnings:?}");
    let (_, warnings) = load([("log-level", "info,hyper=trace")]);
    assert!(warnings[0].contains("--log-level: \"hyper\" is not a valid target"), "{warnings:?}");
    let errors = Config::load(&serve_args([("log-format", "xml")]), [("", ""); 0]).unwrap_err();
    assert!(errors.to_string().contains("--log-format=xml is neither text nor json"), "{errors}");
}

#[test]
fn ineffective_flags_and_variables_warn() {
    let env = [("VAULT_TOKEN", "hvs.secret")];
    let (_, warnings) =
        Config::load(&serve_args([("cache-size", "-1"), ("endpoint", "/p/vault.socket")]), env).unwrap();
    let said = warnings.join("\n");
    assert_eq!(warnings.len(), 3, "{said}");
    for name in ["--cache-size=-1", "VAULT_TOKEN", "/p/vault.socket"] {
        assert!(said.contains(name), "{name} in {said}");
    }
}

#[test]
fn config_reports_all_errors_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let cert = dir.path().join("tls.crt");
    fs::write(&cert, "x").unwrap();
    let args = serve_args([
        ("endpoint", "vault.sock"),
        ("endpoint", "/p/vault.sock"),
        ("endpoint", "/p/vault.sock"),
        ("health-addr", "8080"),
        ("metrics-addr", "8081"),
        ("status-socket", "status"),
        ("node-name", "Node"),
        ("orphan-after", "1s"),
        ("refresh-interval", "1s"),
        ("debug", "yes"),
        ("drain-timeout", "soon"),
        ("cache-size", "many"),
        ("max-sessions", "0"),
        ("max-in-flight", "-4"),
        ("max-mutating", "1.5"),
        ("mint-tokens", "always"),
        ("kubeconfig", "/not/there"),
        ("hmac-secret-name", "My_Key"),
        ("hmac-key-file", "/not/there"),
        ("vault-addr", "https://a"),
        ("openbao-addr", "https://b"),
        ("vault-tls-ca-cert", "/not/there"),
        ("vault-tls-client-cert", cert.to_str().unwrap()),
        ("vault-tls-skip-verify", "yes"),
    ]);
    let errors = Config::load(&args, [("VAULT_MAX_RETRIES", "x"), ("VAULT_SRV_LOOKUP", "x")]).unwrap_err();
    let said = errors.to_string();
    for (name, why) in [
        ("--endpoint=vault.sock ", "absolute"),
        ("--endpoint=/p/vault.sock ", "twice"),
        ("--health-addr=8080 ", ":8080"),
        ("--metrics-addr=8081 ", ":8080"),
        ("--status-socket=status ", "absolute"),
        ("--node-name=Node ", "node name"),
        ("--orphan-after=1s ", "1m to 168h"),
        ("--refresh-interval=1s ", "10s to 24h"),
        ("--debug=yes ", "true nor false"),
        ("--drain-timeout=soon ", "20s"),
        ("--cache-size=many ", "number"),
        ("--max-sessions=0 ", "1 to"),
        ("--max-in-flight=-4 ", "1 to"),
        ("--max-mutating=1.5 ", "1 to"),
        ("--mint-tokens=always ", "auto nor off"),
        ("--kubeconfig=/not/there ", "opened"),
        ("--hmac-secret-name=My_Key ", "lower case"),
        ("--hmac-key-file=/not/there ", "opened"),
        ("--vault-addr=https://a and ", "--openbao-addr=https://b"),
        ("--vault-tls-ca-cert=/not/there ", "opened"),
        ("--vault-tls-client-cert=", "--vault-tls-client-key"),
        ("--vault-tls-skip-verify=yes ", "true nor false"),
        ("VAULT_MAX_RETRIES=x ", "number"),
        ("VAULT_SRV_LOOKUP=x ", "true nor false"),
    ] {
        let line = errors.lines().iter().find(|l| l.starts_with(name) && l.contains(why));
        assert!(line.is_some(), "{name}…{why} in:\n{said}");
    }
    assert_eq!(errors.lines().len(), 24, "{said}");
}
