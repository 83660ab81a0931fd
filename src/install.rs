//! The driver's folder of providers on a node, as far as it is ours.
//!
//! ```text
//! /var/run/secrets-store-csi-providers      root's, and other providers' too
//!   vault.sock -> vaultmount/vault.sock     a link for each provider name
//!   vaultmount/                             0700, of the user that serves
//!     vault.sock                            bound by `serve`
//! ```
//!
//! `serve` needs only the private folder, so its container sees nothing else of the node and needs no rights on it. The
//! links are relative: the driver may see the folder under another path.

use std::{
    fs,
    io::{self, ErrorKind},
    os::unix::{
        fs::{DirBuilderExt, FileTypeExt, MetadataExt, PermissionsExt, chown, symlink},
        net::UnixStream,
    },
    path::{Path, PathBuf},
};

/// The private folder's name.
const FOLDER: &str = "vaultmount";
/// Its mode.
const MODE: u32 = 0o700;

/// Who serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Owner {
    /// The user's number.
    pub uid: u32,
    /// The group's.
    pub gid: u32,
}

/// What was found or done, a line each.
pub type Report = Vec<String>;

/// Makes the private folder and a link `NAME.sock` into it for each provider name. What is right already stays untouched,
/// so it may run while an older process serves.
///
/// Needs to own the folder of providers and CAP_CHOWN, nothing more. Fails when another provider answers at one of the names:
/// it would remove our link when it ends.
pub fn install(providers: &Path, names: &[String], owner: Owner) -> Result<Report, String> {
    let folder = providers.join(FOLDER);
    let mut report = vec![private(&folder, owner).map_err(|e| at(&folder, &e))?];
    let (links, refused): (Vec<_>, Vec<_>) = names.iter().map(|name| link(providers, name)).partition(Result::is_ok);
    if !refused.is_empty() {
        return Err(refused.into_iter().filter_map(Result::err).collect::<Vec<_>>().join("\n"));
    }
    report.extend(links.into_iter().flatten());
    Ok(report)
}

/// Removes the links into the private folder, what killed processes left in it, and the folder.
///
/// Needs CAP_DAC_OVERRIDE to look into another user's folder. Fails, with everything in its place, while vaultmount serves there.
pub fn uninstall(providers: &Path) -> Result<Report, String> {
    let folder = providers.join(FOLDER);
    let left = entries(&folder).map_err(|e| at(&folder, &e))?;
    if let Some(served) = left.iter().find(|path| is_socket(path) && !is_dead(path)) {
        return Err(format!(
            "{}: vaultmount serves here; stop it first, in a cluster by deleting its DaemonSet",
            served.display()
        ));
    }
    let mut report = Report::new();
    let links = entries(providers).map_err(|e| at(providers, &e))?.into_iter().filter(|path| is_our_link(path));
    for path in links.chain(left.into_iter().filter(|path| is_socket(path))) {
        fs::remove_file(&path).map_err(|e| at(&path, &e))?;
        report.push(format!("{}: removed", path.display()));
    }
    match fs::remove_dir(&folder) {
        Ok(()) => report.push(format!("{}: removed", folder.display())),
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        Err(error) if error.kind() == ErrorKind::DirectoryNotEmpty => {
            return Err(format!(
                "{}: holds files that are not vaultmount's; look at them, then remove it",
                folder.display()
            ));
        }
        Err(error) => return Err(at(&folder, &error)),
    }
    Ok(report)
}

/// Makes the folder, or makes it right.
fn private(folder: &Path, owner: Owner) -> io::Result<String> {
    let new = match fs::DirBuilder::new().mode(MODE).create(folder) {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => return Err(error),
        made => made.is_ok(),
    };
    let found = fs::symlink_metadata(folder)?;
    if !found.is_dir() {
        return Err(io::Error::new(ErrorKind::NotADirectory, "is there and no folder; remove it"));
    }
    let right = Owner { uid: found.uid(), gid: found.gid() } == owner;
    if !new && right && found.mode() & 0o7777 == MODE {
        return Ok(format!("{}: in place", folder.display()));
    }
    if found.mode() & 0o7777 != MODE {
        // Only a folder's owner may set its mode, and without CAP_FOWNER root has to be that first.
        if found.uid() != 0 {
            chown(folder, Some(0), None)?;
        }
        fs::set_permissions(folder, fs::Permissions::from_mode(MODE))?;
    }
    chown(folder, Some(owner.uid), Some(owner.gid))?;
    Ok(format!("{}: mode {MODE:04o}, of {}:{}", folder.display(), owner.uid, owner.gid))
}

/// Makes the link of one provider name, over what is dead.
fn link(providers: &Path, name: &str) -> Result<String, String> {
    let public = providers.join(format!("{name}.sock"));
    let target = target(name);
    if fs::read_link(&public).is_ok_and(|to| to == target) {
        return Ok(format!("{}: in place", public.display()));
    }
    if !is_dead(&public) {
        return Err(format!(
            "{}: another provider serves here; remove it, or leave \"{name}\" out of --provider",
            public.display()
        ));
    }
    let made = providers.join(format!(".{FOLDER}-{name}.link"));
    let _ = fs::remove_file(&made);
    symlink(&target, &made).and_then(|()| fs::rename(&made, &public)).map_err(|e| at(&public, &e))?;
    Ok(format!("{}: links to {}", public.display(), target.display()))
}

/// Where a provider name's link points, seen from the folder of providers.
fn target(name: &str) -> PathBuf {
    Path::new(FOLDER).join(format!("{name}.sock"))
}

fn is_our_link(path: &Path) -> bool {
    fs::read_link(path).is_ok_and(|to| to.parent() == Some(Path::new(FOLDER)))
}

fn is_socket(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|m| m.file_type().is_socket())
}

/// Whether surely nobody answers at a path: there is nothing, or no socket, or one that nobody listens at.
fn is_dead(path: &Path) -> bool {
    UnixStream::connect(path).is_err_and(|e| matches!(e.kind(), ErrorKind::NotFound | ErrorKind::ConnectionRefused))
}

/// What is in a folder; nothing in one that is not there.
fn entries(folder: &Path) -> io::Result<Vec<PathBuf>> {
    match fs::read_dir(folder) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(Vec::new()),
        found => found?.map(|entry| entry.map(|e| e.path())).collect(),
    }
}

fn at(path: &Path, error: &io::Error) -> String {
    format!("{}: {error}", path.display())
}
