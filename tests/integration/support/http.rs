//! A small HTTP client for tests.

use bytes::Bytes;
use http::{
    Method, Request, StatusCode,
    header::{ACCEPT, CONTENT_TYPE},
};
use http_body_util::{BodyExt, Full};
use hyper_util::{client::legacy::Client, rt::TokioExecutor};
use serde_json::Value;

/// Sends one request and returns status and JSON (`null` if the body is not JSON).
pub async fn send(
    method: &str,
    url: &str,
    token: Option<&str>,
    namespace: Option<&str>,
    body: Option<&Value>,
) -> (StatusCode, Value) {
    let (status, text) = send_for_text(method, url, token, namespace, body).await;
    (status, serde_json::from_str(&text).unwrap_or(Value::Null))
}

/// Sends one request and returns status and JSON, if there is a response.
pub async fn try_send(
    method: &str,
    url: &str,
    token: Option<&str>,
    body: Option<&Value>,
) -> Option<(StatusCode, Value)> {
    let client = Client::builder(TokioExecutor::new()).build_http::<Full<Bytes>>();
    let mut request = Request::builder().method(Method::from_bytes(method.as_bytes()).unwrap()).uri(url);
    if let Some(token) = token {
        request = request.header("x-vault-token", token);
    }
    let body = body.map(|b| Bytes::from(b.to_string())).unwrap_or_default();
    let response = client.request(request.body(Full::new(body)).unwrap()).await.ok()?;
    let status = response.status();
    let body = response.into_body().collect().await.ok()?.to_bytes();
    Some((status, serde_json::from_slice(&body).unwrap_or(Value::Null)))
}

/// Sends a GET with an `Accept` header and returns content type and body of the successful response.
pub async fn get_accepting(url: &str, accept: &str) -> (String, String) {
    let client = Client::builder(TokioExecutor::new()).build_http::<Full<Bytes>>();
    let request = Request::get(url).header(ACCEPT, accept).body(Full::default()).unwrap();
    let response = client.request(request).await.unwrap();
    assert!(response.status().is_success(), "{}", response.status());
    let content_type = response.headers()[CONTENT_TYPE].to_str().unwrap().to_owned();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    (content_type, String::from_utf8_lossy(&body).into_owned())
}

/// Sends one request and returns status and body.
pub async fn send_for_text(
    method: &str,
    url: &str,
    token: Option<&str>,
    namespace: Option<&str>,
    body: Option<&Value>,
) -> (StatusCode, String) {
    let client = Client::builder(TokioExecutor::new()).build_http::<Full<Bytes>>();
    let mut request = Request::builder().method(Method::from_bytes(method.as_bytes()).unwrap()).uri(url);
    if let Some(token) = token {
        request = request.header("x-vault-token", token);
    }
    if let Some(namespace) = namespace {
        request = request.header("x-vault-namespace", namespace);
    }
    let body = body.map(|b| Bytes::from(b.to_string())).unwrap_or_default();
    let response = client.request(request.body(Full::new(body)).unwrap()).await.unwrap();
    let status = response.status();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    (status, String::from_utf8_lossy(&body).into_owned())
}
