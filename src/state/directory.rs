//! The folder: names, whole writes, and the lock of the process that has it.

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

/// Ends the name of a session's file.
const FILE_SUFFIX: &str = ".session";
/// Ends the name of one that is being written.
const NEW_FILE_SUFFIX: &str = ".new";
/// Between two looks whether the folder is free.
const LOCK_RETRY_DELAY: Duration = Duration::from_millis(5);
/// After how long it is said that it is not.
const LOCK_WAIT_LOG_DELAY: Duration = Duration::from_secs(3);
/// The largest file that is read, in bytes: a pod's volume is bounded, and so is what a class may ask for.
const MAX_FILE_BYTES: u64 = 256 << 20;

/// A file that is there.
pub struct ListedFile {
    /// Its name.
    pub name: FileId,
    /// Where it is.
    pub path: PathBuf,
    /// Its size.
    pub bytes: u64,
    /// When it was written.
    pub modified_at: Option<SystemTime>,
    /// What is in it.
    pub content: Result<Plaintext, OpenError>,
}

/// Every file of a folder, as far as it can be read with the key.
pub fn list(dir: &Path, key: &StateKey) -> io::Result<Vec<ListedFile>> {
    let listed = list_files(dir)?.into_iter().map(|(name, path)| {
        let found = path.metadata();
        let (bytes, written) = found.as_ref().map_or((0, None), |found| (found.len(), found.modified().ok()));
        let content = match found {
            Ok(found) if found.len() > MAX_FILE_BYTES => Err(OpenError::Unreadable("it is too large".to_owned())),
            Ok(_) => fs::read(&path).map_err(|error| OpenError::Unreadable(error.to_string())),
            Err(error) => Err(OpenError::Unreadable(error.to_string())),
        };
        ListedFile {
            name,
            path,
            bytes,
            modified_at: written,
            content: content.and_then(|sealed| key.decrypt(&name, sealed)),
        }
    });
    Ok(listed.collect())
}

/// Whether a path is a session's file by its name, or one that was being written.
#[must_use]
pub fn is_state_file(path: &Path) -> bool {
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    [FILE_SUFFIX, NEW_FILE_SUFFIX]
        .iter()
        .filter_map(|end| name.strip_suffix(end))
        .any(|name| FileId::parse(name).is_some())
}

/// The names of what is there, in their order.
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

/// Makes the folder, for its owner alone.
pub(super) fn create(dir: &Path) -> Result<(), String> {
    let with_path = |error: io::Error| format!("{}: {error}", dir.display());
    DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(with_path)?;
    let mode = fs::metadata(dir).map_err(with_path)?.permissions().mode();
    if mode & 0o077 != 0 {
        fs::set_permissions(dir, Permissions::from_mode(0o700)).map_err(|error| {
            format!(
                "{}: others may read it (mode {:04o}), and it cannot be closed to them: {error}",
                dir.display(),
                mode & 0o7777
            )
        })?;
    }
    // Whether files can be made is better found out now than with the first mount.
    access(dir, Access::WRITE_OK | Access::EXEC_OK).map_err(|error| with_path(error.into()))
}

/// Removes what was being written when a process was killed. What cannot be removed is in nobody's way.
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

/// Writes a file whole, over the one of this name.
pub(super) fn write(dir: &Path, name: &FileId, encrypted: &[u8]) -> io::Result<()> {
    let new = dir.join(format!("{name}{NEW_FILE_SUFFIX}"));
    let written = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new);
    let written = written.and_then(|mut file| file.write_all(encrypted));
    written.and_then(|()| fs::rename(&new, file_path(dir, name))).inspect_err(|_| {
        // What is half there takes the room that lacks.
        let _ = fs::remove_file(&new);
    })
}

/// Removes a file; one that is not there is no matter.
pub(super) fn remove(dir: &Path, name: &FileId) {
    match fs::remove_file(file_path(dir, name)) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            tracing::warn!(%error, %name, "the file of a session that is over cannot be removed");
        }
        _ => {}
    }
}

pub(super) fn file_path(dir: &Path, name: &FileId) -> PathBuf {
    dir.join(format!("{name}{FILE_SUFFIX}"))
}

/// Waits for the folder's lock, which is another process's until that is gone or gives it away, and takes it.
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
                "another process still has what pods were given; mounts wait until it gives it away or ends"
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
