//! Lifetimes: sessions and leases live exactly as long as their pod. Polls reuse them, background tasks renew them, a
//! handover passes them on in time, and they are revoked at the pod's end.

mod caching;
mod credential_rotation;
mod expiry_warnings;
mod outage_recovery;
mod renewals;
mod revocation;
mod sharing;
mod token_object;

use std::{sync::Arc, time::Duration};

use serde_json::json;
use tempfile::TempDir;
use tokio::time::sleep;

use crate::{
    kube_api::KubeApi,
    support::{
        bao::Tenant,
        daemon::{Daemon, vaultmount_command},
        database::DatabaseEngine,
        fault_proxy::FaultProxy,
        pod::Pod,
    },
};

/// The node of all pods.
const NODE: &str = "node-1";

/// A tenant with a database engine, a fault proxy before its server, this node's pods, and a daemon.
struct LifetimeFixture {
    tenant: Arc<Tenant>,
    database: DatabaseEngine,
    vault: FaultProxy,
    api: KubeApi,
    daemon: Daemon,
    _folder: TempDir,
}

impl LifetimeFixture {
    /// Creates the fixture with credentials of one hour.
    async fn new(flags: &[&str]) -> Self {
        Self::with_ttls(flags, json!({}), json!({})).await
    }

    /// Creates the fixture with these additional settings of the database role (`lease`) and of the login role
    /// (`login`).
    async fn with_ttls(flags: &[&str], lease: serde_json::Value, login: serde_json::Value) -> Self {
        Self::build(flags, lease, login, KubeApi::builder(), true).await
    }

    /// Creates a fixture without a pod watch: the API server denies this verb.
    async fn with_denied_verb(verb: &str) -> Self {
        Self::build(&[], json!({}), json!({}), KubeApi::builder().deny(verb, "pods"), false).await
    }

    /// Creates a fixture with another API server.
    async fn with_api_server(api: crate::kube_api::KubeApiBuilder) -> Self {
        Self::build(&[], json!({}), json!({}), api, true).await
    }

    async fn build(
        flags: &[&str],
        lease: serde_json::Value,
        login: serde_json::Value,
        api: crate::kube_api::KubeApiBuilder,
        is_watched: bool,
    ) -> Self {
        let tenant = Arc::new(Tenant::new().await);
        tenant.write_secret("db", json!({"pass": "s3cret"})).await;
        tenant.write_role("app", login).await;
        let database = DatabaseEngine::for_tenant(&tenant).await;
        database.write_role(lease).await;
        let vault = FaultProxy::start().await;
        let api = api.start().await;
        let folder = tempfile::tempdir().unwrap();
        let kubeconfig = folder.path().join("kubeconfig");
        std::fs::write(&kubeconfig, api.kubeconfig("csi", "t0ken")).unwrap();
        let own = [format!("--kubeconfig={}", kubeconfig.display()), format!("--node-name={NODE}")];
        let flags: Vec<&str> = own.iter().map(String::as_str).chain(flags.iter().copied()).collect();
        let daemon = Daemon::start_at(&vault.address, &flags).await;
        // The health probe at start comes first.
        vault.wait_for(1, "GET", "sys/health").await;
        api.wait_until(|api| api.open_watches() > 0 || !is_watched && !api.request_lines().is_empty()).await;
        Self { tenant, database, vault, api, daemon, _folder: folder }
    }

    /// Returns a pod of this node with one credential in two files.
    fn pod(&self) -> Pod {
        let pod = Pod::for_tenant(&self.tenant).with_objects(credential_objects(&self.database));
        self.api.add_pod(NODE, &pod.namespace, &pod.name, &pod.uid);
        pod
    }

    async fn mount(&self, pod: &Pod) -> (String, String) {
        let mut files = self.daemon.mount_files(pod).await;
        (files.remove("username").unwrap(), files.remove("password").unwrap())
    }

    /// Returns the number of requests to Vault, without health probes.
    fn count_requests(&self) -> usize {
        self.vault.count_except_health()
    }

    fn count_logins(&self) -> usize {
        self.vault.count("POST", &format!("auth/{}/login", self.tenant.auth))
    }

    fn count_credential_requests(&self) -> usize {
        self.vault.count("GET", &self.database.path)
    }

    fn count_lease_renewals(&self) -> usize {
        self.vault.count("POST", "sys/leases/renew")
    }

    /// Returns the output of `status` as JSON.
    async fn status(&self) -> serde_json::Value {
        let path = self.daemon.socket.with_extension("status");
        let output =
            vaultmount_command(&["status", "--socket", path.to_str().unwrap(), "-ojson"]).output().await.unwrap();
        serde_json::from_slice(&output.stdout).unwrap()
    }
}

fn credential_objects(database: &DatabaseEngine) -> String {
    let object = |name| format!("- {{objectName: {name}, secretPath: {}, secretKey: {name}}}\n", database.path);
    object("username") + &object("password")
}

/// Waits until the condition holds, at most 30 s.
async fn wait_until(description: &str, mut condition: impl AsyncFnMut() -> bool) {
    // Real time, not the clock that tests advance.
    let begun = std::time::Instant::now();
    while !condition().await {
        assert!(begun.elapsed() < Duration::from_secs(30), "never: {description}");
        sleep(Duration::from_millis(20)).await;
    }
}
