//! Persistence of sessions in encrypted state files, for a successor.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering::SeqCst},
};

use serde::{Deserialize, Serialize};
use tokio::{sync::Mutex, task::spawn_blocking, time::Instant};

use super::{Session, SessionKey, SessionState, SharingPod, volumes::SavedVolume};
use crate::{
    cache::{SavedSecret, SavedSessionToken, SessionToken, TokenTable},
    clock::{self, BootTimestamp, Epoch},
    error::{Cause, Error},
    observe::Observers,
    secret::SecretBuffer,
    state::{FileId, Plaintext, Store, WriteOutcome},
    task,
    vault::{Client, Endpoint, request::SecretRequest},
};

/// Content of a session's encrypted state file. New fields must be optional, since files of older and newer versions must stay
/// readable.
#[derive(Serialize, Deserialize)]
pub struct SavedSession {
    /// Time of the write; the other times are relative to it.
    written_at: BootTimestamp,
    endpoint: Endpoint,
    namespace: Option<String>,
    auth_namespace: Option<String>,
    auth_mount: String,
    role: String,
    audience: String,
    pod_uid: String,
    pod_name: String,
    pod_namespace: String,
    service_account: String,
    #[serde(default)]
    shared_by_account_uid: Option<String>,
    #[serde(default)]
    pods: Vec<SharingPod>,
    tokens: Vec<SavedSessionToken>,
    /// Indices into `tokens`.
    current_token_index: Option<usize>,
    superseded_token_indices: Vec<usize>,
    secrets: Vec<SavedSecret>,
    volumes: Vec<SavedVolume>,
    last_poll_at: i64,
    #[serde(default)]
    last_success_at: Option<i64>,
    token_warning_sent: bool,
    /// Newest replication index, in the cluster's own encoding.
    #[serde(default)]
    replication_index: Option<String>,
}

/// State file of a session.
pub(super) struct StateFile {
    store: Option<Arc<Store>>,
    /// Name of the file, unique to the session.
    name: FileId,
    /// Generation of the store when the session was created.
    store_generation: u64,
    /// Number of changes.
    revision: AtomicU64,
    /// Revision in the file, or in the last write to a disabled store. Readable without the lock.
    written_revision: AtomicU64,
    file: Arc<Mutex<FileOnDisk>>,
}

#[derive(Default)]
struct FileOnDisk {
    bytes: u64,
    is_deleted: bool,
}

/// State file of an ended session, deleted once all tokens are revoked.
pub struct PendingStateFile {
    store: Arc<Store>,
    name: FileId,
    bytes: u64,
    remaining_tokens: AtomicU64,
}

impl StateFile {
    pub(super) fn new(store: Option<Arc<Store>>) -> Self {
        let name = if store.is_some() { FileId::random() } else { FileId([0; 16]) };
        Self::for_existing_file(store, name, 0)
    }

    /// Creates the state of a file with this name and size.
    fn for_existing_file(store: Option<Arc<Store>>, name: FileId, bytes: u64) -> Self {
        Self {
            store_generation: store.as_ref().map_or(0, |store| store.generation()),
            store,
            name,
            revision: AtomicU64::new(0),
            written_revision: AtomicU64::new(0),
            file: Arc::new(Mutex::new(FileOnDisk { bytes, is_deleted: false })),
        }
    }
}

impl Session {
    /// Marks the state as changed since the last write.
    pub fn mark_dirty(&self) {
        self.state_file.revision.fetch_add(1, SeqCst);
    }

    /// Returns `true` if the file lacks a change.
    #[must_use]
    pub fn is_dirty(&self) -> bool {
        let StateFile { store, revision, written_revision, .. } = &self.state_file;
        store.is_some() && revision.load(SeqCst) != written_revision.load(SeqCst)
    }

    /// Writes pending changes, so that a successor knows a secret before it is delivered. A failed write is logged and retried, and
    /// fails no mount. Fails if another process has taken over the directory, since it would not know the change.
    pub async fn persist(self: &Arc<Self>) -> Result<(), Error> {
        let StateFile { store: Some(store), file, .. } = &self.state_file else { return Ok(()) };
        if !self.is_dirty() {
            return Ok(());
        }
        // The owned guard moves into the task, so that a cancelled caller does not let two writes overlap.
        let mut file = Arc::clone(file).lock_owned().await;
        let (session, store) = (Arc::clone(self), Arc::clone(store));
        let outcome = spawn_blocking(move || {
            let StateFile { name, store_generation, revision, written_revision, .. } = &session.state_file;
            let current_revision = revision.load(SeqCst);
            if current_revision == written_revision.load(SeqCst) || file.is_deleted {
                return None;
            }
            let json = session.serialize_state(store.has_capacity(), file.bytes)?;
            let outcome = store.write(name, &json, file.bytes, *store_generation);
            if let WriteOutcome::Written(bytes) = outcome {
                file.bytes = bytes;
            }
            if matches!(outcome, WriteOutcome::Written(_) | WriteOutcome::Disabled) {
                written_revision.store(current_revision, SeqCst);
            }
            Some(outcome)
        });
        match outcome.await {
            Ok(Some(WriteOutcome::Closed)) => Err(Error::new(
                Cause::ProcessSuperseded,
                "another process has taken this one's place, and would not know what this mount gives",
            )
            .with_fix("nothing is to be done: the driver tries again, and finds the other")),
            // The store has logged the failed write.
            _ => Ok(()),
        }
    }

    /// Writes pending changes in the background.
    pub fn persist_in_background(self: &Arc<Self>) {
        if self.is_dirty() {
            let session = Arc::clone(self);
            task::spawn_boxed(async move { drop(session.persist().await) });
        }
    }

    /// Deletes the state file of an evicted session.
    pub(super) fn delete_state_file(&self) {
        let StateFile { store: Some(store), file, .. } = &self.state_file else { return };
        if let Ok(mut file) = file.try_lock() {
            file.is_deleted = true;
            store.remove(&self.state_file.name, file.bytes);
        }
    }

    /// Releases the state file of an ended session, to be deleted after this many revocations.
    pub(super) async fn release_state_file(&self, remaining_tokens: usize) -> Option<Arc<PendingStateFile>> {
        let StateFile { store, file, .. } = &self.state_file;
        let mut file = file.lock().await;
        file.is_deleted = true;
        let store = Arc::clone(store.as_ref()?);
        Some(Arc::new(PendingStateFile {
            store,
            name: self.state_file.name,
            bytes: file.bytes,
            remaining_tokens: AtomicU64::new(remaining_tokens as u64),
        }))
    }

    /// Serializes the session, including secrets that can be read again if the store has capacity. Returns `None` after its end.
    fn serialize_state(&self, has_capacity: bool, previous_bytes: u64) -> Option<SecretBuffer> {
        let (written_at, epoch) = (BootTimestamp::now(), Epoch::from_instant(clock::now()));
        let mut tokens = TokenTable::default();
        let state = self.state();
        // The file of an ended session belongs to its pending revocations.
        if state.ended || (self.is_shared() && state.sharing_pods.len() == 0) {
            return None;
        }
        let current_token_index = state.token.as_ref().map(|token| tokens.index_or_insert(token));
        let superseded_token_indices =
            state.superseded_tokens.iter().map(|token| tokens.index_or_insert(token)).collect();
        let secrets = self.cache.to_saved(epoch, &mut tokens, |path| state.volumes.index_of(path), has_capacity);
        let SessionKey { endpoint, .. } = &self.key;
        let key = self.key.clone();
        let saved = SavedSession {
            written_at,
            endpoint: Endpoint::clone(endpoint),
            namespace: key.namespace,
            auth_namespace: key.auth_namespace,
            auth_mount: key.auth_mount,
            role: key.role,
            audience: key.audience,
            pod_uid: key.pod_uid,
            pod_name: key.pod_name,
            pod_namespace: key.pod_namespace,
            service_account: key.service_account,
            shared_by_account_uid: key.shared_by_account_uid,
            pods: state.sharing_pods.iter().cloned().collect(),
            tokens: tokens.tokens().iter().map(|token| token.to_saved(epoch)).collect(),
            current_token_index,
            superseded_token_indices,
            secrets,
            volumes: state.volumes.to_saved(epoch),
            last_poll_at: epoch.to_millis(state.last_poll_at),
            last_success_at: state.last_success_at.map(|at| epoch.to_millis(at)),
            token_warning_sent: state.token_warning_sent,
            replication_index: state.client.as_ref().ok().and_then(Client::export_replication_index),
        };
        drop(state);
        let capacity = usize::try_from(previous_bytes).unwrap_or_default().max(1024);
        let mut json = SecretBuffer::with_capacity(capacity);
        serde_json::to_writer(&mut json, &saved).is_ok().then_some(json)
    }
}

impl PendingStateFile {
    /// Counts a revoked token, and deletes the file after the last one.
    pub(super) fn record_token_revoked(&self) {
        if self.remaining_tokens.fetch_sub(1, SeqCst) == 1 {
            self.delete();
        }
    }

    /// Deletes the file.
    pub(super) fn delete(&self) {
        self.store.remove(&self.name, self.bytes);
    }
}

impl SavedSession {
    /// Parses a state file. Missing fields get their defaults.
    #[must_use]
    pub fn parse(content: &Plaintext) -> Option<Self> {
        serde_json::from_slice(&content.text).ok()
    }

    /// Returns the endpoint.
    #[must_use]
    pub fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// Returns the pod's Kubernetes namespace.
    #[must_use]
    pub fn namespace(&self) -> &str {
        &self.pod_namespace
    }

    /// Returns the pod's namespace and name, and the login role.
    #[must_use]
    pub fn owner(&self) -> (&str, &str, &str) {
        (&self.pod_namespace, &self.pod_name, &self.role)
    }

    /// Iterates over the tokens' accessors and expiries.
    pub fn tokens(&self) -> impl Iterator<Item = (&str, Option<Instant>)> {
        let epoch = Epoch::from_timestamp(&self.written_at);
        self.tokens.iter().map(move |token| (token.accessor(), token.expires_at(epoch)))
    }

    /// Returns the secrets.
    #[must_use]
    pub fn secrets(&self) -> &[SavedSecret] {
        &self.secrets
    }

    /// Restores the session. `client` is the endpoint's client, or the error of its creation. Returns `None` if the file is
    /// inconsistent.
    pub(super) fn restore(
        self,
        client: Result<Client, Error>,
        observers: Observers,
        store: Option<Arc<Store>>,
        (name, bytes): (FileId, u64),
        intern_request: impl FnMut(SecretRequest) -> Arc<SecretRequest>,
    ) -> Option<Session> {
        let epoch = Epoch::from_timestamp(&self.written_at);
        if let (Ok(client), Some(index)) = (&client, &self.replication_index) {
            client.import_replication_index(index);
        }
        let endpoint = client.as_ref().map_or_else(|_| Arc::new(self.endpoint), |client| Arc::clone(client.endpoint()));
        let key = SessionKey {
            endpoint,
            namespace: self.namespace,
            auth_namespace: self.auth_namespace,
            auth_mount: self.auth_mount,
            role: self.role,
            audience: self.audience,
            pod_uid: self.pod_uid,
            pod_name: self.pod_name,
            pod_namespace: self.pod_namespace,
            service_account: self.service_account,
            shared_by_account_uid: self.shared_by_account_uid,
        };
        let tokens: Option<Vec<Arc<SessionToken>>> =
            self.tokens.into_iter().map(|token| token.restore(epoch).map(Arc::new)).collect();
        let tokens = tokens?;
        let mut session = Session::new(key, client, observers, StateFile::for_existing_file(store, name, bytes));
        let SessionState {
            token,
            superseded_tokens,
            volumes,
            sharing_pods,
            last_poll_at,
            last_success_at,
            token_warning_sent,
            ..
        } = session.state.get_mut().unwrap_or_else(std::sync::PoisonError::into_inner);
        *token = self.current_token_index.and_then(|index| tokens.get(index).cloned());
        *superseded_tokens =
            self.superseded_token_indices.iter().filter_map(|index| tokens.get(*index).cloned()).collect();
        *last_success_at = self.last_success_at.map(|millis| epoch.instant_at(millis));
        let paths = volumes.restore(self.volumes, *last_success_at, epoch);
        for pod in &self.pods {
            sharing_pods.add(pod, clock::now());
        }
        *token_warning_sent = self.token_warning_sent;
        // Polls change nothing that is kept, so that the last of them is not known.
        if volumes.longest_poll_interval().is_none() {
            *last_poll_at = epoch.instant_at(self.last_poll_at);
        }
        session.cache.restore(self.secrets, epoch, &tokens, &paths, intern_request);
        Some(session)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::{Lookup, Refresh};

    /// Written by vaultmount 0.1.0, with secrets that are made up; what it could read is to be read for ever.
    const FIRST_VERSION_JSON: &str = r#"{
  "written_at": {
    "boot_id": "a-boot-id",
    "uptime_ms": 1000,
    "wall_time": "2026-11-26T20:42:51.9Z"
  },
  "endpoint": {
    "address": "https://vault.vault.svc:8200",
    "tls": {
      "ca": {
        "File": "/etc/vault/ca.pem"
      },
      "client": null,
      "server_name": null,
      "skip_verify": false
    },
    "deny_local_addresses": false
  },
  "namespace": null,
  "auth_namespace": null,
  "auth_mount": "kubernetes",
  "role": "web",
  "audience": "vault",
  "pod_uid": "u-1",
  "pod_name": "web-0",
  "pod_namespace": "shop",
  "service_account": "web",
  "tokens": [
    {
      "vault_token": {
        "token": "s.made-up",
        "policies": [
          "default",
          "web"
        ],
        "ttl": 3600,
        "accessor": "a-1",
        "renewable": true,
        "is_batch": false,
        "num_uses": 0
      },
      "lifetime": {
        "requested_ttl_ms": 3600000,
        "granted_ttl_ms": 3600000,
        "granted_at": -1000,
        "expires_at": 3599000,
        "renewable": true,
        "renew_at": 2300000,
        "failures": 0
      },
      "revoked_at": null,
      "renewal_disabled": false,
      "verified_at": -500,
      "has_leases": true
    }
  ],
  "current_token_index": 0,
  "superseded_token_indices": [],
  "secrets": [
    {
      "request": {
        "method": "GET",
        "path": "database/creds/app",
        "query": null,
        "body": null
      },
      "response": "{\"request_id\":\"r-1\",\"lease_id\":\"database/creds/app/abc\",\"lease_duration\":3600,\"renewable\":true,\"data\":{\"password\":\"hunter2\",\"username\":\"u-1\"},\"warnings\":null}",
      "lifecycle": {
        "leased": {
          "requested_ttl_ms": 3600000,
          "granted_ttl_ms": 3600000,
          "granted_at": -1000,
          "expires_at": 3599000,
          "renewable": true,
          "renew_at": 2300000,
          "failures": 0
        }
      },
      "token_index": 0,
      "read_at": -1000,
      "delivered": true,
      "volume_indices": [
        0
      ],
      "expiry_warning": 0
    },
    {
      "request": {
        "method": "GET",
        "path": "secret/data/db",
        "query": null,
        "body": null
      },
      "response": "{\"request_id\":\"r-2\",\"lease_id\":\"\",\"lease_duration\":0,\"renewable\":false,\"data\":{\"data\":{\"pass\":\"hunter2\"}},\"warnings\":null}",
      "lifecycle": {
        "plain": {
          "read_at": -1000,
          "mutating": false
        }
      },
      "token_index": 0,
      "read_at": -1000,
      "delivered": true,
      "volume_indices": [
        0
      ],
      "expiry_warning": 0
    }
  ],
  "volumes": [
    {
      "target_path": "/pods/u-1/mount",
      "class": "shop",
      "last_mount_at": -900,
      "mount_count": 1,
      "mount_intervals_ms": [
        0,
        0,
        0
      ]
    }
  ],
  "last_poll_at": -1000,
  "token_warning_sent": false
}"#;

    #[tokio::test]
    async fn saved_session_of_first_version_is_restored() {
        let mut json: serde_json::Value = serde_json::from_str(FIRST_VERSION_JSON).unwrap();
        json["written_at"] = serde_json::to_value(BootTimestamp::now()).unwrap();
        json["of_a_later_version"] = 1.into();
        let text = zeroize::Zeroizing::new(json.to_string().into_bytes());
        let saved = SavedSession::parse(&Plaintext { version: 1, file_bytes: 9, text }).unwrap();
        assert_eq!(saved.owner(), ("shop", "web-0", "web"));
        let requests: Vec<SecretRequest> = saved.secrets().iter().map(|secret| secret.request().clone()).collect();
        let no_client = Err(Error::new(Cause::TlsSetup, "none here"));
        let session = saved.restore(no_client, Observers::default(), None, (FileId([1; 16]), 9), Arc::new).unwrap();
        assert_eq!(session.key.service_account, "web");
        assert!(session.has_volume("/pods/u-1/mount"));
        let fresh_count =
            requests.iter().filter(|read| matches!(session.lookup(read, Refresh::Never), Lookup::Fresh(_))).count();
        assert_eq!((requests.len(), fresh_count), (2, 2));
        assert!(session.state().token.as_ref().is_some_and(|token| token.is_alive(clock::now())));
        assert!(session.next_wakeup().is_some(), "it is renewed");
    }
}
