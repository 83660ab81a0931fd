//! Time: what lives is measured by [`now`]; deadlines of callers and jittered delays.

use std::{
    hash::{BuildHasher, Hasher, RandomState},
    sync::OnceLock,
    time::Duration,
};

use jiff::Timestamp;
use rustix::time::{ClockId, clock_gettime};
use tokio::time::Instant;

/// The longest sleep at once, so that the time a suspended machine lost is noticed soon.
const NAP: Duration = Duration::from_secs(30);

/// Now, for everything whose end Vault decides. Setting the machine's clock changes nothing; the time it was suspended counts,
/// as Vault's clock went on meanwhile. Compare only with other values of this function.
#[must_use]
pub fn now() -> Instant {
    Instant::now() + asleep()
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

/// How long this machine was suspended since this process began.
fn asleep() -> Duration {
    static BEFORE: OnceLock<Duration> = OnceLock::new();
    // The monotonic clock stands still in a suspended machine, the boot clock does not.
    let read = |clock| Duration::try_from(clock_gettime(clock)).unwrap_or_default();
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

    #[tokio::test(start_paused = true)]
    async fn a_long_sleep_ends_at_its_moment() {
        let moment = now() + Duration::from_secs(1000);
        sleep_until(moment).await;
        assert!(now() >= moment && now() < moment + Duration::from_secs(1));
    }
}
