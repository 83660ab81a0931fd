//! What is kept of sessions across restarts: when it is written, and what a successor makes of it.

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

/// A session as it is kept, sealed, across restarts. What is added to it must be allowed to lack: an earlier vaultmount wrote
/// files that are to be read, and a later one may be replaced by this.
#[derive(Serialize, Deserialize)]
pub struct SavedSession {
    /// When it was written; all moments are told from then.
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
    /// Their places.
    current_token_index: Option<usize>,
    superseded_token_indices: Vec<usize>,
    secrets: Vec<SavedSecret>,
    volumes: Vec<SavedVolume>,
    last_poll_at: i64,
    #[serde(default)]
    last_success_at: Option<i64>,
    token_warning_sent: bool,
    /// How far the server's cluster had come, in its own words.
    #[serde(default)]
    replication_index: Option<String>,
}

/// What of a session is in its file.
pub(super) struct StateFile {
    store: Option<Arc<Store>>,
    /// The file's; no other session has it, also not the next of the same pod.
    name: FileId,
    /// The opening of the folder in which the session began.
    store_generation: u64,
    /// Counts what changed.
    revision: AtomicU64,
    /// The revision that is in the file, or could not be: whoever looks without the lock.
    written_revision: AtomicU64,
    file: Arc<Mutex<FileOnDisk>>,
}

#[derive(Default)]
struct FileOnDisk {
    bytes: u64,
    is_deleted: bool,
}

/// The file of a session that has ended: it goes when nothing is left to be revoked.
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

    /// That of a session whose file has this name and so many bytes.
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

    /// Writes what has changed, so that a successor knows it: before it is given out. A folder that takes nothing stops no
    /// mount; the log says so, and it is tried again. An error when another process has the folder, which would not know.
    pub async fn persist(self: &Arc<Self>) -> Result<(), Error> {
        let StateFile { store: Some(store), file, .. } = &self.state_file else { return Ok(()) };
        if !self.is_dirty() {
            return Ok(());
        }
        // Whoever waits may go away; what is being written is done with all the same before the next.
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
            // What could not be written was said.
            _ => Ok(()),
        }
    }

    /// Has written what has changed, without waiting for it.
    pub fn persist_in_background(self: &Arc<Self>) {
        if self.is_dirty() {
            let session = Arc::clone(self);
            task::spawn_boxed(async move { drop(session.persist().await) });
        }
    }

    /// Removes its file, as it is over and nobody uses it.
    pub(super) fn delete_state_file(&self) {
        let StateFile { store: Some(store), file, .. } = &self.state_file else { return };
        if let Ok(mut file) = file.try_lock() {
            file.is_deleted = true;
            store.remove(&self.state_file.name, file.bytes);
        }
    }

    /// Its file, of which this many tokens must be revoked first.
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

    /// What is kept of it, with what can be read again if there is `room`. None when it is over.
    fn serialize_state(&self, has_capacity: bool, previous_bytes: u64) -> Option<SecretBuffer> {
        let (written_at, epoch) = (BootTimestamp::now(), Epoch::from_instant(clock::now()));
        let mut tokens = TokenTable::default();
        let state = self.state();
        // Its file is that of what is to be revoked by now.
        if state.ended || (self.is_shared() && state.sharing_pods.len() == 0) {
            return None;
        }
        let current_token_index = state.token.as_ref().map(|hold| tokens.index_or_insert(hold));
        let superseded_token_indices =
            state.superseded_tokens.iter().map(|hold| tokens.index_or_insert(hold)).collect();
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
            tokens: tokens.tokens().iter().map(|hold| hold.to_saved(epoch)).collect(),
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
    /// One token less is left to be revoked; the file goes with the last.
    pub(super) fn record_token_revoked(&self) {
        if self.remaining_tokens.fetch_sub(1, SeqCst) == 1 {
            self.delete();
        }
    }

    /// Removes the file.
    pub(super) fn delete(&self) {
        self.store.remove(&self.name, self.bytes);
    }
}

impl SavedSession {
    /// Reads what was in a file; what is missing in it is as it was before there was such a thing.
    #[must_use]
    pub fn parse(content: &Plaintext) -> Option<Self> {
        // There is one version so far, to which things are added.
        serde_json::from_slice(&content.text).ok()
    }

    /// Its server.
    #[must_use]
    pub fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// The pod's Kubernetes namespace.
    #[must_use]
    pub fn namespace(&self) -> &str {
        &self.pod_namespace
    }

    /// Whose it is: the pod's namespace and name, and the login role.
    #[must_use]
    pub fn owner(&self) -> (&str, &str, &str) {
        (&self.pod_namespace, &self.pod_name, &self.role)
    }

    /// Its tokens: what an operator names each by, and its end as things stood.
    pub fn tokens(&self) -> impl Iterator<Item = (&str, Option<Instant>)> {
        let epoch = Epoch::from_timestamp(&self.written_at);
        self.tokens.iter().map(move |token| (token.accessor(), token.expires_at(epoch)))
    }

    /// What was read under it.
    #[must_use]
    pub fn secrets(&self) -> &[SavedSecret] {
        &self.secrets
    }

    /// The session it was, in a file of this name and of so many bytes, with the endpoint's client or why there is none. None when it does not hold together.
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
        let requests: Vec<SecretRequest> = saved.secrets().iter().map(|lease| lease.request().clone()).collect();
        let no_client = Err(Error::new(Cause::TlsSetup, "none here"));
        let session = saved.restore(no_client, Observers::default(), None, (FileId([1; 16]), 9), Arc::new).unwrap();
        assert_eq!(session.key.service_account, "web");
        assert!(session.has_volume("/pods/u-1/mount"));
        let fresh_count =
            requests.iter().filter(|read| matches!(session.lookup(read, Refresh::Never), Lookup::Fresh(_))).count();
        assert_eq!((requests.len(), fresh_count), (2, 2));
        assert!(session.state().token.as_ref().is_some_and(|hold| hold.is_alive(clock::now())));
        assert!(session.next_wakeup().is_some(), "it is renewed");
    }
}
