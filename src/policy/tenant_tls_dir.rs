//! Where the certificate files of classes must be.

use std::path::{Path, PathBuf};

use super::PolicyDenial;
use crate::{
    error::{Cause, Error},
    policy::rule_kind::RuleKind,
    text::quote,
};

/// The folder of `--tenant-tls-dir`: an absolute path without `.` and `..`, as those of files must be that are below it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TenantTlsDir(PathBuf);

/// How far folders in folders are looked into; TLS files are not read from deeper ones.
const MAX_DIRECTORY_DEPTH: usize = 8;

impl TenantTlsDir {
    /// Certificate files must be below this folder; the error says what is wrong with its path.
    pub fn new(directory: PathBuf) -> Result<Self, &'static str> {
        const INVALID_PATH: &str = "is no absolute path without `.` and `..`; write for example /vault/tls";
        if is_plain_path(&directory) { Ok(Self(directory)) } else { Err(INVALID_PATH) }
    }

    /// The folder.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Refuses a path that leads elsewhere as it is written.
    pub fn check_path(&self, file: &Path) -> Result<(), PolicyDenial> {
        if file.starts_with(&self.0) { Ok(()) } else { Err(self.denial(file, "is not")) }
    }

    /// Refuses a path that leads elsewhere by a link. What cannot be read leads nowhere, and is told by whoever reads it.
    pub fn check_symlinks(&self, file: &Path) -> Result<(), PolicyDenial> {
        self.0.canonicalize().map_or(Ok(()), |folder| self.check_symlinks_below(&folder, file, 0))
    }

    fn check_symlinks_below(&self, directory: &Path, file: &Path, depth: usize) -> Result<(), PolicyDenial> {
        match file.canonicalize() {
            Ok(resolved) if !resolved.starts_with(directory) => {
                Err(self.denial(file, "is a link to something that is not"))
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
        let problem =
            format!("the certificate file {file} {reason} below {}, where files of classes must be", self.0.display());
        let error = Error::new(Cause::TenantPolicyViolation, problem);
        let advice = "use a file from there, or have the operator put it there, or change --tenant-tls-dir";
        PolicyDenial { rule: RuleKind::CertificateFile, error: error.with_fix(advice) }
    }
}

/// Refuses a path that does not lead where it seems to: patterns and folders say nothing about it.
pub(super) fn require_plain_path(file: &Path) -> Result<(), PolicyDenial> {
    if is_plain_path(file) {
        return Ok(());
    }
    let problem =
        format!("the certificate file {} is no absolute path without `.` and `..`", quote(&file.to_string_lossy()));
    let error = Error::new(Cause::TenantPolicyViolation, problem).with_fix("write the path of the file itself");
    Err(PolicyDenial { rule: RuleKind::CertificateFile, error })
}

fn is_plain_path(path: &Path) -> bool {
    let mut parts = path.as_os_str().as_encoded_bytes().split(|byte| *byte == b'/');
    path.is_absolute() && !parts.any(|part| matches!(part, b"." | b".."))
}
