//! Resource usage of the process and its runtime, read from the operating system at each scrape.
//!
//! Process metrics have the standard names of Prometheus client libraries.
//! <https://prometheus.io/docs/instrumenting/writing_clientlibs/#process-metrics>

use std::{fmt, fs, sync::atomic::AtomicU64, time::Duration};

use prometheus_client::{
    encoding::text::encode_registry,
    metrics::{counter::Counter, gauge::Gauge},
    registry::Registry,
};
use rustix::time::{ClockId, clock_gettime};
use tokio::runtime::Handle;

use super::PREFIX;

/// Appends the metrics in the text format. `started_at` is the Unix time of the process start. Values that the operating system
/// does not provide are omitted.
pub(super) fn encode(text: &mut String, started_at: i64) -> fmt::Result {
    let mut registry = Registry::default();
    let cpu = Duration::try_from(clock_gettime(ClockId::ProcessCPUTime)).unwrap_or_default();
    let seconds = Counter::<f64, AtomicU64>::default();
    seconds.inc_by(cpu.as_secs_f64());
    registry.register("process_cpu_seconds", "Total user and system CPU time in seconds", seconds);
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let limits = fs::read_to_string("/proc/self/limits").unwrap_or_default();
    for (name, help, level) in [
        ("process_start_time_seconds", "Unix time of the process start", Some(started_at)),
        (
            "process_resident_memory_bytes",
            "Resident memory size in bytes",
            parse_number(&status, "VmRSS:").map(|kib| kib << 10),
        ),
        (
            "process_virtual_memory_bytes",
            "Virtual memory size in bytes",
            parse_number(&status, "VmSize:").map(|kib| kib << 10),
        ),
        ("process_threads", "Number of OS threads", parse_number(&status, "Threads:")),
        ("process_open_fds", "Number of open file descriptors", open_fd_count()),
        ("process_max_fds", "Maximum number of open file descriptors", parse_number(&limits, "Max open files")),
    ] {
        register_gauge(&mut registry, name, help, level);
    }
    encode_registry(text, &registry)?;
    let mut registry = Registry::with_prefix(PREFIX);
    let runtime = Handle::try_current().ok().map(|handle| handle.metrics());
    let runtime_metric = |level: fn(&tokio::runtime::RuntimeMetrics) -> usize| {
        runtime.as_ref().and_then(|runtime| i64::try_from(level(runtime)).ok())
    };
    for (name, help, level) in [
        (
            "runtime_workers",
            "Worker threads of the async runtime",
            runtime_metric(tokio::runtime::RuntimeMetrics::num_workers),
        ),
        (
            "runtime_tasks",
            "Tasks of the async runtime that have not completed",
            runtime_metric(tokio::runtime::RuntimeMetrics::num_alive_tasks),
        ),
        (
            "runtime_queue_depth",
            "Tasks queued for a worker thread",
            runtime_metric(tokio::runtime::RuntimeMetrics::global_queue_depth),
        ),
    ] {
        register_gauge(&mut registry, name, help, level);
    }
    encode_registry(text, &registry)
}

fn register_gauge(registry: &mut Registry, name: &str, help: &str, value: Option<i64>) {
    if let Some(level) = value {
        let gauge: Gauge = Gauge::default();
        gauge.set(level);
        registry.register(name, help, gauge);
    }
}

/// Returns the first number after `prefix` at the start of a line.
fn parse_number(text: &str, prefix: &str) -> Option<i64> {
    text.lines().find_map(|line| line.strip_prefix(prefix))?.split_whitespace().next()?.parse().ok()
}

/// Returns the number of open file descriptors, without the one used for counting.
fn open_fd_count() -> Option<i64> {
    i64::try_from(fs::read_dir("/proc/self/fd").ok()?.count().saturating_sub(1)).ok()
}
