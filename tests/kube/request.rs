//! What holds of every request.

use std::fs;

use serde_json::json;
use tokio::time::Instant;
use vaultmount::{
    error::{Cause, Error},
    kube::Config,
};

use crate::{
    NAME, SECRETS, build,
    kube_api::{Fault, KubeApi},
    started,
};

/// The error of the first read when the server does this.
async fn fault(fault: Fault) -> (Error, String) {
    let (api, kube) = started(KubeApi::builder().fault(fault)).await;
    let error = kube.hmac_key(NAME).await.unwrap_err();
    let shown = error.to_string().replace(&api.url(), "URL");
    (error, shown)
}

#[tokio::test(start_paused = true)]
async fn to_a_silent_server_ends_after_ten_seconds() {
    let start = Instant::now();
    let (error, shown) = fault(Fault::Silence).await;
    assert_eq!(start.elapsed().as_secs(), 10);
    assert_eq!(error.cause(), Cause::KubernetesApi);
    assert_eq!(shown, format!("HMAC key in Secret csi/{NAME}: API server URL does not answer within 10 s [VM0090]"));
}

#[tokio::test]
async fn takes_one_mebibyte_and_no_more() {
    let filled = |len: usize| {
        let frame = r#"{"data":{"key":"YQ==","x":""}}"#;
        frame.replace(r#""x":""#, &format!(r#""x":"{}"#, "x".repeat(len - frame.len())))
    };
    let (error, _) = fault(Fault::Answer(200, filled((1 << 20) + 1))).await;
    assert_eq!(error.cause(), Cause::KubernetesConfig);
    let (_api, kube) = started(KubeApi::builder().fault(Fault::Answer(200, filled(1 << 20)))).await;
    assert_eq!(kube.hmac_key(NAME).await.unwrap().expose(), b"a");
}

#[tokio::test]
async fn follows_no_redirect() {
    let elsewhere = KubeApi::builder().secret("csi", NAME, &[("key", b"x")]).start().await;
    let (error, shown) = fault(Fault::Redirect(format!("{}{SECRETS}/{NAME}", elsewhere.url()))).await;
    assert_eq!(error.cause(), Cause::KubernetesConfig);
    assert!(
        shown.ends_with("answers 307 Temporary Redirect; redirects are not followed; name the server itself [VM0091]"),
        "{shown}"
    );
    assert!(elsewhere.seen().is_empty());
}

#[tokio::test]
async fn failures_keep_their_cause_and_words() {
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
        let (error, shown) = fault(Fault::Answer(code, body)).await;
        assert_eq!(error.cause(), cause, "{shown}");
        assert!(shown.contains(expected) && !shown.contains("hunter2"), "{shown}");
    }
}

#[tokio::test]
async fn to_nobody_says_so() {
    let api = KubeApi::builder().start().await;
    let nobody = api.kubeconfig("csi", "t0ken").replace(&api.url(), "http://127.0.0.1:1");
    let error = build(&nobody).unwrap().hmac_key(NAME).await.unwrap_err();
    assert_eq!(error.cause(), Cause::KubernetesApi);
    assert!(error.to_string().contains("does not answer (it said: Connection refused"), "{error}");
}

#[tokio::test]
async fn after_a_refused_token_reads_the_file_again() {
    let api = KubeApi::builder().secret("csi", NAME, &[("key", b"x")]).bearer("new").start().await;
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str| folder.path().join(name);
    fs::write(file("token"), "old").unwrap();
    let kubeconfig = api.kubeconfig("csi", "").replace(r#""token":"""#, r#""tokenFile":"token""#);
    fs::write(file("config"), kubeconfig).unwrap();
    let kube = Config::from_env(Some(file("config"))).build(std::sync::Arc::default()).unwrap().unwrap();

    kube.hmac_key(NAME).await.unwrap_err();
    fs::write(file("token"), "new").unwrap();

    assert_eq!(kube.hmac_key(NAME).await.unwrap().expose(), b"x");
}

#[tokio::test]
async fn debug_and_errors_show_no_token() {
    let (_api, kube) = started(KubeApi::builder().bearer("other")).await;
    let error = kube.hmac_key(NAME).await.unwrap_err();
    let shown = format!("{kube:?} {error} {error:?}");
    assert!(!shown.contains("t0ken"), "{shown}");
}
