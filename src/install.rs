//! The private directory and links of vaultmount in the driver's providers directory on a node.
//!
//! ```text
//! /var/run/secrets-store-csi-providers      owned by root, shared with other providers
//!   vault.sock -> vaultmount/vault.sock     a link for each provider name
//!   vaultmount/                             mode 0700, owned by the user that serves
//!     vault.sock                            bound by `serve`
//!     state/                                state for the next process, in memory if /var/run is
//! ```
//!
//! `serve` needs only the private directory, so its container sees nothing else of the node and needs no rights on it. The
//! links are relative, because the driver may mount the directory at another path.

use std::{
    fs,
    io::{self, ErrorKind},
    os::unix::{
        fs::{DirBuilderExt, FileTypeExt, MetadataExt, PermissionsExt, chown, lchown, symlink},
        net::UnixStream,
    },
    path::{Path, PathBuf},
};

use crate::{socket::lock, state};

/// Name of the private directory.
const PRIVATE_DIR: &str = "vaultmount";
/// Mode of the private directory.
const PRIVATE_DIR_MODE: u32 = 0o700;

/// Name of the state directory of `serve`, inside the private directory.
const STATE_DIR: &str = "state";
/// File system type of tmpfs in statfs(2).
const TMPFS_MAGIC: i64 = 0x0102_1994;

/// The user and group that run `serve`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Owner {
    /// Numeric user ID.
    pub uid: u32,
    /// Numeric group ID.
    pub gid: u32,
}

/// Actions and findings, one line each.
pub type InstallLog = Vec<String>;

/// Creates the private directory and a link `NAME.sock` into it for each provider name, and removes our links of other names.
/// Idempotent: correct files stay untouched, so it may run while an older process serves.
///
/// Requires ownership of the providers directory and `CAP_CHOWN`, nothing more. If another provider responds at one of the names,
/// fails and leaves every link unchanged, because that provider would remove our link when it exits.
pub async fn install(providers: &Path, names: &[String], owner: Owner) -> Result<InstallLog, String> {
    let _lock = lock(providers).await.map_err(|e| path_error(providers, &e))?;
    let private_dir = providers.join(PRIVATE_DIR);
    let mut log = vec![ensure_private_dir(&private_dir, owner).map_err(|e| path_error(&private_dir, &e))?];
    if rustix::fs::statfs(&private_dir).is_ok_and(|system| system.f_type != TMPFS_MAGIC) {
        log.push(format!(
            "{}: is on a disk, not in memory: saved state survives a reboot of the node",
            private_dir.display()
        ));
    }
    let conflicts: Vec<String> = names.iter().filter_map(|name| name_conflict(providers, name)).collect();
    if !conflicts.is_empty() {
        return Err(conflicts.join("\n"));
    }
    for name in names {
        log.push(ensure_link(providers, name).map_err(|e| path_error(&socket_path(providers, name), &e))?);
    }
    let links =
        list_directory(providers).map_err(|e| path_error(providers, &e))?.into_iter().filter(|path| is_our_link(path));
    let wanted_links: Vec<PathBuf> = names.iter().map(|name| socket_path(providers, name)).collect();
    remove_files(links.filter(|path| !wanted_links.contains(path)), &mut log)?;
    Ok(log)
}

/// Removes the links into the private directory, leftover files of killed processes, and the directory.
///
/// Requires `CAP_DAC_OVERRIDE` to read another user's directory. While vaultmount serves there, fails and removes nothing.
pub async fn uninstall(providers: &Path) -> Result<InstallLog, String> {
    if !providers.exists() {
        return Ok(InstallLog::new());
    }
    let _lock = lock(providers).await.map_err(|e| path_error(providers, &e))?;
    let private_dir = &providers.join(PRIVATE_DIR);
    // Prevents processes from binding a socket in it meanwhile.
    let _lock_within = match fs::symlink_metadata(private_dir) {
        Ok(found) if found.is_dir() => Some(lock(private_dir).await.map_err(|e| path_error(private_dir, &e))?),
        _ => None,
    };
    let leftovers = list_directory(private_dir).map_err(|e| path_error(private_dir, &e))?;
    let state_dir = private_dir.join(STATE_DIR);
    let session_files: Vec<PathBuf> = list_directory(&state_dir)
        .map_err(|e| path_error(&state_dir, &e))?
        .into_iter()
        .filter(|path| state::is_state_file(path))
        .collect();
    if let Some(served_socket) = leftovers.iter().find(|path| is_socket(path) && !has_no_listener(path)) {
        return Err(format!(
            "{}: vaultmount serves here; stop it first, in a cluster by deleting its DaemonSet",
            served_socket.display()
        ));
    }
    let mut log = InstallLog::new();
    let links =
        list_directory(providers).map_err(|e| path_error(providers, &e))?.into_iter().filter(|path| is_our_link(path));
    remove_files(links.chain(leftovers.into_iter().filter(|path| is_socket(path))), &mut log)?;
    for file in &session_files {
        fs::remove_file(file).map_err(|e| path_error(file, &e))?;
    }
    if fs::remove_dir(&state_dir).is_ok() {
        log.push(format!("{}: removed (sessions: {})", state_dir.display(), session_files.len()));
    }
    match fs::remove_dir(private_dir) {
        Ok(()) => log.push(format!("{}: removed", private_dir.display())),
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        Err(error) if error.kind() == ErrorKind::DirectoryNotEmpty => {
            return Err(format!(
                "{}: contains files that are not vaultmount's; check them, then remove the directory",
                private_dir.display()
            ));
        }
        Err(error) => return Err(path_error(private_dir, &error)),
    }
    Ok(log)
}

/// Creates the state directory of `serve` in a new private directory. In an existing one only its owner can see it, and `serve`
/// creates it if it is missing.
fn create_state_dir(private_dir: &Path, owner: Owner) -> io::Result<()> {
    let state_dir = private_dir.join(STATE_DIR);
    fs::DirBuilder::new().mode(PRIVATE_DIR_MODE).create(&state_dir)?;
    chown(&state_dir, Some(owner.uid), Some(owner.gid))
}

/// Creates the private directory, or corrects its owner and mode.
fn ensure_private_dir(private_dir: &Path, owner: Owner) -> io::Result<String> {
    let is_new = match fs::DirBuilder::new().mode(PRIVATE_DIR_MODE).create(private_dir) {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => return Err(error),
        made => made.is_ok(),
    };
    let metadata = fs::symlink_metadata(private_dir)?;
    if !metadata.is_dir() {
        return Err(io::Error::new(ErrorKind::NotADirectory, "exists and is not a directory; remove it"));
    }
    if is_new {
        create_state_dir(private_dir, owner)?;
    }
    let has_owner = Owner { uid: metadata.uid(), gid: metadata.gid() } == owner;
    let has_mode = metadata.mode() & 0o7777 == PRIVATE_DIR_MODE;
    if has_owner && has_mode && !is_new {
        return Ok(format!("{}: in place", private_dir.display()));
    }
    if !has_mode {
        let set_mode = || fs::set_permissions(private_dir, fs::Permissions::from_mode(PRIVATE_DIR_MODE));
        // Only the owner may set the mode, and root without CAP_FOWNER must become the owner first.
        match set_mode() {
            Err(error) if error.kind() == ErrorKind::PermissionDenied => {
                chown(private_dir, Some(0), None)?;
                set_mode()?;
            }
            done => done?,
        }
    }
    let state_dir = private_dir.join(STATE_DIR);
    if !has_owner && !is_new {
        // Only the owner can read the directory, and root without CAP_DAC_OVERRIDE must become the owner first.
        chown(private_dir, Some(0), None)?;
        if fs::symlink_metadata(&state_dir).is_ok_and(|found| found.is_dir()) {
            // The previous owner may have created symlinks there, so their targets must not be changed.
            lchown(&state_dir, Some(owner.uid), Some(owner.gid))?;
            for file in list_directory(&state_dir).unwrap_or_default() {
                lchown(&file, Some(owner.uid), Some(owner.gid))?;
            }
        }
    }
    chown(private_dir, Some(owner.uid), Some(owner.gid))?;
    Ok(format!("{}: mode {PRIVATE_DIR_MODE:04o}, owner {}:{}", private_dir.display(), owner.uid, owner.gid))
}

/// Returns an error if another provider has the name.
fn name_conflict(providers: &Path, name: &str) -> Option<String> {
    let link = socket_path(providers, name);
    (!links_to(&link, &link_target(name)) && !has_no_listener(&link)).then(|| {
        format!("{}: another provider serves here; remove it, or leave \"{name}\" out of --provider", link.display())
    })
}

/// Creates the link of one provider name, and replaces a dead socket or link.
fn ensure_link(providers: &Path, name: &str) -> io::Result<String> {
    let (link_path, target) = (socket_path(providers, name), link_target(name));
    if links_to(&link_path, &target) {
        return Ok(format!("{}: in place", link_path.display()));
    }
    let temporary = providers.join(format!(".{PRIVATE_DIR}-{name}.link"));
    let _ = fs::remove_file(&temporary);
    symlink(&target, &temporary)?;
    fs::rename(&temporary, &link_path)?;
    Ok(format!("{}: links to {}", link_path.display(), target.display()))
}

fn remove_files(paths: impl Iterator<Item = PathBuf>, log: &mut InstallLog) -> Result<(), String> {
    for path in paths {
        fs::remove_file(&path).map_err(|e| path_error(&path, &e))?;
        log.push(format!("{}: removed", path.display()));
    }
    Ok(())
}

/// Returns the path at which drivers look for a provider.
fn socket_path(providers: &Path, name: &str) -> PathBuf {
    providers.join(format!("{name}.sock"))
}

/// Returns the target of a provider's link, relative to the providers directory.
fn link_target(name: &str) -> PathBuf {
    Path::new(PRIVATE_DIR).join(format!("{name}.sock"))
}

fn links_to(link: &Path, target: &Path) -> bool {
    fs::read_link(link).is_ok_and(|to| to == target)
}

fn is_our_link(path: &Path) -> bool {
    fs::read_link(path).is_ok_and(|to| to.parent() == Some(Path::new(PRIVATE_DIR)))
}

fn is_socket(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|m| m.file_type().is_socket())
}

/// Returns true if certainly no process listens at a path: it does not exist, is not a socket, or refuses connections.
fn has_no_listener(path: &Path) -> bool {
    UnixStream::connect(path).is_err_and(|e| matches!(e.kind(), ErrorKind::NotFound | ErrorKind::ConnectionRefused))
}

/// Lists the entries of a directory. Returns an empty list if the directory does not exist.
fn list_directory(folder: &Path) -> io::Result<Vec<PathBuf>> {
    match fs::read_dir(folder) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(Vec::new()),
        found => found?.map(|entry| entry.map(|e| e.path())).collect(),
    }
}

fn path_error(path: &Path, error: &io::Error) -> String {
    format!("{}: {error}", path.display())
}
