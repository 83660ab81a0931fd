//! Baseline: a client that only sends the same requests over one warm connection pool.

use bytes::Bytes;
use futures_util::future::join_all;
use http::Request;
use http_body_util::{BodyExt, Full};
use hyper_util::{
    client::legacy::{Client as Http, connect::HttpConnector},
    rt::TokioExecutor,
};
use serde_json::{Value, json};

use crate::support::{bao::Tenant, pod::Pod};

pub struct BaselineClient {
    http: Http<HttpConnector, Full<Bytes>>,
    address: String,
    auth: String,
    kv: String,
}

impl BaselineClient {
    pub fn new(tenant: &Tenant) -> Self {
        let mut tcp = HttpConnector::new();
        tcp.set_nodelay(true);
        Self {
            http: Http::builder(TokioExecutor::new()).build(tcp),
            address: tenant.address.clone(),
            auth: tenant.auth.clone(),
            kv: tenant.kv.clone(),
        }
    }

    pub async fn login(&self, pod: &Pod) -> String {
        let body = json!({"role": "app", "jwt": pod.first_token().unwrap()});
        let answer = self.send("POST", &format!("auth/{}/login", self.auth), "", body).await;
        answer["auth"]["client_token"].as_str().unwrap().to_owned()
    }

    /// Reads the first `count` secrets of `kv` concurrently.
    pub async fn read_secrets(&self, token: &str, count: usize) {
        join_all((0..count).map(async |i| self.read(token, &format!("{}/data/s{i}", self.kv)).await)).await;
    }

    pub async fn read(&self, token: &str, path: &str) {
        self.send("GET", path, token, Value::Null).await;
    }

    async fn send(&self, method: &str, path: &str, token: &str, body: Value) -> Value {
        let body = if body.is_null() { Bytes::new() } else { body.to_string().into() };
        let request =
            Request::builder().method(method).uri(format!("{}/v1/{path}", self.address)).header("x-vault-token", token);
        let response = self.http.request(request.body(Full::new(body)).unwrap()).await.unwrap();
        assert!(response.status().is_success(), "{path}: {}", response.status());
        serde_json::from_slice(&response.into_body().collect().await.unwrap().to_bytes()).unwrap()
    }
}
