//! Metrics, as Prometheus scrapes them.

use std::{fs, path::Path, process::Stdio, time::Duration};

use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::{
    io::AsyncWriteExt,
    process::{Child, Command},
};
use vaultmount::error::Cause;

use crate::{
    admin_endpoints::{free_address, get, pod},
    docs,
    support::{bao::Tenant, daemon::Daemon, http, kubernetes::KubernetesCluster},
};

/// An object that no pod here may read.
const DENIED_OBJECT: &str = "- {objectName: a, secretPath: none/a, secretKey: a}";

#[tokio::test]
async fn metrics_addr_serves_mount_and_request_counters() {
    let address = free_address();
    let daemon = Daemon::start(&[&format!("--metrics-addr={address}")]).await;
    let pod = pod().await;
    daemon.mount_files(&pod).await;
    daemon.assert_mount_error(&pod.clone().with_objects(DENIED_OBJECT), Cause::VaultPolicyDenied, &[]).await;
    let (status, text) = get(&format!("http://{address}/metrics")).await;
    assert_eq!(status, 200);
    for line in [
        r#"vaultmount_grpc_requests_total{method="Mount",code="OK"} 1"#,
        r#"vaultmount_grpc_requests_total{method="Mount",code="PermissionDenied"} 1"#,
        r#"vaultmount_grpc_request_duration_seconds_count{method="Mount"} 2"#,
        r#"vaultmount_grpc_requests_in_flight{method="Mount"} 0"#,
        r#"vaultmount_logins_total{method="jwt",outcome="ok"} 1"#,
        r#"vaultmount_vault_requests_total{operation="login",status="2xx"} 1"#,
        r#"vaultmount_vault_requests_total{operation="read",status="2xx"} 1"#,
        r#"vaultmount_pod_watch_state{state="off"} 1"#,
    ] {
        assert!(text.lines().any(|l| l == line), "{line} is not in:\n{text}");
    }
    assert!(!text.contains(&pod.namespace), "{text}");
    for path in ["/", "/livez", "/metrics/"] {
        let (status, text) = get(&format!("http://{address}{path}")).await;
        assert_eq!((status, text.as_str()), (404, NOT_FOUND_TEXT), "{path}");
    }
    let (status, _) = http::send_for_text("POST", &format!("http://{address}/metrics"), None, None, None).await;
    assert_eq!(status.as_u16(), 404);
}

#[tokio::test]
async fn denied_logins_are_counted_by_auth_method() {
    let address = free_address();
    let daemon = Daemon::start(&[&format!("--metrics-addr={address}")]).await;
    let unknown_role = pod().await.with_parameter("roleName", "nobody");
    for _ in 0..2 {
        daemon.assert_mount_error(&unknown_role, Cause::RoleMissing, &[]).await;
    }
    let elsewhere = unknown_role.with_parameter("vaultAuthMountPath", "none-here");
    daemon.assert_mount_error(&elsewhere, Cause::AuthMountMissing, &[]).await;
    let tenant = Tenant::new().await;
    let cluster = KubernetesCluster::for_tenant(&tenant).await;
    let other = cluster.pod(&tenant).with_parameter("roleName", "nobody").with_objects(DENIED_OBJECT);
    daemon.assert_mount_error(&other, Cause::RoleMissing, &[]).await;
    let (_, text) = get(&format!("http://{address}/metrics")).await;
    for line in [
        r#"vaultmount_logins_total{method="jwt",outcome="denied"} 2"#,
        r#"vaultmount_logins_total{method="kubernetes",outcome="denied"} 1"#,
        r#"vaultmount_logins_total{method="unknown",outcome="denied"} 1"#,
        r#"vaultmount_vault_requests_total{operation="login",status="4xx"} 5"#,
    ] {
        assert!(text.lines().any(|l| l == line), "{line}\n{text}");
    }
}

const CLASSIC: &str = "text/plain; version=0.0.4; charset=utf-8";
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

#[tokio::test]
async fn metrics_accept_header_negotiates_openmetrics_or_classic_text() {
    let address = free_address();
    let _daemon = Daemon::start(&[&format!("--metrics-addr={address}")]).await;
    let url = format!("http://{address}/metrics");
    for accept in ["*/*", "text/html", "text/plain;version=0.0.4", "application/openmetrics-text;q=0.1,text/plain"] {
        let (content_type, text) = http::get_accepting(&url, accept).await;
        assert_eq!(content_type, CLASSIC, "{accept}");
        assert!(text.contains("# TYPE vaultmount_build_info gauge\n") && !text.contains("# EOF"), "{accept}: {text}");
    }
    for accept in ["application/openmetrics-text", "application/openmetrics-text;version=1.0.0,text/plain;q=0.5"] {
        let (content_type, text) = http::get_accepting(&url, accept).await;
        assert_eq!(content_type, OPEN_METRICS, "{accept}");
        assert!(text.contains("# TYPE vaultmount_build info\n") && text.ends_with("# EOF\n"), "{accept}: {text}");
    }
}

/// Response to other paths.
const NOT_FOUND_TEXT: &str =
    "metrics are at /metrics\nstatus is at /statusz, from this host only (kubectl port-forward)\n";

/// A Prometheus that scrapes one address; stopped when dropped.
struct Prometheus {
    _process: Child,
    _folder: TempDir,
    address: String,
}

impl Prometheus {
    fn start(scraped: &str) -> Self {
        let program = Path::new(env!("CARGO_MANIFEST_DIR")).join(".tools/prometheus/usr/bin/prometheus");
        let (folder, address) = (tempfile::tempdir().unwrap(), free_address());
        let config = folder.path().join("prometheus.yml");
        let job = json!({
            "job_name": "vaultmount", "scrape_interval": "1s", "static_configs": [{"targets": [scraped]}],
        });
        fs::write(&config, json!({"scrape_configs": [job]}).to_string()).unwrap();
        let process = Command::new(program)
            .arg(format!("--config.file={}", config.display()))
            .arg(format!("--storage.tsdb.path={}", folder.path().join("data").display()))
            .arg(format!("--web.listen-address={address}"))
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .unwrap_or_else(|e| panic!("{e}: dev/bootstrap.py prometheus"));
        Self { _process: process, _folder: folder, address }
    }

    /// Waits for a response of the API at this path, and returns it.
    async fn get_json(&self, path: &str) -> Value {
        let url = format!("http://{}/api/v1/{path}", self.address);
        loop {
            if let Some((status, answer)) = http::try_send("GET", &url, None, None).await
                && status.is_success()
            {
                return answer["data"].clone();
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// Returns the single number in the response to a query; `None` without a result yet.
    async fn query(&self, query: &str) -> Option<f64> {
        let query: String = form_urlencoded::byte_serialize(query.as_bytes()).collect();
        let answer = self.get_json(&format!("query?query={query}")).await;
        answer["result"][0]["value"][1].as_str()?.parse().ok()
    }
}

/// Checks the documentation's Prometheus files and queries.
#[tokio::test]
#[ignore = "needs Debian's Prometheus: make prometheus"]
async fn prometheus_accepts_documented_queries_and_rules() {
    let scraped = free_address();
    let _daemon = Daemon::start(&[&format!("--metrics-addr={scraped}")]).await;
    let prometheus = Prometheus::start(&scraped);
    while prometheus.query("up").await.is_none() {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let queries = docs::promql_queries();
    assert!(queries.len() > 10, "{queries:?}");
    for (place, query) in queries {
        let query: String = form_urlencoded::byte_serialize(query.as_bytes()).collect();
        let url = format!("http://{}/api/v1/query?query={query}", prometheus.address);
        let (status, answer) = http::send("GET", &url, None, None, None).await;
        assert!(status.is_success(), "{place}: {answer}");
    }
    let folder = tempfile::tempdir().unwrap();
    let mut kinds = Vec::new();
    for (place, kind, text) in docs::prometheus_files() {
        let file = folder.path().join(kind);
        // Debian's build does not support Kubernetes service discovery.
        let discovery = "kubernetes_sd_configs:\n      - role: pod\n        namespaces: {names: [vaultmount]}\n";
        fs::write(&file, text.replace(discovery, "static_configs: []\n")).unwrap();
        let promtool = Path::new(env!("CARGO_MANIFEST_DIR")).join(".tools/prometheus/usr/bin/promtool");
        let ran = Command::new(promtool).args(["check", kind]).arg(&file).output().await.unwrap();
        assert!(ran.status.success(), "{place}: {}", String::from_utf8_lossy(&ran.stderr));
        kinds.push(kind);
    }
    assert!(kinds.contains(&"config") && kinds.contains(&"rules"), "{kinds:?}");
}

/// Runs promtool with this standard input. Returns its output, as an error if promtool found problems.
async fn promtool(args: &[&str], input: &str) -> Result<String, String> {
    let program = Path::new(env!("CARGO_MANIFEST_DIR")).join(".tools/prometheus/usr/bin/promtool");
    let mut command = Command::new(program);
    command.args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap_or_else(|e| panic!("{e}: dev/bootstrap.py prometheus"));
    child.stdin.take().unwrap().write_all(input.as_bytes()).await.unwrap();
    let output = child.wait_with_output().await.unwrap();
    let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    if output.status.success() { Ok(text) } else { Err(text) }
}

#[tokio::test]
#[ignore = "needs Debian's Prometheus: make prometheus"]
async fn prometheus_promtool_accepts_both_metrics_text_formats() {
    let address = free_address();
    let daemon = Daemon::start(&[&format!("--metrics-addr={address}")]).await;
    daemon.mount_files(&pod().await).await;
    let url = format!("http://{address}/metrics");
    let (_, classic) = http::get_accepting(&url, "text/plain").await;
    assert_eq!(promtool(&["check", "metrics"], &classic).await, Ok(String::new()));
    // `check metrics` supports the classic format only (promtool 2.42), and blocks are created from samples with a
    // time.
    let (_, open_metrics) = http::get_accepting(&url, "application/openmetrics-text").await;
    let timed = |line: &str| if line.starts_with('#') { format!("{line}\n") } else { format!("{line} 1700000000\n") };
    let folder = tempfile::tempdir().unwrap();
    let (file, blocks) = (folder.path().join("metrics"), folder.path().join("blocks"));
    fs::write(&file, open_metrics.lines().map(timed).collect::<String>()).unwrap();
    let [file, blocks] = [&file, &blocks].map(|path| path.to_str().unwrap());
    let printed = promtool(&["tsdb", "create-blocks-from", "openmetrics", file, blocks], "").await.unwrap();
    let samples = open_metrics.lines().filter(|line| !line.starts_with('#')).count();
    assert!(printed.contains(&samples.to_string()), "{samples} samples: {printed}");
}

#[tokio::test]
#[ignore = "needs Debian's Prometheus: make prometheus"]
async fn prometheus_scrapes_every_metric_and_answers_queries() {
    let scraped = free_address();
    let daemon = Daemon::start(&[&format!("--metrics-addr={scraped}")]).await;
    daemon.mount_files(&pod().await).await;
    let prometheus = Prometheus::start(&scraped);
    while prometheus.query("up").await.is_none() {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let targets = prometheus.get_json("targets").await;
    let target = &targets["activeTargets"][0];
    assert_eq!((&target["health"], &target["lastError"]), (&json!("up"), &json!("")), "{target}");
    for (query, expected) in [
        ("up", 1.0),
        (r#"vaultmount_grpc_requests_total{method="Mount",code="OK"}"#, 1.0),
        (r#"sum(vaultmount_logins_total{outcome="ok"})"#, 1.0),
        ("sum(vaultmount_cached_secrets)", 1.0),
        (r#"vaultmount_vault_request_duration_seconds_count{operation="read"}"#, 1.0),
        (r#"count(vaultmount_build_info{version!=""})"#, 1.0),
        // All quantiles of a mount are within the bounds of the histogram.
        (
            r#"count(histogram_quantile(0.99, vaultmount_grpc_request_duration_seconds_bucket{method="Mount"}) < 30)"#,
            1.0,
        ),
    ] {
        assert_eq!(prometheus.query(query).await, Some(expected), "{query}");
    }
    let families = prometheus.get_json("metadata").await;
    let (_, text) = http::get_accepting(&format!("http://{scraped}/metrics"), "application/openmetrics-text").await;
    for family in text.lines().filter_map(|line| line.strip_prefix("# TYPE ")) {
        let (name, kind) = family.split_once(' ').unwrap();
        assert_eq!(families[name][0]["type"], kind, "{name}");
    }
}
