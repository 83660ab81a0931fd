//! How many mounts are under way at once. Beyond that a caller is told at once, and not after its own deadline.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use crate::error::{Cause, Error};

/// Places for mounts. One Kubernetes namespace has half of them at most, so that there is one for another at any time.
#[derive(Debug)]
pub struct Slots {
    most: usize,
    /// Never held across an await.
    taken: Mutex<Taken>,
}

#[derive(Debug, Default)]
struct Taken {
    all: usize,
    by_namespace: HashMap<String, usize>,
}

/// A mount's place, until it is dropped.
#[derive(Debug)]
pub struct Slot {
    slots: Arc<Slots>,
    namespace: String,
}

impl Slots {
    /// So many.
    #[must_use]
    pub fn new(most: usize) -> Arc<Self> {
        Arc::new(Self { most, taken: Mutex::default() })
    }

    /// How many there are.
    #[must_use]
    pub fn most(&self) -> usize {
        self.most
    }

    /// A place for a pod of a namespace; an error when there is none.
    pub fn take(self: &Arc<Self>, namespace: &str) -> Result<Slot, Error> {
        let mut taken = self.lock();
        let own = taken.by_namespace.get(namespace).copied().unwrap_or(0);
        let full = if taken.all >= self.most {
            format!("{} mounts are under way on this node", taken.all)
        } else if own >= (self.most / 2).max(1) {
            format!("{own} mounts of namespace {namespace} are under way on this node, half of what it takes")
        } else {
            taken.all += 1;
            *taken.by_namespace.entry(namespace.to_owned()).or_default() += 1;
            return Ok(Slot { slots: Arc::clone(self), namespace: namespace.to_owned() });
        };
        Err(Error::new(Cause::Overloaded, full)
            .advice("see why they take so long, or raise --max-mounts; the mount is tried again by itself"))
    }

    fn lock(&self) -> MutexGuard<'_, Taken> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut taken = self.slots.lock();
        taken.all -= 1;
        if let Some(own) = taken.by_namespace.get_mut(&self.namespace) {
            *own -= 1;
            if *own == 0 {
                taken.by_namespace.remove(&self.namespace);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_namespace_has_more_than_half_and_all_have_no_more_than_there_are() {
        let slots = Slots::new(4);
        let take = |namespace: &str, count: usize| -> Vec<Slot> {
            std::iter::repeat_with(|| slots.take(namespace).ok()).map_while(|slot| slot).take(count).collect()
        };
        let shop = take("shop", 9);
        assert_eq!(shop.len(), 2);
        let told = slots.take("shop").unwrap_err().to_string();
        assert!(told.contains("2 mounts of namespace shop") && told.contains("--max-mounts"), "{told}");
        let other = take("other", 1);
        assert_eq!((other.len(), take("third", 9).len()), (1, 1));
        let rest = take("third", 1);
        assert!(slots.take("fourth").unwrap_err().to_string().contains("4 mounts are under way"));
        drop((shop, other, rest));
        assert_eq!(slots.lock().all, 0);
        assert!(slots.lock().by_namespace.is_empty());
        assert_eq!(Slots::new(1).take("shop").map(|_| ()), Ok(()));
    }
}
