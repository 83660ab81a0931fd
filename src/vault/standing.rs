//! Whether a server can be asked: decided from what requests meet, and from what the server then says of itself.
//!
//! No single request decides it: one path may be slow, one engine may fail, one quota may be used up. What a request meets
//! raises a doubt, and a doubt is a question to the server as such (`sys/health`). While it is down it is asked again, more and
//! more seldom. Everything here is a function of the moment it is given, so that many servers' clients can be played through
//! at once.

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;

use crate::{
    clock::{jittered, time_of_day},
    error::Error,
};

/// A server that cannot be asked.
#[derive(Debug)]
pub struct Outage {
    /// Since when that is known.
    pub since: Instant,
    /// Why, as it was found.
    pub found: Error,
    /// The same for those who are turned away meanwhile.
    pub error: Error,
}

/// Why a server should be asked how it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Doubt {
    /// A request has no answer yet, though others have by now.
    Overdue,
    /// A request failed as none should: an answer that blames the server, or none at all.
    Failed,
}

/// What a server's own word comes to.
#[derive(Clone, Debug)]
pub enum Verdict {
    /// It can be asked, as far as anybody can tell.
    Well,
    /// It cannot, and why.
    Down(Error),
}

/// What was last heard of a server, for those who tell of it. Whether anybody asks it hangs on its outage alone.
#[derive(Clone, Debug, Default)]
pub enum Heard {
    /// Nothing yet.
    #[default]
    Nothing,
    /// It answers, though not as Vault does.
    Other,
    /// It cannot be asked, and why.
    Fault(Error),
    /// It answers as Vault does.
    Vault,
}

/// What a verdict changed.
#[derive(Clone, Debug)]
pub enum Change {
    /// From now on nobody asks.
    Down(Arc<Outage>),
    /// Everybody may ask again. What it was.
    Up(Arc<Outage>),
}

/// How one server stands.
#[derive(Debug, Default)]
pub struct Standing {
    outage: Option<Arc<Outage>>,
    /// When a question for a doubt was sent that has no verdict yet.
    asked: Option<Instant>,
    /// When it was last found well.
    well: Option<Instant>,
    /// When any request last had a good answer.
    answered: Option<Instant>,
    /// What was last heard, and when.
    heard: (Heard, Option<Instant>),
    probes: u32,
    probed: Option<Instant>,
    next: Option<Instant>,
    /// When anybody last was turned away.
    used: Option<Instant>,
}

/// How long a request goes without an answer before that is a doubt.
pub const OVERDUE: Duration = Duration::from_millis(400);
/// How long a server has for a connection when it is in doubt, and hardly longer for its word. Together with [`OVERDUE`] less
/// than a poll waits at most.
pub const CHECK: Duration = Duration::from_millis(1400);
/// How long it has while it is down: one that is merely slow must be able to come back.
pub const PROBE: Duration = Duration::from_secs(5);
/// The first pause between two probes of a server that is down, and the longest.
const FIRST_PROBE: Duration = Duration::from_secs(1);
const MAX_PROBE: Duration = Duration::from_secs(30);
/// How long a server that was found well is not asked about failures, and about answers that are late: a busy one must not
/// have more to do for that.
const AFTER_FAILED: Duration = Duration::from_secs(1);
const AFTER_OVERDUE: Duration = Duration::from_secs(10);
/// How long after somebody was turned away it counts as used.
const UNUSED: Duration = Duration::from_secs(300);
/// A question that came to nothing does not stand in the way of the next for longer.
const FORGOTTEN: Duration = Duration::from_secs(10);
/// The shortest and the longest pause before what waits for a server is looked at again.
const MIN_WAIT: Duration = Duration::from_millis(250);
const MAX_WAIT: Duration = Duration::from_secs(120);

impl Standing {
    /// Why it cannot be asked, if that is known.
    #[must_use]
    pub fn outage(&self) -> Option<&Arc<Outage>> {
        self.outage.as_ref()
    }

    /// A request gave rise to a doubt. Whether the server should be asked now: at most one question is under way.
    pub fn doubt(&mut self, doubt: Doubt, now: Instant) -> bool {
        let pause = match doubt {
            Doubt::Overdue => AFTER_OVERDUE,
            Doubt::Failed => AFTER_FAILED,
        };
        let is_asked = self.asked.is_some_and(|at| now < at + FORGOTTEN);
        let was_well = self.well.is_some_and(|at| now < at + pause);
        if self.outage.is_some() || is_asked || was_well {
            return false;
        }
        self.asked = Some(now);
        true
    }

    /// A request had an answer that only a server has which can be asked.
    pub fn answered(&mut self, now: Instant) {
        self.answered = Some(now);
    }

    /// Something was heard of it, of what was asked at that moment: what was heard since counts more. What is none of Vault's says
    /// nothing against one that was heard: what stands before it may answer some requests itself.
    pub fn hear(&mut self, heard: Heard, asked: Instant, now: Instant) {
        let is_old = self.heard.1.is_some_and(|at| at > asked);
        if !is_old && !matches!((&heard, &self.heard.0), (Heard::Nothing, _) | (Heard::Other, Heard::Vault)) {
            self.heard = (heard, Some(now));
        }
    }

    /// What was last heard of it, and when.
    #[must_use]
    pub fn heard(&self) -> &(Heard, Option<Instant>) {
        &self.heard
    }

    /// The verdict on a question for a doubt, or on a probe. A server that answered others meanwhile is not down.
    pub fn judged(&mut self, verdict: Verdict, now: Instant) -> Option<Change> {
        let asked = self.asked.take();
        match (verdict, self.outage.clone()) {
            (Verdict::Well, None) => {
                self.well = Some(now);
                None
            }
            (Verdict::Well, Some(outage)) => {
                *self = Self { well: Some(now), heard: std::mem::take(&mut self.heard), ..Self::default() };
                Some(Change::Up(outage))
            }
            (Verdict::Down(_), None) if self.answered.is_some_and(|at| Some(at) >= asked) => {
                self.well = Some(now);
                None
            }
            (Verdict::Down(found), None) => {
                let outage = Outage::new(found, now);
                self.outage = Some(Arc::clone(&outage));
                self.probed(now);
                Some(Change::Down(outage))
            }
            (Verdict::Down(found), Some(outage)) => {
                // What is unreachable comes back sealed.
                if found.cause() != outage.found.cause() {
                    self.outage = Some(Outage::new(found, outage.since));
                }
                self.probed(now);
                None
            }
        }
    }

    /// When it is to be asked next; none unless it is down.
    #[must_use]
    pub fn next_probe(&self) -> Option<Instant> {
        self.next
    }

    /// Somebody has nothing without it, or has not for longer than some times `within`: it should be asked as soon. Whether
    /// that is sooner than before. However many want it, it is asked once a second at most.
    pub fn wanted(&mut self, within: Duration, now: Instant) -> bool {
        let (Some(probed), Some(next)) = (self.probed, self.next) else { return false };
        let soon = now.max(probed + within.max(FIRST_PROBE));
        self.next = Some(next.min(soon));
        soon < next
    }

    /// Somebody was turned away.
    pub fn used(&mut self, now: Instant) {
        self.used = Some(now);
    }

    /// Whether nobody was turned away for long, so that one in whose place nobody waits need not be probed.
    #[must_use]
    pub fn is_unused(&self, now: Instant) -> bool {
        self.used.or(self.outage.as_ref().map(|outage| outage.since)).is_none_or(|at| now >= at + UNUSED)
    }

    /// Nobody uses it any more: nothing is known of it.
    pub fn forget(&mut self) {
        *self = Self::default();
    }

    fn probed(&mut self, now: Instant) {
        let pause = MAX_PROBE.min(FIRST_PROBE * 2u32.saturating_pow(self.probes.min(16)));
        self.probes = self.probes.saturating_add(1);
        (self.probed, self.next) = (Some(now), Some(now + jittered(pause)));
    }
}

impl Outage {
    fn new(found: Error, since: Instant) -> Arc<Self> {
        let what = format!("{}, known since {} and asked again by itself", found.what(), time_of_day(since));
        let error = Error::new(found.cause(), what).said(found.words().unwrap_or_default());
        let error = match found.next_step() {
            Some(advice) => error.advice(advice),
            None => error,
        };
        Arc::new(Self { since, found, error })
    }
}

/// When to look again after what cannot be asked for now and is over at `end`: the sooner the less time is left, so that the
/// most urgent is asked for first when the server is back; and everything else at times of its own, over up to two minutes.
#[must_use]
pub fn look_again(end: Option<Instant>, now: Instant) -> Instant {
    let left = end.map_or(MAX_WAIT, |end| end.saturating_duration_since(now) / 8);
    now + jittered(left.clamp(MIN_WAIT, MAX_WAIT))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Cause;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    fn down(cause: Cause) -> Verdict {
        Verdict::Down(Error::new(cause, "Vault is away").said("its words").advice("do something"))
    }

    /// One that was found down at a moment.
    fn fallen(now: Instant) -> Standing {
        let mut standing = Standing::default();
        assert!(standing.doubt(Doubt::Failed, now));
        assert!(matches!(standing.judged(down(Cause::Refused), now), Some(Change::Down(_))));
        standing
    }

    #[test]
    fn a_doubt_is_one_question_and_a_good_word_ends_it_for_a_while() {
        let (mut standing, now) = (Standing::default(), Instant::now());
        assert!(standing.doubt(Doubt::Overdue, now));
        assert!(!standing.doubt(Doubt::Failed, now + ms(10)), "it is asked already");
        assert!(standing.judged(Verdict::Well, now + ms(20)).is_none());
        assert!(!standing.doubt(Doubt::Failed, now + ms(1000)));
        assert!(!standing.doubt(Doubt::Overdue, now + ms(10_000)), "a slow server must not have more to do for that");
        assert!(standing.doubt(Doubt::Failed, now + ms(1020)));
    }

    #[test]
    fn a_question_without_a_verdict_does_not_silence_all_others() {
        let (mut standing, now) = (Standing::default(), Instant::now());
        assert!(standing.doubt(Doubt::Failed, now));
        assert!(!standing.doubt(Doubt::Failed, now + ms(9999)));
        assert!(standing.doubt(Doubt::Failed, now + ms(10_000)));
    }

    #[test]
    fn whoever_answers_others_meanwhile_is_not_down() {
        let (mut standing, now) = (Standing::default(), Instant::now());
        standing.answered(now);
        assert!(standing.doubt(Doubt::Overdue, now + ms(1)));
        standing.answered(now + ms(2));
        assert!(standing.judged(down(Cause::Unreachable), now + ms(1500)).is_none());
        assert!(standing.outage().is_none());
        // What was answered before says nothing.
        assert!(standing.doubt(Doubt::Failed, now + ms(2500)));
        assert!(standing.judged(down(Cause::Unreachable), now + ms(4000)).is_some());
    }

    #[test]
    fn it_is_down_once_and_up_once_whatever_is_heard_meanwhile() {
        let now = Instant::now();
        let mut standing = fallen(now);
        assert!(!standing.doubt(Doubt::Failed, now + ms(5000)), "it is probed as it is");
        assert!(standing.judged(down(Cause::Refused), now + ms(5000)).is_none());
        assert!(standing.judged(down(Cause::Sealed), now + ms(6000)).is_none());
        let outage = standing.outage().unwrap();
        assert_eq!((outage.since, outage.error.cause()), (now, Cause::Sealed));
        assert!(matches!(standing.judged(Verdict::Well, now + ms(7000)), Some(Change::Up(was)) if was.since == now));
        assert!(standing.outage().is_none() && standing.next_probe().is_none());
    }

    #[test]
    fn who_is_turned_away_hears_the_cause_the_words_the_advice_and_since_when() {
        let standing = fallen(Instant::now());
        let text = standing.outage().unwrap().error.to_string();
        for part in ["Vault is away, known since 2", "asked again by itself", "(it said: its words)", "do something"] {
            assert!(text.contains(part), "{part}: {text}");
        }
        assert!(text.ends_with(&format!("[{}]", Cause::Refused.id())), "{text}");
    }

    #[test]
    fn probes_come_after_a_second_and_then_more_seldom_up_to_half_a_minute() {
        let mut now = Instant::now();
        let mut standing = fallen(now);
        for most in [1, 2, 4, 8, 16, 30, 30, 30, 30] {
            let next = standing.next_probe().unwrap();
            assert!(next - now >= ms(most * 500) && next - now <= ms(most * 1000), "{:?} of {most}", next - now);
            now = next;
            standing.judged(down(Cause::Refused), now);
        }
    }

    #[test]
    fn who_needs_it_has_it_probed_soon_and_a_crowd_no_oftener_than_once_a_second() {
        let mut now = Instant::now();
        let mut standing = fallen(now);
        assert!(!Standing::default().wanted(ms(0), now));
        for _ in 0..10 {
            now = standing.next_probe().unwrap();
            standing.judged(down(Cause::Refused), now);
        }
        assert!(standing.wanted(ms(7000), now + ms(5)));
        assert_eq!(standing.next_probe(), Some(now + ms(7000)));
        assert!(standing.wanted(ms(0), now + ms(10)));
        assert_eq!(standing.next_probe(), Some(now + FIRST_PROBE));
        assert!(!standing.wanted(ms(0), now + ms(20)));
        standing.judged(down(Cause::Refused), now + ms(1000));
        assert!(standing.wanted(ms(0), now + ms(9000)));
        assert_eq!(standing.next_probe(), Some(now + ms(9000)));
    }

    #[test]
    fn what_was_heard_last_is_told_and_no_foreign_answer_takes_vaults_place() {
        let (mut standing, now) = (Standing::default(), Instant::now());
        let fault = || Heard::Fault(Error::new(Cause::Refused, "Vault is away"));
        standing.hear(Heard::Other, now, now);
        assert!(matches!(standing.heard(), (Heard::Other, Some(_))));
        standing.hear(Heard::Vault, now + ms(10), now + ms(10));
        standing.hear(Heard::Other, now + ms(20), now + ms(20));
        standing.hear(Heard::Nothing, now + ms(20), now + ms(20));
        standing.hear(fault(), now + ms(5), now + ms(30));
        assert!(matches!(standing.heard(), (Heard::Vault, Some(at)) if *at == now + ms(10)));
        standing.hear(fault(), now + ms(20), now + ms(40));
        assert!(matches!(standing.heard(), (Heard::Fault(_), Some(at)) if *at == now + ms(40)));
        assert!(standing.outage().is_none() && standing.next_probe().is_none(), "nobody is turned away for it");
    }

    #[test]
    fn it_is_used_for_a_while_after_somebody_was_turned_away() {
        let now = Instant::now();
        let mut standing = fallen(now);
        assert!(!standing.is_unused(now + ms(299_999)) && standing.is_unused(now + UNUSED));
        standing.used(now + UNUSED);
        assert!(!standing.is_unused(now + UNUSED + ms(299_999)) && standing.is_unused(now + UNUSED * 2));
        standing.forget();
        assert!(standing.outage().is_none() && standing.next_probe().is_none());
    }

    #[test]
    fn what_ends_soon_is_looked_at_sooner_and_nothing_together() {
        let now = Instant::now();
        let pause = |left: u64| look_again(Some(now + ms(left)), now) - now;
        for _ in 0..100 {
            assert!(pause(0) >= MIN_WAIT / 2 && pause(0) <= MIN_WAIT);
            assert!(pause(80_000) >= ms(5000) && pause(80_000) <= ms(10_000));
            assert!(pause(1 << 40) <= MAX_WAIT && look_again(None, now) - now >= MAX_WAIT / 2);
        }
        let pauses: std::collections::HashSet<Duration> = (0..100).map(|_| pause(1 << 40)).collect();
        assert!(pauses.len() > 30, "{pauses:?}");
    }
}
