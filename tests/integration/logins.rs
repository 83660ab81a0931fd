//! Logins: the credentials sent to Vault, and the error text when Vault rejects them.

mod kubernetes;
mod namespaces;
mod session_token;

use std::collections::BTreeMap;

use serde_json::json;
use vaultmount::error::Cause;

use crate::support::{bao::Tenant, daemon::Daemon, fault_proxy::FaultProxy, pod::Pod};

/// Creates a tenant with a secret, and a pod that mounts it as the file `pass`.
async fn fixture() -> (Tenant, Pod) {
    let tenant = Tenant::new().await;
    tenant.write_secret("db", json!({"pass": "s3cret"})).await;
    let pod = with_secret_object(Pod::for_tenant(&tenant), &tenant.kv);
    (tenant, pod)
}

/// Returns the pod with a class of only that file.
fn with_secret_object(pod: Pod, kv: &str) -> Pod {
    pod.with_objects(format!("- {{objectName: pass, secretPath: {kv}/data/db, secretKey: pass}}"))
}

/// Checks that a mount returns that file.
async fn assert_mounts(daemon: &Daemon, pod: &Pod) {
    assert_eq!(daemon.mount_files(pod).await, BTreeMap::from([("pass".to_owned(), "s3cret".to_owned())]));
}

#[tokio::test]
async fn expired_token_fails_without_vault_request() {
    let (_, mut pod) = fixture().await;
    let vault = FaultProxy::start().await;
    let daemon = Daemon::start_at(&vault.address, &[]).await;
    pod = pod.clone().with_tokens(&[("vault", &pod.sign_token("vault", -70))]);
    let parts = ["expired at 20", "s ago", "fresh token", "clocks"];
    daemon.assert_mount_error(&pod, Cause::TokenExpired, &parts).await;
    assert_eq!(vault.count_except_health(), 0);
}

#[tokio::test]
async fn token_of_other_service_account_fails_without_request() {
    let (_, mut pod) = fixture().await;
    let vault = FaultProxy::start().await;
    let daemon = Daemon::start_at(&vault.address, &[]).await;
    pod.service_account = "web".into();
    let parts = ["shop/app", "shop/web", "volumeAttributes", "kubelet"];
    daemon.assert_mount_error(&pod, Cause::TokenIdentity, &parts).await;
    assert_eq!(vault.count_except_health(), 0);
}

#[tokio::test]
async fn service_account_token_in_secrets_field_logs_in() {
    let ((_, mut pod), daemon) = (fixture().await, Daemon::start(&[]).await);
    let tokens = pod.tokens.take().unwrap().to_string();
    let mut call = pod.mount_call();
    call.secrets = json!({"csi.storage.k8s.io/serviceAccount.tokens": tokens, "user": "x"}).to_string();
    assert_eq!(daemon.mount(call).await.unwrap().files[0].contents.as_ref(), b"s3cret");
}

#[tokio::test]
async fn audience_parameter_selects_the_token() {
    let ((tenant, pod), daemon) = (fixture().await, Daemon::start(&[]).await);
    tenant.write_role("app", json!({"bound_audiences": ["team"]})).await;
    let pod =
        pod.clone().with_tokens(&[("vault", &pod.sign_token("vault", 600)), ("team", &pod.sign_token("team", 600))]);
    assert_mounts(&daemon, &pod.clone().with_parameter("audience", "team")).await;
    daemon.assert_mount_error(&pod, Cause::AudienceWrong, &["audience \"vault\""]).await;
}

#[tokio::test]
async fn audience_defaults_to_provider_socket_name() {
    let (tenant, pod) = fixture().await;
    tenant.write_role("app", json!({"bound_audiences": ["openbao"]})).await;
    let daemon = Daemon::start_with_socket_name("openbao.sock", &tenant.address, &[]).await;
    let parts = ["audience \"openbao\"", "passed: \"vault\"", "tokenRequests: [{audience: openbao}]"];
    daemon.assert_mount_error(&pod, Cause::TokenMissing, &parts).await;
    assert_mounts(&daemon, &pod.clone().with_tokens(&[("openbao", &pod.sign_token("openbao", 600))])).await;
}
