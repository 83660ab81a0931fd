//! How long Vault lets something live, a lease or a token, and when to ask for more.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use crate::clock::{Epoch, with_jitter};

/// The time of one lease or token. Renewing SETS the time left, so that each renewal asks for the original duration; a shorter
/// grant is the sign that a maximum is near, which Vault does not tell otherwise (measured against OpenBao 2.7).
#[derive(Clone, Debug)]
pub struct Term {
    /// What every renewal asks for: the duration it began with.
    asked: Duration,
    granted: Duration,
    since: Instant,
    ends: Option<Instant>,
    renewable: bool,
    renew_at: Instant,
    failures: u32,
}

/// A term as it is kept across restarts. Times are in milliseconds, moments are told from an [`Origin`].
#[derive(Debug, Serialize, Deserialize)]
pub struct SavedTerm {
    asked: u64,
    granted: u64,
    since: i64,
    ends: Option<i64>,
    renewable: bool,
    renew_at: i64,
    failures: u32,
}

/// What came of a renewal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Granted {
    /// All that was asked for.
    Whole,
    /// Less: its end is near, and no renewal moves it.
    Short,
}

/// The pause after a failed renewal, doubled by each that follows, and the longest.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const MAX_PAUSE: Duration = Duration::from_secs(60);
const DENIED_PAUSE: Duration = Duration::from_secs(300);
/// How much less than asked for is still all of it: Vault counts in whole seconds.
const ROUNDING: Duration = Duration::from_secs(1);

impl Term {
    /// What begins `now` and lasts for `duration`; zero: for ever.
    #[must_use]
    pub fn new(duration: Duration, renewable: bool, now: Instant) -> Self {
        let ends = (!duration.is_zero()).then(|| now + duration);
        let mut term =
            Self { asked: duration, granted: duration, since: now, ends, renewable, renew_at: now, failures: 0 };
        term.renew_at = term.next_renewal();
        term
    }

    /// What a renewal asks for.
    #[must_use]
    pub fn asked(&self) -> Duration {
        self.asked
    }

    /// Its end as things stand; none: it has no end.
    #[must_use]
    pub fn ends(&self) -> Option<Instant> {
        self.ends
    }

    /// The end that no renewal will move, or none has moved lately.
    #[must_use]
    pub fn forced_end(&self) -> Option<Instant> {
        self.ends.filter(|_| !self.renewable || self.failures > 0)
    }

    /// When an end comes near enough to be told: a third of what every renewal asks for is left.
    #[must_use]
    pub fn notice(&self, end: Instant) -> Instant {
        end - self.asked / 3
    }

    /// Whether it can still be renewed.
    #[must_use]
    pub fn is_renewable(&self) -> bool {
        self.renewable && self.ends.is_some()
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
    pub fn is_over(&self, now: Instant) -> bool {
        self.ends.is_some_and(|end| now >= end)
    }

    /// Whether nine tenths of the time granted have passed: too little to begin something with.
    #[must_use]
    pub fn is_old(&self, now: Instant) -> bool {
        self.ends.is_some() && now.saturating_duration_since(self.since) >= self.granted * 9 / 10
    }

    /// Whether its end is so near that its successor must be on its way: a fifth of the time last granted before it, or three
    /// pauses between polls, as a successor reaches the pod in a poll alone and one or two may fail; at most two thirds of the
    /// time it began with. While renewals fail, which may pass, it is half of that, and less than what a renewal leaves.
    #[must_use]
    pub fn is_near_end(&self, end: Option<Instant>, gap: Option<Duration>, now: Instant) -> bool {
        let margin = (self.granted / 5).max(gap.unwrap_or_default() * 3).min(self.asked * 2 / 3);
        let margin = if self.is_renewable() && self.failures > 0 { (margin / 2).min(self.asked / 4) } else { margin };
        end.is_some_and(|end| now + margin >= end)
    }

    /// A renewal that was sent at `now` brought this much.
    pub fn renewed(&mut self, duration: Duration, renewable: bool, now: Instant) -> Granted {
        let short = duration + ROUNDING.min(self.asked / 10) < self.asked;
        (self.granted, self.since, self.failures) = (duration, now, 0);
        self.ends = Some(now + duration);
        self.renewable = renewable && !short;
        self.renew_at = self.next_renewal();
        if short { Granted::Short } else { Granted::Whole }
    }

    /// A renewal failed at `now`. What was granted before stands. One that a policy denies passes only when somebody changes
    /// that, and is tried less often.
    pub fn failed(&mut self, now: Instant, denied: bool) {
        // Several attempts fit before an end that is near.
        let left = self.ends.map_or(MAX_PAUSE, |end| end.saturating_duration_since(now));
        let most = if denied { DENIED_PAUSE } else { MAX_PAUSE };
        let longest = most.min((left / 8).max(FIRST_PAUSE));
        let pause = with_jitter(longest.min(FIRST_PAUSE * 2u32.saturating_pow(self.failures.min(16))));
        self.failures = self.failures.saturating_add(1);
        self.renew_at = now + pause;
    }

    /// Vault says that it cannot be renewed.
    pub fn cannot_be_renewed(&mut self) {
        (self.renewable, self.failures) = (false, 0);
    }

    /// What is kept of it across restarts.
    #[must_use]
    pub fn save(&self, origin: Epoch) -> SavedTerm {
        let milliseconds = |span: Duration| u64::try_from(span.as_millis()).unwrap_or(u64::MAX);
        SavedTerm {
            asked: milliseconds(self.asked),
            granted: milliseconds(self.granted),
            since: origin.to_millis(self.since),
            ends: self.ends.map(|end| origin.to_millis(end)),
            renewable: self.renewable,
            renew_at: origin.to_millis(self.renew_at),
            failures: self.failures,
        }
    }

    fn next_renewal(&self) -> Instant {
        // Between eleven eighteenths and two thirds of the time granted.
        let latest = self.granted * 2 / 3;
        self.since + latest * 5 / 6 + with_jitter(latest / 6)
    }
}

impl SavedTerm {
    /// The term it was.
    #[must_use]
    pub fn restore(&self, origin: Epoch) -> Term {
        Term {
            asked: Duration::from_millis(self.asked),
            granted: Duration::from_millis(self.granted),
            since: origin.instant_at(self.since),
            ends: self.ends.map(|end| origin.instant_at(end)),
            renewable: self.renewable,
            renew_at: origin.instant_at(self.renew_at),
            failures: self.failures,
        }
    }

    /// Its end as things stood.
    #[must_use]
    pub fn ends(&self, origin: Epoch) -> Option<Instant> {
        self.ends.map(|end| origin.instant_at(end))
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
    fn renewals_come_before_two_thirds_and_ask_for_the_original() {
        let now = Instant::now();
        for _ in 0..100 {
            let mut term = Term::new(HOUR, true, now);
            let at = term.renew_at() - now;
            assert!(at <= HOUR * 2 / 3 && at >= HOUR / 2, "{at:?}");
            assert_eq!(term.forced_end(), None);
            let later = term.renew_at();
            assert_eq!(term.renewed(HOUR, true, later), Granted::Whole);
            assert_eq!((term.ends(), term.asked()), (Some(later + HOUR), HOUR));
        }
    }

    #[test]
    fn a_shorter_grant_is_the_maximum_and_a_second_less_is_not() {
        let now = Instant::now();
        let mut term = Term::new(HOUR, true, now);
        assert_eq!(term.renewed(seconds(3599), true, now), Granted::Whole);
        assert_eq!(term.renewed(seconds(1300), true, now), Granted::Short);
        assert_eq!((term.forced_end(), term.is_renewable()), (Some(now + seconds(1300)), false));
        let mut short = Term::new(seconds(5), true, now);
        assert_eq!(short.renewed(seconds(4), true, now), Granted::Short);
    }

    #[test]
    fn failures_back_off_and_leave_the_end_where_it_was() {
        let now = Instant::now();
        let mut term = Term::new(HOUR, true, now);
        let mut last = Duration::ZERO;
        for n in 1..=50u32 {
            term.failed(now, false);
            let pause = term.renew_at() - now;
            assert!(pause <= MAX_PAUSE && (n > 6 || pause >= last / 2), "{n}: {pause:?}");
            last = pause;
        }
        assert_eq!((term.ends(), term.forced_end(), term.failures()), (Some(now + HOUR), Some(now + HOUR), 50));
        term.renewed(HOUR, true, now);
        assert_eq!((term.forced_end(), term.is_failing()), (None, false));
    }

    #[test]
    fn what_has_no_end_is_never_old_nor_renewed() {
        let now = Instant::now();
        let term = Term::new(Duration::ZERO, true, now);
        let later = now + HOUR * 1000;
        assert!(!term.is_renewable() && !term.is_old(later) && !term.is_over(later) && term.forced_end().is_none());
    }

    #[test]
    fn a_grant_of_nothing_is_over_at_once() {
        let now = Instant::now();
        let mut term = Term::new(HOUR, true, now);
        assert_eq!(term.renewed(Duration::ZERO, true, now), Granted::Short);
        assert!(term.is_over(now));
    }

    #[test]
    fn an_end_is_near_a_fifth_or_three_polls_before() {
        let start = Instant::now();
        let term = Term::new(seconds(900), true, start);
        let mut failing = term.clone();
        failing.failed(start, false);
        for (gap, margin, while_failing) in
            [(None, 180, 90), (Some(30), 180, 90), (Some(100), 300, 150), (Some(1000), 600, 225)]
        {
            let gap = gap.map(seconds);
            for (term, margin) in [(&term, margin), (&failing, while_failing)] {
                assert!(!term.is_near_end(term.ends(), gap, start + seconds(900 - margin - 1)), "{gap:?}");
                assert!(term.is_near_end(term.ends(), gap, start + seconds(900 - margin)), "{gap:?}");
            }
        }
        assert!(!term.is_near_end(None, None, start + HOUR));
    }
}
