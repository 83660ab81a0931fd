//! Vault outages shorter and longer than every TTL: no requests during the outage, no failure counts, and exactly one
//! credential of each kind afterwards.

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use serde_json::{Value, json};
use tokio::time::sleep;
use vaultmount::{error::Cause, provider::client::Client};

use super::{LifetimeFixture, credential_objects, wait_until};
use crate::support::{
    bao::{Tenant, issuer_key, root_request},
    clock::advance,
    daemon::ProviderProcess,
    database::{DatabaseEngine, log_in},
    fault_proxy::{Fault, FaultProxy, Gate, vault_error},
    pod::Pod,
    vault_health::{has_outage, wait_until_down, wait_until_up},
};

impl LifetimeFixture {
    /// Makes every request fail with `fault` from now on.
    fn fail_every_request(&self, fault: &Fault) {
        for method in ["GET", "POST", "PUT", "LIST"] {
            self.vault.always(method, "", fault.clone());
        }
    }

    /// Returns a pod that is rejected, and waits until the outage is detected.
    async fn pod_rejected_by_outage(&self) -> Pod {
        let pod = self.pod();
        // A server that has just passed a health probe, because it was slow, is not probed again immediately.
        wait_until("the server is marked down", async || {
            assert!(self.daemon.mount(pod.mount_call()).await.is_err());
            has_outage(&self.daemon).await
        })
        .await;
        pod
    }

    /// Advances the clock while no request is under way, since the advance would count as request time.
    async fn advance_when_idle(&self, time: Duration) {
        self.vault.wait_until_idle("").await;
        sleep(Duration::from_millis(20)).await;
        advance(time).await;
    }
}

#[tokio::test]
async fn lost_auth_method_fails_polls_until_restored() {
    let stage = LifetimeFixture::with_ttls(&["--refresh-interval=10s"], json!({}), json!({})).await;
    let pod = stage.pod();
    let (old, _) = stage.mount(&pod).await;
    // Every token of the auth mount ends with the mount.
    let auth = format!("sys/auth/{}", stage.tenant.auth);
    root_request("DELETE", &auth, Value::Null).await;
    stage.database.wait_until_no_users().await;
    advance(Duration::from_secs(11)).await;
    let (cause, _) = stage.daemon.mount_error(pod.mount_call()).await;
    assert_eq!(cause, Cause::AuthMountMissing);
    root_request("POST", &auth, json!({"type": "jwt"})).await;
    let config = json!({"jwt_validation_pubkeys": [issuer_key().public_key_pem()]});
    root_request("POST", &format!("auth/{}/config", stage.tenant.auth), config).await;
    stage.tenant.write_role("app", json!({})).await;
    let (username, password) = stage.mount(&pod).await;
    assert_ne!(username, old);
    log_in(&username, &password).await.unwrap();
}

/// Checks twenty pods with credentials and tokens that expire during an outage.
async fn assert_one_credential_after_outage(
    start_outage: impl AsyncFnOnce(&mut LifetimeFixture),
    end_outage: impl AsyncFnOnce(&mut LifetimeFixture),
) {
    let lasts = json!({"default_ttl": "5s", "max_ttl": "60s"});
    let mut stage = LifetimeFixture::with_ttls(&[], lasts, json!({"token_ttl": "5s", "token_max_ttl": "60s"})).await;
    let pods: Vec<Pod> = (0..20).map(|_| stage.pod()).collect();
    let first = join_all(pods.iter().map(|pod| stage.mount(pod))).await;
    let (logins, created) = (stage.count_logins(), stage.count_credential_requests());
    start_outage(&mut stage).await;
    stage.pod_rejected_by_outage().await;
    let [away, tried] = [stage.count_logins(), stage.vault.count("POST", "sys/leases/renew")];
    sleep(Duration::from_secs(7)).await;
    // All secrets have expired: polls are rejected immediately.
    let begun = Instant::now();
    let polls = join_all(pods.iter().map(|pod| stage.daemon.mount(pod.mount_call()))).await;
    assert!(polls.iter().all(Result::is_err) && begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
    assert_eq!(
        (stage.count_logins(), stage.vault.count("POST", "sys/leases/renew")),
        (away, tried),
        "asked while it is down"
    );
    // New credentials get long TTLs, so that they survive on a slow machine.
    stage.tenant.write_role("app", json!({"token_max_ttl": "1h"})).await;
    stage.database.write_role(json!({"max_ttl": "1h"})).await;
    end_outage(&mut stage).await;
    wait_until("the server is up again", async || {
        // A poll requests a probe soon.
        let _ = stage.daemon.mount(pods[0].mount_call()).await;
        !has_outage(&stage.daemon).await
    })
    .await;
    let mut last = Vec::new();
    for _ in 0..3 {
        last = join_all(pods.iter().map(|pod| stage.mount(pod))).await;
    }
    for ((old, _), (username, password)) in first.iter().zip(&last) {
        assert_ne!(old, username);
        log_in(username, password).await.unwrap();
    }
    assert_eq!((logins, created), (20, 20));
    assert_eq!((stage.count_logins() - away, stage.count_credential_requests() - created), (20, 20));
}

#[tokio::test]
async fn outage_past_all_ttls_ends_with_one_credential_per_pod() {
    assert_one_credential_after_outage(
        async |stage| stage.vault.stop_listening().await,
        async |stage| stage.vault.listen_again(None),
    )
    .await;
}

#[tokio::test]
async fn hanging_outage_past_all_ttls_ends_with_one_credential() {
    let gate = Gate::new();
    let begin = async |stage: &mut LifetimeFixture| stage.fail_every_request(&Fault::HoldRequest(gate.clone()));
    assert_one_credential_after_outage(begin, async |stage: &mut LifetimeFixture| {
        stage.vault.clear_rules();
        gate.open();
    })
    .await;
}

#[tokio::test]
async fn outage_defers_renewals_without_failing_them() {
    let stage = LifetimeFixture::with_ttls(&[], json!({"default_ttl": "1h"}), json!({"token_ttl": "1h"})).await;
    let pods: Vec<Pod> = (0..10).map(|_| stage.pod()).collect();
    let first = join_all(pods.iter().map(|pod| stage.mount(pod))).await;
    stage.fail_every_request(&vault_error(503, "Vault is sealed"));
    stage.pod_rejected_by_outage().await;
    let logins = stage.count_logins();
    let renewals = || [stage.count_lease_renewals(), stage.vault.count("POST", "auth/token/renew-self")];
    // All renewals are due after forty minutes.
    for _ in 0..50 {
        advance(Duration::from_secs(60)).await;
        sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(renewals(), [0, 0]);
    let reported = stage.status().await;
    assert!(
        reported["sessions"].as_array().unwrap().iter().all(|session| {
            let states = [&session["token"]["state"], &session["secrets"][0]["state"]];
            // The rejected pod has neither.
            states.iter().all(|state| state.is_null()) || (states[0] == "active" && states[1] == "expiring")
        }),
        "{reported:#}"
    );
    assert!(reported["sessions"].to_string().contains("its Vault is down"), "{reported:#}");
    stage.vault.clear_rules();
    wait_until_up(&stage.daemon).await;
    wait_until("all are renewed", async || {
        stage.advance_when_idle(Duration::from_secs(3)).await;
        renewals() == [10, 10]
    })
    .await;
    assert!(
        stage.vault.max_concurrent("auth/token/renew-self") <= 4 && stage.vault.max_concurrent("sys/leases/renew") <= 4
    );
    assert_eq!(join_all(pods.iter().map(|pod| stage.mount(pod))).await, first);
    assert_eq!((stage.count_logins(), stage.count_credential_requests()), (logins, 10));
}

#[tokio::test]
async fn outage_withholds_queued_renewals() {
    let stage = LifetimeFixture::with_ttls(&[], json!({"default_ttl": "1h"}), json!({"token_ttl": "1h"})).await;
    let pods: Vec<Pod> = (0..12).map(|_| stage.pod()).collect();
    join_all(pods.iter().map(|pod| stage.mount(pod))).await;
    let gate = Gate::new();
    stage.fail_every_request(&Fault::HoldRequest(gate.clone()));
    advance(Duration::from_secs(45 * 60)).await;
    wait_until_down(&stage.daemon).await;
    sleep(Duration::from_millis(500)).await;
    assert_eq!((stage.vault.count("POST", "auth/token/renew-self"), stage.count_lease_renewals()), (4, 0));
    let reported = stage.status().await;
    let states: Vec<_> =
        reported["sessions"].as_array().unwrap().iter().map(|session| &session["token"]["state"]).collect();
    assert!(states.len() == 12 && states.iter().all(|state| *state == "active"), "{states:?}");
    stage.vault.clear_rules();
    gate.open();
    wait_until("all are renewed", async || {
        stage.advance_when_idle(Duration::from_secs(3)).await;
        stage.count_lease_renewals() == 12
    })
    .await;
    assert_eq!((stage.count_logins(), stage.count_credential_requests()), (12, 12));
}

#[tokio::test]
async fn outage_logs_credential_expiry_in_time() {
    let (tenant, vault) = (Tenant::new().await, FaultProxy::start().await);
    let database = DatabaseEngine::for_tenant(&tenant).await;
    database.write_role(json!({"default_ttl": "9s"})).await;
    let daemon = ProviderProcess::start_at(&vault.address, &[]).await;
    let pod = || Pod::for_tenant(&tenant).with_objects(credential_objects(&database));
    let mut client = Client::connect(&daemon.socket).await.unwrap();
    client.mount(pod().mount_call()).await.unwrap();
    for method in ["GET", "POST"] {
        vault.always(method, "", vault_error(503, "Vault is sealed"));
    }
    assert!(client.mount(pod().mount_call()).await.is_err());
    sleep(Duration::from_secs(11)).await;
    daemon.terminate();
    let log = daemon.wait_for_log().await;
    let count_lines = |what: &str| log.lines().filter(|line| line.contains(what)).count();
    assert_eq!((count_lines("credential expires soon"), count_lines("credential expired")), (1, 1), "{log}");
    let warning = log.lines().find(|line| line.contains("credential expires soon")).unwrap();
    assert!(warning.contains("Vault is down"), "{warning}");
    assert_eq!(count_lines("renewal failed"), 0, "{log}");
}

#[tokio::test]
async fn outage_recovery_renews_expiring_secrets_in_time() {
    let stage = LifetimeFixture::with_ttls(&[], json!({"default_ttl": "1h"}), json!({"token_ttl": "1h"})).await;
    let pod = stage.pod();
    let first = stage.mount(&pod).await;
    stage.fail_every_request(&vault_error(503, "Vault is sealed"));
    stage.pod_rejected_by_outage().await;
    // All but the last half minute, without a poll.
    for _ in 0..357 {
        advance(Duration::from_secs(10)).await;
        sleep(Duration::from_millis(3)).await;
    }
    let probes = stage.vault.count("GET", "sys/health");
    for _ in 0..22 {
        stage.advance_when_idle(Duration::from_secs(1)).await;
    }
    // Without a poll there would be one probe every 15 to 30 s.
    assert!(stage.vault.count("GET", "sys/health") - probes > 3);
    stage.vault.clear_rules();
    for _ in 0..6 {
        stage.advance_when_idle(Duration::from_secs(1)).await;
    }
    stage.vault.wait_until_idle("").await;
    assert_eq!((stage.count_lease_renewals(), stage.vault.count("POST", "auth/token/renew-self")), (1, 1));
    advance(Duration::from_secs(60)).await;
    assert_eq!(stage.mount(&pod).await, first);
}

#[tokio::test]
async fn outage_defers_revocations_without_attempts() {
    let stage = LifetimeFixture::new(&[]).await;
    let pods: Vec<Pod> = (0..6).map(|_| stage.pod()).collect();
    join_all(pods.iter().map(|pod| stage.mount(pod))).await;
    stage.fail_every_request(&vault_error(503, "Vault is sealed"));
    let turned_away = stage.pod_rejected_by_outage().await;
    // No pod remains that uses Vault.
    for pod in pods.iter().chain([&turned_away]) {
        stage.api.delete_pod(&pod.namespace, &pod.name);
    }
    let waiting = async || stage.status().await["revocations"].as_array().unwrap().clone();
    wait_until("all wait", async || waiting().await.len() == 6).await;
    for _ in 0..20 {
        advance(Duration::from_secs(10)).await;
        sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(stage.vault.count("POST", "auth/token/revoke-self"), 0);
    let reported = waiting().await;
    let is_reported = |one: &Value| one["attempts"] == 0 && one["last_error"].as_str().unwrap().contains("[VM0020]");
    assert!(reported.len() == 6 && reported.iter().all(is_reported), "{reported:#?}");
    assert!(has_outage(&stage.daemon).await);
    stage.vault.clear_rules();
    wait_until_up(&stage.daemon).await;
    wait_until("all are revoked", async || {
        stage.advance_when_idle(Duration::from_secs(2)).await;
        stage.vault.count("POST", "auth/token/revoke-self") == 6
    })
    .await;
    stage.database.wait_until_no_users().await;
}

#[tokio::test]
async fn unused_server_is_probed_only_at_idle_intervals() {
    let stage = LifetimeFixture::new(&[]).await;
    stage.fail_every_request(&vault_error(503, "Vault is sealed"));
    let pod = stage.pod_rejected_by_outage().await;
    stage.api.delete_pod(&pod.namespace, &pod.name);
    wait_until("it is forgotten", async || {
        advance(Duration::from_secs(10)).await;
        sleep(Duration::from_millis(5)).await;
        !has_outage(&stage.daemon).await
    })
    .await;
    let probes = stage.vault.count("GET", "sys/health");
    assert!((10..40).contains(&probes), "{probes}");
    for _ in 0..20 {
        advance(Duration::from_secs(60)).await;
        sleep(Duration::from_millis(5)).await;
    }
    // The operator's own server is probed after a pause that doubles up to five minutes.
    let since = stage.vault.count("GET", "sys/health") - probes;
    assert!((4..=11).contains(&since), "{since}");
}

#[tokio::test]
async fn max_mutating_waiters_are_not_sent_during_outage() {
    let stage = LifetimeFixture::new(&[]).await;
    let pods: Vec<Pod> = (0..8).map(|_| stage.pod()).collect();
    let gate = Gate::new();
    stage.vault.always("GET", &stage.database.path, Fault::HoldRequest(gate.clone()));
    stage.vault.always("GET", "sys/health", Fault::HoldRequest(Gate::new()));
    let calls = join_all(pods.iter().map(|pod| stage.daemon.mount_error(pod.mount_call()))).await;
    assert!(calls.iter().all(|(cause, _)| *cause == Cause::Unreachable), "{calls:?}");
    assert_eq!(stage.count_credential_requests(), 4);
    // The four responses arrive and release their permits to the others.
    gate.open();
    wait_until("the four users are created", async || stage.database.users().await.len() == 4).await;
    sleep(Duration::from_millis(500)).await;
    assert_eq!(stage.count_credential_requests(), 4);
}

#[tokio::test]
async fn outage_during_credential_request_creates_only_one() {
    let stage = LifetimeFixture::new(&[]).await;
    let pod = stage.pod();
    // The credential is created, and no response arrives any more.
    let gate = Gate::new();
    stage.vault.always("GET", &stage.database.path, Fault::HoldResponse(gate.clone()));
    stage.vault.always("GET", "sys/health", Fault::HoldRequest(gate.clone()));
    let begun = Instant::now();
    let (cause, text) = stage.daemon.mount_error(pod.mount_call()).await;
    assert_eq!(cause, Cause::Unreachable, "{text}");
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    // An immediate retry waits for the pending request, or is rejected.
    stage.daemon.mount_error(pod.mount_call()).await;
    stage.vault.clear_rules();
    gate.open();
    wait_until_up(&stage.daemon).await;
    let (username, password) = stage.mount(&pod).await;
    log_in(&username, &password).await.unwrap();
    assert_eq!((stage.count_credential_requests(), stage.database.users().await), (1, vec![username]));
}
