//! The Kubernetes API.

use std::fs;

use tempfile::TempDir;

use super::{Logged, Scenario, arranged};
use crate::{
    kube_api::{Builder, KubeApi},
    support::{pod::Pod, unique},
};

/// A pod without a token, and a kubeconfig for a server; the flag that names it.
async fn arranged_with(kubeconfig: &str) -> (Pod, TempDir, String) {
    let (_, mut pod) = arranged().await;
    pod.tokens = None;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join(unique("kubeconfig"));
    fs::write(&file, kubeconfig).unwrap();
    let flag = format!("--kubeconfig={}", file.display());
    (pod, folder, flag)
}

async fn api(builder: Builder) -> (KubeApi, Pod, TempDir, String) {
    let api = builder.start().await;
    let (pod, folder, flag) = arranged_with(&api.kubeconfig("csi", "any")).await;
    (api, pod, folder, flag)
}

pub async fn kubernetes_api() -> [Scenario; 1] {
    let (api, pod, folder, flag) = api(KubeApi::builder()).await;
    let address = api.url();
    drop(api);
    let says = [address.as_str(), "does not answer", "check that the address is right"];
    [Scenario::of(pod, &says).flags(&[&flag]).keeping(folder)]
}

pub async fn kubernetes_config() -> [Scenario; 1] {
    let config = KubeApi::builder().start().await.kubeconfig("csi", "any");
    let config = config.replace(r#"{"token":"any"}"#, r#"{"tokenFile":"/nowhere/token"}"#);
    let (pod, folder, flag) = arranged_with(&config).await;
    [Scenario::of(pod, &["/nowhere/token", "cannot be read", "correct the path"]).flags(&[&flag]).keeping(folder)]
}

pub async fn token_request() -> [Scenario; 2] {
    let denied = KubeApi::builder().service_account("shop", "app").deny("create", "serviceaccounts/token");
    let (forbidding, pod, folder, flag) = api(denied).await;
    let says = ["serviceaccounts/token", "forbidden", "tokenRequests"];
    let forbidden = Scenario::of(pod, &says).flags(&[&flag]).keeping((forbidding, folder));
    let (empty, pod, folder, flag) = api(KubeApi::builder()).await;
    let missing = Scenario::of(pod, &["shop/app", "not found"]).flags(&[&flag]).keeping((empty, folder));
    [forbidden, missing]
}

pub async fn version_key() -> [Logged; 2] {
    const KEY: &str = "vault-csi-provider-hmac-key";
    let (forbidding, _, folder, flag) = api(KubeApi::builder().deny("get", "secrets")).await;
    let forbidden = Logged::of(forbidding, folder, &flag, &[KEY, "forbidden", "a Role there needs the rule"]);
    let (damaged, _, folder, flag) = api(KubeApi::builder().secret("csi", KEY, &[("other", b"x")])).await;
    [forbidden, Logged::of(damaged, folder, &flag, &[KEY, "delete the Secret"])]
}
