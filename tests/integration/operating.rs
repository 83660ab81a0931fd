//! What those who look after the process see of it: metrics, the status socket, and the commands that ask there.

use std::{fs, os::unix::fs::PermissionsExt, path::Path};

use serde_json::{Value, json};
use vaultmount::error::Cause;

use crate::support::{
    bao::Tenant,
    daemon::{self, Daemon, Program, program, terminate},
    http,
    pod::Pod,
};

/// An address that nobody listens at.
fn free() -> String {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string()
}

/// A tenant's pod that wants a secret.
async fn pod() -> Pod {
    let tenant = Tenant::new().await;
    tenant.put("db", json!({"pass": "s3cret"})).await;
    Pod::of(&tenant).objects(format!("- {{objectName: pass, secretPath: {}/data/db, secretKey: pass}}", tenant.kv))
}

async fn get(url: &str) -> (u16, String) {
    let (status, text) = http::text("GET", url, None, None, None).await;
    (status.as_u16(), text)
}

/// Exit code, standard output and standard error of a command.
async fn run(args: &[&str]) -> (Option<i32>, String, String) {
    let output = program(args).output().await.unwrap();
    (output.status.code(), String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap())
}

/// What `status -o json` prints of a process.
async fn status(socket: &Path) -> Value {
    let (code, out, err) = run(&["status", "-o", "json", "--socket", socket.to_str().unwrap()]).await;
    assert_eq!(code, Some(0), "{err}");
    serde_json::from_str(&out).unwrap()
}

/// Asks without a command, for what no command asks.
async fn raw(socket: &Path, method: &str, path: &str) -> String {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let mut stream = tokio::net::UnixStream::connect(socket).await.unwrap();
    let request = format!("{method} {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

#[tokio::test]
async fn mounts_and_requests_are_counted() {
    let address = free();
    let daemon = Daemon::start(&[&format!("--metrics-addr={address}")]).await;
    let pod = pod().await;
    daemon.files(&pod).await;
    daemon
        .refuses(&pod.clone().objects("- {objectName: a, secretPath: none/a, secretKey: a}"), Cause::Denied, &[])
        .await;
    let (status, text) = get(&format!("http://{address}/metrics")).await;
    assert_eq!(status, 200);
    for line in [
        r#"vaultmount_mounts_total{code="OK"} 1"#,
        r#"vaultmount_mounts_total{code="PermissionDenied"} 1"#,
        r#"vaultmount_mount_seconds_count{outcome="ok"} 1"#,
        r#"vaultmount_mount_seconds_count{outcome="failed"} 1"#,
        r#"vaultmount_vault_requests_total{operation="login",status="2xx"} 1"#,
        r#"vaultmount_vault_requests_total{operation="read",status="2xx"} 1"#,
        r#"vaultmount_pod_watch{state="off"} 1"#,
    ] {
        assert!(text.lines().any(|l| l == line), "{line} is not in:\n{text}");
    }
    assert!(text.ends_with("# EOF\n") && !text.contains(&pod.namespace), "{text}");
    for path in ["/", "/livez", "/metrics/"] {
        let (status, text) = get(&format!("http://{address}{path}")).await;
        assert_eq!((status, text.as_str()), (404, "metrics are at /metrics\n"), "{path}");
    }
    let (status, _) = http::text("POST", &format!("http://{address}/metrics"), None, None, None).await;
    assert_eq!(status.as_u16(), 404);
}

#[tokio::test]
async fn probes_and_metrics_may_share_an_address() {
    let address = free();
    let flags = [format!("--health-addr={address}"), format!("--metrics-addr={address}")];
    let _daemon = Daemon::start(&[&flags[0], &flags[1]]).await;
    for (path, status) in [("/livez", 200), ("/metrics", 200), ("/status", 404)] {
        assert_eq!(get(&format!("http://{address}{path}")).await.0, status, "{path}");
    }
    let only = free();
    let _other = Daemon::start(&[&format!("--health-addr={only}")]).await;
    assert_eq!(get(&format!("http://{only}/metrics")).await.0, 404);
}

#[tokio::test]
async fn a_process_tells_what_it_holds_to_its_own_user() {
    let daemon = Daemon::start(&["--node-name=node-1"]).await;
    let socket = daemon.socket.with_extension("status");
    assert_eq!(fs::metadata(&socket).unwrap().permissions().mode() & 0o777, 0o600);
    let told = status(&socket).await;
    assert_eq!((told["version"].as_str(), told["refusing"].as_bool()), (Some(env!("CARGO_PKG_VERSION")), Some(false)));
    assert_eq!((&told["watch"]["node"], told["pid"].as_u64()), (&json!("node-1"), Some(std::process::id().into())));
    let (code, out, err) = run(&["status", "--socket", socket.to_str().unwrap()]).await;
    assert!(code == Some(0) && out.starts_with("vaultmount ") && out.contains("pods of node-1: "), "{out}{err}");
    let answer = raw(&socket, "GET", "/status").await.to_lowercase();
    assert!(answer.starts_with("http/1.1 200") && answer.contains("content-type: application/json"), "{answer}");
    for (method, path) in [("GET", "/"), ("GET", "/revoke"), ("POST", "/status"), ("GET", "/metrics")] {
        let answer = raw(&socket, method, path).await;
        assert!(answer.starts_with("HTTP/1.1 404") && answer.contains("GET /status and POST /revoke"), "{answer}");
    }
}

#[tokio::test]
async fn a_successor_takes_the_status_socket_and_the_last_removes_it() {
    let mut first = Program::start(&[]).await;
    let socket = first.socket.with_extension("status");
    let pid = |told: Value| told["pid"].as_u64();
    assert_eq!(pid(status(&socket).await), first.child.id().map(Into::into));
    let (mut second, _log) = daemon::spawn(first.folder.path(), &first.socket, &[]).await;
    first.terminate();
    assert!(first.child.wait().await.unwrap().success());
    assert_eq!(pid(status(&socket).await), second.id().map(Into::into));
    terminate(&second);
    assert!(second.wait().await.unwrap().success());
    assert!(fs::read_dir(first.folder.path()).unwrap().all(|e| e.unwrap().file_name() == "hmac.key"));
    let (code, _, err) = run(&["status", "--socket", socket.to_str().unwrap()]).await;
    assert!(code == Some(1) && err.contains("vault.status cannot be asked"), "{err}");
}

#[tokio::test]
async fn only_a_status_socket_that_is_asked_for_must_be_had() {
    let folder = tempfile::tempdir().unwrap();
    // No name can be taken from a folder.
    let blocked = folder.path().join("vault.status");
    fs::create_dir(&blocked).unwrap();
    let socket = folder.path().join("vault.sock");
    let (mut child, _log) = daemon::spawn(folder.path(), &socket, &[]).await;
    child.kill().await.unwrap();
    let endpoint = format!("--endpoint={}", socket.display());
    // A file where a folder must be.
    let within = format!("--status-socket={}/s.status", folder.path().join("hmac.key").display());
    let (code, _, err) = run(&["serve", &endpoint, "--health-addr=off", &within]).await;
    assert!(code == Some(1) && err.contains("s.status cannot be bound"), "{err}");
}

#[tokio::test]
async fn a_process_without_a_status_socket_is_not_asked() {
    let daemon = Daemon::start(&["--status-socket=off"]).await;
    assert!(!daemon.socket.with_extension("status").exists());
    let elsewhere = tempfile::tempdir().unwrap();
    let named = elsewhere.path().join("told");
    let _other = Daemon::start(&[&format!("--status-socket={}", named.display())]).await;
    assert!(named.exists());
    let mut command = program(&["status"]);
    let output = command.env("VAULTMOUNT_STATUS_SOCKET", &named).output().await.unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[tokio::test]
async fn revoking_everything_must_be_said() {
    let (code, out, err) = run(&["revoke"]).await;
    assert!(code == Some(2) && out.is_empty(), "{out}");
    for part in ["every Vault token", "lose access at once", "refuses mounts until it is", "--all"] {
        assert!(err.contains(part), "{part} is not in: {err}");
    }
}

#[tokio::test]
async fn revoking_everything_says_what_came_of_it() {
    let daemon = Daemon::start(&[]).await;
    let socket = daemon.socket.with_extension("status");
    let (code, out, err) = run(&["revoke", "--all", "-ojson", "--socket", socket.to_str().unwrap()]).await;
    assert_eq!(code, Some(0), "{err}");
    let revoked: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(revoked, json!({"tokens": 0, "failed": [], "left": 0}));
}
