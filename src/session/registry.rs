//! The sessions of a node, by pod.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

use super::{SavedSession, Session, SessionKey, SharingPod, persistence::StateFile};
use crate::{
    cache::CachedSecret,
    clock,
    error::{Cause, Error},
    observe::{Observers, audit::AuditLog, metrics::Metrics},
    state::{FileId, Store},
    vault::{Client, request::SecretRequest},
};

/// The sessions of a node.
pub struct SessionRegistry {
    max_sessions: usize,
    observers: Observers,
    /// Store of the state files for a successor.
    state_store: Option<Arc<Store>>,
    /// Never held across an await.
    state: Mutex<RegistryState>,
}

#[derive(Default)]
struct RegistryState {
    /// Few per pod: one for each role, server or namespace of its classes. A shared session is listed under each of its pods.
    by_pod: HashMap<String, Vec<Arc<Session>>>,
    /// Shared sessions, by the UID of their service account.
    by_service_account: HashMap<String, Vec<Arc<Session>>>,
    session_count: usize,
    is_disabled: bool,
}

/// Delivery of a mount to a volume.
pub struct Delivery<'a> {
    /// UID of the pod.
    pub pod_uid: &'a str,
    /// Directory of the volume on the node.
    pub target_path: &'a str,
    /// Class of the volume; empty if the driver does not send it.
    pub class: &'a str,
    /// Secrets of the volume, with their requests.
    pub secrets: &'a [(Arc<SecretRequest>, Arc<CachedSecret>)],
    /// Set if a due secret could not be fetched.
    pub served_stale: bool,
}

/// Pod with at least one session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodWithSessions {
    /// UID of the pod.
    pub uid: String,
    /// Kubernetes namespace of the pod.
    pub namespace: String,
    /// Name of the pod.
    pub name: String,
    /// Start of the pod's first session.
    pub since: Instant,
}

/// Minimum idle time before a session without a live token is evicted. Longer than any interval between polls or retries, so that
/// unchanged files keep their bytes.
const FORGET_SESSION_AFTER: Duration = Duration::from_secs(1800);
/// Idle time after which an unwatched pod counts as ended. A pod is unwatched if the Kubernetes API does not report its end.
pub const MAX_SILENCE_UNWATCHED: Duration = Duration::from_secs(24 * 3600);

impl SessionRegistry {
    /// Creates a registry of at most `max` sessions. A successor reads them from `store`.
    #[must_use]
    pub fn new(max: usize, observers: Observers, store: Option<Arc<Store>>) -> Self {
        Self { max_sessions: max, observers, state_store: store, state: Mutex::default() }
    }

    /// Restores a session from its state file. Returns `None` if the file is inconsistent.
    pub fn restore(
        &self,
        saved: SavedSession,
        (name, bytes): (FileId, u64),
        client: Result<Client, Error>,
        intern_request: impl FnMut(SecretRequest) -> Arc<SecretRequest>,
    ) -> Option<Arc<Session>> {
        let session =
            saved.restore(client, self.observers.clone(), self.state_store.clone(), (name, bytes), intern_request)?;
        let session = Arc::new(session);
        self.state().insert(&session, session.pod_uids());
        Some(session)
    }

    /// Returns the audit log.
    #[must_use]
    pub fn audit(&self) -> &AuditLog {
        &self.observers.audit
    }

    /// Returns the session under which a pod's volume was mounted.
    #[must_use]
    pub fn find_by_volume(&self, pod_uid: &str, target_path: &str) -> Option<Arc<Session>> {
        let sessions = self.state().by_pod.get(pod_uid).cloned().unwrap_or_default();
        sessions.into_iter().find(|session| session.has_volume(target_path))
    }

    /// Returns the maximum number of sessions.
    #[must_use]
    pub fn max_sessions(&self) -> usize {
        self.max_sessions
    }

    /// Removes all sessions, which another process has taken over.
    pub fn clear(&self) {
        let mut state = self.state();
        *state = RegistryState { is_disabled: state.is_disabled, ..RegistryState::default() };
    }

    /// Returns the pod's session for a key, or creates it. At the limit, expired or never used sessions are
    /// evicted, else the most idle one without renewable or revocable tokens. If none qualifies, the new session is refused.
    pub fn get_or_create(&self, key: SessionKey, pod: &SharingPod, client: Client) -> Result<Arc<Session>, Error> {
        let mut state = self.state();
        if state.is_disabled {
            return Err(Error::new(
                Cause::AllRevoked,
                "this provider has revoked every token (`vaultmount revoke --all`)",
            )
            .with_fix("restart it to serve pods again"));
        }
        if let Some(session) = state.find(&key, &pod.uid) {
            session.touch();
            session.state().client = Ok(client);
            return Ok(session);
        }
        if let Some(session) = state.find_shared(&key) {
            session.add_pod(pod);
            state.by_pod.entry(pod.uid.clone()).or_default().push(Arc::clone(&session));
            session.touch();
            session.state().client = Ok(client);
            return Ok(session);
        }
        self.ensure_capacity(&mut state, &key.pod_namespace)?;
        // All pods share one endpoint allocation.
        let endpoint = Arc::clone(client.endpoint());
        let key = SessionKey { endpoint, ..key };
        let recorder = StateFile::new(self.state_store.clone());
        let session = Arc::new(Session::new(key.clone(), Ok(client), self.observers.clone(), recorder));
        if session.is_shared() {
            session.add_pod(pod);
        }
        state.insert(&session, [pod.uid.clone()]);
        Ok(session)
    }

    /// Ensures capacity for a new session: evicts expired and never used sessions, else the most idle one. Fails if none qualifies.
    /// A Kubernetes namespace gets at most half of the capacity, so that it cannot lock out the others.
    fn ensure_capacity(&self, state: &mut RegistryState, namespace: &str) -> Result<(), Error> {
        let namespace_limit = (self.max_sessions / 2).max(1);
        if state.session_count < namespace_limit {
            return Ok(());
        }
        let count_in_namespace =
            |state: &RegistryState| state.all().filter(|session| session.key.pod_namespace == namespace).count();
        if state.session_count >= self.max_sessions || count_in_namespace(state) >= namespace_limit {
            state.evict_where(|session| session.is_expired() || session.was_never_used());
        }
        let is_crowded = count_in_namespace(state) >= namespace_limit;
        let can_evict = |session: &Session| !is_crowded || session.key.pod_namespace == namespace;
        if (state.session_count >= self.max_sessions || is_crowded)
            && let Some(session) = state.evict_most_idle(can_evict)
        {
            let SessionKey { pod_name: pod, pod_namespace: namespace, .. } = &session.key;
            tracing::warn!(pod, namespace, "--max-sessions reached; evicted an idle session without unexpired tokens");
        }
        let namespace_sessions = count_in_namespace(state);
        let problem = if namespace_sessions >= namespace_limit {
            format!(
                "{namespace_sessions} sessions of namespace {namespace} are open on this node, half of what it keeps"
            )
        } else if state.session_count >= self.max_sessions {
            format!("{} sessions are open on this node", state.session_count)
        } else {
            return Ok(());
        };
        Err(Error::new(Cause::ProviderAtCapacity, problem)
            .with_fix("raise --max-sessions; the mount is tried again by itself"))
    }

    /// Evicts never used sessions, which releases their clients. Returns `true` if there were any.
    pub fn evict_unused(&self) -> bool {
        let mut state = self.state();
        let previous_count = state.session_count;
        state.evict_where(Session::was_never_used);
        state.session_count < previous_count
    }

    /// Returns the session of a key, if this pod has one.
    #[must_use]
    pub fn find(&self, key: &SessionKey, pod_uid: &str) -> Option<Arc<Session>> {
        let state = self.state();
        state.find(key, pod_uid).filter(|_| !state.is_disabled).inspect(|session| session.touch())
    }

    /// Records a delivery of files to the pod. Returns `true` if any file is new to the pod.
    pub fn record_delivery(&self, session: &Arc<Session>, delivery: &Delivery<'_>) -> bool {
        let now = clock::now();
        let new = delivery
            .secrets
            .iter()
            .fold(false, |new, (request, secret)| session.cache.mark_delivered(request, secret) | new);
        let (volume, is_new, was_polled) = {
            let mut state = session.state();
            if session.is_shared() && state.sharing_pods.get(delivery.pod_uid).is_none() {
                // The pod has ended meanwhile, so nothing would remove this volume.
                return new;
            }
            let volumes = &mut state.volumes;
            let was_polled =
                volumes.iter().any(|volume| &*volume.target_path == delivery.target_path && volume.mount_count > 1);
            let pod = session.is_shared().then_some(delivery.pod_uid);
            let serials = delivery.secrets.iter().map(|(_, secret)| secret.serial);
            let (volume, is_new) =
                volumes.record_mount((delivery.target_path, delivery.class), pod, serials, delivery.served_stale, now);
            (volume, is_new, was_polled)
        };
        let references_changed =
            session.cache.set_references(&volume, delivery.secrets.iter().map(|(read, _)| read), now);
        // The second mount also counts, since it shows that the volume is polled.
        if new || references_changed || !was_polled {
            session.mark_dirty();
        }
        let others: Vec<Arc<Session>> = {
            let state = self.state();
            let all = state.by_pod.get(delivery.pod_uid).map(Vec::as_slice).unwrap_or_default();
            all.iter().filter(|other| !Arc::ptr_eq(other, session)).cloned().collect()
        };
        for other in others {
            // The class was edited: secrets from the volume's previous session live until they expire.
            let transferred = other.state().volumes.transfer_out(delivery.target_path);
            if let Some((volume, reported_by)) = transferred {
                session.state().volumes.transfer_in(&volume, reported_by);
                other.cache.set_references(&volume, [], now);
                other.mark_dirty();
                other.persist_in_background();
            }
        }
        new || is_new
    }

    /// Returns all pods with a session.
    #[must_use]
    pub fn pods(&self) -> Vec<PodWithSessions> {
        let state = self.state();
        let pods = state.by_pod.iter().filter_map(|(uid, sessions)| {
            let since = sessions.iter().filter_map(|session| session.pod_since(uid)).map(|(_, begun)| begun).min()?;
            let (name, _) = sessions.iter().find_map(|session| session.pod_since(uid))?;
            Some(PodWithSessions {
                uid: uid.clone(),
                namespace: sessions.first()?.key.pod_namespace.clone(),
                name,
                since,
            })
        });
        pods.collect()
    }

    /// Returns `true` if the pod has a session.
    #[must_use]
    pub fn has_pod(&self, uid: &str) -> bool {
        self.state().by_pod.contains_key(uid)
    }

    /// Returns all sessions, for status output and metrics.
    #[must_use]
    pub fn all(&self) -> Vec<Arc<Session>> {
        self.state().all().cloned().collect()
    }

    /// Removes and returns a pod's sessions, to be ended. Sessions that other pods share stay, without this pod.
    #[must_use]
    pub fn remove_pod(&self, uid: &str) -> Vec<Arc<Session>> {
        let mut state = self.state();
        let mut removed = state.by_pod.remove(uid).unwrap_or_default();
        removed.retain(|session| {
            let is_shared_by_others = session.is_shared() && session.remove_pod(uid);
            if is_shared_by_others {
                session.persist_in_background();
            }
            !is_shared_by_others
        });
        state.by_service_account.retain(|_, sessions| {
            sessions.retain(|session| !removed.iter().any(|taken| Arc::ptr_eq(taken, session)));
            !sessions.is_empty()
        });
        state.session_count -= removed.len();
        removed
    }

    /// Refuses all further mounts, and removes and returns all sessions, to be ended.
    #[must_use]
    pub fn disable(&self) -> Vec<Arc<Session>> {
        let mut state = self.state();
        let all = state.all().cloned().collect();
        *state = RegistryState { is_disabled: true, ..RegistryState::default() };
        all
    }

    /// Returns the metrics.
    #[must_use]
    pub fn metrics(&self) -> &Metrics {
        &self.observers.metrics
    }

    /// Returns `true` if every mount is refused.
    #[must_use]
    pub fn is_disabled(&self) -> bool {
        self.state().is_disabled
    }

    /// Evicts expired sessions of unwatched pods. A session with an unexpired certificate or static credential is kept for a day
    /// without mounts.
    pub fn evict_expired(&self, is_unwatched: impl Fn(&str) -> bool) {
        let mut state = self.state();
        state.remove_idle_pods(&is_unwatched);
        state.evict_where(|session| session.pod_uids().iter().all(|uid| is_unwatched(uid)) && session.is_expired());
    }

    /// Removes state files that have been unreadable for a day.
    pub fn remove_unreadable_files(&self) {
        if let Some(store) = &self.state_store {
            store.remove_expired_files();
        }
    }

    fn state(&self) -> MutexGuard<'_, RegistryState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl RegistryState {
    fn find(&self, key: &SessionKey, pod_uid: &str) -> Option<Arc<Session>> {
        self.by_pod.get(pod_uid)?.iter().find(|session| session.key == *key).cloned()
    }

    fn find_shared(&self, key: &SessionKey) -> Option<Arc<Session>> {
        self.by_service_account
            .get(key.shared_by_account_uid.as_ref()?)?
            .iter()
            .find(|session| session.key == *key)
            .cloned()
    }

    fn insert(&mut self, session: &Arc<Session>, pods: impl IntoIterator<Item = String>) {
        for uid in pods {
            self.by_pod.entry(uid).or_default().push(Arc::clone(session));
        }
        if let Some(uid) = &session.key.shared_by_account_uid {
            self.by_service_account.entry(uid.clone()).or_default().push(Arc::clone(session));
        }
        self.session_count += 1;
    }

    /// Iterates over the sessions, each once.
    fn all(&self) -> impl Iterator<Item = &Arc<Session>> {
        let unshared = self.by_pod.values().flatten().filter(|session| !session.is_shared());
        unshared.chain(self.by_service_account.values().flatten())
    }

    /// Iterates over the sessions without a current user.
    fn unreferenced(&self) -> impl Iterator<Item = &Arc<Session>> {
        self.all().filter(|session| {
            let own_references = if session.is_shared() { 1 + session.state().sharing_pods.len() } else { 1 };
            Arc::strong_count(session) <= own_references
        })
    }

    /// Removes unwatched pods that have been idle for [`MAX_SILENCE_UNWATCHED`] from their shared sessions.
    fn remove_idle_pods(&mut self, is_unwatched: impl Fn(&str) -> bool) {
        let (shared, now) = (self.by_service_account.values().flatten().cloned().collect::<Vec<_>>(), clock::now());
        for session in shared {
            for uid in session.idle_pods(now).into_iter().filter(|uid| is_unwatched(uid)) {
                session.remove_pod(&uid);
                if let Some(sessions) = self.by_pod.get_mut(&uid) {
                    sessions.retain(|other| !Arc::ptr_eq(other, &session));
                    if sessions.is_empty() {
                        self.by_pod.remove(&uid);
                    }
                }
            }
        }
    }

    fn evict_where(&mut self, can_evict: impl Fn(&Session) -> bool) {
        let ids: Vec<u64> =
            self.unreferenced().filter(|session| can_evict(session)).map(|session| session.id).collect();
        self.evict(&ids);
    }

    fn evict_most_idle(&mut self, can_evict: impl Fn(&Session) -> bool) -> Option<Arc<Session>> {
        let candidates = self.unreferenced().filter(|session| can_evict(session) && session.is_idle_without_token());
        let session = Arc::clone(candidates.max_by_key(|session| session.idle_time().0)?);
        self.evict(&[session.id]);
        Some(session)
    }

    fn evict(&mut self, ids: &[u64]) {
        if ids.is_empty() {
            return;
        }
        for sessions in self.by_pod.values_mut().chain(self.by_service_account.values_mut()) {
            sessions.retain(|session| {
                let is_evicted = ids.contains(&session.id);
                if is_evicted {
                    session.delete_state_file();
                }
                !is_evicted
            });
        }
        self.by_pod.retain(|_, sessions| !sessions.is_empty());
        self.by_service_account.retain(|_, sessions| !sessions.is_empty());
        self.session_count = self.all().count();
    }
}

impl Session {
    /// Records a request of the pod.
    fn touch(&self) {
        let mut state = self.state();
        state.last_poll_at = clock::now();
        state.renewal_paused = None;
    }

    /// Returns `true` if the session is idle without a token, and has no unexpired certificate or static credential or has been
    /// idle for a day.
    fn is_expired(&self) -> bool {
        self.is_idle_without_token()
            && (self.idle_time().0 > MAX_SILENCE_UNWATCHED || !self.cache.has_unexpired(clock::now()))
    }

    /// Returns `true` if the session has no token and no volume.
    fn was_never_used(&self) -> bool {
        let state = self.state();
        state.token.is_none() && state.superseded_tokens.is_empty() && state.volumes.iter().next().is_none()
    }

    /// Returns `true` if no poll is expected any more and every token has expired: nothing can be renewed or revoked.
    fn is_idle_without_token(&self) -> bool {
        let (state, now) = (self.state(), clock::now());
        // A token unknown to one Vault server may be known to another.
        let has_live_token = state.token.iter().chain(&state.superseded_tokens).any(|token| !token.is_expired(now));
        let silence = now.saturating_duration_since(state.last_poll_at);
        let max_silence = FORGET_SESSION_AFTER.max(state.volumes.longest_mount_interval().unwrap_or_default() * 3);
        !has_live_token && silence > max_silence
    }
}
