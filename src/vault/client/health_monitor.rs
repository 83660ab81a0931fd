//! Health monitor of an endpoint: records request outcomes and runs health probes. During an outage only a probe is sent.
//! [`crate::vault::breaker`] makes the decisions.

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

/// Health of an endpoint, shared by its requests.
pub(super) struct HealthMonitor {
    /// Never held across an await.
    breaker: Mutex<CircuitBreaker>,
    /// Copy of [`CircuitBreaker::outage`], for tasks that wait for a change.
    outage: watch::Sender<Option<Arc<Outage>>>,
    /// Notified when the next probe is due sooner than planned.
    probe_rescheduled: Notify,
    metrics: Arc<Metrics>,
}

/// Extra time for the connect timeout of a probe to fire first, since its error names the stage.
const PROBE_DEADLINE_MARGIN: Duration = Duration::from_millis(100);

impl HealthMonitor {
    pub(super) fn new(metrics: Arc<Metrics>) -> Self {
        Self { breaker: Mutex::default(), outage: watch::Sender::default(), probe_rescheduled: Notify::new(), metrics }
    }

    fn breaker(&self) -> MutexGuard<'_, CircuitBreaker> {
        self.breaker.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Publishes the current outage to waiting tasks.
    fn publish_outage(&self, breaker: &CircuitBreaker) {
        self.outage.send_replace(breaker.outage().cloned());
    }

    /// Records a probe result, and logs and counts a state change.
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
                    error = %outage.reason,
                    "Vault is down; serving cached secrets, rejecting new pods"
                );
            }
            Some(Transition::CameUp(outage)) => {
                self.metrics.count_endpoint_transition(EndpointState::Up);
                let down_for = format!("{:.1?}", clock::now().saturating_duration_since(outage.since));
                tracing::info!(endpoint = address, %down_for, "Vault is back");
            }
            None => {}
        }
    }
}

impl Client {
    /// Returns the current outage, if there is one, and records a rejected request. During an outage every request fails
    /// immediately.
    #[must_use]
    pub fn outage(&self) -> Option<Arc<Outage>> {
        let outage = self.peek_outage()?;
        self.shared.health_monitor.breaker().record_rejection(clock::now());
        Some(outage)
    }

    /// Returns the current outage without recording a rejection, for status and metrics.
    pub(in crate::vault) fn peek_outage(&self) -> Option<Arc<Outage>> {
        self.shared.health_monitor.outage.borrow().clone()
    }

    /// Returns the last contact with the server, or the outage if the server is down.
    pub(in crate::vault) fn endpoint_health(&self) -> Result<LastContact, Arc<Outage>> {
        self.peek_outage().map_or_else(|| Ok(self.last_contact().0), Err)
    }

    /// Returns the last contact with the server and its time.
    pub(in crate::vault) fn last_contact(&self) -> (LastContact, Option<Instant>) {
        self.shared.health_monitor.breaker().last_contact().clone()
    }

    /// Derives the contact with the server from the outcome of a request.
    fn contact_from_outcome(&self, outcome: Result<&ResponseBody, &RequestError>) -> LastContact {
        match outcome {
            // Some engines respond with bare data instead of JSON. The login before such a read showed that this is Vault.
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

    /// Waits until the server is down and returns the outage.
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

    /// Requests a probe of a server that is down, within `within`. See [`CircuitBreaker::request_probe`].
    pub fn request_probe(&self, within: Duration) {
        let monitor = &self.shared.health_monitor;
        if monitor.breaker().request_probe(within, clock::now()) {
            monitor.probe_rescheduled.notify_one();
        }
    }

    /// Sends a request unless the server is down, and records the outcome. A request that is not mutating is cancelled when the
    /// server goes down in the meantime.
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
        // A server responds to health requests even when it cannot serve other requests.
        let is_health_request = matches!(request.uri().path(), "/sys/health" | "/sys/leader");
        let outcome = tokio::select! {
            biased;
            outcome = transport.send(request, options) => outcome,
            // On the heap, because this rare case would enlarge the future of every waiting request.
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
                self.trigger_probe(ProbeTrigger::FailedRequest, outcome.as_ref().err());
            }
            FailureClass::Unrelated => self.shared.health_monitor.breaker().record_contact(contact, now, now),
        }
        outcome
    }

    /// Triggers a probe if a request is slow, and returns when the server is down. Never returns if `must_wait` is set, because a
    /// mutating request must not be cancelled.
    async fn on_slow_request(&self, must_wait: bool) -> Arc<Outage> {
        let wait = async || if must_wait { std::future::pending().await } else { self.wait_until_down().await };
        if let Ok(outage) = timeout(SLOW_REQUEST_THRESHOLD, wait()).await {
            return outage;
        }
        self.trigger_probe(ProbeTrigger::SlowRequest, None);
        wait().await
    }

    /// Starts a health probe after a failed or slow request, unless the circuit breaker suppresses it.
    fn trigger_probe(&self, trigger: ProbeTrigger, failure: Option<&RequestError>) {
        let monitor = Arc::clone(&self.shared.health_monitor);
        if monitor.breaker().try_begin_probe(trigger, clock::now()) {
            let had_no_answer =
                failure.is_none_or(|failure| matches!(FailureClass::from_error(failure), FailureClass::NoAnswer));
            let request_error = failure.map(|failure| failure.explain_transport(self.address()));
            task::spawn_boxed(probe_until_up(Arc::downgrade(&self.shared), monitor, had_no_answer, request_error));
        }
    }

    /// Probes an idle server. The result does not reject requests, because no request has failed. A mount checks the
    /// server's state itself.
    pub(in crate::vault) async fn check_health(&self) {
        let asked_at = clock::now();
        if self.peek_outage().is_none()
            && let ProbeResult::Down(reason) =
                self.probe(&self.shared.transport.dedicated_pool(DOWN_PROBE_TIMEOUT), DOWN_PROBE_TIMEOUT).await
        {
            self.shared.health_monitor.breaker().record_contact(LastContact::Failed(reason), asked_at, clock::now());
        }
    }

    /// Sends a health probe on a connection of its own, which must be established within `probe_timeout`. Records the contact if
    /// the server is not down.
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

/// Probes a server, and repeats the probe as long as the server is down and in use.
async fn probe_until_up(
    shared: Weak<Shared>,
    monitor: Arc<HealthMonitor>,
    had_no_answer: bool,
    request_error: Option<Error>,
) {
    let Some(client) = upgrade_client(&shared) else { return };
    let result = client.probe(&client.shared.transport.dedicated_pool(PROBE_TIMEOUT), PROBE_TIMEOUT).await;
    let result = match (result, request_error) {
        // The error of the request has the same cause and more detail.
        (ProbeResult::Down(reason), Some(request_error)) if request_error.cause() == reason.cause() => {
            ProbeResult::Down(request_error)
        }
        (result, _) => result,
    };
    if had_no_answer && matches!(result, ProbeResult::Healthy) {
        // The server responds on a new connection, so the old connection may be dead.
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
        // Two references: the registry's and this one. Pending revocations do not hold a client. They request one at intervals.
        if Arc::strong_count(&client.shared) <= 2 && monitor.breaker().is_idle(clock::now()) {
            tracing::info!(endpoint = client.address(), "health probes stopped, no pod uses this Vault");
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

/// Classification of a failed request.
enum FailureClass {
    /// The server responded, with any result.
    Answered,
    /// The server responded with a server error.
    ServerError,
    /// The server did not respond.
    NoAnswer,
    /// The failure is unrelated to the server's health.
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

/// Returns true if a status reports a server error, including those of a standby without an active node.
fn is_server_error_status(status: u16) -> bool {
    status >= 500 || matches!(status, 472 | 473)
}

/// Converts the error of a health probe to a result. An error that does not show that the server is down counts as healthy,
/// because a proxy in front of Vault may pass other requests and reject the probe.
fn probe_result_from_error(failure: &RequestError, address: &str, probe_timeout: Duration) -> ProbeResult {
    match failure {
        RequestError::DeadlineExceeded { during, .. } => {
            let summary = format!("health check of Vault at {address} timed out after {probe_timeout:?} ({during})");
            let fix = "check that Vault answers within seconds, and network policies between this node and it";
            ProbeResult::Down(Error::new(Cause::Unreachable, summary).with_fix(fix))
        }
        failure => match FailureClass::from_error(failure) {
            FailureClass::ServerError | FailureClass::NoAnswer => ProbeResult::Down(failure.explain_transport(address)),
            FailureClass::Answered | FailureClass::Unrelated => ProbeResult::Healthy,
        },
    }
}
