//! Reports and decides nothing: audit log, pod events, metrics, the status document, and the reports of mounts.

use std::sync::Arc;

use self::{audit::AuditLog, events::EventRecorder, metrics::Metrics};

pub mod audit;
pub mod events;
pub mod metrics;
pub mod mounts;
pub mod status;

/// The places that sessions and mounts report to. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Observers {
    /// Counters and gauges.
    pub metrics: Arc<Metrics>,
    /// The audit log.
    pub audit: AuditLog,
    /// Events of pods.
    pub events: EventRecorder,
}
