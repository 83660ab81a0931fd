//! Deduplication of repeated log messages: the first is logged, repeats are summarized.

use std::{
    collections::HashMap,
    hash::{DefaultHasher, Hash, Hasher},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

use crate::clock;

/// Recent failures, by subject.
#[derive(Debug)]
pub struct LogDeduplicator<K> {
    /// Never locked across an await.
    entries: Mutex<HashMap<K, Entry>>,
}

#[derive(Debug)]
struct Entry {
    /// Distinct failures of the subject, at most [`MAX_VARIANTS`].
    variants: Vec<Variant>,
    last_seen: Instant,
    count: u64,
}

#[derive(Debug)]
struct Variant {
    /// Hash of the failure.
    hash: u64,
    emitted_at: Instant,
    /// Number of repeats since it was last logged.
    suppressed: u64,
}

/// Decision on how to log a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Emit {
    /// First occurrence: log it.
    First,
    /// Summary: log it with the number of occurrences since the last log line.
    Summary(u64),
    /// Recent repeat: do not log it.
    Suppress,
}

/// Interval between summaries of a repeated failure.
const SUMMARY_INTERVAL: Duration = Duration::from_secs(600);
/// Time after which a failure without repeats is forgotten.
const ENTRY_TTL: Duration = Duration::from_secs(3600);
/// Maximum number of subjects.
const MAX_ENTRIES: usize = 4096;

/// Maximum number of distinct failures logged per subject and interval, for errors with a text that keeps changing.
const MAX_VARIANTS: usize = 4;

impl<K> Default for LogDeduplicator<K> {
    fn default() -> Self {
        Self { entries: Mutex::default() }
    }
}

impl<K: Eq + Hash> LogDeduplicator<K> {
    /// Records a failure of a subject. Returns how to log it.
    pub fn record(&self, key: K, variant: impl Hash) -> Emit {
        let (mut entries, now) = (self.lock(), clock::now());
        if entries.len() >= MAX_ENTRIES && !entries.contains_key(&key) {
            entries.retain(|_, known| now < known.last_seen + ENTRY_TTL);
            if entries.len() >= MAX_ENTRIES {
                // Duplicate log lines are better than missing ones.
                entries.clear();
            }
        }
        let entry = entries.entry(key).or_insert_with(|| Entry { variants: Vec::new(), last_seen: now, count: 0 });
        (entry.last_seen, entry.count) = (now, entry.count + 1);
        entry.emit(hash_of(variant), now)
    }

    /// Forgets a subject after a success. Returns the number of failures before, if any.
    pub fn clear(&self, key: &K) -> Option<u64> {
        Some(self.lock().remove(key)?.count)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<K, Entry>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Entry {
    fn emit(&mut self, hash: u64, now: Instant) -> Emit {
        if let Some(variant) = self.variants.iter_mut().find(|variant| variant.hash == hash) {
            variant.suppressed += 1;
            if now < variant.emitted_at + SUMMARY_INTERVAL {
                return Emit::Suppress;
            }
            variant.emitted_at = now;
            return Emit::Summary(std::mem::take(&mut variant.suppressed));
        }
        if self.variants.len() >= MAX_VARIANTS {
            self.variants.retain(|variant| now < variant.emitted_at + SUMMARY_INTERVAL);
        }
        if self.variants.len() >= MAX_VARIANTS {
            return Emit::Suppress;
        }
        self.variants.push(Variant { hash, emitted_at: now, suppressed: 0 });
        Emit::First
    }
}

fn hash_of(value: impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn log_dedup_emits_first_then_summary() {
        let repeats = LogDeduplicator::default();
        assert_eq!(repeats.record("a", 1), Emit::First);
        for _ in 0..5 {
            tokio::time::advance(Duration::from_secs(60)).await;
            assert_eq!(repeats.record("a", 1), Emit::Suppress);
        }
        assert_eq!(
            (repeats.record("b", 1), repeats.record("a", 2), repeats.record("a", 2)),
            (Emit::First, Emit::First, Emit::Suppress)
        );
        tokio::time::advance(SUMMARY_INTERVAL).await;
        assert_eq!((repeats.record("a", 2), repeats.record("a", 2)), (Emit::Summary(2), Emit::Suppress));
        assert_eq!((repeats.clear(&"a"), repeats.clear(&"a")), (Some(10), None));
        assert_eq!(repeats.record("a", 2), Emit::First);
    }

    #[tokio::test(start_paused = true)]
    async fn log_dedup_summarizes_each_variant_and_bounds_variants() {
        let repeats = LogDeduplicator::default();
        assert_eq!(
            [1, 2, 1, 2].map(|way| repeats.record("a", way)),
            [Emit::First, Emit::First, Emit::Suppress, Emit::Suppress]
        );
        let new: Vec<Emit> = (3..10).map(|way| repeats.record("a", way)).collect();
        assert_eq!(new.iter().filter(|again| **again == Emit::First).count(), MAX_VARIANTS - 2);
        tokio::time::advance(SUMMARY_INTERVAL).await;
        assert_eq!([10, 1].map(|way| repeats.record("a", way)), [Emit::First, Emit::First]);
        assert_eq!(repeats.clear(&"a"), Some(13));
    }

    #[tokio::test(start_paused = true)]
    async fn log_dedup_entries_are_bounded() {
        let repeats = LogDeduplicator::default();
        for key in 0..MAX_ENTRIES {
            repeats.record(key, ());
        }
        tokio::time::advance(ENTRY_TTL).await;
        assert_eq!((repeats.record(MAX_ENTRIES, ()), repeats.lock().len()), (Emit::First, 1));
    }
}
