//! TokenReview in the fake API server. Only Vault sends it, so vaultmount has no client for it.

use std::{
    io::{self, Write},
    net::TcpStream,
};

use serde_json::{Value, json};

use crate::kube_api::KubeApi;

async fn review_token(api: &KubeApi, token: &str, audiences: &[&str]) -> Value {
    let body = json!({"spec": {"token": token, "audiences": audiences}}).to_string();
    let address = api.url().replace("http://", "");
    let exchange = move || {
        let mut stream = TcpStream::connect(address).unwrap();
        let path = "/apis/authentication.k8s.io/v1/tokenreviews";
        let head = format!("POST {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {}", body.len());
        write!(stream, "{head}\r\n\r\n{body}").unwrap();
        io::read_to_string(stream).unwrap()
    };
    let answer = tokio::task::spawn_blocking(exchange).await.unwrap();
    let object: Value = serde_json::from_str(answer.split_once("\r\n\r\n").unwrap().1).unwrap();
    object["status"].clone()
}

#[tokio::test]
async fn fake_token_review_accepts_live_pod_with_audience() {
    let api = KubeApi::builder().service_account("shop", "web").pod("shop", "web-1", "uid-1").start().await;
    let token = api.token("shop", "web", "vault", Some(("web-1", "uid-1")));
    let status = review_token(&api, &token, &["vault", "other"]).await;
    assert_eq!(status["authenticated"], true);
    assert_eq!(status["user"]["username"], "system:serviceaccount:shop:web");
    assert_eq!(status["user"]["uid"], "uid-of-shop-web");
    assert_eq!(status["audiences"], json!(["vault"]));
    for other in [&["other"][..], &[]] {
        assert_eq!(review_token(&api, &token, other).await["authenticated"], false);
    }
    api.delete_pod("shop", "web-1");
    assert_eq!(review_token(&api, &token, &["vault"]).await["authenticated"], false);
}

#[tokio::test]
async fn fake_token_review_rejects_expired_forged_and_unknown() {
    let known = json!({"authenticated": true, "user": {"username": "me"}});
    let api = KubeApi::builder().service_account("shop", "web").token_review("known", known.clone()).start().await;
    let good = api.token("shop", "web", "vault", None);
    assert_eq!(review_token(&api, &good, &["vault"]).await["authenticated"], true);
    assert_eq!(review_token(&api, "known", &[]).await, known);
    let stranger = api.token("shop", "stranger", "vault", None);
    for token in [api.expired_token("shop", "web", "vault"), format!("{good}x"), stranger, String::new()] {
        assert_eq!(review_token(&api, &token, &["vault"]).await["authenticated"], false);
    }
}
