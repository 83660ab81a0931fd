//! When a pod ends. The watch of this node's pods says who may have; an uncached read of the pod decides.

use std::{
    collections::{HashMap, HashSet},
    future::pending,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{
    sync::Notify,
    time::{Instant, sleep, timeout},
};

use super::Renewal;
use crate::{
    clock::{self, with_jitter},
    error::{Cause, Error},
    kube::{Kube, PodEvent, PodState},
    session::Tenant,
    status::{Failed, Watch, Watching},
};

/// The pods of this node, as far as they are known.
pub(super) struct Pods {
    kube: Option<Arc<Kube>>,
    node: Option<String>,
    /// Never held across an await.
    state: Mutex<State>,
    /// A pod may have ended.
    suspicion: Notify,
}

/// How the watch stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stand {
    /// There is no API, or no `--node-name`: nothing tells when a pod ends.
    Off,
    /// The pods were never listed so far.
    Connecting,
    /// Every pod's end is told.
    Synced,
    /// It was interrupted; the pods are those of before.
    Interrupted,
    /// The right to watch lacks.
    Denied,
}

struct State {
    watch: Stand,
    since: Instant,
    trouble: Option<Failed>,
    live: HashSet<String>,
    /// Pods with sessions that the watch has seen leave.
    left: HashSet<String>,
    /// Pods that are not among the live ones, and that the API says live or nothing of.
    asked: HashMap<String, Asked>,
}

/// A pod that was asked for.
struct Asked {
    /// When to ask again.
    again: Instant,
    /// The pause before that.
    pause: Duration,
    /// Whether it could not be read.
    unread: bool,
}

/// The first pause after a failure, and the longest; and the longest while the right to watch lacks.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const MAX_PAUSE: Duration = Duration::from_secs(30);
const DENIED_PAUSE: Duration = Duration::from_secs(60);
/// Failures of a watch, one after another, before the pods are listed again.
const MAX_FAILURES: u32 = 3;
/// How often pods with sessions that the watch does not show are asked for.
const LOOK: Duration = Duration::from_secs(15);
/// The pause before one that lives all the same is asked for again; it doubles.
const MAX_LOOK: Duration = Duration::from_secs(300);
/// The longest pause before one that could not be read is.
const MAX_UNREAD: Duration = Duration::from_secs(60);
/// How long a pod may have a session before the watch must show it.
const GRACE: Duration = Duration::from_secs(5);

impl State {
    fn tells(&self) -> bool {
        matches!(self.watch, Stand::Synced | Stand::Interrupted)
    }
}

impl Pods {
    pub(super) fn new(kube: Option<Arc<Kube>>, node: Option<String>) -> Self {
        let watch = if kube.is_some() && node.is_some() { Stand::Connecting } else { Stand::Off };
        let state = State {
            watch,
            since: clock::now(),
            trouble: None,
            live: HashSet::new(),
            left: HashSet::new(),
            asked: HashMap::new(),
        };
        Self { kube, node, state: Mutex::new(state), suspicion: Notify::new() }
    }

    fn watched(&self) -> Option<(&Kube, &str)> {
        self.kube.as_deref().zip(self.node.as_deref())
    }

    /// Whether the ends of pods are told, now or when the API is back.
    pub(super) fn tells(&self) -> bool {
        self.lock().tells()
    }

    /// Whether the end of this pod is: one that the watch does not show must be read to be sure.
    pub(super) fn tells_of(&self, uid: &str) -> bool {
        let state = self.lock();
        let unread = !state.live.contains(uid) && state.asked.get(uid).is_some_and(|asked| asked.unread);
        state.tells() && !unread
    }

    /// Forgets what is known of others than these pods, which have sessions.
    pub(super) fn keep(&self, tenants: &HashSet<String>) {
        let mut state = self.lock();
        state.left.retain(|uid| tenants.contains(uid));
        state.asked.retain(|uid, _| tenants.contains(uid));
    }

    /// How the watch stands, and how many pods it shows.
    pub(super) fn tell(&self) -> (Watch, usize) {
        let state = self.lock();
        let watch = Watch {
            state: match state.watch {
                Stand::Off => Watching::Off,
                Stand::Connecting => Watching::Connecting,
                Stand::Interrupted => Watching::Interrupted,
                Stand::Synced => Watching::Synced,
                Stand::Denied => Watching::Denied,
            },
            node: self.node.clone(),
            since: Some(clock::time_of_day(state.since)),
            last_error: state.trouble.clone(),
        };
        (watch, if state.tells() { state.live.len() } else { 0 })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn became(&self, watch: Stand) {
        let mut state = self.lock();
        if state.watch != watch {
            (state.watch, state.since) = (watch, clock::now());
        }
    }

    fn met(&self, what: &str, error: &Error) {
        let at = clock::time_of_day(clock::now());
        self.lock().trouble = Some(Failed { at, operation: what.to_owned(), error: error.to_string() });
    }

    /// Notes a failure of the watch, and says it; how long to wait.
    fn failed(&self, error: &Error, pause: Duration) -> Duration {
        let before = self.lock().watch;
        let (watch, pause) = match (error.cause(), before) {
            (Cause::PodsForbidden, _) => (Stand::Denied, DENIED_PAUSE),
            (_, Stand::Synced | Stand::Interrupted) => (Stand::Interrupted, pause),
            (_, before) => (before, pause),
        };
        self.became(watch);
        self.met("watching the pods of this node", error);
        if watch == Stand::Denied && before != Stand::Denied {
            tracing::warn!("nothing tells when pods end, so nothing is revoked: {error}");
        } else {
            tracing::info!("the watch of this node's pods failed and is tried again: {error}");
        }
        with_jitter(pause)
    }
}

impl Renewal {
    /// Keeps the set of this node's pods.
    pub(super) async fn watch(&self) {
        let Some((kube, node)) = self.pods.watched() else {
            tracing::warn!("without a Kubernetes API and --node-name nothing tells when pods end: nothing is revoked");
            return pending().await;
        };
        let mut pause = FIRST_PAUSE;
        loop {
            match self.list(kube, node).await {
                Ok(version) => {
                    pause = FIRST_PAUSE;
                    self.follow(kube, node, version).await;
                }
                Err(error) => {
                    let pausing = self.pods.failed(&error, pause);
                    pause = (pause * 2).min(MAX_PAUSE);
                    sleep(pausing).await;
                }
            }
        }
    }

    async fn list(&self, kube: &Kube, node: &str) -> Result<String, Error> {
        let (pods, version) = kube.node_pods(node).await?;
        tracing::debug!(pods = pods.len(), node, "listed the pods of this node");
        let mut unread = false;
        {
            let State { live, asked, .. } = &mut *self.pods.lock();
            *live = pods.into_iter().map(|pod| pod.uid).collect();
            asked.retain(|uid, asked| {
                let listed = live.contains(uid);
                unread |= listed && asked.unread;
                !listed
            });
        }
        if unread {
            self.reconsider();
        }
        self.pods.suspicion.notify_one();
        Ok(version)
    }

    /// A watch was granted. A list alone tells of no end: who may list may not always watch.
    fn watches(&self) {
        let told = self.pods.tells();
        self.pods.became(Stand::Synced);
        if !told {
            self.reconsider();
            self.pods.suspicion.notify_one();
        }
    }

    /// Follows the events after a version, through as many watches as that takes; returns when the history is lost.
    async fn follow(&self, kube: &Kube, node: &str, mut version: String) {
        let (mut pause, mut failures) = (FIRST_PAUSE, 0);
        loop {
            let ended = match kube.watch_node_pods(node, &version).await {
                Ok(mut watch) => {
                    self.watches();
                    let ended = loop {
                        match watch.next().await {
                            Ok(Some(PodEvent::There(pod))) => self.there(pod.uid),
                            Ok(Some(PodEvent::Left(pod))) => self.left(pod.uid),
                            Ok(Some(PodEvent::Expired)) => return,
                            Ok(None) => break Ok(()),
                            Err(error) => break Err(error),
                        }
                        (pause, failures) = (FIRST_PAUSE, 0);
                    };
                    watch.version().clone_into(&mut version);
                    ended
                }
                Err(error) => Err(error),
            };
            match ended {
                Ok(()) => sleep(with_jitter(FIRST_PAUSE)).await,
                Err(error) => {
                    failures += 1;
                    let pausing = self.pods.failed(&error, pause);
                    pause = (pause * 2).min(MAX_PAUSE);
                    sleep(pausing).await;
                    // The version may be what the server cannot deal with.
                    if failures >= MAX_FAILURES {
                        return;
                    }
                }
            }
        }
    }

    fn there(&self, uid: String) {
        let asked = {
            let mut state = self.pods.lock();
            let asked = state.asked.remove(&uid);
            state.live.insert(uid);
            asked
        };
        if asked.is_some_and(|asked| asked.unread) {
            self.reconsider();
        }
    }

    fn left(&self, uid: String) {
        let has_session = self.sessions.has(&uid);
        let mut state = self.pods.lock();
        state.live.remove(&uid);
        if has_session {
            state.asked.remove(&uid);
            state.left.insert(uid);
            drop(state);
            self.pods.suspicion.notify_one();
        }
    }

    /// Ends the sessions of pods that the watch does not show and an uncached read shows to be over.
    pub(super) async fn reap(self: &Arc<Self>) {
        let Some((kube, node)) = self.pods.watched() else { return pending().await };
        let mut warned = false;
        loop {
            let _ = timeout(LOOK, self.pods.suspicion.notified()).await;
            for tenant in self.suspects() {
                match kube.pod(&tenant.namespace, &tenant.name).await {
                    Ok(PodState::Running { uid }) if uid == tenant.uid => {
                        self.lives(&tenant.uid);
                        if !std::mem::replace(&mut warned, true) {
                            tracing::warn!(
                                pod = tenant.name,
                                namespace = tenant.namespace,
                                node,
                                "a pod with a session is not among the pods of this node; is --node-name right?"
                            );
                        }
                    }
                    Ok(PodState::Running { .. } | PodState::Finished { .. } | PodState::Gone) => {
                        let mut state = self.pods.lock();
                        state.left.remove(&tenant.uid);
                        state.asked.remove(&tenant.uid);
                        drop(state);
                        self.end(&tenant.uid);
                    }
                    Err(error) => {
                        if !self.put_off(&tenant.uid, true) {
                            tracing::warn!(
                                pod = tenant.name,
                                namespace = tenant.namespace,
                                "whether the pod is over cannot be read; its token is kept: {error}"
                            );
                        }
                        self.pods.met("reading whether a pod is over", &error);
                    }
                }
            }
        }
    }

    /// Pods with sessions that the watch does not show.
    fn suspects(&self) -> Vec<Tenant> {
        if !self.pods.tells() {
            return Vec::new();
        }
        let (tenants, now) = (self.sessions.tenants(), clock::now());
        let state = self.pods.lock();
        let is_suspect = |tenant: &Tenant| {
            let settled = now.saturating_duration_since(tenant.begun) >= GRACE;
            let asked = state.asked.get(&tenant.uid).is_some_and(|asked| now < asked.again);
            !asked && (state.left.contains(&tenant.uid) || (!state.live.contains(&tenant.uid) && settled))
        };
        tenants.into_iter().filter(is_suspect).collect()
    }

    fn lives(&self, uid: &str) {
        self.pods.lock().left.remove(uid);
        if self.put_off(uid, false) {
            self.reconsider();
        }
    }

    /// Asks for a pod again after a pause that doubles. Whether it could not be read before.
    fn put_off(&self, uid: &str, unread: bool) -> bool {
        let most = if unread { MAX_UNREAD } else { MAX_LOOK };
        let mut state = self.pods.lock();
        let now = clock::now();
        let pause = state.asked.get(uid).map_or(LOOK, |asked| (asked.pause * 2).min(most));
        let before = state.asked.insert(uid.to_owned(), Asked { again: now + pause, pause, unread });
        before.is_some_and(|asked| asked.unread)
    }
}
