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
    clock::{self, jittered},
    task,
};

/// Asks them. One per process, as thousands of nodes have one each.
pub struct Idle {
    vault: Arc<Vault>,
    asked: HashMap<Endpoint, Asked>,
}

/// When a server was last asked for this.
struct Asked {
    at: Instant,
    /// The pause after anybody's good answer.
    idle: Duration,
    /// The pause while there is none.
    retry: Duration,
    /// How often in a row there was none.
    times: u32,
    asking: JoinHandle<()>,
}

/// How long nobody has an answer of a server before it is asked; up to twice that, as nodes that began together shall not ask
/// together.
const IDLE: Duration = Duration::from_secs(300);
/// The first pause after none; it doubles from there, up to [`IDLE`].
const FIRST: Duration = Duration::from_secs(10);

impl Idle {
    /// Of these servers' clients.
    #[must_use]
    pub fn new(vault: Arc<Vault>) -> Self {
        Self { vault, asked: HashMap::new() }
    }

    /// Has those asked whose time has come, in the background: new ones at once.
    pub fn look(&mut self, servers: impl IntoIterator<Item = Endpoint>) {
        let (servers, now): (HashSet<Endpoint>, _) = (servers.into_iter().collect(), clock::now());
        self.asked.retain(|endpoint, _| servers.contains(endpoint));
        for endpoint in servers {
            let answered = self.vault.last_response_at(&endpoint);
            let before = self.asked.get(&endpoint);
            // Where a file system hangs, one thread waits for it, and no more.
            if before.is_some_and(|before| now < before.due(answered) || !before.asking.is_finished()) {
                continue;
            }
            let times = before.filter(|_| answered.is_none()).map_or(0, |before| before.times + 1);
            let retry = jittered(IDLE.min(FIRST * 2u32.saturating_pow(times.min(16))));
            let (vault, server) = (Arc::clone(&self.vault), endpoint.clone());
            let asking = task::spawn(async move {
                // Without one it is a mount that says why.
                if let Ok(client) = vault.operator_client(&server).await {
                    client.inquire().await;
                }
            });
            self.asked.insert(endpoint, Asked { at: now, idle: jittered(IDLE * 2), retry, times, asking });
        }
    }
}

impl Asked {
    /// When the server is to be asked again that last answered anybody then.
    fn due(&self, answered: Option<Instant>) -> Instant {
        answered.map_or(self.at + self.retry, |at| at.max(self.at) + self.idle)
    }
}
