//! What outlives the process: sealed files, one for each session, so that a successor keeps what pods have.
//!
//! What is in a file is its writer's affair. Here it is bytes under a name, sealed ([`seal`]), written whole or not at all, by
//! the one process that has the folder ([`Store::lock`]); and the [`Gate`] at which mounts wait for that.
//!
//! Nothing is synced to a disk: a file outlives the process that wrote it, killed or not, and the pods of a machine that went
//! down are gone, too, or mount anew.

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

/// Above so many bytes in all files, what can be read again is not kept any more: the folder is memory, as a rule.
const MAX_STORE_BYTES: u64 = 64 << 20;
/// How long a file is left that cannot be read: a process with another key or of another version may.
const UNREADABLE_FILE_TTL: Duration = Duration::from_secs(24 * 3600);

/// A folder of sealed files.
pub struct Store {
    dir: PathBuf,
    metrics: Arc<Metrics>,
    state: RwLock<StoreState>,
    /// Counts how often it was opened: who was there before writes nothing any more.
    generation: AtomicU64,
    /// Bytes in the files that this process has read or written.
    used_bytes: AtomicU64,
    /// Files that could not be written, one after another.
    consecutive_failures: AtomicU64,
    /// Files that could not be read. Never held across an await.
    unreadable: Mutex<Vec<PathBuf>>,
}

enum StoreState {
    /// Another process may have it.
    Closed,
    /// It is ours until the file is closed, whose lock that is.
    Open { key: StateKey, _lock: File },
    /// There is no key that a successor would have.
    Disabled,
}

/// What earlier processes have left.
#[derive(Default)]
pub struct RestoredFiles {
    /// What is in their files.
    pub contents: Vec<(FileId, Plaintext)>,
    /// Why others cannot be read, one for each.
    pub errors: Vec<OpenError>,
}

/// What became of a file that was to be written.
#[derive(Debug)]
pub enum WriteOutcome {
    /// It is there, with so many bytes.
    Written(u64),
    /// Nothing is kept by this process.
    Disabled,
    /// The folder is another process's by now, which does not know of this.
    Closed,
    /// It could not be written, which was said and counted; the file before is as it was.
    Failed,
}

impl Store {
    /// Of this folder, which is made if it is not there, for its owner alone. The error names what is to be done.
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

    /// Where it is.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Waits until no other process has the folder, and takes it.
    pub async fn lock(&self) -> io::Result<File> {
        directory::lock(&self.dir).await
    }

    /// Opens it with the lock that was taken, and reads what is there; `None` for a key that no successor would have: nothing is
    /// kept then. Blocks.
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

    /// Keeps nothing, as the folder cannot be had.
    pub fn disable(&self) {
        *self.state.write().unwrap_or_else(PoisonError::into_inner) = StoreState::Disabled;
    }

    /// Whether anything is kept by this process, or will be once it has the folder.
    #[must_use]
    pub fn is_persistent(&self) -> bool {
        !matches!(*self.read_state(), StoreState::Disabled)
    }

    /// Which opening this is. Whoever writes says in which they began.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.generation.load(SeqCst)
    }

    /// Gives the folder to whoever waits for it, once what is being written is. Nothing is written any more. Blocks.
    pub fn close(&self) {
        *self.state.write().unwrap_or_else(PoisonError::into_inner) = StoreState::Closed;
    }

    /// Whether there is room for what could be read again.
    #[must_use]
    pub fn has_capacity(&self) -> bool {
        self.used_bytes.load(Relaxed) < MAX_STORE_BYTES
    }

    /// Writes a file in the place of one of so many bytes, or none, for whoever began in that generation. Blocks.
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
                    tracing::warn!(%error, failed, folder = %self.dir.display(), "what a pod was given cannot be kept for the next process, which would log in anew");
                }
                WriteOutcome::Failed
            }
        }
    }

    /// Removes a file of so many bytes. Blocks.
    pub fn remove(&self, name: &FileId, bytes: u64) {
        if matches!(*self.read_state(), StoreState::Open { .. }) {
            directory::remove(&self.dir, name);
            self.adjust_used_bytes(bytes, 0);
        }
    }

    /// What is in a file makes no sense: it goes as those that cannot be read.
    pub fn quarantine(&self, name: &FileId) {
        let path = directory::file_path(&self.dir, name);
        self.unreadable.lock().unwrap_or_else(PoisonError::into_inner).push(path);
    }

    /// Removes what could not be read for a day.
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
