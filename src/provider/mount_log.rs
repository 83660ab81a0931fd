//! What the log says of mounts: one line for each that brought something new or failed; what repeats itself is summed up.

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
    mount::VolumeContents,
    policy::OperatorPolicy,
    request::{Class, MountSpec, Pod},
    telemetry::{self, Emit, LogDeduplicator, SPAN_TARGET},
};

/// Tells of the mounts of one socket.
#[derive(Default)]
pub(super) struct Told {
    /// By the volume's directory.
    failures: LogDeduplicator<String>,
    /// By namespace, class and text.
    warnings: LogDeduplicator<(String, String, String)>,
    ids: Ids,
}

/// Names for mounts, which tell those of one process from those of the next.
struct Ids {
    process: u32,
    next: AtomicU64,
}

/// What a line tells of a mount beside what came of it. Pod, class and the like are the span's.
pub(super) struct About {
    target_path: String,
    class: Option<Arc<Class>>,
    endpoint: Option<String>,
    begun: Instant,
}

impl Default for Ids {
    fn default() -> Self {
        let random = RandomState::new().build_hasher().finish();
        Self { process: u32::try_from(random >> 32).unwrap_or_default(), next: AtomicU64::new(1) }
    }
}

impl About {
    /// A mount that is understood.
    pub(super) fn mount(spec: &MountSpec, operator: &OperatorPolicy, begun: Instant) -> Self {
        let server = operator.likely_server(&spec.class.choice);
        Self {
            target_path: spec.target_path.clone(),
            class: Some(Arc::clone(&spec.class)),
            endpoint: server.map(|server| server.address.to_string()),
            begun,
        }
    }

    /// One that is not.
    pub(super) fn request(target_path: &str, begun: Instant) -> Self {
        Self { target_path: target_path.to_owned(), class: None, endpoint: None, begun }
    }

    fn milliseconds(&self) -> f64 {
        telemetry::elapsed_ms(self.begun)
    }
}

impl Told {
    /// What every line of a mount tells, whatever the level: whose it is, as far as that is known, and its id.
    pub(super) fn span(&self, pod: &Pod, class: &str) -> Span {
        let said = |text: &'_ str| (!text.is_empty()).then(|| text.to_owned());
        let [pod, namespace, service_account, class] =
            [&*pod.name, &pod.namespace, &pod.service_account, class].map(said);
        let request_id = format_args!("{:08x}-{}", self.ids.process, self.ids.next.fetch_add(1, Relaxed));
        tracing::error_span!(target: SPAN_TARGET, "mount", pod, namespace, service_account, class, %request_id)
    }

    /// What is odd about a class, though it stops nothing.
    pub(super) fn warn(&self, spec: &MountSpec) {
        for warning in &spec.class.warnings {
            let key = (spec.pod.namespace.clone(), spec.class_name.clone(), warning.clone());
            match self.warnings.record(key, ()) {
                Emit::First => tracing::warn!("{warning}"),
                Emit::Summary(mounts) => tracing::warn!(mounts, "{warning}"),
                Emit::Suppress => tracing::debug!("{warning}"),
            }
        }
    }

    /// Files are on their way to the pod, with something new among them or not. Whether mounts of the volume had failed before.
    pub(super) fn mounted(&self, mounted: &VolumeContents, new: bool, about: &About) -> bool {
        let failures = self.failures.clear(&about.target_path);
        went_well(mounted, new, failures, about);
        failures.is_some()
    }

    /// The same for a poll that needed nobody, and has no span: most have nothing to tell, and cost nothing.
    pub(super) fn polled(
        &self,
        spec: &MountSpec,
        operator: &OperatorPolicy,
        mounted: &VolumeContents,
        begun: Instant,
    ) -> bool {
        let failures = self.failures.clear(&spec.target_path);
        if failures.is_some() || tracing::enabled!(Level::DEBUG) {
            let about = About::mount(spec, operator, begun);
            self.span(&spec.pod, &spec.class_name).in_scope(|| went_well(mounted, false, failures, &about));
        }
        failures.is_some()
    }

    /// The caller is told of a failure, which the driver masks for remounts.
    pub(super) fn failed(&self, error: &Error, about: &About) {
        let About { target_path, endpoint, .. } = about;
        let (code, duration_ms) = (error.cause().code().as_str(), about.milliseconds());
        let objects = about.class.as_deref().map(Class::display_object_names);
        let objects = objects.as_ref().map(tracing::field::display);
        match self.failures.record(target_path.clone(), error.fingerprint()) {
            Emit::First => tracing::warn!(code, objects, endpoint, duration_ms, target_path, "mount failed: {error}"),
            Emit::Summary(failures) => {
                tracing::warn!(
                    code,
                    objects,
                    endpoint,
                    duration_ms,
                    target_path,
                    failures,
                    "mount fails again and again: {error}"
                );
            }
            Emit::Suppress => {
                tracing::debug!(code, objects, endpoint, duration_ms, target_path, "mount failed: {error}")
            }
        }
    }
}

fn went_well(mounted: &VolumeContents, new: bool, failures: Option<u64>, about: &About) {
    let (files, endpoint, duration_ms) = (mounted.files.len(), &about.endpoint, about.milliseconds());
    let objects = about.class.as_deref().map(Class::display_object_names);
    let objects = objects.as_ref().map(tracing::field::display);
    if let Some(failures) = failures {
        tracing::info!(code = "OK", objects, endpoint, files, duration_ms, failures, "mounted after failures");
    } else if new {
        tracing::info!(code = "OK", objects, endpoint, files, duration_ms, "mounted");
    } else {
        tracing::debug!(code = "OK", objects, endpoint, files, duration_ms, "mounted again, unchanged");
    }
}
