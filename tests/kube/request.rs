//! Properties of every request.

use std::fs;

use serde_json::json;
use tokio::time::Instant;
use vaultmount::{
    error::{Cause, Error},
    kube::Config,
};

use crate::{
    HMAC_SECRET_NAME, SECRETS_PATH, build_client,
    kube_api::{Fault, KubeApi},
    start_with_client,
};

/// Returns the error of the first read with this fault.
async fn request_error(fault: Fault) -> (Error, String) {
    let (api, kube) = start_with_client(KubeApi::builder().fault(fault)).await;
    let error = kube.hmac_key(HMAC_SECRET_NAME).await.unwrap_err();
    let shown = error.to_string().replace(&api.url(), "URL");
    (error, shown)
}

#[tokio::test(start_paused = true)]
async fn kube_request_times_out_after_10s() {
    let start = Instant::now();
    let (error, shown) = request_error(Fault::Hang).await;
    assert_eq!(start.elapsed().as_secs(), 10);
    assert_eq!(error.cause(), Cause::KubernetesApi);
    assert_eq!(
        shown,
        format!("HMAC key in Secret csi/{HMAC_SECRET_NAME}: API server URL timed out after 10 s [VM0090]")
    );
}

#[tokio::test]
async fn kube_response_limit_is_1_mib() {
    let filled = |len: usize| {
        let frame = r#"{"data":{"key":"YQ==","x":""}}"#;
        frame.replace(r#""x":""#, &format!(r#""x":"{}"#, "x".repeat(len - frame.len())))
    };
    let (error, _) = request_error(Fault::Respond(200, filled((1 << 20) + 1))).await;
    assert_eq!(error.cause(), Cause::KubernetesConfig);
    let (_api, kube) = start_with_client(KubeApi::builder().fault(Fault::Respond(200, filled(1 << 20)))).await;
    assert_eq!(kube.hmac_key(HMAC_SECRET_NAME).await.unwrap().expose(), b"a");
}

#[tokio::test]
async fn kube_request_follows_no_redirect() {
    let elsewhere = KubeApi::builder().secret("csi", HMAC_SECRET_NAME, &[("key", b"x")]).start().await;
    let (error, shown) =
        request_error(Fault::Redirect(format!("{}{SECRETS_PATH}/{HMAC_SECRET_NAME}", elsewhere.url()))).await;
    assert_eq!(error.cause(), Cause::KubernetesConfig);
    assert!(
        shown.ends_with(
            "answers 307 Temporary Redirect; redirects are not followed; use the address of the server itself [VM0091]"
        ),
        "{shown}"
    );
    assert!(elsewhere.requests().is_empty());
}

#[tokio::test]
async fn kube_error_has_cause_and_server_message() {
    let status = |text: &str| json!({"kind": "Status", "message": text}).to_string();
    let cases = [
        (
            500,
            status("etcd is slow"),
            Cause::KubernetesApi,
            "answers 500 Internal Server Error (it said: etcd is slow)",
        ),
        (429, String::new(), Cause::KubernetesApi, "answers 429 Too Many Requests"),
        (401, status("Unauthorized"), Cause::VersionKey, "(it said: Unauthorized); check the service account token"),
        (400, "<html>".to_owned(), Cause::VersionKey, "answers 400 Bad Request"),
        (200, r#"{"data":"hunter2"}"#.to_owned(), Cause::VersionKey, "(it said: unexpected JSON at line 1, column 17)"),
    ];
    for (code, body, cause, expected) in cases {
        let (error, shown) = request_error(Fault::Respond(code, body)).await;
        assert_eq!(error.cause(), cause, "{shown}");
        assert!(shown.contains(expected) && !shown.contains("hunter2"), "{shown}");
    }
}

#[tokio::test]
async fn kube_request_connection_refused_is_reported() {
    let api = KubeApi::builder().start().await;
    let unreachable = api.kubeconfig("csi", "t0ken").replace(&api.url(), "http://127.0.0.1:1");
    let error = build_client(&unreachable).unwrap().hmac_key(HMAC_SECRET_NAME).await.unwrap_err();
    assert_eq!(error.cause(), Cause::KubernetesApi);
    assert!(error.to_string().contains("does not answer (it said: Connection refused"), "{error}");
}

#[tokio::test]
async fn kube_request_401_reloads_token_file() {
    let api = KubeApi::builder().secret("csi", HMAC_SECRET_NAME, &[("key", b"x")]).require_bearer("new").start().await;
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str| folder.path().join(name);
    fs::write(file("token"), "old").unwrap();
    let kubeconfig = api.kubeconfig("csi", "").replace(r#""token":"""#, r#""tokenFile":"token""#);
    fs::write(file("config"), kubeconfig).unwrap();
    let kube = Config::from_env(Some(file("config"))).build(std::sync::Arc::default()).unwrap().unwrap();

    kube.hmac_key(HMAC_SECRET_NAME).await.unwrap_err();
    fs::write(file("token"), "new").unwrap();

    assert_eq!(kube.hmac_key(HMAC_SECRET_NAME).await.unwrap().expose(), b"x");
}

#[tokio::test]
async fn kube_debug_and_errors_hide_bearer_token() {
    let (_api, kube) = start_with_client(KubeApi::builder().require_bearer("other")).await;
    let error = kube.hmac_key(HMAC_SECRET_NAME).await.unwrap_err();
    let shown = format!("{kube:?} {error} {error:?}");
    assert!(!shown.contains("t0ken"), "{shown}");
}
