//! Logins with the `kubernetes` method, which sends a TokenReview for each service account token.

use serde_json::json;
use vaultmount::error::Cause;

use super::{assert_mounts, with_secret_object};
use crate::support::{bao::Tenant, daemon::Daemon, kubernetes::KubernetesCluster, pod::Pod};

/// A cluster, a pod of its service account with one secret, and a daemon.
async fn fixture() -> (KubernetesCluster, Pod, Daemon) {
    let tenant = Tenant::new().await;
    tenant.write_secret("db", json!({"pass": "s3cret"})).await;
    let cluster = KubernetesCluster::for_tenant(&tenant).await;
    let pod = with_secret_object(cluster.pod(&tenant), &tenant.kv);
    (cluster, pod, Daemon::start(&[]).await)
}

#[tokio::test]
async fn kubernetes_auth_mount_spellings_share_one_login() {
    let (cluster, pod, daemon) = fixture().await;
    assert_mounts(&daemon, &pod).await;
    let pod = pod
        .clone()
        .with_parameter("vaultAuthMountPath", "")
        .with_parameter("vaultKubernetesMountPath", format!("/{}/", cluster.auth));
    assert_mounts(&daemon, &pod).await;
    assert_eq!(
        cluster.api.request_lines(),
        ["POST /apis/authentication.k8s.io/v1/tokenreviews"],
        "two spellings, one login"
    );
}

#[tokio::test]
async fn kubernetes_auth_malformed_token_is_login_denied() {
    let (cluster, pod, daemon) = fixture().await;
    for garbage in ["garbage", "gar.ba.ge"] {
        let text = daemon
            .assert_mount_error(&pod.clone().with_tokens(&[("vault", garbage)]), Cause::LoginDenied, &[&cluster.auth])
            .await;
        assert!(!text.contains("gar"), "{text}");
    }
}
