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
const SUSPEND_CHECK_INTERVAL: Duration = Duration::from_secs(30);

/// Now, for everything whose end Vault decides. Setting the machine's clock changes nothing; the time it was suspended counts,
/// as Vault's clock went on meanwhile. Compare only with other values of this function.
#[must_use]
pub fn now() -> Instant {
    Instant::now() + suspended_time()
}

/// A moment that another process can date: as long as the machine is up by the time since it booted, which no setting of its
/// clock moves and which counts the time it was suspended; after that by the time of day.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BootTimestamp {
    /// Which run of the machine it was.
    boot_id: String,
    /// For how long the machine was up, in milliseconds.
    uptime_ms: u64,
    /// The time of day.
    wall_time: Timestamp,
}

impl BootTimestamp {
    /// This moment.
    #[must_use]
    pub fn now() -> Self {
        Self { boot_id: boot_id().to_owned(), uptime_ms: uptime_ms(), wall_time: Timestamp::now() }
    }

    /// How long ago it was; nothing for one to come, as after the clock was set back.
    #[must_use]
    pub fn elapsed(&self) -> Duration {
        if self.boot_id == boot_id() {
            return Duration::from_millis(uptime_ms().saturating_sub(self.uptime_ms));
        }
        Duration::try_from(Timestamp::now().duration_since(self.wall_time)).unwrap_or_default()
    }
}

/// What moments are told from where only numbers are kept: the moment of a [`Mark`].
#[derive(Clone, Copy, Debug)]
pub struct Epoch(Instant);

impl Epoch {
    /// That of a mark that was made at this moment.
    #[must_use]
    pub fn from_instant(now: Instant) -> Self {
        Self(now)
    }

    /// That of an earlier mark, perhaps of another process.
    #[must_use]
    pub fn from_timestamp(timestamp: &BootTimestamp) -> Self {
        let now = now();
        Self(now.checked_sub(timestamp.elapsed()).unwrap_or(now))
    }

    /// How many milliseconds after the origin a moment is; before it, below zero.
    #[must_use]
    pub fn to_millis(self, instant: Instant) -> i64 {
        let milliseconds = |span: Duration| i64::try_from(span.as_millis()).unwrap_or(i64::MAX);
        if instant >= self.0 { milliseconds(instant - self.0) } else { -milliseconds(self.0 - instant) }
    }

    /// The moment so many milliseconds after the origin; the origin itself for what no clock can tell.
    #[must_use]
    pub fn instant_at(self, millis: i64) -> Instant {
        let offset = Duration::from_millis(millis.unsigned_abs());
        let instant = if millis < 0 { self.0.checked_sub(offset) } else { self.0.checked_add(offset) };
        instant.unwrap_or(self.0)
    }
}

/// Sleeps until [`now`] has come to `moment`.
pub async fn sleep_until(deadline: Instant) {
    loop {
        let remaining = deadline.saturating_duration_since(now());
        if remaining.is_zero() {
            return;
        }
        tokio::time::sleep(remaining.min(SUSPEND_CHECK_INTERVAL)).await;
    }
}

/// The time of day at a moment of [`now`], for people.
#[must_use]
pub fn time_of_day(instant: Instant) -> Timestamp {
    let (wall, now) = (Timestamp::now(), now());
    let wall_time = if instant > now { wall.checked_add(instant - now) } else { wall.checked_sub(now - instant) };
    let time = wall_time.unwrap_or(Timestamp::MAX);
    time.round(jiff::Unit::Second).unwrap_or(time)
}

/// Names the run of the machine; nothing where the system does not tell, which then counts as one run.
fn boot_id() -> &'static str {
    static ID: OnceLock<String> = OnceLock::new();
    let read = || std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned();
    ID.get_or_init(read)
}

/// For how long the machine is up, suspended or not, in milliseconds.
fn uptime_ms() -> u64 {
    u64::try_from(read_clock(ClockId::Boottime).as_millis()).unwrap_or(u64::MAX)
}

fn read_clock(clock: ClockId) -> Duration {
    Duration::try_from(clock_gettime(clock)).unwrap_or_default()
}

/// How long this machine was suspended since this process began.
fn suspended_time() -> Duration {
    static SUSPENDED_AT_START: OnceLock<Duration> = OnceLock::new();
    // The monotonic clock stands still in a suspended machine, the boot clock does not.
    let suspended_total = read_clock(ClockId::Boottime).saturating_sub(read_clock(ClockId::Monotonic));
    let suspended_at_start = *SUSPENDED_AT_START.get_or_init(|| suspended_total);
    let suspended = suspended_total.saturating_sub(suspended_at_start);
    // Two clocks are never read at once.
    if suspended < Duration::from_millis(100) { Duration::ZERO } else { suspended }
}

/// A random share between a half and the whole of `delay`, so that many waiters do not come back at once.
#[must_use]
pub fn with_jitter(delay: Duration) -> Duration {
    // The keys of a `RandomState` differ at each call; that is all the randomness a delay needs.
    let fraction = u32::from((RandomState::new().build_hasher().finish() & 0xff) as u8);
    delay / 2 + delay * fraction / 510
}

/// How long is left until `deadline`.
#[must_use]
pub fn remaining(deadline: Instant) -> Duration {
    deadline.saturating_duration_since(Instant::now())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn with_jitter_stays_between_half_and_full_delay() {
        for _ in 0..1000 {
            let d = with_jitter(Duration::from_millis(100));
            assert!((50..=100).contains(&d.as_millis()), "{d:?}");
        }
    }

    #[test]
    fn boot_timestamp_elapsed_survives_restart_and_reboot() {
        let (now, mark) = (now(), BootTimestamp::now());
        let origin = Epoch::from_instant(now);
        for offset in [0, 1, -1, 86_400_000, -86_400_000] {
            assert_eq!(origin.to_millis(origin.instant_at(offset)), offset);
        }
        let one_second_ago = BootTimestamp { uptime_ms: mark.uptime_ms.saturating_sub(1000), ..mark.clone() };
        assert!(one_second_ago.elapsed().as_secs() == 1);
        let from_earlier_boot = BootTimestamp {
            boot_id: "another".into(),
            wall_time: mark.wall_time - jiff::SignedDuration::from_secs(3600),
            ..mark
        };
        assert_eq!(from_earlier_boot.elapsed().as_secs(), 3600);
        assert_eq!(BootTimestamp { wall_time: Timestamp::MAX, ..from_earlier_boot }.elapsed(), Duration::ZERO);
        // What nothing can tell is no panic.
        assert_eq!(origin.instant_at(i64::MIN + 1).max(now), now);
    }

    #[tokio::test(start_paused = true)]
    async fn sleep_until_wakes_at_distant_deadline() {
        let deadline = now() + Duration::from_secs(1000);
        sleep_until(deadline).await;
        assert!(now() >= deadline && now() < deadline + Duration::from_secs(1));
    }
}
