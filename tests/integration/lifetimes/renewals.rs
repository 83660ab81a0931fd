//! Renewals in the background: of tokens that carry leases, and of leases; and what their failures lead to.

use std::time::Duration;

use serde_json::json;
use tokio::time::{Instant, sleep};

use super::{Stage, until};
use crate::support::{
    bao::root,
    clock::leap,
    database::log_in,
    faulty::{Fault, Faulty, Gate, status},
};

/// Credentials and tokens of so many seconds, for a minute at most.
async fn short(seconds: u32) -> Stage {
    let ttl = format!("{seconds}s");
    Stage::of(&[], json!({"default_ttl": ttl, "max_ttl": "60s"}), json!({"token_ttl": ttl, "token_max_ttl": "60s"}))
        .await
}

#[tokio::test]
async fn token_and_lease_live_on_while_the_pod_does() {
    let stage = short(6).await;
    let pod = stage.pod();
    let (username, password) = stage.mount(&pod).await;
    // Twice as long as anything would live by itself.
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(12) {
        log_in(&username, &password).await.unwrap();
        sleep(Duration::from_millis(200)).await;
    }
    assert_eq!(stage.mount(&pod).await, (username, password));
    let renewed = (stage.renewals(), stage.vault.count("POST", "auth/token/renew-self"));
    assert!(renewed.0 >= 2 && renewed.0 <= 5 && renewed.1 >= 2 && renewed.1 <= 5, "{renewed:?}");
    let asked: Vec<i64> = stage
        .vault
        .seen("POST", "sys/leases/renew")
        .iter()
        .map(|seen| serde_json::from_slice::<serde_json::Value>(&seen.body).unwrap()["increment"].as_i64().unwrap())
        .collect();
    assert!(asked.iter().all(|increment| *increment == 6), "not the original duration: {asked:?}");
    assert_eq!((stage.logins(), stage.created()), (1, 1));
}

#[tokio::test]
async fn polls_while_vault_is_slow_ask_for_no_second_renewal() {
    let stage = Stage::of(&[], json!({}), json!({"token_ttl": "1h"})).await;
    let pod = stage.pod();
    let first = stage.mount(&pod).await;
    let gate = Gate::new();
    for path in ["auth/token/renew-self", "sys/leases/renew"] {
        stage.vault.every("POST", path, Fault::Hold(gate.clone()));
    }
    leap(Duration::from_secs(45 * 60)).await;
    stage.vault.saw(1, "POST", "auth/token/renew-self").await;
    for _ in 0..20 {
        assert_eq!(stage.mount(&pod).await, first);
        sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(stage.vault.count("POST", "auth/token/renew-self"), 1);
    gate.open();
    stage.vault.saw(1, "POST", "sys/leases/renew").await;
    sleep(Duration::from_millis(200)).await;
    assert_eq!((stage.vault.count("POST", "auth/token/renew-self"), stage.renewals()), (1, 1));
}

#[tokio::test]
async fn a_token_with_plain_secrets_only_is_not_renewed() {
    let stage = short(4).await;
    let pod = stage.pod().objects(format!("- {{objectName: kv, secretPath: {}/data/db}}\n", stage.tenant.kv));
    stage.daemon.files(&pod).await;
    sleep(Duration::from_secs(5)).await;
    assert_eq!(stage.vault.count("POST", "auth/token/renew-self"), 0);
    stage.daemon.files(&pod).await;
    assert_eq!(stage.logins(), 1, "what is fresh needs no token");
}

/// Fifty renewals of this path in vain, and the pod's credential is still the first.
async fn fails_in_vain(path: &str, fault: Fault) {
    let stage = Stage::of(&[], json!({"default_ttl": "24h"}), json!({"token_ttl": "24h"})).await;
    let pod = stage.pod();
    let first = stage.mount(&pod).await;
    stage.vault.every("POST", path, fault);
    let asked = || stage.vault.count("POST", path);
    // Only this process's clock goes on, so that nothing ends at Vault's side.
    leap(Duration::from_secs(16 * 3600)).await;
    let goes_on = async |renewals| {
        sleep(Duration::from_millis(30)).await;
        leap(Duration::from_secs(30)).await;
        assert_eq!(stage.mount(&pod).await, first);
        asked() >= renewals
    };
    until("fifty renewals failed", async || goes_on(50).await).await;
    assert_eq!((stage.logins(), stage.created(), stage.database.users().await.len()), (1, 1, 1));
    log_in(&first.0, &first.1).await.unwrap();
    stage.vault.heal();
    let failed = asked();
    until("it is renewed", async || goes_on(failed + 1).await).await;
    assert_eq!((stage.logins(), stage.created()), (1, 1));
}

#[tokio::test]
async fn renewals_that_are_denied_make_no_new_credential() {
    fails_in_vain("sys/leases/renew", status(403, "1 error occurred:\n\t* permission denied\n\n")).await;
}

#[tokio::test]
async fn renewals_that_are_too_many_make_no_new_credential() {
    fails_in_vain("sys/leases/renew", status(429, "quota")).await;
}

#[tokio::test]
async fn renewals_that_fail_make_no_new_credential() {
    for path in ["sys/leases/renew", "auth/token/renew-self"] {
        fails_in_vain(path, status(500, "internal error")).await;
    }
}

#[tokio::test]
async fn a_token_that_an_operator_revoked_is_healed_at_the_next_poll_with_one_login() {
    let stage = Stage::of(&["--refresh-interval=10s"], json!({}), json!({})).await;
    let pod = stage.pod();
    let (old, _) = stage.mount(&pod).await;
    stage.revoke_by_accessor().await;
    stage.database.empties().await;
    leap(Duration::from_secs(11)).await;
    let (username, password) = stage.mount(&pod).await;
    assert_ne!(username, old);
    log_in(&username, &password).await.unwrap();
    stage.mount(&pod).await;
    assert_eq!((stage.logins(), stage.created()), (2, 2));
}

#[tokio::test]
async fn a_token_that_is_gone_is_noticed_by_a_renewal_and_costs_no_login_before_the_poll() {
    let stage = short(6).await;
    let pod = stage.pod();
    stage.mount(&pod).await;
    stage.revoke_by_accessor().await;
    stage.vault.saw(1, "GET", "auth/token/lookup-self").await;
    sleep(Duration::from_secs(3)).await;
    assert_eq!((stage.logins(), stage.vault.count("GET", "auth/token/lookup-self")), (1, 1));
    let (username, password) = stage.mount(&pod).await;
    log_in(&username, &password).await.unwrap();
    assert_eq!((stage.logins(), stage.created()), (2, 2));
}

#[tokio::test]
async fn a_lease_that_an_operator_revoked_is_read_anew_under_the_same_token() {
    let stage = short(6).await;
    let pod = stage.pod();
    let (old, _) = stage.mount(&pod).await;
    root("PUT", &format!("sys/leases/revoke-prefix/{}", stage.database.path), json!({"sync": true})).await;
    stage.vault.saw(1, "POST", "sys/leases/renew").await;
    sleep(Duration::from_millis(300)).await;
    let (username, password) = stage.mount(&pod).await;
    assert_ne!(username, old);
    log_in(&username, &password).await.unwrap();
    assert_eq!((stage.logins(), stage.created()), (1, 2));
}

#[tokio::test]
async fn periodic_tokens_are_renewed_for_ever_and_others_to_their_maximum() {
    let stage = Stage::of(&[], json!({"default_ttl": "1h"}), json!({"token_period": "5s"})).await;
    let pod = stage.pod();
    let first = stage.mount(&pod).await;
    sleep(Duration::from_secs(11)).await;
    assert_eq!(stage.mount(&pod).await, first);
    log_in(&first.0, &first.1).await.unwrap();
    assert_eq!(stage.logins(), 1);

    let stage =
        Stage::of(&[], json!({"default_ttl": "1h"}), json!({"token_period": "5s", "token_explicit_max_ttl": "9s"}))
            .await;
    stage.replaces_in_time().await;
    assert_eq!((stage.logins(), stage.created()), (2, 2));
}

#[tokio::test]
async fn a_token_without_the_default_policy_is_not_renewed_and_replaced_in_time() {
    let stage = Stage::of(&[], json!({}), json!({"token_ttl": "10s", "token_no_default_policy": true})).await;
    stage.replaces_in_time().await;
    assert_eq!((stage.logins(), stage.created()), (2, 2));
}

#[tokio::test]
async fn batch_tokens_and_those_of_few_uses_are_left_alone() {
    for login in [json!({"token_type": "batch", "token_ttl": "9s"}), json!({"token_num_uses": 9, "token_ttl": "9s"})] {
        let stage = Stage::of(&[], json!({}), login).await;
        stage.replaces_in_time().await;
        assert_eq!((stage.renewals(), stage.vault.count("POST", "auth/token/renew-self")), (0, 0));
    }
}

#[tokio::test]
async fn polls_during_a_slow_renewal_start_no_other() {
    let stage = short(6).await;
    let pod = stage.pod();
    stage.mount(&pod).await;
    let gate = Gate::new();
    stage.vault.every("POST", "sys/leases/renew", Fault::Hold(gate.clone()));
    stage.vault.saw(1, "POST", "sys/leases/renew").await;
    for _ in 0..20 {
        stage.mount(&pod).await;
        sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(stage.renewals(), 1);
    gate.open();
    stage.vault.saw(2, "POST", "sys/leases/renew").await;
}

#[tokio::test]
async fn a_server_that_is_silent_keeps_no_other_from_being_renewed() {
    let stage = Stage::of(&["--allow-address=http://127.0.0.1:*"], json!({"default_ttl": "5s"}), json!({})).await;
    let silent = Faulty::start().await;
    for _ in 0..10 {
        stage.mount(&stage.pod().with("vaultAddress", &silent.address)).await;
    }
    silent.every("POST", "sys/leases/renew", Fault::Hold(Gate::new()));
    silent.every("POST", "auth/token/renew-self", Fault::Hold(Gate::new()));
    let pod = stage.pod();
    let (username, password) = stage.mount(&pod).await;
    silent.saw(4, "POST", "sys/leases/renew").await;
    stage.vault.saw(2, "POST", "sys/leases/renew").await;
    log_in(&username, &password).await.unwrap();
    assert_eq!(stage.mount(&pod).await.0, username);
}

#[tokio::test]
async fn an_outage_during_renewals_is_survived() {
    let mut stage = short(12).await;
    let pod = stage.pod();
    let first = stage.mount(&pod).await;
    stage.vault.down().await;
    sleep(Duration::from_secs(9)).await;
    stage.vault.up(None);
    sleep(Duration::from_secs(5)).await;
    assert_eq!(stage.mount(&pod).await, first);
    log_in(&first.0, &first.1).await.unwrap();
    assert_eq!((stage.logins(), stage.created()), (1, 1));
}

impl Stage {
    /// Polls a pod until it has another database user, and logs in with each it has.
    async fn replaces_in_time(&self) {
        let pod = self.pod();
        let first = self.mount(&pod).await;
        until("a poll brings another user before the first is dead", async || {
            let (username, password) = self.mount(&pod).await;
            log_in(&username, &password).await.unwrap();
            sleep(Duration::from_millis(200)).await;
            username != first.0
        })
        .await;
    }

    /// `token revoke -accessor`, of every login of the tenant.
    async fn revoke_by_accessor(&self) {
        let accessors = root("LIST", "auth/token/accessors", json!(null)).await;
        for accessor in accessors["data"]["keys"].as_array().unwrap() {
            let Some(found) = lookup(accessor).await else { continue };
            if found["data"]["path"] == format!("auth/{}/login", self.tenant.auth) {
                root("POST", "auth/token/revoke-accessor", json!({ "accessor": accessor })).await;
            }
        }
    }
}

/// What an accessor's token is; none if it ended meanwhile.
async fn lookup(accessor: &serde_json::Value) -> Option<serde_json::Value> {
    let url = format!("{}/v1/auth/token/lookup-accessor", crate::support::setting("VAULTMOUNT_TEST_BAO_ADDR"));
    let token = crate::support::setting("VAULTMOUNT_TEST_BAO_TOKEN");
    let (status, answer) =
        crate::support::http::send("POST", &url, Some(&token), None, Some(&json!({ "accessor": accessor }))).await;
    status.is_success().then_some(answer)
}
