//! Limit of concurrent mounts. Further calls are rejected at once, not after their deadline.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use crate::error::{Cause, Error};

/// Limits concurrent mounts. A Kubernetes namespace may hold half of the permits, so that others always find one.
#[derive(Debug)]
pub struct MountLimiter {
    capacity: usize,
    /// Never held across an await.
    acquired: Mutex<AcquiredPermits>,
}

#[derive(Debug, Default)]
struct AcquiredPermits {
    all: usize,
    by_namespace: HashMap<String, usize>,
}

/// Permit for one mount, released on drop.
#[derive(Debug)]
pub struct MountPermit {
    limiter: Arc<MountLimiter>,
    namespace: String,
}

impl MountLimiter {
    /// Creates a limiter of `capacity` permits.
    #[must_use]
    pub fn new(capacity: usize) -> Arc<Self> {
        Arc::new(Self { capacity, acquired: Mutex::default() })
    }

    /// Returns the number of permits.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Returns a permit for a pod of a namespace, or an error if none is available.
    pub fn try_acquire(self: &Arc<Self>, namespace: &str) -> Result<MountPermit, Error> {
        let mut taken = self.lock();
        let own = taken.by_namespace.get(namespace).copied().unwrap_or(0);
        let full = if taken.all >= self.capacity {
            format!("{} mounts are under way on this node", taken.all)
        } else if own >= (self.capacity / 2).max(1) {
            format!("{own} mounts of namespace {namespace} are under way on this node, half of what it takes")
        } else {
            taken.all += 1;
            *taken.by_namespace.entry(namespace.to_owned()).or_default() += 1;
            return Ok(MountPermit { limiter: Arc::clone(self), namespace: namespace.to_owned() });
        };
        Err(Error::new(Cause::ProviderAtCapacity, full)
            .with_fix("see why they take so long, or raise --max-mounts; the mount is tried again by itself"))
    }

    fn lock(&self) -> MutexGuard<'_, AcquiredPermits> {
        self.acquired.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for MountPermit {
    fn drop(&mut self) {
        let mut taken = self.limiter.lock();
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
        let limiter = MountLimiter::new(4);
        let take = |namespace: &str, count: usize| -> Vec<MountPermit> {
            std::iter::repeat_with(|| limiter.try_acquire(namespace).ok()).map_while(|slot| slot).take(count).collect()
        };
        let shop = take("shop", 9);
        assert_eq!(shop.len(), 2);
        let error = limiter.try_acquire("shop").unwrap_err().to_string();
        assert!(error.contains("2 mounts of namespace shop") && error.contains("--max-mounts"), "{error}");
        let other = take("other", 1);
        assert_eq!((other.len(), take("third", 9).len()), (1, 1));
        let rest = take("third", 1);
        assert!(limiter.try_acquire("fourth").unwrap_err().to_string().contains("4 mounts are under way"));
        drop((shop, other, rest));
        assert_eq!(limiter.lock().all, 0);
        assert!(limiter.lock().by_namespace.is_empty());
        assert_eq!(MountLimiter::new(1).try_acquire("shop").map(|_| ()), Ok(()));
    }
}
