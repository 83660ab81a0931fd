//! The command line, as an operator uses it.

use std::{fs, os::unix::fs::PermissionsExt};

use serde_json::json;

use crate::support::{
    bao::Tenant,
    daemon::{Daemon, vaultmount_command},
    pod::Pod,
    required_env,
};

/// Writes a class and a token to disk and returns the flags for both.
async fn mount_arguments(folder: &std::path::Path) -> Vec<String> {
    let tenant = Tenant::new().await;
    tenant.write_secret("db", json!({"pass": "s3cret", "user": "shop"})).await;
    let objects = format!(
        "- {{objectName: pass, secretPath: {kv}/data/db, secretKey: pass, filePermission: 0400}}\n- {{objectName: all, secretPath: {kv}/data/db, secretKey: '*'}}",
        kv = tenant.kv
    );
    let class = json!({
        "apiVersion": "secrets-store.csi.x-k8s.io/v1", "kind": "SecretProviderClass", "metadata": {"name": "shop"},
        "spec": {"provider": "vault", "parameters": {"roleName": "app", "vaultAuthMountPath": tenant.auth, "objects": objects}},
    });
    let (file, token) = (folder.join("class.yaml"), folder.join("token"));
    fs::write(&file, class.to_string()).unwrap();
    let pod = Pod::for_tenant(&tenant);
    fs::write(&token, pod.sign_token("vault", 600)).unwrap();
    [
        "mount",
        "-f",
        file.to_str().unwrap(),
        "--namespace",
        &pod.namespace,
        "--pod",
        &pod.name,
        "--service-account",
        "app",
        "--token-file",
        token.to_str().unwrap(),
    ]
    .map(str::to_owned)
    .to_vec()
}

async fn run_command(args: &[String]) -> (bool, String, String) {
    let output = vaultmount_command(args).output().await.unwrap();
    (output.status.success(), String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap())
}

#[tokio::test]
async fn mount_command_writes_out_dir_and_shows_files() {
    let folder = tempfile::tempdir().unwrap();
    let daemon = Daemon::start(&[]).await;
    let out = folder.path().join("out");
    let by_socket = format!("--endpoint={}", daemon.socket.display());
    let by_itself = format!("--vault-addr={}", required_env("VAULTMOUNT_TEST_BAO_ADDR"));
    for how in [by_socket, by_itself] {
        let mut args = mount_arguments(folder.path()).await;
        args.extend([how, format!("--out={}", out.display())]);
        let (ok, printed, stderr) = run_command(&args).await;
        assert!(ok, "{stderr}");
        assert!(
            printed.contains("0400  6") && printed.contains("all/user") && printed.contains("VERSION"),
            "{printed}"
        );
        assert!(!printed.contains("s3cret"), "{printed}");
        assert_eq!(fs::read_to_string(out.join("pass")).unwrap(), "s3cret");
        assert_eq!(fs::metadata(out.join("pass")).unwrap().permissions().mode() & 0o777, 0o400);
        args.push("--show".into());
        assert!(run_command(&args).await.1.contains("--- pass\ns3cret\n"));
    }
}

#[tokio::test]
async fn vault_addr_unreachable_fails_mount_command_with_cause() {
    let folder = tempfile::tempdir().unwrap();
    let mut args = mount_arguments(folder.path()).await;
    args.push("-vault-addr=http://127.0.0.1:1".into());
    let (ok, printed, stderr) = run_command(&args).await;
    assert!(!ok && printed.is_empty());
    assert!(stderr.contains("Unavailable") && stderr.contains("127.0.0.1:1"), "{stderr}");
}

#[tokio::test]
async fn invalid_flags_are_all_reported_at_once() {
    let args = ["-endpoint=relative", "-vault-addr=nowhere", "-mint-tokens=perhaps"].map(str::to_owned);
    let (ok, _, stderr) = run_command(&args).await;
    assert!(!ok && stderr.lines().count() == 3, "{stderr}");
    for flag in ["--endpoint", "--vault-addr", "--mint-tokens"] {
        assert!(stderr.contains(flag), "{stderr}");
    }
}

#[tokio::test]
async fn node_name_variable_is_validated_by_serve_alone() {
    let serve = vaultmount_command(&["serve"]).env("NODE_NAME", "my agent").output().await.unwrap();
    let stderr = String::from_utf8(serve.stderr).unwrap();
    assert!(
        serve.status.code() == Some(2) && stderr.contains("NODE_NAME=my agent is not a valid node name"),
        "{stderr}"
    );
    for command in ["mount", "check"] {
        let args = [command, "-f=/not/there", "--service-account=web"];
        let ran = vaultmount_command(&args).env("NODE_NAME", "my agent").output().await.unwrap();
        assert_eq!(ran.status.code(), Some(1), "{command}: {}", String::from_utf8_lossy(&ran.stderr));
    }
}

#[tokio::test]
async fn help_of_every_command_fits_a_screen() {
    for command in [
        "serve",
        "install",
        "uninstall",
        "mount",
        "check",
        "validate",
        "explain",
        "version",
        "completions",
        "man",
        "status",
        "revoke",
    ] {
        let (ok, printed, _) = run_command(&[command.to_owned(), "--help".to_owned()]).await;
        let most = if command == "serve" { 68 } else { 54 };
        assert!(ok && printed.lines().count() <= most && printed.contains("Example"), "{printed}");
    }
}

/// Runs the program with one of standard output and standard error on a pseudo-terminal and the other in a pipe.
fn run_on_pty(variables: &[(&str, &str)], errors: bool, args: &[&str]) -> (String, String) {
    let script = "import os, pty, subprocess, sys\n\
        ours, its = pty.openpty()\n\
        streams = {'stderr' if sys.argv[1] == 'true' else 'stdout': its}\n\
        other = 'stdout' if sys.argv[1] == 'true' else 'stderr'\n\
        child = subprocess.run(sys.argv[2:], **streams, **{other: subprocess.PIPE})\n\
        os.close(its)\n\
        try:\n\
        \x20   while said := os.read(ours, 65536): sys.stdout.buffer.write(said)\n\
        except OSError: pass\n\
        sys.stderr.buffer.write(getattr(child, other))\n";
    let mut python = std::process::Command::new("python3");
    python.args(["-c", script, &errors.to_string(), env!("CARGO_BIN_EXE_vaultmount")]).args(args);
    for variable in ["NO_COLOR", "CLICOLOR", "CLICOLOR_FORCE", "CI"] {
        python.env_remove(variable);
    }
    let output = python.env("TERM", "xterm").envs(variables.iter().copied()).output().unwrap();
    (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap())
}

#[test]
fn color_is_decided_per_stream_by_terminal_and_variables() {
    let colour = |variables: &[(&str, &str)], args: &[&str]| run_on_pty(variables, false, args).0.contains('\u{1b}');
    for args in [&["explain", "VM0050"][..], &["mount", "--help"]] {
        assert!(colour(&[], args), "{args:?}");
        for plain in [("NO_COLOR", "1"), ("TERM", "dumb"), ("CLICOLOR", "0")] {
            assert!(!colour(&[plain], args), "{args:?} {plain:?}");
        }
    }
    let unknown = ["explain", "VM9999"];
    let (terminal, pipe) = run_on_pty(&[], true, &unknown);
    assert!(terminal.contains("\u{1b}[1m\u{1b}[31mvaultmount:") && pipe.is_empty(), "{terminal:?}");
    let (_, pipe) = run_on_pty(&[], true, &["explain", "VM0050"]);
    assert!(pipe.contains("VM0050") && !pipe.contains('\u{1b}'), "{pipe:?}");
    let (_, pipe) = run_on_pty(&[("CLICOLOR_FORCE", "1")], true, &["explain", "VM0050"]);
    assert!(pipe.contains('\u{1b}'), "{pipe:?}");
}
