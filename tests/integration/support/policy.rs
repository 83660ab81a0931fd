//! Policy files.

use std::{fs, path::PathBuf};

use tempfile::TempDir;

/// A policy file, deleted when dropped.
pub struct PolicyFile {
    _folder: TempDir,
    path: PathBuf,
}

impl PolicyFile {
    /// Writes a policy file with this text below its first two lines.
    pub fn new(rest: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let policy = Self { path: folder.path().join("policy.yaml"), _folder: folder };
        policy.write(rest);
        policy
    }

    /// Replaces the file atomically.
    pub fn write(&self, rest: &str) {
        let new = self.path.with_extension("new");
        fs::write(&new, format!("apiVersion: vaultmount/v1\nkind: Policy\n{rest}\n")).unwrap();
        fs::rename(new, &self.path).unwrap();
    }

    /// Returns the file's path.
    pub fn path(&self) -> &str {
        self.path.to_str().unwrap()
    }

    /// Returns the flag with the file's path.
    pub fn flag(&self) -> String {
        format!("--policy-file={}", self.path())
    }
}
