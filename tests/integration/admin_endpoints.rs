//! Administration: probes, the status socket, and the commands that use it.

use std::{fs, os::unix::fs::PermissionsExt, path::Path};

use serde_json::{Value, json};
use vaultmount::error::Cause;

use crate::support::{
    bao::Tenant,
    daemon::{self, Daemon, ProviderProcess, terminate, vaultmount_command},
    fault_proxy::{FaultProxy, respond},
    http,
    pod::Pod,
    policy::PolicyFile,
    required_env, unique_name,
};

/// Returns an address without a listener.
pub fn free_address() -> String {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string()
}

/// Returns a tenant's pod with one secret.
pub async fn pod() -> Pod {
    let tenant = Tenant::new().await;
    tenant.write_secret("db", json!({"pass": "s3cret"})).await;
    Pod::for_tenant(&tenant)
        .with_objects(format!("- {{objectName: pass, secretPath: {}/data/db, secretKey: pass}}", tenant.kv))
}

pub async fn get(url: &str) -> (u16, String) {
    let (status, text) = http::send_for_text("GET", url, None, None, None).await;
    (status.as_u16(), text)
}

/// Returns the value of one series from `/metrics`; `None` if absent.
pub async fn metric_value(address: &str, series: &str) -> Option<String> {
    let (_, text) = get(&format!("http://{address}/metrics")).await;
    text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' ')).map(str::to_owned)
}

/// Returns the exit code, standard output and standard error of a command.
async fn run_command(args: &[&str]) -> (Option<i32>, String, String) {
    let output = vaultmount_command(args).output().await.unwrap();
    (output.status.code(), String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap())
}

/// Returns the output of `status -o json`.
async fn query_status(socket: &Path) -> Value {
    let (code, out, err) = run_command(&["status", "-o", "json", "--socket", socket.to_str().unwrap()]).await;
    assert_eq!(code, Some(0), "{err}");
    serde_json::from_str(&out).unwrap()
}

/// Sends a raw request, for cases that no command covers.
async fn raw_request(socket: &Path, method: &str, path: &str) -> String {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let mut stream = tokio::net::UnixStream::connect(socket).await.unwrap();
    let request = format!("{method} {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

#[tokio::test]
async fn health_addr_answers_probes() {
    let address = free_address();
    let _daemon = Daemon::start(&[&format!("-health-addr={address}")]).await;
    for (path, status) in [("/livez", 200), ("/readyz", 200), ("/health/ready", 200), ("/secrets", 404)] {
        assert_eq!(get(&format!("http://{address}{path}")).await.0, status, "{path}");
    }
}

#[tokio::test]
async fn livez_fails_if_endpoint_socket_does_not_answer() {
    let address = free_address();
    let daemon = Daemon::start(&[&format!("--health-addr={address}")]).await;
    let names = fs::read_dir(daemon.socket.parent().unwrap()).unwrap().map(|entry| entry.unwrap().path());
    let is_private = |path: &std::path::PathBuf| path.to_string_lossy().contains("/.vaultmount-");
    let private = names.into_iter().find(|path| is_private(path) && path.to_string_lossy().ends_with("vault.sock"));
    let private = private.unwrap();
    fs::remove_file(&private).unwrap();
    let livez = async || get(&format!("http://{address}/livez")).await;
    let (status, text) = livez().await;
    assert!(status == 503 && text.contains("vault.sock does not answer: No such file"), "{text}");
    // A hung process: its socket accepts connections and never responds.
    let _wedged = std::os::unix::net::UnixListener::bind(&private).unwrap();
    let (status, text) = livez().await;
    assert!(status == 503 && text.contains("vault.sock does not answer: no answer within 2s"), "{text}");
    // Mounts are not refused for that: readiness stays 200.
    assert_eq!(get(&format!("http://{address}/readyz")).await.0, 200);
}

/// Returns the status line and the rest of the response to a browser.
async fn browse(address: &str, host: &str, path: &str) -> (String, String) {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    let (first, rest) = answer.split_once("\r\n").unwrap();
    (first.to_owned(), rest.to_owned())
}

#[tokio::test]
async fn statusz_shows_counts_to_local_host_names_only() {
    let address = free_address();
    let daemon = Daemon::start(&[&format!("--metrics-addr={address}"), "--vault-mount=<b>&'\""]).await;
    let pod = pod().await;
    daemon.mount_files(&pod).await;
    let missing = pod.parameters.iter().find(|(name, _)| name == "objects").unwrap().1.replace("/db,", "/none,");
    let failing = pod.clone().with_objects(missing);
    daemon.assert_mount_error(&failing, Cause::SecretMissing, &[]).await;
    let (status, page) = browse(&address, "localhost:8080", "/statusz").await;
    assert_eq!(status, "HTTP/1.1 200 OK", "{page}");
    for part in [
        "content-type: text/html; charset=utf-8",
        "content-security-policy: default-src 'none'",
        "cache-control: no-store",
        "<p class=good>serving</p>",
        "<td class=good>up<td class=n>1",
        "<tr><td>pods with a session<td class=n>1",
        "<tr><td>plain<td class=n>1<td class=n>0<td class=n>0<td class=n>0",
        "<td><code>--vault-mount</code><td>&lt;b&gt;&amp;&#39;&quot;",
        "<td><code>--max-mounts</code><td>256",
        "[VM0051]",
    ] {
        assert!(page.contains(part), "{part} is not in:\n{page}");
    }
    assert!(!page.contains("s3cret") && !page.contains("<b>"), "{page}");
    for host in ["127.0.0.1", "[::1]:8080", "LOCALHOST", "LocalHost:8080"] {
        assert_eq!(browse(&address, host, "/statusz").await.0, "HTTP/1.1 200 OK", "{host}");
    }
    // A foreign DNS name that resolves to this address.
    for host in ["evil.example", "localhost.evil.example", "10.0.0.1:8080"] {
        assert_eq!(browse(&address, host, "/statusz").await.0, "HTTP/1.1 404 Not Found", "{host}");
    }
    let socket = daemon.socket.with_extension("status");
    let page = raw_request(&socket, "GET", "/statusz").await;
    assert!(page.starts_with("HTTP/1.1 200") && page.contains("<h1>vaultmount on "), "{page}");
}

#[tokio::test]
async fn statusz_shows_state_of_every_server() {
    // These listeners accept connections and never respond.
    let silent = [0; 2].map(|_| std::net::TcpListener::bind("127.0.0.1:0").unwrap());
    let [own, named] = silent.each_ref().map(|one| format!("http://{}", one.local_addr().unwrap()));
    let (vault, other) = (required_env("VAULTMOUNT_TEST_BAO_ADDR"), FaultProxy::start().await);
    other.always("POST", "auth/", respond(404, &[("content-type", "text/html")], "<html>404 page not found</html>"));
    let policy = PolicyFile::new(&format!(
        "endpoints: {{named: {{address: \"{named}\"}}}}\n\
         rules: [{{namespaces: [shop], authMounts: [\"*\"], addresses: [\"http://127.0.0.1:*\"]}}]"
    ));
    let address = free_address();
    let daemon = Daemon::start_at(&own, &[&policy.flag(), &format!("--metrics-addr={address}")]).await;
    let pod = pod().await;
    daemon.mount_files(&pod.clone().with_parameter("vaultAddress", &vault)).await;
    daemon.assert_mount_error(&pod.with_parameter("vaultAddress", &other.address), Cause::NotVault, &[]).await;
    let (_, page) = browse(&address, "localhost", "/statusz").await;
    for (server, state) in [
        (&own, "<td>no request yet<td class=n>0"),
        (&named, "<td>no request yet<td class=n>0"),
        (&vault, "<td class=good>up<td class=n>1"),
        (&other.address, "<td class=bad>responds, but not as Vault does<td class=n>1"),
    ] {
        assert!(page.contains(&format!("<tr><td><code>{server}</code>{state}")), "{server}: {page}");
    }
}

#[tokio::test]
async fn statusz_lists_last_mount_failures_of_any_cause() {
    let address = free_address();
    let flags = [format!("--metrics-addr={address}"), "--allow-address=none".to_owned()];
    let daemon = Daemon::start(&flags.each_ref().map(String::as_str)).await;
    let errors = async || {
        let (_, page) = browse(&address, "localhost", "/statusz").await;
        let (_, errors) = page.split_once("<h2>Last errors</h2>").unwrap();
        errors.split_once("<h2>").unwrap().0.to_owned()
    };
    assert_eq!(errors().await, "<p class=good>None.</p>");
    let pod = pod().await;
    let [elsewhere, mistaken, unrendered] = ["elsewhere", "mistaken", "unrendered"].map(|name| Pod {
        name: name.to_owned(),
        uid: unique_name("uid"),
        ..pod.clone()
    });
    let elsewhere = elsewhere.with_parameter("vaultAddress", "https://elsewhere.example");
    for _ in 0..2 {
        daemon.assert_mount_error(&elsewhere, Cause::AddressNotAllowed, &[]).await;
    }
    daemon.assert_mount_error(&mistaken.with_objects("nonsense"), Cause::InvalidRequest, &[]).await;
    let objects = pod.parameters.iter().find(|(name, _)| name == "objects").unwrap().1.clone();
    let unrendered = unrendered.with_objects(objects.replace("secretKey: pass", "secretKey: none"));
    daemon.assert_mount_error(&unrendered, Cause::KeyMissing, &[]).await;
    let errors = errors().await;
    for (owner, what, cause) in [
        ("elsewhere", "mounting, 2 times: ", Cause::AddressNotAllowed),
        ("mistaken", "mounting: ", Cause::InvalidRequest),
        ("unrendered", "mounting: ", Cause::KeyMissing),
    ] {
        let row = errors.split("<tr>").find(|row| row.contains(&format!("<td>shop/{owner}<td>{what}")));
        assert!(row.is_some_and(|row| row.contains(&format!("[{}]", cause.id()))), "{owner}: {errors}");
    }
    assert!(errors.matches("<tr>").count() == 4 && !errors.contains("s3cret"), "{errors}");
    let report = query_status(&daemon.socket.with_extension("status")).await;
    let report: Vec<(&Value, &Value)> =
        report["failures"].as_array().unwrap().iter().map(|one| (&one["pod"], &one["count"])).collect();
    let expected =
        [("unrendered", 1), ("mistaken", 1), ("elsewhere", 2)].map(|(pod, times)| (json!(pod), json!(times)));
    assert!(report.iter().copied().eq(expected.iter().map(|(pod, times)| (pod, times))), "{report:?}");
}

#[tokio::test]
async fn metrics_addr_may_equal_health_addr() {
    let address = free_address();
    let flags = [format!("--health-addr={address}"), format!("--metrics-addr={address}")];
    let _daemon = Daemon::start(&[&flags[0], &flags[1]]).await;
    for (path, status) in [("/livez", 200), ("/metrics", 200), ("/status", 404)] {
        assert_eq!(get(&format!("http://{address}{path}")).await.0, status, "{path}");
    }
    let only = free_address();
    let _other = Daemon::start(&[&format!("--health-addr={only}")]).await;
    assert_eq!(get(&format!("http://{only}/metrics")).await.0, 404);
}

#[tokio::test]
async fn status_socket_is_owner_only_and_shows_node_name() {
    let daemon = Daemon::start(&["--node-name=node-1"]).await;
    let socket = daemon.socket.with_extension("status");
    assert_eq!(fs::metadata(&socket).unwrap().permissions().mode() & 0o777, 0o600);
    let report = query_status(&socket).await;
    assert_eq!(
        (report["version"].as_str(), report["mounts_disabled"].as_bool()),
        (Some(env!("CARGO_PKG_VERSION")), Some(false))
    );
    assert_eq!((&report["watch"]["node"], report["pid"].as_u64()), (&json!("node-1"), Some(std::process::id().into())));
    let (code, out, err) = run_command(&["status", "--socket", socket.to_str().unwrap()]).await;
    assert!(code == Some(0) && out.starts_with("vaultmount ") && out.contains("pods of node-1: "), "{out}{err}");
    let answer = raw_request(&socket, "GET", "/status").await.to_lowercase();
    assert!(answer.starts_with("http/1.1 200") && answer.contains("content-type: application/json"), "{answer}");
    for (method, path) in [("GET", "/"), ("GET", "/revoke"), ("POST", "/status"), ("GET", "/metrics")] {
        let answer = raw_request(&socket, method, path).await;
        assert!(
            answer.starts_with("HTTP/1.1 404") && answer.contains("GET /status, GET /statusz and POST /revoke"),
            "{answer}"
        );
    }
}

#[tokio::test]
async fn status_socket_is_handed_to_successor_then_removed() {
    let mut first = ProviderProcess::start(&[]).await;
    let socket = first.socket.with_extension("status");
    let pid = |report: Value| report["pid"].as_u64();
    assert_eq!(pid(query_status(&socket).await), first.child.id().map(Into::into));
    let (mut second, _log) = daemon::spawn_provider(first.folder.path(), &first.socket, &[]).await;
    first.terminate();
    assert!(first.child.wait().await.unwrap().success());
    assert_eq!(pid(query_status(&socket).await), second.id().map(Into::into));
    terminate(&second);
    assert!(second.wait().await.unwrap().success());
    assert!(fs::read_dir(first.folder.path()).unwrap().all(|e| e.unwrap().file_name() == "hmac.key"));
    let (code, _, err) = run_command(&["status", "--socket", socket.to_str().unwrap()]).await;
    assert!(code == Some(1) && err.contains("vault.status failed: ") && err.contains("request to "), "{err}");
}

#[tokio::test]
async fn status_socket_bind_error_is_fatal_only_if_set() {
    let folder = tempfile::tempdir().unwrap();
    // A directory occupies the socket path, and cannot be replaced.
    let blocked = folder.path().join("vault.status");
    fs::create_dir(&blocked).unwrap();
    let socket = folder.path().join("vault.sock");
    let (mut child, _log) = daemon::spawn_provider(folder.path(), &socket, &[]).await;
    child.kill().await.unwrap();
    let endpoint = format!("--endpoint={}", socket.display());
    // A file in place of a directory.
    let within = format!("--status-socket={}/s.status", folder.path().join("hmac.key").display());
    let (code, _, err) = run_command(&["serve", &endpoint, "--health-addr=off", &within]).await;
    assert!(code == Some(1) && err.contains("s.status cannot be bound"), "{err}");
}

#[tokio::test]
async fn status_socket_off_or_other_path_is_honored() {
    let daemon = Daemon::start(&["--status-socket=off"]).await;
    assert!(!daemon.socket.with_extension("status").exists());
    let elsewhere = tempfile::tempdir().unwrap();
    let named = elsewhere.path().join("told");
    let _other = Daemon::start(&[&format!("--status-socket={}", named.display())]).await;
    assert!(named.exists());
    let mut command = vaultmount_command(&["status"]);
    let output = command.env("VAULTMOUNT_STATUS_SOCKET", &named).output().await.unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[tokio::test]
async fn revoke_without_all_is_rejected() {
    let (code, out, err) = run_command(&["revoke"]).await;
    assert!(code == Some(2) && out.is_empty(), "{out}");
    for part in ["every Vault token", "lose access at once", "rejects mounts until you", "--all"] {
        assert!(err.contains(part), "{part} is not in: {err}");
    }
}

#[tokio::test]
async fn revoke_all_output_json_has_counts() {
    let daemon = Daemon::start(&[]).await;
    let socket = daemon.socket.with_extension("status");
    let (code, out, err) = run_command(&["revoke", "--all", "-ojson", "--socket", socket.to_str().unwrap()]).await;
    assert_eq!(code, Some(0), "{err}");
    let revoked: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(revoked, json!({"tokens": 0, "failed": [], "remaining": 0}));
}
