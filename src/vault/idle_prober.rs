//! Servers that nobody asks: those of the operator are asked how they are now and then, so that it is known before a pod needs
//! them. What they say turns nobody away, and nothing waits for it.

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

/// Asks them. One per process, as thousands of nodes have one each.
pub struct IdleProber {
    vault: Arc<Vault>,
    probes: HashMap<Endpoint, ProbeState>,
}

/// When a server was last asked for this.
struct ProbeState {
    started_at: Instant,
    /// The pause after anybody's good answer.
    idle_interval: Duration,
    /// The pause while there is none.
    retry_delay: Duration,
    /// How often in a row there was none.
    failures: u32,
    probe: JoinHandle<()>,
}

/// How long nobody has an answer of a server before it is asked; up to twice that, as nodes that began together shall not ask
/// together.
const IDLE_PROBE_INTERVAL: Duration = Duration::from_secs(300);
/// The first pause after none; it doubles from there, up to [`IDLE`].
const INITIAL_PROBE_RETRY_DELAY: Duration = Duration::from_secs(10);

impl IdleProber {
    /// Of these servers' clients.
    #[must_use]
    pub fn new(vault: Arc<Vault>) -> Self {
        Self { vault, probes: HashMap::new() }
    }

    /// Has those asked whose time has come, in the background: new ones at once.
    pub fn probe_due(&mut self, servers: impl IntoIterator<Item = Endpoint>) {
        let (servers, now): (HashSet<Endpoint>, _) = (servers.into_iter().collect(), clock::now());
        self.probes.retain(|endpoint, _| servers.contains(endpoint));
        for endpoint in servers {
            let last_response_at = self.vault.last_response_at(&endpoint);
            let previous = self.probes.get(&endpoint);
            // Where a file system hangs, one thread waits for it, and no more.
            if previous.is_some_and(|previous| now < previous.due_at(last_response_at) || !previous.probe.is_finished())
            {
                continue;
            }
            let failures = previous.filter(|_| last_response_at.is_none()).map_or(0, |previous| previous.failures + 1);
            let retry_delay =
                with_jitter(IDLE_PROBE_INTERVAL.min(INITIAL_PROBE_RETRY_DELAY * 2u32.saturating_pow(failures.min(16))));
            let (vault, server) = (Arc::clone(&self.vault), endpoint.clone());
            let probe = task::spawn_boxed(async move {
                // Without one it is a mount that says why.
                if let Ok(client) = vault.operator_client(&server).await {
                    client.check_health().await;
                }
            });
            self.probes.insert(
                endpoint,
                ProbeState {
                    started_at: now,
                    idle_interval: with_jitter(IDLE_PROBE_INTERVAL * 2),
                    retry_delay: retry_delay,
                    failures: failures,
                    probe: probe,
                },
            );
        }
    }
}

impl ProbeState {
    /// When the server is to be asked again that last answered anybody then.
    fn due_at(&self, last_response_at: Option<Instant>) -> Instant {
        last_response_at.map_or(self.started_at + self.retry_delay, |at| at.max(self.started_at) + self.idle_interval)
    }
}
