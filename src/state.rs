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
pub use directory::{ListedFile, is_file, list};
pub use encryption::{FileId, OpenError, Plaintext, StateKey};
pub use gate::{Gate, GatePass};

/// Above so many bytes in all files, what can be read again is not kept any more: the folder is memory, as a rule.
const MAX_STORE_BYTES: u64 = 64 << 20;
/// How long a file is left that cannot be read: a process with another key or of another version may.
const UNREADABLE_FILE_TTL: Duration = Duration::from_secs(24 * 3600);

/// A folder of sealed files.
pub struct Store {
    folder: PathBuf,
    metrics: Arc<Metrics>,
    stand: RwLock<StoreState>,
    /// Counts how often it was opened: who was there before writes nothing any more.
    generation: AtomicU64,
    /// Bytes in the files that this process has read or written.
    used: AtomicU64,
    /// Files that could not be written, one after another.
    failed: AtomicU64,
    /// Files that could not be read. Never held across an await.
    strange: Mutex<Vec<PathBuf>>,
}

enum StoreState {
    /// Another process may have it.
    Closed,
    /// It is ours until the file is closed, whose lock that is.
    Open { key: StateKey, _lock: File },
    /// There is no key that a successor would have.
    Unkept,
}

/// What earlier processes have left.
#[derive(Default)]
pub struct RestoredFiles {
    /// What is in their files.
    pub contents: Vec<(FileId, Plaintext)>,
    /// Why others cannot be read, one for each.
    pub faults: Vec<OpenError>,
}

/// What became of a file that was to be written.
#[derive(Debug)]
pub enum WriteOutcome {
    /// It is there, with so many bytes.
    Whole(u64),
    /// Nothing is kept by this process.
    Unkept,
    /// The folder is another process's by now, which does not know of this.
    Closed,
    /// It could not be written, which was said and counted; the file before is as it was.
    Failed,
}

impl Store {
    /// Of this folder, which is made if it is not there, for its owner alone. The error names what is to be done.
    pub fn new(folder: &Path, metrics: Arc<Metrics>) -> Result<Self, String> {
        directory::create(folder)?;
        Ok(Self {
            folder: folder.to_owned(),
            metrics,
            stand: RwLock::new(StoreState::Closed),
            generation: AtomicU64::new(0),
            used: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            strange: Mutex::default(),
        })
    }

    /// Where it is.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Waits until no other process has the folder, and takes it.
    pub async fn lock(&self) -> io::Result<File> {
        directory::lock(&self.folder).await
    }

    /// Opens it with the lock that was taken, and reads what is there; `None` for a key that no successor would have: nothing is
    /// kept then. Blocks.
    pub fn open(&self, lock: File, key: Option<StateKey>) -> io::Result<RestoredFiles> {
        let (mut left, mut strange, mut used) = (RestoredFiles::default(), Vec::new(), 0);
        if let Some(key) = &key {
            directory::sweep(&self.folder)?;
            for listed in list(&self.folder, key)? {
                match listed.content {
                    Ok(content) => {
                        used += listed.bytes;
                        left.contents.push((listed.name, content));
                    }
                    Err(fault) => {
                        left.faults.push(fault);
                        strange.push(listed.path);
                    }
                }
            }
        }
        self.used.store(used, Relaxed);
        self.generation.fetch_add(1, SeqCst);
        *self.strange.lock().unwrap_or_else(PoisonError::into_inner) = strange;
        let stand = key.map_or(StoreState::Unkept, |key| StoreState::Open { key, _lock: lock });
        *self.stand.write().unwrap_or_else(PoisonError::into_inner) = stand;
        self.sweep();
        Ok(left)
    }

    /// Keeps nothing, as the folder cannot be had.
    pub fn disable(&self) {
        *self.stand.write().unwrap_or_else(PoisonError::into_inner) = StoreState::Unkept;
    }

    /// Whether anything is kept by this process, or will be once it has the folder.
    #[must_use]
    pub fn is_persistent(&self) -> bool {
        !matches!(*self.read_state(), StoreState::Unkept)
    }

    /// Which opening this is. Whoever writes says in which they began.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.generation.load(SeqCst)
    }

    /// Gives the folder to whoever waits for it, once what is being written is. Nothing is written any more. Blocks.
    pub fn close(&self) {
        *self.stand.write().unwrap_or_else(PoisonError::into_inner) = StoreState::Closed;
    }

    /// Whether there is room for what could be read again.
    #[must_use]
    pub fn has_capacity(&self) -> bool {
        self.used.load(Relaxed) < MAX_STORE_BYTES
    }

    /// Writes a file in the place of one of so many bytes, or none, for whoever began in that generation. Blocks.
    pub fn write(&self, name: &FileId, content: &SecretBuffer, before: u64, generation: u64) -> WriteOutcome {
        let stand = self.read_state();
        let key = match &*stand {
            StoreState::Unkept => return WriteOutcome::Unkept,
            StoreState::Open { key, .. } if generation == self.generation() => key,
            StoreState::Open { .. } | StoreState::Closed => return WriteOutcome::Closed,
        };
        let sealed = key.encrypt(name, content);
        match directory::write(&self.folder, name, &sealed) {
            Ok(()) => {
                let bytes = sealed.len() as u64;
                self.resized(before, bytes);
                self.metrics.count_state_write(StateWrite::Ok);
                self.failed.store(0, Relaxed);
                WriteOutcome::Whole(bytes)
            }
            Err(error) => {
                self.metrics.count_state_write(StateWrite::Failed);
                let failed = self.failed.fetch_add(1, Relaxed) + 1;
                if failed.is_power_of_two() {
                    tracing::warn!(%error, failed, folder = %self.folder.display(), "what a pod was given cannot be kept for the next process, which would log in anew");
                }
                WriteOutcome::Failed
            }
        }
    }

    /// Removes a file of so many bytes. Blocks.
    pub fn remove(&self, name: &FileId, bytes: u64) {
        if matches!(*self.read_state(), StoreState::Open { .. }) {
            directory::remove(&self.folder, name);
            self.resized(bytes, 0);
        }
    }

    /// What is in a file makes no sense: it goes as those that cannot be read.
    pub fn quarantine(&self, name: &FileId) {
        let path = directory::path(&self.folder, name);
        self.strange.lock().unwrap_or_else(PoisonError::into_inner).push(path);
    }

    /// Removes what could not be read for a day.
    pub fn sweep(&self) {
        let stand = self.read_state();
        if !matches!(*stand, StoreState::Open { .. }) {
            return;
        }
        self.strange.lock().unwrap_or_else(PoisonError::into_inner).retain(|path| {
            let Ok(written) = path.metadata().and_then(|found| found.modified()) else { return false };
            let is_old = SystemTime::now().duration_since(written).is_ok_and(|age| age > UNREADABLE_FILE_TTL);
            !is_old || std::fs::remove_file(path).is_err()
        });
    }

    fn resized(&self, before: u64, bytes: u64) {
        let _ = self.used.fetch_update(Relaxed, Relaxed, |used| Some((used + bytes).saturating_sub(before)));
    }

    fn read_state(&self) -> RwLockReadGuard<'_, StoreState> {
        self.stand.read().unwrap_or_else(PoisonError::into_inner)
    }
}
