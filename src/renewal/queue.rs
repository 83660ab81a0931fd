//! What is due and when.

use std::{
    collections::{BTreeMap, HashMap},
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

/// Items by the moment they are due; each is in it once.
#[derive(Default)]
pub(super) struct Queue {
    /// Never held across an await.
    state: Mutex<State>,
    /// Something may be due earlier than before.
    changed: Notify,
}

#[derive(Default)]
struct State {
    due: BTreeMap<(Instant, Name), Item>,
    when: HashMap<Name, Instant>,
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
        let mut state = self.lock();
        let names: Vec<Name> = state.when.keys().filter(|name| matches!(name, Name::Debt(_))).copied().collect();
        let items = names.into_iter().filter_map(|name| state.remove(name));
        items.filter_map(|item| if let Item::Debt(debt) = item { Some(*debt) } else { None }).collect()
    }

    /// Looks at every token that waits to be revoked.
    pub(super) fn each_debt(&self, mut look: impl FnMut(&Debt)) {
        for item in self.lock().due.values() {
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
                let mut state = self.lock();
                let first = state.due.keys().next().copied();
                match first {
                    Some((at, name)) if at <= clock::now() => match state.remove(name) {
                        Some(item) => return item,
                        None => continue,
                    },
                    first => first,
                }
            };
            match first {
                Some((at, _)) => tokio::select! {
                    () = clock::sleep_until(at) => {}
                    () = changed => {}
                },
                None => changed.await,
            }
        }
    }

    /// Takes out the sessions that are no more: until then each keeps its memory.
    pub(super) fn sweep(&self) {
        let mut state = self.lock();
        let State { due, when } = &mut *state;
        due.retain(|(_, name), item| {
            let stays = !matches!(item, Item::Session(session) if session.strong_count() == 0);
            if !stays {
                when.remove(name);
            }
            stays
        });
    }

    /// Takes everything out.
    pub(super) fn clear(&self) {
        *self.lock() = State::default();
    }

    fn insert(&self, name: Name, at: Instant, item: Item) {
        let is_first = {
            let mut state = self.lock();
            state.remove(name);
            state.due.insert((at, name), item);
            state.when.insert(name, at);
            state.due.keys().next() == Some(&(at, name))
        };
        if is_first {
            self.changed.notify_one();
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn remove(&mut self, name: Name) -> Option<Item> {
        let at = self.when.remove(&name)?;
        self.due.remove(&(at, name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_session_that_is_no_more_leaves_nothing() {
        let queue = Queue::default();
        for id in 0..3 {
            queue.put(id, clock::now() + std::time::Duration::from_secs(1 << 20), Item::Session(Weak::new()));
        }
        queue.sweep();
        let state = queue.lock();
        assert!(state.due.is_empty() && state.when.is_empty());
    }
}
