//! State that outlives the process: one encrypted file per session, so that a successor restores the sessions.
//!
//! This module stores bytes under a name. A file is encrypted ([`StateKey`]) and written atomically. Only the process that
//! holds the lock of the directory ([`Store::lock`]) writes. Mounts wait at the [`Gate`] until that is the case.
//!
//! Files are not synced to disk. They survive the end of their process, even by a signal. After a crash of the machine its
//! pods are gone or mount again.

mod directory;
mod encryption;
mod gate;

use std::{
    fs::File,
    io,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError, RwLock, RwLockReadGuard,
        atomic::{
            AtomicU64,
            Ordering::{Relaxed, SeqCst},
        },
    },
    time::{Duration, SystemTime},
};

use crate::{
    observe::metrics::{Metrics, StateWrite},
    secret::SecretBuffer,
};
pub use directory::{ListedFile, is_state_file, list};
pub use encryption::{FileId, OpenError, Plaintext, StateKey};
pub use gate::{Gate, GatePass};

/// Total size in bytes above which secrets that can be read again are not persisted. The directory is usually in memory.
const MAX_STORE_BYTES: u64 = 64 << 20;
/// Age at which an unreadable file is removed. Until then a process with another key or version may read it.
const UNREADABLE_FILE_TTL: Duration = Duration::from_secs(24 * 3600);

/// Directory of encrypted session files.
pub struct Store {
    dir: PathBuf,
    metrics: Arc<Metrics>,
    state: RwLock<StoreState>,
    /// Number of times the store was opened. Writers from an earlier generation are rejected.
    generation: AtomicU64,
    /// Total size of the files that this process read or wrote.
    used_bytes: AtomicU64,
    /// Number of writes that failed in a row.
    consecutive_failures: AtomicU64,
    /// Files that could not be read. Never locked across an await.
    unreadable: Mutex<Vec<PathBuf>>,
}

enum StoreState {
    /// Another process may hold the directory.
    Closed,
    /// This process holds the directory until it closes the lock file.
    Open { key: StateKey, _lock: File },
    /// Persistence is off, because no key is shared with a successor.
    Disabled,
}

/// Files left by earlier processes.
#[derive(Default)]
pub struct RestoredFiles {
    /// Decrypted files.
    pub contents: Vec<(FileId, Plaintext)>,
    /// Errors of unreadable files, one per file.
    pub errors: Vec<OpenError>,
}

/// Outcome of a write.
#[derive(Debug)]
pub enum WriteOutcome {
    /// Written, with the file's size in bytes.
    Written(u64),
    /// Not written: persistence is off.
    Disabled,
    /// Not written: another process holds the directory by now.
    Closed,
    /// Failed, logged and counted. The previous file is unchanged.
    Failed,
}

impl Store {
    /// Returns a closed store. Creates the directory if necessary, with access for its owner only. The error names the path.
    pub fn new(dir: &Path, metrics: Arc<Metrics>) -> Result<Self, String> {
        directory::create(dir)?;
        Ok(Self {
            dir: dir.to_owned(),
            metrics,
            state: RwLock::new(StoreState::Closed),
            generation: AtomicU64::new(0),
            used_bytes: AtomicU64::new(0),
            consecutive_failures: AtomicU64::new(0),
            unreadable: Mutex::default(),
        })
    }

    /// Returns the directory.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Waits until no other process holds the directory, then locks it.
    pub async fn lock(&self) -> io::Result<File> {
        directory::lock(&self.dir).await
    }

    /// Opens the store with the given lock and reads the existing files. Without a key that a successor would have, pass `None`;
    /// persistence is then off. Blocks.
    pub fn open(&self, lock: File, key: Option<StateKey>) -> io::Result<RestoredFiles> {
        let (mut restored, mut unreadable, mut used_bytes) = (RestoredFiles::default(), Vec::new(), 0);
        if let Some(key) = &key {
            directory::remove_partial_files(&self.dir)?;
            for listed in list(&self.dir, key)? {
                match listed.content {
                    Ok(content) => {
                        used_bytes += listed.bytes;
                        restored.contents.push((listed.name, content));
                    }
                    Err(error) => {
                        restored.errors.push(error);
                        unreadable.push(listed.path);
                    }
                }
            }
        }
        self.used_bytes.store(used_bytes, Relaxed);
        self.generation.fetch_add(1, SeqCst);
        *self.unreadable.lock().unwrap_or_else(PoisonError::into_inner) = unreadable;
        let state = key.map_or(StoreState::Disabled, |key| StoreState::Open { key, _lock: lock });
        *self.state.write().unwrap_or_else(PoisonError::into_inner) = state;
        self.remove_expired_files();
        Ok(restored)
    }

    /// Turns persistence off, because the directory is not available.
    pub fn disable(&self) {
        *self.state.write().unwrap_or_else(PoisonError::into_inner) = StoreState::Disabled;
    }

    /// Returns true if this process persists sessions now, or will once it holds the directory.
    #[must_use]
    pub fn is_persistent(&self) -> bool {
        !matches!(*self.read_state(), StoreState::Disabled)
    }

    /// Returns the current generation. [`Store::write`] takes the generation in which the caller started.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.generation.load(SeqCst)
    }

    /// Releases the directory to a waiting process after running writes have finished. Later writes are rejected. Blocks.
    pub fn close(&self) {
        *self.state.write().unwrap_or_else(PoisonError::into_inner) = StoreState::Closed;
    }

    /// Returns true if there is capacity for secrets that could be read again.
    #[must_use]
    pub fn has_capacity(&self) -> bool {
        self.used_bytes.load(Relaxed) < MAX_STORE_BYTES
    }

    /// Writes a file for a caller that started in `generation`. `old_bytes` is the size of the file it replaces, 0 for none.
    /// Blocks.
    pub fn write(&self, name: &FileId, content: &SecretBuffer, old_bytes: u64, generation: u64) -> WriteOutcome {
        let state = self.read_state();
        let key = match &*state {
            StoreState::Disabled => return WriteOutcome::Disabled,
            StoreState::Open { key, .. } if generation == self.generation() => key,
            StoreState::Open { .. } | StoreState::Closed => return WriteOutcome::Closed,
        };
        let encrypted = key.encrypt(name, content);
        match directory::write(&self.dir, name, &encrypted) {
            Ok(()) => {
                let bytes = encrypted.len() as u64;
                self.adjust_used_bytes(old_bytes, bytes);
                self.metrics.count_state_write(StateWrite::Ok);
                self.consecutive_failures.store(0, Relaxed);
                WriteOutcome::Written(bytes)
            }
            Err(error) => {
                self.metrics.count_state_write(StateWrite::Failed);
                let failed = self.consecutive_failures.fetch_add(1, Relaxed) + 1;
                if failed.is_power_of_two() {
                    tracing::warn!(%error, failed, folder = %self.dir.display(), "cannot persist session; the pod will log in again after a restart");
                }
                WriteOutcome::Failed
            }
        }
    }

    /// Removes a file of `bytes` bytes. Blocks.
    pub fn remove(&self, name: &FileId, bytes: u64) {
        if matches!(*self.read_state(), StoreState::Open { .. }) {
            directory::remove(&self.dir, name);
            self.adjust_used_bytes(bytes, 0);
        }
    }

    /// Marks a file with invalid content as unreadable, so that it is removed after a day.
    pub fn quarantine(&self, name: &FileId) {
        let path = directory::file_path(&self.dir, name);
        self.unreadable.lock().unwrap_or_else(PoisonError::into_inner).push(path);
    }

    /// Removes unreadable files that are older than a day.
    pub fn remove_expired_files(&self) {
        let state = self.read_state();
        if !matches!(*state, StoreState::Open { .. }) {
            return;
        }
        self.unreadable.lock().unwrap_or_else(PoisonError::into_inner).retain(|path| {
            let Ok(written) = path.metadata().and_then(|found| found.modified()) else { return false };
            let is_old = SystemTime::now().duration_since(written).is_ok_and(|age| age > UNREADABLE_FILE_TTL);
            !is_old || std::fs::remove_file(path).is_err()
        });
    }

    fn adjust_used_bytes(&self, old_bytes: u64, new_bytes: u64) {
        let _ =
            self.used_bytes.fetch_update(Relaxed, Relaxed, |used| Some((used + new_bytes).saturating_sub(old_bytes)));
    }

    fn read_state(&self) -> RwLockReadGuard<'_, StoreState> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }
}
