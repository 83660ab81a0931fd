//! Background renewals of leases and of session tokens that own leases, and the effects of renewal failures.

use std::time::Duration;

use serde_json::json;
use tokio::time::{Instant, sleep};

use super::{LifetimeFixture, wait_until};
use crate::support::{
    bao::root_request,
    clock::advance,
    database::log_in,
    fault_proxy::{Fault, FaultProxy, Gate, vault_error},
};

/// Creates a fixture with credentials and tokens of `seconds`, and a maximum of one minute.
async fn fixture_with_short_ttls(seconds: u32) -> LifetimeFixture {
    let ttl = format!("{seconds}s");
    LifetimeFixture::with_ttls(
        &[],
        json!({"default_ttl": ttl, "max_ttl": "60s"}),
        json!({"token_ttl": ttl, "token_max_ttl": "60s"}),
    )
    .await
}

#[tokio::test]
async fn renewal_keeps_token_and_lease_alive_past_their_ttl() {
    let stage = fixture_with_short_ttls(6).await;
    let pod = stage.pod();
    let (username, password) = stage.mount(&pod).await;
    // Twice the TTL without renewals.
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(12) {
        log_in(&username, &password).await.unwrap();
        sleep(Duration::from_millis(200)).await;
    }
    assert_eq!(stage.mount(&pod).await, (username, password));
    let renewed = (stage.count_lease_renewals(), stage.vault.count("POST", "auth/token/renew-self"));
    assert!(renewed.0 >= 2 && renewed.0 <= 5 && renewed.1 >= 2 && renewed.1 <= 5, "{renewed:?}");
    let increments: Vec<i64> = stage
        .vault
        .requests("POST", "sys/leases/renew")
        .iter()
        .map(|seen| serde_json::from_slice::<serde_json::Value>(&seen.body).unwrap()["increment"].as_i64().unwrap())
        .collect();
    assert!(increments.iter().all(|increment| *increment == 6), "not the original duration: {increments:?}");
    assert_eq!((stage.count_logins(), stage.count_credential_requests()), (1, 1));
}

#[tokio::test]
async fn slow_token_renewal_is_not_repeated_by_polls() {
    let stage = LifetimeFixture::with_ttls(&[], json!({}), json!({"token_ttl": "1h"})).await;
    let pod = stage.pod();
    let first = stage.mount(&pod).await;
    let gate = Gate::new();
    for path in ["auth/token/renew-self", "sys/leases/renew"] {
        stage.vault.always("POST", path, Fault::HoldRequest(gate.clone()));
    }
    advance(Duration::from_secs(45 * 60)).await;
    stage.vault.wait_for(1, "POST", "auth/token/renew-self").await;
    for _ in 0..20 {
        assert_eq!(stage.mount(&pod).await, first);
        sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(stage.vault.count("POST", "auth/token/renew-self"), 1);
    gate.open();
    stage.vault.wait_for(1, "POST", "sys/leases/renew").await;
    sleep(Duration::from_millis(200)).await;
    assert_eq!((stage.vault.count("POST", "auth/token/renew-self"), stage.count_lease_renewals()), (1, 1));
}

#[tokio::test]
async fn token_with_only_plain_secrets_is_not_renewed() {
    let stage = fixture_with_short_ttls(4).await;
    let pod = stage.pod().with_objects(format!("- {{objectName: kv, secretPath: {}/data/db}}\n", stage.tenant.kv));
    stage.daemon.mount_files(&pod).await;
    sleep(Duration::from_secs(5)).await;
    assert_eq!(stage.vault.count("POST", "auth/token/renew-self"), 0);
    stage.daemon.mount_files(&pod).await;
    assert_eq!(stage.count_logins(), 1, "what is fresh needs no token");
}

/// Checks that the pod still has its first credential after fifty failed renewals at this path.
async fn assert_failed_renewals_keep_credential(path: &str, fault: Fault) {
    let stage = LifetimeFixture::with_ttls(&[], json!({"default_ttl": "24h"}), json!({"token_ttl": "24h"})).await;
    let pod = stage.pod();
    let first = stage.mount(&pod).await;
    stage.vault.always("POST", path, fault);
    let renewal_count = || stage.vault.count("POST", path);
    // Only this process's clock advances, so nothing expires at Vault.
    advance(Duration::from_secs(16 * 3600)).await;
    let goes_on = async |renewals| {
        sleep(Duration::from_millis(30)).await;
        advance(Duration::from_secs(30)).await;
        assert_eq!(stage.mount(&pod).await, first);
        renewal_count() >= renewals
    };
    wait_until("fifty renewals failed", async || goes_on(50).await).await;
    assert_eq!(
        (stage.count_logins(), stage.count_credential_requests(), stage.database.users().await.len()),
        (1, 1, 1)
    );
    log_in(&first.0, &first.1).await.unwrap();
    stage.vault.clear_rules();
    let failed = renewal_count();
    wait_until("it is renewed", async || goes_on(failed + 1).await).await;
    assert_eq!((stage.count_logins(), stage.count_credential_requests()), (1, 1));
}

#[tokio::test]
async fn denied_renewals_create_no_new_credential() {
    assert_failed_renewals_keep_credential(
        "sys/leases/renew",
        vault_error(403, "1 error occurred:\n\t* permission denied\n\n"),
    )
    .await;
}

#[tokio::test]
async fn throttled_renewals_create_no_new_credential() {
    assert_failed_renewals_keep_credential("sys/leases/renew", vault_error(429, "quota")).await;
}

#[tokio::test]
async fn failed_renewals_create_no_new_credential() {
    for path in ["sys/leases/renew", "auth/token/renew-self"] {
        assert_failed_renewals_keep_credential(path, vault_error(500, "internal error")).await;
    }
}

#[tokio::test]
async fn revoked_token_triggers_one_login_at_next_poll() {
    let stage = LifetimeFixture::with_ttls(&["--refresh-interval=10s"], json!({}), json!({})).await;
    let pod = stage.pod();
    let (old, _) = stage.mount(&pod).await;
    stage.revoke_by_accessor().await;
    stage.database.wait_until_no_users().await;
    advance(Duration::from_secs(11)).await;
    let (username, password) = stage.mount(&pod).await;
    assert_ne!(username, old);
    log_in(&username, &password).await.unwrap();
    stage.mount(&pod).await;
    assert_eq!((stage.count_logins(), stage.count_credential_requests()), (2, 2));
}

#[tokio::test]
async fn revoked_token_found_by_renewal_logs_in_only_at_poll() {
    let stage = fixture_with_short_ttls(6).await;
    let pod = stage.pod();
    stage.mount(&pod).await;
    stage.revoke_by_accessor().await;
    stage.vault.wait_for(1, "GET", "auth/token/lookup-self").await;
    sleep(Duration::from_secs(3)).await;
    assert_eq!((stage.count_logins(), stage.vault.count("GET", "auth/token/lookup-self")), (1, 1));
    let (username, password) = stage.mount(&pod).await;
    log_in(&username, &password).await.unwrap();
    assert_eq!((stage.count_logins(), stage.count_credential_requests()), (2, 2));
}

#[tokio::test]
async fn revoked_lease_is_reread_under_the_same_token() {
    let stage = fixture_with_short_ttls(6).await;
    let pod = stage.pod();
    let (old, _) = stage.mount(&pod).await;
    root_request("PUT", &format!("sys/leases/revoke-prefix/{}", stage.database.path), json!({"sync": true})).await;
    stage.vault.wait_for(1, "POST", "sys/leases/renew").await;
    sleep(Duration::from_millis(300)).await;
    let (username, password) = stage.mount(&pod).await;
    assert_ne!(username, old);
    log_in(&username, &password).await.unwrap();
    assert_eq!((stage.count_logins(), stage.count_credential_requests()), (1, 2));
}

#[tokio::test]
async fn periodic_token_is_renewed_until_explicit_max_ttl() {
    let stage = LifetimeFixture::with_ttls(&[], json!({"default_ttl": "1h"}), json!({"token_period": "5s"})).await;
    let pod = stage.pod();
    let first = stage.mount(&pod).await;
    sleep(Duration::from_secs(11)).await;
    assert_eq!(stage.mount(&pod).await, first);
    log_in(&first.0, &first.1).await.unwrap();
    assert_eq!(stage.count_logins(), 1);

    let stage = LifetimeFixture::with_ttls(
        &[],
        json!({"default_ttl": "1h"}),
        json!({"token_period": "5s", "token_explicit_max_ttl": "9s"}),
    )
    .await;
    stage.assert_replaced_before_expiry().await;
    assert_eq!((stage.count_logins(), stage.count_credential_requests()), (2, 2));
}

#[tokio::test]
async fn token_no_default_policy_is_replaced_before_expiry() {
    let stage =
        LifetimeFixture::with_ttls(&[], json!({}), json!({"token_ttl": "10s", "token_no_default_policy": true})).await;
    stage.assert_replaced_before_expiry().await;
    assert_eq!((stage.count_logins(), stage.count_credential_requests()), (2, 2));
}

#[tokio::test]
async fn batch_and_limited_use_tokens_are_never_renewed() {
    for login in [json!({"token_type": "batch", "token_ttl": "9s"}), json!({"token_num_uses": 9, "token_ttl": "9s"})] {
        let stage = LifetimeFixture::with_ttls(&[], json!({}), login).await;
        stage.assert_replaced_before_expiry().await;
        assert_eq!((stage.count_lease_renewals(), stage.vault.count("POST", "auth/token/renew-self")), (0, 0));
    }
}

#[tokio::test]
async fn slow_lease_renewal_is_not_repeated_by_polls() {
    let stage = fixture_with_short_ttls(6).await;
    let pod = stage.pod();
    stage.mount(&pod).await;
    let gate = Gate::new();
    stage.vault.always("POST", "sys/leases/renew", Fault::HoldRequest(gate.clone()));
    stage.vault.wait_for(1, "POST", "sys/leases/renew").await;
    for _ in 0..20 {
        stage.mount(&pod).await;
        sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(stage.count_lease_renewals(), 1);
    gate.open();
    stage.vault.wait_for(2, "POST", "sys/leases/renew").await;
}

#[tokio::test]
async fn silent_server_does_not_block_renewals_of_others() {
    let stage =
        LifetimeFixture::with_ttls(&["--allow-address=http://127.0.0.1:*"], json!({"default_ttl": "5s"}), json!({}))
            .await;
    let silent = FaultProxy::start().await;
    for _ in 0..10 {
        stage.mount(&stage.pod().with_parameter("vaultAddress", &silent.address)).await;
    }
    silent.always("POST", "sys/leases/renew", Fault::HoldRequest(Gate::new()));
    silent.always("POST", "auth/token/renew-self", Fault::HoldRequest(Gate::new()));
    let pod = stage.pod();
    let (username, password) = stage.mount(&pod).await;
    silent.wait_for(4, "POST", "sys/leases/renew").await;
    stage.vault.wait_for(2, "POST", "sys/leases/renew").await;
    log_in(&username, &password).await.unwrap();
    assert_eq!(stage.mount(&pod).await.0, username);
}

#[tokio::test]
async fn outage_during_renewal_keeps_the_credential() {
    let mut stage = fixture_with_short_ttls(12).await;
    let pod = stage.pod();
    let first = stage.mount(&pod).await;
    stage.vault.stop_listening().await;
    sleep(Duration::from_secs(9)).await;
    stage.vault.listen_again(None);
    sleep(Duration::from_secs(5)).await;
    assert_eq!(stage.mount(&pod).await, first);
    log_in(&first.0, &first.1).await.unwrap();
    assert_eq!((stage.count_logins(), stage.count_credential_requests()), (1, 1));
}

impl LifetimeFixture {
    /// Polls a pod until it has another database user, and logs in with each user.
    async fn assert_replaced_before_expiry(&self) {
        let pod = self.pod();
        let first = self.mount(&pod).await;
        wait_until("a poll returns another user before the first expires", async || {
            let (username, password) = self.mount(&pod).await;
            log_in(&username, &password).await.unwrap();
            sleep(Duration::from_millis(200)).await;
            username != first.0
        })
        .await;
    }

    /// Revokes every login token of the tenant, as with `token revoke -accessor`.
    async fn revoke_by_accessor(&self) {
        let accessors = root_request("LIST", "auth/token/accessors", json!(null)).await;
        for accessor in accessors["data"]["keys"].as_array().unwrap() {
            let Some(found) = lookup_accessor(accessor).await else { continue };
            if found["data"]["path"] == format!("auth/{}/login", self.tenant.auth) {
                root_request("POST", "auth/token/revoke-accessor", json!({ "accessor": accessor })).await;
            }
        }
    }
}

/// Looks up an accessor's token; `None` if it has ended meanwhile.
async fn lookup_accessor(accessor: &serde_json::Value) -> Option<serde_json::Value> {
    let url = format!("{}/v1/auth/token/lookup-accessor", crate::support::required_env("VAULTMOUNT_TEST_BAO_ADDR"));
    let token = crate::support::required_env("VAULTMOUNT_TEST_BAO_TOKEN");
    let (status, answer) =
        crate::support::http::send("POST", &url, Some(&token), None, Some(&json!({ "accessor": accessor }))).await;
    status.is_success().then_some(answer)
}
