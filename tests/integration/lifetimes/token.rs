//! `type: token`: the pod's own Vault token as a file.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::{Instant, sleep};
use vaultmount::error::Cause;

use super::Stage;
use crate::support::{clock::leap, http, pod::Pod};

impl Stage {
    /// A pod that wants its token, and nothing else.
    fn token_pod(&self) -> Pod {
        self.pod().objects("- {objectName: token, type: token, filePermission: 0400}")
    }

    async fn token_of(&self, pod: &Pod) -> String {
        self.daemon.files(pod).await.remove("token").unwrap()
    }

    /// What the server says of a token; null when it is none.
    async fn looked_up(&self, token: &str) -> Value {
        let url = format!("{}/v1/auth/token/lookup-self", self.tenant.address);
        let (status, answer) = http::send("GET", &url, Some(token), None, None).await;
        if status.is_success() { answer["data"].clone() } else { Value::Null }
    }
}

#[tokio::test]
async fn a_pod_has_its_token_for_as_long_as_it_lives() {
    let stage = Stage::of(&[], json!({}), json!({"token_ttl": "6s", "token_max_ttl": "1h"})).await;
    let pod = stage.token_pod();
    let mounted = stage.daemon.mount(pod.call()).await.unwrap();
    assert_eq!(mounted.files[0].mode, 0o400);
    let token = stage.token_of(&pod).await;
    // Longer than it would live by itself.
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(8) {
        assert!(stage.looked_up(&token).await["ttl"].as_u64() > Some(0), "{:?}", begun.elapsed());
        sleep(Duration::from_millis(200)).await;
    }
    assert_eq!((stage.token_of(&pod).await, stage.logins()), (token.clone(), 1));
    assert!(stage.vault.count("POST", "auth/token/renew-self") >= 1);
    stage.api.delete_pod(&pod.namespace, &pod.name);
    super::until("it is revoked", async || stage.looked_up(&token).await.is_null()).await;
}

#[tokio::test]
async fn a_token_at_its_maximum_is_replaced_in_time() {
    let stage = Stage::of(&[], json!({}), json!({"token_ttl": "6s", "token_max_ttl": "10s"})).await;
    let pod = stage.token_pod();
    let (begun, mut seen) = (Instant::now(), Vec::<String>::new());
    while begun.elapsed() < Duration::from_secs(20) {
        let token = stage.token_of(&pod).await;
        assert!(!stage.looked_up(&token).await.is_null(), "a dead token after {:?}", begun.elapsed());
        if seen.last() != Some(&token) {
            // The one before lives to its own end: the pod may not have read the new one yet.
            if let Some(before) = seen.last() {
                assert!(!stage.looked_up(before).await.is_null(), "{:?}", begun.elapsed());
            }
            seen.push(token);
        }
        sleep(Duration::from_millis(500)).await;
    }
    assert!((2..=6).contains(&seen.len()), "{} tokens", seen.len());
    assert_eq!(stage.logins(), seen.len());
}

#[tokio::test]
async fn a_token_that_an_operator_revoked_is_replaced() {
    let stage = Stage::new(&[]).await;
    let pod = stage.token_pod();
    let first = stage.token_of(&pod).await;
    stage.tenant.revoke_logins().await;
    leap(Duration::from_secs(121)).await;
    let second = stage.token_of(&pod).await;
    assert!(first != second && !stage.looked_up(&second).await.is_null());
    assert_eq!(stage.logins(), 2);
}

#[tokio::test]
async fn a_token_object_reads_nothing_else() {
    let stage = Stage::new(&[]).await;
    let pod = stage.pod().objects("- {objectName: t, type: token, secretPath: a/b, secretKey: c}");
    stage
        .daemon
        .refuses(&pod, Cause::InvalidRequest, &["secretPath and secretKey: does not go with type: token"])
        .await;
}
