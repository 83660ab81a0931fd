//! Pod events for failures that Kubernetes does not report: aggregated, limited in number, and written in the background.
//!
//! Kubelet reports failures of a pod's first mount itself, with the messages of the driver and vaultmount. Drivers up to 1.5.6
//! also report failures of a poll. Later drivers report such a poll as successful. No driver reports an expiring credential.

mod fair_queue;

use std::{
    collections::{HashMap, VecDeque},
    hash::{BuildHasher, Hasher, RandomState},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use jiff::Timestamp;
use tokio::{
    sync::mpsc,
    time::{Instant, sleep_until, timeout_at},
};

use crate::{
    error::{Cause, Error},
    kube::{Event, Kube},
    observe::metrics::{EventWrite, Metrics},
};
use fair_queue::{FairQueue, PendingEvent};

/// Sender of pod events. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct EventRecorder {
    /// Outbox and the channel that wakes the writer task, which ends when all senders are dropped. `None` if events are off.
    outbox: Option<(Arc<Outbox>, mpsc::Sender<()>)>,
}

/// Queued events and the count of dropped ones.
#[derive(Debug)]
struct Outbox {
    /// Never locked across an await.
    queue: Mutex<FairQueue>,
    /// Number of dropped events, without those that were denied.
    dropped: AtomicU64,
    metrics: Arc<Metrics>,
}

/// Pod that an event is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EventSubject {
    /// Namespace of the pod.
    pub namespace: String,
    /// Name of the pod.
    pub name: String,
    /// UID of the pod.
    pub uid: String,
}

/// Reason of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum EventReason {
    /// First mount of a pod failed.
    MountFailed,
    /// Poll failed, or served stale secrets.
    RefreshFailed,
    /// Polls succeed again.
    RefreshRecovered,
    /// Polls succeed again after an earlier process reported the failure.
    RefreshRecoveredAfterRestart,
    /// Credential of the pod was replaced by a new one.
    CredentialRotated,
    /// Class of a running pod is no longer valid.
    ClassInvalid,
    /// Credential of the pod expires without a replacement.
    CredentialExpiring,
}

impl EventReason {
    /// Returns the reason as it appears in the event.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::MountFailed => "VaultMountFailed",
            Self::RefreshFailed => "VaultRefreshFailed",
            Self::RefreshRecovered | Self::RefreshRecoveredAfterRestart => "VaultRefreshRecovered",
            Self::CredentialRotated => "VaultCredentialRotated",
            Self::ClassInvalid => "VaultClassInvalid",
            Self::CredentialExpiring => "VaultCredentialExpiring",
        }
    }

    fn is_recovery(self) -> bool {
        matches!(self, Self::RefreshRecovered | Self::RefreshRecoveredAfterRestart)
    }

    fn is_warning(self) -> bool {
        !self.is_recovery() && self != Self::CredentialRotated
    }

    /// Returns true if each occurrence gets its own event instead of a higher count.
    fn is_one_shot(self) -> bool {
        self.is_recovery() || self == Self::CredentialExpiring
    }
}

/// Number of events in a burst. All nodes report an outage at once, so the rate is limited to protect the API server.
const BURST_EVENTS: usize = 10;
/// Average interval between events after a burst.
const EVENT_INTERVAL: Duration = Duration::from_secs(10);
/// Minimum interval between updates of an event with the same text.
const REPEAT_INTERVAL: Duration = Duration::from_secs(300);
/// Minimum interval between updates of an event with a changed text.
const CHANGED_TEXT_INTERVAL: Duration = Duration::from_secs(30);
/// Age at which queued events are dropped.
const MAX_QUEUE_TIME: Duration = Duration::from_secs(600);
/// Time without events in a namespace after the API server denied one there.
const DENIED_BACKOFF: Duration = Duration::from_secs(600);
/// Maximum number of remembered events, so that a repeat increases the count.
const MAX_REMEMBERED_EVENTS: usize = 1024;
/// Time an event is remembered. The API server deletes events after an hour.
const REMEMBERED_EVENT_TTL: Duration = Duration::from_secs(3600);

impl EventRecorder {
    /// Starts the writer task, which reports as node `node`.
    #[must_use]
    pub fn start(kube: Arc<Kube>, node: String, metrics: Arc<Metrics>) -> Self {
        let (wake_sender, wakeups) = mpsc::channel(1);
        let outbox = Arc::new(Outbox { queue: Mutex::default(), dropped: AtomicU64::new(0), metrics });
        let writer = Writer {
            kube,
            node,
            outbox: Arc::clone(&outbox),
            written: HashMap::new(),
            recent_writes: VecDeque::new(),
            denied_until: HashMap::new(),
            denial_logged: false,
        };
        tokio::spawn(writer.run(wakeups));
        Self { outbox: Some((outbox, wake_sender)) }
    }

    /// Queues an event about a pod. Texts longer than the limit of an event are truncated.
    pub fn emit(&self, pod: impl FnOnce() -> EventSubject, reason: EventReason, text: impl FnOnce() -> String) {
        let Some((outbox, wake_sender)) = &self.outbox else { return };
        let (pod, now) = (pod(), Instant::now());
        let name = event_name(&pod.name);
        outbox.add(PendingEvent {
            pod,
            reason,
            text: text(),
            occurred_at: Timestamp::now(),
            queued_at: now,
            name,
            attempts: 0,
            retry_at: now,
        });
        // A full channel means that the writer is already being woken.
        let _ = wake_sender.try_send(());
    }
}

impl Outbox {
    fn add(&self, pending: PendingEvent) {
        if !self.lock().push(pending) {
            self.metrics.count_event(EventWrite::Dropped);
            self.count_dropped("the queue is full");
        }
    }

    /// Counts a dropped event and logs it when the count is a power of two.
    fn count_dropped(&self, reason: &str) {
        let count = self.dropped.fetch_add(1, Relaxed) + 1;
        if count.is_power_of_two() {
            tracing::warn!(lost = count, reason, "pod event dropped");
        }
    }

    fn lock(&self) -> MutexGuard<'_, FairQueue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct Writer {
    kube: Arc<Kube>,
    node: String,
    outbox: Arc<Outbox>,
    written: HashMap<(String, EventReason), WrittenEvent>,
    /// Times of the last writes, oldest first.
    recent_writes: VecDeque<Instant>,
    /// Namespaces in which events are denied, and the time of the next attempt. The reason may be missing permissions, a quota, or
    /// a namespace that is being deleted.
    denied_until: HashMap<String, Instant>,
    /// Set after the first denial was logged.
    denial_logged: bool,
}

/// Event that exists in the API server.
struct WrittenEvent {
    name: String,
    text: String,
    first_timestamp: Timestamp,
    count: u32,
    written_at: Instant,
}

/// Reasons of events for failed polls.
const FAILURE_REASONS: [EventReason; 2] = [EventReason::RefreshFailed, EventReason::ClassInvalid];

impl Writer {
    async fn run(mut self, mut wakeups: mpsc::Receiver<()>) {
        loop {
            // Wait before choosing: an event queued meanwhile may come first.
            self.wait_for_rate_limit().await;
            let now = Instant::now();
            let next = self.outbox.lock().pop_due(now);
            match next {
                Ok(pending) => self.deliver(pending).await,
                Err(due_at) => {
                    if timeout_at(due_at.unwrap_or(now + REMEMBERED_EVENT_TTL), wakeups.recv()).await == Ok(None) {
                        return;
                    }
                }
            }
        }
    }

    /// Writes an event unless it is redundant or denied. Skipped events do not count towards the rate limit.
    async fn deliver(&mut self, pending: PendingEvent) {
        // A recovery is only reported if the failure was.
        if pending.reason == EventReason::RefreshRecovered
            && !FAILURE_REASONS.iter().any(|&reason| self.written.contains_key(&pending.key(reason)))
        {
            return;
        }
        self.written.retain(|_, written| written.written_at.elapsed() < REMEMBERED_EVENT_TTL);
        if let Some(written) = self.written.get_mut(&pending.key(pending.reason)) {
            written.count = written.count.saturating_add(u32::from(pending.attempts == 0));
            let interval = if written.text == pending.text { REPEAT_INTERVAL } else { CHANGED_TEXT_INTERVAL };
            if written.written_at.elapsed() < interval {
                return;
            }
        }
        if self.denied_until.get(&pending.pod.namespace).is_some_and(|until| Instant::now() < *until) {
            return self.outbox.metrics.count_event(EventWrite::Dropped);
        }
        if pending.queued_at.elapsed() > MAX_QUEUE_TIME {
            self.outbox.metrics.count_event(EventWrite::Dropped);
            return self.outbox.count_dropped("queued for too long");
        }
        match self.send(&pending).await {
            Ok(()) => self.outbox.metrics.count_event(EventWrite::Ok),
            Err(error) => self.handle_failure(pending, &error),
        }
    }

    async fn send(&mut self, pending: &PendingEvent) -> Result<(), Error> {
        let PendingEvent { pod, reason, text, occurred_at: at, name, .. } = pending;
        let key = pending.key(*reason);
        let (name, first, count) = match self.written.get(&key) {
            Some(written) => (written.name.clone(), written.first_timestamp, written.count),
            None => (name.clone(), *at, 1),
        };
        let event = Event {
            name: &name,
            namespace: &pod.namespace,
            pod: &pod.name,
            uid: &pod.uid,
            reason: reason.as_str(),
            message: text,
            is_warning: reason.is_warning(),
            first_timestamp: first,
            last_timestamp: *at,
            count,
            node: &self.node,
        };
        self.recent_writes.push_back(Instant::now());
        if count == 1 || !self.kube.bump_event_count(&event).await? {
            self.kube.create_event(&event).await?;
        }
        if reason.is_recovery() {
            // Forget the failures only after the recovery was written.
            for failure_reason in FAILURE_REASONS {
                self.written.remove(&pending.key(failure_reason));
            }
        }
        if reason.is_one_shot() {
            return Ok(());
        }
        if self.written.len() >= MAX_REMEMBERED_EVENTS {
            self.written.retain(|_, written| written.written_at.elapsed() < REPEAT_INTERVAL);
            if self.written.len() >= MAX_REMEMBERED_EVENTS {
                self.written.clear();
            }
        }
        let written =
            WrittenEvent { name, text: text.clone(), first_timestamp: first, count, written_at: Instant::now() };
        self.written.insert(key, written);
        Ok(())
    }

    /// Handles a failed write. Transient errors are retried.
    fn handle_failure(&mut self, pending: PendingEvent, error: &Error) {
        tracing::debug!(%error, reason = pending.reason.as_str(), pod = pending.pod.name, "pod event not written");
        if error.cause() == Cause::EventsForbidden {
            self.outbox.metrics.count_event(EventWrite::Failed);
            if !std::mem::replace(&mut self.denial_logged, true) {
                tracing::warn!(%error, namespace = pending.pod.namespace, "pod events denied");
            }
            self.denied_until.retain(|_, until| Instant::now() < *until);
            if self.denied_until.len() < MAX_REMEMBERED_EVENTS {
                self.denied_until.insert(pending.pod.namespace, Instant::now() + DENIED_BACKOFF);
            }
            return;
        }
        let retry = if error.is_transient() { pending.retry(Instant::now()) } else { None };
        if let Some(retry) = retry {
            return self.outbox.add(retry);
        }
        self.outbox.metrics.count_event(EventWrite::Failed);
        self.outbox.count_dropped(&error.to_string());
    }

    /// Waits until the rate limit allows another event.
    async fn wait_for_rate_limit(&mut self) {
        if self.recent_writes.len() >= BURST_EVENTS
            && let Some(first) = self.recent_writes.pop_front()
        {
            sleep_until(first + EVENT_INTERVAL * u32::try_from(BURST_EVENTS).unwrap_or(1)).await;
        }
    }
}

/// Returns a unique event name: the pod's name and a random suffix.
fn event_name(pod: &str) -> String {
    let random = RandomState::new().build_hasher().finish();
    let pod: String = pod.chars().take(230).collect();
    format!("{}.{random:016x}", pod.trim_end_matches(['-', '.']))
}
