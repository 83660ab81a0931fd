//! Detection of pods that have ended. The watch of this node's pods yields candidates, and an uncached read of each pod
//! decides.

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

use super::Reconciler;
use crate::{
    clock::{self, with_jitter},
    error::{Cause, Error},
    kube::{Kube, PodEvent, PodState, watch_state::WatchState},
    observe::status::{LastErrorStatus, WatchStatus},
    session::PodWithSessions,
};

/// Known state of the pods on this node.
pub(super) struct PodWatcher {
    kube: Option<Arc<Kube>>,
    node: Option<String>,
    /// Lock is never held across an await.
    state: Mutex<PodWatcherState>,
    /// Signals that a pod may have ended.
    recheck: Notify,
}

struct PodWatcherState {
    watch_state: WatchState,
    since: Instant,
    last_error: Option<LastErrorStatus>,
    live_pods: HashSet<String>,
    /// Pods with sessions that the watch reported as removed.
    departed_pods: HashSet<String>,
    /// Rechecks of pods that the watch does not show, but that the API server reports as running or cannot return.
    rechecks: HashMap<String, Recheck>,
}

/// Backoff state of a pod that was read from the API server.
struct Recheck {
    /// Time of the next read.
    due_at: Instant,
    /// Delay before that read.
    interval: Duration,
    /// `true` if the last read failed.
    is_unreadable: bool,
}

/// Delay after the first failed watch. It doubles up to [`MAX_WATCH_BACKOFF`], or is [`DENIED_WATCH_BACKOFF`] while the
/// watch is denied.
const INITIAL_WATCH_BACKOFF: Duration = Duration::from_secs(1);
const MAX_WATCH_BACKOFF: Duration = Duration::from_secs(30);
const DENIED_WATCH_BACKOFF: Duration = Duration::from_secs(60);
/// Consecutive watch failures before the pods are listed again.
const MAX_WATCH_FAILURES: u32 = 3;
/// Interval between reads of pods with sessions that the watch does not show.
const RECHECK_INTERVAL: Duration = Duration::from_secs(15);
/// Maximum delay before a running pod that the watch does not show is read again. The delay doubles with each read.
const MAX_RECHECK_INTERVAL: Duration = Duration::from_secs(300);
/// Maximum delay before a pod is read again after a failed read.
const MAX_UNREADABLE_INTERVAL: Duration = Duration::from_secs(60);
/// Time after a session begins before the watch must show its pod.
const NEW_SESSION_GRACE_PERIOD: Duration = Duration::from_secs(5);

impl PodWatcherState {
    fn is_watching(&self) -> bool {
        matches!(self.watch_state, WatchState::Synced | WatchState::Interrupted)
    }
}

impl PodWatcher {
    pub(super) fn new(kube: Option<Arc<Kube>>, node: Option<String>) -> Self {
        let watch_state = if kube.is_some() && node.is_some() { WatchState::Connecting } else { WatchState::Off };
        let state = PodWatcherState {
            watch_state,
            since: clock::now(),
            last_error: None,
            live_pods: HashSet::new(),
            departed_pods: HashSet::new(),
            rechecks: HashMap::new(),
        };
        Self { kube, node, state: Mutex::new(state), recheck: Notify::new() }
    }

    fn watch_target(&self) -> Option<(&Kube, &str)> {
        self.kube.as_deref().zip(self.node.as_deref())
    }

    /// Returns `true` if the watch reports removed pods, now or when the API server is available again.
    pub(super) fn is_watching(&self) -> bool {
        self.lock().is_watching()
    }

    /// Returns `true` if vaultmount can detect the end of this pod. A pod that the watch does not show counts only if
    /// its reads succeed.
    pub(super) fn is_tracked(&self, uid: &str) -> bool {
        let state = self.lock();
        let is_unreadable =
            !state.live_pods.contains(uid) && state.rechecks.get(uid).is_some_and(|asked| asked.is_unreadable);
        state.is_watching() && !is_unreadable
    }

    /// Removes the state of all pods except these, which have sessions.
    pub(super) fn retain(&self, pod_uids: &HashSet<String>) {
        let mut state = self.lock();
        state.departed_pods.retain(|uid| pod_uids.contains(uid));
        state.rechecks.retain(|uid, _| pod_uids.contains(uid));
    }

    /// Returns the status of the watch and the number of pods in it.
    pub(super) fn status(&self) -> (WatchStatus, usize) {
        let state = self.lock();
        let watch_status = WatchStatus {
            state: state.watch_state,
            node: self.node.clone(),
            since: Some(clock::time_of_day(state.since)),
            last_error: state.last_error.clone(),
        };
        (watch_status, if state.is_watching() { state.live_pods.len() } else { 0 })
    }

    fn lock(&self) -> MutexGuard<'_, PodWatcherState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set_state(&self, watch_state: WatchState) {
        let mut state = self.lock();
        if state.watch_state != watch_state {
            (state.watch_state, state.since) = (watch_state, clock::now());
        }
    }

    fn record_error(&self, operation: &str, error: &Error) {
        let at = clock::time_of_day(clock::now());
        self.lock().last_error =
            Some(LastErrorStatus { at, operation: operation.to_owned(), error: error.to_string() });
    }

    /// Records and logs a watch failure. Returns the delay before the retry, with jitter.
    fn record_watch_failure(&self, error: &Error, backoff: Duration) -> Duration {
        let previous = self.lock().watch_state;
        let (watch_state, backoff) = match (error.cause(), previous) {
            (Cause::PodsForbidden, _) => (WatchState::Denied, DENIED_WATCH_BACKOFF),
            (_, WatchState::Synced | WatchState::Interrupted) => (WatchState::Interrupted, backoff),
            (_, before) => (before, backoff),
        };
        self.set_state(watch_state);
        self.record_error("watching the pods of this node", error);
        if watch_state == WatchState::Denied && previous != WatchState::Denied {
            tracing::warn!(%error, "pod watch denied; tokens will not be revoked when pods end");
        } else {
            tracing::info!(%error, "pod watch failed, retrying");
        }
        with_jitter(backoff)
    }
}

impl Reconciler {
    /// Maintains the set of pods on this node.
    pub(super) async fn watch_pods(&self) {
        let Some((kube, node)) = self.pod_watcher.watch_target() else {
            tracing::warn!("pod watch off without --node-name or Kubernetes API; tokens will not be revoked");
            return pending().await;
        };
        let mut backoff = INITIAL_WATCH_BACKOFF;
        loop {
            match self.list_pods(kube, node).await {
                Ok(version) => {
                    backoff = INITIAL_WATCH_BACKOFF;
                    self.follow_watch(kube, node, version).await;
                }
                Err(error) => {
                    let delay = self.pod_watcher.record_watch_failure(&error, backoff);
                    backoff = (backoff * 2).min(MAX_WATCH_BACKOFF);
                    sleep(delay).await;
                }
            }
        }
    }

    async fn list_pods(&self, kube: &Kube, node: &str) -> Result<String, Error> {
        let (pods, version) = kube.node_pods(node).await?;
        tracing::debug!(pods = pods.len(), node, "listed pods of this node");
        let mut had_unreadable = false;
        {
            let PodWatcherState { live_pods, rechecks, .. } = &mut *self.pod_watcher.lock();
            *live_pods = pods.into_iter().map(|pod| pod.uid).collect();
            rechecks.retain(|uid, recheck| {
                let listed = live_pods.contains(uid);
                had_unreadable |= listed && recheck.is_unreadable;
                !listed
            });
        }
        if had_unreadable {
            self.requeue_all();
        }
        self.pod_watcher.recheck.notify_one();
        Ok(version)
    }

    /// Marks the watch as open. A successful list is not enough, because RBAC may allow a list but not a watch.
    fn on_watch_open(&self) {
        let was_watching = self.pod_watcher.is_watching();
        self.pod_watcher.set_state(WatchState::Synced);
        if !was_watching {
            self.requeue_all();
            self.pod_watcher.recheck.notify_one();
        }
    }

    /// Processes the events after `version`, and opens new watches as needed. Returns when the history is lost, or
    /// after [`MAX_WATCH_FAILURES`] consecutive failures.
    async fn follow_watch(&self, kube: &Kube, node: &str, mut version: String) {
        let (mut backoff, mut failures) = (INITIAL_WATCH_BACKOFF, 0);
        loop {
            let outcome = match kube.watch_node_pods(node, &version).await {
                Ok(mut watch) => {
                    self.on_watch_open();
                    let outcome = loop {
                        match watch.next().await {
                            Ok(Some(PodEvent::Applied(pod))) => self.on_pod_added(pod.uid),
                            Ok(Some(PodEvent::Deleted(pod))) => self.on_pod_removed(pod.uid),
                            Ok(Some(PodEvent::Expired)) => return,
                            Ok(None) => break Ok(()),
                            Err(error) => break Err(error),
                        }
                        (backoff, failures) = (INITIAL_WATCH_BACKOFF, 0);
                    };
                    watch.version().clone_into(&mut version);
                    outcome
                }
                Err(error) => Err(error),
            };
            match outcome {
                Ok(()) => sleep(with_jitter(INITIAL_WATCH_BACKOFF)).await,
                Err(error) => {
                    failures += 1;
                    let delay = self.pod_watcher.record_watch_failure(&error, backoff);
                    backoff = (backoff * 2).min(MAX_WATCH_BACKOFF);
                    sleep(delay).await;
                    // The API server may reject this resource version, so list the pods again.
                    if failures >= MAX_WATCH_FAILURES {
                        return;
                    }
                }
            }
        }
    }

    fn on_pod_added(&self, uid: String) {
        let recheck = {
            let mut state = self.pod_watcher.lock();
            let recheck = state.rechecks.remove(&uid);
            state.live_pods.insert(uid);
            recheck
        };
        if recheck.is_some_and(|asked| asked.is_unreadable) {
            self.requeue_all();
        }
    }

    fn on_pod_removed(&self, uid: String) {
        let has_session = self.sessions.has_pod(&uid);
        let mut state = self.pod_watcher.lock();
        state.live_pods.remove(&uid);
        if has_session {
            state.rechecks.remove(&uid);
            state.departed_pods.insert(uid);
            drop(state);
            self.pod_watcher.recheck.notify_one();
        }
    }

    /// Ends the sessions of pods that the watch does not show, once an uncached read shows that the pod has ended.
    pub(super) async fn end_missing_pods(self: &Arc<Self>) {
        let Some((kube, node)) = self.pod_watcher.watch_target() else { return pending().await };
        let mut has_warned = false;
        loop {
            let _ = timeout(RECHECK_INTERVAL, self.pod_watcher.recheck.notified()).await;
            for tenant in self.missing_pods() {
                match kube.pod(&tenant.namespace, &tenant.name).await {
                    Ok(PodState::Running { uid }) if uid == tenant.uid => {
                        self.mark_alive(&tenant.uid);
                        if !std::mem::replace(&mut has_warned, true) {
                            tracing::warn!(
                                pod = tenant.name,
                                namespace = tenant.namespace,
                                node,
                                "pod with a session runs on another node; check --node-name"
                            );
                        }
                    }
                    Ok(PodState::Running { .. } | PodState::Finished { .. } | PodState::Gone) => {
                        let mut state = self.pod_watcher.lock();
                        state.departed_pods.remove(&tenant.uid);
                        state.rechecks.remove(&tenant.uid);
                        drop(state);
                        self.end_pod(&tenant.uid);
                    }
                    Err(error) => {
                        if !self.backoff_recheck(&tenant.uid, true) {
                            tracing::warn!(
                                pod = tenant.name,
                                namespace = tenant.namespace,
                                %error,
                                "pod state unreadable; its token is kept"
                            );
                        }
                        self.pod_watcher.record_error("reading whether a pod is over", &error);
                    }
                }
            }
        }
    }

    /// Returns the pods with sessions that the watch does not show.
    fn missing_pods(&self) -> Vec<PodWithSessions> {
        if !self.pod_watcher.is_watching() {
            return Vec::new();
        }
        let (pods, now) = (self.sessions.pods(), clock::now());
        let state = self.pod_watcher.lock();
        let is_missing = |tenant: &PodWithSessions| {
            let is_settled = now.saturating_duration_since(tenant.since) >= NEW_SESSION_GRACE_PERIOD;
            let is_backing_off = state.rechecks.get(&tenant.uid).is_some_and(|asked| now < asked.due_at);
            !is_backing_off
                && (state.departed_pods.contains(&tenant.uid) || (!state.live_pods.contains(&tenant.uid) && is_settled))
        };
        pods.into_iter().filter(is_missing).collect()
    }

    fn mark_alive(&self, uid: &str) {
        self.pod_watcher.lock().departed_pods.remove(uid);
        if self.backoff_recheck(uid, false) {
            self.requeue_all();
        }
    }

    /// Schedules the next read of a pod, with a delay that doubles. Returns `true` if the previous read failed.
    fn backoff_recheck(&self, uid: &str, is_unreadable: bool) -> bool {
        let max_interval = if is_unreadable { MAX_UNREADABLE_INTERVAL } else { MAX_RECHECK_INTERVAL };
        let mut state = self.pod_watcher.lock();
        let now = clock::now();
        let interval = state.rechecks.get(uid).map_or(RECHECK_INTERVAL, |asked| (asked.interval * 2).min(max_interval));
        let previous =
            state.rechecks.insert(uid.to_owned(), Recheck { due_at: now + interval, interval, is_unreadable });
        previous.is_some_and(|asked| asked.is_unreadable)
    }
}
