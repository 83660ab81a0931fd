//! Events of pods, for what nobody else tells: aggregated, bounded, and never waited for.
//!
//! Kubelet tells the failures of a pod's first mount itself, in the driver's words and ours; drivers up to 1.5.6 tell those of a
//! poll. Later ones pass such a failure off as a success, and no driver knows of a credential that ends.

mod waiting;

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
    metrics::{EventWrite, Metrics},
};
use waiting::{Told, Waiting};

/// Takes events. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Events {
    /// Where they are laid down, and a bell for who writes them, who ends when nobody can ring any more. None: none are written.
    told: Option<(Arc<Desk>, mpsc::Sender<()>)>,
}

/// What is to be written, and what became of it.
#[derive(Debug)]
struct Desk {
    /// Never held across an await.
    waiting: Mutex<Waiting>,
    /// How many were given up, less those that may not be written.
    lost: AtomicU64,
    metrics: Arc<Metrics>,
}

/// A pod, as an event names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subject {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its UID.
    pub uid: String,
}

/// Why there is an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Why {
    /// A pod's first mount failed.
    MountFailed,
    /// A poll failed, or left the pod with what it has.
    RefreshFailed,
    /// Polls go well again.
    RefreshRecovered,
    /// The same, when it was an earlier process that told otherwise.
    RefreshRecoveredSince,
    /// The pod has a new credential.
    CredentialRotated,
    /// The class of a pod that runs cannot be used any more.
    ClassInvalid,
    /// What the pod has ends, and nothing replaces it.
    CredentialExpiring,
}

impl Why {
    /// The event's reason.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::MountFailed => "VaultMountFailed",
            Self::RefreshFailed => "VaultRefreshFailed",
            Self::RefreshRecovered | Self::RefreshRecoveredSince => "VaultRefreshRecovered",
            Self::CredentialRotated => "VaultCredentialRotated",
            Self::ClassInvalid => "VaultClassInvalid",
            Self::CredentialExpiring => "VaultCredentialExpiring",
        }
    }

    fn is_recovery(self) -> bool {
        matches!(self, Self::RefreshRecovered | Self::RefreshRecoveredSince)
    }

    fn is_warning(self) -> bool {
        !self.is_recovery() && self != Self::CredentialRotated
    }

    /// Whether it is told once of whatever it is about, so that none stands in for the next.
    fn is_told_once(self) -> bool {
        self.is_recovery() || self == Self::CredentialExpiring
    }
}

/// So many are written at once, and then one in a while: an outage is told by all nodes at once, and the API server shall not
/// suffer for it.
const BURST: usize = 10;
const PAUSE: Duration = Duration::from_secs(10);
/// What happens again is written again so much later.
const AGAIN: Duration = Duration::from_secs(300);
/// The same when it happens for another reason.
const OTHERWISE: Duration = Duration::from_secs(30);
/// What waited for longer is not written any more.
const STALE: Duration = Duration::from_secs(600);
/// How long none are written in a namespace after the API server has said that they may not.
const DENIED: Duration = Duration::from_secs(600);
/// Events remembered, so that the next is counted with it. The API server itself forgets them after an hour.
const MOST: usize = 1024;
const FORGOTTEN: Duration = Duration::from_secs(3600);

impl Events {
    /// Writes them from now on, as this node.
    #[must_use]
    pub fn start(kube: Arc<Kube>, node: String, metrics: Arc<Metrics>) -> Self {
        let (bell, rung) = mpsc::channel(1);
        let desk = Arc::new(Desk { waiting: Mutex::default(), lost: AtomicU64::new(0), metrics });
        let writer = Writer {
            kube,
            node,
            desk: Arc::clone(&desk),
            written: HashMap::new(),
            recent: VecDeque::new(),
            denied: HashMap::new(),
            is_told: false,
        };
        tokio::spawn(writer.run(rung));
        Self { told: Some((desk, bell)) }
    }

    /// Writes one about a pod, soon. `text` goes on only as long as an event may be.
    pub fn tell(&self, pod: impl FnOnce() -> Subject, why: Why, text: impl FnOnce() -> String) {
        let Some((desk, bell)) = &self.told else { return };
        let (pod, now) = (pod(), Instant::now());
        let name = name(&pod.name);
        desk.add(Told { pod, why, text: text(), at: Timestamp::now(), since: now, name, failures: 0, due: now });
        // One that rings already is heard.
        let _ = bell.try_send(());
    }
}

impl Desk {
    fn add(&self, told: Told) {
        if !self.lock().add(told) {
            self.metrics.event_write(EventWrite::Dropped);
            self.lost("too many wait to be written");
        }
    }

    /// Says that an event is not written: at the first, and then ever more seldom.
    fn lost(&self, why: &str) {
        let count = self.lost.fetch_add(1, Relaxed) + 1;
        if count.is_power_of_two() {
            tracing::warn!(lost = count, "an event of a pod is lost: {why}");
        }
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct Writer {
    kube: Arc<Kube>,
    node: String,
    desk: Arc<Desk>,
    written: HashMap<(String, Why), Written>,
    /// When the last were written, the first of them first.
    recent: VecDeque<Instant>,
    /// Namespaces in which they may not be written, and until when that is believed: all of them for want of a right, or one for a
    /// quota or its end.
    denied: HashMap<String, Instant>,
    /// Whether that was said.
    is_told: bool,
}

/// An event that stands.
struct Written {
    name: String,
    text: String,
    first: Timestamp,
    count: u32,
    at: Instant,
}

/// What a poll that failed is told as.
const FAILURES: [Why; 2] = [Why::RefreshFailed, Why::ClassInvalid];

impl Writer {
    async fn run(mut self, mut rung: mpsc::Receiver<()>) {
        loop {
            // Before one is chosen: who comes meanwhile may be the next.
            self.free().await;
            let now = Instant::now();
            let next = self.desk.lock().next(now);
            match next {
                Ok(told) => self.write(told).await,
                Err(due) => {
                    if timeout_at(due.unwrap_or(now + FORGOTTEN), rung.recv()).await == Ok(None) {
                        return;
                    }
                }
            }
        }
    }

    /// Writes one, if it may and need be. What is not written takes nobody's turn.
    async fn write(&mut self, told: Told) {
        // Else nobody was told of it.
        if told.why == Why::RefreshRecovered && !FAILURES.iter().any(|&why| self.written.contains_key(&told.key(why))) {
            return;
        }
        self.written.retain(|_, written| written.at.elapsed() < FORGOTTEN);
        if let Some(written) = self.written.get_mut(&told.key(told.why)) {
            written.count = written.count.saturating_add(u32::from(told.failures == 0));
            let pause = if written.text == told.text { AGAIN } else { OTHERWISE };
            if written.at.elapsed() < pause {
                return;
            }
        }
        if self.denied.get(&told.pod.namespace).is_some_and(|until| Instant::now() < *until) {
            return self.desk.metrics.event_write(EventWrite::Dropped);
        }
        if told.since.elapsed() > STALE {
            self.desk.metrics.event_write(EventWrite::Dropped);
            return self.desk.lost("it waited for too long");
        }
        match self.send(&told).await {
            Ok(()) => self.desk.metrics.event_write(EventWrite::Ok),
            Err(error) => self.failed(told, &error),
        }
    }

    async fn send(&mut self, told: &Told) -> Result<(), Error> {
        let Told { pod, why, text, at, name, .. } = told;
        let key = told.key(*why);
        let (name, first, count) = match self.written.get(&key) {
            Some(written) => (written.name.clone(), written.first, written.count),
            None => (name.clone(), *at, 1),
        };
        let event = Event {
            name: &name,
            namespace: &pod.namespace,
            pod: &pod.name,
            uid: &pod.uid,
            reason: why.word(),
            message: text,
            is_warning: why.is_warning(),
            first,
            last: *at,
            count,
            node: &self.node,
        };
        self.recent.push_back(Instant::now());
        if count == 1 || !self.kube.repeat_event(&event).await? {
            self.kube.create_event(&event).await?;
        }
        if why.is_recovery() {
            // Not before that is told.
            for why in FAILURES {
                self.written.remove(&told.key(why));
            }
        }
        if why.is_told_once() {
            return Ok(());
        }
        if self.written.len() >= MOST {
            self.written.retain(|_, written| written.at.elapsed() < AGAIN);
            if self.written.len() >= MOST {
                self.written.clear();
            }
        }
        let written = Written { name, text: text.clone(), first, count, at: Instant::now() };
        self.written.insert(key, written);
        Ok(())
    }

    /// It could not be written: it is tried again if that may pass.
    fn failed(&mut self, told: Told, error: &Error) {
        tracing::debug!(reason = told.why.word(), pod = told.pod.name, "an event is not written: {error}");
        if error.cause() == Cause::EventsForbidden {
            self.desk.metrics.event_write(EventWrite::Failed);
            if !std::mem::replace(&mut self.is_told, true) {
                tracing::warn!(namespace = told.pod.namespace, "pods get no events: {error}");
            }
            self.denied.retain(|_, until| Instant::now() < *until);
            if self.denied.len() < MOST {
                self.denied.insert(told.pod.namespace, Instant::now() + DENIED);
            }
            return;
        }
        let again = if error.is_passing() { told.again(Instant::now()) } else { None };
        if let Some(again) = again {
            return self.desk.add(again);
        }
        self.desk.metrics.event_write(EventWrite::Failed);
        self.desk.lost(&error.to_string());
    }

    /// Waits until one more may be written.
    async fn free(&mut self) {
        if self.recent.len() >= BURST
            && let Some(first) = self.recent.pop_front()
        {
            sleep_until(first + PAUSE * u32::try_from(BURST).unwrap_or(1)).await;
        }
    }
}

/// A name that no other event has: the pod's, and something random.
fn name(pod: &str) -> String {
    let random = RandomState::new().build_hasher().finish();
    let pod: String = pod.chars().take(230).collect();
    format!("{}.{random:016x}", pod.trim_end_matches(['-', '.']))
}
