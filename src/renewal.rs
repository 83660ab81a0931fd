//! The background clockwork: sessions are kept alive while their pods live, and revoked when they end.
//!
//! One queue of what is due and when, for all sessions and all tokens to be revoked; no task waits for a single one.

mod pods;
mod queue;
mod report;

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
    audit::{Event, Line, Outcome},
    clock,
    error::Cause,
    kube::Kube,
    metrics::{Metrics, RevocationOutcome},
    session::{Debt, Paid, Session, SessionKey, Sessions, UNHEARD},
    status::Revoked,
    task,
    vault::Vault,
};
pub use queue::Schedule;
use queue::{Item, Queue};

/// Keeps sessions. One per process.
pub struct Renewal {
    vault: Arc<Vault>,
    sessions: Arc<Sessions>,
    queue: Queue,
    orphan_after: Duration,
    pods: pods::Pods,
    /// Numbers the tokens to be revoked; sessions have numbers of their own.
    owed: AtomicUsize,
    started: Timestamp,
}

/// How many tokens are revoked at once when all are.
const REVOKED_AT_ONCE: usize = 8;
/// How long after a panic a session is attended to again.
const AFTER_PANIC: Duration = Duration::from_secs(60);
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
            orphan_after,
            pods: pods::Pods::new(kube, node),
            owed: AtomicUsize::new(0),
            started: clock::time_of_day(clock::now()),
        }
    }

    /// Renews, revokes and watches. Returns only when one of these breaks, which must end the process: it would serve on, and
    /// what pods have would die.
    pub async fn run(self: Arc<Self>) {
        let mut loops = JoinSet::new();
        let (a, b, c, d) = (self.clone(), self.clone(), self.clone(), self);
        loops.spawn(async move { a.attend().await });
        loops.spawn(async move { b.sweep().await });
        loops.spawn(async move { c.watch().await });
        loops.spawn(async move { d.reap().await });
        loops.join_next().await;
    }

    /// A session was used: what is due for it may have changed.
    pub fn schedule(&self, session: &Arc<Session>) {
        match session.next() {
            Some(at) => self.queue.put(session.id(), at, Item::Session(Arc::downgrade(session))),
            None => self.queue.remove(session.id()),
        }
    }

    /// Has the tokens revoked that a session has no use for any more.
    pub fn collect(&self, session: &Session) {
        for debt in session.take_spent() {
            self.owe_at(debt, clock::now());
        }
    }

    async fn attend(self: &Arc<Self>) {
        loop {
            let item = self.queue.next().await;
            let renewal = Arc::clone(self);
            task::spawn_boxed(async move {
                match item {
                    Item::Session(session) => {
                        if let Some(session) = session.upgrade() {
                            renewal.keep_one(&session).await;
                        }
                    }
                    Item::Debt(debt) => renewal.pay(*debt).await,
                }
            });
        }
    }

    /// Attends to a session, unless that is under way: whoever is at it looks again in the end.
    async fn keep_one(&self, session: &Arc<Session>) {
        if !session.begin_attending() {
            return;
        }
        let kept = AssertUnwindSafe(self.keep(session)).catch_unwind().await;
        session.end_attending();
        if kept.is_ok() {
            self.schedule(session);
        } else {
            tracing::error!("a fault of vaultmount's own: keeping a session alive panicked");
            let again = clock::now() + AFTER_PANIC;
            self.queue.put(session.id(), again, Item::Session(Arc::downgrade(session)));
        }
    }

    async fn keep(&self, session: &Arc<Session>) {
        let orphaned = self.orphaned(session);
        if session.rest(orphaned) {
            let (key, why) = (session.key(), orphaned.unwrap_or_default());
            let SessionKey { role, pod_name: pod, pod_namespace: namespace, .. } = key;
            tracing::warn!(role, pod, namespace, "not renewed any more: {why}");
        }
        if orphaned.is_some() {
            session.warn();
        } else {
            session.attend(&self.vault).await;
        }
        // When another process has the folder, that one renews it, too.
        drop(session.save().await);
    }

    /// Forgets everything, which another process has now.
    pub fn forget(&self) {
        self.sessions.forget();
        self.queue.clear();
    }

    /// Looks at every session anew, as what is known of pods' ends has changed.
    fn reconsider(&self) {
        for session in self.sessions.all() {
            session.rest(None);
            self.schedule(&session);
        }
    }

    /// Why a session is not renewed, when nothing tells whether its pod lives.
    fn orphaned(&self, session: &Session) -> Option<&'static str> {
        if session.pod_uids().iter().any(|uid| self.pods.tells_of(uid)) {
            return None;
        }
        match session.silence() {
            (silence, Some(gap)) if silence >= self.orphan_after.max(gap * 3) => {
                Some("its polls have stopped for --orphan-after, and nothing tells whether the pod lives")
            }
            (silence, None) if silence >= UNHEARD => {
                Some("it was never polled for 24 hours, and nothing tells whether the pod lives")
            }
            _ => None,
        }
    }

    /// Tries to revoke a token, and again later if that fails.
    async fn pay(&self, mut debt: Debt) {
        if let Some(at) = debt.put_off(&self.vault) {
            return self.owe_at(debt, at);
        }
        let paid = self.try_to_pay(&mut debt).await;
        if let Paid::Later { at, .. } = paid {
            self.owe_at(debt, at);
        }
    }

    async fn try_to_pay(&self, debt: &mut Debt) -> Paid {
        let paid = debt.pay(&self.vault).await;
        self.metrics().revocation(match &paid {
            Paid::Revoked => RevocationOutcome::Revoked,
            Paid::Over | Paid::Never => RevocationOutcome::Over,
            Paid::Later { error, .. } if error.cause() == Cause::ReadRefused => RevocationOutcome::Refused,
            Paid::Later { .. } => RevocationOutcome::Failed,
        });
        let line = Line { accessor: &debt.hold.token.accessor, ..debt.key.line(Event::Revoke) };
        match &paid {
            Paid::Revoked | Paid::Over => self.sessions.audit().tell(&line),
            Paid::Later { error, .. } => {
                let line = line.failed(error);
                let is_refused = error.cause() == Cause::ReadRefused;
                let outcome = if is_refused { Outcome::Denied } else { Outcome::Failed };
                self.sessions.audit().tell(&Line { outcome, ..line });
            }
            // It ends, or has ended, by itself.
            Paid::Never => {}
        }
        paid
    }

    /// What is counted.
    #[must_use]
    pub fn metrics(&self) -> &Metrics {
        self.sessions.metrics()
    }

    fn owe_at(&self, debt: Debt, at: Instant) {
        self.queue.put_debt(self.owed.fetch_add(1, Relaxed), at, debt);
    }

    /// A pod has ended: what it had is revoked.
    fn end(self: &Arc<Self>, uid: &str) {
        for session in self.sessions.take(uid) {
            let renewal = Arc::clone(self);
            task::spawn_boxed(async move {
                renewal.queue.remove(session.id());
                for debt in session.end().await {
                    renewal.pay(debt).await;
                }
            });
        }
    }

    /// Revokes every token that is held, and with it what was leased under it; from now on mounts are refused.
    pub async fn revoke_all(&self) -> Revoked {
        let sessions = self.sessions.close();
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
                Paid::Never => revoked.remaining += usize::from(debt.hold.token.is_batch),
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
            self.sessions.sweep(|uid| !self.pods.tells_of(uid));
            self.queue.sweep();
            // What could not be written before, or was changed by what nobody waits for.
            for session in self.sessions.all() {
                session.save_soon();
            }
            self.sessions.sweep_files();
            let tenants: HashSet<String> = self.sessions.tenants().into_iter().map(|tenant| tenant.uid).collect();
            self.pods.keep(&tenants);
        }
    }
}
