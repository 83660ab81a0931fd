//! The HMAC key: read, create, concurrent creation, and refusals.

use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::json;
use vaultmount::error::{Cause, Error};

use crate::{HMAC_SECRET_NAME, SECRETS_PATH, kube_api::KubeApi, start_with_client};

/// Returns the error of reading the HMAC key from a Secret with this data.
async fn key_error(data: &[(&str, &[u8])]) -> Error {
    let (_api, kube) = start_with_client(KubeApi::builder().secret("csi", HMAC_SECRET_NAME, data)).await;
    kube.hmac_key(HMAC_SECRET_NAME).await.unwrap_err()
}

#[tokio::test]
async fn hmac_key_is_read_with_one_request() {
    let (api, kube) =
        start_with_client(KubeApi::builder().secret("csi", HMAC_SECRET_NAME, &[("key", &[b'a'; 32])])).await;
    assert_eq!(kube.hmac_key(HMAC_SECRET_NAME).await.unwrap().expose(), [b'a'; 32]);
    assert_eq!(api.request_lines(), [format!("GET {SECRETS_PATH}/{HMAC_SECRET_NAME}")]);
    assert_eq!(api.requests()[0].bearer.as_deref(), Some("t0ken"));
    assert_eq!(kube.request_count(), 1);
}

#[tokio::test]
async fn hmac_key_is_created_immutable_with_32_random_bytes() {
    let (api, kube) = start_with_client(KubeApi::builder()).await;
    let key = kube.hmac_key(HMAC_SECRET_NAME).await.unwrap();
    assert_eq!(key.len(), 32);
    let expected = json!({
        "apiVersion": "v1", "kind": "Secret", "type": "Opaque", "immutable": true,
        "metadata": {"namespace": "csi", "name": HMAC_SECRET_NAME}, "data": {"key": STANDARD.encode(key.expose())},
    });
    assert_eq!(api.secret("csi", HMAC_SECRET_NAME), Some(expected));
    assert_eq!(kube.hmac_key(HMAC_SECRET_NAME).await.unwrap(), key);
    assert_eq!(kube.request_count(), 3);

    let (_other, kube) = start_with_client(KubeApi::builder()).await;
    assert_ne!(kube.hmac_key(HMAC_SECRET_NAME).await.unwrap(), key);
}

#[tokio::test]
async fn hmac_key_lost_creation_race_uses_winners_key() {
    let (api, kube) =
        start_with_client(KubeApi::builder().racing_secret("csi", HMAC_SECRET_NAME, &[("key", &[b'w'; 32])])).await;
    assert_eq!(kube.hmac_key(HMAC_SECRET_NAME).await.unwrap().expose(), [b'w'; 32]);
    let read = format!("GET {SECRETS_PATH}/{HMAC_SECRET_NAME}");
    assert_eq!(api.request_lines(), [read.clone(), format!("POST {SECRETS_PATH}"), read]);
}

#[tokio::test]
async fn hmac_key_of_any_length_is_used_as_by_go_provider() {
    let (_api, kube) =
        start_with_client(KubeApi::builder().secret("csi", HMAC_SECRET_NAME, &[("key", b"short")])).await;
    assert_eq!(kube.hmac_key(HMAC_SECRET_NAME).await.unwrap().expose(), b"short");
}

#[tokio::test]
async fn hmac_key_missing_or_empty_entry_is_reported_with_fix() {
    let advice = "delete the Secret; vaultmount then creates a new one (file versions change)";
    let error = key_error(&[("other", b"x")]).await;
    assert_eq!(error.cause(), Cause::VersionKey);
    assert_eq!(
        error.to_string(),
        format!("HMAC key in Secret csi/{HMAC_SECRET_NAME}: the Secret has no entry \"key\"; {advice} [VM0093]")
    );
    let error = key_error(&[("key", b"")]).await.to_string();
    assert!(error.contains("the Secret's entry \"key\" is empty"), "{error}");
}

#[tokio::test]
async fn hmac_key_forbidden_error_names_missing_rbac_rule() {
    let (api, kube) = start_with_client(KubeApi::builder().deny("get", "secrets")).await;
    let error = kube.hmac_key(HMAC_SECRET_NAME).await.unwrap_err();
    assert_eq!(error.cause(), Cause::VersionKey);
    assert_eq!(
        error.to_string().replace(&api.url(), "URL"),
        format!(
            "HMAC key in Secret csi/{HMAC_SECRET_NAME}: API server URL answers 403 Forbidden (it said: secrets is forbidden: \
             User \"system:serviceaccount:csi:vaultmount\" cannot get resource \"secrets\" in API group \"\" in the \
             namespace \"csi\"); permission denied to get secrets in namespace csi: add the rule \
             {{apiGroups: [\"\"], resources: [secrets], resourceNames: [{HMAC_SECRET_NAME}], verbs: [get]}} to a Role there [VM0093]"
        )
    );

    let (_api, kube) = start_with_client(KubeApi::builder().deny("create", "secrets")).await;
    let error = kube.hmac_key(HMAC_SECRET_NAME).await.unwrap_err().to_string();
    assert!(error.contains("{apiGroups: [\"\"], resources: [secrets], verbs: [create]}"), "{error}");
}

#[tokio::test]
async fn hmac_key_invalid_secret_name_sends_no_request() {
    let (_api, kube) = start_with_client(KubeApi::builder()).await;
    assert_eq!(kube.hmac_key("../../pods").await.unwrap_err().cause(), Cause::InvalidRequest);
    assert_eq!(kube.request_count(), 0);
}
