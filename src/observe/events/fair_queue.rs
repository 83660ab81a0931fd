//! Bounded queue of pod events, round-robin across namespaces.

use std::{collections::VecDeque, time::Duration};

use jiff::Timestamp;
use tokio::time::Instant;

use super::{EventReason, EventSubject};

/// Queued event.
#[derive(Debug)]
pub(super) struct PendingEvent {
    pub(super) pod: EventSubject,
    pub(super) reason: EventReason,
    pub(super) text: String,
    pub(super) occurred_at: Timestamp,
    pub(super) queued_at: Instant,
    /// Name for a new event, the same in each attempt.
    pub(super) name: String,
    /// Number of failed attempts.
    pub(super) attempts: u32,
    /// Earliest time of the next attempt.
    pub(super) retry_at: Instant,
}

/// Maximum number of queued events. Further events are dropped.
const QUEUE_CAPACITY: usize = 256;
/// Backoff after the first failure, doubled after each further failure.
const INITIAL_BACKOFF: Duration = Duration::from_secs(10);
/// Number of attempts per event. With backoff they take five minutes, longer than a restart of the API server.
const MAX_ATTEMPTS: u32 = 6;

impl PendingEvent {
    /// Returns the key under which a written event is remembered.
    pub(super) fn key(&self, reason: EventReason) -> (String, EventReason) {
        (self.pod.uid.clone(), reason)
    }

    /// Returns the event with the next backoff, or `None` after the last attempt.
    pub(super) fn retry(self, now: Instant) -> Option<Self> {
        let due = now + INITIAL_BACKOFF * (1 << self.attempts);
        Some(Self { attempts: self.attempts + 1, retry_at: due, ..self })
            .filter(|pending| pending.attempts < MAX_ATTEMPTS)
    }
}

/// Queues by namespace, the next one first. No queue is empty.
#[derive(Debug, Default)]
pub(super) struct FairQueue(VecDeque<VecDeque<PendingEvent>>);

impl FairQueue {
    /// Adds an event at the end of its namespace's queue, or at the front for a retry. Returns false if the limit is exceeded; the
    /// last event of the longest queue is then dropped.
    pub(super) fn push(&mut self, pending: PendingEvent) -> bool {
        let is_same_namespace = |queue: &&mut VecDeque<PendingEvent>| {
            queue.front().is_some_and(|f| f.pod.namespace == pending.pod.namespace)
        };
        match self.0.iter_mut().find(is_same_namespace) {
            Some(own) if pending.attempts > 0 => own.push_front(pending),
            Some(own) => own.push_back(pending),
            None => self.0.push_back(VecDeque::from([pending])),
        }
        let fits = self.0.iter().map(VecDeque::len).sum::<usize>() <= QUEUE_CAPACITY;
        if !fits {
            self.0.iter_mut().max_by_key(|queue| queue.len()).and_then(VecDeque::pop_back);
            self.0.retain(|queue| !queue.is_empty());
        }
        fits
    }

    /// Removes the next due event, round-robin across namespaces. Events of a namespace keep their order, so that the last one
    /// shows the current state. The error is the time at which the next event is due.
    pub(super) fn pop_due(&mut self, now: Instant) -> Result<PendingEvent, Option<Instant>> {
        let due = |queue: &VecDeque<PendingEvent>| queue.front().map(|pending| pending.retry_at);
        let is_due = |queue: &VecDeque<PendingEvent>| due(queue).is_some_and(|due| due <= now);
        let position = self.0.iter().position(is_due);
        let mut queue = position.and_then(|at| self.0.remove(at)).unwrap_or_default();
        let pending = queue.pop_front().ok_or_else(|| self.0.iter().filter_map(due).min());
        if !queue.is_empty() {
            self.0.push_back(queue);
        }
        pending
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pending_event(namespace: &str, name: &str) -> PendingEvent {
        let pod = EventSubject { namespace: namespace.to_owned(), name: name.to_owned(), uid: name.to_owned() };
        let (at, since) = (Timestamp::now(), Instant::now());
        let (text, name) = (String::new(), String::new());
        PendingEvent {
            pod,
            reason: EventReason::MountFailed,
            text,
            occurred_at: at,
            queued_at: since,
            name,
            attempts: 0,
            retry_at: since,
        }
    }

    fn pop_pod_name(queue: &mut FairQueue) -> Option<String> {
        queue.pop_due(Instant::now()).ok().map(|pending| pending.pod.name)
    }

    #[tokio::test(start_paused = true)]
    async fn event_queue_overflow_drops_from_largest_namespace() {
        let mut waiting = FairQueue::default();
        let fitted = (0..400).filter(|n| waiting.push(pending_event("loud", &n.to_string()))).count();
        assert_eq!((fitted, waiting.push(pending_event("quiet", "a"))), (QUEUE_CAPACITY, false));
        assert_eq!(
            (pop_pod_name(&mut waiting), pop_pod_name(&mut waiting)),
            (Some("0".to_owned()), Some("a".to_owned()))
        );
        // The last event of the longest queue was dropped.
        let left: Vec<String> = std::iter::from_fn(|| pop_pod_name(&mut waiting)).collect();
        assert_eq!(left, (1..QUEUE_CAPACITY - 1).map(|n| n.to_string()).collect::<Vec<_>>());
    }

    #[tokio::test(start_paused = true)]
    async fn event_queue_with_many_namespaces_is_bounded() {
        let mut waiting = FairQueue::default();
        let fitted = (0..300).filter(|n| waiting.push(pending_event(&n.to_string(), "a"))).count();
        assert_eq!(
            (fitted, std::iter::from_fn(|| pop_pod_name(&mut waiting)).count()),
            (QUEUE_CAPACITY, QUEUE_CAPACITY)
        );
    }

    #[tokio::test(start_paused = true)]
    async fn event_queue_retry_keeps_order_with_growing_backoff() {
        let mut waiting = FairQueue::default();
        waiting.push(pending_event("shop", "a"));
        waiting.push(pending_event("shop", "b"));
        let mut pauses = Vec::new();
        let mut failed = waiting.pop_due(Instant::now()).unwrap();
        while let Some(again) = failed.retry(Instant::now()) {
            waiting.push(again);
            waiting.push(pending_event("bank", "c"));
            assert_eq!(pop_pod_name(&mut waiting).as_deref(), Some("c"), "other namespaces are not delayed");
            let due = waiting.pop_due(Instant::now()).unwrap_err().unwrap();
            pauses.push((due - Instant::now()).as_secs());
            tokio::time::advance(due - Instant::now()).await;
            failed = waiting.pop_due(Instant::now()).unwrap();
            assert_eq!(failed.pod.name, "a");
        }
        assert_eq!(pauses, [10, 20, 40, 80, 160]);
        assert_eq!(
            (pop_pod_name(&mut waiting).as_deref(), waiting.pop_due(Instant::now()).err()),
            (Some("b"), Some(None))
        );
    }
}
