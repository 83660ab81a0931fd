//! What is due and when.

use std::{
    collections::{BTreeMap, HashMap},
    hash::Hash,
    sync::{Mutex, MutexGuard, PoisonError, Weak},
};

use tokio::{sync::Notify, time::Instant};

use crate::{
    clock,
    session::{Debt, Session},
};

/// Something to be done.
pub(super) enum Item {
    /// A session to be kept alive.
    Session(Weak<Session>),
    /// A token to be revoked.
    Debt(Box<Debt>),
}

/// Names an item: sessions and debts are numbered apart.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Name {
    Session(u64),
    Debt(usize),
}

/// Items by the moment they are due; each, by its name, is in it once. What is due together goes by the names.
pub struct Schedule<N, T> {
    due: BTreeMap<(Instant, N), T>,
    when: HashMap<N, Instant>,
}

impl<N, T> Default for Schedule<N, T> {
    fn default() -> Self {
        Self { due: BTreeMap::new(), when: HashMap::new() }
    }
}

impl<N: Copy + Ord + Hash, T> Schedule<N, T> {
    /// Puts an item in, or moves it. Whether it is the first now.
    pub fn put(&mut self, name: N, at: Instant, item: T) -> bool {
        self.remove(name);
        self.due.insert((at, name), item);
        self.when.insert(name, at);
        self.first() == Some(at)
    }

    /// Takes an item out.
    pub fn remove(&mut self, name: N) -> Option<T> {
        let at = self.when.remove(&name)?;
        self.due.remove(&(at, name))
    }

    /// When the first item is due.
    #[must_use]
    pub fn first(&self) -> Option<Instant> {
        self.due.keys().next().map(|(at, _)| *at)
    }

    /// Takes out the first item, if it is due.
    pub fn pop(&mut self, now: Instant) -> Option<T> {
        let (_, name) = *self.due.keys().next().filter(|(at, _)| *at <= now)?;
        self.remove(name)
    }

    /// Keeps what is wanted, and takes the rest out.
    pub fn retain(&mut self, mut is_wanted: impl FnMut(&T) -> bool) {
        let Self { due, when } = self;
        due.retain(|(_, name), item| {
            let stays = is_wanted(item);
            if !stays {
                when.remove(name);
            }
            stays
        });
    }

    /// Every item, by when it is due.
    pub fn items(&self) -> impl Iterator<Item = &T> {
        self.due.values()
    }
}

/// The schedule of a process.
#[derive(Default)]
pub(super) struct Queue {
    /// Never held across an await.
    schedule: Mutex<Schedule<Name, Item>>,
    /// Something may be due earlier than before.
    changed: Notify,
}

impl Queue {
    /// Puts a session in, or moves it.
    pub(super) fn put(&self, id: u64, at: Instant, item: Item) {
        self.insert(Name::Session(id), at, item);
    }

    /// Puts a token in that is to be revoked.
    pub(super) fn put_debt(&self, id: usize, at: Instant, debt: Debt) {
        self.insert(Name::Debt(id), at, Item::Debt(Box::new(debt)));
    }

    /// Takes a session out.
    pub(super) fn remove(&self, id: u64) {
        self.lock().remove(Name::Session(id));
    }

    /// Takes out every token that waits to be revoked.
    pub(super) fn take_debts(&self) -> Vec<Debt> {
        let mut schedule = self.lock();
        let names: Vec<Name> = schedule.when.keys().filter(|name| matches!(name, Name::Debt(_))).copied().collect();
        let items = names.into_iter().filter_map(|name| schedule.remove(name));
        items.filter_map(|item| if let Item::Debt(debt) = item { Some(*debt) } else { None }).collect()
    }

    /// Looks at every token that waits to be revoked.
    pub(super) fn each_debt(&self, mut look: impl FnMut(&Debt)) {
        for item in self.lock().items() {
            if let Item::Debt(debt) = item {
                look(debt);
            }
        }
    }

    /// Waits for the next item that is due, and takes it out.
    pub(super) async fn next(&self) -> Item {
        loop {
            let changed = self.changed.notified();
            let first = {
                let mut schedule = self.lock();
                if let Some(item) = schedule.pop(clock::now()) {
                    return item;
                }
                schedule.first()
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

    /// Takes out the sessions that are no more: until then each keeps its memory.
    pub(super) fn sweep(&self) {
        self.lock().retain(|item| !matches!(item, Item::Session(session) if session.strong_count() == 0));
    }

    /// Takes everything out.
    pub(super) fn clear(&self) {
        *self.lock() = Schedule::default();
    }

    fn insert(&self, name: Name, at: Instant, item: Item) {
        let is_first = self.lock().put(name, at, item);
        if is_first {
            self.changed.notify_one();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Schedule<Name, Item>> {
        self.schedule.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn what_is_due_first_comes_first_and_each_once() {
        let (mut schedule, now) = (Schedule::default(), Instant::now());
        let at = |s| now + Duration::from_secs(s);
        assert!(schedule.put(1, at(30), 'a') && !schedule.put(2, at(40), 'b') && schedule.put(3, at(10), 'c'));
        assert!(schedule.put(2, at(5), 'd'));
        assert_eq!((schedule.first(), schedule.pop(at(4))), (Some(at(5)), None));
        assert_eq!(schedule.remove(3), Some('c'));
        assert_eq!([schedule.pop(at(60)), schedule.pop(at(60)), schedule.pop(at(60))], [Some('d'), Some('a'), None]);
    }

    #[tokio::test]
    async fn a_session_that_is_no_more_leaves_nothing() {
        let queue = Queue::default();
        for id in 0..3 {
            queue.put(id, clock::now() + Duration::from_secs(1 << 20), Item::Session(Weak::new()));
        }
        queue.sweep();
        let schedule = queue.lock();
        assert!(schedule.due.is_empty() && schedule.when.is_empty());
    }
}
