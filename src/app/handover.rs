//! How what pods were given comes from one process to the next, and back.
//!
//! Whoever has the names of the sockets is to have the folder, too. In a rolling update the successor takes the names while its
//! predecessor serves: that one sees it, answers what is in flight, writes, and unlocks; the successor, at whose gate mounts
//! wait meanwhile, locks and reads. Should it end first, its predecessor takes the names back, and then the folder, which the
//! system has unlocked.

use std::{collections::HashMap, fs::File, io, sync::Arc, time::Duration};

use futures_util::{StreamExt, future::select_all, stream};
use tokio::{
    sync::{Mutex, watch},
    task::spawn_blocking,
    time::{Instant, sleep, timeout, timeout_at},
};

use super::Components;
use crate::{
    error::Error,
    provider::Connections,
    session::{SavedSession, Session},
    state::{FileId, OpenError, Plaintext, RestoredFiles, StateKey, Store},
    vault::{Client, Endpoint, request::SecretRequest},
};

/// What mounts wait for, to follow "waited for".
pub(super) const WAITING_FOR_PREDECESSOR: &str = "another process to hand over what pods were given";
const WAITING_FOR_KEY: &str = "the key from the Kubernetes API, under which what pods were given is sealed";

/// Files that are written at once when all are.
const MAX_CONCURRENT_WRITES: usize = 4;
/// How long a successor has to take the names of all sockets after the first: whoever is let go meanwhile shall find that one.
const RENAME_GRACE_PERIOD: Duration = Duration::from_millis(50);
/// How long a successor has to take the folder before its predecessor looks whether it must take it back.
const SUCCESSOR_TIMEOUT: Duration = Duration::from_secs(1);

/// Takes the folder, and gives it away. One per process.
pub(super) struct Handover {
    pub(super) store: Arc<Store>,
    pub(super) parts: Components,
    pub(super) connections: Arc<Connections>,
    /// Whether each socket's name is ours.
    pub(super) socket_ownership: Vec<watch::Receiver<bool>>,
    /// How long calls in flight may take to end.
    pub(super) drain_timeout: Duration,
    /// Held while everything is handed over.
    pub(super) release_lock: Mutex<()>,
}

/// What sessions have in common, which is kept once.
#[derive(Default)]
struct InternedParts {
    clients: HashMap<Endpoint, Result<Client, Error>>,
    reads: HashMap<SecretRequest, Arc<SecretRequest>>,
}

impl Handover {
    /// Goes on until it is dropped.
    pub(super) async fn run(&self) {
        loop {
            let had = self.wait_for_ownership(|ours| ours.contains(&true)).await;
            self.parts.gate.close(WAITING_FOR_PREDECESSOR);
            let lost = self.wait_for_ownership(|ours| had.iter().zip(ours).any(|(had, has)| *had && !has));
            let mut lost = std::pin::pin!(lost);
            let had = tokio::select! {
                had = self.lock() => Some(had),
                // Whoever took the name waits for the folder, too, and must have it.
                _ = &mut lost => None,
            };
            if let Some(had) = had {
                self.acquire(had).await;
                if !self.store.is_persistent() {
                    // There is nothing to hand over, and what is held here is held nowhere else.
                    return std::future::pending().await;
                }
                lost.await;
                sleep(RENAME_GRACE_PERIOD).await;
                self.release().await;
            }
            self.parts.gate.reject();
            // Whoever came by a name that was taken only now finds the other by it.
            let _ = timeout(RENAME_GRACE_PERIOD, self.connections.drain()).await;
            // Unless the names are all back: then there is no successor.
            let _ = timeout(SUCCESSOR_TIMEOUT, self.wait_for_ownership(|ours| !ours.contains(&false))).await;
        }
    }

    /// Waits for the folder, and for the key to what is in it.
    async fn lock(&self) -> io::Result<(File, Option<StateKey>)> {
        let lock = self.store.lock().await?;
        self.parts.gate.close(WAITING_FOR_KEY);
        let key = self.parts.hmac_keys.get().await.state.clone();
        if key.is_none() {
            tracing::warn!("the HMAC key is of this process alone: nothing is kept for a successor");
        }
        Ok((lock, key))
    }

    /// Takes in what is in the folder.
    async fn acquire(&self, locked: io::Result<(File, Option<StateKey>)>) {
        let store = Arc::clone(&self.store);
        let opened = spawn_blocking(move || locked.and_then(|(lock, key)| store.open(lock, key)));
        match opened.await.map_err(io::Error::other).flatten() {
            Ok(RestoredFiles { contents, errors: faults }) => {
                // Also what came of calls that outlasted the last hand-over.
                self.parts.reconciler.clear();
                self.restore(contents).await;
                log_unreadable_files(faults);
            }
            Err(error) => {
                tracing::error!(%error, folder = %self.store.dir().display(), "the state cannot be read: nothing is kept for a successor");
                self.store.disable();
            }
        }
        if self.parts.sessions.is_disabled() {
            // Everything was to be revoked while this was another process's.
            let revoked = self.parts.reconciler.revoke_all().await;
            tracing::info!(tokens = revoked.tokens, "what earlier processes held is revoked, too");
        }
        self.parts.gate.open();
    }

    async fn restore(&self, contents: Vec<(FileId, Plaintext)>) {
        let (begun, sessions) = (Instant::now(), contents.len());
        let (mut known, mut damaged) = (InternedParts::default(), 0);
        for (name, content) in contents {
            if let Some(session) = self.restore_session(&name, &content, &mut known).await {
                self.parts.reconciler.schedule(&session);
            } else {
                damaged += 1;
                self.store.quarantine(&name);
            }
        }
        if sessions > damaged {
            tracing::info!(sessions = sessions - damaged, took = ?begun.elapsed(), "what pods were given by earlier processes is kept on");
        }
        log_unreadable_files(vec![OpenError::Damaged; damaged]);
    }

    /// One session; none when its file does not make sense.
    async fn restore_session(
        &self,
        name: &FileId,
        content: &Plaintext,
        known: &mut InternedParts,
    ) -> Option<Arc<Session>> {
        let saved = SavedSession::parse(content)?;
        let client = if let Some(client) = known.clients.get(saved.endpoint()) {
            client.clone()
        } else {
            let client = self.parts.vault.client_for_session(saved.endpoint(), saved.namespace()).await;
            known.clients.entry(saved.endpoint().clone()).or_insert(client).clone()
        };
        let shared = |read: SecretRequest| {
            if let Some(shared) = known.reads.get(&read) {
                return Arc::clone(shared);
            }
            Arc::clone(known.reads.entry(read.clone()).or_insert(Arc::new(read)))
        };
        self.parts.sessions.restore(saved, (*name, content.file_bytes), client, shared)
    }

    /// Answers what is in flight, writes everything, and lets another process have the folder.
    async fn release(&self) {
        let _giving = self.release_lock.lock().await;
        tracing::info!(
            "another process has taken the socket's name: calls in flight are answered, and what pods were given is handed over"
        );
        let begun = Instant::now();
        let by = begun + self.drain_timeout;
        let drained = timeout_at(by, self.connections.drain()).await.is_ok();
        let left = by.saturating_duration_since(Instant::now());
        if !(self.parts.gate.close_for(WAITING_FOR_PREDECESSOR, left).await && drained) {
            tracing::warn!(after = ?self.drain_timeout, "calls were still in flight when the drain timeout ended");
        }
        self.finish().await;
        tracing::info!(took = ?begun.elapsed(), "handed over");
    }

    /// Writes everything, and lets another process have the folder.
    pub(super) async fn finish(&self) {
        // Also when it was last heard of each, and when Vault took its token, for which alone nothing is written.
        let saved =
            stream::iter(self.parts.sessions.all()).for_each_concurrent(MAX_CONCURRENT_WRITES, |session| async move {
                session.mark_dirty();
                drop(session.persist().await);
            });
        saved.await;
        self.close().await;
    }

    async fn close(&self) {
        let store = Arc::clone(&self.store);
        let _ = spawn_blocking(move || store.close()).await;
        self.parts.reconciler.clear();
    }

    /// Waits until the names stand so; how they do.
    async fn wait_for_ownership(&self, stand: impl Fn(&[bool]) -> bool) -> Vec<bool> {
        let mut names = self.socket_ownership.clone();
        loop {
            let ours: Vec<bool> = names.iter_mut().map(|name| *name.borrow_and_update()).collect();
            if stand(&ours) {
                return ours;
            }
            // A socket that is not served any more changes no more.
            let changes = names.iter_mut().map(|name| {
                Box::pin(async {
                    if name.changed().await.is_err() {
                        std::future::pending::<()>().await;
                    }
                })
            });
            select_all(changes).await;
        }
    }
}

/// Says once for each reason that there are files that cannot be read.
fn log_unreadable_files(mut faults: Vec<OpenError>) {
    faults.sort();
    for alike in faults.chunk_by(|one, other| one == other) {
        let (files, why) = (alike.len(), &alike[0]);
        tracing::warn!(
            files,
            "sessions of earlier processes are lost, as of each file {why}: the pods log in anew, and what they had lives to its own end"
        );
    }
}
