//! Status document: pods, tokens and secrets by name, never a secret value.
//!
//! The JSON of `GET /status` is [`Status`]. Fields may be added, but never changed or removed. Times are RFC 3339.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{
    cache::kind::{SecretKind, SecretState},
    kube::watch_state::WatchState,
};

/// Status of a process.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Status {
    /// Version of vaultmount.
    pub version: String,
    /// PID of the process in its container.
    pub pid: u32,
    /// Start of the process.
    pub started_at: Timestamp,
    /// Time of this status by the process's clock.
    pub now: Timestamp,
    /// State of the pod watch.
    pub watch: WatchStatus,
    /// True if mounts are rejected because everything was revoked.
    pub mounts_disabled: bool,
    /// Servers that are down now.
    #[serde(default)]
    pub outages: Vec<OutageStatus>,
    /// State of every server that is configured or was used, sorted by address.
    #[serde(default)]
    pub servers: Vec<ServerStatus>,
    /// Open sessions.
    pub sessions: Vec<SessionStatus>,
    /// Pending revocations.
    pub revocations: Vec<PendingRevocationStatus>,
    /// Recent failures of mounts, the newest first.
    #[serde(default)]
    pub failures: Vec<MountFailure>,
}

/// Outage of a server, which is probed until it is up again.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct OutageStatus {
    /// The server.
    pub address: String,
    /// Start of the outage.
    pub since: Timestamp,
    /// Error that marked the server down, with its ID.
    pub error: String,
}

/// Last known state of a server.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ServerStatus {
    /// Address of the server.
    pub address: String,
    /// State of the server.
    pub state: ServerState,
    /// Error if the server is failing or down, with its ID.
    #[serde(default)]
    pub error: Option<String>,
}

/// State of a server. Of several clients of one address, the status shows the state that is last in this list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ServerState {
    /// No response was received yet.
    Unknown,
    /// Server responds, but not as Vault does.
    NotVault,
    /// Connection fails permanently, or the last request had no valid response.
    Failing,
    /// Server responds.
    Up,
    /// Server is down, and is probed until it is up again.
    Down,
}

/// Watch of this node's pods.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct WatchStatus {
    /// State of the watch.
    pub state: WatchState,
    /// Name of the node, if configured.
    pub node: Option<String>,
    /// Time of the last change of state.
    pub since: Option<Timestamp>,
    /// Last error of the watch.
    pub last_error: Option<LastErrorStatus>,
}

/// Error with its time and operation.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct LastErrorStatus {
    /// Time of the error.
    pub at: Timestamp,
    /// Operation that failed, such as `reading kv/data/db`.
    pub operation: String,
    /// The error, with its id.
    pub error: String,
}

/// Failed mount or poll with the error that the driver received. Only the last per volume and cause is kept.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct MountFailure {
    /// Time of the last failure.
    pub at: Timestamp,
    /// Number of failures.
    pub count: u64,
    /// The pod's name.
    pub pod: String,
    /// Kubernetes namespace of the pod.
    pub namespace: String,
    /// UID of the pod.
    pub uid: String,
    /// Path of the volume on the node.
    pub target_path: String,
    /// The error, with its id.
    pub error: String,
}

/// Session of a pod at one Vault.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SessionStatus {
    /// The pod's name.
    pub pod: String,
    /// Kubernetes namespace of the pod.
    pub namespace: String,
    /// UID of the pod; empty for a shared session, which has the pod name `*`.
    pub uid: String,
    /// Number of pods that use the session.
    #[serde(default = "single_pod")]
    pub pods: usize,
    /// Service account of the pod.
    pub service_account: String,
    /// The server.
    pub address: String,
    /// Vault namespace of the secrets.
    pub vault_namespace: Option<String>,
    /// Auth mount without `auth/`.
    pub auth_mount: String,
    /// The login role.
    pub role: String,
    /// Current session token.
    pub token: Option<TokenStatus>,
    /// Number of replaced tokens that stay valid for the leases under them.
    pub superseded_tokens: usize,
    /// The pod's volumes.
    pub volumes: Vec<VolumeStatus>,
    /// Cached secrets.
    pub secrets: Vec<SecretStatus>,
    /// Time of the last successful request.
    pub last_success_at: Option<Timestamp>,
    /// Last error of the session.
    pub last_error: Option<LastErrorStatus>,
    /// True while the token and leases are renewed.
    pub renewal_active: bool,
    /// Reason if they are not renewed.
    pub renewal_paused_reason: Option<String>,
}

fn single_pod() -> usize {
    1
}

/// Vault token of a session.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct TokenStatus {
    /// Accessor of the token; empty for a batch token.
    pub accessor: String,
    /// State of the token.
    pub state: SecretState,
    /// Expiry unless the token is renewed; `None` if it never expires.
    pub expires_at: Option<Timestamp>,
    /// Time of the next renewal.
    pub renew_at: Option<Timestamp>,
    /// Expiry by the max TTL.
    pub max_expires_at: Option<Timestamp>,
}

/// Volume of a pod.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct VolumeStatus {
    /// Path of the volume on the node.
    pub target_path: String,
    /// Name of the `SecretProviderClass`.
    pub class: String,
    /// Time of the last mount or poll.
    pub last_mount_at: Timestamp,
    /// Number of mounts, including polls.
    pub mounts: u64,
    /// Interval between polls in seconds, if known.
    pub poll_interval_seconds: Option<u64>,
}

/// Cached secret of a session.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SecretStatus {
    /// Path of the request.
    pub path: String,
    /// Method of the request: `GET`, `LIST`, `PUT` or `POST`.
    pub method: String,
    /// Kind of the secret.
    pub kind: SecretKind,
    /// State of the secret.
    pub state: SecretState,
    /// Expiry unless the secret is renewed; `None` if it never expires.
    pub expires_at: Option<Timestamp>,
    /// Expiry by the max TTL.
    pub max_expires_at: Option<Timestamp>,
    /// Time of the next renewal; `None` if the secret is not renewed.
    pub renew_at: Option<Timestamp>,
    /// Time of the last read.
    pub read_at: Timestamp,
    /// Last error, unless a later request succeeded.
    pub last_error: Option<String>,
    /// Number of the pod's volumes that use the secret.
    pub volumes: usize,
}

/// Token that must still be revoked.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PendingRevocationStatus {
    /// Name of the pod that used the token.
    pub pod: String,
    /// The pod's Kubernetes namespace.
    pub namespace: String,
    /// The pod's UID.
    pub uid: String,
    /// The server.
    pub address: String,
    /// Start of the pending revocation.
    pub since: Timestamp,
    /// Number of attempts.
    pub attempts: u32,
    /// Expiry of the token.
    pub expires_at: Option<Timestamp>,
    /// Error of the last attempt; empty before the first.
    pub last_error: String,
}

/// Result of revoking everything.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct RevocationSummary {
    /// Number of revoked tokens.
    pub tokens: usize,
    /// Failed revocations with their errors, one line each.
    pub failed: Vec<String>,
    /// Number of tokens that are not revoked.
    pub remaining: usize,
}

impl RevocationSummary {
    /// Returns true if everything was revoked.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.remaining == 0 && self.failed.is_empty()
    }
}
