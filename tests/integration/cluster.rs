//! What the process asks of the Kubernetes API: the key of object versions once, a token only when the driver passed none.

use serde_json::json;
use tempfile::TempDir;
use vaultmount::error::Cause;

use crate::support::{
    bao::Tenant,
    clock::{REFRESH, leap},
    cluster::Cluster,
    daemon::Daemon,
    pod::Pod,
};

const KEY: &str = "vault-csi-provider-hmac-key";

/// A tenant with a secret, a cluster that it trusts, a pod that wants the secret, and a server that has a kubeconfig.
async fn arranged(flags: &[&str]) -> (Cluster, Pod, Daemon, TempDir) {
    let tenant = Tenant::new().await;
    tenant.put("db", json!({"pass": "s3cret"})).await;
    let cluster = Cluster::of(&tenant).await;
    let objects = format!("- {{objectName: pass, secretPath: {}/data/db, secretKey: pass}}", tenant.kv);
    let pod = cluster.pod(&tenant).objects(objects);
    let folder = tempfile::tempdir().unwrap();
    let kubeconfig = folder.path().join("kubeconfig");
    std::fs::write(&kubeconfig, cluster.api.kubeconfig("csi", "any")).unwrap();
    let kubeconfig = format!("--kubeconfig={}", kubeconfig.display());
    let flags: Vec<&str> = [&kubeconfig, "--hmac-key-file="].into_iter().chain(flags.iter().copied()).collect();
    let daemon = Daemon::start(&flags).await;
    (cluster, pod, daemon, folder)
}

/// How often the cluster was asked, by Vault's token reviews and by us.
fn asked(cluster: &Cluster) -> (usize, usize) {
    let lines = cluster.api.lines();
    let reviews = lines.iter().filter(|l| l.contains("tokenreviews")).count();
    (reviews, lines.len() - reviews)
}

#[tokio::test]
async fn the_version_key_is_made_once_and_mounts_ask_for_nothing() {
    let (cluster, pod, daemon, _folder) = arranged(&[]).await;
    let first = daemon.mount(pod.call()).await.unwrap();
    assert!(cluster.api.secret("csi", KEY).is_some(), "{:?}", cluster.api.lines());
    let before = asked(&cluster).1;
    for _ in 0..4 {
        // Each reads again, under the token of the one login.
        leap(REFRESH).await;
        let again = daemon.mount(pod.call()).await.unwrap();
        assert_eq!(again.object_version[0].version, first.object_version[0].version);
    }
    assert_eq!(asked(&cluster), (1, before), "one login, and nothing of our own");
}

#[tokio::test]
async fn a_token_that_the_driver_did_not_pass_is_asked_of_the_cluster() {
    let (cluster, mut pod, daemon, _folder) = arranged(&[]).await;
    pod.tokens = None;
    daemon.mount(pod.clone().with("audience", "vault").call()).await.unwrap();
    let minted = cluster.api.lines().into_iter().filter(|l| l.contains("/serviceaccounts/app/token")).count();
    assert_eq!(minted, 1, "{:?}", cluster.api.lines());
}

#[tokio::test]
async fn no_token_is_asked_for_when_minting_is_off() {
    let (cluster, mut pod, daemon, _folder) = arranged(&["--mint-tokens=off"]).await;
    pod.tokens = None;
    let parts = ["audience \"vault\"", "tokenRequests"];
    daemon.refuses(&pod.with("audience", "vault"), Cause::TokenMissing, &parts).await;
    assert!(!cluster.api.lines().iter().any(|l| l.contains("/token ") || l.ends_with("/token")));
}

#[tokio::test]
async fn a_token_without_audience_never_goes_where_a_class_says() {
    let (cluster, mut pod, daemon, _folder) = arranged(&["--allow-address=http://127.0.0.1:*"]).await;
    pod.tokens = None;
    let other = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", other.local_addr().unwrap());
    daemon.refuses(&pod.with("vaultAddress", address), Cause::TokenMissing, &["tokenRequests"]).await;
    assert!(!cluster.api.lines().iter().any(|l| l.ends_with("/token")));
}

#[tokio::test]
async fn a_new_session_beyond_the_limit_is_refused_and_the_others_go_on() {
    let (cluster, pod, daemon, _folder) = arranged(&["--max-sessions=1"]).await;
    let other = pod.clone().with("roleName", "second");
    cluster.role("second", json!({})).await;
    daemon.mount(pod.call()).await.unwrap();
    for _ in 0..2 {
        daemon.refuses(&other, Cause::Overloaded, &["1 sessions of namespace", "--max-sessions"]).await;
        leap(REFRESH).await;
        daemon.mount(pod.call()).await.unwrap();
    }
    assert_eq!(asked(&cluster).0, 1, "a login for the first alone");
}
