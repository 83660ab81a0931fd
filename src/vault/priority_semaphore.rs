//! Semaphore for background requests. The request for the credential that expires first gets the next
//! permit.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::{sync::oneshot, time::Instant};

/// Semaphore that grants permits in order of expiry.
pub(super) struct PrioritySemaphore {
    state: Arc<SharedState>,
}

/// Permit of a [`PrioritySemaphore`]. Dropping it grants the next waiter a permit.
pub struct PriorityPermit {
    /// `None` once the permit is handed on.
    state: Option<Arc<SharedState>>,
}

/// Never held across an await.
type SharedState = Mutex<State>;

struct State {
    available: usize,
    /// Waiters by expiry. Those without an expiry come last, and equal ones keep their order of arrival.
    waiters: BTreeMap<(bool, Option<Instant>, u64), oneshot::Sender<PriorityPermit>>,
    last_sequence: u64,
}

impl PrioritySemaphore {
    pub(super) fn new(permits: usize) -> Self {
        Self { state: Arc::new(Mutex::new(State { available: permits, waiters: BTreeMap::new(), last_sequence: 0 })) }
    }

    /// Waits for a permit for work that expires at `expires_at`.
    pub(super) async fn acquire(&self, expires_at: Option<Instant>) -> PriorityPermit {
        loop {
            let granted = {
                let mut state = lock(&self.state);
                if state.available > 0 {
                    state.available -= 1;
                    return PriorityPermit { state: Some(Arc::clone(&self.state)) };
                }
                state.last_sequence += 1;
                let (sender, receiver) = oneshot::channel();
                let priority = (expires_at.is_none(), expires_at, state.last_sequence);
                state.waiters.insert(priority, sender);
                receiver
            };
            // A cancelled waiter is skipped.
            if let Ok(permit) = granted.await {
                return permit;
            }
        }
    }
}

impl Drop for PriorityPermit {
    fn drop(&mut self) {
        let Some(state) = self.state.take() else { return };
        loop {
            let next = {
                let mut locked = lock(&state);
                let next = locked.waiters.pop_first();
                locked.available += usize::from(next.is_none());
                next
            };
            let Some((_, next)) = next else { return };
            match next.send(PriorityPermit { state: Some(Arc::clone(&state)) }) {
                Ok(()) => return,
                // The waiter is gone. Dropping this copy must not hand the permit on again.
                Err(mut permit) => permit.state = None,
            }
        }
    }
}

fn lock(state: &SharedState) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use futures_util::{FutureExt, future::join_all};

    use super::*;

    #[tokio::test]
    async fn priority_semaphore_serves_earliest_expiry_first() {
        let (semaphore, now) = (PrioritySemaphore::new(1), Instant::now());
        let first_permit = semaphore.acquire(None).await;
        let order = Mutex::new(Vec::new());
        let expiries = [Some(30), None, Some(10), Some(20), None, Some(10)];
        let waiting = join_all(expiries.into_iter().enumerate().map(async |(n, expiry)| {
            let permit = semaphore.acquire(expiry.map(|expiry| now + Duration::from_secs(expiry))).await;
            order.lock().unwrap().push(n);
            drop(permit);
        }));
        let mut waiting = std::pin::pin!(waiting);
        assert!(waiting.as_mut().now_or_never().is_none());
        drop(first_permit);
        waiting.await;
        assert_eq!(*order.lock().unwrap(), [2, 5, 3, 0, 1, 4]);
    }

    #[tokio::test]
    async fn priority_semaphore_skips_cancelled_waiters() {
        let semaphore = PrioritySemaphore::new(2);
        let (first, second) = (semaphore.acquire(None).await, semaphore.acquire(None).await);
        let mut cancelled_early = Box::pin(semaphore.acquire(None));
        assert!(cancelled_early.as_mut().now_or_never().is_none());
        let mut cancelled_late = Box::pin(semaphore.acquire(None));
        assert!(cancelled_late.as_mut().now_or_never().is_none());
        drop(cancelled_early);
        drop(first);
        // This waiter has been granted the permit, and is cancelled before it takes it.
        drop(cancelled_late);
        drop(second);
        assert_eq!(lock(&semaphore.state).available, 2);
        assert!(semaphore.acquire(None).now_or_never().is_some());
    }
}
