//! A unix socket that is handed from one process to the next without a moment in which a call would fail.
//!
//! The socket is bound under a private name, and a hard link of it renamed over the public one: whoever connects finds
//! either the predecessor or us. The private name stays.
//! A public name whose inode is not ours belongs to a successor and is never removed.

use std::{
    fs,
    hash::{BuildHasher, Hasher, RandomState},
    io::{self, ErrorKind},
    os::unix::{
        fs::{MetadataExt, PermissionsExt},
        net::{UnixListener as StdListener, UnixStream as StdStream},
    },
    path::{Path, PathBuf},
};

use tokio::net::{UnixListener, UnixStream};

/// A bound socket under its public name.
pub struct Socket {
    listener: UnixListener,
    public: PathBuf,
    private: PathBuf,
    inode: u64,
}

/// Starts the private names, which begin with a dot so that no driver takes them for a provider's.
const PRIVATE: &str = ".vaultmount-";
/// Ends the name that a hard link has before it is renamed.
const LINK: &str = "link";

impl Socket {
    /// Binds and takes over the public name. Must run inside the runtime.
    pub fn bind(public: &Path) -> io::Result<Self> {
        let folder = public.parent().ok_or_else(|| io::Error::new(ErrorKind::InvalidInput, "no folder in the path"))?;
        let name = public
            .file_name()
            .and_then(|n| n.to_str())
            .ok_or_else(|| io::Error::new(ErrorKind::InvalidInput, "no file name in the path"))?;
        fs::create_dir_all(folder)?;
        // Every container's first process is number 1, so the name is a random one.
        let private = folder.join(format!("{PRIVATE}{:016x}-{name}", RandomState::new().build_hasher().finish()));
        locked(folder, || {
            sweep(folder, name);
            let listener = StdListener::bind(&private)?;
            // Nobody finds the socket before its rights are right: only then it gets its public name.
            fs::set_permissions(&private, fs::Permissions::from_mode(0o600))?;
            listener.set_nonblocking(true)?;
            let inode = fs::metadata(&private)?.ino();
            let link = private.with_extension(LINK);
            fs::hard_link(&private, &link)?;
            fs::rename(&link, public)?;
            Ok(Self {
                listener: UnixListener::from_std(listener)?,
                public: public.to_owned(),
                private: private.clone(),
                inode,
            })
        })
    }

    /// The public name.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.public
    }

    /// The next connection.
    pub async fn accept(&self) -> io::Result<UnixStream> {
        self.listener.accept().await.map(|(stream, _)| stream)
    }

    /// Gives up both names; the public one only while it is ours.
    pub fn close(&self) {
        let folder = self.private.parent().unwrap_or(Path::new("/"));
        let gave_up = locked(folder, || {
            let ours = |path: &PathBuf| fs::symlink_metadata(path).is_ok_and(|m| m.ino() == self.inode);
            [&self.public, &self.private].into_iter().filter(|path| ours(path)).try_for_each(fs::remove_file)
        });
        if let Err(error) = gave_up {
            tracing::warn!(%error, socket = %self.public.display(), "the socket's name could not be removed");
        }
    }
}

/// Runs with the folder's names locked against other processes of ours, so that nobody removes a name that another has
/// just taken, nor a socket that another has bound and not yet named.
pub fn locked<T>(folder: &Path, run: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    let lock = fs::File::open(folder)?;
    lock.lock()?;
    run()
}

/// Removes what processes that were killed left behind: private names of this socket that nobody answers at.
fn sweep(folder: &Path, name: &str) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    for path in entries.flatten().map(|e| e.path()) {
        let Some(left) = path.file_name().and_then(|n| n.to_str()) else { continue };
        let is_ours = left.starts_with(PRIVATE)
            && (left.ends_with(&format!("-{name}")) || path.extension().is_some_and(|e| e == LINK));
        if is_ours && StdStream::connect(&path).is_err_and(|e| e.kind() == ErrorKind::ConnectionRefused) {
            let _ = fs::remove_file(&path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_successor_takes_the_name_and_the_predecessor_leaves_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("vault.sock");
        fs::write(&path, "left by something else").unwrap();
        let old = Socket::bind(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        let new = Socket::bind(&path).unwrap();
        old.close();
        let (_client, server) = tokio::join!(UnixStream::connect(&path), new.accept());
        server.unwrap();
        new.close();
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 0);
    }

    #[tokio::test]
    async fn what_killed_processes_left_is_swept() {
        let folder = tempfile::tempdir().unwrap();
        let left = folder.path().join(".vaultmount-dead-vault.sock");
        drop(StdListener::bind(&left).unwrap());
        let other = folder.path().join(".vaultmount-dead-openbao.sock");
        drop(StdListener::bind(&other).unwrap());
        let socket = Socket::bind(&folder.path().join("vault.sock")).unwrap();
        assert!(!left.exists() && other.exists());
        socket.close();
    }
}
