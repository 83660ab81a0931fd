//! The sessions of a node, by pod.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

use super::{SavedSession, Session, SessionKey, saved::Recorder};
use crate::{
    clock,
    error::{Cause, Error},
    lease::Lease,
    metrics::Metrics,
    state::{Name, Store},
    vault::{Client, wire::Read},
};

/// The sessions of a node.
pub struct Sessions {
    max: usize,
    metrics: Arc<Metrics>,
    /// Where they are kept for a successor.
    store: Option<Arc<Store>>,
    /// Never held across an await.
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// A pod has few: one for each role, server or namespace that its classes name.
    by_pod: HashMap<String, Vec<Arc<Session>>>,
    count: usize,
    closed: bool,
}

/// What a volume got in a mount.
pub struct Delivery<'a> {
    /// Its directory on the node.
    pub target_path: &'a str,
    /// Its class; empty when the driver does not say.
    pub class: &'a str,
    /// What was read for it.
    pub leases: &'a [(Arc<Read>, Arc<Lease>)],
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
    /// Keeps `max` sessions at most, in `store` for a successor, and counts in `metrics` what becomes of them.
    #[must_use]
    pub fn new(max: usize, metrics: Arc<Metrics>, store: Option<Arc<Store>>) -> Self {
        Self { max, metrics, store, state: Mutex::default() }
    }

    /// Takes in a session that was read from the file of this name and of so many bytes. None when it does not hold together.
    pub fn restore(
        &self,
        saved: SavedSession,
        name: &Name,
        bytes: u64,
        client: Result<Client, Error>,
        shared: impl FnMut(Read) -> Arc<Read>,
    ) -> Option<Arc<Session>> {
        let session = saved.restore(client, Arc::clone(&self.metrics), self.store.clone(), bytes, shared)?;
        let session = Arc::new(session);
        if let Some(store) = self.store.as_ref().filter(|_| session.key.name() != *name) {
            // Another version of vaultmount named it otherwise.
            store.remove(name, bytes);
            session.changed();
        }
        let mut state = self.state();
        state.by_pod.entry(session.key.pod_uid.clone()).or_default().push(Arc::clone(&session));
        state.count += 1;
        Some(session)
    }

    /// Forgets everything, which another process has now.
    pub fn forget(&self) {
        let mut state = self.state();
        state.count = 0;
        state.by_pod.clear();
    }

    /// The session of a key, made if there is none. When there are too many, those that are over are dropped, or else the most
    /// silent of which nothing can be renewed or revoked; no other, so that a new one is refused.
    pub fn open(&self, key: SessionKey, client: Client) -> Result<Arc<Session>, Error> {
        let mut state = self.state();
        if state.closed {
            return Err(Error::new(Cause::Closed, "this provider has revoked every token (`vaultmount revoke --all`)")
                .advice("restart it to serve pods again"));
        }
        if let Some(session) = state.by_pod.get(&key.pod_uid).and_then(|all| all.iter().find(|s| s.key == key)) {
            session.heard();
            session.state().client = Ok(client);
            return Ok(Arc::clone(session));
        }
        if state.count >= self.max {
            state.sweep(Session::is_over);
        }
        if state.count >= self.max
            && let Some(session) = state.drop_most_silent()
        {
            let SessionKey { pod_name: pod, pod_namespace: namespace, .. } = &session.key;
            tracing::warn!(
                pod,
                namespace,
                "--max-sessions is reached: this silent pod's session makes way, and the ends of what it has are told no more"
            );
        }
        if state.count >= self.max {
            return Err(Error::new(Cause::Overloaded, format!("{} sessions are open on this node", state.count))
                .advice("raise --max-sessions; the mount is tried again by itself"));
        }
        // One for all, not one for each pod.
        let endpoint = Arc::clone(client.endpoint());
        let key = SessionKey { endpoint, ..key };
        let recorder = Recorder::new(self.store.clone());
        let session = Arc::new(Session::new(key.clone(), Ok(client), Arc::clone(&self.metrics), recorder));
        state.by_pod.entry(key.pod_uid).or_default().push(Arc::clone(&session));
        state.count += 1;
        Ok(session)
    }

    /// The session of a key, if there is one.
    #[must_use]
    pub fn find(&self, key: &SessionKey) -> Option<Arc<Session>> {
        let state = self.state();
        let found = state.by_pod.get(&key.pod_uid)?.iter().find(|session| session.key == *key).cloned();
        found.filter(|_| !state.closed).inspect(|session| session.heard())
    }

    /// A mount's files are on their way to the pod. Whether any is new to it.
    pub fn delivered(&self, session: &Arc<Session>, delivery: &Delivery<'_>) -> bool {
        let now = clock::now();
        let new = delivery.leases.iter().fold(false, |new, (read, lease)| session.leases.delivered(read, lease) | new);
        let (volume, is_known) = {
            let mut state = session.state();
            let volumes = &mut state.volumes;
            let known = volumes.iter().any(|volume| &*volume.path == delivery.target_path && volume.mounts > 1);
            (volumes.mounted(delivery.target_path, delivery.class, now), known)
        };
        let named = session.leases.name(&volume, delivery.leases.iter().map(|(read, _)| read), now);
        // Also the second mount, which shows that there are polls.
        if new || named || !is_known {
            session.changed();
        }
        let others: Vec<Arc<Session>> = {
            let state = self.state();
            let all = state.by_pod.get(&session.key.pod_uid).map(Vec::as_slice).unwrap_or_default();
            all.iter().filter(|other| !Arc::ptr_eq(other, session)).cloned().collect()
        };
        for other in others {
            // The class was edited: what the volume had of another session lives to its own end.
            let left = other.state().volumes.left(delivery.target_path);
            if let Some(volume) = left {
                other.leases.name(&volume, [], now);
                other.changed();
                other.save_soon();
            }
        }
        new
    }

    /// Every pod with a session.
    #[must_use]
    pub fn tenants(&self) -> Vec<Tenant> {
        let state = self.state();
        let tenants = state.by_pod.iter().filter_map(|(uid, sessions)| {
            let SessionKey { pod_namespace, pod_name, .. } = &sessions.first()?.key;
            Some(Tenant {
                uid: uid.clone(),
                namespace: pod_namespace.clone(),
                name: pod_name.clone(),
                begun: sessions.iter().map(|session| session.begun).min()?,
            })
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
        self.state().by_pod.values().flatten().cloned().collect()
    }

    /// Takes a pod's sessions out, to be ended.
    #[must_use]
    pub fn take(&self, uid: &str) -> Vec<Arc<Session>> {
        let mut state = self.state();
        let taken = state.by_pod.remove(uid).unwrap_or_default();
        state.count -= taken.len();
        taken
    }

    /// Refuses every mount from now on, and takes out all sessions, to be ended.
    #[must_use]
    pub fn close(&self) -> Vec<Arc<Session>> {
        let mut state = self.state();
        state.closed = true;
        state.count = 0;
        std::mem::take(&mut state.by_pod).into_values().flatten().collect()
    }

    /// What is counted.
    #[must_use]
    pub fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// Whether every mount is refused.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.state().closed
    }

    /// Forgets the sessions of pods of whose end nothing tells, and that are over; those that have a certificate or a static
    /// credential still, after a day.
    pub fn sweep(&self, is_untold: impl Fn(&str) -> bool) {
        self.state().sweep(|session| is_untold(&session.key.pod_uid) && session.is_over());
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
    fn sweep(&mut self, may_go: impl Fn(&Session) -> bool) {
        for sessions in self.by_pod.values_mut() {
            sessions.retain(|session| {
                let stays = Arc::strong_count(session) > 1 || !may_go(session);
                if !stays {
                    session.erase();
                }
                stays
            });
        }
        self.by_pod.retain(|_, sessions| !sessions.is_empty());
        self.count = self.by_pod.values().map(Vec::len).sum();
    }

    fn drop_most_silent(&mut self) -> Option<Arc<Session>> {
        let spent = self.by_pod.values().flatten().filter(|s| Arc::strong_count(s) == 1 && s.is_spent());
        let session = Arc::clone(spent.max_by_key(|session| session.silence().0)?);
        let pod = self.by_pod.get_mut(&session.key.pod_uid)?;
        pod.retain(|other| !Arc::ptr_eq(other, &session));
        if pod.is_empty() {
            self.by_pod.remove(&session.key.pod_uid);
        }
        self.count -= 1;
        session.erase();
        Some(session)
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
