//! Time: what lives is measured by [`now`]; deadlines of callers and jittered delays.

use std::{
    hash::{BuildHasher, Hasher, RandomState},
    sync::OnceLock,
    time::Duration,
};

use jiff::Timestamp;
use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

/// The longest sleep at once, so that the time a suspended machine lost is noticed soon.
const NAP: Duration = Duration::from_secs(30);

/// Now, for everything whose end Vault decides. Setting the machine's clock changes nothing; the time it was suspended counts,
/// as Vault's clock went on meanwhile. Compare only with other values of this function.
#[must_use]
pub fn now() -> Instant {
    Instant::now() + asleep()
}

/// A moment that another process can date: as long as the machine is up by the time since it booted, which no setting of its
/// clock moves and which counts the time it was suspended; after that by the time of day.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mark {
    /// Which run of the machine it was.
    boot: String,
    /// For how long the machine was up, in milliseconds.
    up: u64,
    /// The time of day.
    wall: Timestamp,
}

impl Mark {
    /// This moment.
    #[must_use]
    pub fn now() -> Self {
        Self { boot: boot_id().to_owned(), up: uptime(), wall: Timestamp::now() }
    }

    /// How long ago it was; nothing for one to come, as after the clock was set back.
    #[must_use]
    pub fn elapsed(&self) -> Duration {
        if self.boot == boot_id() {
            return Duration::from_millis(uptime().saturating_sub(self.up));
        }
        Duration::try_from(Timestamp::now().duration_since(self.wall)).unwrap_or_default()
    }
}

/// What moments are told from where only numbers are kept: the moment of a [`Mark`].
#[derive(Clone, Copy, Debug)]
pub struct Origin(Instant);

impl Origin {
    /// That of a mark that was made at this moment.
    #[must_use]
    pub fn at(now: Instant) -> Self {
        Self(now)
    }

    /// That of an earlier mark, perhaps of another process.
    #[must_use]
    pub fn of(mark: &Mark) -> Self {
        let now = now();
        Self(now.checked_sub(mark.elapsed()).unwrap_or(now))
    }

    /// How many milliseconds after the origin a moment is; before it, below zero.
    #[must_use]
    pub fn told(self, moment: Instant) -> i64 {
        let milliseconds = |span: Duration| i64::try_from(span.as_millis()).unwrap_or(i64::MAX);
        if moment >= self.0 { milliseconds(moment - self.0) } else { -milliseconds(self.0 - moment) }
    }

    /// The moment so many milliseconds after the origin; the origin itself for what no clock can tell.
    #[must_use]
    pub fn moment(self, told: i64) -> Instant {
        let span = Duration::from_millis(told.unsigned_abs());
        let moment = if told < 0 { self.0.checked_sub(span) } else { self.0.checked_add(span) };
        moment.unwrap_or(self.0)
    }
}

/// Sleeps until [`now`] has come to `moment`.
pub async fn sleep_until(moment: Instant) {
    loop {
        let left = moment.saturating_duration_since(now());
        if left.is_zero() {
            return;
        }
        tokio::time::sleep(left.min(NAP)).await;
    }
}

/// The time of day at a moment of [`now`], for people.
#[must_use]
pub fn time_of_day(moment: Instant) -> Timestamp {
    let (wall, now) = (Timestamp::now(), now());
    let moved = if moment > now { wall.checked_add(moment - now) } else { wall.checked_sub(now - moment) };
    let time = moved.unwrap_or(Timestamp::MAX);
    time.round(jiff::Unit::Second).unwrap_or(time)
}

/// Names the run of the machine; nothing where the system does not tell, which then counts as one run.
fn boot_id() -> &'static str {
    static ID: OnceLock<String> = OnceLock::new();
    let read = || std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned();
    ID.get_or_init(read)
}

/// For how long the machine is up, suspended or not, in milliseconds.
fn uptime() -> u64 {
    u64::try_from(read(ClockId::Boottime).as_millis()).unwrap_or(u64::MAX)
}

fn read(clock: ClockId) -> Duration {
    Duration::try_from(clock_gettime(clock)).unwrap_or_default()
}

/// How long this machine was suspended since this process began.
fn asleep() -> Duration {
    static BEFORE: OnceLock<Duration> = OnceLock::new();
    // The monotonic clock stands still in a suspended machine, the boot clock does not.
    let ever = read(ClockId::Boottime).saturating_sub(read(ClockId::Monotonic));
    let before = *BEFORE.get_or_init(|| ever);
    let asleep = ever.saturating_sub(before);
    // Two clocks are never read at once.
    if asleep < Duration::from_millis(100) { Duration::ZERO } else { asleep }
}

/// A random share between a half and the whole of `delay`, so that many waiters do not come back at once.
#[must_use]
pub fn jittered(delay: Duration) -> Duration {
    // The keys of a `RandomState` differ at each call; that is all the randomness a delay needs.
    let share = u32::from((RandomState::new().build_hasher().finish() & 0xff) as u8);
    delay / 2 + delay * share / 510
}

/// How long is left until `deadline`.
#[must_use]
pub fn left(deadline: Instant) -> Duration {
    deadline.saturating_duration_since(Instant::now())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jitter_stays_between_half_and_whole() {
        for _ in 0..1000 {
            let d = jittered(Duration::from_millis(100));
            assert!((50..=100).contains(&d.as_millis()), "{d:?}");
        }
    }

    #[test]
    fn a_moment_outlives_its_process() {
        let (now, mark) = (now(), Mark::now());
        let origin = Origin::at(now);
        for offset in [0, 1, -1, 86_400_000, -86_400_000] {
            assert_eq!(origin.told(origin.moment(offset)), offset);
        }
        let before = Mark { up: mark.up.saturating_sub(1000), ..mark.clone() };
        assert!(before.elapsed().as_secs() == 1);
        let before_boot =
            Mark { boot: "another".into(), wall: mark.wall - jiff::SignedDuration::from_secs(3600), ..mark };
        assert_eq!(before_boot.elapsed().as_secs(), 3600);
        assert_eq!(Mark { wall: Timestamp::MAX, ..before_boot }.elapsed(), Duration::ZERO);
        // What nothing can tell is no panic.
        assert_eq!(origin.moment(i64::MIN + 1).max(now), now);
    }

    #[tokio::test(start_paused = true)]
    async fn a_long_sleep_ends_at_its_moment() {
        let moment = now() + Duration::from_secs(1000);
        sleep_until(moment).await;
        assert!(now() >= moment && now() < moment + Duration::from_secs(1));
    }
}
