//! Whether a server can be asked: decided from what requests meet, and from what the server then says of itself.
//!
//! No single request decides it: one path may be slow, one engine may fail, one quota may be used up. What a request meets
//! raises a doubt, and a doubt is a question to the server as such (`sys/health`). While it is down it is asked again, more and
//! more seldom. Everything here is a function of the moment it is given, so that many servers' clients can be played through
//! at once.

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;

use crate::{
    clock::{time_of_day, with_jitter},
    error::Error,
};

/// A server that cannot be asked.
#[derive(Debug)]
pub struct Outage {
    /// Since when that is known.
    pub since: Instant,
    /// Why, as it was found.
    pub reason: Error,
    /// The same for those who are turned away meanwhile.
    pub rejection: Error,
}

/// Why a server should be asked how it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProbeTrigger {
    /// A request has no answer yet, though others have by now.
    SlowRequest,
    /// A request failed as none should: an answer that blames the server, or none at all.
    FailedRequest,
}

/// What a server's own word comes to.
#[derive(Clone, Debug)]
pub enum ProbeResult {
    /// It can be asked, as far as anybody can tell.
    Healthy,
    /// It cannot, and why.
    Down(Error),
}

/// What was last heard of a server, for those who tell of it. Whether anybody asks it hangs on its outage alone.
#[derive(Clone, Debug, Default)]
pub enum LastContact {
    /// Nothing yet.
    #[default]
    Unknown,
    /// It answers, though not as Vault does.
    NotVault,
    /// It cannot be asked, and why.
    Failed(Error),
    /// It answers as Vault does.
    Vault,
}

/// What a verdict changed.
#[derive(Clone, Debug)]
pub enum Transition {
    /// From now on nobody asks.
    WentDown(Arc<Outage>),
    /// Everybody may ask again. What it was.
    CameUp(Arc<Outage>),
}

/// How one server stands.
#[derive(Debug, Default)]
pub struct CircuitBreaker {
    outage: Option<Arc<Outage>>,
    /// When a question for a doubt was sent that has no verdict yet.
    probe_sent_at: Option<Instant>,
    /// When it was last found well.
    healthy_at: Option<Instant>,
    /// When any request last had a good answer.
    last_success_at: Option<Instant>,
    /// What was last heard, and when.
    last_contact: (LastContact, Option<Instant>),
    probe_count: u32,
    last_probe_at: Option<Instant>,
    next_probe_at: Option<Instant>,
    /// When anybody last was turned away.
    last_rejection_at: Option<Instant>,
}

/// How long a request goes without an answer before that is a doubt.
pub const SLOW_REQUEST_THRESHOLD: Duration = Duration::from_millis(400);
/// How long a server has for a connection when it is in doubt, and hardly longer for its word. Together with [`OVERDUE`] less
/// than a poll waits at most.
pub const PROBE_TIMEOUT: Duration = Duration::from_millis(1400);
/// How long it has while it is down: one that is merely slow must be able to come back.
pub const DOWN_PROBE_TIMEOUT: Duration = Duration::from_secs(5);
/// The first pause between two probes of a server that is down, and the longest.
const INITIAL_PROBE_INTERVAL: Duration = Duration::from_secs(1);
const MAX_PROBE_INTERVAL: Duration = Duration::from_secs(30);
/// How long a server that was found well is not asked about failures, and about answers that are late: a busy one must not
/// have more to do for that.
const PROBE_COOLDOWN_AFTER_FAILURE: Duration = Duration::from_secs(1);
const PROBE_COOLDOWN_AFTER_SLOW: Duration = Duration::from_secs(10);
/// How long after somebody was turned away it counts as used.
const OUTAGE_IDLE_TIMEOUT: Duration = Duration::from_secs(300);
/// A question that came to nothing does not stand in the way of the next for longer.
const PENDING_PROBE_TTL: Duration = Duration::from_secs(10);
/// The shortest and the longest pause before what waits for a server is looked at again.
const MIN_RETRY_DELAY: Duration = Duration::from_millis(250);
const MAX_RETRY_DELAY: Duration = Duration::from_secs(120);

impl CircuitBreaker {
    /// Why it cannot be asked, if that is known.
    #[must_use]
    pub fn outage(&self) -> Option<&Arc<Outage>> {
        self.outage.as_ref()
    }

    /// A request gave rise to a doubt. Whether the server should be asked now: at most one question is under way.
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

    /// A request had an answer that only a server has which can be asked.
    pub fn record_success(&mut self, now: Instant) {
        self.last_success_at = Some(now);
    }

    /// Something was heard of it, of what was asked at that moment: what was heard since counts more. What is none of Vault's says
    /// nothing against one that was heard: what stands before it may answer some requests itself.
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

    /// What was last heard of it, and when.
    #[must_use]
    pub fn last_contact(&self) -> &(LastContact, Option<Instant>) {
        &self.last_contact
    }

    /// The verdict on a question for a doubt, or on a probe. A server that answered others meanwhile is not down.
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
                // What is unreachable comes back sealed.
                if reason.cause() != outage.reason.cause() {
                    self.outage = Some(Outage::new(reason, outage.since));
                }
                self.schedule_next_probe(now);
                None
            }
        }
    }

    /// When it is to be asked next; none unless it is down.
    #[must_use]
    pub fn next_probe_at(&self) -> Option<Instant> {
        self.next_probe_at
    }

    /// Somebody has nothing without it, or has not for longer than some times `within`: it should be asked as soon. Whether
    /// that is sooner than before. However many want it, it is asked once a second at most.
    pub fn request_probe(&mut self, within: Duration, now: Instant) -> bool {
        let (Some(last_probe_at), Some(next_probe_at)) = (self.last_probe_at, self.next_probe_at) else { return false };
        let requested_at = now.max(last_probe_at + within.max(INITIAL_PROBE_INTERVAL));
        self.next_probe_at = Some(next_probe_at.min(requested_at));
        requested_at < next_probe_at
    }

    /// Somebody was turned away.
    pub fn record_rejection(&mut self, now: Instant) {
        self.last_rejection_at = Some(now);
    }

    /// Whether nobody was turned away for long, so that one in whose place nobody waits need not be probed.
    #[must_use]
    pub fn is_idle(&self, now: Instant) -> bool {
        self.last_rejection_at
            .or(self.outage.as_ref().map(|outage| outage.since))
            .is_none_or(|at| now >= at + OUTAGE_IDLE_TIMEOUT)
    }

    /// Nobody uses it any more: nothing is known of it.
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
        let summary = format!("{}, known since {} and asked again by itself", reason.summary(), time_of_day(since));
        let rejection =
            Error::new(reason.cause(), summary).with_server_message(reason.server_message().unwrap_or_default());
        let rejection = match reason.fix() {
            Some(fix) => rejection.with_fix(fix),
            None => rejection,
        };
        Arc::new(Self { since, reason: reason, rejection: rejection })
    }
}

/// When to look again after what cannot be asked for now and is over at `end`: the sooner the less time is left, so that the
/// most urgent is asked for first when the server is back; and everything else at times of its own, over up to two minutes.
#[must_use]
pub fn retry_at(expires_at: Option<Instant>, now: Instant) -> Instant {
    let delay = expires_at.map_or(MAX_RETRY_DELAY, |end| end.saturating_duration_since(now) / 8);
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

    /// One that was found down at a moment.
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
        assert!(!breaker.try_begin_probe(ProbeTrigger::FailedRequest, now + ms(10)), "it is asked already");
        assert!(breaker.on_probe_result(ProbeResult::Healthy, now + ms(20)).is_none());
        assert!(!breaker.try_begin_probe(ProbeTrigger::FailedRequest, now + ms(1000)));
        assert!(
            !breaker.try_begin_probe(ProbeTrigger::SlowRequest, now + ms(10_000)),
            "a slow server must not have more to do for that"
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
        // What was answered before says nothing.
        assert!(breaker.try_begin_probe(ProbeTrigger::FailedRequest, now + ms(2500)));
        assert!(breaker.on_probe_result(down_with(Cause::Unreachable), now + ms(4000)).is_some());
    }

    #[test]
    fn breaker_reports_each_transition_once() {
        let now = Instant::now();
        let mut breaker = open_breaker(now);
        assert!(!breaker.try_begin_probe(ProbeTrigger::FailedRequest, now + ms(5000)), "it is probed as it is");
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
        for part in ["Vault is away, known since 2", "asked again by itself", "(it said: its words)", "do something"] {
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
        assert!(breaker.outage().is_none() && breaker.next_probe_at().is_none(), "nobody is turned away for it");
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
