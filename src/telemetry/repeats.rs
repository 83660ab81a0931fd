//! What goes wrong again and again is said at its first, and then summed up.

use std::{
    collections::HashMap,
    hash::Hash,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

use crate::clock;

/// What goes wrong, by what it goes wrong for.
#[derive(Debug)]
pub struct Repeats<K, W> {
    /// Never held across an await.
    known: Mutex<HashMap<K, Known<W>>>,
}

#[derive(Debug)]
struct Known<W> {
    what: W,
    said: Instant,
    last: Instant,
    /// How often since it was said.
    quiet: u64,
    all: u64,
}

/// How something is to be said that went wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Again {
    /// For the first time: in full.
    No,
    /// It has happened so often since it was last said: in full, with that.
    Summed(u64),
    /// Not long after it was said: not at all.
    Quiet,
}

/// The longest that something goes wrong without being said again.
const PAUSE: Duration = Duration::from_secs(600);
/// What has not gone wrong for so long is not remembered.
const FORGOTTEN: Duration = Duration::from_secs(3600);
/// The most that is remembered.
const MOST: usize = 4096;

impl<K, W> Default for Repeats<K, W> {
    fn default() -> Self {
        Self { known: Mutex::default() }
    }
}

impl<K: Eq + Hash, W: PartialEq> Repeats<K, W> {
    /// It went wrong, in this way.
    pub fn again(&self, key: K, what: W) -> Again {
        let (mut known, now) = (self.lock(), clock::now());
        if known.len() >= MOST && !known.contains_key(&key) {
            known.retain(|_, known| now < known.last + FORGOTTEN);
            if known.len() >= MOST {
                // What is said too often is better than what is not said.
                known.clear();
            }
        }
        let new = Known { what, said: now, last: now, quiet: 0, all: 1 };
        match known.get_mut(&key) {
            Some(known) if known.what == new.what => {
                (known.last, known.quiet, known.all) = (now, known.quiet + 1, known.all + 1);
                if now < known.said + PAUSE {
                    return Again::Quiet;
                }
                known.said = now;
                Again::Summed(std::mem::take(&mut known.quiet))
            }
            _ => {
                known.insert(key, new);
                Again::No
            }
        }
    }

    /// It went well; how often it had gone wrong before, if it had.
    pub fn over(&self, key: &K) -> Option<u64> {
        Some(self.lock().remove(key)?.all)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<K, Known<W>>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_first_is_said_and_the_rest_is_summed_up() {
        let repeats = Repeats::default();
        assert_eq!(repeats.again("a", 1), Again::No);
        for _ in 0..5 {
            tokio::time::advance(Duration::from_secs(60)).await;
            assert_eq!(repeats.again("a", 1), Again::Quiet);
        }
        assert_eq!(
            (repeats.again("b", 1), repeats.again("a", 2), repeats.again("a", 2)),
            (Again::No, Again::No, Again::Quiet)
        );
        tokio::time::advance(PAUSE).await;
        assert_eq!((repeats.again("a", 2), repeats.again("a", 2)), (Again::Summed(2), Again::Quiet));
        assert_eq!((repeats.over(&"a"), repeats.over(&"a")), (Some(4), None));
        assert_eq!(repeats.again("a", 2), Again::No);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_remembered_is_bounded() {
        let repeats = Repeats::default();
        for key in 0..MOST {
            repeats.again(key, ());
        }
        tokio::time::advance(FORGOTTEN).await;
        assert_eq!((repeats.again(MOST, ()), repeats.lock().len()), (Again::No, 1));
    }
}
