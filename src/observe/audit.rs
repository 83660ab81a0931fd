//! The audit log: a line of JSON for each decision about a secret. Who asked for what, where it came from, what came of it;
//! never a secret. Versions are HMACs under the key of object versions, so that equal secrets are seen to be equal and nothing else.

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

/// Where lines go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AuditSink {
    /// Standard output.
    Stdout,
    /// A file, appended to. Renamed or removed, it is made anew.
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

/// Takes lines. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct AuditLog {
    /// None: there is no audit log.
    sender: Option<SyncSender<Message>>,
    metrics: Arc<Metrics>,
}

#[derive(Debug)]
enum Message {
    Record(Vec<u8>),
    /// Answered when every line before is written.
    Flush(SyncSender<()>),
}

/// One decision.
#[derive(Debug, Default, Serialize)]
pub struct AuditRecord<'a> {
    /// What it was about.
    pub event: AuditEvent,
    /// What came of it.
    pub outcome: AuditOutcome,
    /// The id of what went wrong, as in docs/errors.md.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error_id: Option<&'static str>,
    /// The rule of the operator's that said no.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rule: Option<RuleKind>,
    /// The pod's Kubernetes namespace.
    pub namespace: &'a str,
    /// The pod's service account.
    pub service_account: &'a str,
    /// The pod's name; `*` where it is about all pods of a service account that share a token.
    pub pod: &'a str,
    /// The pod's UID; empty likewise.
    pub uid: &'a str,
    /// The `SecretProviderClass`; empty where it is about no mount.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub class: &'a str,
    /// The server.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<&'a Address>,
    /// The one that the class names, of the policy file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub endpoint_name: Option<&'a str>,
    /// The Vault namespace: of the secret, or of the login.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vault_namespace: Option<&'a str>,
    /// The auth mount.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub auth_mount: &'a str,
    /// The login role.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub role: &'a str,
    /// Whom the service account token was to be for, of a mount that failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub audience: Option<&'a str>,
    /// The secret's path.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub path: &'a str,
    /// The paths of all secrets of the class, of a mount that failed.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub paths: Vec<&'a str>,
    /// The method it is asked for with.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub method: String,
    /// The objects of the class that are made of it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub objects: Vec<&'a str>,
    /// Where the answer came from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source: Option<ReadSource>,
    /// The version that the pod had; none before its first.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version_before: Option<String>,
    /// The one that it has now.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version_after: Option<String>,
    /// The token's accessor, by which an operator finds and ends it.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub accessor: &'a str,
    /// Vault's id of its answer, which is in Vault's audit log, too; none where Vault gave none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request_id: Option<&'a str>,
}

/// What a decision was about.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum AuditEvent {
    /// A pod's login.
    #[default]
    Login,
    /// A secret for a pod.
    Read,
    /// A mount that was refused before anything was asked for, or because of what came of it as a whole.
    Mount,
    /// The end of a pod's token, and of what was leased under it.
    Revoke,
}

/// What came of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum AuditOutcome {
    /// It was done.
    #[default]
    Ok,
    /// It is not there, and need not be.
    NotFound,
    /// The pod keeps what it had, as Vault could not be asked.
    Stale,
    /// Somebody said no: Vault, or a rule of the operator's.
    Denied,
    /// It could not be done.
    Failed,
}

impl AuditRecord<'_> {
    /// The same of what failed.
    #[must_use]
    pub fn with_failure(self, error: &Error) -> Self {
        let is_denied = matches!(error.cause().code(), Code::PermissionDenied | Code::Unauthenticated);
        let outcome = if is_denied { AuditOutcome::Denied } else { AuditOutcome::Failed };
        Self { outcome, error_id: Some(error.cause().info().id), ..self }
    }
}

/// Lines that wait to be written. More are lost, and counted: a disk that stands still must not hold up mounts.
const QUEUE_CAPACITY: usize = 8192;
/// How long the last lines are waited for when the process ends.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(2);
const FLUSH_RETRY_DELAY: Duration = Duration::from_millis(10);

impl AuditLog {
    /// Opens the log; the error says why it cannot be written. What is written and what is lost is counted in `metrics`.
    pub fn open(sink: AuditSink, metrics: Arc<Metrics>) -> Result<Self, String> {
        let output = AuditOutput::open(sink)?;
        let (sender, receiver) = sync_channel(QUEUE_CAPACITY);
        let counted = Arc::clone(&metrics);
        let writer =
            thread::Builder::new().name("audit".to_owned()).spawn(move || write_records(output, &receiver, &counted));
        writer.map_err(|e| format!("has no thread: {e}"))?;
        Ok(Self { sender: Some(sender), metrics })
    }

    /// Whether there is one, so that nobody gathers what nobody reads.
    #[must_use]
    pub fn is_enabled(&self) -> bool {
        self.sender.is_some()
    }

    /// Writes a line, soon.
    pub fn record(&self, record: &AuditRecord<'_>) {
        let Some(lines) = &self.sender else { return };
        let is_queued = serde_json::to_vec(record).ok().and_then(|fields| {
            let mut text = format!("{{\"time\":\"{}\",", current_timestamp()).into_bytes();
            text.extend_from_slice(fields.strip_prefix(b"{")?);
            text.push(b'\n');
            Some(lines.try_send(Message::Record(text)).is_ok())
        });
        if is_queued != Some(true) {
            count_dropped(&self.metrics, "too many lines wait to be written");
        }
    }

    /// Waits until what was told is written, for a little while at most. Blocks.
    pub fn flush(&self) {
        let Some(lines) = &self.sender else { return };
        let (done, written) = sync_channel(1);
        let (mut last, deadline) = (Message::Flush(done), Instant::now() + FLUSH_TIMEOUT);
        loop {
            match lines.try_send(last) {
                Err(TrySendError::Full(message)) if Instant::now() < deadline => last = message,
                _ => break,
            }
            #[expect(clippy::disallowed_methods, reason = "it blocks, and says so")]
            thread::sleep(FLUSH_RETRY_DELAY);
        }
        if written.recv_timeout(deadline.saturating_duration_since(Instant::now())).is_err() {
            tracing::error!(
                "the last lines of the audit log may be lost: they were not written within {FLUSH_TIMEOUT:?}"
            );
        }
    }
}

fn current_timestamp() -> Timestamp {
    let now = Timestamp::now();
    now.round(jiff::Unit::Millisecond).unwrap_or(now)
}

/// Writes lines until nobody can send any more.
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

/// Counts a line that is not written, and says so: at its first, and then ever more seldom.
fn count_dropped(metrics: &Metrics, reason: &str) {
    let count = metrics.count_audit_record(AuditWrite::Dropped);
    if count.is_power_of_two() {
        tracing::error!(lost = count, "a line of the audit log is lost: {reason}");
    }
}
