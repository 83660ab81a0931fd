//! The transport when the network or Vault fails: what is sent again and what never, deadlines, limits, and what an
//! address, a redirect or a certificate may lead to.

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

/// A tenant with a secret, a server of it that can be told to fail, and a daemon that knows no other.
struct FailureFixture {
    tenant: Arc<Tenant>,
    vault: FaultProxy,
    daemon: Daemon,
}

/// What [`Stage::pod`] mounts.
const SECRET: &str = "s3cret";

impl FailureFixture {
    async fn new() -> Self {
        Self::for_tenant(&Arc::new(tenant_with_secret().await)).await
    }

    /// One of several of a tenant.
    async fn for_tenant(tenant: &Arc<Tenant>) -> Self {
        let vault = FaultProxy::start().await;
        let daemon = Daemon::start_at(&vault.address, &[]).await;
        // At the start it is asked how it is.
        vault.wait_for(1, "GET", "sys/health").await;
        Self { tenant: Arc::clone(tenant), vault, daemon }
    }

    /// A pod that reads one plain secret.
    fn pod(&self) -> Pod {
        secret_pod(&self.tenant)
    }

    /// Where pods log in.
    fn login_path(&self) -> String {
        format!("auth/{}/login", self.tenant.auth)
    }

    /// Where the secret is.
    fn secret_path(&self) -> String {
        format!("{}/data/db", self.tenant.kv)
    }

    /// The cause and text of a pod's failure.
    async fn mount_error(&self, pod: &Pod) -> (Cause, String) {
        self.daemon.mount_error(pod.mount_call()).await
    }

    /// Gives whatever is under way the time to come to a stop: a few round trips through the daemon.
    async fn let_daemon_run(&self) {
        let mut client = Client::connect(&self.daemon.socket).await.unwrap();
        for _ in 0..20 {
            client.version().await.unwrap();
        }
    }
}

/// Runs every case on a stage of its own, side by side.
async fn for_each_case<C>(cases: impl IntoIterator<Item = C>, run: impl AsyncFn(FailureFixture, C)) {
    let (tenant, run) = (Arc::new(tenant_with_secret().await), &run);
    let tenant = &tenant;
    join_all(cases.into_iter().map(async |case| run(FailureFixture::for_tenant(tenant).await, case).await)).await;
}

/// A tenant whose secret `db` has the key `pass`.
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

/// The one file of a response.
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
