//! Tests of the command line, with arguments of operators and charts.

use std::path::PathBuf;

use super::*;
use crate::config::Config;

fn parse(args: &[&str]) -> Result<Command, clap::Error> {
    Command::parse(["vaultmount"].iter().chain(args).map(OsString::from))
}

fn serve(args: &[&str]) -> ServeArgs {
    match parse(args) {
        Ok(Command::Serve(args)) => *args,
        other => panic!("{args:?}: {other:?}"),
    }
}

fn mount(args: &[&str]) -> MountArgs {
    match parse(args) {
        Ok(Command::Mount(args)) => *args,
        other => panic!("{args:?}: {other:?}"),
    }
}

fn parse_error(args: &[&str]) -> String {
    match parse(args) {
        Err(error) => error.to_string(),
        Ok(command) => panic!("{args:?}: {command:?}"),
    }
}

fn config(args: &[&str], env: &[(&str, &str)]) -> (Config, Vec<String>) {
    Config::load(&serve(args), env.iter().copied()).unwrap()
}

#[test]
fn missing_command_means_serve() {
    for args in [&[][..], &["serve"], &["-debug"], &["--debug=false"], &["-version=false"], &["-endpoint", "/x.sock"]] {
        serve(args);
    }
    assert!(parse_error(&["serv"]).contains("serve"));
}

#[test]
fn flags_accept_one_or_two_dashes_and_equals_sign() {
    for args in [
        &["-endpoint=/x", "-debug"][..],
        &["--endpoint=/x", "--debug"],
        &["-endpoint", "/x", "-debug=true"],
        &["serve", "--endpoint", "/x", "-debug=true"],
        &["-debug=false", "-endpoint", "/x", "--debug"],
    ] {
        let args = serve(args);
        assert_eq!((args.endpoint, args.log.debug.as_deref()), (vec!["/x".to_owned()], Some("true")));
    }
}

#[test]
fn boolean_flag_never_takes_next_argument() {
    let args = serve(&["-debug", "-vault-tls-skip-verify", "-log-level", "warn"]);
    assert_eq!(args.log.debug.as_deref(), Some("true"));
    assert_eq!(args.connection.vault.skip_verify.as_deref(), Some("true"));
    assert_eq!(args.log.log_level.as_deref(), Some("warn"));
    assert!(parse_error(&["-debug", "false"]).contains("false"));
    assert_eq!(serve(&["-debug=yes"]).log.debug.as_deref(), Some("yes"));
}

#[test]
fn last_flag_wins_and_endpoint_is_repeatable() {
    let args = serve(&["-vault-addr=https://a", "-vault-addr=https://b", "-endpoint=/a.sock", "-endpoint=/b.sock"]);
    assert_eq!(args.connection.vault.addr.as_deref(), Some("https://b"));
    assert_eq!(args.endpoint, ["/a.sock", "/b.sock"]);
}

#[test]
fn flag_values_may_begin_with_dash() {
    let args = serve(&["-cache-size", "-1", "-vault-namespace=-team", "-vault-mount=a=-b"]);
    assert_eq!(args.limits.cache_size.as_deref(), Some("-1"));
    assert_eq!(args.connection.vault.namespace.as_deref(), Some("-team"));
    assert_eq!(args.connection.vault.mount.as_deref(), Some("a=-b"));
    assert!(parse_error(&["-debug", "--", "-endpoint=/x"]).contains("'-endpoint=/x'"));
}

#[test]
fn vault_and_openbao_flags_accept_every_setting() {
    for prefix in ["vault", "openbao"] {
        let settings =
            ["addr", "mount", "namespace", "tls-ca-cert", "tls-ca-directory", "tls-server-name", "tls-client-cert"];
        let given: Vec<String> = settings.iter().map(|s| format!("-{prefix}-{s}=x")).collect();
        serve(&given.iter().map(String::as_str).collect::<Vec<_>>());
        serve(&[&format!("-{prefix}-tls-client-key=x"), &format!("-{prefix}-tls-skip-verify")]);
    }
    let args = serve(&["-openbao-addr=o", "-vault-addr=v", "-openbao-tls-skip-verify=0"]).connection;
    assert_eq!((args.openbao.addr.as_deref(), args.vault.addr.as_deref()), (Some("o"), Some("v")));
    assert_eq!(args.openbao.skip_verify.as_deref(), Some("0"));
}

#[test]
fn unknown_flag_suggests_closest() {
    for (args, nearest) in [
        (&["-endpont=/x"][..], "--endpoint"),
        (&["-vault-address=x"], "--vault-addr"),
        (&["--hmac-secret=x"], "--hmac-secret-name"),
        (&["--bar baz"], "--bar baz"),
    ] {
        assert!(parse_error(args).contains(nearest), "{}", parse_error(args));
    }
}

#[test]
fn version_flag_overrides_serve() {
    for (args, output) in [
        (&["-version"][..], VersionFormat::Json),
        (&["--version=1", "-debug"], VersionFormat::Json),
        (&["-endpoint=/x", "-version", "-output=text"], VersionFormat::Text),
        (&["version"], VersionFormat::Json),
        (&["version", "-output", "text"], VersionFormat::Text),
        (&["version", "-otext"], VersionFormat::Text),
    ] {
        match parse(args) {
            Ok(Command::Version(version)) => assert_eq!(version.output, output, "{args:?}"),
            other => panic!("{args:?}: {other:?}"),
        }
    }
    assert!(parse_error(&["-version", "-output=xml"]).contains("json or text"));
    assert!(parse_error(&["-version=maybe"]).contains("neither true nor false"));
}

/// hashicorp/vault-helm, templates/csi-daemonset.yaml: `--debug` in older charts, `--log-level` in newer ones.
#[test]
fn vault_helm_chart_flags_are_accepted() {
    let env = [("VAULT_ADDR", "unix:///var/run/vault/agent.sock"), ("VAULT_PORT", "tcp://10.0.0.1:8200")];
    for (level, expected) in [("--debug=false", "info"), ("--debug=true", "debug"), ("--log-level=info", "info")] {
        let args = ["--endpoint=/provider/vault.sock", level, "--hmac-secret-name=vault-csi-provider-hmac-key"];
        let (config, warnings) = config(&args, &env);
        assert_eq!(config.endpoints, [PathBuf::from("/provider/vault.sock")]);
        assert_eq!(config.log.filter.to_string(), expected);
        assert_eq!(config.hmac_secret_name, "vault-csi-provider-hmac-key");
        assert_eq!(config.connection.operator.server.address.to_string(), "unix:///var/run/vault/agent.sock");
        assert!(warnings.is_empty(), "{warnings:?}");
    }
}

/// openbao/openbao-helm, charts/openbao/templates/csi-daemonset.yaml, with one more argument.
#[test]
fn openbao_helm_chart_flags_are_accepted() {
    let (config, warnings) = config(
        &[
            "--endpoint=/provider/openbao.sock",
            "--debug=false",
            "--hmac-secret-name=openbao-csi-provider-hmac-key",
            "--endpoint=/provider/vault.sock",
        ],
        &[("VAULT_ADDR", "http://openbao.openbao.svc:8200")],
    );
    assert_eq!(config.endpoints, ["/provider/openbao.sock", "/provider/vault.sock"].map(PathBuf::from));
    assert_eq!(config.hmac_secret_name, "openbao-csi-provider-hmac-key");
    assert_eq!(config.connection.operator.server.address.to_string(), "http://openbao.openbao.svc:8200");
    assert!(warnings.is_empty(), "{warnings:?}");
}

#[test]
fn mount_command_flags_are_parsed() {
    let args = mount(&["mount", "-f", "class.yaml", "-o=/out", "-pod", "web-0", "-show", "-permission=0400", "-debug"]);
    assert_eq!(args.driver.file, PathBuf::from("class.yaml"));
    assert_eq!(args.out, Some(PathBuf::from("/out")));
    assert_eq!((args.driver.pod.name.as_str(), args.driver.pod.namespace.as_deref(), args.show), ("web-0", None, true));
    assert_eq!(args.driver.permission, 0o400);
    assert_eq!(mount(&["mount", "-fclass.yaml"]).driver.file, PathBuf::from("class.yaml"));
    assert_eq!(mount(&["mount", "-f=-", "-class=web"]).driver.class.as_deref(), Some("web"));
    let args = mount(&["mount", "-file=x", "-vault-addr=https://v", "-kubeconfig=k", "-debug"]).to_serve_args();
    assert_eq!(args.connection.vault.addr.as_deref(), Some("https://v"));
    assert_eq!((args.kubernetes.kubeconfig.as_deref(), args.log.debug.as_deref()), (Some("k"), Some("true")));
    for (args, why) in [
        (&["mount"][..], "--file"),
        (&["mount", "-f=x", "-permission=0999"], "octal"),
        (&["mount", "-f=x", "-permission=1777"], "octal"),
        (&["mount", "-f=x", "-endpoint=/v.sock", "-vault-addr=x"], "cannot be used with"),
        (&["mount", "-f=x", "-endpoint=/v.sock", "-openbao-addr=x"], "cannot be used with"),
        (&["mount", "-f=x", "-endpoint=/v.sock", "-allow-address=x"], "cannot be used with"),
    ] {
        assert!(parse_error(args).contains(why), "{}", parse_error(args));
    }
    assert!(mount(&["mount", "-f=x", "-endpoint=/v.sock", "-kubeconfig=k"]).endpoint.is_some());
}

#[test]
fn status_and_revoke_flags_are_parsed() {
    for (args, output) in [
        (&["status"][..], status_client::OutputFormat::Text),
        (&["status", "-ojson"], status_client::OutputFormat::Json),
    ] {
        assert!(
            matches!(parse(args), Ok(Command::Status(args)) if args.client.output == output && args.client.socket.is_none())
        );
    }
    match parse(&["revoke", "-all", "-socket=/s", "-o", "json"]) {
        Ok(Command::Revoke(args)) => {
            assert_eq!(
                (args.all, args.client.socket, args.client.output),
                (true, Some("/s".into()), status_client::OutputFormat::Json)
            );
        }
        other => panic!("{other:?}"),
    }
    assert!(matches!(parse(&["revoke"]), Ok(Command::Revoke(args)) if !args.all));
}

#[test]
fn validate_flags_are_parsed() {
    match parse(&["validate", "-output=sarif", "a.yaml", "-strict", "-", "b"]) {
        Ok(Command::Validate(args)) => {
            assert_eq!(args.paths, ["a.yaml", "-", "b"].map(PathBuf::from));
            assert!(args.strict && args.output == validate::ValidateFormat::Sarif);
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn short_output_flag_accepts_attached_format() {
    for format in validate::ValidateFormat::value_variants() {
        let name = format.to_possible_value().unwrap();
        match parse(&["validate", &format!("-o{}", name.get_name())]) {
            Ok(Command::Validate(args)) => assert_eq!(args.output, *format),
            other => panic!("{name:?}: {other:?}"),
        }
    }
    let checked = parse(&["check", "-f=x", "-ojson"]);
    assert!(matches!(checked, Ok(Command::Check(args)) if args.output == check::OutputFormat::Json));
    assert_eq!(mount(&["mount", "-f=x", "-out=/o"]).out, Some(PathBuf::from("/o")));
}

#[test]
fn help_fits_screen_and_shows_example() {
    for args in [
        &["-h"][..],
        &["--help"],
        &["-help"],
        &["serve", "-help"],
        &["-debug", "--help"],
        &["mount", "-h"],
        &["validate", "--help"],
        &["version", "-h"],
        &["help"],
        &["help", "mount"],
        &["check", "--help"],
        &["explain", "--help"],
        &["status", "--help"],
        &["revoke", "--help"],
        &["install", "--help"],
        &["uninstall", "--help"],
        &["completions", "--help"],
        &["man", "--help"],
    ] {
        let help = parse_error(args);
        assert!(help.contains("Example:\n  vaultmount "), "{args:?}: {help}");
        // `serve` has many flags, and its help may be longer than a screen.
        let most = if help.contains("vaultmount serve [OPTIONS]") { 66 } else { 56 };
        assert!(help.lines().count() <= most, "{args:?}: {} lines\n{help}", help.lines().count());
        assert!(help.lines().all(|l| l.chars().count() <= 100), "{args:?}: {help}");
    }
    for args in [["-h"], ["-help"], ["--help"]] {
        assert!(parse_error(&args).contains("Commands:"), "{args:?}: {}", parse_error(&args));
    }
    let help = parse_error(&["serve", "--help"]);
    assert!(help.contains("--vault-addr") && !help.contains("--openbao-addr"), "{help}");
}

#[test]
fn reference_lists_every_command_and_visible_serve_flag() {
    let commands = include_str!("../../docs/reference/commands.md");
    let flags = include_str!("../../docs/reference/flags.md");
    let root = clap_command();
    for command in root.get_subcommands().filter(|c| c.get_name() != "help") {
        assert!(commands.contains(&format!("| `{}", command.get_name())), "{}", command.get_name());
    }
    let serve = root.find_subcommand("serve").unwrap();
    for flag in serve.get_arguments().filter(|arg| !arg.is_hide_set() && arg.get_id() != "help") {
        let long = format!("`--{}", flag.get_long().unwrap());
        assert!(flags.contains(&long), "{long}` is not in docs/reference/flags.md");
    }
}
