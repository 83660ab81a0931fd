//! Logins by the `kubernetes` method, which asks the cluster about each token.

use serde_json::json;
use vaultmount::error::Cause;

use super::{mounts, wants};
use crate::support::{bao::Tenant, cluster::Cluster, daemon::Daemon, pod::Pod};

/// A cluster, and a pod of its service account that wants a secret.
async fn arranged() -> (Cluster, Pod, Daemon) {
    let tenant = Tenant::new().await;
    tenant.put("db", json!({"pass": "s3cret"})).await;
    let cluster = Cluster::of(&tenant).await;
    let pod = wants(cluster.pod(&tenant), &tenant.kv);
    (cluster, pod, Daemon::start(&[]).await)
}

#[tokio::test]
async fn a_token_that_the_cluster_knows() {
    let (cluster, pod, daemon) = arranged().await;
    mounts(&daemon, &pod).await;
    let pod =
        pod.clone().with("vaultAuthMountPath", "").with("vaultKubernetesMountPath", format!("/{}/", cluster.auth));
    mounts(&daemon, &pod).await;
    assert_eq!(cluster.api.lines(), ["POST /apis/authentication.k8s.io/v1/tokenreviews"], "two spellings, one login");
}

#[tokio::test]
async fn a_token_that_is_none() {
    let (cluster, pod, daemon) = arranged().await;
    for garbage in ["garbage", "gar.ba.ge"] {
        let text = daemon.refuses(&pod.clone().pass(&[("vault", garbage)]), Cause::LoginDenied, &[&cluster.auth]).await;
        assert!(!text.contains("gar"), "{text}");
    }
}
