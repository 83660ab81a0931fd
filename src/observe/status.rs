//! What a process holds, as it tells of it: pods, tokens and leases by their names, never a secret.
//!
//! The JSON of `GET /status` is [`Status`]. Fields may be added, never change or go; times are RFC 3339.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{
    cache::kind::{SecretKind, SecretState},
    kube::watch_state::WatchState,
};

/// What a process holds.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Status {
    /// Of vaultmount.
    pub version: String,
    /// The process's number, in its own container.
    pub pid: u32,
    /// When it started.
    pub started_at: Timestamp,
    /// When it told this: its clock.
    pub now: Timestamp,
    /// How it learns of pods' ends.
    pub watch: WatchStatus,
    /// Whether mounts are refused, as everything was revoked.
    pub mounts_disabled: bool,
    /// Servers that cannot be asked at present.
    #[serde(default)]
    pub outages: Vec<OutageStatus>,
    /// Every server that the operator named or that was used, by address, and how it stands.
    #[serde(default)]
    pub servers: Vec<ServerStatus>,
    /// Pods that have a standing at a Vault.
    pub sessions: Vec<SessionStatus>,
    /// Tokens that wait to be revoked.
    pub revocations: Vec<PendingRevocationStatus>,
    /// Mounts that failed last, the newest first.
    #[serde(default)]
    pub failures: Vec<MountFailure>,
}

/// A server that cannot be asked, and is probed until it can be.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct OutageStatus {
    /// The server.
    pub address: String,
    /// Since when that is known.
    pub since: Timestamp,
    /// Why, with its id.
    pub error: String,
}

/// A server, as far as is known.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ServerStatus {
    /// Where it is.
    pub address: String,
    /// How it stands.
    pub state: ServerState,
    /// Why it cannot be asked, with its id.
    #[serde(default)]
    pub error: Option<String>,
}

/// How a server stands. Of several clients of one address, the last of these is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ServerState {
    /// Nobody has had an answer of it.
    Unknown,
    /// It answers, though not as Vault does.
    NotVault,
    /// A connection fails that waiting will not mend, or it had no good answer when it was last asked.
    Failing,
    /// It answers.
    Up,
    /// It cannot be asked, and is probed until it can be.
    Down,
}

/// The watch of this node's pods.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct WatchStatus {
    /// How it stands.
    pub state: WatchState,
    /// The node, if it was named.
    pub node: Option<String>,
    /// Since when it stands so.
    pub since: Option<Timestamp>,
    /// What went wrong last.
    pub last_error: Option<LastErrorStatus>,
}

/// Something that went wrong.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct LastErrorStatus {
    /// When.
    pub at: Timestamp,
    /// What was tried, in a clause: `reading kv/data/db`.
    pub operation: String,
    /// The error, with its id.
    pub error: String,
}

/// A mount or poll that failed, as its caller was told: of each volume and cause the last.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct MountFailure {
    /// When.
    pub at: Timestamp,
    /// How often it has failed so.
    pub count: u64,
    /// The pod's name.
    pub pod: String,
    /// Its Kubernetes namespace.
    pub namespace: String,
    /// Its UID.
    pub uid: String,
    /// Where the volume is mounted on the node.
    pub target_path: String,
    /// The error, with its id.
    pub error: String,
}

/// A pod's standing at one Vault.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SessionStatus {
    /// The pod's name.
    pub pod: String,
    /// Its Kubernetes namespace.
    pub namespace: String,
    /// Its UID; empty for a session that pods share, whose name is `*`.
    pub uid: String,
    /// How many pods it is for.
    #[serde(default = "single_pod")]
    pub pods: usize,
    /// Its service account.
    pub service_account: String,
    /// The server.
    pub address: String,
    /// The Vault namespace of its secrets.
    pub vault_namespace: Option<String>,
    /// Where it logs in, without `auth/`.
    pub auth_mount: String,
    /// The login role.
    pub role: String,
    /// The token that counts.
    pub token: Option<TokenStatus>,
    /// Tokens that another took the place of, and that live on for what is leased under them.
    pub superseded_tokens: usize,
    /// The pod's volumes.
    pub volumes: Vec<VolumeStatus>,
    /// What was read.
    pub secrets: Vec<SecretStatus>,
    /// When Vault last did what was asked.
    pub last_success_at: Option<Timestamp>,
    /// What went wrong last.
    pub last_error: Option<LastErrorStatus>,
    /// Whether token and leases are renewed.
    pub renewal_active: bool,
    /// Why they are not.
    pub renewal_paused_reason: Option<String>,
}

fn single_pod() -> usize {
    1
}

/// A Vault token.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct TokenStatus {
    /// What an operator names it by; empty for a batch token.
    pub accessor: String,
    /// How it stands.
    pub state: SecretState,
    /// When it ends unless it is renewed; none: never.
    pub expires_at: Option<Timestamp>,
    /// When it is renewed next.
    pub renew_at: Option<Timestamp>,
    /// When it ends whatever is done.
    pub max_expires_at: Option<Timestamp>,
}

/// A volume of a pod.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct VolumeStatus {
    /// Where it is mounted on the node.
    pub target_path: String,
    /// Its `SecretProviderClass`.
    pub class: String,
    /// When it was last asked for.
    pub last_mount_at: Timestamp,
    /// How often it was asked for, polls included.
    pub mounts: u64,
    /// The pause between polls, in seconds, when it is known.
    pub poll_interval_seconds: Option<u64>,
}

/// An answer of Vault that a pod has.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SecretStatus {
    /// The path that was asked.
    pub path: String,
    /// How: `GET`, `LIST`, `PUT` or `POST`.
    pub method: String,
    /// What it is.
    pub kind: SecretKind,
    /// How it stands.
    pub state: SecretState,
    /// When it ends unless it is renewed; none: never.
    pub expires_at: Option<Timestamp>,
    /// When it ends whatever is done.
    pub max_expires_at: Option<Timestamp>,
    /// When it is renewed next; none for what is not renewed.
    pub renew_at: Option<Timestamp>,
    /// When it was read.
    pub read_at: Timestamp,
    /// What went wrong last, if it has not gone well since.
    pub last_error: Option<String>,
    /// How many of the pod's volumes have it.
    pub volumes: usize,
}

/// A token that waits to be revoked.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PendingRevocationStatus {
    /// The name of the pod that had it.
    pub pod: String,
    /// The pod's Kubernetes namespace.
    pub namespace: String,
    /// The pod's UID.
    pub uid: String,
    /// The server.
    pub address: String,
    /// Since when.
    pub since: Timestamp,
    /// How often it was tried.
    pub attempts: u32,
    /// When it is over by itself.
    pub expires_at: Option<Timestamp>,
    /// What the last attempt met; empty before the first.
    pub last_error: String,
}

/// What came of revoking everything.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct RevocationSummary {
    /// Tokens that are revoked.
    pub tokens: usize,
    /// What could not be revoked and why, a line each.
    pub failed: Vec<String>,
    /// Tokens that are not revoked.
    pub remaining: usize,
}

impl RevocationSummary {
    /// Whether nothing is left.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.remaining == 0 && self.failed.is_empty()
    }
}
