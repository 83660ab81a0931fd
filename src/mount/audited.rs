//! What the audit log, pods' events and the status tell of mounts.

use std::sync::Arc;

use super::{MountContext, MountService, RequestResult};
use crate::{
    cache::{CachedSecret, kind::ReadSource},
    error::{Cause, Error},
    observe::{
        audit::{AuditEvent, AuditOutcome, AuditRecord},
        events::{EventReason, EventSubject},
    },
    policy::rule_kind::RuleKind,
    request::{MountSpec, Object, Pod},
    vault::request::SecretRequest,
};

/// What came of a request for a pod.
pub(super) struct ReadDecision<'a> {
    pub(super) request: &'a Arc<SecretRequest>,
    pub(super) objects: &'a [&'a Object],
    /// What the pod had.
    pub(super) before: Option<&'a CachedSecret>,
    /// What it gets, and from where.
    pub(super) after: Option<(&'a CachedSecret, ReadSource)>,
    /// Vault's id of its answer.
    pub(super) request_id: Option<&'a str>,
    /// Why it was not done, or not anew.
    pub(super) error: Option<&'a Error>,
}

impl MountService {
    /// Tells of one request for a pod.
    pub(super) fn record_read(&self, spec: &MountSpec, way: &MountContext, decided: &ReadDecision<'_>) {
        let audit = self.sessions.audit();
        if !audit.is_enabled() {
            return;
        }
        let ReadDecision { request: read, objects, before, after, request_id, error } = decided;
        let keys = self.keys.try_get();
        let version = |lease: &CachedSecret| {
            Some(keys.as_ref()?.object_version.version_of_bytes(lease.response.data()?.as_bytes()))
        };
        let line = AuditRecord {
            path: read.display_path(),
            method: read.method.to_string(),
            objects: objects.iter().map(|object| object.file_spec.path.as_str()).collect(),
            source: after.map(|(_, from)| from),
            version_before: before.and_then(version),
            version_after: after.and_then(|(lease, _)| version(lease)),
            request_id: *request_id,
            ..way.session.key().audit_record(AuditEvent::Read)
        };
        let line = for_pod(line, spec);
        audit.record(&match error {
            Some(error) if after.is_some() => AuditRecord { outcome: AuditOutcome::Stale, ..line.with_failure(error) },
            Some(error) if objects.iter().all(|object| object.is_optional_miss(error)) => {
                AuditRecord { outcome: AuditOutcome::NotFound, ..line.with_failure(error) }
            }
            Some(error) => line.with_failure(error),
            None => line,
        });
    }

    /// Counts what a mount has out of memory, and tells what of it is new to the volume.
    pub(super) fn record_cache_hits(
        &self,
        spec: &MountSpec,
        way: &MountContext,
        answers: &[RequestResult<'_>],
        reused: &[(&Arc<SecretRequest>, Arc<CachedSecret>)],
    ) {
        self.sessions.metrics().count_secret_reads(ReadSource::Cache, reused.len());
        if !self.sessions.audit().is_enabled() {
            return;
        }
        for (read, lease) in reused {
            let Some(answered) = answers.iter().find(|answered| answered.request == *read) else { continue };
            if !way.session.has_delivered(&spec.target_path, std::iter::once(lease)) {
                let (objects, request_id) = (&*answered.objects, lease.response.request_id());
                let after = Some((&**lease, ReadSource::Cache));
                self.record_read(
                    spec,
                    way,
                    &ReadDecision { request: read, objects, before: None, after, request_id, error: None },
                );
            }
        }
    }

    /// Tells of a mount that failed as a whole. `audience` is asked for when the class names none.
    pub fn failed(&self, spec: &MountSpec, audience: &str, error: &Error) {
        self.failures.record(&spec.pod, &spec.target_path, error);
        let why = if error.cause().is_policy() { EventReason::ClassInvalid } else { EventReason::RefreshFailed };
        self.emit_failure(&spec.pod, &spec.target_path, spec.driver_reports_failures, error, why);
        let audit = self.sessions.audit();
        if !audit.is_enabled() {
            return;
        }
        let class = &spec.class;
        let server = self.operator.likely_server(&class.choice);
        let server = server.as_ref();
        let line = AuditRecord {
            event: AuditEvent::Mount,
            rule: self.denied_rule(spec, audience, error),
            endpoint: server.map(|server| &server.address),
            endpoint_name: class.choice.endpoint.as_deref(),
            vault_namespace: server.and_then(|server| server.namespace.as_deref()),
            auth_mount: server.map(|server| server.auth_mount.as_str()).unwrap_or_default(),
            role: &class.role,
            audience: Some(class.audience.as_deref().unwrap_or(audience)),
            paths: class.objects_by_request().iter().map(|(read, _)| read.display_path()).collect(),
            objects: class.objects.iter().map(|object| object.file_spec.path.as_str()).collect(),
            ..AuditRecord::default()
        };
        audit.record(&for_pod(line, spec).with_failure(error));
    }

    /// The rule of the operator's that a mount failed of.
    fn denied_rule(&self, spec: &MountSpec, audience: &str, error: &Error) -> Option<RuleKind> {
        let cause = error.cause();
        if !cause.is_policy() {
            return None;
        }
        if let Err(refusal) = self.authorize(spec, audience) {
            return Some(refusal.rule);
        }
        // What is allowed as it is written leads elsewhere: an address by its resolution, a file by a link.
        match cause {
            Cause::AddressNotAllowed => Some(RuleKind::Address),
            Cause::TenantPolicyViolation => Some(RuleKind::CertificateFile),
            _ => None,
        }
    }
}

impl MountService {
    /// Tells of a request that cannot be understood, as far as it says whose it is.
    pub fn report_malformed(&self, pod: &Pod, class: &str, target_path: &str, is_reported: bool, error: &Error) {
        self.failures.record(pod, target_path, error);
        let Pod { namespace, name, uid, service_account } = pod;
        let line = AuditRecord {
            event: AuditEvent::Mount,
            namespace,
            pod: name,
            uid,
            service_account,
            class,
            ..AuditRecord::default()
        };
        self.sessions.audit().record(&line.with_failure(error));
        if [name, namespace, uid].iter().all(|part| !part.is_empty()) {
            self.emit_failure(pod, target_path, is_reported, error, EventReason::ClassInvalid);
        }
    }

    /// Tells a pod's owner of a failure: of the first mount, or in this way of a poll, unless the driver tells that itself.
    fn emit_failure(&self, pod: &Pod, target_path: &str, is_reported: bool, error: &Error, of_poll: EventReason) {
        // Versions come with polls alone, also to a process that knows nothing of the pod.
        if is_reported {
            return;
        }
        let polled = self.sessions.find_by_volume(&pod.uid, target_path);
        let why = if polled.is_some() { of_poll } else { EventReason::MountFailed };
        self.sessions.events().emit(|| subject(pod), why, || error.to_string());
        if let Some(session) = polled {
            session.mark_refresh_failed(target_path);
        }
    }

    /// Tells a pod's owner that what had failed goes well.
    pub(super) fn emit_recovery(&self, pod: &Pod, why: EventReason) {
        self.sessions.events().emit(|| subject(pod), why, || "polls bring what Vault has again".to_owned());
    }
}

/// The pod of an event.
pub(super) fn subject(pod: &Pod) -> EventSubject {
    EventSubject { namespace: pod.namespace.clone(), name: pod.name.clone(), uid: pod.uid.clone() }
}

/// A line about this very pod, also where it shares a session.
fn for_pod<'a>(line: AuditRecord<'a>, spec: &'a MountSpec) -> AuditRecord<'a> {
    let pod = &spec.pod;
    AuditRecord {
        namespace: &pod.namespace,
        service_account: &pod.service_account,
        pod: &pod.name,
        uid: &pod.uid,
        class: &spec.class_name,
        ..line
    }
}
