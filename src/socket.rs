//! A unix socket that is handed from one process to the next without a moment in which a call would fail.
//!
//! The socket is bound under a private name, and a hard link of it renamed over the public one: whoever connects finds
//! either the predecessor or us. The private name stays.
//! A public name whose inode is not ours belongs to a successor and is never removed. Should that one end before us, we take
//! the name back.

use std::{
    convert::Infallible,
    fs::{self, TryLockError},
    hash::{BuildHasher, Hasher, RandomState},
    io::{self, ErrorKind},
    os::unix::{
        fs::{MetadataExt, PermissionsExt},
        net::{UnixListener as StdListener, UnixStream as StdStream},
    },
    path::{Path, PathBuf},
    pin::pin,
    time::Duration,
};

use rustix::fs::inotify;
use tokio::{
    net::{UnixListener, UnixStream, unix::pipe},
    sync::watch,
    time::{interval, sleep, timeout},
};

/// A bound socket under its public name.
pub struct Socket {
    listener: UnixListener,
    public_path: PathBuf,
    private_path: PathBuf,
    inode: u64,
    /// Whether the public name leads here; not so when another process has taken it.
    is_owner: watch::Sender<bool>,
}

/// Starts the private names, which begin with a dot so that no driver takes them for a provider's.
const PRIVATE_PREFIX: &str = ".vaultmount-";
/// Ends the name that a hard link has before it is renamed.
const LINK_SUFFIX: &str = "link";

/// How often a process looks whether its public name leads to one that lives.
const OWNERSHIP_CHECK_INTERVAL: Duration = Duration::from_secs(1);
/// How long the lock is waited for. Processes hold it for milliseconds; one that does not let go must not stop its successors
/// without a word.
const LOCK_TIMEOUT: Duration = Duration::from_secs(3);
const LOCK_RETRY_DELAY: Duration = Duration::from_millis(5);
/// How long after giving up the name the last connection made through it is waited for.
const CLOSE_GRACE_PERIOD: Duration = Duration::from_millis(50);
/// After a connection that could not be accepted.
const ACCEPT_RETRY_DELAY: Duration = Duration::from_millis(100);

impl Socket {
    /// Binds and takes over the public name. Must run inside the runtime.
    pub async fn bind(public_path: &Path) -> io::Result<Self> {
        let dir =
            public_path.parent().ok_or_else(|| io::Error::new(ErrorKind::InvalidInput, "no folder in the path"))?;
        let name = public_path
            .file_name()
            .and_then(|n| n.to_str())
            .ok_or_else(|| io::Error::new(ErrorKind::InvalidInput, "no file name in the path"))?;
        fs::create_dir_all(dir)?;
        // Every container's first process is number 1, so the name is a random one.
        let private = dir.join(format!("{PRIVATE_PREFIX}{:016x}-{name}", RandomState::new().build_hasher().finish()));
        let _lock = lock(dir).await?;
        remove_stale_sockets(dir, name);
        let listener = StdListener::bind(&private)?;
        // Nobody finds the socket before its rights are right: only then it gets its public name.
        fs::set_permissions(&private, fs::Permissions::from_mode(0o600))?;
        listener.set_nonblocking(true)?;
        let inode = fs::metadata(&private)?.ino();
        let (listener, is_owner) = (UnixListener::from_std(listener)?, watch::channel(true).0);
        let socket =
            Self { listener, public_path: public_path.to_owned(), private_path: private, inode, is_owner: is_owner };
        if let Err(error) = socket.publish() {
            // Nobody will serve there.
            for left in [&socket.private_path.with_extension(LINK_SUFFIX), &socket.private_path] {
                let _ = fs::remove_file(left);
            }
            return Err(error);
        }
        Ok(socket)
    }

    /// The public name.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.public_path
    }

    /// The name that no other process takes: who connects by it finds this one.
    #[must_use]
    pub fn private_path(&self) -> &Path {
        &self.private_path
    }

    /// Whether the public name leads here, as it changes while the socket is served.
    #[must_use]
    pub fn ownership(&self) -> watch::Receiver<bool> {
        self.is_owner.subscribe()
    }

    /// Hands every connection to `attend` until `stop`, or until its sender is gone. Then gives up the name, and hands over
    /// those that were made through it before.
    pub async fn serve(self, mut stop: watch::Receiver<bool>, mut on_connection: impl FnMut(UnixStream)) {
        {
            let mut hold_name = pin!(self.hold_name());
            let mut stopped = pin!(async { drop(stop.wait_for(|stop| *stop).await) });
            loop {
                tokio::select! {
                    accepted = self.accept() => match accepted {
                        Ok(stream) => on_connection(stream),
                        Err(error) => {
                            tracing::warn!(%error, "a connection could not be accepted");
                            sleep(ACCEPT_RETRY_DELAY).await;
                        }
                    },
                    never = &mut hold_name => match never {},
                    () = &mut stopped => break,
                }
            }
        }
        self.close().await;
        while let Ok(Ok(stream)) = timeout(CLOSE_GRACE_PERIOD, self.accept()).await {
            on_connection(stream);
        }
    }

    /// The next connection.
    async fn accept(&self) -> io::Result<UnixStream> {
        self.listener.accept().await.map(|(stream, _)| stream)
    }

    /// Looks again and again whether anybody answers at the public name, and takes it back when nobody does: a successor
    /// that ended before us took it along. Never ends.
    async fn hold_name(&self) -> Infallible {
        let (mut ticks, changes) = (interval(OWNERSHIP_CHECK_INTERVAL), DirectoryWatch::new(self.dir()));
        let mut is_error_logged = false;
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                () = changes.wait_for_change() => {}
            }
            let socket = self.public_path.display();
            let reclaimed = self.reclaim().await;
            let is_ours = self.is_ours(&self.public_path);
            self.is_owner.send_if_modified(|is_owner| std::mem::replace(is_owner, is_ours) != is_ours);
            match reclaimed {
                Ok(true) => tracing::warn!(%socket, "nobody answered at the name: taken back"),
                Ok(false) => is_error_logged = false,
                Err(error) if !is_error_logged => {
                    tracing::error!(%error, %socket, "the name cannot be taken back");
                    is_error_logged = true;
                }
                Err(_) => {}
            }
        }
    }

    /// Whether the public name was free, and is ours now.
    async fn reclaim(&self) -> io::Result<bool> {
        if self.is_ours(&self.public_path) {
            return Ok(false);
        }
        let _lock = lock(self.dir()).await?;
        let is_free = UnixStream::connect(&self.public_path)
            .await
            .is_err_and(|e| matches!(e.kind(), ErrorKind::NotFound | ErrorKind::ConnectionRefused));
        if is_free {
            self.publish()?;
        }
        Ok(is_free)
    }

    /// Gives up both names; the public one only while it is ours.
    async fn close(&self) {
        let gave_up = async {
            let _lock = lock(self.dir()).await?;
            [&self.public_path, &self.private_path]
                .into_iter()
                .filter(|path| self.is_ours(path))
                .try_for_each(fs::remove_file)
        };
        if let Err(error) = gave_up.await {
            tracing::warn!(%error, socket = %self.public_path.display(), "the socket's name could not be removed");
        }
    }

    /// Puts the public name on our socket, whatever it was on.
    fn publish(&self) -> io::Result<()> {
        let link = self.private_path.with_extension(LINK_SUFFIX);
        let _ = fs::remove_file(&link);
        fs::hard_link(&self.private_path, &link)?;
        fs::rename(&link, &self.public_path)
    }

    fn is_ours(&self, path: &Path) -> bool {
        fs::symlink_metadata(path).is_ok_and(|m| m.ino() == self.inode)
    }

    fn dir(&self) -> &Path {
        self.private_path.parent().unwrap_or(Path::new("/"))
    }
}

/// What happens to the names in a folder, so that a name that is taken is noticed at once.
struct DirectoryWatch(Option<pipe::Receiver>);

impl DirectoryWatch {
    /// Of this folder. Where they cannot be had, [`LOOK`] must do.
    fn new(dir: &Path) -> Self {
        use inotify::{CreateFlags, WatchFlags};
        let events = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK).and_then(|events| {
            let names = WatchFlags::MOVED_TO | WatchFlags::DELETE | WatchFlags::ONLYDIR;
            inotify::add_watch(&events, dir, names).map(|_| events)
        });
        // Events are read from it as from a pipe, which is the one such thing that needs no unsafe code.
        Self(events.ok().and_then(|events| pipe::Receiver::from_owned_fd_unchecked(events).ok()))
    }

    /// Waits for the next.
    async fn wait_for_change(&self) {
        let Some(events) = &self.0 else { return std::future::pending().await };
        if events.readable().await.is_err() {
            return std::future::pending().await;
        }
        // What it was shows the next look.
        while events.try_read(&mut [0; 4096]).is_ok_and(|read| read > 0) {}
    }
}

/// Locks a folder's names against other processes of ours until the file is dropped, so that nobody removes a name that another
/// has just taken, nor a socket that another has bound and not yet named.
pub async fn lock(dir: &Path) -> io::Result<fs::File> {
    let file = fs::File::open(dir)?;
    let locked = async {
        loop {
            match file.try_lock() {
                Err(TryLockError::WouldBlock) => sleep(LOCK_RETRY_DELAY).await,
                Err(TryLockError::Error(error)) => return Err(error),
                Ok(()) => return Ok(()),
            }
        }
    };
    let timeout_message = || format!("another process has held the folder's lock for {LOCK_TIMEOUT:?}");
    timeout(LOCK_TIMEOUT, locked).await.map_err(|_| io::Error::new(ErrorKind::TimedOut, timeout_message()))??;
    Ok(file)
}

/// Removes what processes that were killed left behind: private names of this socket that nobody answers at.
fn remove_stale_sockets(dir: &Path, name: &str) {
    let Ok(entries) = fs::read_dir(dir) else { return };
    for path in entries.flatten().map(|e| e.path()) {
        let Some(file_name) = path.file_name().and_then(|n| n.to_str()) else { continue };
        let is_ours = file_name.starts_with(PRIVATE_PREFIX)
            && (file_name.ends_with(&format!("-{name}")) || path.extension().is_some_and(|e| e == LINK_SUFFIX));
        if is_ours && StdStream::connect(&path).is_err_and(|e| e.kind() == ErrorKind::ConnectionRefused) {
            let _ = fs::remove_file(&path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn socket_successor_takes_name_and_predecessor_keeps_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("vault.sock");
        fs::write(&path, "left by something else").unwrap();
        let old = Socket::bind(&path).await.unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        let new = Socket::bind(&path).await.unwrap();
        old.close().await;
        let (_client, server) = tokio::join!(UnixStream::connect(&path), new.accept());
        server.unwrap();
        new.close().await;
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 0);
    }

    #[tokio::test]
    async fn socket_bind_failure_leaves_no_files() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("vault.sock");
        fs::create_dir(&path).unwrap();
        assert!(Socket::bind(&path).await.is_err());
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 1);
    }

    #[tokio::test]
    async fn socket_bind_removes_stale_private_sockets() {
        let folder = tempfile::tempdir().unwrap();
        let left = folder.path().join(".vaultmount-dead-vault.sock");
        drop(StdListener::bind(&left).unwrap());
        let other = folder.path().join(".vaultmount-dead-openbao.sock");
        drop(StdListener::bind(&other).unwrap());
        let socket = Socket::bind(&folder.path().join("vault.sock")).await.unwrap();
        assert!(!left.exists() && other.exists());
        socket.close().await;
    }
}
