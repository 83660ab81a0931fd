//! Single-flight: concurrent callers of an operation share one run and its outcome.

use std::sync::Mutex;

use tokio::sync::watch;

use crate::task;

/// Limits an operation to one run at a time. The run has a task of its own, so a cancelled caller does not stop it.
pub struct SingleFlight<T> {
    /// Never held across an await.
    current: Mutex<Option<watch::Receiver<Option<T>>>>,
}

impl<T> Default for SingleFlight<T> {
    fn default() -> Self {
        Self { current: Mutex::new(None) }
    }
}

impl<T: Clone + Send + Sync + 'static> SingleFlight<T> {
    /// Returns the outcome of the run in flight, or of a new run started with `start`. `None` if the run panicked.
    pub async fn join<F>(&self, start: impl FnOnce() -> F) -> Option<T>
    where
        F: Future<Output = T> + Send + 'static,
    {
        let mut run = self.join_or_start(start);
        let outcome = run.wait_for(Option::is_some).await.ok().and_then(|outcome| outcome.clone());
        self.clear_finished(&run);
        outcome
    }

    /// Drops a run that has ended, and its outcome.
    fn clear_finished(&self, run: &watch::Receiver<Option<T>>) {
        let mut current = self.lock();
        if current.as_ref().is_some_and(|current| current.same_channel(run)) {
            *current = None;
        }
    }

    fn join_or_start<F>(&self, start: impl FnOnce() -> F) -> watch::Receiver<Option<T>>
    where
        F: Future<Output = T> + Send + 'static,
    {
        let mut current = self.lock();
        match &*current {
            // A run that has ended or panicked has dropped its sender.
            Some(run) if run.has_changed().is_ok() => run.clone(),
            _ => {
                let (sender, receiver) = watch::channel(None);
                let run = start();
                task::spawn_boxed(async move {
                    let outcome = run.await;
                    sender.send_replace(Some(outcome));
                });
                *current = Some(receiver.clone());
                receiver
            }
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<watch::Receiver<Option<T>>>> {
        self.current.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::{
            Arc,
            atomic::{AtomicU32, Ordering::SeqCst},
        },
        time::Duration,
    };

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn single_flight_shares_one_run_despite_cancellation() {
        let (single_flight, runs) = (Arc::new(SingleFlight::default()), Arc::new(AtomicU32::new(0)));
        let run = |runs: Arc<AtomicU32>| async move {
            tokio::time::sleep(Duration::from_secs(1)).await;
            runs.fetch_add(1, SeqCst) + 1
        };
        let cancelled = tokio::time::timeout(Duration::from_millis(10), single_flight.join(|| run(runs.clone()))).await;
        assert!(cancelled.is_err());
        let (a, b) = tokio::join!(single_flight.join(|| run(runs.clone())), single_flight.join(|| run(runs.clone())));
        assert_eq!((a, b, runs.load(SeqCst)), (Some(1), Some(1), 1));
        assert_eq!(single_flight.join(|| run(runs.clone())).await, Some(2));
    }

    #[tokio::test]
    async fn single_flight_starts_new_run_after_panic() {
        let single_flight = SingleFlight::<u8>::default();
        assert_eq!(single_flight.join(|| async { panic!("expected by this test") }).await, None);
        assert_eq!(single_flight.join(|| async { 7 }).await, Some(7));
    }
}
