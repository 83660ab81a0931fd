//! Policy files.

use std::{fs, path::PathBuf};

use tempfile::TempDir;

/// A policy file, deleted when dropped.
pub struct PolicyFile {
    _folder: TempDir,
    path: PathBuf,
}

impl PolicyFile {
    /// With what stands below its first two lines.
    pub fn new(rest: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let policy = Self { path: folder.path().join("policy.yaml"), _folder: folder };
        policy.write(rest);
        policy
    }

    /// Writes it anew, in one step.
    pub fn write(&self, rest: &str) {
        let new = self.path.with_extension("new");
        fs::write(&new, format!("apiVersion: vaultmount/v1\nkind: Policy\n{rest}\n")).unwrap();
        fs::rename(new, &self.path).unwrap();
    }

    /// Where it is.
    pub fn path(&self) -> &str {
        self.path.to_str().unwrap()
    }

    /// The flag that names it.
    pub fn flag(&self) -> String {
        format!("--policy-file={}", self.path())
    }
}
