//! Logins by the `kubernetes` method, which asks the cluster about each token.

use serde_json::json;
use tonic::Code;

use super::{mounts, wants};
use crate::{
    kube_api::KubeApi,
    support::{bao::Tenant, cluster::Cluster, daemon::Daemon, pod::Pod},
};

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
async fn a_token_of_a_pod_that_is_gone() {
    let (cluster, pod, daemon) = arranged().await;
    cluster.api.delete_pod("shop", "web-1");
    let parts = ["\"app\"", &cluster.auth, "permission denied", "this pod is gone", "level debug"];
    daemon.refuses(&pod, Code::Unauthenticated, &parts).await;
}

#[tokio::test]
async fn a_role_that_does_not_exist() {
    let (cluster, pod, daemon) = arranged().await;
    let mount = format!("auth/{}", cluster.auth);
    let parts = ["\"nobody\"", &mount, "invalid role name", "correct roleName"];
    daemon.refuses(&pod.with("roleName", "nobody"), Code::FailedPrecondition, &parts).await;
}

#[tokio::test]
async fn an_audience_that_the_role_does_not_take() {
    let (cluster, pod, daemon) = arranged().await;
    cluster.role("app", json!({"audience": "team"})).await;
    let parts = ["\"app\"", &cluster.auth, "audience \"vault\"", "invalid audience (aud) claim", "role's audience"];
    daemon.refuses(&pod, Code::Unauthenticated, &parts).await;
}

#[tokio::test]
async fn a_namespace_that_is_not_bound() {
    let (cluster, pod, daemon) = arranged().await;
    cluster.role("app", json!({"bound_service_account_namespaces": ["billing"]})).await;
    let parts = ["\"app\"", &cluster.auth, "\"shop\"", "namespace not authorized", "bound_service_account_namespaces"];
    daemon.refuses(&pod, Code::PermissionDenied, &parts).await;
}

#[tokio::test]
async fn a_service_account_that_is_not_bound() {
    let (cluster, pod, daemon) = arranged().await;
    cluster.role("app", json!({"bound_service_account_names": ["billing"]})).await;
    let parts = ["\"app\"", &cluster.auth, "service account \"app\"", "not authorized", "bound_service_account_names"];
    daemon.refuses(&pod, Code::PermissionDenied, &parts).await;
}

#[tokio::test]
async fn a_token_that_is_none() {
    let (cluster, pod, daemon) = arranged().await;
    for garbage in ["garbage", "gar.ba.ge"] {
        let text =
            daemon.refuses(&pod.clone().pass(&[("vault", garbage)]), Code::Unauthenticated, &[&cluster.auth]).await;
        assert!(!text.contains("gar"), "{text}");
    }
}

#[tokio::test]
async fn a_cluster_that_cannot_be_asked() {
    let (cluster, pod, daemon) = arranged().await;
    cluster.host("http://127.0.0.1:1").await;
    let parts = ["\"app\"", &cluster.auth, "permission denied", "cannot ask the Kubernetes API", "level debug"];
    daemon.refuses(&pod, Code::Unauthenticated, &parts).await;
}

#[tokio::test]
async fn a_cluster_that_lets_nobody_ask() {
    let tenant = Tenant::new().await;
    let cluster = Cluster::with(&tenant, KubeApi::builder().deny("create", "tokenreviews")).await;
    let (pod, daemon) = (wants(cluster.pod(&tenant), &tenant.kv), Daemon::start(&[]).await);
    let parts = ["\"app\"", &cluster.auth, "permission denied", "system:auth-delegator"];
    daemon.refuses(&pod, Code::Unauthenticated, &parts).await;
}
