//! What the audit log tells of mounts.

use std::sync::Arc;

use super::{Mounter, Way};
use crate::{
    audit::{Event, Line, Outcome, Secret},
    error::Error,
    lease::Lease,
    metrics::ReadFrom,
    request::{MountSpec, Object},
    vault::wire::Read,
};

/// What came of a request for a pod.
pub(super) struct Decided<'a> {
    pub(super) read: &'a Arc<Read>,
    pub(super) objects: &'a [&'a Object],
    /// What the pod had.
    pub(super) before: Option<&'a Lease>,
    /// What it gets, and from where.
    pub(super) after: Option<(&'a Lease, ReadFrom)>,
    /// Vault's id of its answer.
    pub(super) request_id: Option<&'a str>,
    /// Why it was not done, or not anew.
    pub(super) error: Option<&'a Error>,
}

impl Mounter {
    /// Tells of one request for a pod.
    pub(super) fn decided(&self, spec: &MountSpec, way: &Way, decided: &Decided<'_>) {
        let audit = self.sessions.audit();
        if !audit.is_on() {
            return;
        }
        let Decided { read, objects, before, after, request_id, error } = decided;
        let keys = self.keys.had();
        let version = |lease: &Lease| Some(keys.as_ref()?.version.of_bytes(lease.answer.data()?.as_bytes()));
        let secret = Secret {
            path: read.label(),
            method: read.method.to_string(),
            objects: objects.iter().map(|object| object.recipe.file.as_str()).collect(),
            from: after.map(|(_, from)| from),
            version_before: before.and_then(version),
            version_after: after.and_then(|(lease, _)| version(lease)),
        };
        let line = Line { secret: Some(secret), request_id: *request_id, ..way.session.key().line(Event::Read) };
        let line = of_pod(line, spec);
        audit.tell(&match error {
            Some(error) if after.is_some() => Line { outcome: Outcome::Kept, ..line.failed(error) },
            Some(error) => line.failed(error),
            None => line,
        });
    }

    /// Tells of a mount that failed as a whole.
    pub fn failed(&self, spec: &MountSpec, error: &Error) {
        let audit = self.sessions.audit();
        if !audit.is_on() {
            return;
        }
        let (choice, operator) = (&spec.class.choice, &self.operator);
        let line = Line {
            event: Event::Mount,
            outcome: Outcome::Failed,
            error: None,
            namespace: "",
            service_account: "",
            pod: "",
            uid: "",
            class: "",
            endpoint: choice.address.as_ref().unwrap_or(&operator.address),
            vault_namespace: choice.namespace.as_deref().or(operator.namespace.as_deref()),
            auth_mount: choice.auth_mount.as_deref().unwrap_or(&operator.auth_mount),
            role: &spec.class.role,
            secret: None,
            accessor: "",
            request_id: None,
        };
        audit.tell(&of_pod(line, spec).failed(error));
    }
}

/// A line about this very pod, also where it shares a session.
fn of_pod<'a>(line: Line<'a>, spec: &'a MountSpec) -> Line<'a> {
    let pod = &spec.pod;
    Line {
        namespace: &pod.namespace,
        service_account: &pod.service_account,
        pod: &pod.name,
        uid: &pod.uid,
        class: &spec.class_name,
        ..line
    }
}
