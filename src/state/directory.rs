//! State directory: file names, atomic writes and the lock.

use std::{
    fs::{self, DirBuilder, File, OpenOptions, Permissions, TryLockError},
    io::{self, ErrorKind, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use rustix::fs::{Access, access};
use tokio::time::{Instant, sleep};

use super::encryption::{FileId, OpenError, Plaintext, StateKey};

/// Suffix of session files.
const FILE_SUFFIX: &str = ".session";
/// Suffix of files that are being written.
const NEW_FILE_SUFFIX: &str = ".new";
/// Interval between attempts to lock the directory.
const LOCK_RETRY_DELAY: Duration = Duration::from_millis(5);
/// Time after which waiting for the lock is logged.
const LOCK_WAIT_LOG_DELAY: Duration = Duration::from_secs(3);
/// Size limit of a file in bytes. Volumes and classes are limited, so valid files are smaller.
const MAX_FILE_BYTES: u64 = 256 << 20;

/// Session file with its content.
pub struct ListedFile {
    /// Name without suffix.
    pub name: FileId,
    /// Path of the file.
    pub path: PathBuf,
    /// Size of the file in bytes.
    pub bytes: u64,
    /// Time of the last write, if known.
    pub modified_at: Option<SystemTime>,
    /// Decrypted content.
    pub content: Result<Plaintext, OpenError>,
}

/// Returns every session file of a directory, decrypted with `key` or with an error.
pub fn list(dir: &Path, key: &StateKey) -> io::Result<Vec<ListedFile>> {
    let listed = list_files(dir)?.into_iter().map(|(name, path)| {
        let found = path.metadata();
        let (bytes, modified_at) = found.as_ref().map_or((0, None), |found| (found.len(), found.modified().ok()));
        let content = match found {
            Ok(found) if found.len() > MAX_FILE_BYTES => Err(OpenError::Unreadable("file too large".to_owned())),
            Ok(_) => fs::read(&path).map_err(|error| OpenError::Unreadable(error.to_string())),
            Err(error) => Err(OpenError::Unreadable(error.to_string())),
        };
        ListedFile {
            name,
            path,
            bytes,
            modified_at,
            content: content.and_then(|encrypted| key.decrypt(&name, encrypted)),
        }
    });
    Ok(listed.collect())
}

/// Returns true if a path has the name of a session file or of a partially written one.
#[must_use]
pub fn is_state_file(path: &Path) -> bool {
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    [FILE_SUFFIX, NEW_FILE_SUFFIX]
        .iter()
        .filter_map(|end| name.strip_suffix(end))
        .any(|name| FileId::parse(name).is_some())
}

/// Returns names and paths of the session files, sorted by name.
pub(super) fn list_files(dir: &Path) -> io::Result<Vec<(FileId, PathBuf)>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        let name = path.file_name().and_then(|name| name.to_str()).and_then(|name| name.strip_suffix(FILE_SUFFIX));
        if let Some(name) = name.and_then(FileId::parse) {
            files.push((name, path));
        }
    }
    files.sort_unstable_by_key(|(name, _)| *name);
    Ok(files)
}

/// Creates the directory with mode 0700. An existing directory gets this mode if others have access.
pub(super) fn create(dir: &Path) -> Result<(), String> {
    let with_path = |error: io::Error| format!("{}: {error}", dir.display());
    DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(with_path)?;
    let mode = fs::metadata(dir).map_err(with_path)?.permissions().mode();
    if mode & 0o077 != 0 {
        fs::set_permissions(dir, Permissions::from_mode(0o700)).map_err(|error| {
            format!(
                "{}: accessible by other users (mode {:04o}), and the mode cannot be changed: {error}",
                dir.display(),
                mode & 0o7777
            )
        })?;
    }
    // A directory without write access must fail at start, not at the first mount.
    access(dir, Access::WRITE_OK | Access::EXEC_OK).map_err(|error| with_path(error.into()))
}

/// Removes files that a killed process did not finish writing. Errors are ignored because such files are harmless.
pub(super) fn remove_partial_files(dir: &Path) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if is_state_file(&path)
            && path.extension().is_some_and(|end| NEW_FILE_SUFFIX.ends_with(&*end.to_string_lossy()))
        {
            let _ = fs::remove_file(path);
        }
    }
    Ok(())
}

/// Writes a file atomically and replaces an existing one.
pub(super) fn write(dir: &Path, name: &FileId, encrypted: &[u8]) -> io::Result<()> {
    let new = dir.join(format!("{name}{NEW_FILE_SUFFIX}"));
    let written = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new);
    let written = written.and_then(|mut file| file.write_all(encrypted));
    written.and_then(|()| fs::rename(&new, file_path(dir, name))).inspect_err(|_| {
        // A partial file occupies space, which may be what is missing.
        let _ = fs::remove_file(&new);
    })
}

/// Removes a file if it exists.
pub(super) fn remove(dir: &Path, name: &FileId) {
    match fs::remove_file(file_path(dir, name)) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            tracing::warn!(%error, %name, "cannot remove the file of a closed session");
        }
        _ => {}
    }
}

pub(super) fn file_path(dir: &Path, name: &FileId) -> PathBuf {
    dir.join(format!("{name}{FILE_SUFFIX}"))
}

/// Waits for the lock of the directory until the process that holds it exits or releases it.
pub(super) async fn lock(dir: &Path) -> io::Result<File> {
    let file = File::open(dir)?;
    let (started_at, mut is_logged) = (Instant::now(), false);
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::WouldBlock) => sleep(LOCK_RETRY_DELAY).await,
            Err(TryLockError::Error(error)) => return Err(error),
        }
        if !is_logged && started_at.elapsed() > LOCK_WAIT_LOG_DELAY {
            is_logged = true;
            tracing::warn!(
                folder = %dir.display(),
                "waiting for the previous process to release the state directory"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn state_dir_readable_by_others_is_made_private() {
        let parent = tempfile::tempdir().unwrap();
        let folder = parent.path().join("a/state");
        create(&folder).unwrap();
        fs::set_permissions(&folder, Permissions::from_mode(0o755)).unwrap();
        create(&folder).unwrap();
        assert_eq!(fs::metadata(&folder).unwrap().permissions().mode() & 0o777, 0o700);
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 0);
    }

    #[test]
    fn state_file_write_failure_keeps_old_content() {
        let folder = tempfile::tempdir().unwrap();
        let (key, name) = (StateKey::derive(&[1; 32]), FileId([3; 16]));
        write(folder.path(), &name, b"one").unwrap();
        fs::create_dir(folder.path().join(format!("{name}{NEW_FILE_SUFFIX}"))).unwrap();
        assert!(write(folder.path(), &name, b"two").is_err());
        assert_eq!(fs::read(file_path(folder.path(), &name)).unwrap(), b"one");
        fs::write(folder.path().join("other"), "").unwrap();
        let listed = list(folder.path(), &key).unwrap();
        assert_eq!(listed.iter().map(|l| (l.name, l.bytes)).collect::<Vec<_>>(), [(name, 3)]);
        assert_eq!(fs::metadata(&listed[0].path).unwrap().permissions().mode() & 0o777, 0o600);
        remove(folder.path(), &name);
        remove(folder.path(), &name);
        assert!(list_files(folder.path()).unwrap().is_empty());
    }
}
