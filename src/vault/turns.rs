//! Turns for requests that nobody waits for: few at once, and whoever's time ends first is first.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::{sync::oneshot, time::Instant};

/// So many turns at once.
pub(super) struct Turns {
    state: Arc<Shared>,
}

/// A turn; the next one's when it is dropped.
pub struct Turn {
    /// None once it is handed on.
    state: Option<Arc<Shared>>,
}

/// Never held across an await.
type Shared = Mutex<State>;

struct State {
    free: usize,
    /// By urgency: what has no end comes last, and what is equally urgent as it came.
    waiting: BTreeMap<(bool, Option<Instant>, u64), oneshot::Sender<Turn>>,
    came: u64,
}

impl Turns {
    pub(super) fn new(at_once: usize) -> Self {
        Self { state: Arc::new(Mutex::new(State { free: at_once, waiting: BTreeMap::new(), came: 0 })) }
    }

    /// A turn for what is over at `end`; waits until there is one.
    pub(super) async fn take(&self, end: Option<Instant>) -> Turn {
        loop {
            let waiting = {
                let mut state = lock(&self.state);
                if state.free > 0 {
                    state.free -= 1;
                    return Turn { state: Some(Arc::clone(&self.state)) };
                }
                state.came += 1;
                let (sender, receiver) = oneshot::channel();
                let place = (end.is_none(), end, state.came);
                state.waiting.insert(place, sender);
                receiver
            };
            // Whoever goes away while it waits is passed over.
            if let Ok(turn) = waiting.await {
                return turn;
            }
        }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let Some(state) = self.state.take() else { return };
        loop {
            let next = {
                let mut state = lock(&state);
                let next = state.waiting.pop_first();
                state.free += usize::from(next.is_none());
                next
            };
            let Some((_, next)) = next else { return };
            match next.send(Turn { state: Some(Arc::clone(&state)) }) {
                Ok(()) => return,
                // Nobody is there: it must not be handed on twice.
                Err(mut turn) => turn.state = None,
            }
        }
    }
}

fn lock(state: &Shared) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use futures_util::{FutureExt, future::join_all};

    use super::*;

    #[tokio::test]
    async fn the_most_urgent_is_next_and_what_has_no_end_is_last() {
        let (turns, now) = (Turns::new(1), Instant::now());
        let first = turns.take(None).await;
        let order = Mutex::new(Vec::new());
        let ends = [Some(30), None, Some(10), Some(20), None, Some(10)];
        let waiting = join_all(ends.into_iter().enumerate().map(async |(n, end)| {
            let turn = turns.take(end.map(|end| now + Duration::from_secs(end))).await;
            order.lock().unwrap().push(n);
            drop(turn);
        }));
        let mut waiting = std::pin::pin!(waiting);
        assert!(waiting.as_mut().now_or_never().is_none());
        drop(first);
        waiting.await;
        assert_eq!(*order.lock().unwrap(), [2, 5, 3, 0, 1, 4]);
    }

    #[tokio::test]
    async fn who_goes_away_takes_no_turn_along() {
        let turns = Turns::new(2);
        let (one, two) = (turns.take(None).await, turns.take(None).await);
        let mut gone = Box::pin(turns.take(None));
        assert!(gone.as_mut().now_or_never().is_none());
        let mut handed = Box::pin(turns.take(None));
        assert!(handed.as_mut().now_or_never().is_none());
        drop(gone);
        drop(one);
        // Its turn has come, and it goes before it takes it.
        drop(handed);
        drop(two);
        assert_eq!(lock(&turns.state).free, 2);
        assert!(turns.take(None).now_or_never().is_some());
    }
}
