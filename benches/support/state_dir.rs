//! State directory in memory, as on nodes.

use tempfile::TempDir;

pub struct StateDir(TempDir);

impl StateDir {
    pub fn new() -> Self {
        Self(tempfile::tempdir_in("/dev/shm").unwrap())
    }

    /// Returns the `--state-dir` flag for `serve`.
    pub fn flag(&self) -> String {
        format!("--state-dir={}", self.0.path().display())
    }
}
