//! Errors from the state of the Vault server, and of vaultmount.

use std::time::Duration;

use serde_json::json;

use super::{MountCase, fixture, single_object};
use crate::support::{
    bao::root_request,
    bao_server::BaoServer,
    daemon::Daemon,
    database::DatabaseEngine,
    fault_proxy::{Fault, FaultProxy, Gate, respond, vault_error},
};

pub async fn sealed() -> [MountCase; 1] {
    let ((_, pod), server) = (fixture().await, BaoServer::sealed().await);
    [MountCase::for_pod(pod, &["is sealed", "vault operator unseal"])
        .with_address(&server.address.clone())
        .keep_alive(server)]
}

pub async fn uninitialized() -> [MountCase; 1] {
    let ((_, pod), server) = (fixture().await, BaoServer::uninitialized().await);
    let expected = ["is not initialized", "vault operator init", "storage"];
    [MountCase::for_pod(pod, &expected).with_address(&server.address.clone()).keep_alive(server)]
}

pub async fn no_leader() -> [MountCase; 1] {
    let ((_, pod), server) = (fixture().await, BaoServer::without_leader().await);
    let expected = ["no active node", "vault operator raft list-peers"];
    [MountCase::for_pod(pod, &expected).with_address(&server.address.clone()).keep_alive(server)]
}

pub async fn throttled() -> [MountCase; 1] {
    let (tenant, pod) = fixture().await;
    let kv = &tenant.kv;
    let (name, quota) = (
        format!("sys/quotas/rate-limit/{}", tenant.policy),
        json!({"path": format!("{kv}/"), "rate": 1, "interval": "1h"}),
    );
    root_request("POST", &name, quota).await;
    // The quota admits one of the two requests.
    let class =
        format!("{}\n- {{objectName: y, secretPath: {kv}/metadata/db}}", single_object(&format!("{kv}/data/db"), ""));
    let expected = ["limits requests", "429", "quota exceeded", "sys/quotas/rate-limit", &tenant.address];
    [MountCase::for_pod(pod.with_objects(class), &expected).delete_after(&name)]
}

pub async fn server_fault() -> [MountCase; 1] {
    let ((tenant, pod), vault) = (fixture().await, FaultProxy::start().await);
    vault.always("GET", &format!("{}/data/", tenant.kv), vault_error(500, "internal error"));
    let expected = ["failed", "status 500", "internal error", "Vault's server log"];
    [MountCase::for_pod(pod, &expected).with_address(&vault.address).keep_alive(vault)]
}

pub async fn deadline_exceeded() -> [MountCase; 1] {
    let ((_, pod), vault) = (fixture().await, FaultProxy::start().await);
    vault.always("POST", "auth/", Fault::HoldRequest(Gate::new()));
    let timed = MountCase::for_pod(
        pod,
        &["login at", "deadline exceeded while waiting for Vault's response", "check that Vault", "within seconds"],
    )
    .with_address(&vault.address)
    .keep_alive(vault);
    [timed.with_timeout(Duration::from_secs(1)).mount_only("time")]
}

pub async fn outcome_unknown() -> [MountCase; 1] {
    let ((tenant, pod), vault) = (fixture().await, FaultProxy::start().await);
    let path = DatabaseEngine::for_tenant(&tenant).await.path;
    vault.always("GET", &path, Fault::DropRequest);
    let expected = [&path, "was lost", "not retried at once", "may have created a credential"];
    [MountCase::for_pod(pod.with_objects(single_object(&path, "")), &expected)
        .with_address(&vault.address)
        .keep_alive(vault)
        .with_check_flags(&["--create"])]
}

pub async fn answer_too_large() -> [MountCase; 1] {
    let ((tenant, pod), vault) = (fixture().await, FaultProxy::start().await);
    vault.always("GET", &format!("{}/data/", tenant.kv), respond(200, &[], vec![b' '; (8 << 20) + 1]));
    let expected = ["larger than 8 MiB", &tenant.kv, "store large data elsewhere"];
    [MountCase::for_pod(pod, &expected).with_address(&vault.address).keep_alive(vault)]
}

pub async fn provider_at_capacity() -> [MountCase; 1] {
    let (_, pod) = fixture().await;
    let daemon = Daemon::start(&[]).await;
    let endpoint = |i| pod.clone().with_parameter("vaultTLSServerName", format!("vault-{i}"));
    for i in 0..128 {
        daemon.mount(endpoint(i).mount_call()).await.unwrap();
    }
    let expected = ["128 different Vault endpoints", "of namespace", "let classes share an address"];
    [MountCase::for_pod(endpoint(128), &expected).with_daemon(daemon).mount_only("a crowd")]
}
