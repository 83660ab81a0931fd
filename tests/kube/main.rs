//! The Kubernetes client against a fake API server.

#![allow(clippy::unwrap_used, reason = "a test that cannot be arranged fails")]

mod hmac_key;
#[path = "../support/kube_api.rs"]
mod kube_api;
mod pods;
mod request;
mod tls;
mod token_request;
mod token_review;

use std::fs;

use kube_api::{KubeApi, KubeApiBuilder};
use vaultmount::{
    error::Error,
    kube::{Config, Kube},
};

const HMAC_SECRET_NAME: &str = "vault-csi-provider-hmac-key";
const SECRETS_PATH: &str = "/api/v1/namespaces/csi/secrets";

fn build_client(kubeconfig: &str) -> Result<Kube, Error> {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("config");
    fs::write(&file, kubeconfig).unwrap();
    Ok(Config::from_env(Some(file)).build(std::sync::Arc::default())?.unwrap())
}

fn client_for(api: &KubeApi) -> Kube {
    build_client(&api.kubeconfig("csi", "t0ken")).unwrap()
}

async fn start_with_client(api: KubeApiBuilder) -> (KubeApi, Kube) {
    let api = api.start().await;
    let kube = client_for(&api);
    (api, kube)
}

#[test]
fn kubernetes_config_without_cluster_builds_no_client() {
    let config = Config {
        kubeconfig: None,
        service_host: None,
        service_port: None,
        service_account: "/nonexistent".into(),
        ..Config::from_env(None)
    };
    assert!(config.build(std::sync::Arc::default()).unwrap().is_none());
}
