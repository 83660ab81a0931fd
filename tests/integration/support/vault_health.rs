//! Health of a daemon's Vault endpoint, as its status reports it.

use std::time::{Duration, Instant};

use serde_json::Value;
use tokio::time::sleep;

use super::{
    clock::advance,
    daemon::{Daemon, vaultmount_command},
};

/// Slightly longer than the timeout of a health probe.
pub const HEALTH_CHECK_WAIT: Duration = Duration::from_millis(1700);

/// Returns the endpoints that `status` reports as down.
pub async fn list_outages(daemon: &Daemon) -> Vec<Value> {
    let path = daemon.socket.with_extension("status");
    let output = vaultmount_command(&["status", "--socket", path.to_str().unwrap(), "-ojson"]).output().await.unwrap();
    let mut status: Value = serde_json::from_slice(&output.stdout).unwrap();
    serde_json::from_value(status["outages"].take()).unwrap()
}

pub async fn has_outage(daemon: &Daemon) -> bool {
    !list_outages(daemon).await.is_empty()
}

/// Waits until the endpoint is known to be down, without advancing the clock.
pub async fn wait_until_down(daemon: &Daemon) {
    let begun = Instant::now();
    while !has_outage(daemon).await {
        assert!(begun.elapsed() < Duration::from_secs(20), "the server is never marked down");
        sleep(Duration::from_millis(20)).await;
    }
}

/// Waits until the endpoint is known to be up again; advances the clock between probes.
pub async fn wait_until_up(daemon: &Daemon) {
    let begun = Instant::now();
    while has_outage(daemon).await {
        assert!(begun.elapsed() < Duration::from_secs(20), "the server is never marked up");
        sleep(Duration::from_millis(50)).await;
        advance(Duration::from_secs(1)).await;
    }
}
