//! Logs: one line per event on standard error.

mod filter;
mod log_dedup;

use std::{io, path::PathBuf, sync::OnceLock};

use tokio::time::Instant;
use tracing_subscriber::{Registry, filter::Targets, layer::SubscriberExt, reload, util::SubscriberInitExt};

pub use filter::{Filter, InvalidFilter};
pub use log_dedup::{Emit, LogDeduplicator};

/// Log settings.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LogSettings {
    /// Format of log lines.
    pub format: LogFormat,
    /// Filter from flags or the environment.
    pub filter: Filter,
    /// File with a filter that overrides [`filter`](Self::filter). It is read at start and at each [`reload()`].
    pub filter_file: Option<PathBuf>,
}

/// Format of log lines.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// Human-readable text.
    #[default]
    Text,
    /// One JSON object per line, with the fields of the event and of its mount at the same level.
    Json,
}

/// Target of spans that identify the mount. It is enabled at every log level.
pub const SPAN_TARGET: &str = "vaultmount_span";

/// Returns the elapsed time in milliseconds for a log field, rounded to microseconds.
#[must_use]
pub fn elapsed_ms(started_at: Instant) -> f64 {
    (started_at.elapsed().as_secs_f64() * 1e6).round() / 1e3
}

struct InstalledSubscriber {
    settings: LogSettings,
    filter: reload::Handle<Targets, Registry>,
}

static INSTALLED: OnceLock<InstalledSubscriber> = OnceLock::new();

/// Starts logging. An invalid filter file is logged and ignored.
pub fn init(settings: LogSettings) {
    let (filter, handle) = reload::Layer::new(settings.filter.targets());
    let log = tracing_subscriber::registry().with(filter);
    // In tests, later calls keep the first subscriber.
    let started = match settings.format {
        LogFormat::Text => {
            log.with(tracing_subscriber::fmt::layer().with_writer(io::stderr).with_ansi(false)).try_init()
        }
        LogFormat::Json => {
            let json = tracing_subscriber::fmt::layer().json().flatten_event(true).with_span_list(false);
            log.with(json.with_writer(io::stderr)).try_init()
        }
    };
    let has_filter_file = settings.filter_file.is_some();
    if started.is_ok() && INSTALLED.set(InstalledSubscriber { settings, filter: handle }).is_ok() && has_filter_file {
        reload();
    }
}

/// Reads the filter file again, if configured. An invalid file is logged and changes nothing.
pub fn reload() {
    let Some(InstalledSubscriber { settings, filter }) = INSTALLED.get() else { return };
    let Some(file) = &settings.filter_file else {
        return tracing::info!("SIGHUP ignored: --log-filter-file is not set");
    };
    let read = std::fs::read_to_string(file).map_err(|e| e.to_string());
    let read = read.and_then(|text| Filter::parse(text.trim()).map_err(|e| e.to_string()));
    match read.and_then(|read| filter.reload(read.targets()).map(|()| read).map_err(|e| e.to_string())) {
        Ok(read) => tracing::info!(filter = %read, file = %file.display(), "log filter reloaded"),
        Err(error) => {
            tracing::warn!(%error, file = %file.display(), "log filter file rejected, keeping the current filter");
        }
    }
}
