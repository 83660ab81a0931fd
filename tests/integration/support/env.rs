//! Names and environment of a run.

use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

/// Returns a name that is unique in this run, since concurrent tests share one server.
pub fn unique_name(stem: &str) -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    format!("{stem}-{}-{}", std::process::id(), NEXT.fetch_add(1, Relaxed))
}

/// Returns a variable that `dev/servers.py run` sets.
pub fn required_env(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| panic!("{name} is not set: run the tests with `make test`"))
}
