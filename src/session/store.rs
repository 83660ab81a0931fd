//! The sessions of a node, by pod.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

use super::{Observers, PodRef, SavedSession, Session, SessionKey, saved::Recorder};
use crate::{
    audit::Audit,
    clock,
    error::{Cause, Error},
    events::Events,
    lease::Lease,
    metrics::Metrics,
    state::{Name, Store},
    telemetry::Repeats,
    vault::{Client, wire::SecretRequest},
};

/// The sessions of a node.
pub struct Sessions {
    max: usize,
    observers: Observers,
    /// Where they are kept for a successor.
    store: Option<Arc<Store>>,
    /// Why pods kept what they had.
    kept: Repeats<String>,
    /// Never held across an await.
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// A pod has few: one for each role, server or namespace that its classes name. One that pods share stands with each of them.
    by_pod: HashMap<String, Vec<Arc<Session>>>,
    /// Those that pods share, by the UID of their service account.
    shared: HashMap<String, Vec<Arc<Session>>>,
    count: usize,
    closed: bool,
}

/// What a volume got in a mount.
pub struct Delivery<'a> {
    /// Its pod.
    pub pod_uid: &'a str,
    /// Its directory on the node.
    pub target_path: &'a str,
    /// Its class; empty when the driver does not say.
    pub class: &'a str,
    /// What was read for it.
    pub leases: &'a [(Arc<SecretRequest>, Arc<Lease>)],
    /// Whether some of it should have been read anew, and could not be.
    pub keeps: bool,
}

/// A pod that has a session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tenant {
    /// Its UID.
    pub uid: String,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// When the first of its sessions began.
    pub begun: Instant,
}

/// How long a pod without a living token is remembered, unless its end is told, so that its unchanged files keep their bytes:
/// longer than any pause between polls or attempts.
const SILENCE: Duration = Duration::from_secs(1800);
/// How long a pod counts as living from which nothing is heard nor to be expected, when nothing tells of its end.
pub const UNHEARD: Duration = Duration::from_secs(24 * 3600);

impl Sessions {
    /// Keeps `max` sessions at most, in `store` for a successor; tells `observers` what becomes of them.
    #[must_use]
    pub fn new(max: usize, observers: Observers, store: Option<Arc<Store>>) -> Self {
        Self { max, observers, store, kept: Repeats::default(), state: Mutex::default() }
    }

    /// Takes in a session that was read from the file of this name and of so many bytes. None when it does not hold together.
    pub fn restore(
        &self,
        saved: SavedSession,
        (name, bytes): (Name, u64),
        client: Result<Client, Error>,
        shared: impl FnMut(SecretRequest) -> Arc<SecretRequest>,
    ) -> Option<Arc<Session>> {
        let session = saved.restore(client, self.observers.clone(), self.store.clone(), (name, bytes), shared)?;
        let session = Arc::new(session);
        self.state().insert(&session, session.pod_uids());
        Some(session)
    }

    /// Where it is told what pods are given.
    #[must_use]
    pub fn audit(&self) -> &Audit {
        &self.observers.audit
    }

    /// Where pods' owners are told.
    #[must_use]
    pub fn events(&self) -> &Events {
        &self.observers.events
    }

    /// The session under which a volume of a pod was mounted.
    #[must_use]
    pub fn of_volume(&self, pod_uid: &str, target_path: &str) -> Option<Arc<Session>> {
        let sessions = self.state().by_pod.get(pod_uid).cloned().unwrap_or_default();
        sessions.into_iter().find(|session| session.has_mounted(target_path))
    }

    /// Why pods kept what they had, by their volumes' directories.
    #[must_use]
    pub fn kept(&self) -> &Repeats<String> {
        &self.kept
    }

    /// How many there may be.
    #[must_use]
    pub fn limit(&self) -> usize {
        self.max
    }

    /// Forgets everything, which another process has now.
    pub fn forget(&self) {
        let mut state = self.state();
        *state = State { closed: state.closed, ..State::default() };
    }

    /// The session of a key, made if there is none, for a pod. When there are too many, those that are over or were never used are
    /// dropped, or else the most silent of which nothing can be renewed or revoked; no other, so that a new one is refused.
    pub fn open(&self, key: SessionKey, pod: &PodRef, client: Client) -> Result<Arc<Session>, Error> {
        let mut state = self.state();
        if state.closed {
            return Err(Error::new(Cause::Closed, "this provider has revoked every token (`vaultmount revoke --all`)")
                .advice("restart it to serve pods again"));
        }
        if let Some(session) = state.find(&key, &pod.uid) {
            session.heard();
            session.state().client = Ok(client);
            return Ok(session);
        }
        if let Some(session) = state.find_shared(&key) {
            session.joined(pod);
            state.by_pod.entry(pod.uid.clone()).or_default().push(Arc::clone(&session));
            session.heard();
            session.state().client = Ok(client);
            return Ok(session);
        }
        self.admit(&mut state, &key.pod_namespace)?;
        // One for all, not one for each pod.
        let endpoint = Arc::clone(client.endpoint());
        let key = SessionKey { endpoint, ..key };
        let recorder = Recorder::new(self.store.clone());
        let session = Arc::new(Session::new(key.clone(), Ok(client), self.observers.clone(), recorder));
        if session.is_shared() {
            session.joined(pod);
        }
        state.insert(&session, [pod.uid.clone()]);
        Ok(session)
    }

    /// Makes room for another session: of what is over or never came to anything, or else of the most silent. An error when there is
    /// none; a Kubernetes namespace has half of it at most, so that there is room for another's at any time.
    fn admit(&self, state: &mut State, namespace: &str) -> Result<(), Error> {
        let half = (self.max / 2).max(1);
        if state.count < half {
            return Ok(());
        }
        let own = |state: &State| state.all().filter(|session| session.key.pod_namespace == namespace).count();
        if state.count >= self.max || own(state) >= half {
            state.sweep(|session| session.is_over() || session.is_unused());
        }
        let is_crowded = own(state) >= half;
        let goes = |session: &Session| !is_crowded || session.key.pod_namespace == namespace;
        if (state.count >= self.max || is_crowded)
            && let Some(session) = state.drop_most_silent(goes)
        {
            let SessionKey { pod_name: pod, pod_namespace: namespace, .. } = &session.key;
            tracing::warn!(
                pod,
                namespace,
                "--max-sessions is reached: this silent pod's session makes way, and the ends of what it has are told no more"
            );
        }
        let own = own(state);
        let full = if own >= half {
            format!("{own} sessions of namespace {namespace} are open on this node, half of what it keeps")
        } else if state.count >= self.max {
            format!("{} sessions are open on this node", state.count)
        } else {
            return Ok(());
        };
        Err(Error::new(Cause::Overloaded, full).advice("raise --max-sessions; the mount is tried again by itself"))
    }

    /// Drops the sessions that never came to anything, and so lets go of their clients. Whether there were any.
    pub fn drop_unused(&self) -> bool {
        let mut state = self.state();
        let before = state.count;
        state.sweep(Session::is_unused);
        state.count < before
    }

    /// The session of a key, if there is one that is for this pod.
    #[must_use]
    pub fn find(&self, key: &SessionKey, pod_uid: &str) -> Option<Arc<Session>> {
        let state = self.state();
        state.find(key, pod_uid).filter(|_| !state.closed).inspect(|session| session.heard())
    }

    /// A mount's files are on their way to the pod. Whether any is new to it.
    pub fn delivered(&self, session: &Arc<Session>, delivery: &Delivery<'_>) -> bool {
        let now = clock::now();
        let new = delivery.leases.iter().fold(false, |new, (read, lease)| session.leases.delivered(read, lease) | new);
        let (volume, is_new, is_known) = {
            let mut state = session.state();
            if session.is_shared() && state.pods.find(delivery.pod_uid).is_none() {
                // The pod has ended meanwhile: nothing would end this volume.
                return new;
            }
            let volumes = &mut state.volumes;
            let known = volumes.iter().any(|volume| &*volume.path == delivery.target_path && volume.mounts > 1);
            let pod = session.is_shared().then_some(delivery.pod_uid);
            let given = delivery.leases.iter().map(|(_, lease)| lease.serial);
            let (volume, is_new) =
                volumes.mounted((delivery.target_path, delivery.class), pod, given, delivery.keeps, now);
            (volume, is_new, known)
        };
        let named = session.leases.name(&volume, delivery.leases.iter().map(|(read, _)| read), now);
        // Also the second mount, which shows that there are polls.
        if new || named || !is_known {
            session.changed();
        }
        let others: Vec<Arc<Session>> = {
            let state = self.state();
            let all = state.by_pod.get(delivery.pod_uid).map(Vec::as_slice).unwrap_or_default();
            all.iter().filter(|other| !Arc::ptr_eq(other, session)).cloned().collect()
        };
        for other in others {
            // The class was edited: what the volume had of another session lives to its own end.
            let left = other.state().volumes.left(delivery.target_path);
            if let Some((volume, failed)) = left {
                session.state().volumes.came(&volume, failed);
                other.leases.name(&volume, [], now);
                other.changed();
                other.save_soon();
            }
        }
        new || is_new
    }

    /// Every pod with a session.
    #[must_use]
    pub fn tenants(&self) -> Vec<Tenant> {
        let state = self.state();
        let tenants = state.by_pod.iter().filter_map(|(uid, sessions)| {
            let begun = sessions.iter().filter_map(|session| session.tenant(uid)).map(|(_, begun)| begun).min()?;
            let (name, _) = sessions.iter().find_map(|session| session.tenant(uid))?;
            Some(Tenant { uid: uid.clone(), namespace: sessions.first()?.key.pod_namespace.clone(), name, begun })
        });
        tenants.collect()
    }

    /// Whether a pod has a session.
    #[must_use]
    pub fn has(&self, uid: &str) -> bool {
        self.state().by_pod.contains_key(uid)
    }

    /// Every session, for those who tell of them.
    #[must_use]
    pub fn all(&self) -> Vec<Arc<Session>> {
        self.state().all().cloned().collect()
    }

    /// Takes a pod's sessions out, to be ended; those that other pods share stay, less this pod.
    #[must_use]
    pub fn take(&self, uid: &str) -> Vec<Arc<Session>> {
        let mut state = self.state();
        let mut taken = state.by_pod.remove(uid).unwrap_or_default();
        taken.retain(|session| {
            let stays = session.is_shared() && session.left(uid);
            if stays {
                session.save_soon();
            }
            !stays
        });
        state.shared.retain(|_, sessions| {
            sessions.retain(|session| !taken.iter().any(|taken| Arc::ptr_eq(taken, session)));
            !sessions.is_empty()
        });
        state.count -= taken.len();
        taken
    }

    /// Refuses every mount from now on, and takes out all sessions, to be ended.
    #[must_use]
    pub fn close(&self) -> Vec<Arc<Session>> {
        let mut state = self.state();
        let all = state.all().cloned().collect();
        *state = State { closed: true, ..State::default() };
        all
    }

    /// What is counted.
    #[must_use]
    pub fn metrics(&self) -> &Metrics {
        &self.observers.metrics
    }

    /// Whether every mount is refused.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.state().closed
    }

    /// Forgets the sessions of pods of whose end nothing tells, and that are over; those that have a certificate or a static
    /// credential still, after a day.
    pub fn sweep(&self, is_untold: impl Fn(&str) -> bool) {
        let mut state = self.state();
        state.leave_silent(&is_untold);
        state.sweep(|session| session.pod_uids().iter().all(|uid| is_untold(uid)) && session.is_over());
    }

    /// Removes files that could not be read for a day.
    pub fn sweep_files(&self) {
        if let Some(store) = &self.store {
            store.sweep();
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn find(&self, key: &SessionKey, pod_uid: &str) -> Option<Arc<Session>> {
        self.by_pod.get(pod_uid)?.iter().find(|session| session.key == *key).cloned()
    }

    fn find_shared(&self, key: &SessionKey) -> Option<Arc<Session>> {
        self.shared.get(key.shared_by.as_ref()?)?.iter().find(|session| session.key == *key).cloned()
    }

    fn insert(&mut self, session: &Arc<Session>, pods: impl IntoIterator<Item = String>) {
        for uid in pods {
            self.by_pod.entry(uid).or_default().push(Arc::clone(session));
        }
        if let Some(uid) = &session.key.shared_by {
            self.shared.entry(uid.clone()).or_default().push(Arc::clone(session));
        }
        self.count += 1;
    }

    /// Each once.
    fn all(&self) -> impl Iterator<Item = &Arc<Session>> {
        let own = self.by_pod.values().flatten().filter(|session| !session.is_shared());
        own.chain(self.shared.values().flatten())
    }

    /// Those that nobody uses.
    fn idle(&self) -> impl Iterator<Item = &Arc<Session>> {
        self.all().filter(|session| {
            let kept = if session.is_shared() { 1 + session.state().pods.len() } else { 1 };
            Arc::strong_count(session) <= kept
        })
    }

    /// Lets pods of whose end nothing tells leave the sessions that they share, once they have been silent for long.
    fn leave_silent(&mut self, is_untold: impl Fn(&str) -> bool) {
        let (shared, now) = (self.shared.values().flatten().cloned().collect::<Vec<_>>(), clock::now());
        for session in shared {
            for uid in session.silent_pods(now).into_iter().filter(|uid| is_untold(uid)) {
                session.left(&uid);
                if let Some(sessions) = self.by_pod.get_mut(&uid) {
                    sessions.retain(|other| !Arc::ptr_eq(other, &session));
                    if sessions.is_empty() {
                        self.by_pod.remove(&uid);
                    }
                }
            }
        }
    }

    fn sweep(&mut self, may_go: impl Fn(&Session) -> bool) {
        let over: Vec<u64> = self.idle().filter(|session| may_go(session)).map(|session| session.id).collect();
        self.drop(&over);
    }

    fn drop_most_silent(&mut self, may_go: impl Fn(&Session) -> bool) -> Option<Arc<Session>> {
        let spent = self.idle().filter(|session| may_go(session) && session.is_spent());
        let session = Arc::clone(spent.max_by_key(|session| session.silence().0)?);
        self.drop(&[session.id]);
        Some(session)
    }

    fn drop(&mut self, over: &[u64]) {
        if over.is_empty() {
            return;
        }
        for sessions in self.by_pod.values_mut().chain(self.shared.values_mut()) {
            sessions.retain(|session| {
                let goes = over.contains(&session.id);
                if goes {
                    session.erase();
                }
                !goes
            });
        }
        self.by_pod.retain(|_, sessions| !sessions.is_empty());
        self.shared.retain(|_, sessions| !sessions.is_empty());
        self.count = self.all().count();
    }
}

impl Session {
    /// Its pod asked for something.
    fn heard(&self) {
        let mut state = self.state();
        state.last_heard = clock::now();
        state.resting = None;
    }

    /// Whether it is spent, and has no certificate or static credential whose end may be told, or was silent for a day.
    fn is_over(&self) -> bool {
        self.is_spent() && (self.silence().0 > UNHEARD || !self.leases.any_lives(clock::now()))
    }

    /// Whether it never came to anything: no token, and nothing for a volume.
    fn is_unused(&self) -> bool {
        let state = self.state();
        state.hold.is_none() && state.superseded.is_empty() && state.volumes.iter().next().is_none()
    }

    /// Whether its pod has been silent for long, so that no poll is to be expected, and every token of it is over, so that
    /// nothing can be renewed or revoked.
    fn is_spent(&self) -> bool {
        let (state, now) = (self.state(), clock::now());
        // One that Vault did not know may be known to another of its servers.
        let lives = state.hold.iter().chain(&state.superseded).any(|hold| !hold.is_over(now));
        let silence = now.saturating_duration_since(state.last_heard);
        let expected = SILENCE.max(state.volumes.gap().unwrap_or_default() * 3);
        !lives && silence > expected
    }
}
