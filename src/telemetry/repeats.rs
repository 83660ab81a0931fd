//! What goes wrong again and again is said at its first, and then summed up.

use std::{
    collections::HashMap,
    hash::{DefaultHasher, Hash, Hasher},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

use crate::clock;

/// What goes wrong, by what it goes wrong for.
#[derive(Debug)]
pub struct Repeats<K> {
    /// Never held across an await.
    known: Mutex<HashMap<K, Known>>,
}

#[derive(Debug)]
struct Known {
    /// The ways in which it goes wrong, not many.
    ways: Vec<Way>,
    last: Instant,
    all: u64,
}

#[derive(Debug)]
struct Way {
    /// The hash of what it is.
    what: u64,
    said: Instant,
    /// How often since it was said.
    quiet: u64,
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

/// The most ways of one thing that are said in a pause: what is worded anew each time is summed up, too.
const WAYS: usize = 4;

impl<K> Default for Repeats<K> {
    fn default() -> Self {
        Self { known: Mutex::default() }
    }
}

impl<K: Eq + Hash> Repeats<K> {
    /// It went wrong, in this way.
    pub fn again(&self, key: K, what: impl Hash) -> Again {
        let (mut known, now) = (self.lock(), clock::now());
        if known.len() >= MOST && !known.contains_key(&key) {
            known.retain(|_, known| now < known.last + FORGOTTEN);
            if known.len() >= MOST {
                // What is said too often is better than what is not said.
                known.clear();
            }
        }
        let known = known.entry(key).or_insert_with(|| Known { ways: Vec::new(), last: now, all: 0 });
        (known.last, known.all) = (now, known.all + 1);
        known.say(hash(what), now)
    }

    /// It went well; how often it had gone wrong before, if it had.
    pub fn over(&self, key: &K) -> Option<u64> {
        Some(self.lock().remove(key)?.all)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<K, Known>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Known {
    fn say(&mut self, what: u64, now: Instant) -> Again {
        if let Some(way) = self.ways.iter_mut().find(|way| way.what == what) {
            way.quiet += 1;
            if now < way.said + PAUSE {
                return Again::Quiet;
            }
            way.said = now;
            return Again::Summed(std::mem::take(&mut way.quiet));
        }
        if self.ways.len() >= WAYS {
            self.ways.retain(|way| now < way.said + PAUSE);
        }
        if self.ways.len() >= WAYS {
            return Again::Quiet;
        }
        self.ways.push(Way { what, said: now, quiet: 0 });
        Again::No
    }
}

fn hash(what: impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    what.hash(&mut hasher);
    hasher.finish()
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
        assert_eq!((repeats.over(&"a"), repeats.over(&"a")), (Some(10), None));
        assert_eq!(repeats.again("a", 2), Again::No);
    }

    #[tokio::test(start_paused = true)]
    async fn ways_that_take_turns_are_summed_up_each_and_ever_new_ones_soon() {
        let repeats = Repeats::default();
        assert_eq!([1, 2, 1, 2].map(|way| repeats.again("a", way)), [Again::No, Again::No, Again::Quiet, Again::Quiet]);
        let new: Vec<Again> = (3..10).map(|way| repeats.again("a", way)).collect();
        assert_eq!(new.iter().filter(|again| **again == Again::No).count(), WAYS - 2);
        tokio::time::advance(PAUSE).await;
        assert_eq!([10, 1].map(|way| repeats.again("a", way)), [Again::No, Again::No]);
        assert_eq!(repeats.over(&"a"), Some(13));
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
