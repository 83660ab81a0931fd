//! Health probes of idle operator servers, so that a failure is known before a pod needs them. The results do not reject
//! requests, and no request waits for them.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use tokio::{task::JoinHandle, time::Instant};

use super::{Endpoint, Vault};
use crate::{
    clock::{self, with_jitter},
    task,
};

/// Probes idle operator servers. There must be only one per process, because thousands of nodes have one each.
pub struct IdleProber {
    vault: Arc<Vault>,
    probes: HashMap<Endpoint, ProbeState>,
}

/// Last idle probe of a server.
struct ProbeState {
    started_at: Instant,
    /// Delay after a successful response to any request.
    idle_interval: Duration,
    /// Delay without a response.
    retry_delay: Duration,
    /// Number of consecutive probes without a response.
    failures: u32,
    probe: JoinHandle<()>,
}

/// Minimum time without a response before a server is probed. Jitter adds up to the same time again, so that nodes that started
/// together do not probe together.
const IDLE_PROBE_INTERVAL: Duration = Duration::from_secs(300);
/// First delay after a probe without a response. It doubles up to [`IDLE_PROBE_INTERVAL`].
const INITIAL_PROBE_RETRY_DELAY: Duration = Duration::from_secs(10);

impl IdleProber {
    /// Creates a prober for the clients of `vault`.
    #[must_use]
    pub fn new(vault: Arc<Vault>) -> Self {
        Self { vault, probes: HashMap::new() }
    }

    /// Starts background probes of the servers that are due. New servers are due immediately.
    pub fn probe_due(&mut self, servers: impl IntoIterator<Item = Endpoint>) {
        let (servers, now): (HashSet<Endpoint>, _) = (servers.into_iter().collect(), clock::now());
        self.probes.retain(|endpoint, _| servers.contains(endpoint));
        for endpoint in servers {
            let last_response_at = self.vault.last_response_at(&endpoint);
            let previous = self.probes.get(&endpoint);
            // If a file system hangs, at most one thread per server blocks on it.
            if previous.is_some_and(|previous| now < previous.due_at(last_response_at) || !previous.probe.is_finished())
            {
                continue;
            }
            let failures = previous.filter(|_| last_response_at.is_none()).map_or(0, |previous| previous.failures + 1);
            let retry_delay =
                with_jitter(IDLE_PROBE_INTERVAL.min(INITIAL_PROBE_RETRY_DELAY * 2u32.saturating_pow(failures.min(16))));
            let (vault, server) = (Arc::clone(&self.vault), endpoint.clone());
            let probe = task::spawn_boxed(async move {
                // A mount reports the reason if there is no client.
                if let Ok(client) = vault.operator_client(&server).await {
                    client.check_health().await;
                }
            });
            self.probes.insert(
                endpoint,
                ProbeState {
                    started_at: now,
                    idle_interval: with_jitter(IDLE_PROBE_INTERVAL * 2),
                    retry_delay,
                    failures,
                    probe,
                },
            );
        }
    }
}

impl ProbeState {
    /// Returns the time of the next probe. `last_response_at` is the server's last response to any request.
    fn due_at(&self, last_response_at: Option<Instant>) -> Instant {
        last_response_at.map_or(self.started_at + self.retry_delay, |at| at.max(self.started_at) + self.idle_interval)
    }
}
