//! Kubernetes API errors.

use std::fs;

use tempfile::TempDir;

use super::{LogCase, MountCase, fixture};
use crate::{
    kube_api::{KubeApi, KubeApiBuilder},
    support::{pod::Pod, unique_name},
};

/// A pod without a token, a directory with a kubeconfig, and the flag with the kubeconfig's path.
async fn fixture_with_kubeconfig(kubeconfig: &str) -> (Pod, TempDir, String) {
    let (_, mut pod) = fixture().await;
    pod.tokens = None;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join(unique_name("kubeconfig"));
    fs::write(&file, kubeconfig).unwrap();
    let flag = format!("--kubeconfig={}", file.display());
    (pod, folder, flag)
}

async fn fixture_with_api(builder: KubeApiBuilder) -> (KubeApi, Pod, TempDir, String) {
    let api = builder.start().await;
    let (pod, folder, flag) = fixture_with_kubeconfig(&api.kubeconfig("csi", "any")).await;
    (api, pod, folder, flag)
}

pub async fn kubernetes_api() -> [MountCase; 1] {
    let (api, pod, folder, flag) = fixture_with_api(KubeApi::builder()).await;
    let address = api.url();
    drop(api);
    let expected = [address.as_str(), "does not answer", "check the address"];
    [MountCase::for_pod(pod, &expected).with_flags(&[&flag]).keep_alive(folder)]
}

pub async fn kubernetes_config() -> [MountCase; 1] {
    let config = KubeApi::builder().start().await.kubeconfig("csi", "any");
    let config = config.replace(r#"{"token":"any"}"#, r#"{"tokenFile":"/nowhere/token"}"#);
    let (pod, folder, flag) = fixture_with_kubeconfig(&config).await;
    [MountCase::for_pod(pod, &["/nowhere/token", "cannot be read", "correct the path"])
        .with_flags(&[&flag])
        .keep_alive(folder)]
}

pub async fn token_request() -> [MountCase; 2] {
    let denied = KubeApi::builder().service_account("shop", "app").deny("create", "serviceaccounts/token");
    let (forbidding, pod, folder, flag) = fixture_with_api(denied).await;
    let expected = ["serviceaccounts/token", "forbidden", "tokenRequests"];
    let forbidden = MountCase::for_pod(pod, &expected).with_flags(&[&flag]).keep_alive((forbidding, folder));
    let (empty, pod, folder, flag) = fixture_with_api(KubeApi::builder()).await;
    let missing = MountCase::for_pod(pod, &["shop/app", "not found"]).with_flags(&[&flag]).keep_alive((empty, folder));
    [forbidden, missing]
}

pub async fn version_key() -> [LogCase; 2] {
    const KEY: &str = "vault-csi-provider-hmac-key";
    let (forbidding, _, folder, flag) = fixture_with_api(KubeApi::builder().deny("get", "secrets")).await;
    let forbidden = LogCase::from_api(forbidding, folder, &flag, &[KEY, "forbidden", "add the rule"]);
    let (damaged, _, folder, flag) = fixture_with_api(KubeApi::builder().secret("csi", KEY, &[("other", b"x")])).await;
    [forbidden, LogCase::from_api(damaged, folder, &flag, &[KEY, "delete the Secret"])]
}
