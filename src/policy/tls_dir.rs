//! Where the certificate files of classes must be.

use std::path::{Path, PathBuf};

use super::Refusal;
use crate::{
    error::{Cause, Error},
    metrics::PolicyRule,
    text::quoted,
};

/// The folder of `--tls-dir`: an absolute path without `.` and `..`, as those of files must be that are below it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsDir(PathBuf);

/// How far folders in folders are looked into; TLS files are not read from deeper ones.
const DEEPEST: usize = 8;

impl TlsDir {
    /// Certificate files must be below this folder; the error says what is wrong with its path.
    pub fn new(folder: PathBuf) -> Result<Self, &'static str> {
        const WRONG: &str = "is no absolute path without `.` and `..`; write for example /vault/tls";
        if is_plain(&folder) { Ok(Self(folder)) } else { Err(WRONG) }
    }

    /// The folder.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Refuses a path that leads elsewhere as it is written.
    pub fn judge(&self, file: &Path) -> Result<(), Refusal> {
        if file.starts_with(&self.0) { Ok(()) } else { Err(self.refusal(file, "is not")) }
    }

    /// Refuses a path that leads elsewhere by a link. What cannot be read leads nowhere, and is told by whoever reads it.
    pub fn follow(&self, file: &Path) -> Result<(), Refusal> {
        self.0.canonicalize().map_or(Ok(()), |folder| self.follow_below(&folder, file, 0))
    }

    fn follow_below(&self, folder: &Path, file: &Path, depth: usize) -> Result<(), Refusal> {
        match file.canonicalize() {
            Ok(itself) if !itself.starts_with(folder) => Err(self.refusal(file, "is a link to something that is not")),
            Ok(itself) if itself.is_dir() && depth <= DEEPEST => {
                let mut entries = itself.read_dir().into_iter().flatten().filter_map(Result::ok);
                entries.try_for_each(|entry| self.follow_below(folder, &entry.path(), depth + 1))
            }
            _ => Ok(()),
        }
    }

    fn refusal(&self, file: &Path, is: &str) -> Refusal {
        let file = quoted(&file.to_string_lossy());
        let what =
            format!("the certificate file {file} {is} below {}, where files of classes must be", self.0.display());
        let error = Error::new(Cause::NotPermitted, what);
        let advice = "use a file from there, or have the operator put it there, or change --tls-dir";
        Refusal { rule: PolicyRule::CertificateFile, error: error.advice(advice) }
    }
}

/// Refuses a path that does not lead where it seems to: patterns and folders say nothing about it.
pub(super) fn plain(file: &Path) -> Result<(), Refusal> {
    if is_plain(file) {
        return Ok(());
    }
    let what =
        format!("the certificate file {} is no absolute path without `.` and `..`", quoted(&file.to_string_lossy()));
    let error = Error::new(Cause::NotPermitted, what).advice("write the path of the file itself");
    Err(Refusal { rule: PolicyRule::CertificateFile, error })
}

fn is_plain(path: &Path) -> bool {
    let mut parts = path.as_os_str().as_encoded_bytes().split(|byte| *byte == b'/');
    path.is_absolute() && !parts.any(|part| matches!(part, b"." | b".."))
}
