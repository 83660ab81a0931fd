//! Unix socket with a handover from predecessor to successor that fails no call.
//!
//! The socket is bound under a private name. A hard link to it is then renamed to the public name, so a client always reaches
//! either the predecessor or this process. The private name stays.
//! A public name with another inode belongs to a successor and is never removed. If the successor exits first, this process
//! reclaims the public name.

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

/// Bound socket with a public name.
pub struct Socket {
    listener: UnixListener,
    public_path: PathBuf,
    private_path: PathBuf,
    inode: u64,
    /// True while the public name refers to this socket, false after another process has taken it.
    is_owner: watch::Sender<bool>,
}

/// Prefix of private names. It starts with a dot, so that the driver does not take the socket for a provider.
const PRIVATE_PREFIX: &str = ".vaultmount-";
/// Extension of the hard link before it is renamed.
const LINK_SUFFIX: &str = "link";

/// Interval of checks that the public name refers to a running process.
const OWNERSHIP_CHECK_INTERVAL: Duration = Duration::from_secs(1);
/// Timeout for the directory lock. Processes hold it for milliseconds. One that does not release it must cause an error in its
/// successors, not a silent hang.
const LOCK_TIMEOUT: Duration = Duration::from_secs(3);
const LOCK_RETRY_DELAY: Duration = Duration::from_millis(5);
/// Time to accept pending connections after the name was released, counted from the last connection.
const CLOSE_GRACE_PERIOD: Duration = Duration::from_millis(50);
/// Delay after a failed accept.
const ACCEPT_RETRY_DELAY: Duration = Duration::from_millis(100);

impl Socket {
    /// Binds a socket and takes over the public name. Must run inside the Tokio runtime.
    pub async fn bind(public_path: &Path) -> io::Result<Self> {
        let dir =
            public_path.parent().ok_or_else(|| io::Error::new(ErrorKind::InvalidInput, "the path has no directory"))?;
        let name = public_path
            .file_name()
            .and_then(|n| n.to_str())
            .ok_or_else(|| io::Error::new(ErrorKind::InvalidInput, "the path has no file name"))?;
        fs::create_dir_all(dir)?;
        // The name is random, because the PID is 1 in every container.
        let private = dir.join(format!("{PRIVATE_PREFIX}{:016x}-{name}", RandomState::new().build_hasher().finish()));
        let _lock = lock(dir).await?;
        remove_stale_sockets(dir, name);
        let listener = StdListener::bind(&private)?;
        // The socket gets its public name only after its permissions are set.
        fs::set_permissions(&private, fs::Permissions::from_mode(0o600))?;
        listener.set_nonblocking(true)?;
        let inode = fs::metadata(&private)?.ino();
        let (listener, is_owner) = (UnixListener::from_std(listener)?, watch::channel(true).0);
        let socket = Self { listener, public_path: public_path.to_owned(), private_path: private, inode, is_owner };
        if let Err(error) = socket.publish() {
            // The socket will not be served, so its names must go.
            for left in [&socket.private_path.with_extension(LINK_SUFFIX), &socket.private_path] {
                let _ = fs::remove_file(left);
            }
            return Err(error);
        }
        Ok(socket)
    }

    /// Returns the public path.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.public_path
    }

    /// Returns the private path, which always refers to this process.
    #[must_use]
    pub fn private_path(&self) -> &Path {
        &self.private_path
    }

    /// Subscribes to ownership of the public name: true while it refers to this socket.
    #[must_use]
    pub fn ownership(&self) -> watch::Receiver<bool> {
        self.is_owner.subscribe()
    }

    /// Passes every connection to `on_connection` until `stop` is true or its sender is dropped. Then releases the name and
    /// passes the connections that are still pending.
    pub async fn serve(self, mut stop: watch::Receiver<bool>, mut on_connection: impl FnMut(UnixStream)) {
        {
            let mut hold_name = pin!(self.hold_name());
            let mut stopped = pin!(async { drop(stop.wait_for(|stop| *stop).await) });
            loop {
                tokio::select! {
                    accepted = self.accept() => match accepted {
                        Ok(stream) => on_connection(stream),
                        Err(error) => {
                            tracing::warn!(%error, "cannot accept connection");
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

    /// Accepts the next connection.
    async fn accept(&self) -> io::Result<UnixStream> {
        self.listener.accept().await.map(|(stream, _)| stream)
    }

    /// Checks repeatedly that a process answers at the public name, and reclaims the name if a successor exited first. Never
    /// returns.
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
                Ok(true) => tracing::warn!(%socket, "socket path reclaimed from a dead process"),
                Ok(false) => is_error_logged = false,
                Err(error) if !is_error_logged => {
                    tracing::error!(%error, %socket, "cannot reclaim socket path");
                    is_error_logged = true;
                }
                Err(_) => {}
            }
        }
    }

    /// Reclaims the public name if no process answers there. Returns true if it did.
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

    /// Removes both names. The public name is removed only if it refers to this socket.
    async fn close(&self) {
        let gave_up = async {
            let _lock = lock(self.dir()).await?;
            [&self.public_path, &self.private_path]
                .into_iter()
                .filter(|path| self.is_ours(path))
                .try_for_each(fs::remove_file)
        };
        if let Err(error) = gave_up.await {
            tracing::warn!(%error, socket = %self.public_path.display(), "cannot remove socket path");
        }
    }

    /// Points the public name to this socket and replaces an existing file.
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

/// Watch for changes of names in a directory, so that a lost public name is noticed at once. `None` without inotify.
struct DirectoryWatch(Option<pipe::Receiver>);

impl DirectoryWatch {
    /// Watches a directory. If inotify is not available, only the checks every [`OWNERSHIP_CHECK_INTERVAL`] remain.
    fn new(dir: &Path) -> Self {
        use inotify::{CreateFlags, WatchFlags};
        let events = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK).and_then(|events| {
            let names = WatchFlags::MOVED_TO | WatchFlags::DELETE | WatchFlags::ONLYDIR;
            inotify::add_watch(&events, dir, names).map(|_| events)
        });
        // Events are read like from a pipe: Tokio's pipe is the only reader for it that needs no unsafe code.
        Self(events.ok().and_then(|events| pipe::Receiver::from_owned_fd_unchecked(events).ok()))
    }

    /// Waits for the next change.
    async fn wait_for_change(&self) {
        let Some(events) = &self.0 else { return std::future::pending().await };
        if events.readable().await.is_err() {
            return std::future::pending().await;
        }
        // The content of the events does not matter: the caller checks the name itself.
        while events.try_read(&mut [0; 4096]).is_ok_and(|read| read > 0) {}
    }
}

/// Locks the names in a directory against other vaultmount processes until the file is dropped. Without the lock, a process
/// could remove a name that another has just taken, or a socket that has no public name yet.
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
    let timeout_message =
        || format!("timed out after {LOCK_TIMEOUT:?}: another process holds the lock of the directory");
    timeout(LOCK_TIMEOUT, locked).await.map_err(|_| io::Error::new(ErrorKind::TimedOut, timeout_message()))??;
    Ok(file)
}

/// Removes private names of this socket left behind by killed processes, on which no process answers.
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
