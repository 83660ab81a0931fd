//! Credential rotation within a poll: files never contain an expired credential.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use serde_json::json;
use tokio::time::{Instant, interval, sleep};

use super::LifetimeFixture;
use crate::support::{bao_server::CachingProxy, daemon::Daemon, database::log_in};

/// Polls a pod every second, and logs in to PostgreSQL every 100 ms with the files' credentials. Returns the number of
/// users seen.
async fn run_database_client(stage: &LifetimeFixture, duration: Duration) -> usize {
    let pod = stage.pod();
    let files = Arc::new(Mutex::new(stage.mount(&pod).await));
    let mut users = vec![files.lock().unwrap().0.clone()];
    let begun = Instant::now();
    let polls = async {
        let mut ticks = interval(Duration::from_secs(1));
        while begun.elapsed() < duration {
            ticks.tick().await;
            let fresh = stage.mount(&pod).await;
            if users.last() != Some(&fresh.0) {
                users.push(fresh.0.clone());
            }
            *files.lock().unwrap() = fresh;
        }
    };
    let logins = async {
        while begun.elapsed() < duration {
            let (username, password) = files.lock().unwrap().clone();
            let late = log_in(&username, &password).await;
            assert!(late.is_ok(), "{late:?} after {:?}", begun.elapsed());
            sleep(Duration::from_millis(100)).await;
        }
    };
    tokio::join!(polls, logins);
    users.len()
}

#[tokio::test]
async fn lease_max_ttl_rotation_never_breaks_client_logins() {
    let stage =
        LifetimeFixture::with_ttls(&[], json!({"default_ttl": "10s", "max_ttl": "14s"}), json!({"token_ttl": "10m"}))
            .await;
    let users = run_database_client(&stage, Duration::from_secs(26)).await;
    assert!(users >= 3, "{users} users");
    assert_eq!((stage.count_logins(), stage.count_credential_requests()), (1, users));
}

#[tokio::test]
async fn token_max_ttl_rotation_never_breaks_client_logins() {
    let stage = LifetimeFixture::with_ttls(
        &[],
        json!({"default_ttl": "1h"}),
        json!({"token_ttl": "10s", "token_max_ttl": "14s"}),
    )
    .await;
    let users = run_database_client(&stage, Duration::from_secs(26)).await;
    assert!(users >= 3, "{users} users");
    assert_eq!((stage.count_logins(), stage.count_credential_requests()), (users, users));
}

#[tokio::test]
async fn rotation_behind_caching_agent_never_breaks_logins() {
    let times = json!({"token_ttl": "10s", "token_max_ttl": "14s"});
    let mut stage = LifetimeFixture::with_ttls(&[], json!({"default_ttl": "10s", "max_ttl": "14s"}), times).await;
    let cache = CachingProxy::start(&stage.vault.address).await;
    stage.daemon = Daemon::start_at(&cache.address, &[]).await;
    let users = run_database_client(&stage, Duration::from_secs(26)).await;
    assert!(users >= 3, "{users} users");
}

#[tokio::test]
#[ignore = "takes three minutes: make soak"]
async fn many_rotations_never_break_client_logins() {
    let stage = LifetimeFixture::with_ttls(
        &[],
        json!({"default_ttl": "10s", "max_ttl": "14s"}),
        json!({"token_ttl": "20s", "token_max_ttl": "45s"}),
    )
    .await;
    let users = run_database_client(&stage, Duration::from_secs(180)).await;
    assert!(users >= 15, "{users} users");
    assert_eq!(stage.count_credential_requests(), users);
}
