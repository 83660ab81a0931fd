//! Handover of sessions from one process to the next, and back.
//!
//! The process that owns the socket paths also owns the state directory. In a rolling update the successor takes the paths while
//! its predecessor serves. The predecessor notices, completes calls in flight, writes all sessions and unlocks the directory.
//! Meanwhile mounts wait at the successor's gate; it locks the directory and restores the sessions. If the successor ends first,
//! the predecessor takes back the paths, and then the directory, which the system has unlocked.

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

/// Reasons for which the gate is closed, worded to follow "waiting for".
pub(super) const WAITING_FOR_PREDECESSOR: &str = "another process to hand over what pods were given";
const WAITING_FOR_KEY: &str = "the key from the Kubernetes API, under which what pods were given is sealed";

/// Maximum number of concurrent writes when all sessions are written.
const MAX_CONCURRENT_WRITES: usize = 4;
/// Time for a successor to take the paths of all sockets after the first, so that disconnected clients find the successor.
const RENAME_GRACE_PERIOD: Duration = Duration::from_millis(50);
/// Time for a successor to lock the state directory before its predecessor checks whether to take it back.
const SUCCESSOR_TIMEOUT: Duration = Duration::from_secs(1);

/// Acquires and releases the state directory. One per process.
pub(super) struct Handover {
    pub(super) store: Arc<Store>,
    pub(super) parts: Components,
    pub(super) connections: Arc<Connections>,
    /// True for each socket whose path this process owns.
    pub(super) socket_ownership: Vec<watch::Receiver<bool>>,
    /// Time for calls in flight to complete.
    pub(super) drain_timeout: Duration,
    /// Held while sessions are handed over.
    pub(super) release_lock: Mutex<()>,
}

/// Clients and requests that restored sessions share.
#[derive(Default)]
struct InternedParts {
    clients: HashMap<Endpoint, Result<Client, Error>>,
    reads: HashMap<SecretRequest, Arc<SecretRequest>>,
}

impl Handover {
    /// Runs until it is dropped.
    pub(super) async fn run(&self) {
        loop {
            let had = self.wait_for_ownership(|ours| ours.contains(&true)).await;
            self.parts.gate.close(WAITING_FOR_PREDECESSOR);
            let lost = self.wait_for_ownership(|ours| had.iter().zip(ours).any(|(had, has)| *had && !has));
            let mut lost = std::pin::pin!(lost);
            let had = tokio::select! {
                had = self.lock() => Some(had),
                // The successor that took the socket path also needs the state directory.
                _ = &mut lost => None,
            };
            if let Some(had) = had {
                self.acquire(had).await;
                if !self.store.is_persistent() {
                    // Without persistence there is nothing to hand over, and the sessions exist only here.
                    return std::future::pending().await;
                }
                lost.await;
                sleep(RENAME_GRACE_PERIOD).await;
                self.release().await;
            }
            self.parts.gate.reject();
            // Clients that connected by a path taken only now reconnect to the successor.
            let _ = timeout(RENAME_GRACE_PERIOD, self.connections.drain()).await;
            // If all paths are back, there is no successor.
            let _ = timeout(SUCCESSOR_TIMEOUT, self.wait_for_ownership(|ours| !ours.contains(&false))).await;
        }
    }

    /// Waits for the lock of the state directory, and for the key of its files.
    async fn lock(&self) -> io::Result<(File, Option<StateKey>)> {
        let lock = self.store.lock().await?;
        self.parts.gate.close(WAITING_FOR_KEY);
        let key = self.parts.hmac_keys.get().await.state.clone();
        if key.is_none() {
            tracing::warn!("process-local HMAC key; state will not survive a restart");
        }
        Ok((lock, key))
    }

    /// Restores the sessions in the state directory.
    async fn acquire(&self, locked: io::Result<(File, Option<StateKey>)>) {
        let store = Arc::clone(&self.store);
        let opened = spawn_blocking(move || locked.and_then(|(lock, key)| store.open(lock, key)));
        match opened.await.map_err(io::Error::other).flatten() {
            Ok(RestoredFiles { contents, errors: faults }) => {
                // Calls that outlasted the last handover may have left sessions.
                self.parts.reconciler.clear();
                self.restore(contents).await;
                log_unreadable_files(faults);
            }
            Err(error) => {
                tracing::error!(%error, folder = %self.store.dir().display(), "state directory unreadable; sessions will not survive a restart");
                self.store.disable();
            }
        }
        if self.parts.sessions.is_disabled() {
            // Everything was to be revoked while another process owned these sessions.
            let revoked = self.parts.reconciler.revoke_all().await;
            tracing::info!(tokens = revoked.tokens, "revoked the tokens of earlier processes");
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
            tracing::info!(sessions = sessions - damaged, took = ?begun.elapsed(), "restored sessions");
        }
        log_unreadable_files(vec![OpenError::Damaged; damaged]);
    }

    /// Restores one session; `None` if its file is invalid.
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

    /// Completes calls in flight, writes all sessions and unlocks the state directory.
    async fn release(&self) {
        let _giving = self.release_lock.lock().await;
        tracing::info!("socket path taken by another process; handing over");
        let begun = Instant::now();
        let by = begun + self.drain_timeout;
        let drained = timeout_at(by, self.connections.drain()).await.is_ok();
        let left = by.saturating_duration_since(Instant::now());
        if !(self.parts.gate.close_for(WAITING_FOR_PREDECESSOR, left).await && drained) {
            tracing::warn!(drain_timeout = ?self.drain_timeout, "drain timeout exceeded with calls in flight");
        }
        self.finish().await;
        tracing::info!(took = ?begun.elapsed(), "handed over");
    }

    /// Writes all sessions and unlocks the state directory.
    pub(super) async fn finish(&self) {
        // Includes the times of the last poll and of the last verified token, which do not trigger a write by themselves.
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

    /// Waits until the ownership of the socket paths satisfies a predicate. Returns it.
    async fn wait_for_ownership(&self, predicate: impl Fn(&[bool]) -> bool) -> Vec<bool> {
        let mut names = self.socket_ownership.clone();
        loop {
            let ours: Vec<bool> = names.iter_mut().map(|name| *name.borrow_and_update()).collect();
            if predicate(&ours) {
                return ours;
            }
            // The ownership of a socket that is no longer served does not change.
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

/// Logs unreadable session files, once per reason.
fn log_unreadable_files(mut faults: Vec<OpenError>) {
    faults.sort();
    for equal in faults.chunk_by(|one, other| one == other) {
        let (files, error) = (equal.len(), &equal[0]);
        // The pods log in again. Their old tokens and leases live to their own expiry.
        tracing::warn!(files, %error, "saved sessions lost; pods log in again at their next poll");
    }
}
