//! Queue of due work, ordered by time.

use std::{
    collections::{BTreeMap, HashMap},
    hash::Hash,
    sync::{Mutex, MutexGuard, PoisonError, Weak},
};

use tokio::{sync::Notify, time::Instant};

use crate::{
    clock,
    session::{PendingRevocation, Session},
};

/// Unit of background work.
pub(super) enum WorkItem {
    /// Session to maintain.
    Session(Weak<Session>),
    /// Token to revoke.
    Revocation(Box<PendingRevocation>),
}

/// Key of a work item. Sessions and pending revocations have separate numbers.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum WorkKey {
    Session(u64),
    Revocation(usize),
}

/// Items ordered by due time. Each key is present at most once. Items with the same due time are ordered by key.
pub struct Schedule<N, T> {
    due: BTreeMap<(Instant, N), T>,
    due_at: HashMap<N, Instant>,
}

impl<N, T> Default for Schedule<N, T> {
    fn default() -> Self {
        Self { due: BTreeMap::new(), due_at: HashMap::new() }
    }
}

impl<N: Copy + Ord + Hash, T> Schedule<N, T> {
    /// Inserts or moves an item. Returns `true` if the item is now the first one due.
    pub fn put(&mut self, key: N, due_at: Instant, item: T) -> bool {
        self.remove(key);
        self.due.insert((due_at, key), item);
        self.due_at.insert(key, due_at);
        self.first_due_at() == Some(due_at)
    }

    /// Removes and returns an item.
    pub fn remove(&mut self, key: N) -> Option<T> {
        let due_at = self.due_at.remove(&key)?;
        self.due.remove(&(due_at, key))
    }

    /// Returns the due time of the first item.
    #[must_use]
    pub fn first_due_at(&self) -> Option<Instant> {
        self.due.keys().next().map(|(at, _)| *at)
    }

    /// Removes and returns the first item if it is due at `now`.
    pub fn pop(&mut self, now: Instant) -> Option<T> {
        let (_, key) = *self.due.keys().next().filter(|(at, _)| *at <= now)?;
        self.remove(key)
    }

    /// Keeps the items for which `is_wanted` returns `true`, and removes the others.
    pub fn retain(&mut self, mut is_wanted: impl FnMut(&T) -> bool) {
        let Self { due, due_at } = self;
        due.retain(|(_, name), item| {
            let is_retained = is_wanted(item);
            if !is_retained {
                due_at.remove(name);
            }
            is_retained
        });
    }

    /// Returns all items in order of their due time.
    pub fn items(&self) -> impl Iterator<Item = &T> {
        self.due.values()
    }
}

/// Work queue of the process.
#[derive(Default)]
pub(super) struct WorkQueue {
    /// Lock is never held across an await.
    schedule: Mutex<Schedule<WorkKey, WorkItem>>,
    /// Signals that an item may be due earlier than before.
    wakeup: Notify,
}

impl WorkQueue {
    /// Inserts or moves a session.
    pub(super) fn put_session(&self, id: u64, due_at: Instant, item: WorkItem) {
        self.insert(WorkKey::Session(id), due_at, item);
    }

    /// Inserts a pending revocation.
    pub(super) fn put_revocation(&self, id: usize, due_at: Instant, revocation: PendingRevocation) {
        self.insert(WorkKey::Revocation(id), due_at, WorkItem::Revocation(Box::new(revocation)));
    }

    /// Removes a session.
    pub(super) fn remove_session(&self, id: u64) {
        self.lock().remove(WorkKey::Session(id));
    }

    /// Removes and returns all pending revocations.
    pub(super) fn take_revocations(&self) -> Vec<PendingRevocation> {
        let mut schedule = self.lock();
        let keys: Vec<WorkKey> =
            schedule.due_at.keys().filter(|name| matches!(name, WorkKey::Revocation(_))).copied().collect();
        let items = keys.into_iter().filter_map(|name| schedule.remove(name));
        items
            .filter_map(|item| if let WorkItem::Revocation(revocation) = item { Some(*revocation) } else { None })
            .collect()
    }

    /// Calls `visit` for every pending revocation.
    pub(super) fn for_each_revocation(&self, mut visit: impl FnMut(&PendingRevocation)) {
        for item in self.lock().items() {
            if let WorkItem::Revocation(revocation) = item {
                visit(revocation);
            }
        }
    }

    /// Waits until the next item is due, and removes it.
    pub(super) async fn next(&self) -> WorkItem {
        loop {
            let changed = self.wakeup.notified();
            let first = {
                let mut schedule = self.lock();
                if let Some(item) = schedule.pop(clock::now()) {
                    return item;
                }
                schedule.first_due_at()
            };
            match first {
                Some(at) => tokio::select! {
                    () = clock::sleep_until(at) => {}
                    () = changed => {}
                },
                None => changed.await,
            }
        }
    }

    /// Removes the entries of dropped sessions, which otherwise keep the memory of those sessions allocated.
    pub(super) fn remove_dropped_sessions(&self) {
        self.lock().retain(|item| !matches!(item, WorkItem::Session(session) if session.strong_count() == 0));
    }

    /// Removes all items.
    pub(super) fn clear(&self) {
        *self.lock() = Schedule::default();
    }

    fn insert(&self, key: WorkKey, due_at: Instant, item: WorkItem) {
        let is_first = self.lock().put(key, due_at, item);
        if is_first {
            self.wakeup.notify_one();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Schedule<WorkKey, WorkItem>> {
        self.schedule.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn schedule_pops_each_item_once_in_due_order() {
        let (mut schedule, now) = (Schedule::default(), Instant::now());
        let at = |s| now + Duration::from_secs(s);
        assert!(schedule.put(1, at(30), 'a') && !schedule.put(2, at(40), 'b') && schedule.put(3, at(10), 'c'));
        assert!(schedule.put(2, at(5), 'd'));
        assert_eq!((schedule.first_due_at(), schedule.pop(at(4))), (Some(at(5)), None));
        assert_eq!(schedule.remove(3), Some('c'));
        assert_eq!([schedule.pop(at(60)), schedule.pop(at(60)), schedule.pop(at(60))], [Some('d'), Some('a'), None]);
    }

    #[tokio::test]
    async fn work_queue_sweep_removes_dropped_sessions() {
        let queue = WorkQueue::default();
        for id in 0..3 {
            queue.put_session(id, clock::now() + Duration::from_secs(1 << 20), WorkItem::Session(Weak::new()));
        }
        queue.remove_dropped_sessions();
        let schedule = queue.lock();
        assert!(schedule.due.is_empty() && schedule.due_at.is_empty());
    }
}
