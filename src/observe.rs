//! Reports and decides nothing: audit log, pod events, metrics, the status document, and what mounts report to each of them.

pub mod audit;
pub mod events;
pub mod metrics;
pub mod status;
