//! One Mount call from its request to its response: what is served from the cache, what is mounted, and what is recorded of it.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
};

use tokio::time::Instant;
use tracing::Instrument;

use super::{MountService, VolumeContents};
use crate::{
    error::{Cause, Error},
    observe::{events::EventReason, mounts::MountLogContext},
    policy::rule_kind::RuleKind,
    request::{self, MountSpec, Pod, RawRequest},
    task,
};

/// One Mount call of a driver.
pub struct MountCall<'a> {
    /// The request as the driver sent it.
    pub request: RawRequest<'a>,
    /// The audience of classes that set none: the provider's name.
    pub default_audience: &'static str,
    /// Whether the driver itself reports failed polls: drivers up to 1.5.6 do, and send object versions with each poll.
    pub driver_reports_failures: bool,
    /// When the call was received.
    pub received_at: Instant,
    /// When the caller gives up, less the time to send a response.
    pub deadline: Instant,
}

/// A call whose request is parsed.
pub enum AcceptedMount<R> {
    /// A poll served from the cache.
    Served(R),
    /// A mount that still has to be run.
    Pending(Box<PendingMount<R>>),
}

/// A mount that needs more than the cache.
pub struct PendingMount<R> {
    service: Arc<MountService>,
    spec: MountSpec,
    default_audience: &'static str,
    encode: Encode<R>,
    received_at: Instant,
    deadline: Instant,
}

/// Makes the response of a volume; an error if the driver would not take it.
type Encode<R> = fn(&VolumeContents) -> Result<R, Error>;

impl MountService {
    /// Parses a request, and serves it from the cache if all of its secrets are fresh there. `encode` makes the response, before
    /// the mount counts as delivered.
    pub fn accept<R>(self: &Arc<Self>, call: &MountCall<'_>, encode: Encode<R>) -> Result<AcceptedMount<R>, Error> {
        let accepted = catch_panic(|| {
            let mut spec = self.classes.parse(&call.request)?;
            spec.driver_reports_failures = call.driver_reports_failures;
            let response = self.serve_from_cache(&spec, call, encode);
            Ok((spec, response))
        });
        let (spec, response) = accepted.inspect_err(|error| self.report_malformed(call, error))?;
        if let Some(response) = response {
            return Ok(AcceptedMount::Served(response));
        }
        Ok(AcceptedMount::Pending(Box::new(PendingMount {
            service: Arc::clone(self),
            spec,
            default_audience: call.default_audience,
            encode,
            received_at: call.received_at,
            deadline: call.deadline,
        })))
    }

    /// Returns the response to a poll that needs no request to Vault and has nothing to report.
    fn serve_from_cache<R>(&self, spec: &MountSpec, call: &MountCall<'_>, encode: Encode<R>) -> Option<R> {
        if !spec.class.warnings.is_empty() {
            return None;
        }
        let _pass = self.gate.try_enter()?;
        let contents = self.try_cached(spec, call.default_audience)?;
        let response = encode(&contents).ok()?;
        let _ = self.record_delivery(&contents);
        // The pod has all of it already, so the response need not wait for the state file.
        contents.record.session.persist_in_background();
        self.observer.log_cache_hit(spec, &self.operator, contents.files.len(), call.received_at);
        self.report_recovery(spec, &contents);
        Some(response)
    }

    /// Records that a volume's files are on their way to the pod. Returns whether any of its secrets is new to the volume.
    fn record_delivery(&self, contents: &VolumeContents) -> bool {
        let record = &contents.record;
        let has_new = self.sessions.record_delivery(&record.session, &record.to_delivery());
        self.reconciler.schedule(&record.session);
        has_new
    }

    /// Reports that polls of a volume succeed again, if a failed or stale poll of it was reported before, by this process or an
    /// earlier one. The volume itself remembers that.
    fn report_recovery(&self, spec: &MountSpec, contents: &VolumeContents) {
        let record = &contents.record;
        if !record.served_stale
            && let Some(reason) = record.session.take_refresh_recovery(&record.target_path)
        {
            self.observer.emit_recovery(&spec.pod, reason);
        }
    }

    /// Reports a mount that failed.
    fn report_failure(&self, spec: &MountSpec, default_audience: &str, log: &MountLogContext, error: &Error) {
        let rule = self.denied_rule(spec, default_audience, error);
        self.observer.report_failure(spec, &self.operator, default_audience, rule, error);
        let reason = if error.cause().is_policy() { EventReason::ClassInvalid } else { EventReason::RefreshFailed };
        self.emit_failure(&spec.pod, &spec.target_path, spec.driver_reports_failures, reason, error);
        self.observer.log_failure(error, log);
    }

    /// Reports a request that could not be parsed, as far as it names its pod.
    fn report_malformed(&self, call: &MountCall<'_>, error: &Error) {
        let (pod, class) = request::identify_pod(call.request.attributes);
        let target_path = call.request.target_path;
        self.observer.report_malformed(&pod, &class, target_path, call.received_at, error);
        if [&pod.name, &pod.namespace, &pod.uid].iter().all(|part| !part.is_empty()) {
            self.emit_failure(&pod, target_path, call.driver_reports_failures, EventReason::ClassInvalid, error);
        }
    }

    /// Emits a pod event for a failure, unless the driver does: of a first mount, or for `poll_reason` of a poll. The volume
    /// remembers a failed poll, so that its recovery is reported.
    fn emit_failure(
        &self,
        pod: &Pod,
        target_path: &str,
        driver_reports_failures: bool,
        poll_reason: EventReason,
        error: &Error,
    ) {
        // Such a driver sends versions with polls alone, also to a process that does not know the pod.
        if driver_reports_failures {
            return;
        }
        let session = self.sessions.find_by_volume(&pod.uid, target_path);
        self.observer.emit_failure(pod, if session.is_some() { poll_reason } else { EventReason::MountFailed }, error);
        if let Some(session) = session {
            session.mark_refresh_failed(target_path);
        }
    }

    /// Returns the operator's rule that denied a mount.
    fn denied_rule(&self, spec: &MountSpec, default_audience: &str, error: &Error) -> Option<RuleKind> {
        let cause = error.cause();
        if !cause.is_policy() {
            return None;
        }
        if let Err(denial) = self.authorize(spec, default_audience) {
            return Some(denial.rule);
        }
        // Allowed as written, but it leads elsewhere: an address by its resolution, a file by a link.
        match cause {
            Cause::AddressNotAllowed => Some(RuleKind::Address),
            Cause::TenantPolicyViolation => Some(RuleKind::CertificateFile),
            _ => None,
        }
    }
}

impl<R: Send + 'static> PendingMount<R> {
    /// Mounts the volume. The mount continues in a task of its own if the caller goes away, so that credentials that Vault
    /// created are not lost.
    pub async fn run(self) -> Result<R, Error> {
        let span = self.service.observer.span(&self.spec.pod, &self.spec.class_name);
        self.run_in_span().instrument(span).await
    }

    async fn run_in_span(self) -> Result<R, Error> {
        let Self { service, spec, default_audience, encode, received_at, deadline } = self;
        service.observer.warn_of_class(&spec);
        // Held until the end, also if the caller goes away before.
        let permit = service.limiter.try_acquire(&spec.pod.namespace);
        let log = MountLogContext::for_mount(&spec, &service.operator, received_at);
        let shared = Arc::new((service, spec, log));
        let owned = Arc::clone(&shared);
        let mounting = spawn_catching_panics(async move {
            let (service, spec, log) = &*owned;
            let outcome = async {
                let permit = permit?;
                let pass = service.gate.enter(deadline).await?;
                let contents = service.mount(spec, default_audience, deadline).await?;
                Ok((encode(&contents)?, contents, pass, permit))
            };
            // Here, so that a failure is reported also if the caller is gone.
            outcome.await.inspect_err(|error| service.report_failure(spec, default_audience, log, error))
        });
        let (service, spec, log) = &*shared;
        let report = |error: &Error| service.report_failure(spec, default_audience, log, error);
        let (response, contents, _pass, _permit) = mounting.await.inspect_err(report)??;
        let has_new = service.record_delivery(&contents);
        contents.record.session.persist().await.inspect_err(report)?;
        service.observer.log_success(contents.files.len(), has_new, contents.record.served_stale, log);
        service.report_recovery(spec, &contents);
        Ok(response)
    }
}

/// Runs work at once; a panic becomes an error.
fn catch_panic<T>(work: impl FnOnce() -> Result<T, Error>) -> Result<T, Error> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|_| Err(panic_error()))
}

/// Runs work in a task of its own: it completes even if the caller goes away, and a panic becomes an error.
fn spawn_catching_panics<T: Send + 'static>(
    work: impl Future<Output = T> + Send + 'static,
) -> impl Future<Output = Result<T, Error>> {
    let task = task::spawn_boxed(work.in_current_span());
    async { task.await.map_err(|_| panic_error()) }
}

fn panic_error() -> Error {
    Error::new(Cause::Internal, "the mount panicked").with_fix("report it with the provider's log")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn panic_fails_its_mount_and_no_other() {
        let error = spawn_catching_panics::<()>(async { panic!("expected by this test") }).await.unwrap_err();
        assert_eq!(error.cause(), Cause::Internal);
        assert!(spawn_catching_panics(async {}).await.is_ok());
        assert_eq!(catch_panic::<()>(|| panic!("expected by this test")).unwrap_err().cause(), Cause::Internal);
    }
}
