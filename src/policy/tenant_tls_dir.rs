//! The directory that certificate files of classes must be in.

use std::path::{Path, PathBuf};

use super::PolicyDenial;
use crate::{
    error::{Cause, Error},
    policy::rule_kind::RuleKind,
    text::quote,
};

/// The directory of `--tenant-tls-dir`: an absolute path without `.` and `..`. Paths of certificate files must have the same form.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TenantTlsDir(PathBuf);

/// Maximum depth of nested directories. TLS files are not read from deeper ones.
const MAX_DIRECTORY_DEPTH: usize = 8;

impl TenantTlsDir {
    /// Requires certificate files to be below this directory. Fails if its path is not absolute and plain.
    pub fn new(directory: PathBuf) -> Result<Self, &'static str> {
        const INVALID_PATH: &str = "is not an absolute path without `.` and `..`; write for example /vault/tls";
        if is_plain_path(&directory) { Ok(Self(directory)) } else { Err(INVALID_PATH) }
    }

    /// Returns the directory.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Denies a path that is outside the directory as written.
    pub fn check_path(&self, file: &Path) -> Result<(), PolicyDenial> {
        if file.starts_with(&self.0) { Ok(()) } else { Err(self.denial(file, "is not")) }
    }

    /// Denies a path that leads outside the directory through a symlink. Unreadable files pass, because reading them reports the error.
    pub fn check_symlinks(&self, file: &Path) -> Result<(), PolicyDenial> {
        self.0.canonicalize().map_or(Ok(()), |folder| self.check_symlinks_below(&folder, file, 0))
    }

    fn check_symlinks_below(&self, directory: &Path, file: &Path, depth: usize) -> Result<(), PolicyDenial> {
        match file.canonicalize() {
            Ok(resolved) if !resolved.starts_with(directory) => {
                Err(self.denial(file, "is a symlink to a file that is not"))
            }
            Ok(resolved) if resolved.is_dir() && depth <= MAX_DIRECTORY_DEPTH => {
                let mut entries = resolved.read_dir().into_iter().flatten().filter_map(Result::ok);
                entries.try_for_each(|entry| self.check_symlinks_below(directory, &entry.path(), depth + 1))
            }
            _ => Ok(()),
        }
    }

    fn denial(&self, file: &Path, reason: &str) -> PolicyDenial {
        let file = quote(&file.to_string_lossy());
        let problem = format!(
            "the certificate file {file} {reason} below {}, the directory for files of classes",
            self.0.display()
        );
        let error = Error::new(Cause::TenantPolicyViolation, problem);
        let fix = "use a file from that directory, or have the operator put the file there or change --tenant-tls-dir";
        PolicyDenial { rule: RuleKind::CertificateFile, error: error.with_fix(fix) }
    }
}

/// Denies a path that is not absolute or contains `.` or `..`, because patterns and directories cannot be matched against it.
pub(super) fn require_plain_path(file: &Path) -> Result<(), PolicyDenial> {
    if is_plain_path(file) {
        return Ok(());
    }
    let problem =
        format!("the certificate file {} is not an absolute path without `.` and `..`", quote(&file.to_string_lossy()));
    let error = Error::new(Cause::TenantPolicyViolation, problem).with_fix("write the path of the file itself");
    Err(PolicyDenial { rule: RuleKind::CertificateFile, error })
}

fn is_plain_path(path: &Path) -> bool {
    let mut parts = path.as_os_str().as_encoded_bytes().split(|byte| *byte == b'/');
    path.is_absolute() && !parts.any(|part| matches!(part, b"." | b".."))
}
