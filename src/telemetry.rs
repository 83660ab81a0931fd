//! Logs: one line per event on standard error.

mod filter;
mod log_dedup;

use std::{io, path::PathBuf, sync::OnceLock};

use tokio::time::Instant;
use tracing_subscriber::{Registry, filter::Targets, layer::SubscriberExt, reload, util::SubscriberInitExt};

pub use filter::{Filter, InvalidFilter};
pub use log_dedup::{Emit, LogDeduplicator};

/// What is logged, and how.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LogSettings {
    /// How a line is written.
    pub format: LogFormat,
    /// Which lines are.
    pub filter: Filter,
    /// A file with another filter, which is read at start and at each [`reload()`]; it goes before [`Settings::filter`].
    pub filter_file: Option<PathBuf>,
}

/// How a line is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object, its fields and those of its mount side by side.
    Json,
}

/// The target of spans that tell whose line it is: in every line, whatever is logged.
pub const SPAN_TARGET: &str = "vaultmount_span";

/// How long something has taken, as lines tell it: to the microsecond.
#[must_use]
pub fn elapsed_ms(started_at: Instant) -> f64 {
    (started_at.elapsed().as_secs_f64() * 1e6).round() / 1e3
}

struct InstalledSubscriber {
    settings: LogSettings,
    filter: reload::Handle<Targets, Registry>,
}

static INSTALLED: OnceLock<InstalledSubscriber> = OnceLock::new();

/// Starts logging. What is wrong with the file is logged.
pub fn init(settings: LogSettings) {
    let (filter, handle) = reload::Layer::new(settings.filter.targets());
    let log = tracing_subscriber::registry().with(filter);
    // A second start (tests) keeps the first.
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

/// Reads the file with the filter again, if there is one. One that cannot be used changes nothing, which is logged.
pub fn reload() {
    let Some(InstalledSubscriber { settings, filter }) = INSTALLED.get() else { return };
    let Some(file) = &settings.filter_file else {
        return tracing::info!("told to read settings again (SIGHUP): there is no --log-filter-file");
    };
    let read = std::fs::read_to_string(file).map_err(|e| e.to_string());
    let read = read.and_then(|text| Filter::parse(text.trim()).map_err(|e| e.to_string()));
    match read.and_then(|read| filter.reload(read.targets()).map(|()| read).map_err(|e| e.to_string())) {
        Ok(read) => tracing::info!(filter = %read, file = %file.display(), "logging as the file says"),
        Err(error) => tracing::warn!(%error, file = %file.display(), "logging as before: the file cannot be used"),
    }
}
