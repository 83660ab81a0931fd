//! Destination of audit records: standard output or a file.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use super::AuditSink;

/// Open destination of audit records.
pub(super) enum AuditOutput {
    Stdout,
    /// `has_partial_line` is set if the last write failed midway.
    File {
        path: PathBuf,
        file: Option<File>,
        has_partial_line: bool,
    },
}

impl AuditOutput {
    /// Opens the destination. The error names the path.
    pub(super) fn open(sink: AuditSink) -> Result<Self, String> {
        match sink {
            AuditSink::Stdout => Ok(Self::Stdout),
            AuditSink::File(path) => match append_to(&path) {
                Ok(file) => Ok(Self::File { path, file: Some(file), has_partial_line: false }),
                Err(error) => Err(format!("{} cannot be written: {error}", path.display())),
            },
        }
    }

    /// Writes a complete line or returns an error. After the file was renamed or removed, writes to a new file.
    pub(super) fn write(&mut self, line: &[u8]) -> io::Result<()> {
        match self {
            Self::Stdout => {
                let mut stdout = io::stdout().lock();
                stdout.write_all(line)?;
                stdout.flush()
            }
            Self::File { path, file: open, has_partial_line } => {
                if !open.as_ref().is_some_and(|file| is_same_file(file, path)) {
                    (*open, *has_partial_line) = (None, false);
                }
                let file = match open {
                    Some(file) => file,
                    none => none.insert(append_to(path)?),
                };
                if *has_partial_line {
                    // End the partial line, which would make this one unreadable too. It is not truncated, because another process may
                    // have appended to it.
                    file.write_all(b"\n")?;
                    *has_partial_line = false;
                }
                file.write_all(line).inspect_err(|_| *has_partial_line = true)
            }
        }
    }
}

fn append_to(path: &Path) -> io::Result<File> {
    OpenOptions::new().append(true).create(true).mode(0o600).open(path)
}

fn is_same_file(file: &File, path: &Path) -> bool {
    let (Ok(open), Ok(named)) = (file.metadata(), fs::metadata(path)) else { return false };
    (open.dev(), open.ino()) == (named.dev(), named.ino())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn audit_log_renamed_or_removed_file_is_recreated() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("audit.log");
        let mut output = AuditOutput::open(AuditSink::File(path.clone())).unwrap();
        output.write(b"one\n").unwrap();
        let old = folder.path().join("audit.log.1");
        fs::rename(&path, &old).unwrap();
        output.write(b"two\n").unwrap();
        fs::remove_file(&path).unwrap();
        output.write(b"three\n").unwrap();
        assert_eq!([&old, &path].map(|path| fs::read_to_string(path).unwrap()), ["one\n", "three\n"]);
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        fs::remove_dir_all(&folder).unwrap();
        assert!(output.write(b"four\n").is_err());
        fs::create_dir(&folder).unwrap();
        output.write(b"five\n").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "five\n");
    }

    #[test]
    fn audit_log_open_error_names_the_path() {
        let folder = tempfile::tempdir().unwrap();
        let error = AuditOutput::open(AuditSink::File(folder.path().join("none/audit.log"))).err().unwrap();
        assert!(error.contains("none/audit.log cannot be written: No such file"), "{error}");
    }
}
