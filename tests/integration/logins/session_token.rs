//! Session tokens: sharing, caching, re-login after revocation, and replacement before expiry.

use std::time::Duration;

use futures_util::future::join_all;
use serde_json::json;
use vaultmount::error::Cause;

use super::fixture;
use crate::support::{
    bao::Tenant,
    clock::{DEFAULT_REFRESH_INTERVAL, advance},
    daemon::Daemon,
    fault_proxy::FaultProxy,
    pod::Pod,
};

/// A pod with three secrets of a tenant, and a daemon behind a proxy that counts requests.
struct TokenFixture {
    tenant: Tenant,
    pod: Pod,
    vault: FaultProxy,
    daemon: Daemon,
}

impl TokenFixture {
    async fn new() -> Self {
        let (tenant, pod) = fixture().await;
        tenant.write_secret("b", json!({"pass": "b"})).await;
        tenant.write_secret("c", json!({"pass": "c"})).await;
        let object = |name| format!("- {{objectName: {name}, secretPath: {}/data/{name}, secretKey: pass}}", tenant.kv);
        let pod = pod.with_objects(["db", "b", "c"].map(object).join("\n"));
        let vault = FaultProxy::start().await;
        let daemon = Daemon::start_at(&vault.address, &[]).await;
        Self { tenant, pod, vault, daemon }
    }

    /// Creates the fixture with these settings of the login role.
    async fn with_role(role: serde_json::Value) -> Self {
        let scene = Self::new().await;
        scene.tenant.write_role("app", role).await;
        scene
    }

    async fn mount(&self) {
        assert_eq!(self.daemon.mount_files(&self.pod).await.len(), 3);
    }

    /// Mounts after the refresh interval, so that every secret is fetched again.
    async fn mount_after_refresh(&self) {
        advance(DEFAULT_REFRESH_INTERVAL).await;
        self.mount().await;
    }

    fn login_count(&self) -> usize {
        self.vault.count("POST", &format!("auth/{}/login", self.tenant.auth))
    }

    /// Returns the number of secret reads, including failed ones.
    fn read_count(&self) -> usize {
        self.vault.count("GET", &format!("{}/data/", self.tenant.kv))
    }
}

#[tokio::test]
async fn concurrent_mounts_of_one_pod_share_one_login() {
    let scene = TokenFixture::new().await;
    join_all((0..20).map(|_| scene.mount())).await;
    assert_eq!(scene.login_count(), 1);
    let reads = scene.read_count();
    scene.mount_after_refresh().await;
    assert_eq!((scene.login_count(), scene.read_count()), (1, reads + 3));
}

#[tokio::test]
async fn each_pod_has_its_own_login() {
    let mut scene = TokenFixture::new().await;
    scene.mount().await;
    scene.pod.uid = "another".into();
    scene.mount().await;
    assert_eq!(scene.login_count(), 2);
}

#[tokio::test]
async fn failed_login_is_sent_once_for_all_objects() {
    let scene = TokenFixture::new().await;
    let pod = scene.pod.clone().with_parameter("roleName", "nobody");
    let text = scene.daemon.assert_mount_error(&pod, Cause::RoleMissing, &["role \"nobody\" does not exist"]).await;
    assert_eq!((scene.login_count(), text.matches("does not exist").count()), (1, 1), "{text}");
}

#[tokio::test]
async fn revoked_login_token_is_replaced_by_one_login() {
    let scene = TokenFixture::new().await;
    scene.mount().await;
    scene.tenant.revoke_logins().await;
    scene.mount_after_refresh().await;
    assert_eq!(scene.login_count(), 2);
    scene.mount_after_refresh().await;
    assert_eq!(scene.login_count(), 2);
}

#[tokio::test]
async fn vault_policy_denial_triggers_no_login() {
    let scene = TokenFixture::new().await;
    scene.mount().await;
    scene.tenant.set_policy("path \"nothing\" { capabilities = [\"read\"] }").await;
    for mounts in 2..4 {
        advance(DEFAULT_REFRESH_INTERVAL).await;
        scene.daemon.assert_mount_error(&scene.pod, Cause::VaultPolicyDenied, &["objects \"b\", \"c\", \"db\""]).await;
        assert_eq!((scene.login_count(), scene.read_count()), (1, 3 * mounts));
    }
}

#[tokio::test]
async fn token_is_replaced_before_it_expires() {
    for kind in ["service", "batch"] {
        let scene = TokenFixture::with_role(json!({"token_type": kind, "token_ttl": "10m"})).await;
        scene.mount().await;
        advance(Duration::from_secs(7 * 60)).await;
        scene.mount().await;
        assert_eq!(scene.login_count(), 1, "{kind}");
        advance(Duration::from_secs(130)).await;
        scene.mount().await;
        assert_eq!((scene.login_count(), scene.read_count()), (2, 9), "{kind}");
    }
}

#[tokio::test]
async fn token_num_uses_causes_no_failed_reads() {
    for uses in [1, 2, 3, 5] {
        let scene = TokenFixture::with_role(json!({"token_num_uses": uses})).await;
        for _ in 0..3 {
            scene.mount_after_refresh().await;
        }
        assert_eq!(scene.read_count(), 9, "{uses} uses");
    }
}

#[tokio::test]
async fn token_no_default_policy_works_and_survives_revocation() {
    let scene = TokenFixture::with_role(json!({"token_no_default_policy": true})).await;
    scene.mount().await;
    scene.tenant.revoke_logins().await;
    scene.mount_after_refresh().await;
    assert_eq!(scene.login_count(), 2);
    scene.tenant.set_policy("path \"nothing\" { capabilities = [\"read\"] }").await;
    advance(DEFAULT_REFRESH_INTERVAL).await;
    let policies = format!("(policies {})", scene.tenant.policy);
    scene.daemon.assert_mount_error(&scene.pod, Cause::VaultPolicyDenied, &[&policies]).await;
    assert_eq!(scene.login_count(), 2);
}
