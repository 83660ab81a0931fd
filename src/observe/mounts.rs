//! Reports of mounts: to the log, the audit log, pod events, metrics and the status. Decides nothing.

mod mount_log;
mod recent_failures;
mod tenant_addresses;

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering::Relaxed},
};

use tokio::time::Instant;

use super::{
    Observers,
    audit::{AuditEvent, AuditOutcome, AuditRecord},
    events::{EventReason, EventSubject},
    status,
};
use crate::{
    cache::{CachedSecret, kind::ReadSource},
    error::{Cause, Error},
    hmac_keys::KeySet,
    policy::{OperatorPolicy, VaultTarget, rule_kind::RuleKind},
    request::{MountSpec, Object, Pod},
    session::Session,
    telemetry::{Emit, elapsed_ms},
    vault::request::SecretRequest,
};
use mount_log::MountLog;
pub use mount_log::MountLogContext;
use recent_failures::RecentFailures;
use tenant_addresses::TenantAddressLog;

/// Reports mounts. One per process.
pub struct MountObserver {
    observers: Observers,
    log: MountLog,
    /// False for a client that prints outcomes itself.
    logs_outcomes: bool,
    recent_failures: RecentFailures,
    tenant_addresses: TenantAddressLog,
    internal_errors: AtomicU64,
}

/// One request of a mount and its outcome.
pub struct ReadDecision<'a> {
    /// The request.
    pub request: &'a Arc<SecretRequest>,
    /// The objects that are made from its response.
    pub objects: &'a [&'a Object],
    /// The secret that the volume had before, if any.
    pub before: Option<&'a CachedSecret>,
    /// The secret that the volume gets, and its source.
    pub after: Option<(&'a CachedSecret, ReadSource)>,
    /// Vault's ID of its response.
    pub request_id: Option<&'a str>,
    /// The error of a read that failed, or that was replaced by a stale secret.
    pub error: Option<&'a Error>,
}

impl MountObserver {
    /// Creates an observer that reports to `observers`. Outcomes are logged only if `logs_outcomes` is set.
    #[must_use]
    pub fn new(observers: Observers, logs_outcomes: bool) -> Self {
        Self {
            observers,
            log: MountLog::default(),
            logs_outcomes,
            recent_failures: RecentFailures::default(),
            tenant_addresses: TenantAddressLog::default(),
            internal_errors: AtomicU64::new(0),
        }
    }

    /// Returns true if there is an audit log.
    #[must_use]
    pub fn audits(&self) -> bool {
        self.observers.audit.is_enabled()
    }

    /// Returns the span that all log lines of a mount share.
    pub fn span(&self, pod: &Pod, class: &str) -> tracing::Span {
        self.log.span(pod, class)
    }

    /// Returns the recent failures, the newest first, at most one per volume and cause.
    #[must_use]
    pub fn recent_failures(&self) -> Vec<status::MountFailure> {
        self.recent_failures.snapshot()
    }

    /// Logs the warnings of a class.
    pub fn warn_of_class(&self, spec: &MountSpec) {
        self.log.warn_of_class(spec);
    }

    /// Counts secrets that a mount read from a source.
    pub fn count_reads(&self, source: ReadSource, count: usize) {
        self.observers.metrics.count_secret_reads(source, count);
    }

    /// Counts a mount that a rule denied.
    pub fn count_policy_denial(&self, rule: RuleKind) {
        self.observers.metrics.count_policy_denial(rule);
    }

    /// Counts a mount whose class chose the address while no policy file is set, and warns at its first use.
    pub fn record_tenant_address(&self, spec: &MountSpec, target: &VaultTarget, operator: &OperatorPolicy) {
        if target.is_operator_address || operator.policy_file.is_some() {
            return;
        }
        self.observers.metrics.count_tenant_address_mount();
        self.tenant_addresses.warn(&spec.pod.namespace, &spec.class_name, &target.endpoint.address);
    }

    /// Writes an audit record of one request for a volume.
    pub fn record_read(&self, spec: &MountSpec, session: &Session, keys: Option<&KeySet>, decision: &ReadDecision<'_>) {
        if !self.audits() {
            return;
        }
        let ReadDecision { request, objects, before, after, request_id, error } = decision;
        let version =
            |secret: &CachedSecret| Some(keys?.object_version.version_of_bytes(secret.response.data()?.as_bytes()));
        let record = AuditRecord {
            path: request.display_path(),
            method: request.method.to_string(),
            objects: objects.iter().map(|object| object.file_spec.path.as_str()).collect(),
            source: after.map(|(_, source)| source),
            version_before: before.and_then(version),
            version_after: after.and_then(|(secret, _)| version(secret)),
            request_id: *request_id,
            ..session.key().audit_record(AuditEvent::Read)
        };
        let record = for_pod(record, spec);
        self.observers.audit.record(&match error {
            Some(error) if after.is_some() => {
                AuditRecord { outcome: AuditOutcome::Stale, ..record.with_failure(error) }
            }
            Some(error) if objects.iter().all(|object| object.is_optional_miss(error)) => {
                AuditRecord { outcome: AuditOutcome::NotFound, ..record.with_failure(error) }
            }
            Some(error) => record.with_failure(error),
            None => record,
        });
    }

    /// Reports a poll that is served stale secrets because Vault is unavailable. A known outage was logged when it began, so it
    /// is not logged for each poll.
    pub fn report_stale(&self, spec: &MountSpec, session: &Session, started_at: Instant, error: &Error) {
        let text = || format!("Vault is unavailable, the pod keeps its current files: {error}");
        self.observers.events.emit(|| subject(&spec.pod), EventReason::RefreshFailed, text);
        self.observers.metrics.count_stale_poll(error.cause());
        let (polls, is_logged) = match self.log.record_stale_poll(&spec.target_path, error) {
            Emit::First => (None, session.outage().is_none()),
            Emit::Summary(polls) => (Some(polls), true),
            Emit::Suppress => (None, false),
        };
        let code = error.cause().code().as_str();
        let objects = tracing::field::display(spec.class.display_object_names());
        let endpoint = tracing::field::display(&session.key().endpoint.address);
        let duration_ms = elapsed_ms(started_at);
        if is_logged {
            tracing::warn!(%error, code, objects, endpoint, duration_ms, polls, "Vault unavailable, serving cached secrets");
        } else {
            tracing::debug!(%error, code, objects, endpoint, duration_ms, "Vault unavailable, serving cached secrets");
        }
    }

    /// Reports a mount that failed to the status and the audit log.
    pub fn report_failure(
        &self,
        spec: &MountSpec,
        operator: &OperatorPolicy,
        default_audience: &str,
        rule: Option<RuleKind>,
        error: &Error,
    ) {
        self.recent_failures.record(&spec.pod, &spec.target_path, error);
        if !self.audits() {
            return;
        }
        let class = &spec.class;
        let server = operator.likely_server(&class.choice);
        let server = server.as_ref();
        let record = AuditRecord {
            event: AuditEvent::Mount,
            rule,
            endpoint: server.map(|server| &server.address),
            endpoint_name: class.choice.endpoint.as_deref(),
            vault_namespace: server.and_then(|server| server.namespace.as_deref()),
            auth_mount: server.map(|server| server.auth_mount.as_str()).unwrap_or_default(),
            role: &class.role,
            audience: Some(class.audience.as_deref().unwrap_or(default_audience)),
            paths: class.objects_by_request().iter().map(|(request, _)| request.display_path()).collect(),
            objects: class.objects.iter().map(|object| object.file_spec.path.as_str()).collect(),
            ..AuditRecord::default()
        };
        self.observers.audit.record(&for_pod(record, spec).with_failure(error));
    }

    /// Reports a request that could not be parsed to the status, the audit log and the log.
    pub fn report_malformed(&self, pod: &Pod, class: &str, target_path: &str, received_at: Instant, error: &Error) {
        let _entered = self.span(pod, class).entered();
        self.log_failure(error, &MountLogContext::for_request(target_path, received_at));
        self.recent_failures.record(pod, target_path, error);
        let Pod { namespace, name, uid, service_account } = pod;
        let record = AuditRecord {
            event: AuditEvent::Mount,
            namespace,
            pod: name,
            uid,
            service_account,
            class,
            ..AuditRecord::default()
        };
        self.observers.audit.record(&record.with_failure(error));
    }

    /// Emits a pod event for a failure.
    pub fn emit_failure(&self, pod: &Pod, reason: EventReason, error: &Error) {
        self.observers.events.emit(|| subject(pod), reason, || error.to_string());
    }

    /// Emits a pod event for polls that succeed again.
    pub fn emit_recovery(&self, pod: &Pod, reason: EventReason) {
        self.observers.events.emit(|| subject(pod), reason, || "polls succeed again".to_owned());
    }

    /// Logs a failure, and counts internal errors.
    pub fn log_failure(&self, error: &Error, context: &MountLogContext) {
        if error.cause() == Cause::Internal {
            let count = self.internal_errors.fetch_add(1, Relaxed) + 1;
            tracing::error!(%error, count, "internal error");
        }
        if self.logs_outcomes {
            self.log.log_failure(error, context);
        }
    }

    /// Logs a mount that succeeded.
    pub fn log_success(&self, files: usize, has_new: bool, served_stale: bool, context: &MountLogContext) {
        if self.logs_outcomes {
            self.log.log_success(files, has_new, served_stale, context);
        }
    }

    /// Logs a poll served from the cache, which costs nothing at the usual log level.
    pub fn log_cache_hit(&self, spec: &MountSpec, operator: &OperatorPolicy, files: usize, received_at: Instant) {
        if self.logs_outcomes {
            self.log.log_cache_hit(spec, operator, files, received_at);
        }
    }
}

/// Returns the pod as events name it.
fn subject(pod: &Pod) -> EventSubject {
    EventSubject { namespace: pod.namespace.clone(), name: pod.name.clone(), uid: pod.uid.clone() }
}

/// Names the pod of a mount in a record, also where its session is shared.
fn for_pod<'a>(record: AuditRecord<'a>, spec: &'a MountSpec) -> AuditRecord<'a> {
    let pod = &spec.pod;
    AuditRecord {
        namespace: &pod.namespace,
        service_account: &pod.service_account,
        pod: &pod.name,
        uid: &pod.uid,
        class: &spec.class_name,
        ..record
    }
}
