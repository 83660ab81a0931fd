//! Expiry warnings: timely log lines when only a mount can replace a credential, and the operator's metrics and status.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::{sleep, timeout};

use super::{LifetimeFixture, credential_objects, wait_until};
use crate::support::{
    bao::Tenant,
    clock::advance,
    daemon::{Daemon, ProviderProcess, vaultmount_command},
    database::DatabaseEngine,
    fault_proxy::{FaultProxy, vault_error},
    pod::Pod,
};

#[tokio::test]
async fn unpolled_credential_expiry_is_warned_of_in_time() {
    let tenant = Tenant::new().await;
    let database = DatabaseEngine::for_tenant(&tenant).await;
    database.write_role(json!({"default_ttl": "6s", "max_ttl": "8s"})).await;
    let metrics = MetricsScraper::new();
    let daemon = ProviderProcess::start(&[&metrics.flag()]).await;
    let pod = Pod::for_tenant(&tenant).with_objects(credential_objects(&database));
    let mut client = vaultmount::provider::client::Client::connect(&daemon.socket).await.unwrap();
    let begun = jiff::Timestamp::now().as_second();
    client.mount(pod.mount_call()).await.unwrap();
    let ending = r#"vaultmount_cached_secrets{state="expiring",kind="leased"} 1"#;
    let mut known_before = false;
    let text = async {
        loop {
            let text = metrics.text().await;
            if text.contains(ending) {
                return text;
            }
            // The renewal at two thirds of the first six seconds shows the maximum TTL; the last third begins two
            // seconds later.
            known_before |= text.contains("lease\",outcome=\"capped\"} 1");
            sleep(Duration::from_millis(100)).await;
        }
    };
    let text = timeout(Duration::from_secs(20), text).await.expect("no expiry is logged");
    assert!(known_before, "{text}");
    let (_, end) = text.split_once("\nvaultmount_earliest_secret_expiry_timestamp_seconds ").unwrap();
    let end: i64 = end.lines().next().unwrap().parse().unwrap();
    assert!((7..=12).contains(&(end - begun)), "{end} {begun}");
    sleep(Duration::from_secs(4)).await;
    daemon.terminate();
    let log = daemon.wait_for_log().await;
    let lines: Vec<&str> = log.lines().filter(|line| line.contains(&pod.name)).collect();
    let place =
        |what: &str| lines.iter().position(|line| line.contains(what)).unwrap_or_else(|| panic!("{what}: {log}"));
    let (near, reported, over) =
        (place("near its maximum TTL"), place("credential expires soon"), place("credential expired"));
    assert!(near < reported && reported < over, "{log}");
    assert!(
        lines[reported].contains("expires_at=")
            && lines[reported].contains("no poll replaces it")
            && lines[reported].contains("enable rotation"),
        "{}",
        lines[reported]
    );
    assert_eq!(lines.iter().filter(|line| line.contains("credential expires soon")).count(), 1, "{log}");
}

/// A monitoring system's view of a daemon: its metrics.
struct MetricsScraper(u16);

impl MetricsScraper {
    fn new() -> Self {
        Self(std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port())
    }

    fn flag(&self) -> String {
        format!("--metrics-addr=127.0.0.1:{}", self.0)
    }

    async fn text(&self) -> String {
        let url = format!("http://127.0.0.1:{}/metrics", self.0);
        crate::support::http::send_for_text("GET", &url, None, None, None).await.1
    }
}

#[tokio::test]
async fn status_command_shows_sessions_without_secrets() {
    let stage = LifetimeFixture::with_ttls(&[], json!({}), json!({"token_ttl": "1h"})).await;
    let pod = stage.pod();
    let (username, password) = stage.mount(&pod).await;
    stage.mount(&pod).await;
    let status = stage.daemon.socket.with_extension("status");
    let run = async |format: &str| {
        let args = ["status", "--socket", status.to_str().unwrap(), format];
        let output = vaultmount_command(&args).output().await.unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    let (text, json) = (run("-otext").await, run("-ojson").await);
    for part in [pod.name.as_str(), &stage.database.path, "leased", "app"] {
        assert!(text.contains(part), "{part} is not in {text}");
    }
    for secret in [&password, &username] {
        assert!(!text.contains(secret.as_str()) && !json.contains(secret.as_str()));
    }
    let reported: Value = serde_json::from_str(&json).unwrap();
    let session = &reported["sessions"][0];
    assert_eq!(
        (&session["uid"], &session["role"], &session["renewal_active"]),
        (&json!(pod.uid), &json!("app"), &json!(true))
    );
    assert_eq!((&session["volumes"][0]["mounts"], &session["volumes"][0]["class"]), (&json!(2), &json!("test-class")));
    let lease = &session["secrets"][0];
    assert_eq!(
        (&lease["kind"], &lease["state"], &lease["path"]),
        (&json!("leased"), &json!("active"), &json!(stage.database.path))
    );
    assert!(session["token"]["accessor"].is_string());
    assert_eq!(reported["watch"]["state"], "synced");
    let timestamp = |of: &Value| of.as_str().unwrap().parse::<jiff::Timestamp>().unwrap();
    assert!(timestamp(&session["last_success_at"]) <= timestamp(&reported["now"]), "{reported}");
    let time = |of: &Value| timestamp(of).as_second();
    let now = jiff::Timestamp::now().as_second();
    for of in [lease, &session["token"]] {
        assert!((3540..=3601).contains(&(time(&of["expires_at"]) - now)), "{of}");
        assert!((1800..=2400).contains(&(time(&of["renew_at"]) - now)), "{of}");
        assert!(of["max_expires_at"].is_null(), "{of}");
    }
}

#[tokio::test]
async fn failed_renewal_is_in_status_and_metrics_until_recovery() {
    let metrics = MetricsScraper::new();
    let stage = LifetimeFixture::with_ttls(&[&metrics.flag()], json!({}), json!({"token_ttl": "1h"})).await;
    let pod = stage.pod();
    stage.mount(&pod).await;
    let counts = async |lines: &[&str]| {
        let text = metrics.text().await;
        lines.iter().all(|line| text.lines().any(|l| l.strip_prefix("vaultmount_") == Some(line)))
    };
    let reported = async || session_statuses(&stage.daemon).await[0].take();
    let well = [
        r#"logins_total{method="jwt",outcome="ok"} 1"#,
        r#"cached_secrets{state="active",kind="leased"} 1"#,
        r#"tokens{state="active"} 1"#,
    ];
    assert!(counts(&well).await, "{}", metrics.text().await);

    stage.vault.always("POST", "sys/leases/renew", vault_error(500, "internal error"));
    advance(Duration::from_secs(41 * 60)).await;
    let failing = [
        r#"cached_secrets{state="failing",kind="leased"} 1"#,
        r#"renewals_total{target="lease",outcome="failed"} 1"#,
        r#"renewals_total{target="token",outcome="renewed"} 1"#,
    ];
    wait_until("a renewal fails", async || counts(&failing).await).await;
    let session = reported().await;
    let lease = &session["secrets"][0];
    assert_eq!(lease["state"], "failing");
    for error in [&lease["last_error"], &session["last_error"]["error"]] {
        assert!(error.as_str().unwrap().contains("internal error"), "{session}");
    }
    assert_eq!(session["last_error"]["operation"], "renewing a lease");

    stage.vault.clear_rules();
    advance(Duration::from_secs(10)).await;
    wait_until("it is renewed", async || {
        counts(&[r#"renewals_total{target="lease",outcome="renewed"} 1"#, well[1]]).await
    })
    .await;
    assert!(reported().await["secrets"][0]["last_error"].is_null());

    stage.api.delete_pod(&pod.namespace, &pod.name);
    let over = [r#"revocations_total{outcome="revoked"} 1"#, "sessions 0", "pending_revocations 0"];
    wait_until("it is revoked", async || counts(&over).await).await;
}

#[tokio::test]
async fn revoked_token_pauses_renewal_in_status() {
    let stage = LifetimeFixture::with_ttls(&[], json!({}), json!({"token_ttl": "6s"})).await;
    let pod = stage.pod();
    stage.mount(&pod).await;
    stage.tenant.revoke_logins().await;
    stage.vault.wait_for(1, "GET", "auth/token/lookup-self").await;
    wait_until("it is reported", async || {
        let session = session_statuses(&stage.daemon).await[0].take();
        let why = session["renewal_paused_reason"].as_str().unwrap_or_default();
        let lease = &session["secrets"][0];
        why.contains("is gone")
            && session["token"].is_null()
            && lease["state"] == "expiring"
            && lease["renew_at"].is_null()
    })
    .await;
}

/// Returns the sessions in the output of `status`.
async fn session_statuses(daemon: &Daemon) -> Value {
    let path = daemon.socket.with_extension("status");
    let output = vaultmount_command(&["status", "--socket", path.to_str().unwrap(), "-ojson"]).output().await.unwrap();
    serde_json::from_slice::<Value>(&output.stdout).unwrap()["sessions"].take()
}

/// Returns the number of lease renewals of a pod without polls during these hours, in steps of 20 minutes.
async fn count_renewals_over_hours(daemon: &Daemon, vault: &FaultProxy, pod: &Pod, polls: usize, hours: u64) -> usize {
    for _ in 0..polls {
        daemon.mount_files(pod).await;
    }
    for _ in 0..hours * 3 {
        advance(Duration::from_secs(20 * 60)).await;
        // A request under way would count the next advance as its own duration.
        wait_until("all due renewals are done", async || {
            let sessions = session_statuses(daemon).await;
            // An expired session is forgotten.
            let Some(session) = sessions.get(0) else { return true };
            let leases = session["secrets"].as_array().into_iter().flatten();
            let mut renewals = leases.chain([&session["token"]]).filter_map(|one| one["renew_at"].as_str());
            renewals.all(|at| at.parse::<jiff::Timestamp>().unwrap() > jiff::Timestamp::now() + Duration::from_secs(1))
        })
        .await;
    }
    vault.count("POST", "sys/leases/renew")
}

#[tokio::test]
async fn orphan_after_stops_renewal_without_pod_watch() {
    let tenant = Tenant::new().await;
    tenant.write_role("app", json!({"token_ttl": "1h"})).await;
    let database = DatabaseEngine::for_tenant(&tenant).await;
    database.write_role(json!({"default_ttl": "1h", "max_ttl": "700h"})).await;
    // One renewal every 40 minutes.
    for (flag, polls, hours, least, most) in
        [("--orphan-after=1h", 1, 30, 30, 37), ("--orphan-after=1h", 3, 5, 1, 1), ("--orphan-after=3h", 3, 8, 4, 5)]
    {
        let vault = FaultProxy::start().await;
        let daemon = Daemon::start_at(&vault.address, &[flag]).await;
        let pod = Pod::for_tenant(&tenant).with_objects(credential_objects(&database));
        let renewals = count_renewals_over_hours(&daemon, &vault, &pod, polls, hours).await;
        assert!((least..=most).contains(&renewals), "{renewals} after {polls} mounts in {hours} hours, {flag}");
        assert_eq!(vault.count("POST", "auth/token/revoke-self"), 0);
    }
}
