//! How long Vault lets something live, a lease or a token, and when to ask for more.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use crate::clock::{Epoch, with_jitter};

/// The time of one lease or token. Renewing SETS the time left, so that each renewal asks for the original duration; a shorter
/// grant is the sign that a maximum is near, which Vault does not tell otherwise (measured against OpenBao 2.7).
#[derive(Clone, Debug)]
pub struct Lifetime {
    /// What every renewal asks for: the duration it began with.
    requested_ttl: Duration,
    granted_ttl: Duration,
    granted_at: Instant,
    expires_at: Option<Instant>,
    renewable: bool,
    renew_at: Instant,
    failures: u32,
}

/// A term as it is kept across restarts. Times are in milliseconds, moments are told from an [`Origin`].
#[derive(Debug, Serialize, Deserialize)]
pub struct SavedLifetime {
    requested_ttl_ms: u64,
    granted_ttl_ms: u64,
    granted_at: i64,
    expires_at: Option<i64>,
    renewable: bool,
    renew_at: i64,
    failures: u32,
}

/// What came of a renewal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GrantKind {
    /// All that was asked for.
    Full,
    /// Less: its end is near, and no renewal moves it.
    Capped,
}

/// The pause after a failed renewal, doubled by each that follows, and the longest.
const INITIAL_RENEWAL_BACKOFF: Duration = Duration::from_secs(1);
const MAX_RENEWAL_BACKOFF: Duration = Duration::from_secs(60);
const DENIED_RENEWAL_BACKOFF: Duration = Duration::from_secs(300);
/// How much less than asked for is still all of it: Vault counts in whole seconds.
const TTL_ROUNDING_TOLERANCE: Duration = Duration::from_secs(1);

impl Lifetime {
    /// What begins `now` and lasts for `duration`; zero: for ever.
    #[must_use]
    pub fn new(ttl: Duration, renewable: bool, starts_at: Instant) -> Self {
        let expires_at = (!ttl.is_zero()).then(|| starts_at + ttl);
        let mut lifetime = Self {
            requested_ttl: ttl,
            granted_ttl: ttl,
            granted_at: starts_at,
            expires_at,
            renewable,
            renew_at: starts_at,
            failures: 0,
        };
        lifetime.renew_at = lifetime.next_renew_at();
        lifetime
    }

    /// What a renewal asks for.
    #[must_use]
    pub fn requested_ttl(&self) -> Duration {
        self.requested_ttl
    }

    /// Its end as things stand; none: it has no end.
    #[must_use]
    pub fn expires_at(&self) -> Option<Instant> {
        self.expires_at
    }

    /// The end that no renewal will move, or none has moved lately.
    #[must_use]
    pub fn max_expires_at(&self) -> Option<Instant> {
        self.expires_at.filter(|_| !self.renewable || self.failures > 0)
    }

    /// When an end comes near enough to be told: a third of what every renewal asks for is left.
    #[must_use]
    pub fn warn_at(&self, expiry: Instant) -> Instant {
        expiry - self.requested_ttl / 3
    }

    /// Whether it can still be renewed.
    #[must_use]
    pub fn is_renewable(&self) -> bool {
        self.renewable && self.expires_at.is_some()
    }

    /// When the next renewal is due: when two thirds of what was left have passed, or somewhat before, so that what began
    /// together is not renewed together; after a failure, sooner. For what cannot be renewed, when two thirds have passed.
    #[must_use]
    pub fn renew_at(&self) -> Instant {
        self.renew_at
    }

    /// Whether the last renewal failed.
    #[must_use]
    pub fn is_failing(&self) -> bool {
        self.failures > 0
    }

    /// How many renewals have failed since the last that did not.
    #[must_use]
    pub fn failures(&self) -> u32 {
        self.failures
    }

    /// Whether its end has come.
    #[must_use]
    pub fn is_expired(&self, now: Instant) -> bool {
        self.expires_at.is_some_and(|end| now >= end)
    }

    /// Whether nine tenths of the time granted have passed: too little to begin something with.
    #[must_use]
    pub fn is_nearly_expired(&self, now: Instant) -> bool {
        self.expires_at.is_some() && now.saturating_duration_since(self.granted_at) >= self.granted_ttl * 9 / 10
    }

    /// Whether its end is so near that its successor must be on its way: a fifth of the time last granted before it, or three
    /// pauses between polls, as a successor reaches the pod in a poll alone and one or two may fail; at most two thirds of the
    /// time it began with. While renewals fail, which may pass, it is half of that, and less than what a renewal leaves.
    #[must_use]
    pub fn needs_replacement(&self, expiry: Option<Instant>, poll_interval: Option<Duration>, now: Instant) -> bool {
        let margin = (self.granted_ttl / 5).max(poll_interval.unwrap_or_default() * 3).min(self.requested_ttl * 2 / 3);
        let margin =
            if self.is_renewable() && self.failures > 0 { (margin / 2).min(self.requested_ttl / 4) } else { margin };
        expiry.is_some_and(|end| now + margin >= end)
    }

    /// A renewal that was sent at `now` brought this much.
    pub fn apply_renewal(&mut self, ttl: Duration, renewable: bool, sent_at: Instant) -> GrantKind {
        let is_capped = ttl + TTL_ROUNDING_TOLERANCE.min(self.requested_ttl / 10) < self.requested_ttl;
        (self.granted_ttl, self.granted_at, self.failures) = (ttl, sent_at, 0);
        self.expires_at = Some(sent_at + ttl);
        self.renewable = renewable && !is_capped;
        self.renew_at = self.next_renew_at();
        if is_capped { GrantKind::Capped } else { GrantKind::Full }
    }

    /// A renewal failed at `now`. What was granted before stands. One that a policy denies passes only when somebody changes
    /// that, and is tried less often.
    pub fn record_failure(&mut self, now: Instant, denied: bool) {
        // Several attempts fit before an end that is near.
        let remaining = self.expires_at.map_or(MAX_RENEWAL_BACKOFF, |end| end.saturating_duration_since(now));
        let max_backoff = if denied { DENIED_RENEWAL_BACKOFF } else { MAX_RENEWAL_BACKOFF };
        let max_delay = max_backoff.min((remaining / 8).max(INITIAL_RENEWAL_BACKOFF));
        let delay = with_jitter(max_delay.min(INITIAL_RENEWAL_BACKOFF * 2u32.saturating_pow(self.failures.min(16))));
        self.failures = self.failures.saturating_add(1);
        self.renew_at = now + delay;
    }

    /// Vault says that it cannot be renewed.
    pub fn disable_renewal(&mut self) {
        (self.renewable, self.failures) = (false, 0);
    }

    /// What is kept of it across restarts.
    #[must_use]
    pub fn to_saved(&self, epoch: Epoch) -> SavedLifetime {
        let milliseconds = |span: Duration| u64::try_from(span.as_millis()).unwrap_or(u64::MAX);
        SavedLifetime {
            requested_ttl_ms: milliseconds(self.requested_ttl),
            granted_ttl_ms: milliseconds(self.granted_ttl),
            granted_at: epoch.to_millis(self.granted_at),
            expires_at: self.expires_at.map(|end| epoch.to_millis(end)),
            renewable: self.renewable,
            renew_at: epoch.to_millis(self.renew_at),
            failures: self.failures,
        }
    }

    fn next_renew_at(&self) -> Instant {
        // Between eleven eighteenths and two thirds of the time granted.
        let latest = self.granted_ttl * 2 / 3;
        self.granted_at + latest * 5 / 6 + with_jitter(latest / 6)
    }
}

impl SavedLifetime {
    /// The term it was.
    #[must_use]
    pub fn restore(&self, epoch: Epoch) -> Lifetime {
        Lifetime {
            requested_ttl: Duration::from_millis(self.requested_ttl_ms),
            granted_ttl: Duration::from_millis(self.granted_ttl_ms),
            granted_at: epoch.instant_at(self.granted_at),
            expires_at: self.expires_at.map(|end| epoch.instant_at(end)),
            renewable: self.renewable,
            renew_at: epoch.instant_at(self.renew_at),
            failures: self.failures,
        }
    }

    /// Its end as things stood.
    #[must_use]
    pub fn expires_at(&self, epoch: Epoch) -> Option<Instant> {
        self.expires_at.map(|end| epoch.instant_at(end))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    fn seconds(s: u64) -> Duration {
        Duration::from_secs(s)
    }

    #[test]
    fn renewal_due_by_two_thirds_of_ttl_requests_original_ttl() {
        let now = Instant::now();
        for _ in 0..100 {
            let mut lifetime = Lifetime::new(HOUR, true, now);
            let at = lifetime.renew_at() - now;
            assert!(at <= HOUR * 2 / 3 && at >= HOUR / 2, "{at:?}");
            assert_eq!(lifetime.max_expires_at(), None);
            let later = lifetime.renew_at();
            assert_eq!(lifetime.apply_renewal(HOUR, true, later), GrantKind::Full);
            assert_eq!((lifetime.expires_at(), lifetime.requested_ttl()), (Some(later + HOUR), HOUR));
        }
    }

    #[test]
    fn renewal_with_shorter_ttl_is_capped_unless_by_rounding() {
        let now = Instant::now();
        let mut lifetime = Lifetime::new(HOUR, true, now);
        assert_eq!(lifetime.apply_renewal(seconds(3599), true, now), GrantKind::Full);
        assert_eq!(lifetime.apply_renewal(seconds(1300), true, now), GrantKind::Capped);
        assert_eq!((lifetime.max_expires_at(), lifetime.is_renewable()), (Some(now + seconds(1300)), false));
        let mut short = Lifetime::new(seconds(5), true, now);
        assert_eq!(short.apply_renewal(seconds(4), true, now), GrantKind::Capped);
    }

    #[test]
    fn renewal_failures_back_off_and_keep_expiry() {
        let now = Instant::now();
        let mut lifetime = Lifetime::new(HOUR, true, now);
        let mut last = Duration::ZERO;
        for n in 1..=50u32 {
            lifetime.record_failure(now, false);
            let delay = lifetime.renew_at() - now;
            assert!(delay <= MAX_RENEWAL_BACKOFF && (n > 6 || delay >= last / 2), "{n}: {delay:?}");
            last = delay;
        }
        assert_eq!(
            (lifetime.expires_at(), lifetime.max_expires_at(), lifetime.failures()),
            (Some(now + HOUR), Some(now + HOUR), 50)
        );
        lifetime.apply_renewal(HOUR, true, now);
        assert_eq!((lifetime.max_expires_at(), lifetime.is_failing()), (None, false));
    }

    #[test]
    fn lifetime_without_ttl_never_expires_nor_renews() {
        let now = Instant::now();
        let lifetime = Lifetime::new(Duration::ZERO, true, now);
        let later = now + HOUR * 1000;
        assert!(
            !lifetime.is_renewable()
                && !lifetime.is_nearly_expired(later)
                && !lifetime.is_expired(later)
                && lifetime.max_expires_at().is_none()
        );
    }

    #[test]
    fn renewal_granting_zero_ttl_expires_immediately() {
        let now = Instant::now();
        let mut lifetime = Lifetime::new(HOUR, true, now);
        assert_eq!(lifetime.apply_renewal(Duration::ZERO, true, now), GrantKind::Capped);
        assert!(lifetime.is_expired(now));
    }

    #[test]
    fn replacement_is_needed_a_fifth_of_ttl_or_three_polls_early() {
        let start = Instant::now();
        let lifetime = Lifetime::new(seconds(900), true, start);
        let mut failing = lifetime.clone();
        failing.record_failure(start, false);
        for (poll_interval, margin, while_failing) in
            [(None, 180, 90), (Some(30), 180, 90), (Some(100), 300, 150), (Some(1000), 600, 225)]
        {
            let poll_interval = poll_interval.map(seconds);
            for (lifetime, margin) in [(&lifetime, margin), (&failing, while_failing)] {
                assert!(
                    !lifetime.needs_replacement(
                        lifetime.expires_at(),
                        poll_interval,
                        start + seconds(900 - margin - 1)
                    ),
                    "{poll_interval:?}"
                );
                assert!(
                    lifetime.needs_replacement(lifetime.expires_at(), poll_interval, start + seconds(900 - margin)),
                    "{poll_interval:?}"
                );
            }
        }
        assert!(!lifetime.needs_replacement(None, None, start + HOUR));
    }
}
