//! Logs: one line per event on standard error.

use tracing_subscriber::{EnvFilter, filter::LevelFilter};

/// Starts logging at a level.
///
/// Libraries log warnings and worse; those that would print requests, and with them secrets, nothing at all.
pub fn init(level: LevelFilter) {
    let others = level.min(LevelFilter::WARN);
    let filter =
        EnvFilter::new(format!("{others},vaultmount={level},rustify=off,vaultrs=off,h2=off,hyper=off,hyper_util=off"));
    // A second start (tests) keeps the first.
    let _ = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(false).try_init();
}
