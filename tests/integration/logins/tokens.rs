//! The token that a login brings: shared, kept, healed, replaced before its end.

use std::time::Duration;

use futures_util::future::join_all;
use serde_json::json;
use vaultmount::error::Cause;

use super::arranged;
use crate::support::{
    bao::Tenant,
    clock::{REFRESH, leap},
    daemon::Daemon,
    faulty::Faulty,
    pod::Pod,
};

/// A pod that wants three secrets of a tenant, and a daemon whose requests are counted.
struct Scene {
    tenant: Tenant,
    pod: Pod,
    vault: Faulty,
    daemon: Daemon,
}

impl Scene {
    async fn new() -> Self {
        let (tenant, pod) = arranged().await;
        tenant.put("b", json!({"pass": "b"})).await;
        tenant.put("c", json!({"pass": "c"})).await;
        let object = |name| format!("- {{objectName: {name}, secretPath: {}/data/{name}, secretKey: pass}}", tenant.kv);
        let pod = pod.objects(["db", "b", "c"].map(object).join("\n"));
        let vault = Faulty::start().await;
        let daemon = Daemon::at(&vault.address, &[]).await;
        Self { tenant, pod, vault, daemon }
    }

    /// The same, with a login role that differs so.
    async fn with(role: serde_json::Value) -> Self {
        let scene = Self::new().await;
        scene.tenant.role("app", role).await;
        scene
    }

    async fn mount(&self) {
        assert_eq!(self.daemon.files(&self.pod).await.len(), 3);
    }

    /// A mount when everything is old, so that all is read again.
    async fn mount_later(&self) {
        leap(REFRESH).await;
        self.mount().await;
    }

    fn logins(&self) -> usize {
        self.vault.count("POST", &format!("auth/{}/login", self.tenant.auth))
    }

    /// Reads of secrets: more than mounts brought when some were in vain.
    fn reads(&self) -> usize {
        self.vault.count("GET", &format!("{}/data/", self.tenant.kv))
    }
}

#[tokio::test]
async fn many_mounts_of_one_pod_are_one_login() {
    let scene = Scene::new().await;
    join_all((0..20).map(|_| scene.mount())).await;
    assert_eq!(scene.logins(), 1);
    let reads = scene.reads();
    scene.mount_later().await;
    assert_eq!((scene.logins(), scene.reads()), (1, reads + 3));
}

#[tokio::test]
async fn each_pod_logs_in_for_itself() {
    let mut scene = Scene::new().await;
    scene.mount().await;
    scene.pod.uid = "another".into();
    scene.mount().await;
    assert_eq!(scene.logins(), 2);
}

#[tokio::test]
async fn a_refused_login_is_one_login_for_all_objects() {
    let scene = Scene::new().await;
    let pod = scene.pod.clone().with("roleName", "nobody");
    let text = scene.daemon.refuses(&pod, Cause::RoleMissing, &["role \"nobody\" does not exist"]).await;
    assert_eq!((scene.logins(), text.matches("does not exist").count()), (1, 1), "{text}");
}

#[tokio::test]
async fn a_revoked_token_is_healed_by_one_login() {
    let scene = Scene::new().await;
    scene.mount().await;
    scene.tenant.revoke_logins().await;
    scene.mount_later().await;
    assert_eq!(scene.logins(), 2);
    scene.mount_later().await;
    assert_eq!(scene.logins(), 2);
}

#[tokio::test]
async fn a_policys_refusal_is_no_reason_to_log_in() {
    let scene = Scene::new().await;
    scene.mount().await;
    scene.tenant.allow("path \"nothing\" { capabilities = [\"read\"] }").await;
    for mounts in 2..4 {
        leap(REFRESH).await;
        scene.daemon.refuses(&scene.pod, Cause::Denied, &["objects \"b\", \"c\", \"db\""]).await;
        assert_eq!((scene.logins(), scene.reads()), (1, 3 * mounts));
    }
}

#[tokio::test]
async fn a_token_is_replaced_before_its_end() {
    for kind in ["service", "batch"] {
        let scene = Scene::with(json!({"token_type": kind, "token_ttl": "10m"})).await;
        scene.mount().await;
        leap(Duration::from_secs(7 * 60)).await;
        scene.mount().await;
        assert_eq!(scene.logins(), 1, "{kind}");
        leap(Duration::from_secs(130)).await;
        scene.mount().await;
        assert_eq!((scene.logins(), scene.reads()), (2, 9), "{kind}");
    }
}

#[tokio::test]
async fn a_token_of_few_uses_is_used_up() {
    for uses in [1, 2, 3, 5] {
        let scene = Scene::with(json!({"token_num_uses": uses})).await;
        for _ in 0..3 {
            scene.mount_later().await;
        }
        assert_eq!(scene.reads(), 9, "{uses} uses");
    }
}

#[tokio::test]
async fn a_token_without_the_default_policy_serves_and_is_healed() {
    let scene = Scene::with(json!({"token_no_default_policy": true})).await;
    scene.mount().await;
    scene.tenant.revoke_logins().await;
    scene.mount_later().await;
    assert_eq!(scene.logins(), 2);
    scene.tenant.allow("path \"nothing\" { capabilities = [\"read\"] }").await;
    leap(REFRESH).await;
    let whose = format!("(policies {})", scene.tenant.policy);
    scene.daemon.refuses(&scene.pod, Cause::Denied, &[&whose]).await;
    assert_eq!(scene.logins(), 2);
}
