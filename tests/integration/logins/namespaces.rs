//! Vault namespaces: secret paths and logins inside a namespace.

use serde_json::json;
use vaultmount::error::Cause;

use super::{assert_mounts, fixture, with_secret_object};
use crate::support::{
    bao::{Tenant, issuer_key, root_request},
    daemon::Daemon,
    pod::Pod,
    unique_name,
};

/// Creates a Vault namespace with an engine `kv` that holds the secret.
async fn create_namespace() -> String {
    let name = unique_name("ns");
    root_request("POST", &format!("sys/namespaces/{name}"), json!({})).await;
    root_request("POST", &format!("{name}/sys/mounts/kv"), json!({"type": "kv", "options": {"version": "1"}})).await;
    root_request("POST", &format!("{name}/kv/data/db"), json!({"data": {"pass": "s3cret"}})).await;
    name
}

/// Creates a namespace with an auth mount `jwt` as well; its role `app` may read all of `kv`.
async fn create_login_namespace() -> String {
    let name = create_namespace().await;
    root_request("POST", &format!("{name}/sys/auth/jwt"), json!({"type": "jwt"})).await;
    let config = json!({"jwt_validation_pubkeys": [issuer_key().public_key_pem()]});
    root_request("POST", &format!("{name}/auth/jwt/config"), config).await;
    let policy = json!({"policy": "path \"kv/*\" { capabilities = [\"read\"] }"});
    root_request("POST", &format!("{name}/sys/policies/acl/app"), policy).await;
    let role = json!({"role_type": "jwt", "user_claim": "sub", "bound_audiences": "vault", "token_policies": "app"});
    root_request("POST", &format!("{name}/auth/jwt/role/app"), role).await;
    name
}

#[tokio::test]
async fn vault_namespace_applies_to_login_and_reads() {
    let (tenant, daemon, name) = (Tenant::new().await, Daemon::start(&[]).await, create_login_namespace().await);
    let pod = with_secret_object(Pod::for_tenant(&tenant), "kv")
        .with_parameter("vaultAuthMountPath", "jwt")
        .with_parameter("vaultNamespace", format!("{name}/"));
    assert_mounts(&daemon, &pod).await;
    let denied = pod.with_objects("- {objectName: x, secretPath: other/db}");
    let place = format!("other/db in Vault namespace {name}");
    daemon.assert_mount_error(&denied, Cause::VaultPolicyDenied, &[&place, "path \"other/db\" {"]).await;
}

#[tokio::test]
async fn vault_auth_namespace_logs_in_elsewhere_than_reads() {
    let ((tenant, pod), daemon, name) = (fixture().await, Daemon::start(&[]).await, create_namespace().await);
    tenant.set_policy(&format!("path \"{name}/kv/*\" {{ capabilities = [\"read\"] }}")).await;
    let pod =
        with_secret_object(pod, "kv").with_parameter("vaultNamespace", &name).with_parameter("vaultAuthNamespace", "/");
    assert_mounts(&daemon, &pod).await;
    let denied = pod.with_objects("- {objectName: x, secretPath: other/db}");
    let text =
        daemon.assert_mount_error(&denied, Cause::VaultPolicyDenied, &[&format!("path \"{name}/other/db\" {{")]).await;
    // The policy stanza in the error text is exactly the missing one.
    tenant.set_policy(&text[text.find("path \"").unwrap()..text.rfind(" [VM").unwrap()]).await;
    daemon.assert_mount_error(&denied, Cause::EngineMissing, &["no secrets engine answers at other/db"]).await;
}

#[tokio::test]
async fn vault_auth_namespace_token_denied_elsewhere_is_explained() {
    let (tenant, daemon, here, there) =
        (Tenant::new().await, Daemon::start(&[]).await, create_login_namespace().await, create_namespace().await);
    let pod = with_secret_object(Pod::for_tenant(&tenant), "kv").with_parameter("vaultAuthMountPath", "jwt");
    let pod = pod.with_parameter("vaultNamespace", &there).with_parameter("vaultAuthNamespace", &here);
    let parts = ["\"pass\"", &format!("in Vault namespace {there}"), "vaultAuthNamespace", &here];
    let text = daemon.assert_mount_error(&pod, Cause::VaultPolicyDenied, &parts).await;
    assert!(!text.contains("capabilities"), "no policy helps: {text}");
}
