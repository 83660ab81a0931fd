//! Vault away for shorter and for longer than anything lives: nothing is asked of it, nothing counts as failed, and when it is
//! back there is one of everything.

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use serde_json::{Value, json};
use tokio::time::sleep;
use vaultmount::{error::Cause, provider::client::Client};

use super::{Stage, credential, until};
use crate::support::{
    bao::{Tenant, issuer, root},
    clock::leap,
    daemon::Program,
    database::{Database, log_in},
    faulty::{Fault, Faulty, Gate, status},
    pod::Pod,
    standing::{is_down, until_down, until_up},
};

impl Stage {
    /// From now on every request fares so.
    fn everything(&self, fault: &Fault) {
        for method in ["GET", "POST", "PUT", "LIST"] {
            self.vault.every(method, "", fault.clone());
        }
    }

    /// A pod that is turned away, and by which the outage shows.
    async fn turned_away(&self) -> Pod {
        let pod = self.pod();
        // A server that was found well a moment ago, as it was slow, is not asked at once.
        until("it is found down", async || {
            assert!(self.daemon.mount(pod.call()).await.is_err());
            is_down(&self.daemon).await
        })
        .await;
        pod
    }

    /// Lets time pass while no request is under way, which would seem to take as long.
    async fn pass(&self, time: Duration) {
        self.vault.idle("").await;
        sleep(Duration::from_millis(20)).await;
        leap(time).await;
    }
}

#[tokio::test]
async fn a_vault_that_lost_its_auth_method_fails_polls_until_it_is_there_again() {
    let stage = Stage::of(&["--refresh-interval=10s"], json!({}), json!({})).await;
    let pod = stage.pod();
    let (old, _) = stage.mount(&pod).await;
    // Every token of it ends with it.
    let auth = format!("sys/auth/{}", stage.tenant.auth);
    root("DELETE", &auth, Value::Null).await;
    stage.database.empties().await;
    leap(Duration::from_secs(11)).await;
    let (cause, _) = stage.daemon.refusal(pod.call()).await;
    assert_eq!(cause, Cause::AuthMountMissing);
    root("POST", &auth, json!({"type": "jwt"})).await;
    let config = json!({"jwt_validation_pubkeys": [issuer().public_key_pem()]});
    root("POST", &format!("auth/{}/config", stage.tenant.auth), config).await;
    stage.tenant.role("app", json!({})).await;
    let (username, password) = stage.mount(&pod).await;
    assert_ne!(username, old);
    log_in(&username, &password).await.unwrap();
}

/// Twenty pods whose credentials and tokens end during an outage.
async fn outlives(goes: impl AsyncFnOnce(&mut Stage), comes_back: impl AsyncFnOnce(&mut Stage)) {
    let lasts = json!({"default_ttl": "5s", "max_ttl": "60s"});
    let mut stage = Stage::of(&[], lasts, json!({"token_ttl": "5s", "token_max_ttl": "60s"})).await;
    let pods: Vec<Pod> = (0..20).map(|_| stage.pod()).collect();
    let first = join_all(pods.iter().map(|pod| stage.mount(pod))).await;
    let (logins, created) = (stage.logins(), stage.created());
    goes(&mut stage).await;
    stage.turned_away().await;
    let [away, tried] = [stage.logins(), stage.vault.count("POST", "sys/leases/renew")];
    sleep(Duration::from_secs(7)).await;
    // All of it is over: who polls now is turned away, and at once.
    let begun = Instant::now();
    let polls = join_all(pods.iter().map(|pod| stage.daemon.mount(pod.call()))).await;
    assert!(polls.iter().all(Result::is_err) && begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
    assert_eq!(
        (stage.logins(), stage.vault.count("POST", "sys/leases/renew")),
        (away, tried),
        "asked while it is down"
    );
    // What comes now lives on, however slow the machine is.
    stage.tenant.role("app", json!({"token_max_ttl": "1h"})).await;
    stage.database.tune(json!({"max_ttl": "1h"})).await;
    comes_back(&mut stage).await;
    until("it is back", async || {
        // Somebody polls, and has it probed soon.
        let _ = stage.daemon.mount(pods[0].call()).await;
        !is_down(&stage.daemon).await
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
    assert_eq!((stage.logins() - away, stage.created() - created), (20, 20));
}

#[tokio::test]
async fn an_outage_longer_than_anything_lives_ends_with_one_credential_per_pod() {
    outlives(async |stage| stage.vault.down().await, async |stage| stage.vault.up(None)).await;
}

#[tokio::test]
async fn so_does_one_in_which_nothing_was_answered() {
    let gate = Gate::new();
    let begin = async |stage: &mut Stage| stage.everything(&Fault::Hold(gate.clone()));
    outlives(begin, async |stage: &mut Stage| {
        stage.vault.heal();
        gate.open();
    })
    .await;
}

#[tokio::test]
async fn renewals_wait_for_vault_and_have_not_failed() {
    let stage = Stage::of(&[], json!({"default_ttl": "1h"}), json!({"token_ttl": "1h"})).await;
    let pods: Vec<Pod> = (0..10).map(|_| stage.pod()).collect();
    let first = join_all(pods.iter().map(|pod| stage.mount(pod))).await;
    stage.everything(&status(503, "Vault is sealed"));
    stage.turned_away().await;
    let logins = stage.logins();
    let renewals = || [stage.renewals(), stage.vault.count("POST", "auth/token/renew-self")];
    // All are due after forty minutes.
    for _ in 0..50 {
        leap(Duration::from_secs(60)).await;
        sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(renewals(), [0, 0]);
    let told = stage.told().await;
    assert!(
        told["sessions"].as_array().unwrap().iter().all(|session| {
            let states = [&session["token"]["state"], &session["secrets"][0]["state"]];
            // The one that was turned away has neither.
            states.iter().all(|state| state.is_null()) || (states[0] == "active" && states[1] == "expiring")
        }),
        "{told:#}"
    );
    assert!(told["sessions"].to_string().contains("its Vault is down"), "{told:#}");
    stage.vault.heal();
    until_up(&stage.daemon).await;
    until("all are renewed", async || {
        stage.pass(Duration::from_secs(3)).await;
        renewals() == [10, 10]
    })
    .await;
    assert!(stage.vault.peak("auth/token/renew-self") <= 4 && stage.vault.peak("sys/leases/renew") <= 4);
    assert_eq!(join_all(pods.iter().map(|pod| stage.mount(pod))).await, first);
    assert_eq!((stage.logins(), stage.created()), (logins, 10));
}

#[tokio::test]
async fn renewals_that_wait_for_their_turn_when_vault_goes_down_are_not_sent() {
    let stage = Stage::of(&[], json!({"default_ttl": "1h"}), json!({"token_ttl": "1h"})).await;
    let pods: Vec<Pod> = (0..12).map(|_| stage.pod()).collect();
    join_all(pods.iter().map(|pod| stage.mount(pod))).await;
    let gate = Gate::new();
    stage.everything(&Fault::Hold(gate.clone()));
    leap(Duration::from_secs(45 * 60)).await;
    until_down(&stage.daemon).await;
    sleep(Duration::from_millis(500)).await;
    assert_eq!((stage.vault.count("POST", "auth/token/renew-self"), stage.renewals()), (4, 0));
    let told = stage.told().await;
    let states: Vec<_> =
        told["sessions"].as_array().unwrap().iter().map(|session| &session["token"]["state"]).collect();
    assert!(states.len() == 12 && states.iter().all(|state| *state == "active"), "{states:?}");
    stage.vault.heal();
    gate.open();
    until("all are renewed", async || {
        stage.pass(Duration::from_secs(3)).await;
        stage.renewals() == 12
    })
    .await;
    assert_eq!((stage.logins(), stage.created()), (12, 12));
}

#[tokio::test]
async fn ends_that_come_while_vault_is_down_are_told_in_time() {
    let (tenant, vault) = (Tenant::new().await, Faulty::start().await);
    let database = Database::of(&tenant).await;
    database.tune(json!({"default_ttl": "9s"})).await;
    let daemon = Program::at(&vault.address, &[]).await;
    let pod = || Pod::of(&tenant).objects(credential(&database));
    let mut client = Client::connect(&daemon.socket).await.unwrap();
    client.mount(pod().call()).await.unwrap();
    for method in ["GET", "POST"] {
        vault.every(method, "", status(503, "Vault is sealed"));
    }
    assert!(client.mount(pod().call()).await.is_err());
    sleep(Duration::from_secs(11)).await;
    daemon.terminate();
    let log = daemon.log().await;
    let said = |what: &str| log.lines().filter(|line| line.contains(what)).count();
    assert_eq!(
        (said("the pod's credential ends, and Vault is down"), said("the pod's credential is over")),
        (1, 1),
        "{log}"
    );
    assert_eq!(said("is not renewed"), 0, "{log}");
}

#[tokio::test]
async fn what_ends_soon_is_renewed_in_time_after_a_long_outage() {
    let stage = Stage::of(&[], json!({"default_ttl": "1h"}), json!({"token_ttl": "1h"})).await;
    let pod = stage.pod();
    let first = stage.mount(&pod).await;
    stage.everything(&status(503, "Vault is sealed"));
    stage.turned_away().await;
    // All but the last half minute; no poll comes meanwhile.
    for _ in 0..357 {
        leap(Duration::from_secs(10)).await;
        sleep(Duration::from_millis(3)).await;
    }
    let probes = stage.vault.count("GET", "sys/health");
    for _ in 0..22 {
        stage.pass(Duration::from_secs(1)).await;
    }
    // By itself there would be one every 15 to 30 s.
    assert!(stage.vault.count("GET", "sys/health") - probes > 3);
    stage.vault.heal();
    for _ in 0..6 {
        stage.pass(Duration::from_secs(1)).await;
    }
    stage.vault.idle("").await;
    assert_eq!((stage.renewals(), stage.vault.count("POST", "auth/token/renew-self")), (1, 1));
    leap(Duration::from_secs(60)).await;
    assert_eq!(stage.mount(&pod).await, first);
}

#[tokio::test]
async fn revocations_wait_for_vault_and_are_no_attempts() {
    let stage = Stage::new(&[]).await;
    let pods: Vec<Pod> = (0..6).map(|_| stage.pod()).collect();
    join_all(pods.iter().map(|pod| stage.mount(pod))).await;
    stage.everything(&status(503, "Vault is sealed"));
    let turned_away = stage.turned_away().await;
    // Nobody is left that would use Vault.
    for pod in pods.iter().chain([&turned_away]) {
        stage.api.delete_pod(&pod.namespace, &pod.name);
    }
    let waiting = async || stage.told().await["revocations"].as_array().unwrap().clone();
    until("all wait", async || waiting().await.len() == 6).await;
    for _ in 0..20 {
        leap(Duration::from_secs(10)).await;
        sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(stage.vault.count("POST", "auth/token/revoke-self"), 0);
    let told = waiting().await;
    let is_told = |one: &Value| one["attempts"] == 0 && one["last_error"].as_str().unwrap().contains("[VM0020]");
    assert!(told.len() == 6 && told.iter().all(is_told), "{told:#?}");
    assert!(is_down(&stage.daemon).await);
    stage.vault.heal();
    until_up(&stage.daemon).await;
    until("all are revoked", async || {
        stage.pass(Duration::from_secs(2)).await;
        stage.vault.count("POST", "auth/token/revoke-self") == 6
    })
    .await;
    stage.database.empties().await;
}

#[tokio::test]
async fn a_server_that_no_pod_uses_any_more_is_not_probed() {
    let stage = Stage::new(&[]).await;
    stage.everything(&status(503, "Vault is sealed"));
    let pod = stage.turned_away().await;
    stage.api.delete_pod(&pod.namespace, &pod.name);
    until("it is forgotten", async || {
        leap(Duration::from_secs(10)).await;
        sleep(Duration::from_millis(5)).await;
        !is_down(&stage.daemon).await
    })
    .await;
    let probes = stage.vault.count("GET", "sys/health");
    assert!((10..40).contains(&probes), "{probes}");
    for _ in 0..20 {
        leap(Duration::from_secs(60)).await;
        sleep(Duration::from_millis(5)).await;
    }
    // The operator's own is asked how it is now and then: after a pause that doubles up to five minutes.
    let since = stage.vault.count("GET", "sys/health") - probes;
    assert!((4..=11).contains(&since), "{since}");
}

#[tokio::test]
async fn what_waits_for_its_turn_to_create_is_not_sent_to_a_server_that_is_down() {
    let stage = Stage::new(&[]).await;
    let pods: Vec<Pod> = (0..8).map(|_| stage.pod()).collect();
    let gate = Gate::new();
    stage.vault.every("GET", &stage.database.path, Fault::Hold(gate.clone()));
    stage.vault.every("GET", "sys/health", Fault::Hold(Gate::new()));
    let calls = join_all(pods.iter().map(|pod| stage.daemon.refusal(pod.call()))).await;
    assert!(calls.iter().all(|(cause, _)| *cause == Cause::Unreachable), "{calls:?}");
    assert_eq!(stage.created(), 4);
    // The four are answered, and their turns are the others'.
    gate.open();
    until("they are made", async || stage.database.users().await.len() == 4).await;
    sleep(Duration::from_millis(500)).await;
    assert_eq!(stage.created(), 4);
}

#[tokio::test]
async fn a_credential_that_was_asked_for_when_vault_went_down_is_made_once() {
    let stage = Stage::new(&[]).await;
    let pod = stage.pod();
    // It is made, and nothing is answered any more.
    let gate = Gate::new();
    stage.vault.every("GET", &stage.database.path, Fault::HoldAnswer(gate.clone()));
    stage.vault.every("GET", "sys/health", Fault::Hold(gate.clone()));
    let begun = Instant::now();
    let (cause, text) = stage.daemon.refusal(pod.call()).await;
    assert_eq!(cause, Cause::Unreachable, "{text}");
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    // Whoever tries again at once waits for the one that is under way, or is turned away.
    stage.daemon.refusal(pod.call()).await;
    stage.vault.heal();
    gate.open();
    until_up(&stage.daemon).await;
    let (username, password) = stage.mount(&pod).await;
    log_in(&username, &password).await.unwrap();
    assert_eq!((stage.created(), stage.database.users().await), (1, vec![username]));
}
