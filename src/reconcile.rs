//! The background clockwork: sessions are kept alive while their pods live, and revoked when they end.
//!
//! One queue of what is due and when, for all sessions and all tokens to be revoked; no task waits for a single one.

mod pod_watcher;
mod status;
mod work_queue;

use std::{
    collections::HashSet,
    panic::AssertUnwindSafe,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use futures_util::{FutureExt, StreamExt, stream};
use jiff::Timestamp;
use tokio::{task::JoinSet, time::Instant};

use crate::{
    clock,
    error::Cause,
    kube::Kube,
    observe::{
        audit::{AuditEvent, AuditOutcome, AuditRecord},
        metrics::{Metrics, RevocationOutcome},
        status::RevocationSummary,
    },
    session::{MAX_SILENCE_UNWATCHED, PendingRevocation, RevocationResult, Session, SessionKey, SessionRegistry},
    task,
    vault::Vault,
};
pub use work_queue::Schedule;
use work_queue::{WorkItem, WorkQueue};

/// Keeps sessions. One per process.
pub struct Reconciler {
    vault: Arc<Vault>,
    sessions: Arc<SessionRegistry>,
    queue: WorkQueue,
    orphan_after: Duration,
    pod_watcher: pod_watcher::PodWatcher,
    /// Numbers the tokens to be revoked; sessions have numbers of their own.
    next_revocation_id: AtomicUsize,
    started_at: Timestamp,
}

/// How many tokens are revoked at once when all are.
const MAX_CONCURRENT_REVOCATIONS: usize = 8;
/// How long after a panic a session is attended to again.
const PANIC_RETRY_DELAY: Duration = Duration::from_secs(60);
/// How often the sessions of pods whose end nothing tells are looked through.
const SESSION_SWEEP_INTERVAL: Duration = Duration::from_secs(60);

impl Reconciler {
    /// `node` is where the pods are watched; without it, or without an API, nothing tells when a pod ends.
    #[must_use]
    pub fn new(
        vault: Arc<Vault>,
        sessions: Arc<SessionRegistry>,
        kube: Option<Arc<Kube>>,
        node: Option<String>,
        orphan_after: Duration,
    ) -> Self {
        Self {
            vault,
            sessions,
            queue: WorkQueue::default(),
            orphan_after,
            pod_watcher: pod_watcher::PodWatcher::new(kube, node),
            next_revocation_id: AtomicUsize::new(0),
            started_at: clock::time_of_day(clock::now()),
        }
    }

    /// Renews, revokes and watches. Returns only when one of these breaks, which must end the process: it would serve on, and
    /// what pods have would die.
    pub async fn run(self: Arc<Self>) {
        let mut loops = JoinSet::new();
        let (a, b, c, d) = (self.clone(), self.clone(), self.clone(), self);
        loops.spawn(async move { a.run_queue().await });
        loops.spawn(async move { b.run_sweeps().await });
        loops.spawn(async move { c.watch_pods().await });
        loops.spawn(async move { d.end_missing_pods().await });
        loops.join_next().await;
    }

    /// A session was used: what is due for it may have changed.
    pub fn schedule(&self, session: &Arc<Session>) {
        match session.next_wakeup() {
            Some(at) => self.queue.put_session(session.id(), at, WorkItem::Session(Arc::downgrade(session))),
            None => self.queue.remove_session(session.id()),
        }
    }

    /// Has the tokens revoked that a session has no use for any more.
    pub fn queue_exhausted_tokens(&self, session: &Session) {
        for revocation in session.take_exhausted_tokens() {
            self.queue_revocation(revocation, clock::now());
        }
    }

    async fn run_queue(self: &Arc<Self>) {
        loop {
            let item = self.queue.next().await;
            let reconciler = Arc::clone(self);
            task::spawn_boxed(async move {
                match item {
                    WorkItem::Session(session) => {
                        if let Some(session) = session.upgrade() {
                            reconciler.reconcile_exclusive(&session).await;
                        }
                    }
                    WorkItem::Revocation(revocation) => reconciler.revoke(*revocation).await,
                }
            });
        }
    }

    /// Attends to a session, unless that is under way: whoever is at it looks again in the end.
    async fn reconcile_exclusive(&self, session: &Arc<Session>) {
        if !session.try_start_maintenance() {
            return;
        }
        let outcome = AssertUnwindSafe(self.reconcile(session)).catch_unwind().await;
        session.finish_maintenance();
        if outcome.is_ok() {
            self.schedule(session);
        } else {
            tracing::error!("internal error: session maintenance panicked");
            let retry_at = clock::now() + PANIC_RETRY_DELAY;
            self.queue.put_session(session.id(), retry_at, WorkItem::Session(Arc::downgrade(session)));
        }
    }

    async fn reconcile(&self, session: &Arc<Session>) {
        let orphan_reason = self.orphan_reason(session);
        if session.pause_renewal(orphan_reason) {
            let (key, why) = (session.key(), orphan_reason.unwrap_or_default());
            let SessionKey { role, pod_name: pod, pod_namespace: namespace, .. } = key;
            tracing::warn!(role, pod, namespace, reason = why, "renewal paused");
        }
        if orphan_reason.is_some() {
            session.warn_of_expiry();
        } else {
            session.maintain(&self.vault).await;
        }
        // When another process has the folder, that one renews it, too.
        drop(session.persist().await);
    }

    /// Forgets everything, which another process has now.
    pub fn clear(&self) {
        self.sessions.clear();
        self.queue.clear();
    }

    /// Looks at every session anew, as what is known of pods' ends has changed.
    fn requeue_all(&self) {
        for session in self.sessions.all() {
            session.pause_renewal(None);
            self.schedule(&session);
        }
    }

    /// Why a session is not renewed, when nothing tells whether its pod lives.
    fn orphan_reason(&self, session: &Session) -> Option<&'static str> {
        if session.pod_uids().iter().any(|uid| self.pod_watcher.is_tracked(uid)) {
            return None;
        }
        match session.idle_time() {
            (silence, Some(poll_interval)) if silence >= self.orphan_after.max(poll_interval * 3) => {
                Some("its polls have stopped for --orphan-after, and nothing tells whether the pod lives")
            }
            (silence, None) if silence >= MAX_SILENCE_UNWATCHED => {
                Some("it was never polled for 24 hours, and nothing tells whether the pod lives")
            }
            _ => None,
        }
    }

    /// Tries to revoke a token, and again later if that fails.
    async fn revoke(&self, mut revocation: PendingRevocation) {
        if let Some(retry_at) = revocation.defer(&self.vault) {
            return self.queue_revocation(revocation, retry_at);
        }
        let result = self.try_revoke(&mut revocation).await;
        if let RevocationResult::Retry { retry_at, .. } = result {
            self.queue_revocation(revocation, retry_at);
        }
    }

    async fn try_revoke(&self, revocation: &mut PendingRevocation) -> RevocationResult {
        let result = revocation.attempt(&self.vault).await;
        self.metrics().count_revocation(match &result {
            RevocationResult::Revoked => RevocationOutcome::Revoked,
            RevocationResult::AlreadyExpired | RevocationResult::NotRevocable => RevocationOutcome::AlreadyExpired,
            RevocationResult::Retry { error, .. } if error.cause() == Cause::RequestRejected => {
                RevocationOutcome::Denied
            }
            RevocationResult::Retry { .. } => RevocationOutcome::Failed,
        });
        let record = AuditRecord {
            accessor: &revocation.token.vault_token.accessor,
            ..revocation.key.audit_record(AuditEvent::Revoke)
        };
        match &result {
            RevocationResult::Revoked | RevocationResult::AlreadyExpired => self.sessions.audit().record(&record),
            RevocationResult::Retry { error, .. } => {
                let record = record.with_failure(error);
                let is_denied = error.cause() == Cause::RequestRejected;
                let outcome = if is_denied { AuditOutcome::Denied } else { AuditOutcome::Failed };
                self.sessions.audit().record(&AuditRecord { outcome, ..record });
            }
            // It ends, or has ended, by itself.
            RevocationResult::NotRevocable => {}
        }
        result
    }

    /// What is counted.
    #[must_use]
    pub fn metrics(&self) -> &Metrics {
        self.sessions.metrics()
    }

    fn queue_revocation(&self, revocation: PendingRevocation, due_at: Instant) {
        self.queue.put_revocation(self.next_revocation_id.fetch_add(1, Relaxed), due_at, revocation);
    }

    /// A pod has ended: what it had is revoked.
    fn end_pod(self: &Arc<Self>, uid: &str) {
        for session in self.sessions.remove_pod(uid) {
            let reconciler = Arc::clone(self);
            task::spawn_boxed(async move {
                reconciler.queue.remove_session(session.id());
                for revocation in session.end().await {
                    reconciler.revoke(revocation).await;
                }
            });
        }
    }

    /// Revokes every token that is held, and with it what was leased under it; from now on mounts are refused.
    pub async fn revoke_all(&self) -> RevocationSummary {
        let sessions = self.sessions.disable();
        let ended = stream::iter(sessions).map(|session| async move {
            self.queue.remove_session(session.id());
            session.end().await
        });
        let mut revocations: Vec<PendingRevocation> = ended.buffer_unordered(MAX_CONCURRENT_REVOCATIONS).concat().await;
        revocations.extend(self.queue.take_revocations());
        let attempts = stream::iter(revocations).map(|mut revocation| async move {
            let result = self.try_revoke(&mut revocation).await;
            (revocation, result)
        });
        let mut revoked = RevocationSummary::default();
        let mut attempts = std::pin::pin!(attempts.buffer_unordered(MAX_CONCURRENT_REVOCATIONS));
        while let Some((revocation, result)) = attempts.next().await {
            match result {
                RevocationResult::Revoked => revoked.tokens += 1,
                RevocationResult::AlreadyExpired => {}
                RevocationResult::NotRevocable => {
                    revoked.remaining += usize::from(revocation.token.vault_token.is_batch);
                }
                RevocationResult::Retry { retry_at, .. } => {
                    let key = &revocation.key;
                    revoked.failed.push(format!(
                        "{}/{}, role {:?}: {}",
                        key.pod_namespace, key.pod_name, key.role, revocation.last_error
                    ));
                    self.queue_revocation(revocation, retry_at);
                }
            }
        }
        revoked
    }

    async fn run_sweeps(&self) {
        loop {
            tokio::time::sleep(SESSION_SWEEP_INTERVAL).await;
            self.sessions.evict_expired(|uid| !self.pod_watcher.is_tracked(uid));
            self.queue.remove_dropped_sessions();
            // What could not be written before, or was changed by what nobody waits for.
            for session in self.sessions.all() {
                session.persist_in_background();
            }
            self.sessions.remove_unreadable_files();
            let pod_uids: HashSet<String> = self.sessions.pods().into_iter().map(|tenant| tenant.uid).collect();
            self.pod_watcher.retain(&pod_uids);
        }
    }
}
