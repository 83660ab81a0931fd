//! The HMAC key: read, created, raced for, refused.

use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::json;
use vaultmount::error::{Cause, Error};

use crate::{NAME, SECRETS, kube_api::KubeApi, started};

/// The error of reading the HMAC key from a server with this in its Secret.
async fn key_error(data: &[(&str, &[u8])]) -> Error {
    let (_api, kube) = started(KubeApi::builder().secret("csi", NAME, data)).await;
    kube.hmac_key(NAME).await.unwrap_err()
}

#[tokio::test]
async fn is_read_with_one_request() {
    let (api, kube) = started(KubeApi::builder().secret("csi", NAME, &[("key", &[b'a'; 32])])).await;
    assert_eq!(kube.hmac_key(NAME).await.unwrap().expose(), [b'a'; 32]);
    assert_eq!(api.lines(), [format!("GET {SECRETS}/{NAME}")]);
    assert_eq!(api.seen()[0].bearer.as_deref(), Some("t0ken"));
    assert_eq!(kube.requests(), 1);
}

#[tokio::test]
async fn is_created_immutable_with_32_random_bytes() {
    let (api, kube) = started(KubeApi::builder()).await;
    let key = kube.hmac_key(NAME).await.unwrap();
    assert_eq!(key.len(), 32);
    let expected = json!({
        "apiVersion": "v1", "kind": "Secret", "type": "Opaque", "immutable": true,
        "metadata": {"namespace": "csi", "name": NAME}, "data": {"key": STANDARD.encode(key.expose())},
    });
    assert_eq!(api.secret("csi", NAME), Some(expected));
    assert_eq!(kube.hmac_key(NAME).await.unwrap(), key);
    assert_eq!(kube.requests(), 3);

    let (_other, kube) = started(KubeApi::builder()).await;
    assert_ne!(kube.hmac_key(NAME).await.unwrap(), key);
}

#[tokio::test]
async fn is_the_winners_when_the_race_is_lost() {
    let (api, kube) = started(KubeApi::builder().rival("csi", NAME, &[("key", &[b'w'; 32])])).await;
    assert_eq!(kube.hmac_key(NAME).await.unwrap().expose(), [b'w'; 32]);
    let read = format!("GET {SECRETS}/{NAME}");
    assert_eq!(api.lines(), [read.clone(), format!("POST {SECRETS}"), read]);
}

#[tokio::test]
async fn of_another_length_is_used_as_the_go_provider_does() {
    let (_api, kube) = started(KubeApi::builder().secret("csi", NAME, &[("key", b"short")])).await;
    assert_eq!(kube.hmac_key(NAME).await.unwrap().expose(), b"short");
}

#[tokio::test]
async fn that_is_no_key_is_named_with_the_way_out() {
    let advice = "delete the Secret and it is created anew (file versions change)";
    let error = key_error(&[("other", b"x")]).await;
    assert_eq!(error.cause(), Cause::VersionKey);
    assert_eq!(
        error.to_string(),
        format!("HMAC key in Secret csi/{NAME}: the Secret has no entry \"key\"; {advice} [VM0093]")
    );
    let error = key_error(&[("key", b"")]).await.to_string();
    assert!(error.contains("the Secret's entry \"key\" is empty"), "{error}");
}

#[tokio::test]
async fn denied_names_the_missing_rule() {
    let (api, kube) = started(KubeApi::builder().deny("get", "secrets")).await;
    let error = kube.hmac_key(NAME).await.unwrap_err();
    assert_eq!(error.cause(), Cause::VersionKey);
    assert_eq!(
        error.to_string().replace(&api.url(), "URL"),
        format!(
            "HMAC key in Secret csi/{NAME}: API server URL answers 403 Forbidden (it said: secrets is forbidden: \
             User \"system:serviceaccount:csi:vaultmount\" cannot get resource \"secrets\" in API group \"\" in the \
             namespace \"csi\"); may not get secrets in namespace csi: a Role there needs the rule \
             {{apiGroups: [\"\"], resources: [secrets], resourceNames: [{NAME}], verbs: [get]}} [VM0093]"
        )
    );

    let (_api, kube) = started(KubeApi::builder().deny("create", "secrets")).await;
    let error = kube.hmac_key(NAME).await.unwrap_err().to_string();
    assert!(error.contains("{apiGroups: [\"\"], resources: [secrets], verbs: [create]}"), "{error}");
}

#[tokio::test]
async fn in_a_secret_with_no_kubernetes_name_is_not_asked_for() {
    let (_api, kube) = started(KubeApi::builder()).await;
    assert_eq!(kube.hmac_key("../../pods").await.unwrap_err().cause(), Cause::InvalidRequest);
    assert_eq!(kube.requests(), 0);
}
