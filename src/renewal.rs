//! The background clockwork: sessions are kept alive while their pods live, and revoked when they end.
//!
//! One queue of what is due and when, for all sessions and all tokens to be revoked; no task waits for a single one.

mod pods;
mod queue;
mod report;

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use futures_util::{StreamExt, stream};
use jiff::Timestamp;
use tokio::{sync::Semaphore, time::Instant};

use crate::{
    kube::Kube,
    metrics::{Metrics, RevocationOutcome},
    session::{Debt, Means, Paid, Session, Sessions},
    status::Revoked,
    vault::Vault,
};
use queue::{Item, Queue};

/// Keeps sessions. One per process.
pub struct Renewal {
    vault: Arc<Vault>,
    sessions: Arc<Sessions>,
    queue: Queue,
    gate: Semaphore,
    orphan_after: Duration,
    pods: pods::Pods,
    /// Numbers the tokens to be revoked; sessions have numbers of their own.
    owed: AtomicUsize,
    started: Timestamp,
}

/// Requests of the background at once: fewer than one endpoint takes, so that mounts find Vault free.
const AT_ONCE: usize = 4;
/// How many tokens are revoked at once when all are.
const REVOKED_AT_ONCE: usize = 8;
/// How long a pod that was never polled is renewed when nothing tells of its end.
const UNHEARD: Duration = Duration::from_secs(24 * 3600);
/// How often the sessions of pods whose end nothing tells are looked through.
const SWEEP: Duration = Duration::from_secs(60);

impl Renewal {
    /// `node` is where the pods are watched; without it, or without an API, nothing tells when a pod ends.
    #[must_use]
    pub fn new(
        vault: Arc<Vault>,
        sessions: Arc<Sessions>,
        kube: Option<Arc<Kube>>,
        node: Option<String>,
        orphan_after: Duration,
    ) -> Self {
        Self {
            vault,
            sessions,
            queue: Queue::default(),
            gate: Semaphore::new(AT_ONCE),
            orphan_after,
            pods: pods::Pods::new(kube, node),
            owed: AtomicUsize::new(0),
            started: Timestamp::now(),
        }
    }

    /// Runs until dropped: renews, revokes, watches.
    pub async fn run(self: Arc<Self>) {
        tokio::join!(self.attend(), self.sweep(), self.watch(), self.reap());
    }

    /// A session was used: what is due for it may have changed.
    pub fn schedule(&self, session: &Arc<Session>) {
        match session.next() {
            Some(at) => self.queue.put(session.id(), at, Item::Session(Arc::downgrade(session))),
            None => self.queue.remove(session.id()),
        }
    }

    async fn attend(self: &Arc<Self>) {
        loop {
            let item = self.queue.next().await;
            let renewal = Arc::clone(self);
            tokio::spawn(async move {
                match item {
                    Item::Session(session) => {
                        if let Some(session) = session.upgrade() {
                            renewal.keep(&session).await;
                        }
                    }
                    Item::Debt(debt) => renewal.pay(*debt).await,
                }
            });
        }
    }

    async fn keep(&self, session: &Arc<Session>) {
        if let Some(why) = self.orphaned(session) {
            if session.rest(why) {
                let key = session.key();
                tracing::info!(
                    pod = key.pod_name,
                    namespace = key.pod_namespace,
                    role = key.role,
                    "not renewed any more: {why}"
                );
            }
            return;
        }
        // Who is at it already looks afterwards what is due next.
        if session.attend(&Means { vault: &self.vault, gate: &self.gate }).await {
            self.schedule(session);
        }
    }

    /// Why a session is not renewed, when nothing tells whether its pod lives.
    fn orphaned(&self, session: &Session) -> Option<&'static str> {
        if self.pods.tells() {
            return None;
        }
        match session.silence() {
            (silence, true) if silence >= self.orphan_after => {
                Some("its polls have stopped for --orphan-after, and nothing tells whether the pod lives")
            }
            (silence, false) if silence >= UNHEARD => {
                Some("it was never polled for 24 hours, and nothing tells whether the pod lives")
            }
            _ => None,
        }
    }

    /// Tries to revoke a token, and again later if that fails.
    async fn pay(&self, mut debt: Debt) {
        let paid = {
            let Ok(_turn) = self.gate.acquire().await else { return };
            self.try_to_pay(&mut debt).await
        };
        if let Paid::Later { at, .. } = paid {
            self.owe_at(debt, at);
        }
    }

    async fn try_to_pay(&self, debt: &mut Debt) -> Paid {
        let paid = debt.pay(&self.vault).await;
        self.metrics().revocation(match paid {
            Paid::Revoked => RevocationOutcome::Revoked,
            Paid::Over | Paid::Never => RevocationOutcome::Over,
            Paid::Later { refused: true, .. } => RevocationOutcome::Refused,
            Paid::Later { refused: false, .. } => RevocationOutcome::Failed,
        });
        paid
    }

    fn metrics(&self) -> &Metrics {
        self.sessions.metrics()
    }

    fn owe_at(&self, debt: Debt, at: Instant) {
        self.queue.put_debt(self.owed.fetch_add(1, Relaxed), at, debt);
    }

    /// A pod has ended: what it had is revoked.
    fn end(self: &Arc<Self>, uid: &str) {
        for session in self.sessions.take(uid) {
            let renewal = Arc::clone(self);
            tokio::spawn(async move {
                renewal.queue.remove(session.id());
                for debt in session.end().await {
                    renewal.pay(debt).await;
                }
            });
        }
    }

    async fn revoke_everything(&self) -> Revoked {
        let sessions = self.sessions.close();
        tracing::warn!(sessions = sessions.len(), "told to revoke everything; mounts are refused from now on");
        let ended = stream::iter(sessions).map(|session| async move {
            self.queue.remove(session.id());
            session.end().await
        });
        let mut debts: Vec<Debt> = ended.buffer_unordered(REVOKED_AT_ONCE).concat().await;
        debts.extend(self.queue.take_debts());
        let paid = stream::iter(debts).map(|mut debt| async move {
            let paid = self.try_to_pay(&mut debt).await;
            (debt, paid)
        });
        let mut revoked = Revoked::default();
        let mut paid = std::pin::pin!(paid.buffer_unordered(REVOKED_AT_ONCE));
        while let Some((debt, paid)) = paid.next().await {
            match paid {
                Paid::Revoked => revoked.tokens += 1,
                Paid::Over => {}
                Paid::Never => revoked.left += usize::from(debt.hold.token.is_batch),
                Paid::Later { at, .. } => {
                    let key = &debt.key;
                    revoked
                        .failed
                        .push(format!("{}/{}, role {:?}: {}", key.pod_namespace, key.pod_name, key.role, debt.trouble));
                    self.owe_at(debt, at);
                }
            }
        }
        revoked
    }

    async fn sweep(&self) {
        loop {
            tokio::time::sleep(SWEEP).await;
            if !self.pods.tells() {
                self.sessions.sweep();
            }
        }
    }
}
