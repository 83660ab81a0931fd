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
    observe::metrics::{EndpointState, Metrics},
    task,
    vault::{
        breaker::{
            CircuitBreaker, DOWN_PROBE_TIMEOUT, LastContact, Outage, PROBE_TIMEOUT, ProbeResult, ProbeTrigger,
            SLOW_REQUEST_THRESHOLD, Transition,
        },
        error::RequestError,
        transport::{CallOptions, Pool, ResponseBody, is_transient_connect_error},
    },
};

/// How an endpoint stands, for those who ask it.
pub(super) struct HealthMonitor {
    /// Never held across an await.
    breaker: Mutex<CircuitBreaker>,
    /// What [`Standing::outage`] says, for those who wait for a change.
    outage: watch::Sender<Option<Arc<Outage>>>,
    /// The next probe is due sooner than before.
    probe_rescheduled: Notify,
    metrics: Arc<Metrics>,
}

/// How much longer a question may take than the connection for it, so that it becomes known what took so long.
const PROBE_DEADLINE_MARGIN: Duration = Duration::from_millis(100);

impl HealthMonitor {
    pub(super) fn new(metrics: Arc<Metrics>) -> Self {
        Self { breaker: Mutex::default(), outage: watch::Sender::default(), probe_rescheduled: Notify::new(), metrics }
    }

    fn breaker(&self) -> MutexGuard<'_, CircuitBreaker> {
        self.breaker.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells everybody what is known by now.
    fn publish_outage(&self, breaker: &CircuitBreaker) {
        self.outage.send_replace(breaker.outage().cloned());
    }

    /// Notes a verdict; says and counts what it changed.
    fn on_probe_result(&self, result: ProbeResult, address: &str) {
        let transition = {
            let mut breaker = self.breaker();
            let transition = breaker.on_probe_result(result, clock::now());
            self.publish_outage(&breaker);
            transition
        };
        match transition {
            Some(Transition::WentDown(outage)) => {
                self.metrics.count_endpoint_transition(EndpointState::Down);
                tracing::warn!(
                    endpoint = address,
                    "Vault is down: pods keep what they have, and new ones are turned away: {}",
                    outage.reason
                );
            }
            Some(Transition::CameUp(outage)) => {
                self.metrics.count_endpoint_transition(EndpointState::Up);
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
        let outage = self.peek_outage()?;
        self.shared.health_monitor.breaker().record_rejection(clock::now());
        Some(outage)
    }

    /// The same for those who only tell of it.
    pub(in crate::vault) fn peek_outage(&self) -> Option<Arc<Outage>> {
        self.shared.health_monitor.outage.borrow().clone()
    }

    /// What was last heard of the server, unless it is known that it cannot be asked.
    pub(in crate::vault) fn endpoint_health(&self) -> Result<LastContact, Arc<Outage>> {
        self.peek_outage().map_or_else(|| Ok(self.last_contact().0), Err)
    }

    /// What was last heard of the server, and when.
    pub(in crate::vault) fn last_contact(&self) -> (LastContact, Option<Instant>) {
        self.shared.health_monitor.breaker().last_contact().clone()
    }

    /// What the outcome of a request tells of the server.
    fn contact_from_outcome(&self, outcome: Result<&ResponseBody, &RequestError>) -> LastContact {
        match outcome {
            // Some engines answer with the bare thing; whoever reads from one has logged in before.
            Ok(body) if body.bytes.trim_ascii_start().starts_with(b"{") => LastContact::Vault,
            Err(RequestError::ErrorResponse(response)) if response.is_from_vault() => LastContact::Vault,
            Err(RequestError::NotJson | RequestError::NoData { .. }) => LastContact::Vault,
            Ok(_)
            | Err(
                RequestError::ErrorResponse(_)
                | RequestError::ResponseTooLarge(_)
                | RequestError::RedirectNotFollowed { .. }
                | RequestError::NotVault(_),
            ) => LastContact::NotVault,
            Err(failure @ RequestError::Connect(error)) if !is_transient_connect_error(error) => {
                LastContact::Failed(failure.explain_transport(self.address()))
            }
            Err(_) => LastContact::Unknown,
        }
    }

    /// Waits until it is known that the server cannot be asked.
    pub async fn wait_until_down(&self) -> Arc<Outage> {
        let mut outage = self.shared.health_monitor.outage.subscribe();
        loop {
            let current = outage.borrow_and_update().clone();
            if let Some(outage) = current {
                return outage;
            }
            if outage.changed().await.is_err() {
                return std::future::pending().await;
            }
        }
    }

    /// Somebody wants the server, within so long: one that is down is probed as soon. See [`Standing::wanted`].
    pub fn request_probe(&self, within: Duration) {
        let monitor = &self.shared.health_monitor;
        if monitor.breaker().request_probe(within, clock::now()) {
            monitor.probe_rescheduled.notify_one();
        }
    }

    /// Sends a request, unless the server is down; notes what it meets. One that creates nothing is given up when the server
    /// turns out to be down meanwhile.
    pub(super) async fn send(
        &self,
        request: Request<Vec<u8>>,
        options: CallOptions<'_>,
    ) -> Result<ResponseBody, RequestError> {
        let transport = &self.shared.transport;
        if options.probe.is_some() {
            return transport.send(request, options).await;
        }
        if let Some(outage) = self.outage() {
            return Err(RequestError::Outage(outage));
        }
        // A server says how it is also when it can do nothing else.
        let is_health_request = matches!(request.uri().path(), "/sys/health" | "/sys/leader");
        let outcome = tokio::select! {
            biased;
            outcome = transport.send(request, options) => outcome,
            // On the heap, as what is rare would be a weight on every request that waits.
            outage = Box::pin(self.on_slow_request(options.mutating)) => return Err(RequestError::Outage(outage)),
        };
        let (contact, now) = (self.contact_from_outcome(outcome.as_ref()), clock::now());
        match outcome.as_ref().map_or_else(FailureClass::from_error, |_| FailureClass::Answered) {
            FailureClass::Answered if is_health_request => {}
            FailureClass::Answered => {
                let mut breaker = self.shared.health_monitor.breaker();
                breaker.record_success(now);
                breaker.record_contact(contact, now, now);
            }
            FailureClass::ServerError | FailureClass::NoAnswer => {
                self.trigger_probe(ProbeTrigger::FailedRequest, outcome.as_ref().err())
            }
            FailureClass::Unrelated => self.shared.health_monitor.breaker().record_contact(contact, now, now),
        }
        outcome
    }

    /// What is done about a request that has no answer yet. Ends when the server is down, unless that must be waited for.
    async fn on_slow_request(&self, must_wait: bool) -> Arc<Outage> {
        let wait = async || if must_wait { std::future::pending().await } else { self.wait_until_down().await };
        if let Ok(outage) = timeout(SLOW_REQUEST_THRESHOLD, wait()).await {
            return outage;
        }
        self.trigger_probe(ProbeTrigger::SlowRequest, None);
        wait().await
    }

    /// Has the server asked how it is, for a doubt that a failure raised.
    fn trigger_probe(&self, trigger: ProbeTrigger, failure: Option<&RequestError>) {
        let monitor = Arc::clone(&self.shared.health_monitor);
        if monitor.breaker().try_begin_probe(trigger, clock::now()) {
            let had_no_answer =
                failure.is_none_or(|failure| matches!(FailureClass::from_error(failure), FailureClass::NoAnswer));
            let request_error = failure.map(|failure| failure.explain_transport(self.address()));
            task::spawn_boxed(probe_until_up(Arc::downgrade(&self.shared), monitor, had_no_answer, request_error));
        }
    }

    /// Asks how the server is, as nobody else does. Nobody is turned away for what it says, as nobody heard it fail: a mount finds
    /// out by itself how it is by then.
    pub(in crate::vault) async fn check_health(&self) {
        let asked_at = clock::now();
        if self.peek_outage().is_none()
            && let ProbeResult::Down(reason) =
                self.probe(&self.shared.transport.dedicated_pool(DOWN_PROBE_TIMEOUT), DOWN_PROBE_TIMEOUT).await
        {
            self.shared.health_monitor.breaker().record_contact(LastContact::Failed(reason), asked_at, clock::now());
        }
    }

    /// Asks the server how it is, on a connection of its own, which must stand within `patience`; notes what is heard of one that
    /// is not down.
    async fn probe(&self, pool: &Pool, probe_timeout: Duration) -> ProbeResult {
        let (probe_timeout, asked_at) = (probe_timeout + PROBE_DEADLINE_MARGIN, clock::now());
        let deadline = Instant::now() + probe_timeout;
        let options = CallOptions { probe: Some(pool), ..CallOptions::with_deadline(deadline) };
        let (result, contact) = match self.health_with(options).await {
            Ok(health) => (
                health.unavailable_error(self.address()).map_or(ProbeResult::Healthy, ProbeResult::Down),
                LastContact::Vault,
            ),
            Err(failure) => (
                probe_result_from_error(&failure, self.address(), probe_timeout),
                self.contact_from_outcome(Err(&failure)),
            ),
        };
        if matches!(result, ProbeResult::Healthy) {
            self.shared.health_monitor.breaker().record_contact(contact, asked_at, clock::now());
        }
        result
    }
}

/// Asks a server that is in doubt; and again, as long as it is down and anybody uses it.
async fn probe_until_up(
    shared: Weak<Shared>,
    monitor: Arc<HealthMonitor>,
    had_no_answer: bool,
    request_error: Option<Error>,
) {
    let Some(client) = upgrade_client(&shared) else { return };
    let result = client.probe(&client.shared.transport.dedicated_pool(PROBE_TIMEOUT), PROBE_TIMEOUT).await;
    let result = match (result, request_error) {
        // The request heard it in more words.
        (ProbeResult::Down(reason), Some(request_error)) if request_error.cause() == reason.cause() => {
            ProbeResult::Down(request_error)
        }
        (result, _) => result,
    };
    if had_no_answer && matches!(result, ProbeResult::Healthy) {
        // It answers who connects anew: the connection may be dead on which it did not.
        client.shared.transport.replace_pool(client.shared.transport.dedicated_pool(Duration::MAX));
    }
    monitor.on_probe_result(result, client.address());
    drop(client);
    loop {
        let Some(next) = monitor.breaker().next_probe_at() else { return };
        tokio::select! {
            () = clock::sleep_until(next) => {}
            () = monitor.probe_rescheduled.notified() => continue,
        }
        let Some(client) = upgrade_client(&shared) else { return };
        // The registry's, and this one. Tokens to be revoked have none of their own, and ask now and then.
        if Arc::strong_count(&client.shared) <= 2 && monitor.breaker().is_idle(clock::now()) {
            tracing::info!(endpoint = client.address(), "no pod uses this Vault any more, and it is not probed");
            let mut breaker = monitor.breaker();
            breaker.reset();
            return monitor.publish_outage(&breaker);
        }
        let pool = client.shared.transport.dedicated_pool(DOWN_PROBE_TIMEOUT);
        let result = client.probe(&pool, DOWN_PROBE_TIMEOUT).await;
        if matches!(result, ProbeResult::Healthy) {
            client.shared.transport.replace_pool(pool);
        }
        monitor.on_probe_result(result, client.address());
    }
}

fn upgrade_client(shared: &Weak<Shared>) -> Option<Client> {
    shared.upgrade().map(|shared| Client { shared })
}

/// What a request met that failed.
enum FailureClass {
    /// A server that answers, whatever it says of the request.
    Answered,
    /// A server that blames itself, or says nothing that anybody asked for.
    ServerError,
    /// Nobody.
    NoAnswer,
    /// What says nothing about the server.
    Unrelated,
}

impl FailureClass {
    fn from_error(failure: &RequestError) -> Self {
        match failure {
            RequestError::ErrorResponse(refusal) if is_server_error_status(refusal.status) => Self::ServerError,
            RequestError::ErrorResponse(_)
            | RequestError::ResponseTooLarge(_)
            | RequestError::RedirectNotFollowed { .. }
            | RequestError::NotVault(_)
            | RequestError::NotJson
            | RequestError::NoData { .. } => Self::Answered,
            RequestError::Connect(fault) if is_transient_connect_error(fault) => Self::NoAnswer,
            RequestError::ConnectionLost { .. } | RequestError::Timeout(_) | RequestError::DeadlineExceeded { .. } => {
                Self::NoAnswer
            }
            RequestError::Connect(_)
            | RequestError::Outage(_)
            | RequestError::BudgetExceeded { .. }
            | RequestError::TokenUsesExhausted
            | RequestError::InvalidRequest(_) => Self::Unrelated,
        }
    }
}

/// Whether a status blames the server, and not the request: also those of a standby without an active node.
fn is_server_error_status(status: u16) -> bool {
    status >= 500 || matches!(status, 472 | 473)
}

/// What it means that a server does not say how it is. What does not say that it is down is no proof of it: what stands before
/// it may let requests pass and this not.
fn probe_result_from_error(failure: &RequestError, address: &str, probe_timeout: Duration) -> ProbeResult {
    match failure {
        RequestError::DeadlineExceeded { during, .. } => {
            let summary = format!("Vault at {address} does not say within {probe_timeout:?} how it is ({during})");
            let fix = "check that Vault answers within seconds, and network policies between this node and it";
            ProbeResult::Down(Error::new(Cause::Unreachable, summary).with_fix(fix))
        }
        failure => match FailureClass::from_error(failure) {
            FailureClass::ServerError | FailureClass::NoAnswer => ProbeResult::Down(failure.explain_transport(address)),
            FailureClass::Answered | FailureClass::Unrelated => ProbeResult::Healthy,
        },
    }
}
