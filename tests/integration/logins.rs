//! Logins: which proof goes to Vault, and what a pod's event says when Vault does not take it.

mod kubernetes;
mod namespaces;
mod tokens;

use std::collections::BTreeMap;

use serde_json::json;
use vaultmount::error::Cause;

use crate::support::{bao::Tenant, daemon::Daemon, faulty::Faulty, pod::Pod};

/// A tenant with a secret, and a pod that wants it as the file `pass`.
async fn arranged() -> (Tenant, Pod) {
    let tenant = Tenant::new().await;
    tenant.put("db", json!({"pass": "s3cret"})).await;
    let pod = wants(Pod::of(&tenant), &tenant.kv);
    (tenant, pod)
}

/// The pod with a class of that one file.
fn wants(pod: Pod, kv: &str) -> Pod {
    pod.objects(format!("- {{objectName: pass, secretPath: {kv}/data/db, secretKey: pass}}"))
}

/// Checks that a mount brings that file.
async fn mounts(daemon: &Daemon, pod: &Pod) {
    assert_eq!(daemon.files(pod).await, BTreeMap::from([("pass".to_owned(), "s3cret".to_owned())]));
}

#[tokio::test]
async fn an_expired_token_is_told_without_asking_vault() {
    let (_, mut pod) = arranged().await;
    let vault = Faulty::start().await;
    let daemon = Daemon::at(&vault.address, &[]).await;
    pod = pod.clone().pass(&[("vault", &pod.token("vault", -70))]);
    let parts = ["expired at 20", "s ago", "fresh one", "clocks"];
    daemon.refuses(&pod, Cause::TokenExpired, &parts).await;
    assert_eq!(vault.asked(), 0);
}

#[tokio::test]
async fn a_token_of_another_service_account_is_told_without_asking_vault() {
    let (_, mut pod) = arranged().await;
    let vault = Faulty::start().await;
    let daemon = Daemon::at(&vault.address, &[]).await;
    pod.service_account = "web".into();
    let parts = ["shop/app", "shop/web", "volumeAttributes", "kubelet"];
    daemon.refuses(&pod, Cause::TokenIdentity, &parts).await;
    assert_eq!(vault.asked(), 0);
}

#[tokio::test]
async fn a_token_in_secrets() {
    let ((_, mut pod), daemon) = (arranged().await, Daemon::start(&[]).await);
    let tokens = pod.tokens.take().unwrap().to_string();
    let mut call = pod.call();
    call.secrets = json!({"csi.storage.k8s.io/serviceAccount.tokens": tokens, "user": "x"}).to_string();
    assert_eq!(daemon.mount(call).await.unwrap().files[0].contents.as_ref(), b"s3cret");
}

#[tokio::test]
async fn the_audience_that_the_class_names() {
    let ((tenant, pod), daemon) = (arranged().await, Daemon::start(&[]).await);
    tenant.role("app", json!({"bound_audiences": ["team"]})).await;
    let pod = pod.clone().pass(&[("vault", &pod.token("vault", 600)), ("team", &pod.token("team", 600))]);
    mounts(&daemon, &pod.clone().with("audience", "team")).await;
    daemon.refuses(&pod, Cause::AudienceWrong, &["audience \"vault\""]).await;
}

#[tokio::test]
async fn the_audience_that_the_socket_is_named_after() {
    let (tenant, pod) = arranged().await;
    tenant.role("app", json!({"bound_audiences": ["openbao"]})).await;
    let daemon = Daemon::named("openbao.sock", &tenant.address, &[]).await;
    let parts = ["audience \"openbao\"", "passed: \"vault\"", "tokenRequests: [{audience: openbao}]"];
    daemon.refuses(&pod, Cause::TokenMissing, &parts).await;
    mounts(&daemon, &pod.clone().pass(&[("openbao", &pod.token("openbao", 600))])).await;
}
