//! Events of pods, for what nobody else tells: aggregated, bounded, and never waited for.
//!
//! Kubelet tells the failures of a pod's first mount itself, in the driver's words and ours; drivers up to 1.5.6 tell those of a
//! poll. Later ones pass such a failure off as a success, and no driver knows of a credential that ends.

use std::{
    collections::{HashMap, VecDeque},
    hash::{BuildHasher, Hasher, RandomState},
    sync::Arc,
    time::Duration,
};

use jiff::Timestamp;
use tokio::{sync::mpsc, time::Instant};

use crate::{
    error::{Cause, Error},
    kube::{Event, Kube},
    metrics::{EventWrite, Metrics},
};

/// Takes events. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Events {
    /// None: none are written.
    told: Option<mpsc::Sender<Told>>,
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
    /// The pod has a new credential.
    CredentialRotated,
    /// The class of a pod that runs cannot be used any more.
    ClassInvalid,
    /// What the pod has ends, and nothing replaces it.
    CredentialEnding,
}

impl Why {
    /// The event's reason.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::MountFailed => "VaultMountFailed",
            Self::RefreshFailed => "VaultRefreshFailed",
            Self::RefreshRecovered => "VaultRefreshRecovered",
            Self::CredentialRotated => "VaultCredentialRotated",
            Self::ClassInvalid => "VaultClassInvalid",
            Self::CredentialEnding => "VaultCredentialEnding",
        }
    }

    fn is_warning(self) -> bool {
        !matches!(self, Self::RefreshRecovered | Self::CredentialRotated)
    }
}

#[derive(Debug)]
struct Told {
    pod: Subject,
    why: Why,
    text: String,
    at: Timestamp,
    since: Instant,
}

/// Events that wait to be written. More are dropped, and counted.
const WAITING: usize = 256;
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
        let (told, waiting) = mpsc::channel(WAITING);
        let writer = Writer {
            kube,
            node,
            metrics: Arc::clone(&metrics),
            written: HashMap::new(),
            recent: VecDeque::new(),
            denied: HashMap::new(),
            is_told: false,
        };
        tokio::spawn(writer.run(waiting));
        Self { told: Some(told), metrics }
    }

    /// Writes one about a pod, soon. `text` goes on only as long as an event may be.
    pub fn tell(&self, pod: impl FnOnce() -> Subject, why: Why, text: impl FnOnce() -> String) {
        let Some(told) = &self.told else { return };
        let event = Told { pod: pod(), why, text: text(), at: Timestamp::now(), since: Instant::now() };
        if told.try_send(event).is_err() {
            self.metrics.event_write(EventWrite::Dropped);
        }
    }
}

struct Writer {
    kube: Arc<Kube>,
    node: String,
    metrics: Arc<Metrics>,
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

impl Writer {
    async fn run(mut self, mut waiting: mpsc::Receiver<Told>) {
        while let Some(told) = waiting.recv().await {
            self.write(told).await;
        }
    }

    async fn write(&mut self, told: Told) {
        let key = (told.pod.uid.clone(), told.why);
        if told.why == Why::RefreshRecovered {
            let mut had_failed = false;
            for why in [Why::RefreshFailed, Why::ClassInvalid] {
                had_failed |= self.written.remove(&(told.pod.uid.clone(), why)).is_some();
            }
            // Else nobody was told of it.
            if !had_failed {
                return;
            }
            // An earlier end is not this one's: what was told last shall be how things are.
            self.written.remove(&key);
        }
        self.written.retain(|_, written| written.at.elapsed() < FORGOTTEN);
        if let Some(written) = self.written.get_mut(&key) {
            written.count = written.count.saturating_add(1);
            let pause = if written.text == told.text { AGAIN } else { OTHERWISE };
            if written.at.elapsed() < pause {
                return;
            }
        }
        // What is not written takes nobody's turn.
        if self.is_futile(&told) {
            return self.metrics.event_write(EventWrite::Dropped);
        }
        self.turn().await;
        if self.is_futile(&told) {
            return self.metrics.event_write(EventWrite::Dropped);
        }
        match self.send(&key, &told).await {
            Ok(()) => self.metrics.event_write(EventWrite::Ok),
            Err(error) => {
                self.metrics.event_write(EventWrite::Failed);
                if error.cause() == Cause::EventsForbidden {
                    if !std::mem::replace(&mut self.is_told, true) {
                        tracing::warn!(namespace = told.pod.namespace, "pods get no events: {error}");
                    }
                    self.denied.retain(|_, until| Instant::now() < *until);
                    if self.denied.len() < MOST {
                        self.denied.insert(told.pod.namespace, Instant::now() + DENIED);
                    }
                } else {
                    tracing::debug!(reason = told.why.word(), pod = told.pod.name, "an event is not written: {error}");
                }
            }
        }
    }

    /// Whether it is too late for it, or it may not be written.
    fn is_futile(&self, told: &Told) -> bool {
        let is_denied = self.denied.get(&told.pod.namespace).is_some_and(|until| Instant::now() < *until);
        is_denied || told.since.elapsed() > STALE
    }

    async fn send(&mut self, key: &(String, Why), told: &Told) -> Result<(), Error> {
        let Told { pod, why, text, at, .. } = told;
        let (name, first, count) = match self.written.get(key) {
            Some(written) => (written.name.clone(), written.first, written.count),
            None => (name(&pod.name), *at, 1),
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
        if count == 1 || !self.kube.repeat_event(&event).await? {
            self.kube.create_event(&event).await?;
        }
        if self.written.len() >= MOST {
            self.written.retain(|_, written| written.at.elapsed() < AGAIN);
            if self.written.len() >= MOST {
                self.written.clear();
            }
        }
        let written = Written { name, text: text.clone(), first, count, at: Instant::now() };
        self.written.insert(key.clone(), written);
        Ok(())
    }

    /// Waits until another may be written.
    async fn turn(&mut self) {
        if self.recent.len() >= BURST
            && let Some(first) = self.recent.pop_front()
        {
            tokio::time::sleep_until(first + PAUSE * u32::try_from(BURST).unwrap_or(1)).await;
        }
        self.recent.push_back(Instant::now());
    }
}

/// A name that no other event has: the pod's, and something random.
fn name(pod: &str) -> String {
    let random = RandomState::new().build_hasher().finish();
    let pod: String = pod.chars().take(230).collect();
    format!("{}.{random:016x}", pod.trim_end_matches(['-', '.']))
}
