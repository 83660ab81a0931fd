//! Audit log: one JSON record per decision about a secret, with the pod, the request, the source and the outcome.
//!
//! A record never contains a secret. Versions are HMACs under the object version key, so that they show only if two secrets
//! are equal.

mod file;

use std::{
    fmt,
    path::PathBuf,
    sync::{
        Arc,
        mpsc::{Receiver, SyncSender, TrySendError, sync_channel},
    },
    thread,
    time::{Duration, Instant},
};

use jiff::Timestamp;
use serde::Serialize;

use crate::{
    cache::kind::ReadSource,
    error::{Code, Error},
    observe::metrics::{AuditWrite, Metrics},
    policy::rule_kind::RuleKind,
    vault::Address,
};
use file::AuditOutput;

/// Destination of audit records.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AuditSink {
    /// Standard output.
    Stdout,
    /// File that records are appended to. It is created again after it was renamed or removed.
    File(PathBuf),
}

impl fmt::Display for AuditSink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stdout => f.write_str("stdout"),
            Self::File(path) => path.display().fmt(f),
        }
    }
}

/// Sender of audit records. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct AuditLog {
    /// `None` if the audit log is off.
    sender: Option<SyncSender<Message>>,
    metrics: Arc<Metrics>,
}

#[derive(Debug)]
enum Message {
    Record(Vec<u8>),
    /// Acknowledged after all earlier records were written.
    Flush(SyncSender<()>),
}

/// Audit record of one decision.
#[derive(Debug, Default, Serialize)]
pub struct AuditRecord<'a> {
    /// Subject of the decision.
    pub event: AuditEvent,
    /// Outcome of the decision.
    pub outcome: AuditOutcome,
    /// ID of the error, as in docs/errors.md.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error_id: Option<&'static str>,
    /// Operator rule that denied the mount.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rule: Option<RuleKind>,
    /// The pod's Kubernetes namespace.
    pub namespace: &'a str,
    /// The pod's service account.
    pub service_account: &'a str,
    /// Name of the pod; `*` for all pods of a service account that share a token.
    pub pod: &'a str,
    /// UID of the pod; empty if `pod` is `*`.
    pub uid: &'a str,
    /// Name of the `SecretProviderClass`; empty if the decision does not belong to a mount.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub class: &'a str,
    /// Address of the Vault server.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<&'a Address>,
    /// Endpoint of the policy file that the class selects.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub endpoint_name: Option<&'a str>,
    /// Vault namespace of the secret or of the login.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vault_namespace: Option<&'a str>,
    /// The auth mount.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub auth_mount: &'a str,
    /// The login role.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub role: &'a str,
    /// Audience of the service account token, for a failed mount.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub audience: Option<&'a str>,
    /// The secret's path.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub path: &'a str,
    /// Paths of all secrets of the class, for a failed mount.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub paths: Vec<&'a str>,
    /// Method of the request to Vault.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub method: String,
    /// Objects of the class that use the secret.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub objects: Vec<&'a str>,
    /// Source of the secret.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source: Option<ReadSource>,
    /// Version that the pod had before; `None` before its first.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version_before: Option<String>,
    /// Version that the pod has now.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version_after: Option<String>,
    /// Accessor of the session token, for lookup and revocation by an operator.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub accessor: &'a str,
    /// Vault's request ID, which is also in Vault's audit log; `None` if Vault sent none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request_id: Option<&'a str>,
}

/// Subject of a decision.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum AuditEvent {
    /// Login of a pod.
    #[default]
    Login,
    /// Read of a secret for a pod.
    Read,
    /// Mount that failed before its first request, or as a whole after its requests.
    Mount,
    /// Revocation of a pod's token and of the leases under it.
    Revoke,
}

/// Outcome of a decision.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum AuditOutcome {
    /// Success.
    #[default]
    Ok,
    /// Optional secret that does not exist.
    NotFound,
    /// Vault was unavailable, and the pod keeps its stale secret.
    Stale,
    /// Denied by Vault or by an operator rule.
    Denied,
    /// Failed for another reason.
    Failed,
}

impl AuditRecord<'_> {
    /// Sets the outcome and ID of an error.
    #[must_use]
    pub fn with_failure(self, error: &Error) -> Self {
        let is_denied = matches!(error.cause().code(), Code::PermissionDenied | Code::Unauthenticated);
        let outcome = if is_denied { AuditOutcome::Denied } else { AuditOutcome::Failed };
        Self { outcome, error_id: Some(error.cause().info().id), ..self }
    }
}

/// Maximum number of queued records. Further records are dropped and counted, so that a hung disk does not delay mounts.
const QUEUE_CAPACITY: usize = 8192;
/// Timeout for writing the last records when the process exits.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(2);
const FLUSH_RETRY_DELAY: Duration = Duration::from_millis(10);

impl AuditLog {
    /// Opens the log. Written and dropped records are counted in `metrics`.
    pub fn open(sink: AuditSink, metrics: Arc<Metrics>) -> Result<Self, String> {
        let output = AuditOutput::open(sink)?;
        let (sender, receiver) = sync_channel(QUEUE_CAPACITY);
        let counted = Arc::clone(&metrics);
        let writer =
            thread::Builder::new().name("audit".to_owned()).spawn(move || write_records(output, &receiver, &counted));
        writer.map_err(|e| format!("cannot start its writer thread: {e}"))?;
        Ok(Self { sender: Some(sender), metrics })
    }

    /// Returns true if the audit log is on. Callers skip building records otherwise.
    #[must_use]
    pub fn is_enabled(&self) -> bool {
        self.sender.is_some()
    }

    /// Queues a record. Never blocks.
    pub fn record(&self, record: &AuditRecord<'_>) {
        let Some(sender) = &self.sender else { return };
        let is_queued = serde_json::to_vec(record).ok().and_then(|fields| {
            let mut text = format!("{{\"time\":\"{}\",", current_timestamp()).into_bytes();
            text.extend_from_slice(fields.strip_prefix(b"{")?);
            text.push(b'\n');
            Some(sender.try_send(Message::Record(text)).is_ok())
        });
        if is_queued != Some(true) {
            count_dropped(&self.metrics, "the queue is full");
        }
    }

    /// Waits until all queued records are written, at most 2 s. Blocks.
    pub fn flush(&self) {
        let Some(lines) = &self.sender else { return };
        let (done, written) = sync_channel(1);
        let (mut last, deadline) = (Message::Flush(done), Instant::now() + FLUSH_TIMEOUT);
        loop {
            match lines.try_send(last) {
                Err(TrySendError::Full(message)) if Instant::now() < deadline => last = message,
                _ => break,
            }
            #[expect(clippy::disallowed_methods, reason = "the function blocks, as documented")]
            thread::sleep(FLUSH_RETRY_DELAY);
        }
        if written.recv_timeout(deadline.saturating_duration_since(Instant::now())).is_err() {
            tracing::error!(timeout = ?FLUSH_TIMEOUT, "audit log flush timed out; the last records may be lost");
        }
    }
}

fn current_timestamp() -> Timestamp {
    let now = Timestamp::now();
    now.round(jiff::Unit::Millisecond).unwrap_or(now)
}

/// Writes records until all senders are dropped.
fn write_records(mut output: AuditOutput, receiver: &Receiver<Message>, metrics: &Metrics) {
    while let Ok(message) = receiver.recv() {
        match message {
            Message::Record(line) => match output.write(&line) {
                Ok(()) => {
                    metrics.count_audit_record(AuditWrite::Ok);
                }
                Err(error) => count_dropped(metrics, &error.to_string()),
            },
            Message::Flush(done) => drop(done.send(())),
        }
    }
}

/// Counts a dropped record and logs it when the count is a power of two.
fn count_dropped(metrics: &Metrics, reason: &str) {
    let count = metrics.count_audit_record(AuditWrite::Dropped);
    if count.is_power_of_two() {
        tracing::error!(lost = count, reason, "audit record dropped");
    }
}
