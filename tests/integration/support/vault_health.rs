//! How a daemon says that its server stands.

use std::time::{Duration, Instant};

use serde_json::Value;
use tokio::time::sleep;

use super::{
    clock::advance,
    daemon::{Daemon, vaultmount_command},
};

/// A little more than a server in doubt has for its word.
pub const HEALTH_CHECK_WAIT: Duration = Duration::from_millis(1700);

/// What `status` tells of servers that are down.
pub async fn list_outages(daemon: &Daemon) -> Vec<Value> {
    let path = daemon.socket.with_extension("status");
    let output = vaultmount_command(&["status", "--socket", path.to_str().unwrap(), "-ojson"]).output().await.unwrap();
    let mut status: Value = serde_json::from_slice(&output.stdout).unwrap();
    serde_json::from_value(status["outages"].take()).unwrap()
}

pub async fn has_outage(daemon: &Daemon) -> bool {
    !list_outages(daemon).await.is_empty()
}

/// Waits until the server is known to be down, without letting time pass faster.
pub async fn wait_until_down(daemon: &Daemon) {
    let begun = Instant::now();
    while !has_outage(daemon).await {
        assert!(begun.elapsed() < Duration::from_secs(20), "it is never found down");
        sleep(Duration::from_millis(20)).await;
    }
}

/// Waits until the server is known to be up again: the time between probes passes fast.
pub async fn wait_until_up(daemon: &Daemon) {
    let begun = Instant::now();
    while has_outage(daemon).await {
        assert!(begun.elapsed() < Duration::from_secs(20), "it is never found up");
        sleep(Duration::from_millis(50)).await;
        advance(Duration::from_secs(1)).await;
    }
}
