//! Log lines of mounts: one for each mount that delivered something new or failed. Repeats are summarized.

use std::{
    hash::{BuildHasher, Hasher, RandomState},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use tokio::time::Instant;
use tracing::{Level, Span};

use crate::{
    error::Error,
    policy::OperatorPolicy,
    request::{Class, MountSpec, Pod},
    telemetry::{self, Emit, LogDeduplicator, SPAN_TARGET},
};

/// Logs the mounts of one process.
#[derive(Default)]
pub(super) struct MountLog {
    /// By the volume's directory.
    failures: LogDeduplicator<String>,
    /// By the volume's directory.
    stale_polls: LogDeduplicator<String>,
    /// By namespace, class and text.
    warnings: LogDeduplicator<(String, String, String)>,
    request_ids: RequestIds,
}

/// IDs of mounts, unique across processes.
struct RequestIds {
    process: u32,
    next: AtomicU64,
}

/// Fields of a mount's log line beside its outcome. Pod, namespace and class are fields of the span.
pub struct MountLogContext {
    target_path: String,
    class: Option<Arc<Class>>,
    endpoint: Option<String>,
    received_at: Instant,
}

impl Default for RequestIds {
    fn default() -> Self {
        let random = RandomState::new().build_hasher().finish();
        Self { process: u32::try_from(random >> 32).unwrap_or_default(), next: AtomicU64::new(1) }
    }
}

impl MountLogContext {
    /// Returns the context of a parsed mount.
    #[must_use]
    pub fn for_mount(spec: &MountSpec, operator: &OperatorPolicy, received_at: Instant) -> Self {
        let server = operator.likely_server(&spec.class.choice);
        Self {
            target_path: spec.target_path.clone(),
            class: Some(Arc::clone(&spec.class)),
            endpoint: server.map(|server| server.address.to_string()),
            received_at,
        }
    }

    /// Returns the context of a request that could not be parsed.
    pub(super) fn for_request(target_path: &str, received_at: Instant) -> Self {
        Self { target_path: target_path.to_owned(), class: None, endpoint: None, received_at }
    }

    fn duration_ms(&self) -> f64 {
        telemetry::elapsed_ms(self.received_at)
    }
}

impl MountLog {
    /// Returns the span of a mount: its pod, class and ID are on every line of the mount, at every log level.
    pub(super) fn span(&self, pod: &Pod, class: &str) -> Span {
        let non_empty = |text: &'_ str| (!text.is_empty()).then(|| text.to_owned());
        let [pod, namespace, service_account, class] =
            [&*pod.name, &pod.namespace, &pod.service_account, class].map(non_empty);
        let request_id =
            format_args!("{:08x}-{}", self.request_ids.process, self.request_ids.next.fetch_add(1, Relaxed));
        tracing::error_span!(target: SPAN_TARGET, "mount", pod, namespace, service_account, class, %request_id)
    }

    /// Logs the warnings of a class.
    pub(super) fn warn_of_class(&self, spec: &MountSpec) {
        for warning in &spec.class.warnings {
            let key = (spec.pod.namespace.clone(), spec.class_name.clone(), warning.clone());
            match self.warnings.record(key, ()) {
                Emit::First => tracing::warn!(warning, "class has a warning"),
                Emit::Summary(mounts) => tracing::warn!(warning, mounts, "class has a warning"),
                Emit::Suppress => tracing::debug!(warning, "class has a warning"),
            }
        }
    }

    /// Logs a mount that succeeded.
    pub(super) fn log_success(&self, files: usize, has_new: bool, served_stale: bool, context: &MountLogContext) {
        let failures = self.failures.clear(&context.target_path);
        if !served_stale {
            self.stale_polls.clear(&context.target_path);
        }
        log_mounted(files, has_new, failures, context);
    }

    /// Logs a poll served from the cache. It has no span until there is something to log, so that it costs nothing.
    pub(super) fn log_cache_hit(
        &self,
        spec: &MountSpec,
        operator: &OperatorPolicy,
        files: usize,
        received_at: Instant,
    ) {
        let failures = self.failures.clear(&spec.target_path);
        self.stale_polls.clear(&spec.target_path);
        if failures.is_some() || tracing::enabled!(Level::DEBUG) {
            let context = MountLogContext::for_mount(spec, operator, received_at);
            self.span(&spec.pod, &spec.class_name).in_scope(|| log_mounted(files, false, failures, &context));
        }
    }

    /// Logs a failure. From driver 1.6.0 on, the log is the only place that shows a failed poll as it happens.
    pub(super) fn log_failure(&self, error: &Error, context: &MountLogContext) {
        let MountLogContext { target_path, endpoint, .. } = context;
        let (code, duration_ms) = (error.cause().code().as_str(), context.duration_ms());
        let objects = context.class.as_deref().map(Class::display_object_names);
        let objects = objects.as_ref().map(tracing::field::display);
        match self.failures.record(target_path.clone(), error.fingerprint()) {
            Emit::First => tracing::warn!(%error, code, objects, endpoint, duration_ms, target_path, "mount failed"),
            Emit::Summary(failures) => tracing::warn!(
                %error,
                code,
                objects,
                endpoint,
                duration_ms,
                target_path,
                failures,
                "mount still failing"
            ),
            Emit::Suppress => {
                tracing::debug!(%error, code, objects, endpoint, duration_ms, target_path, "mount failed");
            }
        }
    }

    /// Records a stale poll of a volume. Returns how to log it.
    pub(super) fn record_stale_poll(&self, target_path: &str, error: &Error) -> Emit {
        self.stale_polls.record(target_path.to_owned(), error.fingerprint())
    }
}

fn log_mounted(files: usize, has_new: bool, failures: Option<u64>, context: &MountLogContext) {
    let (endpoint, duration_ms) = (&context.endpoint, context.duration_ms());
    let objects = context.class.as_deref().map(Class::display_object_names);
    let objects = objects.as_ref().map(tracing::field::display);
    if let Some(failures) = failures {
        tracing::info!(code = "OK", objects, endpoint, files, duration_ms, failures, "mounted after failures");
    } else if has_new {
        tracing::info!(code = "OK", objects, endpoint, files, duration_ms, "mounted");
    } else {
        tracing::debug!(code = "OK", objects, endpoint, files, duration_ms, "poll unchanged");
    }
}
