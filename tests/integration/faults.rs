//! The transport when the network or Vault fails: what is sent again and what never, deadlines, limits, and what an
//! address, a redirect or a certificate may lead to.

mod addresses;
mod answers;
mod creating;
mod deadlines;
mod hanging;
mod limits;
mod outages;
mod redirects;
mod retries;
mod sick;
mod tls;

use std::{sync::Arc, time::Duration};

use futures_util::future::join_all;
use serde_json::json;
use vaultmount::{
    error::Cause,
    provider::{
        client::{Call, Client},
        pb::MountResponse,
    },
};

use crate::support::{bao::Tenant, clock::leap, daemon::Daemon, faulty::Faulty, pod::Pod};

/// A tenant with a secret, a server of it that can be told to fail, and a daemon that knows no other.
struct Stage {
    tenant: Arc<Tenant>,
    vault: Faulty,
    daemon: Daemon,
}

/// What [`Stage::pod`] mounts.
const SECRET: &str = "s3cret";

impl Stage {
    async fn new() -> Self {
        Self::of(&Arc::new(tenant().await)).await
    }

    /// One of several of a tenant.
    async fn of(tenant: &Arc<Tenant>) -> Self {
        let vault = Faulty::start().await;
        let daemon = Daemon::at(&vault.address, &[]).await;
        // At the start it is asked how it is.
        vault.saw(1, "GET", "sys/health").await;
        Self { tenant: Arc::clone(tenant), vault, daemon }
    }

    /// A pod that reads one plain secret.
    fn pod(&self) -> Pod {
        reader(&self.tenant)
    }

    /// Where pods log in.
    fn login(&self) -> String {
        format!("auth/{}/login", self.tenant.auth)
    }

    /// Where the secret is.
    fn secret(&self) -> String {
        format!("{}/data/db", self.tenant.kv)
    }

    /// The cause and text of a pod's failure.
    async fn refusal(&self, pod: &Pod) -> (Cause, String) {
        self.daemon.refusal(pod.call()).await
    }

    /// Gives whatever is under way the time to come to a stop: a few round trips through the daemon.
    async fn settle(&self) {
        let mut client = Client::connect(&self.daemon.socket).await.unwrap();
        for _ in 0..20 {
            client.version().await.unwrap();
        }
    }
}

/// Runs every case on a stage of its own, side by side.
async fn each<C>(cases: impl IntoIterator<Item = C>, run: impl AsyncFn(Stage, C)) {
    let (tenant, run) = (Arc::new(tenant().await), &run);
    let tenant = &tenant;
    join_all(cases.into_iter().map(async |case| run(Stage::of(tenant).await, case).await)).await;
}

/// A tenant whose secret `db` has the key `pass`.
async fn tenant() -> Tenant {
    let tenant = Tenant::new().await;
    tenant.put("db", json!({"pass": SECRET})).await;
    tenant
}

fn reader(tenant: &Tenant) -> Pod {
    Pod::of(tenant).objects(format!("- {{objectName: pass, secretPath: {}/data/db, secretKey: pass}}", tenant.kv))
}

fn within(timeout: Duration, pod: &Pod) -> Call {
    Call { timeout: Some(timeout), ..pod.call() }
}

/// The one file of a response.
#[track_caller]
fn only(response: &MountResponse) -> &str {
    assert_eq!(response.files.len(), 1);
    std::str::from_utf8(&response.files[0].contents).unwrap()
}

#[track_caller]
fn assert_says(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "{part:?} is missing: {text}");
    }
}
