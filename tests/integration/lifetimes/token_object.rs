//! `type: token`: the pod's own Vault token as a file.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::{Instant, sleep};
use vaultmount::error::Cause;

use super::LifetimeFixture;
use crate::support::{clock::advance, http, pod::Pod};

impl LifetimeFixture {
    /// Returns a pod with only its token as an object.
    fn token_pod(&self) -> Pod {
        self.pod().with_objects("- {objectName: token, type: token, filePermission: 0400}")
    }

    async fn mount_token(&self, pod: &Pod) -> String {
        self.daemon.mount_files(pod).await.remove("token").unwrap()
    }

    /// Looks up a token; returns null if the token is not valid.
    async fn lookup_token(&self, token: &str) -> Value {
        let url = format!("{}/v1/auth/token/lookup-self", self.tenant.address);
        let (status, answer) = http::send("GET", &url, Some(token), None, None).await;
        if status.is_success() { answer["data"].clone() } else { Value::Null }
    }
}

#[tokio::test]
async fn token_object_is_renewed_until_pod_deletion() {
    let stage = LifetimeFixture::with_ttls(&[], json!({}), json!({"token_ttl": "6s", "token_max_ttl": "1h"})).await;
    let pod = stage.token_pod();
    let mounted = stage.daemon.mount(pod.mount_call()).await.unwrap();
    assert_eq!(mounted.files[0].mode, 0o400);
    let token = stage.mount_token(&pod).await;
    // Longer than the TTL without renewals.
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(8) {
        assert!(stage.lookup_token(&token).await["ttl"].as_u64() > Some(0), "{:?}", begun.elapsed());
        sleep(Duration::from_millis(200)).await;
    }
    assert_eq!((stage.mount_token(&pod).await, stage.count_logins()), (token.clone(), 1));
    assert!(stage.vault.count("POST", "auth/token/renew-self") >= 1);
    stage.api.delete_pod(&pod.namespace, &pod.name);
    super::wait_until("it is revoked", async || stage.lookup_token(&token).await.is_null()).await;
}

#[tokio::test]
async fn token_object_is_replaced_before_max_ttl() {
    let stage = LifetimeFixture::with_ttls(&[], json!({}), json!({"token_ttl": "6s", "token_max_ttl": "10s"})).await;
    let pod = stage.token_pod();
    let (begun, mut seen) = (Instant::now(), Vec::<String>::new());
    while begun.elapsed() < Duration::from_secs(20) {
        let token = stage.mount_token(&pod).await;
        assert!(!stage.lookup_token(&token).await.is_null(), "a dead token after {:?}", begun.elapsed());
        if seen.last() != Some(&token) {
            // The previous token lives until its own expiry, because the pod may not have read the new one yet.
            if let Some(before) = seen.last() {
                assert!(!stage.lookup_token(before).await.is_null(), "{:?}", begun.elapsed());
            }
            seen.push(token);
        }
        sleep(Duration::from_millis(500)).await;
    }
    assert!((2..=6).contains(&seen.len()), "{} tokens", seen.len());
    assert_eq!(stage.count_logins(), seen.len());
}

#[tokio::test]
async fn token_object_revoked_is_replaced_at_next_poll() {
    let stage = LifetimeFixture::new(&[]).await;
    let pod = stage.token_pod();
    let first = stage.mount_token(&pod).await;
    stage.tenant.revoke_logins().await;
    advance(Duration::from_secs(121)).await;
    let second = stage.mount_token(&pod).await;
    assert!(first != second && !stage.lookup_token(&second).await.is_null());
    assert_eq!(stage.count_logins(), 2);
}

#[tokio::test]
async fn token_object_rejects_secret_path_and_key() {
    let stage = LifetimeFixture::new(&[]).await;
    let pod = stage.pod().with_objects("- {objectName: t, type: token, secretPath: a/b, secretKey: c}");
    stage
        .daemon
        .assert_mount_error(&pod, Cause::InvalidRequest, &["secretPath and secretKey: does not go with type: token"])
        .await;
}
