//! Logs: one line per event on standard error.

use tracing_subscriber::EnvFilter;

/// Starts logging at a level (`off`, `error`, `warn`, `info`, `debug`, `trace`).
///
/// Libraries log warnings and worse; those that would print requests, and with them secrets, nothing at all.
pub fn init(level: &str) {
    let filter = EnvFilter::new(format!("{},vaultmount={level},rustify=off,vaultrs=off,h2=off,hyper=off", if level == "off" { "off" } else { "warn" }));
    // A second start (tests) keeps the first.
    let _ = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(false).try_init();
}
