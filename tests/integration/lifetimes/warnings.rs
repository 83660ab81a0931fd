//! What is said in time when nothing can be done but by a mount, and what an operator sees.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::sleep;

use super::{Stage, credential};
use crate::support::{
    bao::Tenant,
    clock::leap,
    daemon::{Daemon, Program, program},
    database::Database,
    faulty::Faulty,
    pod::Pod,
};

#[tokio::test]
async fn with_rotation_off_the_end_is_told_well_before() {
    let tenant = Tenant::new().await;
    let database = Database::of(&tenant).await;
    database.tune(json!({"default_ttl": "6s", "max_ttl": "9s"})).await;
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let daemon = Program::start(&[&format!("--metrics-addr=127.0.0.1:{port}")]).await;
    let pod = Pod::of(&tenant).objects(credential(&database));
    let mut client = vaultmount::provider::client::Client::connect(&daemon.socket).await.unwrap();
    client.mount(pod.call()).await.unwrap();
    let ending = r#"vaultmount_leases{state="ending",kind="leased"} 1"#;
    let scrape = async || {
        let url = format!("http://127.0.0.1:{port}/metrics");
        crate::support::http::text("GET", &url, None, None, None).await.1
    };
    assert!(!scrape().await.contains(ending));
    sleep(Duration::from_millis(7_500)).await;
    let text = scrape().await;
    assert!(text.contains(ending), "{text}");
    sleep(Duration::from_secs(3)).await;
    daemon.terminate();
    let log = daemon.log().await;
    let lines: Vec<&str> = log.lines().filter(|line| line.contains(&pod.name)).collect();
    let place =
        |what: &str| lines.iter().position(|line| line.contains(what)).unwrap_or_else(|| panic!("{what}: {log}"));
    let (near, told, over) =
        (place("maximum is near"), place("ends, and no poll comes to replace it"), place("is over, and no poll comes"));
    assert!(near < told && told < over, "{log}");
    assert!(lines[told].contains("end=") && lines[told].contains("switch on rotation"), "{}", lines[told]);
    assert_eq!(lines.iter().filter(|line| line.contains("ends, and no poll comes")).count(), 1, "{log}");
}

#[tokio::test]
async fn the_status_tells_everything_and_no_secret() {
    let stage = Stage::new(&[]).await;
    let pod = stage.pod();
    let (username, password) = stage.mount(&pod).await;
    stage.mount(&pod).await;
    let status = stage.daemon.socket.with_extension("status");
    let run = async |format: &str| {
        let args = ["status", "--socket", status.to_str().unwrap(), format];
        let output = program(&args).output().await.unwrap();
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
    let told: Value = serde_json::from_str(&json).unwrap();
    let session = &told["sessions"][0];
    assert_eq!(
        (&session["uid"], &session["role"], &session["renewed"]),
        (&json!(pod.uid), &json!("app"), &json!(true))
    );
    assert_eq!((&session["volumes"][0]["mounts"], &session["volumes"][0]["class"]), (&json!(2), &json!("test-class")));
    let lease = &session["leases"][0];
    assert_eq!(
        (&lease["kind"], &lease["state"], &lease["path"]),
        (&json!("leased"), &json!("live"), &json!(stage.database.path))
    );
    assert!(session["last_success"].is_string() && session["token"]["accessor"].is_string());
    assert_eq!(told["watch"]["state"], "synced");
}

/// How many renewals of its lease a pod gets while these hours pass without a poll, a third of an hour at a time.
async fn renewals_in(daemon: &Daemon, vault: &Faulty, pod: &Pod, polls: usize, hours: u64) -> usize {
    for _ in 0..polls {
        daemon.files(pod).await;
    }
    let renewals = || vault.count("POST", "sys/leases/renew");
    for _ in 0..hours * 3 {
        let before = renewals();
        leap(Duration::from_secs(20 * 60)).await;
        // A request under way would seem to take as long as the next leap.
        for _ in 0..30 {
            sleep(Duration::from_millis(10)).await;
            if renewals() > before {
                sleep(Duration::from_millis(100)).await;
                break;
            }
        }
    }
    renewals()
}

#[tokio::test]
async fn without_a_watch_a_silent_pod_is_renewed_for_a_while_and_a_pod_that_was_never_polled_for_a_day() {
    let tenant = Tenant::new().await;
    tenant.role("app", json!({"token_ttl": "3h"})).await;
    let database = Database::of(&tenant).await;
    database.tune(json!({"default_ttl": "3h", "max_ttl": "700h"})).await;
    for (polls, hours, least, most) in [(1, 30, 8, 14), (3, 5, 0, 0)] {
        let vault = Faulty::start().await;
        let daemon = Daemon::at(&vault.address, &[]).await;
        let pod = Pod::of(&tenant).objects(credential(&database));
        let renewals = renewals_in(&daemon, &vault, &pod, polls, hours).await;
        assert!((least..=most).contains(&renewals), "{renewals} after {polls} mounts in {hours} hours");
        assert_eq!(vault.count("POST", "auth/token/revoke-self"), 0);
    }
}
