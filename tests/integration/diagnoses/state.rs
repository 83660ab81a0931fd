//! The server's state, and ours.

use std::time::Duration;

use serde_json::json;

use super::{Scenario, arranged, one};
use crate::support::{
    bao::root,
    daemon::Daemon,
    database::Database,
    faulty::{Fault, Faulty, Gate, answer, status},
    server::Server,
};

pub async fn sealed() -> [Scenario; 1] {
    let ((_, pod), server) = (arranged().await, Server::sealed().await);
    [Scenario::of(pod, &["is sealed", "vault operator unseal"]).at(&server.address.clone()).keeping(server)]
}

pub async fn uninitialized() -> [Scenario; 1] {
    let ((_, pod), server) = (arranged().await, Server::uninitialized().await);
    let says = ["is not initialized", "vault operator init", "storage"];
    [Scenario::of(pod, &says).at(&server.address.clone()).keeping(server)]
}

pub async fn no_leader() -> [Scenario; 1] {
    let ((_, pod), server) = (arranged().await, Server::without_leader().await);
    let says = ["no active node", "vault operator raft list-peers"];
    [Scenario::of(pod, &says).at(&server.address.clone()).keeping(server)]
}

pub async fn busy() -> [Scenario; 1] {
    let (tenant, pod) = arranged().await;
    let kv = &tenant.kv;
    let (name, quota) = (
        format!("sys/quotas/rate-limit/{}", tenant.policy),
        json!({"path": format!("{kv}/"), "rate": 1, "interval": "1h"}),
    );
    root("POST", &name, quota).await;
    // One of the two is let through.
    let class = format!("{}\n- {{objectName: y, secretPath: {kv}/metadata/db}}", one(&format!("{kv}/data/db"), ""));
    let says = ["limits requests", "429", "quota exceeded", "sys/quotas/rate-limit", &tenant.address];
    [Scenario::of(pod.objects(class), &says).clearing(&name)]
}

pub async fn server_fault() -> [Scenario; 1] {
    let ((tenant, pod), vault) = (arranged().await, Faulty::start().await);
    vault.every("GET", &format!("{}/data/", tenant.kv), status(500, "internal error"));
    let says = ["failed", "status 500", "internal error", "Vault's server log"];
    [Scenario::of(pod, &says).at(&vault.address).keeping(vault)]
}

pub async fn deadline() -> [Scenario; 1] {
    let ((_, pod), vault) = (arranged().await, Faulty::start().await);
    vault.every("POST", "auth/", Fault::Hold(Gate::new()));
    let timed = Scenario::of(
        pod,
        &["login at", "time ran out while waiting for the answer", "check that Vault", "within seconds"],
    )
    .at(&vault.address)
    .keeping(vault);
    [timed.within(Duration::from_secs(1)).mount_only("time")]
}

pub async fn unconfirmed() -> [Scenario; 1] {
    let ((tenant, pod), vault) = (arranged().await, Faulty::start().await);
    let path = Database::of(&tenant).await.path;
    vault.every("GET", &path, Fault::LoseRequest);
    let says = [&path, "was lost", "not sent again at once", "may have created a credential"];
    [Scenario::of(pod.objects(one(&path, "")), &says).at(&vault.address).keeping(vault).checking(&["--create"])]
}

pub async fn answer_too_large() -> [Scenario; 1] {
    let ((tenant, pod), vault) = (arranged().await, Faulty::start().await);
    vault.every("GET", &format!("{}/data/", tenant.kv), answer(200, &[], vec![b' '; (8 << 20) + 1]));
    let says = ["larger than 8 MiB", &tenant.kv, "store large data elsewhere"];
    [Scenario::of(pod, &says).at(&vault.address).keeping(vault)]
}

pub async fn overloaded() -> [Scenario; 1] {
    let (_, pod) = arranged().await;
    let daemon = Daemon::start(&[]).await;
    let endpoint = |i| pod.clone().with("vaultTLSServerName", format!("vault-{i}"));
    for i in 0..128 {
        daemon.mount(endpoint(i).call()).await.unwrap();
    }
    let says = ["128 different Vault endpoints", "of namespace", "let classes share an address"];
    [Scenario::of(endpoint(128), &says).by(daemon).mount_only("a crowd")]
}
