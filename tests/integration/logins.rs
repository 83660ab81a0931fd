//! Logins: which proof goes to Vault, and what a pod's event says when Vault does not take it.

mod kubernetes;
mod namespaces;
mod tokens;

use std::collections::BTreeMap;

use serde_json::json;
use tonic::Code;

use crate::support::{
    bao::{Tenant, root},
    daemon::Daemon,
    faulty::Faulty,
    pod::{Pod, sign},
    unique,
};

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
async fn a_role_that_does_not_exist() {
    let ((tenant, pod), daemon) = (arranged().await, Daemon::start(&[]).await);
    let pod = pod.with("roleName", "nobody");
    let mount = format!("auth/{}", tenant.auth);
    let parts = ["\"nobody\"", &mount, &tenant.address, "could not be found", "correct roleName", "create the role"];
    daemon.refuses(&pod, Code::FailedPrecondition, &parts).await;
}

#[tokio::test]
async fn an_audience_that_the_role_does_not_take() {
    let ((tenant, pod), daemon) = (arranged().await, Daemon::start(&[]).await);
    tenant.role("app", json!({"bound_audiences": ["team"]})).await;
    let mount = format!("auth/{}", tenant.auth);
    let parts = ["\"app\"", &mount, "audience \"vault\"", "audience claim does not match", "bound_audiences"];
    daemon.refuses(&pod, Code::Unauthenticated, &parts).await;
}

#[tokio::test]
async fn an_expired_token_is_told_without_asking_vault() {
    let (_, mut pod) = arranged().await;
    let vault = Faulty::start().await;
    let daemon = Daemon::at(&vault.address, &[]).await;
    pod = pod.clone().pass(&[("vault", &pod.token("vault", -70))]);
    let parts = ["expired at 20", " s ago", "fresh one", "clocks"];
    daemon.refuses(&pod, Code::Unauthenticated, &parts).await;
    assert_eq!(vault.connections(), 0);
}

#[tokio::test]
async fn a_token_that_vault_finds_expired() {
    let ((tenant, pod), daemon) = (arranged().await, Daemon::start(&[]).await);
    // Vault takes a token that names no end for some minutes from its beginning.
    let token = sign(&json!({"aud": ["vault"], "sub": "system:serviceaccount:shop:app", "iat": 1_600_000_000}));
    let parts = ["expired", &tenant.auth, "token is expired", "clocks"];
    daemon.refuses(&pod.pass(&[("vault", &token)]), Code::Unauthenticated, &parts).await;
}

#[tokio::test]
async fn a_token_of_another_service_account_is_told_without_asking_vault() {
    let (_, mut pod) = arranged().await;
    let vault = Faulty::start().await;
    let daemon = Daemon::at(&vault.address, &[]).await;
    pod.service_account = "web".into();
    let parts = ["shop/app", "shop/web", "volumeAttributes", "kubelet"];
    daemon.refuses(&pod, Code::Unauthenticated, &parts).await;
    assert_eq!(vault.connections(), 0);
}

#[tokio::test]
async fn claims_that_the_role_does_not_take() {
    let ((tenant, pod), daemon) = (arranged().await, Daemon::start(&[]).await);
    tenant.role("app", json!({"bound_claims": {"/kubernetes.io/namespace": "billing"}})).await;
    let mount = format!("auth/{}", tenant.auth);
    let parts = ["\"app\"", &mount, "/kubernetes.io/namespace", "does not match", "bound claims"];
    daemon.refuses(&pod, Code::Unauthenticated, &parts).await;
}

#[tokio::test]
async fn a_token_of_another_issuer() {
    let ((tenant, mut pod), daemon) = (arranged().await, Daemon::start(&[]).await);
    let token = pod.token("vault", 600);
    let (signed, _) = token.rsplit_once('.').unwrap();
    let (_, signature) = sign(&json!({})).rsplit_once('.').map(|(a, b)| (a.to_owned(), b.to_owned())).unwrap();
    pod = pod.pass(&[("vault", &format!("{signed}.{signature}"))]);
    let mount = format!("auth/{}", tenant.auth);
    let parts = [&mount, "token signature", "key that signed", "jwt_validation_pubkeys", "auth mount in the class"];
    daemon.refuses(&pod, Code::Unauthenticated, &parts).await;
}

#[tokio::test]
async fn an_auth_mount_that_does_not_exist() {
    let ((_, pod), daemon) = (arranged().await, Daemon::start(&[]).await);
    let parts =
        ["\"app\"", "auth/nowhere", "permission denied", "no kubernetes or jwt method is mounted at auth/nowhere"];
    daemon.refuses(&pod.with("vaultAuthMountPath", "nowhere"), Code::Unauthenticated, &parts).await;
}

#[tokio::test]
async fn an_auth_mount_that_is_not_configured() {
    let ((_, pod), daemon) = (arranged().await, Daemon::start(&[]).await);
    for method in ["jwt", "kubernetes"] {
        let mount = unique(method);
        root("POST", &format!("sys/auth/{mount}"), json!({"type": method})).await;
        if method == "kubernetes" {
            let role = json!({"bound_service_account_names": "*", "bound_service_account_namespaces": "*"});
            root("POST", &format!("auth/{mount}/role/app"), role).await;
        }
        let next = format!("auth/{mount}/config");
        let parts = ["not configured", "could not load", "write its configuration", &next];
        daemon.refuses(&pod.clone().with("vaultAuthMountPath", mount), Code::FailedPrecondition, &parts).await;
    }
}

#[tokio::test]
async fn an_auth_method_of_another_kind() {
    let ((_, pod), daemon) = (arranged().await, Daemon::start(&[]).await);
    for (method, code) in [("approle", Code::FailedPrecondition), ("userpass", Code::Unauthenticated)] {
        let mount = unique(method);
        root("POST", &format!("sys/auth/{mount}"), json!({"type": method})).await;
        let parts = ["no kubernetes or jwt", &format!("auth/{mount}")];
        daemon.refuses(&pod.clone().with("vaultAuthMountPath", &mount), code, &parts).await;
    }
}

#[tokio::test]
async fn no_token_from_the_driver() {
    let ((_, mut pod), daemon) = (arranged().await, Daemon::start(&[]).await);
    pod.tokens = None;
    let parts = ["audience \"vault\"", "none", "CSIDriver", "tokenRequests: [{audience: vault}]"];
    daemon.refuses(&pod, Code::FailedPrecondition, &parts).await;
}

#[tokio::test]
async fn a_token_of_another_audience_only() {
    let ((_, pod), daemon) = (arranged().await, Daemon::start(&[]).await);
    let pod = pod.clone().pass(&[("team", &pod.token("team", 600)), ("sts.aws", &pod.token("sts.aws", 600))]);
    let next = ["CSIDriver", "tokenRequests: [{audience: vault}]", "class's `audience`"];
    let parts = ["audience \"vault\"", "passed: \"sts.aws\", \"team\"", next[0], next[1], next[2]];
    daemon.refuses(&pod, Code::FailedPrecondition, &parts).await;
}

#[tokio::test]
async fn a_token_under_the_name_of_another_audience() {
    let ((_, pod), daemon) = (arranged().await, Daemon::start(&[]).await);
    let pod = pod.clone().pass(&[("vault", &pod.token("team", 600))]);
    daemon.refuses(&pod, Code::Unauthenticated, &["\"team\"", "\"vault\"", "tokenRequests"]).await;
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
    daemon.refuses(&pod, Code::Unauthenticated, &["audience \"vault\""]).await;
}

#[tokio::test]
async fn the_audience_that_the_socket_is_named_after() {
    let (tenant, pod) = arranged().await;
    tenant.role("app", json!({"bound_audiences": ["openbao"]})).await;
    let daemon = Daemon::named("openbao.sock", &tenant.address, &[]).await;
    let parts = ["audience \"openbao\"", "passed: \"vault\"", "tokenRequests: [{audience: openbao}]"];
    daemon.refuses(&pod, Code::FailedPrecondition, &parts).await;
    mounts(&daemon, &pod.clone().pass(&[("openbao", &pod.token("openbao", 600))])).await;
}
