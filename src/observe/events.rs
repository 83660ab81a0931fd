//! Events of pods, for what nobody else tells: aggregated, bounded, and never waited for.
//!
//! Kubelet tells the failures of a pod's first mount itself, in the driver's words and ours; drivers up to 1.5.6 tell those of a
//! poll. Later ones pass such a failure off as a success, and no driver knows of a credential that ends.

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

/// Takes events. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct EventRecorder {
    /// Where they are laid down, and a bell for who writes them, who ends when nobody can ring any more. None: none are written.
    outbox: Option<(Arc<Outbox>, mpsc::Sender<()>)>,
}

/// What is to be written, and what became of it.
#[derive(Debug)]
struct Outbox {
    /// Never held across an await.
    queue: Mutex<FairQueue>,
    /// How many were given up, less those that may not be written.
    dropped: AtomicU64,
    metrics: Arc<Metrics>,
}

/// A pod, as an event names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EventSubject {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its UID.
    pub uid: String,
}

/// Why there is an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum EventReason {
    /// A pod's first mount failed.
    MountFailed,
    /// A poll failed, or left the pod with what it has.
    RefreshFailed,
    /// Polls go well again.
    RefreshRecovered,
    /// The same, when it was an earlier process that told otherwise.
    RefreshRecoveredAfterRestart,
    /// The pod has a new credential.
    CredentialRotated,
    /// The class of a pod that runs cannot be used any more.
    ClassInvalid,
    /// What the pod has ends, and nothing replaces it.
    CredentialExpiring,
}

impl EventReason {
    /// The event's reason.
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

    /// Whether it is told once of whatever it is about, so that none stands in for the next.
    fn is_one_shot(self) -> bool {
        self.is_recovery() || self == Self::CredentialExpiring
    }
}

/// So many are written at once, and then one in a while: an outage is told by all nodes at once, and the API server shall not
/// suffer for it.
const BURST_EVENTS: usize = 10;
const EVENT_INTERVAL: Duration = Duration::from_secs(10);
/// What happens again is written again so much later.
const REPEAT_INTERVAL: Duration = Duration::from_secs(300);
/// The same when it happens for another reason.
const CHANGED_TEXT_INTERVAL: Duration = Duration::from_secs(30);
/// What waited for longer is not written any more.
const MAX_QUEUE_TIME: Duration = Duration::from_secs(600);
/// How long none are written in a namespace after the API server has said that they may not.
const DENIED_BACKOFF: Duration = Duration::from_secs(600);
/// Events remembered, so that the next is counted with it. The API server itself forgets them after an hour.
const MAX_REMEMBERED_EVENTS: usize = 1024;
const REMEMBERED_EVENT_TTL: Duration = Duration::from_secs(3600);

impl EventRecorder {
    /// Writes them from now on, as this node.
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

    /// Writes one about a pod, soon. `text` goes on only as long as an event may be.
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
        // One that rings already is heard.
        let _ = wake_sender.try_send(());
    }
}

impl Outbox {
    fn add(&self, pending: PendingEvent) {
        if !self.lock().push(pending) {
            self.metrics.count_event(EventWrite::Dropped);
            self.count_dropped("too many wait to be written");
        }
    }

    /// Says that an event is not written: at the first, and then ever more seldom.
    fn count_dropped(&self, reason: &str) {
        let count = self.dropped.fetch_add(1, Relaxed) + 1;
        if count.is_power_of_two() {
            tracing::warn!(lost = count, "an event of a pod is lost: {reason}");
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
    /// When the last were written, the first of them first.
    recent_writes: VecDeque<Instant>,
    /// Namespaces in which they may not be written, and until when that is believed: all of them for want of a right, or one for a
    /// quota or its end.
    denied_until: HashMap<String, Instant>,
    /// Whether that was said.
    denial_logged: bool,
}

/// An event that stands.
struct WrittenEvent {
    name: String,
    text: String,
    first_timestamp: Timestamp,
    count: u32,
    written_at: Instant,
}

/// What a poll that failed is told as.
const FAILURE_REASONS: [EventReason; 2] = [EventReason::RefreshFailed, EventReason::ClassInvalid];

impl Writer {
    async fn run(mut self, mut wakeups: mpsc::Receiver<()>) {
        loop {
            // Before one is chosen: who comes meanwhile may be the next.
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

    /// Writes one, if it may and need be. What is not written takes nobody's turn.
    async fn deliver(&mut self, pending: PendingEvent) {
        // Else nobody was told of it.
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
            return self.outbox.count_dropped("it waited for too long");
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
            // Not before that is told.
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

    /// It could not be written: it is tried again if that may pass.
    fn handle_failure(&mut self, pending: PendingEvent, error: &Error) {
        tracing::debug!(reason = pending.reason.as_str(), pod = pending.pod.name, "an event is not written: {error}");
        if error.cause() == Cause::EventsForbidden {
            self.outbox.metrics.count_event(EventWrite::Failed);
            if !std::mem::replace(&mut self.denial_logged, true) {
                tracing::warn!(namespace = pending.pod.namespace, "pods get no events: {error}");
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

    /// Waits until one more may be written.
    async fn wait_for_rate_limit(&mut self) {
        if self.recent_writes.len() >= BURST_EVENTS
            && let Some(first) = self.recent_writes.pop_front()
        {
            sleep_until(first + EVENT_INTERVAL * u32::try_from(BURST_EVENTS).unwrap_or(1)).await;
        }
    }
}

/// A name that no other event has: the pod's, and something random.
fn event_name(pod: &str) -> String {
    let random = RandomState::new().build_hasher().finish();
    let pod: String = pod.chars().take(230).collect();
    format!("{}.{random:016x}", pod.trim_end_matches(['-', '.']))
}
