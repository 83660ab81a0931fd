//! Failures of the network and of Vault: retries and their limits, deadlines, concurrency limits, and the rules for
//! addresses, redirects and certificates.

mod address_guard;
mod concurrency_limits;
mod deadlines;
mod invalid_responses;
mod limits;
mod misbehaving_servers;
mod mutating_requests;
mod outages;
mod redirects;
mod retries;
mod tls;

use std::{sync::Arc, time::Duration};

use futures_util::future::join_all;
use serde_json::json;
use vaultmount::{
    error::Cause,
    provider::{
        client::{Client, MountCall},
        pb::MountResponse,
    },
};

use crate::support::{bao::Tenant, clock::advance, daemon::Daemon, fault_proxy::FaultProxy, pod::Pod};

/// A tenant with a secret, a fault proxy before its server, and a daemon that uses only this proxy.
struct FailureFixture {
    tenant: Arc<Tenant>,
    vault: FaultProxy,
    daemon: Daemon,
}

/// Value of the secret that [`FailureFixture::pod`] mounts.
const SECRET: &str = "s3cret";

impl FailureFixture {
    async fn new() -> Self {
        Self::for_tenant(&Arc::new(tenant_with_secret().await)).await
    }

    /// Creates one of several fixtures of a tenant.
    async fn for_tenant(tenant: &Arc<Tenant>) -> Self {
        let vault = FaultProxy::start().await;
        let daemon = Daemon::start_at(&vault.address, &[]).await;
        // The health probe at start comes first.
        vault.wait_for(1, "GET", "sys/health").await;
        Self { tenant: Arc::clone(tenant), vault, daemon }
    }

    /// Returns a pod with one KV secret.
    fn pod(&self) -> Pod {
        secret_pod(&self.tenant)
    }

    /// Returns the login path.
    fn login_path(&self) -> String {
        format!("auth/{}/login", self.tenant.auth)
    }

    /// Returns the path of the secret.
    fn secret_path(&self) -> String {
        format!("{}/data/db", self.tenant.kv)
    }

    /// Returns the cause and text of the pod's mount error.
    async fn mount_error(&self, pod: &Pod) -> (Cause, String) {
        self.daemon.mount_error(pod.mount_call()).await
    }

    /// Gives pending tasks time to finish: a few round trips through the daemon.
    async fn let_daemon_run(&self) {
        let mut client = Client::connect(&self.daemon.socket).await.unwrap();
        for _ in 0..20 {
            client.version().await.unwrap();
        }
    }
}

/// Runs every case concurrently, each on its own fixture.
async fn for_each_case<C>(cases: impl IntoIterator<Item = C>, run: impl AsyncFn(FailureFixture, C)) {
    let (tenant, run) = (Arc::new(tenant_with_secret().await), &run);
    let tenant = &tenant;
    join_all(cases.into_iter().map(async |case| run(FailureFixture::for_tenant(tenant).await, case).await)).await;
}

/// Creates a tenant with secret `db`, which has the key `pass`.
async fn tenant_with_secret() -> Tenant {
    let tenant = Tenant::new().await;
    tenant.write_secret("db", json!({"pass": SECRET})).await;
    tenant
}

fn secret_pod(tenant: &Tenant) -> Pod {
    Pod::for_tenant(tenant)
        .with_objects(format!("- {{objectName: pass, secretPath: {}/data/db, secretKey: pass}}", tenant.kv))
}

fn call_with_timeout(timeout: Duration, pod: &Pod) -> MountCall {
    MountCall { timeout: Some(timeout), ..pod.mount_call() }
}

/// Returns the only file of a response.
#[track_caller]
fn single_file(response: &MountResponse) -> &str {
    assert_eq!(response.files.len(), 1);
    std::str::from_utf8(&response.files[0].contents).unwrap()
}

#[track_caller]
fn assert_contains(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "{part:?} is missing: {text}");
    }
}
