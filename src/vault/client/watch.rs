//! Watching over an endpoint: what requests meet is noted, a doubt is looked into, and while the server is down nobody asks it
//! but one probe. See [`crate::vault::standing`] for what is decided.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::Duration,
};

use http::Request;
use tokio::{
    sync::{Notify, watch},
    time::{Instant, timeout},
};

use super::{Client, Shared};
use crate::{
    clock,
    error::{Cause, Error},
    metrics::{EndpointState, Metrics},
    task,
    vault::{
        failure::RequestError,
        standing::{CHECK, Change, Doubt, Heard, OVERDUE, Outage, PROBE, Standing, Verdict},
        transport::{Call, Pool, Received, may_pass},
    },
};

/// How an endpoint stands, for those who ask it.
pub(super) struct Watch {
    /// Never held across an await.
    standing: Mutex<Standing>,
    /// What [`Standing::outage`] says, for those who wait for a change.
    outage: watch::Sender<Option<Arc<Outage>>>,
    /// The next probe is due sooner than before.
    sooner: Notify,
    metrics: Arc<Metrics>,
}

/// How much longer a question may take than the connection for it, so that it becomes known what took so long.
const REST: Duration = Duration::from_millis(100);

impl Watch {
    pub(super) fn new(metrics: Arc<Metrics>) -> Self {
        Self { standing: Mutex::default(), outage: watch::Sender::default(), sooner: Notify::new(), metrics }
    }

    fn standing(&self) -> MutexGuard<'_, Standing> {
        self.standing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells everybody what is known by now.
    fn publish(&self, standing: &Standing) {
        self.outage.send_replace(standing.outage().cloned());
    }

    /// Notes a verdict; says and counts what it changed.
    fn judged(&self, verdict: Verdict, address: &str) {
        let change = {
            let mut standing = self.standing();
            let change = standing.judged(verdict, clock::now());
            self.publish(&standing);
            change
        };
        match change {
            Some(Change::Down(outage)) => {
                self.metrics.endpoint_change(EndpointState::Down);
                tracing::warn!(
                    endpoint = address,
                    "Vault is down: pods keep what they have, and new ones are turned away: {}",
                    outage.found
                );
            }
            Some(Change::Up(outage)) => {
                self.metrics.endpoint_change(EndpointState::Up);
                let down_for = clock::now().saturating_duration_since(outage.since);
                tracing::info!(endpoint = address, "Vault is back after {down_for:.1?}");
            }
            None => {}
        }
    }
}

impl Client {
    /// Why the server cannot be asked at present, if that is known: then every request fails for it at once.
    #[must_use]
    pub fn outage(&self) -> Option<Arc<Outage>> {
        let outage = self.known_outage()?;
        self.shared.health_monitor.standing().used(clock::now());
        Some(outage)
    }

    /// The same for those who only tell of it.
    pub(in crate::vault) fn known_outage(&self) -> Option<Arc<Outage>> {
        self.shared.health_monitor.outage.borrow().clone()
    }

    /// What was last heard of the server, unless it is known that it cannot be asked.
    pub(in crate::vault) fn stands(&self) -> Result<Heard, Arc<Outage>> {
        self.known_outage().map_or_else(|| Ok(self.heard().0), Err)
    }

    /// What was last heard of the server, and when.
    pub(in crate::vault) fn heard(&self) -> (Heard, Option<Instant>) {
        self.shared.health_monitor.standing().heard().clone()
    }

    /// What the outcome of a request tells of the server.
    fn heard_of(&self, outcome: Result<&Received, &RequestError>) -> Heard {
        match outcome {
            // Some engines answer with the bare thing; whoever reads from one has logged in before.
            Ok(received) if received.body.trim_ascii_start().starts_with(b"{") => Heard::Vault,
            Err(RequestError::ErrorResponse(refusal)) if refusal.is_from_vault() => Heard::Vault,
            Err(RequestError::NotJson | RequestError::NoData { .. }) => Heard::Vault,
            Ok(_)
            | Err(
                RequestError::ErrorResponse(_)
                | RequestError::ResponseTooLarge(_)
                | RequestError::RedirectNotFollowed { .. }
                | RequestError::NotVault(_),
            ) => Heard::Other,
            Err(failure @ RequestError::Connect(fault)) if !may_pass(fault) => {
                Heard::Fault(failure.explain_transport(self.address()))
            }
            Err(_) => Heard::Nothing,
        }
    }

    /// Waits until it is known that the server cannot be asked.
    pub async fn down(&self) -> Arc<Outage> {
        let mut outage = self.shared.health_monitor.outage.subscribe();
        loop {
            let known = outage.borrow_and_update().clone();
            if let Some(outage) = known {
                return outage;
            }
            if outage.changed().await.is_err() {
                return std::future::pending().await;
            }
        }
    }

    /// Somebody wants the server, within so long: one that is down is probed as soon. See [`Standing::wanted`].
    pub fn wanted(&self, within: Duration) {
        let watch = &self.shared.health_monitor;
        if watch.standing().wanted(within, clock::now()) {
            watch.sooner.notify_one();
        }
    }

    /// Sends a request, unless the server is down; notes what it meets. One that creates nothing is given up when the server
    /// turns out to be down meanwhile.
    pub(super) async fn send(&self, request: Request<Vec<u8>>, call: Call<'_>) -> Result<Received, RequestError> {
        let transport = &self.shared.transport;
        if call.probe.is_some() {
            return transport.send(request, call).await;
        }
        if let Some(outage) = self.outage() {
            return Err(RequestError::Outage(outage));
        }
        // A server says how it is also when it can do nothing else.
        let is_of_itself = matches!(request.uri().path(), "/sys/health" | "/sys/leader");
        let outcome = tokio::select! {
            biased;
            outcome = transport.send(request, call) => outcome,
            // On the heap, as what is rare would be a weight on every request that waits.
            outage = Box::pin(self.overdue(call.creates)) => return Err(RequestError::Outage(outage)),
        };
        let (heard, now) = (self.heard_of(outcome.as_ref()), clock::now());
        match outcome.as_ref().map_or_else(Met::of, |_| Met::Server) {
            Met::Server if is_of_itself => {}
            Met::Server => {
                let mut standing = self.shared.health_monitor.standing();
                standing.answered(now);
                standing.hear(heard, now, now);
            }
            Met::Fault | Met::Silence => self.doubt(Doubt::Failed, outcome.as_ref().err()),
            Met::Nothing => self.shared.health_monitor.standing().hear(heard, now, now),
        }
        outcome
    }

    /// What is done about a request that has no answer yet. Ends when the server is down, unless that must be waited for.
    async fn overdue(&self, is_awaited: bool) -> Arc<Outage> {
        let down = async || if is_awaited { std::future::pending().await } else { self.down().await };
        if let Ok(outage) = timeout(OVERDUE, down()).await {
            return outage;
        }
        self.doubt(Doubt::Overdue, None);
        down().await
    }

    /// Has the server asked how it is, for a doubt that a failure raised.
    fn doubt(&self, doubt: Doubt, failure: Option<&RequestError>) {
        let watch = Arc::clone(&self.shared.health_monitor);
        if watch.standing().doubt(doubt, clock::now()) {
            let is_silence = failure.is_none_or(|failure| matches!(Met::of(failure), Met::Silence));
            let met = failure.map(|failure| failure.explain_transport(self.address()));
            task::spawn(look_into(Arc::downgrade(&self.shared), watch, is_silence, met));
        }
    }

    /// Asks how the server is, as nobody else does. Nobody is turned away for what it says, as nobody heard it fail: a mount finds
    /// out by itself how it is by then.
    pub(in crate::vault) async fn inquire(&self) {
        let asked = clock::now();
        if self.known_outage().is_none()
            && let Verdict::Down(found) = self.probe(&self.shared.transport.fresh(PROBE), PROBE).await
        {
            self.shared.health_monitor.standing().hear(Heard::Fault(found), asked, clock::now());
        }
    }

    /// Asks the server how it is, on a connection of its own, which must stand within `patience`; notes what is heard of one that
    /// is not down.
    async fn probe(&self, pool: &Pool, patience: Duration) -> Verdict {
        let (patience, asked) = (patience + REST, clock::now());
        let deadline = Instant::now() + patience;
        let call = Call { probe: Some(pool), ..Call::until(deadline) };
        let (verdict, heard) = match self.health_by(call).await {
            Ok(health) => (health.problem(self.address()).map_or(Verdict::Well, Verdict::Down), Heard::Vault),
            Err(failure) => (verdict(&failure, self.address(), patience), self.heard_of(Err(&failure))),
        };
        if matches!(verdict, Verdict::Well) {
            self.shared.health_monitor.standing().hear(heard, asked, clock::now());
        }
        verdict
    }
}

/// Asks a server that is in doubt; and again, as long as it is down and anybody uses it.
async fn look_into(shared: Weak<Shared>, watch: Arc<Watch>, is_silence: bool, met: Option<Error>) {
    let Some(client) = upgrade(&shared) else { return };
    let verdict = client.probe(&client.shared.transport.fresh(CHECK), CHECK).await;
    let verdict = match (verdict, met) {
        // The request heard it in more words.
        (Verdict::Down(found), Some(met)) if met.cause() == found.cause() => Verdict::Down(met),
        (verdict, _) => verdict,
    };
    if is_silence && matches!(verdict, Verdict::Well) {
        // It answers who connects anew: the connection may be dead on which it did not.
        client.shared.transport.adopt(client.shared.transport.fresh(Duration::MAX));
    }
    watch.judged(verdict, client.address());
    drop(client);
    loop {
        let Some(next) = watch.standing().next_probe() else { return };
        tokio::select! {
            () = clock::sleep_until(next) => {}
            () = watch.sooner.notified() => continue,
        }
        let Some(client) = upgrade(&shared) else { return };
        // The registry's, and this one. Tokens to be revoked have none of their own, and ask now and then.
        if Arc::strong_count(&client.shared) <= 2 && watch.standing().is_unused(clock::now()) {
            tracing::info!(endpoint = client.address(), "no pod uses this Vault any more, and it is not probed");
            let mut standing = watch.standing();
            standing.forget();
            return watch.publish(&standing);
        }
        let pool = client.shared.transport.fresh(PROBE);
        let verdict = client.probe(&pool, PROBE).await;
        if matches!(verdict, Verdict::Well) {
            client.shared.transport.adopt(pool);
        }
        watch.judged(verdict, client.address());
    }
}

fn upgrade(shared: &Weak<Shared>) -> Option<Client> {
    shared.upgrade().map(|shared| Client { shared })
}

/// What a request met that failed.
enum Met {
    /// A server that answers, whatever it says of the request.
    Server,
    /// A server that blames itself, or says nothing that anybody asked for.
    Fault,
    /// Nobody.
    Silence,
    /// What says nothing about the server.
    Nothing,
}

impl Met {
    fn of(failure: &RequestError) -> Self {
        match failure {
            RequestError::ErrorResponse(refusal) if is_fault(refusal.status) => Self::Fault,
            RequestError::ErrorResponse(_)
            | RequestError::ResponseTooLarge(_)
            | RequestError::RedirectNotFollowed { .. }
            | RequestError::NotVault(_)
            | RequestError::NotJson
            | RequestError::NoData { .. } => Self::Server,
            RequestError::Connect(fault) if may_pass(fault) => Self::Silence,
            RequestError::ConnectionLost { .. } | RequestError::Timeout(_) | RequestError::DeadlineExceeded { .. } => {
                Self::Silence
            }
            RequestError::Connect(_)
            | RequestError::Outage(_)
            | RequestError::BudgetExceeded { .. }
            | RequestError::TokenUsesExhausted
            | RequestError::InvalidRequest(_) => Self::Nothing,
        }
    }
}

/// Whether a status blames the server, and not the request: also those of a standby without an active node.
fn is_fault(status: u16) -> bool {
    status >= 500 || matches!(status, 472 | 473)
}

/// What it means that a server does not say how it is. What does not say that it is down is no proof of it: what stands before
/// it may let requests pass and this not.
fn verdict(failure: &RequestError, address: &str, patience: Duration) -> Verdict {
    match failure {
        RequestError::DeadlineExceeded { during, .. } => {
            let what = format!("Vault at {address} does not say within {patience:?} how it is ({during})");
            let advice = "check that Vault answers within seconds, and network policies between this node and it";
            Verdict::Down(Error::new(Cause::Unreachable, what).advice(advice))
        }
        failure => match Met::of(failure) {
            Met::Fault | Met::Silence => Verdict::Down(failure.explain_transport(address)),
            Met::Server | Met::Nothing => Verdict::Well,
        },
    }
}
