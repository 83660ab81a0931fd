//! Vault namespaces: where secrets are read, and where logins happen.

use serde_json::json;
use vaultmount::error::Cause;

use super::{arranged, mounts, wants};
use crate::support::{
    bao::{Tenant, issuer, root},
    daemon::Daemon,
    pod::Pod,
    unique,
};

/// A new Vault namespace with an engine `kv` that holds the secret.
async fn namespace() -> String {
    let name = unique("ns");
    root("POST", &format!("sys/namespaces/{name}"), json!({})).await;
    root("POST", &format!("{name}/sys/mounts/kv"), json!({"type": "kv", "options": {"version": "1"}})).await;
    root("POST", &format!("{name}/kv/data/db"), json!({"data": {"pass": "s3cret"}})).await;
    name
}

/// One that also has an auth mount `jwt`, whose role `app` may read all of `kv`.
async fn login() -> String {
    let name = namespace().await;
    root("POST", &format!("{name}/sys/auth/jwt"), json!({"type": "jwt"})).await;
    let config = json!({"jwt_validation_pubkeys": [issuer().public_key_pem()]});
    root("POST", &format!("{name}/auth/jwt/config"), config).await;
    let policy = json!({"policy": "path \"kv/*\" { capabilities = [\"read\"] }"});
    root("POST", &format!("{name}/sys/policies/acl/app"), policy).await;
    let role = json!({"role_type": "jwt", "user_claim": "sub", "bound_audiences": "vault", "token_policies": "app"});
    root("POST", &format!("{name}/auth/jwt/role/app"), role).await;
    name
}

#[tokio::test]
async fn logins_and_reads_in_one_namespace() {
    let (tenant, daemon, name) = (Tenant::new().await, Daemon::start(&[]).await, login().await);
    let pod =
        wants(Pod::of(&tenant), "kv").with("vaultAuthMountPath", "jwt").with("vaultNamespace", format!("{name}/"));
    mounts(&daemon, &pod).await;
    let denied = pod.objects("- {objectName: x, secretPath: other/db}");
    let place = format!("other/db in Vault namespace {name}");
    daemon.refuses(&denied, Cause::Denied, &[&place, "path \"other/db\" {"]).await;
}

#[tokio::test]
async fn logins_in_another_namespace_than_reads() {
    let ((tenant, pod), daemon, name) = (arranged().await, Daemon::start(&[]).await, namespace().await);
    tenant.allow(&format!("path \"{name}/kv/*\" {{ capabilities = [\"read\"] }}")).await;
    let pod = wants(pod, "kv").with("vaultNamespace", &name).with("vaultAuthNamespace", "/");
    mounts(&daemon, &pod).await;
    let denied = pod.objects("- {objectName: x, secretPath: other/db}");
    let text = daemon.refuses(&denied, Cause::Denied, &[&format!("path \"{name}/other/db\" {{")]).await;
    // What it says to add to the policy is what lacks.
    tenant.allow(&text[text.find("path \"").unwrap()..text.rfind(" [VM").unwrap()]).await;
    daemon.refuses(&denied, Cause::EngineMissing, &["no secrets engine answers at other/db"]).await;
}

#[tokio::test]
async fn logins_in_a_namespace_whose_tokens_are_no_good_where_secrets_are() {
    let (tenant, daemon, here, there) =
        (Tenant::new().await, Daemon::start(&[]).await, login().await, namespace().await);
    let pod = wants(Pod::of(&tenant), "kv").with("vaultAuthMountPath", "jwt");
    let pod = pod.with("vaultNamespace", &there).with("vaultAuthNamespace", &here);
    let parts = ["\"pass\"", &format!("in Vault namespace {there}"), "vaultAuthNamespace", &here];
    let text = daemon.refuses(&pod, Cause::Denied, &parts).await;
    assert!(!text.contains("capabilities"), "no policy helps: {text}");
}
