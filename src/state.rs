//! What outlives the process: sealed files, one for each session, so that a successor keeps what pods have.
//!
//! What is in a file is its writer's affair. Here it is bytes under a name, sealed ([`seal`]), written whole or not at all, by
//! the one process that has the folder ([`Store::lock`]); and the [`Gate`] at which mounts wait for that.
//!
//! Nothing is synced to a disk: a file outlives the process that wrote it, killed or not, and the pods of a machine that went
//! down are gone, too, or mount anew.

mod folder;
mod gate;
mod seal;

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
    metrics::{Metrics, StateWrite},
    secret::SecretBuffer,
};
pub use folder::{Listed, is_file, list};
pub use gate::{Gate, Pass};
pub use seal::{Content, Fault, Name, SealingKey};

/// Above so many bytes in all files, what can be read again is not kept any more: the folder is memory, as a rule.
const ROOM: u64 = 64 << 20;
/// How long a file is left that cannot be read: a process with another key or of another version may.
const PATIENCE: Duration = Duration::from_secs(24 * 3600);

/// A folder of sealed files.
pub struct Store {
    folder: PathBuf,
    metrics: Arc<Metrics>,
    stand: RwLock<Stand>,
    /// Counts how often it was opened: who was there before writes nothing any more.
    generation: AtomicU64,
    /// Bytes in the files that this process has read or written.
    used: AtomicU64,
    /// Files that could not be written, one after another.
    failed: AtomicU64,
    /// Files that could not be read. Never held across an await.
    strange: Mutex<Vec<PathBuf>>,
}

enum Stand {
    /// Another process may have it.
    Closed,
    /// It is ours until the file is closed, whose lock that is.
    Open { key: SealingKey, _lock: File },
    /// There is no key that a successor would have.
    Unkept,
}

/// What earlier processes have left.
#[derive(Default)]
pub struct Left {
    /// What is in their files.
    pub contents: Vec<(Name, Content)>,
    /// Why others cannot be read, one for each.
    pub faults: Vec<Fault>,
}

/// What became of a file that was to be written.
#[derive(Debug)]
pub enum Written {
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
        folder::make(folder)?;
        Ok(Self {
            folder: folder.to_owned(),
            metrics,
            stand: RwLock::new(Stand::Closed),
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
        folder::lock(&self.folder).await
    }

    /// Opens it with the lock that was taken, and reads what is there; `None` for a key that no successor would have: nothing is
    /// kept then. Blocks.
    pub fn open(&self, lock: File, key: Option<SealingKey>) -> io::Result<Left> {
        let (mut left, mut strange, mut used) = (Left::default(), Vec::new(), 0);
        if let Some(key) = &key {
            folder::sweep(&self.folder)?;
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
        let stand = key.map_or(Stand::Unkept, |key| Stand::Open { key, _lock: lock });
        *self.stand.write().unwrap_or_else(PoisonError::into_inner) = stand;
        self.sweep();
        Ok(left)
    }

    /// Keeps nothing, as the folder cannot be had.
    pub fn keep_nothing(&self) {
        *self.stand.write().unwrap_or_else(PoisonError::into_inner) = Stand::Unkept;
    }

    /// Whether anything is kept by this process, or will be once it has the folder.
    #[must_use]
    pub fn keeps(&self) -> bool {
        !matches!(*self.stand(), Stand::Unkept)
    }

    /// Which opening this is. Whoever writes says in which they began.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.generation.load(SeqCst)
    }

    /// Gives the folder to whoever waits for it, once what is being written is. Nothing is written any more. Blocks.
    pub fn close(&self) {
        *self.stand.write().unwrap_or_else(PoisonError::into_inner) = Stand::Closed;
    }

    /// Whether there is room for what could be read again.
    #[must_use]
    pub fn has_room(&self) -> bool {
        self.used.load(Relaxed) < ROOM
    }

    /// Writes a file in the place of one of so many bytes, or none, for whoever began in that generation. Blocks.
    pub fn write(&self, name: &Name, content: &SecretBuffer, before: u64, generation: u64) -> Written {
        let stand = self.stand();
        let key = match &*stand {
            Stand::Unkept => return Written::Unkept,
            Stand::Open { key, .. } if generation == self.generation() => key,
            Stand::Open { .. } | Stand::Closed => return Written::Closed,
        };
        let sealed = key.seal(name, content);
        match folder::write(&self.folder, name, &sealed) {
            Ok(()) => {
                let bytes = sealed.len() as u64;
                self.resized(before, bytes);
                self.metrics.state_write(StateWrite::Ok);
                self.failed.store(0, Relaxed);
                Written::Whole(bytes)
            }
            Err(error) => {
                self.metrics.state_write(StateWrite::Failed);
                let failed = self.failed.fetch_add(1, Relaxed) + 1;
                if failed.is_power_of_two() {
                    tracing::warn!(%error, failed, folder = %self.folder.display(), "what a pod was given cannot be kept for the next process, which would log in anew");
                }
                Written::Failed
            }
        }
    }

    /// Removes a file of so many bytes. Blocks.
    pub fn remove(&self, name: &Name, bytes: u64) {
        if matches!(*self.stand(), Stand::Open { .. }) {
            folder::remove(&self.folder, name);
            self.resized(bytes, 0);
        }
    }

    /// What is in a file makes no sense: it goes as those that cannot be read.
    pub fn set_aside(&self, name: &Name) {
        let path = folder::path(&self.folder, name);
        self.strange.lock().unwrap_or_else(PoisonError::into_inner).push(path);
    }

    /// Removes what could not be read for a day.
    pub fn sweep(&self) {
        let stand = self.stand();
        if !matches!(*stand, Stand::Open { .. }) {
            return;
        }
        self.strange.lock().unwrap_or_else(PoisonError::into_inner).retain(|path| {
            let Ok(written) = path.metadata().and_then(|found| found.modified()) else { return false };
            let is_old = SystemTime::now().duration_since(written).is_ok_and(|age| age > PATIENCE);
            !is_old || std::fs::remove_file(path).is_err()
        });
    }

    fn resized(&self, before: u64, bytes: u64) {
        let _ = self.used.fetch_update(Relaxed, Relaxed, |used| Some((used + bytes).saturating_sub(before)));
    }

    fn stand(&self) -> RwLockReadGuard<'_, Stand> {
        self.stand.read().unwrap_or_else(PoisonError::into_inner)
    }
}
