//! Time: [`now`] for lifetimes, deadlines of callers, and jittered delays.

use std::{
    hash::{BuildHasher, Hasher, RandomState},
    sync::OnceLock,
    time::Duration,
};

use jiff::Timestamp;
use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

/// Maximum length of one sleep, so that the suspend time of a machine is detected soon.
const SUSPEND_CHECK_INTERVAL: Duration = Duration::from_secs(30);

/// Returns the current time for lifetimes that Vault decides.
///
/// Changes of the system clock do not affect it. Suspend time counts, because Vault's clock continues meanwhile. Compare it only
/// with other values of this function.
#[must_use]
pub fn now() -> Instant {
    Instant::now() + suspended_time()
}

/// Timestamp that another process can read.
///
/// Until the machine reboots, it is measured by the uptime, which includes suspend time and does not depend on the system clock.
/// After a reboot it is measured by the time of day.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BootTimestamp {
    /// ID of the boot.
    boot_id: String,
    /// Uptime in milliseconds.
    uptime_ms: u64,
    /// Time of day.
    wall_time: Timestamp,
}

impl BootTimestamp {
    /// Returns the current time.
    #[must_use]
    pub fn now() -> Self {
        Self { boot_id: boot_id().to_owned(), uptime_ms: uptime_ms(), wall_time: Timestamp::now() }
    }

    /// Returns the time since this timestamp. Zero for a future timestamp, such as after the clock was set back.
    #[must_use]
    pub fn elapsed(&self) -> Duration {
        if self.boot_id == boot_id() {
            return Duration::from_millis(uptime_ms().saturating_sub(self.uptime_ms));
        }
        Duration::try_from(Timestamp::now().duration_since(self.wall_time)).unwrap_or_default()
    }
}

/// Reference time for instants that are stored as numbers: the time of a [`BootTimestamp`].
#[derive(Clone, Copy, Debug)]
pub struct Epoch(Instant);

impl Epoch {
    /// Creates an epoch at `now`.
    #[must_use]
    pub fn from_instant(now: Instant) -> Self {
        Self(now)
    }

    /// Creates the epoch of an earlier timestamp, perhaps from another process.
    #[must_use]
    pub fn from_timestamp(timestamp: &BootTimestamp) -> Self {
        let now = now();
        Self(now.checked_sub(timestamp.elapsed()).unwrap_or(now))
    }

    /// Returns the milliseconds from the epoch to an instant. Negative before the epoch.
    #[must_use]
    pub fn to_millis(self, instant: Instant) -> i64 {
        let milliseconds = |span: Duration| i64::try_from(span.as_millis()).unwrap_or(i64::MAX);
        if instant >= self.0 { milliseconds(instant - self.0) } else { -milliseconds(self.0 - instant) }
    }

    /// Returns the instant `millis` after the epoch, or the epoch itself if the clock cannot represent it.
    #[must_use]
    pub fn instant_at(self, millis: i64) -> Instant {
        let offset = Duration::from_millis(millis.unsigned_abs());
        let instant = if millis < 0 { self.0.checked_sub(offset) } else { self.0.checked_add(offset) };
        instant.unwrap_or(self.0)
    }
}

/// Sleeps until [`now`] reaches `deadline`.
pub async fn sleep_until(deadline: Instant) {
    loop {
        let remaining = deadline.saturating_duration_since(now());
        if remaining.is_zero() {
            return;
        }
        tokio::time::sleep(remaining.min(SUSPEND_CHECK_INTERVAL)).await;
    }
}

/// Returns the time of day of an instant of [`now`] for display, rounded to seconds.
#[must_use]
pub fn time_of_day(instant: Instant) -> Timestamp {
    let (wall, now) = (Timestamp::now(), now());
    let wall_time = if instant > now { wall.checked_add(instant - now) } else { wall.checked_sub(now - instant) };
    let time = wall_time.unwrap_or(Timestamp::MAX);
    time.round(jiff::Unit::Second).unwrap_or(time)
}

/// Returns the boot ID, or an empty text if the system does not provide one. All boots then count as one.
fn boot_id() -> &'static str {
    static ID: OnceLock<String> = OnceLock::new();
    let read = || std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned();
    ID.get_or_init(read)
}

/// Returns the uptime in milliseconds, including suspend time.
fn uptime_ms() -> u64 {
    u64::try_from(read_clock(ClockId::Boottime).as_millis()).unwrap_or(u64::MAX)
}

fn read_clock(clock: ClockId) -> Duration {
    Duration::try_from(clock_gettime(clock)).unwrap_or_default()
}

/// Returns the suspend time since the first call in this process.
fn suspended_time() -> Duration {
    static SUSPENDED_AT_START: OnceLock<Duration> = OnceLock::new();
    // The monotonic clock stops while the machine is suspended. The boot clock continues.
    let suspended_total = read_clock(ClockId::Boottime).saturating_sub(read_clock(ClockId::Monotonic));
    let suspended_at_start = *SUSPENDED_AT_START.get_or_init(|| suspended_total);
    let suspended = suspended_total.saturating_sub(suspended_at_start);
    // The two clocks are read one after another, so small differences are not suspend time.
    if suspended < Duration::from_millis(100) { Duration::ZERO } else { suspended }
}

/// Adds jitter: returns a random delay between half of `delay` and all of it, so that waiters do not retry at the same time.
#[must_use]
pub fn with_jitter(delay: Duration) -> Duration {
    // The keys of a `RandomState` differ at each call, which is random enough for a delay.
    let fraction = u32::from((RandomState::new().build_hasher().finish() & 0xff) as u8);
    delay / 2 + delay * fraction / 510
}

/// Returns the time left until `deadline`.
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
        // An instant that cannot be represented does not panic.
        assert_eq!(origin.instant_at(i64::MIN + 1).max(now), now);
    }

    #[tokio::test(start_paused = true)]
    async fn sleep_until_wakes_at_distant_deadline() {
        let deadline = now() + Duration::from_secs(1000);
        sleep_until(deadline).await;
        assert!(now() >= deadline && now() < deadline + Duration::from_secs(1));
    }
}
