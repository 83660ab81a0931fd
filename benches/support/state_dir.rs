//! A folder in memory for what outlives a process, as on nodes.

use tempfile::TempDir;

pub struct StateDir(TempDir);

impl StateDir {
    pub fn new() -> Self {
        Self(tempfile::tempdir_in("/dev/shm").unwrap())
    }

    /// As `serve` takes it.
    pub fn flag(&self) -> String {
        format!("--state-dir={}", self.0.path().display())
    }
}
