//! Vault outages: polls serve cached secrets immediately, new pods fail immediately with the cause, and only one health
//! probe is sent. Also failures that do not count as an outage.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use serde_json::json;
use vaultmount::error::Cause;

use super::{
    FailureFixture, SECRET, advance, assert_contains, for_each_case, secret_pod, single_file, tenant_with_secret,
};
use crate::admin_endpoints::{free_address, metric_value};
use crate::support::{
    bao_server::BaoServer,
    clock::DEFAULT_REFRESH_INTERVAL,
    daemon::{Daemon, ProviderProcess},
    fault_proxy::{Fault, FaultProxy, Gate, respond, vault_error},
    log::{CapturedLog, let_background_run},
    pod::Pod,
    policy::PolicyFile,
    tls::CertificateAuthority,
    vault_health::{self, has_outage, list_outages, wait_until_down, wait_until_up},
};

/// Maximum duration of the first poll in an outage, and of responses that need no Vault request.
const MAX_FIRST_POLL_TIME: Duration = Duration::from_millis(2800);
const MAX_IMMEDIATE_TIME: Duration = Duration::from_millis(250);

/// Makes every request fail with `fault` from now on.
fn fail_all_requests(vault: &FaultProxy, fault: &Fault) {
    for method in ["GET", "POST", "PUT", "LIST"] {
        vault.always(method, "", fault.clone());
    }
}

#[tokio::test]
async fn outage_serves_stale_polls_and_rejects_new_pods() {
    let no_leader = "local node not active but active cluster node not found";
    let faults = [
        (vault_error(503, "Vault is sealed"), Cause::Sealed, "it said: Vault is sealed"),
        (vault_error(500, no_leader), Cause::NoLeader, no_leader),
        (vault_error(500, "internal error"), Cause::ServerError, "status 500"),
        (vault_error(502, "no backend"), Cause::ServerError, "status 502"),
        (Fault::DropRequest, Cause::Unreachable, "was lost"),
        (Fault::HoldRequest(Gate::new()), Cause::Unreachable, "timed out after 1.5s"),
    ];
    let tenant = Arc::new(tenant_with_secret().await);
    // The cases run one after another, because each advances the shared clock.
    for (fault, expected, part) in faults {
        let stage = FailureFixture::for_tenant(&tenant).await;
        let (pod, new) = (stage.pod(), stage.pod());
        stage.daemon.mount(pod.mount_call()).await.unwrap();
        advance(DEFAULT_REFRESH_INTERVAL).await;
        fail_all_requests(&stage.vault, &fault);
        let begun = Instant::now();
        assert_eq!(single_file(&stage.daemon.mount(pod.mount_call()).await.unwrap()), SECRET);
        assert!(begun.elapsed() < MAX_FIRST_POLL_TIME, "{part}: {:?}", begun.elapsed());
        wait_until_down(&stage.daemon).await;

        let before = stage.vault.count_except_health();
        for _ in 0..10 {
            let begun = Instant::now();
            assert_eq!(single_file(&stage.daemon.mount(pod.mount_call()).await.unwrap()), SECRET);
            let (cause, text) = stage.mount_error(&new).await;
            assert_eq!(cause, expected, "{text}");
            assert_contains(&text, &[part, &stage.vault.address, "known since 2", "probed again automatically"]);
            assert!(begun.elapsed() < MAX_IMMEDIATE_TIME * 2, "{part}: {:?}", begun.elapsed());
        }
        assert_eq!(stage.vault.count_except_health(), before, "{part}: a request was sent during the outage");

        stage.tenant.write_secret("db", json!({"pass": SECRET})).await;
        stage.vault.clear_rules();
        wait_until_up(&stage.daemon).await;
        assert_eq!(single_file(&stage.daemon.mount(new.mount_call()).await.unwrap()), SECRET);
        let before = stage.vault.count_except_health();
        assert_eq!(single_file(&stage.daemon.mount(pod.mount_call()).await.unwrap()), SECRET);
        assert!(stage.vault.count_except_health() > before, "{part}: stale secrets are fetched again");
    }
}

/// Waits until the endpoint's up metric has this value.
async fn wait_for_endpoint_up(metrics: &str, address: &str, up: Option<&str>) {
    let series = format!("vaultmount_endpoint_up{{endpoint=\"{address}\"}}");
    let begun = Instant::now();
    while metric_value(metrics, &series).await.as_deref() != up {
        assert!(begun.elapsed() < Duration::from_secs(10), "{address} does not come to {up:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn endpoint_up_metric_covers_unused_endpoints_once_probed() {
    let (log, metrics) = (CapturedLog::new(), free_address());
    let (vault, named, later, silent) =
        (FaultProxy::start().await, FaultProxy::start().await, FaultProxy::start().await, FaultProxy::start().await);
    fail_all_requests(&named, &vault_error(503, "Vault is sealed"));
    let gate = Gate::new();
    fail_all_requests(&silent, &Fault::HoldResponse(gate.clone()));
    let nowhere = format!("http://{}", free_address());
    let endpoints = |more: &str| {
        format!(
            "endpoints: {{named: {{address: \"{}\"}}, silent: {{address: \"{}\"}}, nowhere: {{address: \"{nowhere}\"}}{more}}}",
            named.address, silent.address
        )
    };
    let policy = PolicyFile::new(&endpoints(""));
    let _daemon = Daemon::start_at(&vault.address, &[&policy.flag(), &format!("--metrics-addr={metrics}")]).await;
    for (address, up) in [(&vault.address, "1"), (&named.address, "0"), (&nowhere, "0")] {
        wait_for_endpoint_up(&metrics, address, Some(up)).await;
    }
    wait_for_endpoint_up(&metrics, &silent.address, None).await;
    let sealed = format!("vaultmount_endpoint_sealed{{endpoint=\"{}\"}}", named.address);
    assert_eq!(metric_value(&metrics, &sealed).await.as_deref(), Some("1"));
    gate.open();
    wait_for_endpoint_up(&metrics, &silent.address, Some("1")).await;
    policy.write(&endpoints(&format!(", later: {{address: \"{}\"}}", later.address)));
    log.wait_for_lines("policy file applied", 1, Duration::from_secs(10)).await;
    wait_for_endpoint_up(&metrics, &later.address, Some("1")).await;
    assert_eq!(vault.count("GET", ""), 1, "a healthy server gets one request");
    assert_eq!(log.count_lines("Vault is down"), 0, "{}", log.text());
}

#[tokio::test]
async fn idle_probe_is_rare_and_more_frequent_while_down() {
    let metrics = free_address();
    let mut vault = FaultProxy::start().await;
    let _daemon = Daemon::start_at(&vault.address, &[&format!("--metrics-addr={metrics}")]).await;
    wait_for_endpoint_up(&metrics, &vault.address, Some("1")).await;
    let pass = async |minutes: u32| {
        for _ in 0..minutes * 6 {
            advance(Duration::from_secs(10)).await;
            let_background_run().await;
        }
    };
    pass(4).await;
    assert_eq!(vault.count("GET", ""), 1);
    pass(16).await;
    let request_count = vault.count("GET", "");
    assert!((3..=5).contains(&request_count), "{request_count}");
    vault.stop_listening().await;
    pass(10).await;
    wait_for_endpoint_up(&metrics, &vault.address, Some("0")).await;
    vault.listen_again(None);
    pass(5).await;
    wait_for_endpoint_up(&metrics, &vault.address, Some("1")).await;
    assert!(vault.count("GET", "") <= request_count + 2);
}

#[tokio::test]
async fn vault_down_at_start_serves_first_mount_once_up() {
    let (log, metrics) = (CapturedLog::new(), free_address());
    let (tenant, mut vault) = (tenant_with_secret().await, FaultProxy::start().await);
    vault.stop_listening().await;
    let daemon = Daemon::start_at(&vault.address, &[&format!("--metrics-addr={metrics}")]).await;
    wait_for_endpoint_up(&metrics, &vault.address, Some("0")).await;
    assert!(!has_outage(&daemon).await);
    vault.listen_again(None);
    assert_eq!(single_file(&daemon.mount(secret_pod(&tenant).mount_call()).await.unwrap()), SECRET);
    wait_for_endpoint_up(&metrics, &vault.address, Some("1")).await;
    assert_eq!(log.count_lines("Vault is"), 0, "{}", log.text());
}

#[tokio::test]
async fn outage_sends_only_health_probes_with_backoff() {
    let mut stage = FailureFixture::new().await;
    let pod = stage.pod();
    stage.daemon.mount(pod.mount_call()).await.unwrap();
    // A health probe may have been sent while the server was slow.
    advance(Duration::from_secs(2)).await;
    stage.vault.stop_listening().await;
    let (cause, text) = stage.mount_error(&stage.pod()).await;
    assert_eq!(cause, Cause::ConnectionRefused, "{text}");
    wait_until_down(&stage.daemon).await;
    stage.vault.listen_again(None);
    fail_all_requests(&stage.vault, &vault_error(503, "Vault is sealed"));
    let probes = || stage.vault.count("GET", "sys/health");
    let before = stage.vault.count_except_health();
    // Ten minutes with one poll every half minute.
    for _ in 0..600 {
        advance(Duration::from_secs(1)).await;
        tokio::time::sleep(Duration::from_millis(2)).await;
        if probes() % 2 == 0 {
            stage.daemon.mount(pod.mount_call()).await.unwrap();
        }
    }
    // After the first half minute there is one probe every 15 to 30 s.
    assert!((20..=50).contains(&probes()), "{}", probes());
    assert_eq!(stage.vault.count_except_health(), before);
    let outages = list_outages(&stage.daemon).await;
    assert_eq!(outages.len(), 1);
    assert_contains(outages[0]["error"].as_str().unwrap(), &["is sealed", "[VM0020]"]);
    assert_eq!(outages[0]["address"], stage.vault.address.as_str());
}

#[tokio::test]
async fn outage_new_pod_triggers_early_health_probe() {
    let stage = FailureFixture::new().await;
    fail_all_requests(&stage.vault, &vault_error(503, "Vault is sealed"));
    stage.mount_error(&stage.pod()).await;
    wait_until_down(&stage.daemon).await;
    for _ in 0..90 {
        advance(Duration::from_secs(1)).await;
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    let probes = stage.vault.count("GET", "sys/health");
    stage.mount_error(&stage.pod()).await;
    // Without a poll, the next probe would come after 15 s at the earliest. The minimum pause of one second still
    // holds.
    advance(Duration::from_secs(1)).await;
    stage.vault.wait_for(probes + 1, "GET", "sys/health").await;
}

#[tokio::test]
async fn single_failing_path_is_no_outage() {
    let faults = [
        vault_error(500, "connection refused"),
        vault_error(503, "no backend"),
        vault_error(429, "quota"),
        vault_error(412, "behind"),
        Fault::DropRequest,
        Fault::DropResponse,
        Fault::HoldRequest(Gate::new()),
    ];
    let (tenant, other) = (Arc::new(tenant_with_secret().await), tenant_with_secret().await);
    for fault in faults {
        let stage = FailureFixture::for_tenant(&tenant).await;
        let pod = stage.pod();
        stage.daemon.mount(pod.mount_call()).await.unwrap();
        advance(DEFAULT_REFRESH_INTERVAL).await;
        for path in [stage.secret_path(), stage.login_path()] {
            stage.vault.always("GET", &path, fault.clone());
            stage.vault.always("POST", &path, fault.clone());
        }
        // The pod has cached secrets, so a poll waits only briefly for newer ones. The second poll follows the health
        // probe.
        for _ in 0..2 {
            let begun = Instant::now();
            assert_eq!(single_file(&stage.daemon.mount(pod.mount_call()).await.unwrap()), SECRET);
            assert!(begun.elapsed() < MAX_FIRST_POLL_TIME, "{:?}", begun.elapsed());
        }
        stage.let_daemon_run().await;
        assert!(!has_outage(&stage.daemon).await);
        assert_eq!(single_file(&stage.daemon.mount(secret_pod(&other).mount_call()).await.unwrap()), SECRET);
    }
}

#[tokio::test]
async fn blocked_health_endpoint_is_no_outage() {
    let hidden = [vault_error(403, "no"), vault_error(429, "quota"), respond(404, &[], "<html>no such page</html>")];
    for_each_case(hidden, async |stage, hidden| {
        stage.vault.always("GET", "sys/health", hidden);
        stage.vault.next(1, "GET", &stage.secret_path(), vault_error(500, "internal error"));
        assert_eq!(stage.mount_error(&stage.pod()).await.0, Cause::ServerError);
        stage.vault.wait_for(2, "GET", "sys/health").await;
        assert_eq!(single_file(&stage.daemon.mount(stage.pod().mount_call()).await.unwrap()), SECRET);
        assert!(!has_outage(&stage.daemon).await);
    })
    .await;
}

#[tokio::test]
async fn unanswered_health_probe_is_no_outage_while_reads_succeed() {
    let stage = FailureFixture::new().await;
    stage.vault.always("GET", "sys/health", Fault::HoldRequest(Gate::new()));
    stage.vault.next(1, "GET", &stage.secret_path(), vault_error(500, "internal error"));
    assert_eq!(stage.mount_error(&stage.pod()).await.0, Cause::ServerError);
    stage.vault.wait_for(2, "GET", "sys/health").await;
    assert_eq!(single_file(&stage.daemon.mount(stage.pod().mount_call()).await.unwrap()), SECRET);
    tokio::time::sleep(vault_health::HEALTH_CHECK_WAIT).await;
    assert!(!has_outage(&stage.daemon).await);
}

#[tokio::test]
async fn slow_fetch_serves_stale_poll_and_is_cached_for_next() {
    let stage = FailureFixture::new().await;
    let pod = stage.pod();
    stage.daemon.mount(pod.mount_call()).await.unwrap();
    stage.tenant.write_secret("db", json!({"pass": "new"})).await;
    advance(DEFAULT_REFRESH_INTERVAL).await;
    let gate = Gate::new();
    stage.vault.always("GET", &stage.secret_path(), Fault::HoldResponse(gate.clone()));
    let poll = stage.daemon.mount(pod.mount_call());
    let time = async {
        stage.vault.wait_for(2, "GET", &stage.secret_path()).await;
        advance(Duration::from_secs(2)).await;
    };
    let (polled, ()) = tokio::join!(poll, time);
    assert_eq!(single_file(&polled.unwrap()), SECRET);
    // The request used its caller's whole deadline, which is longer than the poll waited.
    gate.open();
    assert_eq!(single_file(&stage.daemon.mount(pod.mount_call()).await.unwrap()), "new");
}

#[tokio::test]
async fn dead_connection_does_not_delay_other_pods() {
    let (tenant, authority) = (tenant_with_secret().await, CertificateAuthority::new());
    let vault = FaultProxy::start_tls(authority.server_config(None)).await;
    let front = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("https://{}", front.local_addr().unwrap());
    let behind = vault.address.strip_prefix("https://").unwrap().to_owned();
    // A firewall that lost its connection state: packets of earlier connections are dropped silently.
    let (forgets, forgotten) = tokio::sync::watch::channel(false);
    let mut connections = tokio::task::JoinSet::new();
    connections.spawn(async move {
        let mut passed = tokio::task::JoinSet::new();
        loop {
            let mut client = front.accept().await.unwrap().0;
            let mut server = tokio::net::TcpStream::connect(&behind).await.unwrap();
            let (mut forgotten, is_old) = (forgotten.clone(), !*forgotten.borrow());
            passed.spawn(async move {
                let copied = async { drop(tokio::io::copy_bidirectional(&mut client, &mut server).await) };
                let lost = async { drop(forgotten.wait_for(|forgotten| is_old && *forgotten).await) };
                let is_lost = tokio::select! { () = copied => false, () = lost => true };
                if is_lost {
                    std::future::pending::<()>().await;
                }
            });
        }
    });
    let daemon = Daemon::start_at(&address, &[]).await;
    let pod = || secret_pod(&tenant).with_parameter("vaultCACert", authority.pem());
    daemon.mount(pod().mount_call()).await.unwrap();
    forgets.send_replace(true);
    let hangs = pod();
    let others = async {
        vault.wait_for(1, "GET", "sys/health").await;
        // Wait for the response to arrive.
        tokio::time::sleep(Duration::from_millis(300)).await;
        let begun = Instant::now();
        assert_eq!(single_file(&daemon.mount(pod().mount_call()).await.unwrap()), SECRET);
        assert!(begun.elapsed() < MAX_FIRST_POLL_TIME, "{:?}", begun.elapsed());
    };
    tokio::select! {
        _ = daemon.mount(hangs.mount_call()) => panic!("its connection is dead"),
        () = others => {}
    }
}

#[tokio::test]
async fn outage_ends_by_itself_after_unseal() {
    let (tenant, server) = (tenant_with_secret().await, BaoServer::sealed().await);
    let daemon = Daemon::start_at(&server.address, &[]).await;
    let pod = || secret_pod(&tenant);
    assert_eq!(daemon.mount_error(pod().mount_call()).await.0, Cause::Sealed);
    wait_until_down(&daemon).await;
    let (cause, text) = daemon.mount_error(pod().mount_call()).await;
    assert_eq!(cause, Cause::Sealed);
    assert_contains(&text, &["is sealed, known since", "vault operator unseal"]);
    server.unseal().await;
    wait_until_up(&daemon).await;
    // This server does not have the tenant's mounts.
    assert_eq!(daemon.mount_error(pod().mount_call()).await.0, Cause::AuthMountMissing);
}

#[tokio::test]
async fn vault_without_leader_is_an_outage() {
    let (tenant, server) = (tenant_with_secret().await, BaoServer::without_leader().await);
    let daemon = Daemon::start_at(&server.address, &[]).await;
    assert_eq!(daemon.mount_error(secret_pod(&tenant).mount_call()).await.0, Cause::NoLeader);
    wait_until_down(&daemon).await;
    let (cause, text) = daemon.mount_error(secret_pod(&tenant).mount_call()).await;
    assert_eq!(cause, Cause::NoLeader);
    assert_contains(&text, &["known since", "vault operator raft list-peers"]);
}

#[tokio::test]
async fn outage_is_logged_once_and_counted_with_recovery() {
    let (tenant, vault) = (tenant_with_secret().await, FaultProxy::start().await);
    let metrics = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let flags = ["--refresh-interval=10s", &format!("--metrics-addr={metrics}")];
    let daemon = ProviderProcess::start_at(&vault.address, &flags).await;
    let mut client = vaultmount::provider::client::Client::connect(&daemon.socket).await.unwrap();
    let pod: Pod = secret_pod(&tenant);
    client.mount(pod.mount_call()).await.unwrap();
    // The program runs on real time, which the test cannot advance.
    tokio::time::sleep(Duration::from_secs(10)).await;
    vault.always("GET", &tenant.kv, vault_error(500, "storage is odd"));
    client.mount(pod.mount_call()).await.unwrap();
    vault.clear_rules();
    fail_all_requests(&vault, &vault_error(503, "Vault is sealed"));
    let scraped = async || {
        crate::support::http::send_for_text("GET", &format!("http://{metrics}/metrics"), None, None, None).await.1
    };
    let has = async |line: &str| scraped().await.lines().any(|l| l == line);
    let mut kept = 0;
    while !has("vaultmount_endpoints_down 1").await {
        client.mount(pod.mount_call()).await.unwrap();
        kept += 1;
    }
    for _ in 0..10 {
        client.mount(pod.mount_call()).await.unwrap();
    }
    assert!(has(r#"vaultmount_endpoint_transitions_total{state="down"} 1"#).await);
    assert!(
        has(&format!(r#"vaultmount_stale_polls_total{{reason="sealed"}} {}"#, kept + 10)).await,
        "{}",
        scraped().await
    );
    vault.clear_rules();
    while !has("vaultmount_endpoints_down 0").await {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(has(r#"vaultmount_endpoint_transitions_total{state="up"} 1"#).await);
    client.mount(pod.mount_call()).await.unwrap();
    daemon.terminate();
    let log = daemon.wait_for_log().await;
    let count_lines = |what: &str| log.lines().filter(|line| line.contains(what)).count();
    assert_eq!((count_lines("Vault is down; "), count_lines("Vault is back")), (1, 1), "{log}");
    let line = log.lines().find(|line| line.contains("Vault is down; ")).unwrap();
    assert!(line.contains("is sealed") && line.contains("[VM0020]") && line.contains(&vault.address), "{line}");
    assert!(count_lines("Vault unavailable, serving cached secrets") <= kept + 1, "{log}");
    let line = log.lines().find(|line| line.contains("Vault unavailable, serving cached secrets")).unwrap();
    for part in [
        &format!("pod={:?} namespace={:?}", pod.name, pod.namespace),
        "storage is odd",
        "code=\"Unavailable\" objects=pass",
        &format!("endpoint={} duration_ms=", vault.address),
    ] {
        assert!(line.contains(part), "{part}: {line}");
    }
}
