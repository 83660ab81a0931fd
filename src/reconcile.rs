//! Background work: renews the sessions of running pods, and revokes their tokens when the pods end.
//!
//! One queue holds all due work, for all sessions and all pending revocations. No task waits for a single session or
//! token.

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

/// Maintains all sessions. Each process has one reconciler.
pub struct Reconciler {
    vault: Arc<Vault>,
    sessions: Arc<SessionRegistry>,
    queue: WorkQueue,
    orphan_after: Duration,
    pod_watcher: pod_watcher::PodWatcher,
    /// Next number of a pending revocation; sessions have their own numbers.
    next_revocation_id: AtomicUsize,
    started_at: Timestamp,
}

/// Concurrency limit for revocations when all sessions end.
const MAX_CONCURRENT_REVOCATIONS: usize = 8;
/// Delay before a session is maintained again after a panic.
const PANIC_RETRY_DELAY: Duration = Duration::from_secs(60);
/// Interval between sweeps, which evict expired sessions of unwatched pods and retry failed state writes.
const SESSION_SWEEP_INTERVAL: Duration = Duration::from_secs(60);

impl Reconciler {
    /// Creates a reconciler that watches the pods of `node`. Without a node or an API server, vaultmount cannot detect
    /// when a pod ends.
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

    /// Renews, revokes and watches. Returns only if one of these tasks stops. The process must exit then: it would
    /// continue to serve while the pods' credentials expire.
    pub async fn run(self: Arc<Self>) {
        let mut loops = JoinSet::new();
        let (a, b, c, d) = (self.clone(), self.clone(), self.clone(), self);
        loops.spawn(async move { a.run_queue().await });
        loops.spawn(async move { b.run_sweeps().await });
        loops.spawn(async move { c.watch_pods().await });
        loops.spawn(async move { d.end_missing_pods().await });
        loops.join_next().await;
    }

    /// Reschedules a session after use, because its next wakeup may have changed.
    pub fn schedule(&self, session: &Arc<Session>) {
        match session.next_wakeup() {
            Some(at) => self.queue.put_session(session.id(), at, WorkItem::Session(Arc::downgrade(session))),
            None => self.queue.remove_session(session.id()),
        }
    }

    /// Queues revocations for the tokens that a session no longer needs.
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

    /// Maintains a session, unless its maintenance is already running. The running maintenance reschedules the session
    /// when it finishes.
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
        // If another process owns the state directory, that process also renews the session.
        drop(session.persist().await);
    }

    /// Removes all sessions and queued work, because another process owns them now.
    pub fn clear(&self) {
        self.sessions.clear();
        self.queue.clear();
    }

    /// Reschedules every session, because the knowledge about the end of pods has changed.
    fn requeue_all(&self) {
        for session in self.sessions.all() {
            session.pause_renewal(None);
            self.schedule(&session);
        }
    }

    /// Returns the reason to pause renewal if vaultmount cannot detect the end of the session's pod.
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

    /// Tries to revoke a token, and queues a retry after a failure or during an outage.
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
            // The token expires or has expired by itself.
            RevocationResult::NotRevocable => {}
        }
        result
    }

    /// Returns the metrics of this process.
    #[must_use]
    pub fn metrics(&self) -> &Metrics {
        self.sessions.metrics()
    }

    fn queue_revocation(&self, revocation: PendingRevocation, due_at: Instant) {
        self.queue.put_revocation(self.next_revocation_id.fetch_add(1, Relaxed), due_at, revocation);
    }

    /// Revokes the tokens of a pod that has ended.
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

    /// Revokes every token of every session, and with it all its leases. Rejects all later mounts.
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
            // Retry failed writes, and write changes that no caller waits for.
            for session in self.sessions.all() {
                session.persist_in_background();
            }
            self.sessions.remove_unreadable_files();
            let pod_uids: HashSet<String> = self.sessions.pods().into_iter().map(|tenant| tenant.uid).collect();
            self.pod_watcher.retain(&pod_uids);
        }
    }
}
