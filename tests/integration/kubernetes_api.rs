//! Requests to the Kubernetes API: the HMAC key once, and a token only if the driver passes none.

use serde_json::json;
use tempfile::TempDir;
use vaultmount::error::Cause;

use crate::support::{
    bao::Tenant,
    clock::{DEFAULT_REFRESH_INTERVAL, advance},
    daemon::Daemon,
    kubernetes::KubernetesCluster,
    pod::Pod,
};

const HMAC_SECRET_NAME: &str = "vault-csi-provider-hmac-key";

/// A tenant with a secret, a cluster it trusts, a pod with the secret, and a server with a kubeconfig.
async fn fixture(flags: &[&str]) -> (KubernetesCluster, Pod, Daemon, TempDir) {
    let tenant = Tenant::new().await;
    tenant.write_secret("db", json!({"pass": "s3cret"})).await;
    let cluster = KubernetesCluster::for_tenant(&tenant).await;
    let objects = format!("- {{objectName: pass, secretPath: {}/data/db, secretKey: pass}}", tenant.kv);
    let pod = cluster.pod(&tenant).with_objects(objects);
    let folder = tempfile::tempdir().unwrap();
    let kubeconfig = folder.path().join("kubeconfig");
    std::fs::write(&kubeconfig, cluster.api.kubeconfig("csi", "any")).unwrap();
    let kubeconfig = format!("--kubeconfig={}", kubeconfig.display());
    let flags: Vec<&str> = [&kubeconfig, "--hmac-key-file="].into_iter().chain(flags.iter().copied()).collect();
    let daemon = Daemon::start(&flags).await;
    (cluster, pod, daemon, folder)
}

/// Returns the numbers of API requests, by Vault's token reviews and by vaultmount.
fn count_api_requests(cluster: &KubernetesCluster) -> (usize, usize) {
    let lines = cluster.api.request_lines();
    let reviews = lines.iter().filter(|l| l.contains("tokenreviews")).count();
    (reviews, lines.len() - reviews)
}

#[tokio::test]
async fn hmac_secret_is_created_once_and_mounts_call_no_api() {
    let (cluster, pod, daemon, _folder) = fixture(&[]).await;
    let first = daemon.mount(pod.mount_call()).await.unwrap();
    assert!(cluster.api.secret("csi", HMAC_SECRET_NAME).is_some(), "{:?}", cluster.api.request_lines());
    let before = count_api_requests(&cluster).1;
    for _ in 0..4 {
        // Each poll fetches again with the session token of the first login.
        advance(DEFAULT_REFRESH_INTERVAL).await;
        let again = daemon.mount(pod.mount_call()).await.unwrap();
        assert_eq!(again.object_version[0].version, first.object_version[0].version);
    }
    assert_eq!(count_api_requests(&cluster), (1, before), "one login, and nothing of our own");
}

#[tokio::test]
async fn mint_tokens_auto_requests_token_missing_from_driver() {
    let (cluster, mut pod, daemon, _folder) = fixture(&[]).await;
    pod.tokens = None;
    daemon.mount(pod.clone().with_parameter("audience", "vault").mount_call()).await.unwrap();
    let minted = cluster.api.request_lines().into_iter().filter(|l| l.contains("/serviceaccounts/app/token")).count();
    assert_eq!(minted, 1, "{:?}", cluster.api.request_lines());
}

#[tokio::test]
async fn mint_tokens_off_requests_no_token() {
    let (cluster, mut pod, daemon, _folder) = fixture(&["--mint-tokens=off"]).await;
    pod.tokens = None;
    let parts = ["audience \"vault\"", "tokenRequests"];
    daemon.assert_mount_error(&pod.with_parameter("audience", "vault"), Cause::TokenMissing, &parts).await;
    assert!(!cluster.api.request_lines().iter().any(|l| l.contains("/token ") || l.ends_with("/token")));
}

#[tokio::test]
async fn mint_tokens_without_audience_excludes_tenant_address() {
    let (cluster, mut pod, daemon, _folder) = fixture(&["--allow-address=http://127.0.0.1:*"]).await;
    pod.tokens = None;
    let other = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", other.local_addr().unwrap());
    daemon
        .assert_mount_error(&pod.with_parameter("vaultAddress", address), Cause::TokenMissing, &["tokenRequests"])
        .await;
    assert!(!cluster.api.request_lines().iter().any(|l| l.ends_with("/token")));
}

#[tokio::test]
async fn max_sessions_rejects_new_pod_and_serves_existing() {
    let (cluster, pod, daemon, _folder) = fixture(&["--max-sessions=1"]).await;
    let other = pod.clone().with_parameter("roleName", "second");
    cluster.write_role("second", json!({})).await;
    daemon.mount(pod.mount_call()).await.unwrap();
    for _ in 0..2 {
        daemon
            .assert_mount_error(&other, Cause::ProviderAtCapacity, &["1 sessions of namespace", "--max-sessions"])
            .await;
        advance(DEFAULT_REFRESH_INTERVAL).await;
        daemon.mount(pod.mount_call()).await.unwrap();
    }
    assert_eq!(count_api_requests(&cluster).0, 1, "a login for the first alone");
}
