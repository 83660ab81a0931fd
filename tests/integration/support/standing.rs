//! How a daemon says that its server stands.

use std::time::{Duration, Instant};

use serde_json::Value;
use tokio::time::sleep;

use super::{
    clock::leap,
    daemon::{Daemon, program},
};

/// A little more than a server in doubt has for its word.
pub const CHECK: Duration = Duration::from_millis(1700);

/// What `status` tells of servers that are down.
pub async fn down(daemon: &Daemon) -> Vec<Value> {
    let path = daemon.socket.with_extension("status");
    let output = program(&["status", "--socket", path.to_str().unwrap(), "-ojson"]).output().await.unwrap();
    let mut told: Value = serde_json::from_slice(&output.stdout).unwrap();
    serde_json::from_value(told["outages"].take()).unwrap()
}

pub async fn is_down(daemon: &Daemon) -> bool {
    !down(daemon).await.is_empty()
}

/// Waits until the server is known to be down, without letting time pass faster.
pub async fn until_down(daemon: &Daemon) {
    let begun = Instant::now();
    while !is_down(daemon).await {
        assert!(begun.elapsed() < Duration::from_secs(20), "it is never found down");
        sleep(Duration::from_millis(20)).await;
    }
}

/// Waits until the server is known to be up again: the time between probes passes fast.
pub async fn until_up(daemon: &Daemon) {
    let begun = Instant::now();
    while is_down(daemon).await {
        assert!(begun.elapsed() < Duration::from_secs(20), "it is never found up");
        sleep(Duration::from_millis(50)).await;
        leap(Duration::from_secs(1)).await;
    }
}
