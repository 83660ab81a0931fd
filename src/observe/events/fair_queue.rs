//! Events that wait to be written: so many at most, and each namespace's in its turn.

use std::{collections::VecDeque, time::Duration};

use jiff::Timestamp;
use tokio::time::Instant;

use super::{EventReason, EventSubject};

/// An event that was told.
#[derive(Debug)]
pub(super) struct PendingEvent {
    pub(super) pod: EventSubject,
    pub(super) reason: EventReason,
    pub(super) text: String,
    pub(super) occurred_at: Timestamp,
    pub(super) queued_at: Instant,
    /// The event's own name, should it be a new one: the same in each attempt.
    pub(super) name: String,
    /// How often it could not be written.
    pub(super) attempts: u32,
    /// When it may be written.
    pub(super) retry_at: Instant,
}

/// Events that wait. More are dropped.
const QUEUE_CAPACITY: usize = 256;
/// The pause after the first failure; each is twice the one before.
const INITIAL_BACKOFF: Duration = Duration::from_secs(10);
/// So often one is written in vain. With their pauses that is five minutes: longer than an API server takes to be back.
const MAX_ATTEMPTS: u32 = 6;

impl PendingEvent {
    /// What an event is remembered by.
    pub(super) fn key(&self, reason: EventReason) -> (String, EventReason) {
        (self.pod.uid.clone(), reason)
    }

    /// The same after another failure; none when that was the last.
    pub(super) fn retry(self, now: Instant) -> Option<Self> {
        let due = now + INITIAL_BACKOFF * (1 << self.attempts);
        Some(Self { attempts: self.attempts + 1, retry_at: due, ..self }).filter(|told| told.attempts < MAX_ATTEMPTS)
    }
}

/// What waits, by namespace: that whose turn is next first. None is empty.
#[derive(Debug, Default)]
pub(super) struct FairQueue(VecDeque<VecDeque<PendingEvent>>);

impl FairQueue {
    /// Takes one in: as the last of its namespace, or as the first if it was that before. False when one is dropped for it, the
    /// last of the namespace that has the most.
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

    /// Takes out the next that is due: of each namespace in turn, and of one namespace in their order, so that what was told
    /// last is how things are. Or when there will be one.
    pub(super) fn pop_due(&mut self, now: Instant) -> Result<PendingEvent, Option<Instant>> {
        let due = |queue: &VecDeque<PendingEvent>| queue.front().map(|told| told.retry_at);
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
        queue.pop_due(Instant::now()).ok().map(|told| told.pod.name)
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
        // What is dropped is the last of those that are too many.
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
            assert_eq!(pop_pod_name(&mut waiting).as_deref(), Some("c"), "nobody else waits for it");
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
