//! What is kept of sessions across restarts: when it is written, and what a successor makes of it.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering::SeqCst},
};

use serde::{Deserialize, Serialize};
use tokio::{sync::Mutex, task::spawn_blocking, time::Instant};

use super::{Observers, PodRef, Session, SessionKey, State, volumes::SavedVolume};
use crate::{
    clock::{self, BootTimestamp, Epoch},
    error::{Cause, Error},
    lease::{Hold, Holds, SavedHold, SavedLease},
    secret::SecretBuffer,
    state::{Content, Name, Store, Written},
    task,
    vault::{Client, Endpoint, wire::SecretRequest},
};

/// A session as it is kept, sealed, across restarts. What is added to it must be allowed to lack: an earlier vaultmount wrote
/// files that are to be read, and a later one may be replaced by this.
#[derive(Serialize, Deserialize)]
pub struct SavedSession {
    /// When it was written; all moments are told from then.
    mark: BootTimestamp,
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
    shared_by: Option<String>,
    #[serde(default)]
    pods: Vec<PodRef>,
    holds: Vec<SavedHold>,
    /// Their places.
    current: Option<usize>,
    superseded: Vec<usize>,
    leases: Vec<SavedLease>,
    volumes: Vec<SavedVolume>,
    last_heard: i64,
    #[serde(default)]
    last_success: Option<i64>,
    warned_of_token: bool,
    /// How far the server's cluster had come, in its own words.
    #[serde(default)]
    index: Option<String>,
}

/// What of a session is in its file.
pub(super) struct Recorder {
    store: Option<Arc<Store>>,
    /// The file's; no other session has it, also not the next of the same pod.
    name: Name,
    /// The opening of the folder in which the session began.
    generation: u64,
    /// Counts what changed.
    revision: AtomicU64,
    /// The revision that is in the file, or could not be: whoever looks without the lock.
    written: AtomicU64,
    file: Arc<Mutex<File>>,
}

#[derive(Default)]
struct File {
    bytes: u64,
    erased: bool,
}

/// The file of a session that has ended: it goes when nothing is left to be revoked.
pub struct Estate {
    store: Arc<Store>,
    name: Name,
    bytes: u64,
    left: AtomicU64,
}

impl Recorder {
    pub(super) fn new(store: Option<Arc<Store>>) -> Self {
        let name = if store.is_some() { Name::random() } else { Name([0; 16]) };
        Self::restored(store, name, 0)
    }

    /// That of a session whose file has this name and so many bytes.
    fn restored(store: Option<Arc<Store>>, name: Name, bytes: u64) -> Self {
        Self {
            generation: store.as_ref().map_or(0, |store| store.generation()),
            store,
            name,
            revision: AtomicU64::new(0),
            written: AtomicU64::new(0),
            file: Arc::new(Mutex::new(File { bytes, erased: false })),
        }
    }
}

impl Session {
    /// Something is to be kept that is not in the file.
    pub fn changed(&self) {
        self.recorder.revision.fetch_add(1, SeqCst);
    }

    /// Whether something is not in the file.
    #[must_use]
    pub fn is_changed(&self) -> bool {
        let Recorder { store, revision, written, .. } = &self.recorder;
        store.is_some() && revision.load(SeqCst) != written.load(SeqCst)
    }

    /// Writes what has changed, so that a successor knows it: before it is given out. A folder that takes nothing stops no
    /// mount; the log says so, and it is tried again. An error when another process has the folder, which would not know.
    pub async fn save(self: &Arc<Self>) -> Result<(), Error> {
        let Recorder { store: Some(store), file, .. } = &self.recorder else { return Ok(()) };
        if !self.is_changed() {
            return Ok(());
        }
        // Whoever waits may go away; what is being written is done with all the same before the next.
        let mut file = Arc::clone(file).lock_owned().await;
        let (session, store) = (Arc::clone(self), Arc::clone(store));
        let outcome = spawn_blocking(move || {
            let Recorder { name, generation, revision, written, .. } = &session.recorder;
            let now = revision.load(SeqCst);
            if now == written.load(SeqCst) || file.erased {
                return None;
            }
            let text = session.saved(store.has_room(), file.bytes)?;
            let outcome = store.write(name, &text, file.bytes, *generation);
            if let Written::Whole(bytes) = outcome {
                file.bytes = bytes;
            }
            if matches!(outcome, Written::Whole(_) | Written::Unkept) {
                written.store(now, SeqCst);
            }
            Some(outcome)
        });
        match outcome.await {
            Ok(Some(Written::Closed)) => Err(Error::new(
                Cause::Replaced,
                "another process has taken this one's place, and would not know what this mount gives",
            )
            .advice("nothing is to be done: the driver tries again, and finds the other")),
            // What could not be written was said.
            _ => Ok(()),
        }
    }

    /// Has written what has changed, without waiting for it.
    pub fn save_soon(self: &Arc<Self>) {
        if self.is_changed() {
            let session = Arc::clone(self);
            task::spawn_boxed(async move { drop(session.save().await) });
        }
    }

    /// Removes its file, as it is over and nobody uses it.
    pub(super) fn erase(&self) {
        let Recorder { store: Some(store), file, .. } = &self.recorder else { return };
        if let Ok(mut file) = file.try_lock() {
            file.erased = true;
            store.remove(&self.recorder.name, file.bytes);
        }
    }

    /// Its file, of which this many tokens must be revoked first.
    pub(super) async fn estate(&self, left: usize) -> Option<Arc<Estate>> {
        let Recorder { store, file, .. } = &self.recorder;
        let mut file = file.lock().await;
        file.erased = true;
        let store = Arc::clone(store.as_ref()?);
        Some(Arc::new(Estate { store, name: self.recorder.name, bytes: file.bytes, left: AtomicU64::new(left as u64) }))
    }

    /// What is kept of it, with what can be read again if there is `room`. None when it is over.
    fn saved(&self, room: bool, before: u64) -> Option<SecretBuffer> {
        let (mark, origin) = (BootTimestamp::now(), Epoch::from_instant(clock::now()));
        let mut holds = Holds::default();
        let state = self.state();
        // Its file is that of what is to be revoked by now.
        if state.ended || (self.is_shared() && state.pods.len() == 0) {
            return None;
        }
        let current = state.hold.as_ref().map(|hold| holds.place(hold));
        let superseded = state.superseded.iter().map(|hold| holds.place(hold)).collect();
        let leases = self.leases.save(origin, &mut holds, |path| state.volumes.place(path), room);
        let SessionKey { endpoint, .. } = &self.key;
        let key = self.key.clone();
        let saved = SavedSession {
            mark,
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
            shared_by: key.shared_by,
            pods: state.pods.iter().cloned().collect(),
            holds: holds.all().iter().map(|hold| hold.save(origin)).collect(),
            current,
            superseded,
            leases,
            volumes: state.volumes.save(origin),
            last_heard: origin.to_millis(state.last_heard),
            last_success: state.last_success.map(|at| origin.to_millis(at)),
            warned_of_token: state.warned_of_token,
            index: state.client.as_ref().ok().and_then(Client::export_replication_index),
        };
        drop(state);
        let room = usize::try_from(before).unwrap_or_default().max(1024);
        let mut text = SecretBuffer::with_capacity(room);
        serde_json::to_writer(&mut text, &saved).is_ok().then_some(text)
    }
}

impl Estate {
    /// One token less is left to be revoked; the file goes with the last.
    pub(super) fn settle(&self) {
        if self.left.fetch_sub(1, SeqCst) == 1 {
            self.erase();
        }
    }

    /// Removes the file.
    pub(super) fn erase(&self) {
        self.store.remove(&self.name, self.bytes);
    }
}

impl SavedSession {
    /// Reads what was in a file; what is missing in it is as it was before there was such a thing.
    #[must_use]
    pub fn read(content: &Content) -> Option<Self> {
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
        let origin = Epoch::from_timestamp(&self.mark);
        self.holds.iter().map(move |hold| (hold.accessor(), hold.ends(origin)))
    }

    /// What was read under it.
    #[must_use]
    pub fn leases(&self) -> &[SavedLease] {
        &self.leases
    }

    /// The session it was, in a file of this name and of so many bytes, with the endpoint's client or why there is none. None when it does not hold together.
    pub(super) fn restore(
        self,
        client: Result<Client, Error>,
        observers: Observers,
        store: Option<Arc<Store>>,
        (name, bytes): (Name, u64),
        shared: impl FnMut(SecretRequest) -> Arc<SecretRequest>,
    ) -> Option<Session> {
        let origin = Epoch::from_timestamp(&self.mark);
        if let (Ok(client), Some(index)) = (&client, &self.index) {
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
            shared_by: self.shared_by,
        };
        let holds: Option<Vec<Arc<Hold>>> =
            self.holds.into_iter().map(|hold| hold.restore(origin).map(Arc::new)).collect();
        let holds = holds?;
        let mut session = Session::new(key, client, observers, Recorder::restored(store, name, bytes));
        let State { hold, superseded, volumes, pods, last_heard, last_success, warned_of_token, .. } =
            session.state.get_mut().unwrap_or_else(std::sync::PoisonError::into_inner);
        *hold = self.current.and_then(|place| holds.get(place).cloned());
        *superseded = self.superseded.iter().filter_map(|place| holds.get(*place).cloned()).collect();
        *last_success = self.last_success.map(|told| origin.instant_at(told));
        let paths = volumes.restore(self.volumes, *last_success, origin);
        for pod in &self.pods {
            pods.joined(pod, clock::now());
        }
        *warned_of_token = self.warned_of_token;
        // Polls change nothing that is kept, so that the last of them is not known.
        if volumes.poll_gap().is_none() {
            *last_heard = origin.instant_at(self.last_heard);
        }
        session.leases.restore(self.leases, origin, &holds, &paths, shared);
        Some(session)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lease::{Found, Refresh};

    /// Written by vaultmount 0.1.0, with secrets that are made up; what it could read is to be read for ever.
    const FIRST: &str = r#"{
  "mark": {
    "boot": "a-boot-id",
    "up": 1000,
    "wall": "2026-11-26T20:42:51.9Z"
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
    "guarded": false
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
  "holds": [
    {
      "token": {
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
      "term": {
        "asked": 3600000,
        "granted": 3600000,
        "since": -1000,
        "ends": 3599000,
        "renewable": true,
        "renew_at": 2300000,
        "failures": 0
      },
      "gone": null,
      "retired": false,
      "proven": -500,
      "leased": true
    }
  ],
  "current": 0,
  "superseded": [],
  "leases": [
    {
      "read": {
        "method": "GET",
        "path": "database/creds/app",
        "query": null,
        "body": null
      },
      "answer": "{\"request_id\":\"r-1\",\"lease_id\":\"database/creds/app/abc\",\"lease_duration\":3600,\"renewable\":true,\"data\":{\"password\":\"hunter2\",\"username\":\"u-1\"},\"warnings\":null}",
      "life": {
        "leased": {
          "asked": 3600000,
          "granted": 3600000,
          "since": -1000,
          "ends": 3599000,
          "renewable": true,
          "renew_at": 2300000,
          "failures": 0
        }
      },
      "hold": 0,
      "read_at": -1000,
      "delivered": true,
      "named_by": [
        0
      ],
      "warned": 0
    },
    {
      "read": {
        "method": "GET",
        "path": "secret/data/db",
        "query": null,
        "body": null
      },
      "answer": "{\"request_id\":\"r-2\",\"lease_id\":\"\",\"lease_duration\":0,\"renewable\":false,\"data\":{\"data\":{\"pass\":\"hunter2\"}},\"warnings\":null}",
      "life": {
        "plain": {
          "read": -1000,
          "creates": false
        }
      },
      "hold": 0,
      "read_at": -1000,
      "delivered": true,
      "named_by": [
        0
      ],
      "warned": 0
    }
  ],
  "volumes": [
    {
      "path": "/pods/u-1/mount",
      "class": "shop",
      "last": -900,
      "mounts": 1,
      "gaps": [
        0,
        0,
        0
      ]
    }
  ],
  "last_heard": -1000,
  "warned_of_token": false
}"#;

    #[tokio::test]
    async fn a_session_of_the_first_version_is_read() {
        let mut json: serde_json::Value = serde_json::from_str(FIRST).unwrap();
        json["mark"] = serde_json::to_value(BootTimestamp::now()).unwrap();
        json["of_a_later_version"] = 1.into();
        let text = zeroize::Zeroizing::new(json.to_string().into_bytes());
        let saved = SavedSession::read(&Content { version: 1, bytes: 9, text }).unwrap();
        assert_eq!(saved.owner(), ("shop", "web-0", "web"));
        let reads: Vec<SecretRequest> = saved.leases().iter().map(|lease| lease.read().clone()).collect();
        let no_client = Err(Error::new(Cause::Tls, "none here"));
        let session = saved.restore(no_client, Observers::default(), None, (Name([1; 16]), 9), Arc::new).unwrap();
        assert_eq!(session.key.service_account, "web");
        assert!(session.has_mounted("/pods/u-1/mount"));
        let good = reads.iter().filter(|read| matches!(session.look(read, Refresh::Never), Found::Good(_))).count();
        assert_eq!((reads.len(), good), (2, 2));
        assert!(session.state().hold.as_ref().is_some_and(|hold| hold.lives(clock::now())));
        assert!(session.next().is_some(), "it is renewed");
    }
}
