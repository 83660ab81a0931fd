//! Circuit breaker: decides from request outcomes and health probes if a server is available.
//!
//! A single request does not decide it: one path may be slow, one engine may fail, one quota may be exhausted. A slow or
//! failed request triggers a health probe (`sys/health`). While the server is down, it is probed again with exponential
//! backoff. Every function takes the current time as an argument, so that tests can simulate the clients of many servers.

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;

use crate::{
    clock::{time_of_day, with_jitter},
    error::Error,
};

/// Outage of a server.
#[derive(Debug)]
pub struct Outage {
    /// Time at which the outage was detected.
    pub since: Instant,
    /// Reason, as the probe or the request reported it.
    pub reason: Error,
    /// Error for requests that are rejected during the outage.
    pub rejection: Error,
}

/// Reason for a health probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProbeTrigger {
    /// A request has no response yet, although requests usually have one by now.
    SlowRequest,
    /// A request failed with a server error, or without a response.
    FailedRequest,
}

/// Result of a health probe.
#[derive(Clone, Debug)]
pub enum ProbeResult {
    /// The server is available, as far as the probe shows.
    Healthy,
    /// The server is unavailable, for this reason.
    Down(Error),
}

/// Last contact with a server, for status and metrics only. Only an outage decides if requests are sent.
#[derive(Clone, Debug, Default)]
pub enum LastContact {
    /// No contact yet.
    #[default]
    Unknown,
    /// The server responds, but not like Vault.
    NotVault,
    /// The server is unavailable, for this reason.
    Failed(Error),
    /// The server responds like Vault.
    Vault,
}

/// State change caused by a probe result.
#[derive(Clone, Debug)]
pub enum Transition {
    /// The server went down: requests are rejected from now on.
    WentDown(Arc<Outage>),
    /// The server came up: requests are allowed again. Contains the outage that ended.
    CameUp(Arc<Outage>),
}

/// Circuit breaker of one server.
#[derive(Debug, Default)]
pub struct CircuitBreaker {
    outage: Option<Arc<Outage>>,
    /// Start of a triggered probe that has no result yet.
    probe_sent_at: Option<Instant>,
    /// Time of the last healthy probe result.
    healthy_at: Option<Instant>,
    /// Time of the last successful request.
    last_success_at: Option<Instant>,
    /// Last contact and its time.
    last_contact: (LastContact, Option<Instant>),
    probe_count: u32,
    last_probe_at: Option<Instant>,
    next_probe_at: Option<Instant>,
    /// Time of the last rejected request.
    last_rejection_at: Option<Instant>,
}

/// Time without a response after which a request triggers a probe.
pub const SLOW_REQUEST_THRESHOLD: Duration = Duration::from_millis(400);
/// Connect timeout of a triggered probe. The response has hardly longer. Together with [`SLOW_REQUEST_THRESHOLD`] it is shorter
/// than the maximum wait of a poll.
pub const PROBE_TIMEOUT: Duration = Duration::from_millis(1400);
/// Connect timeout of a probe during an outage. It is longer, so that a slow server can recover.
pub const DOWN_PROBE_TIMEOUT: Duration = Duration::from_secs(5);
/// First and maximum interval between probes during an outage.
const INITIAL_PROBE_INTERVAL: Duration = Duration::from_secs(1);
const MAX_PROBE_INTERVAL: Duration = Duration::from_secs(30);
/// Cooldown after a healthy probe before the next failed or slow request triggers another. It protects a busy server from
/// additional load.
const PROBE_COOLDOWN_AFTER_FAILURE: Duration = Duration::from_secs(1);
const PROBE_COOLDOWN_AFTER_SLOW: Duration = Duration::from_secs(10);
/// Time after the last rejection until a server that is down counts as unused.
const OUTAGE_IDLE_TIMEOUT: Duration = Duration::from_secs(300);
/// Time after which a triggered probe without a result no longer blocks the next one.
const PENDING_PROBE_TTL: Duration = Duration::from_secs(10);
/// Minimum and maximum delay, before jitter, until work that waits for a server is retried.
const MIN_RETRY_DELAY: Duration = Duration::from_millis(250);
const MAX_RETRY_DELAY: Duration = Duration::from_secs(120);

impl CircuitBreaker {
    /// Returns the current outage, if the server is down.
    #[must_use]
    pub fn outage(&self) -> Option<&Arc<Outage>> {
        self.outage.as_ref()
    }

    /// Returns true if the trigger should start a probe now, and marks the probe as pending. At most one probe is pending.
    pub fn try_begin_probe(&mut self, trigger: ProbeTrigger, now: Instant) -> bool {
        let cooldown = match trigger {
            ProbeTrigger::SlowRequest => PROBE_COOLDOWN_AFTER_SLOW,
            ProbeTrigger::FailedRequest => PROBE_COOLDOWN_AFTER_FAILURE,
        };
        let is_probe_pending = self.probe_sent_at.is_some_and(|at| now < at + PENDING_PROBE_TTL);
        let is_cooling_down = self.healthy_at.is_some_and(|at| now < at + cooldown);
        if self.outage.is_some() || is_probe_pending || is_cooling_down {
            return false;
        }
        self.probe_sent_at = Some(now);
        true
    }

    /// Records a response that only an available server can give.
    pub fn record_success(&mut self, now: Instant) {
        self.last_success_at = Some(now);
    }

    /// Records the result of a request that was sent at `asked_at`, unless a more recent result is known.
    ///
    /// A response that is not from Vault does not replace one from Vault, because a proxy in front of Vault may answer some
    /// requests itself.
    pub fn record_contact(&mut self, contact: LastContact, asked_at: Instant, now: Instant) {
        let is_outdated = self.last_contact.1.is_some_and(|at| at > asked_at);
        if !is_outdated
            && !matches!(
                (&contact, &self.last_contact.0),
                (LastContact::Unknown, _) | (LastContact::NotVault, LastContact::Vault)
            )
        {
            self.last_contact = (contact, Some(now));
        }
    }

    /// Returns the last contact and its time.
    #[must_use]
    pub fn last_contact(&self) -> &(LastContact, Option<Instant>) {
        &self.last_contact
    }

    /// Records a probe result and returns the state change, if there is one. A server that answered other requests in the
    /// meantime is not down.
    pub fn on_probe_result(&mut self, result: ProbeResult, now: Instant) -> Option<Transition> {
        let probe_sent_at = self.probe_sent_at.take();
        match (result, self.outage.clone()) {
            (ProbeResult::Healthy, None) => {
                self.healthy_at = Some(now);
                None
            }
            (ProbeResult::Healthy, Some(outage)) => {
                *self = Self {
                    healthy_at: Some(now),
                    last_contact: std::mem::take(&mut self.last_contact),
                    ..Self::default()
                };
                Some(Transition::CameUp(outage))
            }
            (ProbeResult::Down(_), None) if self.last_success_at.is_some_and(|at| Some(at) >= probe_sent_at) => {
                self.healthy_at = Some(now);
                None
            }
            (ProbeResult::Down(reason), None) => {
                let outage = Outage::new(reason, now);
                self.outage = Some(Arc::clone(&outage));
                self.schedule_next_probe(now);
                Some(Transition::WentDown(outage))
            }
            (ProbeResult::Down(reason), Some(outage)) => {
                // For example, an unreachable server restarts sealed.
                if reason.cause() != outage.reason.cause() {
                    self.outage = Some(Outage::new(reason, outage.since));
                }
                self.schedule_next_probe(now);
                None
            }
        }
    }

    /// Returns the time of the next probe. `None` unless the server is down.
    #[must_use]
    pub fn next_probe_at(&self) -> Option<Instant> {
        self.next_probe_at
    }

    /// Requests a probe within `within` of the last one, because a pod is blocked on this server. Returns true if that is sooner
    /// than planned. The server is probed at most once a second, regardless of the number of requests.
    pub fn request_probe(&mut self, within: Duration, now: Instant) -> bool {
        let (Some(last_probe_at), Some(next_probe_at)) = (self.last_probe_at, self.next_probe_at) else { return false };
        let requested_at = now.max(last_probe_at + within.max(INITIAL_PROBE_INTERVAL));
        self.next_probe_at = Some(next_probe_at.min(requested_at));
        requested_at < next_probe_at
    }

    /// Records that a request was rejected.
    pub fn record_rejection(&mut self, now: Instant) {
        self.last_rejection_at = Some(now);
    }

    /// Returns true if no request was rejected for five minutes, so the server does not need probes.
    #[must_use]
    pub fn is_idle(&self, now: Instant) -> bool {
        self.last_rejection_at
            .or(self.outage.as_ref().map(|outage| outage.since))
            .is_none_or(|at| now >= at + OUTAGE_IDLE_TIMEOUT)
    }

    /// Resets all state, because the server is no longer used.
    pub fn reset(&mut self) {
        *self = Self::default();
    }

    fn schedule_next_probe(&mut self, now: Instant) {
        let interval = MAX_PROBE_INTERVAL.min(INITIAL_PROBE_INTERVAL * 2u32.saturating_pow(self.probe_count.min(16)));
        self.probe_count = self.probe_count.saturating_add(1);
        (self.last_probe_at, self.next_probe_at) = (Some(now), Some(now + with_jitter(interval)));
    }
}

impl Outage {
    fn new(reason: Error, since: Instant) -> Arc<Self> {
        let summary =
            format!("{}, known since {} and probed again automatically", reason.summary(), time_of_day(since));
        let rejection =
            Error::new(reason.cause(), summary).with_server_message(reason.server_message().unwrap_or_default());
        let rejection = match reason.fix() {
            Some(fix) => rejection.with_fix(fix),
            None => rejection,
        };
        Arc::new(Self { since, reason, rejection })
    }
}

/// Returns when to retry work that waits for a server and expires at `expires_at`.
///
/// The less time is left, the sooner the retry, so that the most urgent work runs first when the server is back. Jitter spreads
/// everything else over up to two minutes.
#[must_use]
pub fn retry_at(expires_at: Option<Instant>, now: Instant) -> Instant {
    let delay = expires_at.map_or(MAX_RETRY_DELAY, |expiry| expiry.saturating_duration_since(now) / 8);
    now + with_jitter(delay.clamp(MIN_RETRY_DELAY, MAX_RETRY_DELAY))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Cause;

    fn ms(milliseconds: u64) -> Duration {
        Duration::from_millis(milliseconds)
    }

    fn down_with(cause: Cause) -> ProbeResult {
        ProbeResult::Down(Error::new(cause, "Vault is away").with_server_message("its words").with_fix("do something"))
    }

    /// Returns a breaker that opened at `now`.
    fn open_breaker(now: Instant) -> CircuitBreaker {
        let mut breaker = CircuitBreaker::default();
        assert!(breaker.try_begin_probe(ProbeTrigger::FailedRequest, now));
        assert!(matches!(
            breaker.on_probe_result(down_with(Cause::ConnectionRefused), now),
            Some(Transition::WentDown(_))
        ));
        breaker
    }

    #[test]
    fn breaker_sends_one_probe_then_cools_down() {
        let (mut breaker, now) = (CircuitBreaker::default(), Instant::now());
        assert!(breaker.try_begin_probe(ProbeTrigger::SlowRequest, now));
        assert!(!breaker.try_begin_probe(ProbeTrigger::FailedRequest, now + ms(10)), "a probe is already pending");
        assert!(breaker.on_probe_result(ProbeResult::Healthy, now + ms(20)).is_none());
        assert!(!breaker.try_begin_probe(ProbeTrigger::FailedRequest, now + ms(1000)));
        assert!(
            !breaker.try_begin_probe(ProbeTrigger::SlowRequest, now + ms(10_000)),
            "a slow server must not get additional load"
        );
        assert!(breaker.try_begin_probe(ProbeTrigger::FailedRequest, now + ms(1020)));
    }

    #[test]
    fn breaker_probes_again_after_pending_probe_ttl() {
        let (mut breaker, now) = (CircuitBreaker::default(), Instant::now());
        assert!(breaker.try_begin_probe(ProbeTrigger::FailedRequest, now));
        assert!(!breaker.try_begin_probe(ProbeTrigger::FailedRequest, now + ms(9999)));
        assert!(breaker.try_begin_probe(ProbeTrigger::FailedRequest, now + ms(10_000)));
    }

    #[test]
    fn breaker_ignores_failed_probe_after_newer_success() {
        let (mut breaker, now) = (CircuitBreaker::default(), Instant::now());
        breaker.record_success(now);
        assert!(breaker.try_begin_probe(ProbeTrigger::SlowRequest, now + ms(1)));
        breaker.record_success(now + ms(2));
        assert!(breaker.on_probe_result(down_with(Cause::Unreachable), now + ms(1500)).is_none());
        assert!(breaker.outage().is_none());
        // Earlier successes do not count.
        assert!(breaker.try_begin_probe(ProbeTrigger::FailedRequest, now + ms(2500)));
        assert!(breaker.on_probe_result(down_with(Cause::Unreachable), now + ms(4000)).is_some());
    }

    #[test]
    fn breaker_reports_each_transition_once() {
        let now = Instant::now();
        let mut breaker = open_breaker(now);
        assert!(
            !breaker.try_begin_probe(ProbeTrigger::FailedRequest, now + ms(5000)),
            "an open breaker is probed anyway"
        );
        assert!(breaker.on_probe_result(down_with(Cause::ConnectionRefused), now + ms(5000)).is_none());
        assert!(breaker.on_probe_result(down_with(Cause::Sealed), now + ms(6000)).is_none());
        let outage = breaker.outage().unwrap();
        assert_eq!((outage.since, outage.rejection.cause()), (now, Cause::Sealed));
        assert!(
            matches!(breaker.on_probe_result(ProbeResult::Healthy, now + ms(7000)), Some(Transition::CameUp(ended)) if ended.since == now)
        );
        assert!(breaker.outage().is_none() && breaker.next_probe_at().is_none());
    }

    #[test]
    fn outage_rejection_has_cause_message_fix_and_since() {
        let breaker = open_breaker(Instant::now());
        let text = breaker.outage().unwrap().rejection.to_string();
        for part in
            ["Vault is away, known since 2", "probed again automatically", "(it said: its words)", "do something"]
        {
            assert!(text.contains(part), "{part}: {text}");
        }
        assert!(text.ends_with(&format!("[{}]", Cause::ConnectionRefused.id())), "{text}");
    }

    #[test]
    fn breaker_probe_interval_backs_off_from_1s_to_30s() {
        let mut now = Instant::now();
        let mut breaker = open_breaker(now);
        for max_seconds in [1, 2, 4, 8, 16, 30, 30, 30, 30] {
            let next = breaker.next_probe_at().unwrap();
            assert!(
                next - now >= ms(max_seconds * 500) && next - now <= ms(max_seconds * 1000),
                "{:?} of {max_seconds}",
                next - now
            );
            now = next;
            breaker.on_probe_result(down_with(Cause::ConnectionRefused), now);
        }
    }

    #[test]
    fn request_probe_is_limited_to_one_per_second() {
        let mut now = Instant::now();
        let mut breaker = open_breaker(now);
        assert!(!CircuitBreaker::default().request_probe(ms(0), now));
        for _ in 0..10 {
            now = breaker.next_probe_at().unwrap();
            breaker.on_probe_result(down_with(Cause::ConnectionRefused), now);
        }
        assert!(breaker.request_probe(ms(7000), now + ms(5)));
        assert_eq!(breaker.next_probe_at(), Some(now + ms(7000)));
        assert!(breaker.request_probe(ms(0), now + ms(10)));
        assert_eq!(breaker.next_probe_at(), Some(now + INITIAL_PROBE_INTERVAL));
        assert!(!breaker.request_probe(ms(0), now + ms(20)));
        breaker.on_probe_result(down_with(Cause::ConnectionRefused), now + ms(1000));
        assert!(breaker.request_probe(ms(0), now + ms(9000)));
        assert_eq!(breaker.next_probe_at(), Some(now + ms(9000)));
    }

    #[test]
    fn last_contact_with_vault_outranks_not_vault() {
        let (mut breaker, now) = (CircuitBreaker::default(), Instant::now());
        let failed_contact = || LastContact::Failed(Error::new(Cause::ConnectionRefused, "Vault is away"));
        breaker.record_contact(LastContact::NotVault, now, now);
        assert!(matches!(breaker.last_contact(), (LastContact::NotVault, Some(_))));
        breaker.record_contact(LastContact::Vault, now + ms(10), now + ms(10));
        breaker.record_contact(LastContact::NotVault, now + ms(20), now + ms(20));
        breaker.record_contact(LastContact::Unknown, now + ms(20), now + ms(20));
        breaker.record_contact(failed_contact(), now + ms(5), now + ms(30));
        assert!(matches!(breaker.last_contact(), (LastContact::Vault, Some(at)) if *at == now + ms(10)));
        breaker.record_contact(failed_contact(), now + ms(20), now + ms(40));
        assert!(matches!(breaker.last_contact(), (LastContact::Failed(_), Some(at)) if *at == now + ms(40)));
        assert!(breaker.outage().is_none() && breaker.next_probe_at().is_none(), "no request is rejected");
    }

    #[test]
    fn breaker_is_idle_5_minutes_after_last_rejection() {
        let now = Instant::now();
        let mut breaker = open_breaker(now);
        assert!(!breaker.is_idle(now + ms(299_999)) && breaker.is_idle(now + OUTAGE_IDLE_TIMEOUT));
        breaker.record_rejection(now + OUTAGE_IDLE_TIMEOUT);
        assert!(
            !breaker.is_idle(now + OUTAGE_IDLE_TIMEOUT + ms(299_999)) && breaker.is_idle(now + OUTAGE_IDLE_TIMEOUT * 2)
        );
        breaker.reset();
        assert!(breaker.outage().is_none() && breaker.next_probe_at().is_none());
    }

    #[test]
    fn retry_at_is_sooner_near_expiry_with_jitter() {
        let now = Instant::now();
        let delay_until_retry = |remaining: u64| retry_at(Some(now + ms(remaining)), now) - now;
        for _ in 0..100 {
            assert!(delay_until_retry(0) >= MIN_RETRY_DELAY / 2 && delay_until_retry(0) <= MIN_RETRY_DELAY);
            assert!(delay_until_retry(80_000) >= ms(5000) && delay_until_retry(80_000) <= ms(10_000));
            assert!(delay_until_retry(1 << 40) <= MAX_RETRY_DELAY && retry_at(None, now) - now >= MAX_RETRY_DELAY / 2);
        }
        let delays: std::collections::HashSet<Duration> = (0..100).map(|_| delay_until_retry(1 << 40)).collect();
        assert!(delays.len() > 30, "{delays:?}");
    }
}
