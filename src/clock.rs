//! Waiting: deadlines and jittered delays.

use std::{
    hash::{BuildHasher, Hasher, RandomState},
    time::Duration,
};

use tokio::time::Instant;

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
}
