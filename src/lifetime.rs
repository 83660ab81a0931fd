//! Lifetimes of leases and tokens: TTL, expiry and next renewal.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use crate::clock::{Epoch, with_jitter};

/// Lifetime of one lease or token.
///
/// A renewal sets the remaining TTL instead of adding to it, so each renewal requests the original duration. A shorter
/// grant shows that the max TTL is near. Vault does not report the max TTL otherwise (measured against OpenBao 2.7).
#[derive(Clone, Debug)]
pub struct Lifetime {
    /// Original TTL, which every renewal requests.
    requested_ttl: Duration,
    granted_ttl: Duration,
    granted_at: Instant,
    expires_at: Option<Instant>,
    renewable: bool,
    renew_at: Instant,
    failures: u32,
}

/// Lifetime in the encrypted state. Durations are in milliseconds, and times are milliseconds relative to an [`Epoch`].
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

/// Result of a renewal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GrantKind {
    /// Full TTL, as requested.
    Full,
    /// Shorter TTL than requested: the max TTL is near, and further renewals do not extend the lifetime.
    Capped,
}

/// Delay after the first failed renewal. It doubles with each further failure, up to [`MAX_RENEWAL_BACKOFF`].
const INITIAL_RENEWAL_BACKOFF: Duration = Duration::from_secs(1);
const MAX_RENEWAL_BACKOFF: Duration = Duration::from_secs(60);
const DENIED_RENEWAL_BACKOFF: Duration = Duration::from_secs(300);
/// Tolerance below the requested TTL that still counts as a full grant, because Vault counts in whole seconds.
const TTL_ROUNDING_TOLERANCE: Duration = Duration::from_secs(1);

impl Lifetime {
    /// Creates a lifetime from `starts_at` for `ttl`. A zero TTL means that the lifetime never expires.
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

    /// Returns the TTL that every renewal requests.
    #[must_use]
    pub fn requested_ttl(&self) -> Duration {
        self.requested_ttl
    }

    /// Returns the current expiry; `None` if the lifetime never expires.
    #[must_use]
    pub fn expires_at(&self) -> Option<Instant> {
        self.expires_at
    }

    /// Returns the expiry if renewal is impossible or the last renewal failed.
    #[must_use]
    pub fn max_expires_at(&self) -> Option<Instant> {
        self.expires_at.filter(|_| !self.renewable || self.failures > 0)
    }

    /// Returns the time of the expiry warning, when a third of the requested TTL is left before `expiry`.
    #[must_use]
    pub fn warn_at(&self, expiry: Instant) -> Instant {
        expiry - self.requested_ttl / 3
    }

    /// Returns `true` if renewal is still possible.
    #[must_use]
    pub fn is_renewable(&self) -> bool {
        self.renewable && self.expires_at.is_some()
    }

    /// Returns the time of the next renewal: after two thirds of the granted TTL, or slightly earlier (jitter). Jitter
    /// separates renewals of secrets that were created together. After a failure the renewal is sooner. For a lifetime
    /// that is not renewable, this is the same point in the TTL.
    #[must_use]
    pub fn renew_at(&self) -> Instant {
        self.renew_at
    }

    /// Returns `true` if the last renewal failed.
    #[must_use]
    pub fn is_failing(&self) -> bool {
        self.failures > 0
    }

    /// Returns the number of failed renewals since the last success.
    #[must_use]
    pub fn failures(&self) -> u32 {
        self.failures
    }

    /// Returns `true` if the lifetime has expired.
    #[must_use]
    pub fn is_expired(&self, now: Instant) -> bool {
        self.expires_at.is_some_and(|end| now >= end)
    }

    /// Returns `true` if nine tenths of the granted TTL have passed. The rest is too short to start new work.
    #[must_use]
    pub fn is_nearly_expired(&self, now: Instant) -> bool {
        self.expires_at.is_some() && now.saturating_duration_since(self.granted_at) >= self.granted_ttl * 9 / 10
    }

    /// Returns `true` if `expiry` is so near that a replacement must be fetched.
    ///
    /// The margin before the expiry is the larger of these values, but at most two thirds of the original TTL:
    /// - a fifth of the last granted TTL
    /// - three poll intervals, because only a poll delivers the replacement, and one or two polls may fail
    ///
    /// While renewals fail, which may be transient, the margin is halved and at most a quarter of the original TTL.
    /// This is less than the time that a due renewal leaves.
    #[must_use]
    pub fn needs_replacement(&self, expiry: Option<Instant>, poll_interval: Option<Duration>, now: Instant) -> bool {
        let margin = (self.granted_ttl / 5).max(poll_interval.unwrap_or_default() * 3).min(self.requested_ttl * 2 / 3);
        let margin =
            if self.is_renewable() && self.failures > 0 { (margin / 2).min(self.requested_ttl / 4) } else { margin };
        expiry.is_some_and(|end| now + margin >= end)
    }

    /// Applies a renewal that was sent at `sent_at` and granted `ttl`.
    pub fn apply_renewal(&mut self, ttl: Duration, renewable: bool, sent_at: Instant) -> GrantKind {
        let is_capped = ttl + TTL_ROUNDING_TOLERANCE.min(self.requested_ttl / 10) < self.requested_ttl;
        (self.granted_ttl, self.granted_at, self.failures) = (ttl, sent_at, 0);
        self.expires_at = Some(sent_at + ttl);
        self.renewable = renewable && !is_capped;
        self.renew_at = self.next_renew_at();
        if is_capped { GrantKind::Capped } else { GrantKind::Full }
    }

    /// Records a failed renewal at `now`. The expiry does not change. A renewal that a policy denies is retried less
    /// often, because it succeeds only after a policy change.
    pub fn record_failure(&mut self, now: Instant, denied: bool) {
        // Leave time for several attempts before a near expiry.
        let remaining = self.expires_at.map_or(MAX_RENEWAL_BACKOFF, |end| end.saturating_duration_since(now));
        let max_backoff = if denied { DENIED_RENEWAL_BACKOFF } else { MAX_RENEWAL_BACKOFF };
        let max_delay = max_backoff.min((remaining / 8).max(INITIAL_RENEWAL_BACKOFF));
        let delay = with_jitter(max_delay.min(INITIAL_RENEWAL_BACKOFF * 2u32.saturating_pow(self.failures.min(16))));
        self.failures = self.failures.saturating_add(1);
        self.renew_at = now + delay;
    }

    /// Disables renewal, because Vault does not allow it.
    pub fn disable_renewal(&mut self) {
        (self.renewable, self.failures) = (false, 0);
    }

    /// Returns the saved form of the lifetime.
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
        // Between eleven eighteenths and two thirds of the granted TTL.
        let latest = self.granted_ttl * 2 / 3;
        self.granted_at + latest * 5 / 6 + with_jitter(latest / 6)
    }
}

impl SavedLifetime {
    /// Restores the lifetime.
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

    /// Returns the saved expiry; `None` if the lifetime never expires.
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
