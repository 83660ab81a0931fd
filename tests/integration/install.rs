//! `vaultmount install` and `uninstall`: vaultmount's sockets among the driver's providers.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    os::unix::{
        fs::{MetadataExt, PermissionsExt, symlink},
        net::UnixListener,
    },
    path::{Path, PathBuf},
    process::Stdio,
};

use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::Child,
};
use vaultmount::provider::client::Client;

use crate::support::daemon::{spawn_provider, terminate, vaultmount_command};

/// A driver's provider directory.
struct InstallFixture {
    providers: TempDir,
}

impl InstallFixture {
    fn new() -> Self {
        Self { providers: tempfile::tempdir().unwrap() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.providers.path().join(name)
    }

    /// Runs a command on the directory; returns its success and its whole output.
    async fn run(&self, args: &[&str]) -> (bool, String) {
        let folder = format!("--providers-dir={}", self.providers.path().display());
        let output = vaultmount_command(&[args, &[&folder]].concat()).output().await.unwrap();
        (output.status.success(), String::from_utf8([output.stdout, output.stderr].concat()).unwrap())
    }

    /// Installs for the user that runs the tests.
    async fn install(&self, flags: &[&str]) -> (bool, String) {
        self.run(&[&["install", &self.owner_flag()], flags].concat()).await
    }

    /// Starts an installation and waits until it has logged the reason for its wait.
    async fn spawn_waiting_install(&self) -> Child {
        let folder = format!("--providers-dir={}", self.providers.path().display());
        let args = ["install", "--wait", &self.owner_flag(), &folder];
        let mut child = vaultmount_command(&args).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let mut printed = String::new();
        BufReader::new(child.stderr.take().unwrap()).read_line(&mut printed).await.unwrap();
        assert!(printed.contains("another provider serves here"), "{printed}");
        child
    }

    fn owner_flag(&self) -> String {
        let own = fs::metadata(self.providers.path()).unwrap();
        format!("--owner={}:{}", own.uid(), own.gid())
    }

    fn entries(&self) -> BTreeSet<String> {
        fs::read_dir(self.providers.path()).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect()
    }
}

fn permission_bits(path: &Path) -> u32 {
    fs::symlink_metadata(path).unwrap().permissions().mode() & 0o7777
}

#[tokio::test]
async fn install_links_public_sockets_to_private_dir() {
    let node = InstallFixture::new();
    let (ok, printed) = node.install(&[]).await;
    assert!(ok && printed.contains("mode 0700"), "{printed}");
    assert_eq!(node.entries(), ["openbao.sock", "vault.sock", "vaultmount"].map(str::to_owned).into());
    assert_eq!(
        (permission_bits(&node.path("vaultmount")), permission_bits(&node.path("vaultmount/state"))),
        (0o700, 0o700)
    );
    assert_eq!(fs::read_link(node.path("vault.sock")).unwrap(), Path::new("vaultmount/vault.sock"));

    let _serving = spawn_provider(node.providers.path(), &node.path("vaultmount/vault.sock"), &[]).await;
    Client::connect(&node.path("vault.sock")).await.unwrap();
    // A successor's init container does the same while the predecessor serves.
    let (ok, printed) = node.install(&[]).await;
    // If the tests' directories are not in memory, a line reports this as well.
    let done: Vec<&str> = printed.lines().filter(|line| !line.contains("is on a disk")).collect();
    assert!(ok && done.len() == 3 && done.iter().all(|line| line.ends_with("in place")), "{printed}");
    Client::connect(&node.path("vault.sock")).await.unwrap();

    // A driver may see the directory at another path.
    let moved = node.providers.path().with_extension("moved");
    fs::rename(node.providers.path(), &moved).unwrap();
    Client::connect(&moved.join("vault.sock")).await.unwrap();
    fs::rename(&moved, node.providers.path()).unwrap();
}

#[tokio::test]
async fn install_refuses_name_served_by_another_provider() {
    let node = InstallFixture::new();
    let other = UnixListener::bind(node.path("vault.sock")).unwrap();
    let another = UnixListener::bind(node.path("openbao.sock")).unwrap();
    let (ok, printed) = node.install(&[]).await;
    assert!(!ok, "{printed}");
    for name in ["vault", "openbao"] {
        assert!(printed.contains(&format!("{name}.sock: another provider serves here")), "{printed}");
        assert!(!node.path(&format!("{name}.sock")).is_symlink());
    }
    drop(another);
    let (ok, printed) = node.install(&[]).await;
    assert!(!ok && !node.path("openbao.sock").is_symlink(), "{printed}");
    let (ok, printed) = node.install(&["--provider=openbao"]).await;
    assert!(ok, "{printed}");
    drop(other);
    let (ok, printed) = node.install(&["--provider=vault"]).await;
    assert!(ok && node.path("vault.sock").is_symlink(), "{printed}");
    // Other providers can use a name that is no longer configured.
    assert!(!node.path("openbao.sock").is_symlink() && printed.contains("openbao.sock: removed"), "{printed}");
}

#[tokio::test]
async fn install_wait_takes_name_once_free() {
    let node = InstallFixture::new();
    let other = UnixListener::bind(node.path("vault.sock")).unwrap();
    let (mut first, mut second) = (node.spawn_waiting_install().await, node.spawn_waiting_install().await);
    terminate(&second);
    assert_eq!(second.wait().await.unwrap().code(), Some(1));
    assert!(first.try_wait().unwrap().is_none());
    drop(other);
    assert!(first.wait().await.unwrap().success() && node.path("vault.sock").is_symlink());
}

#[tokio::test]
async fn install_and_uninstall_fail_while_dir_is_locked() {
    tokio::join!(
        assert_waits_for_lock("", "install"),
        assert_waits_for_lock("", "uninstall"),
        assert_waits_for_lock("vaultmount", "uninstall")
    );
}

/// Checks that a command changes nothing while another process holds the lock of this folder.
async fn assert_waits_for_lock(folder: &str, command: &str) {
    let node = InstallFixture::new();
    node.install(&[]).await;
    let held = File::open(node.path(folder)).unwrap();
    held.lock().unwrap();
    let (ok, printed) = node.run(&[command]).await;
    assert!(!ok && printed.contains("another process holds the lock of the directory"), "{command}: {printed}");
    assert!(node.path("vaultmount").exists() && node.path("vault.sock").is_symlink());
}

#[tokio::test]
async fn install_repairs_mode_and_link_and_rejects_symlinked_dir() {
    let node = InstallFixture::new();
    fs::create_dir(node.path("vaultmount")).unwrap();
    fs::set_permissions(node.path("vaultmount"), fs::Permissions::from_mode(0o755)).unwrap();
    symlink("elsewhere.sock", node.path("vault.sock")).unwrap();
    let (ok, printed) = node.install(&["--provider=vault"]).await;
    assert!(ok, "{printed}");
    assert_eq!(permission_bits(&node.path("vaultmount")), 0o700);
    assert_eq!(fs::read_link(node.path("vault.sock")).unwrap(), Path::new("vaultmount/vault.sock"));

    let node = InstallFixture::new();
    let elsewhere = tempfile::tempdir().unwrap();
    symlink(elsewhere.path(), node.path("vaultmount")).unwrap();
    let before = permission_bits(elsewhere.path());
    let (ok, printed) = node.install(&[]).await;
    assert!(!ok && printed.contains("vaultmount: exists and is not a directory"), "{printed}");
    assert_eq!((permission_bits(elsewhere.path()), fs::read_dir(elsewhere.path()).unwrap().count()), (before, 0));

    for (flag, words) in [("--owner=root", "numeric user and group ID"), ("--provider=a/b", "provider's name")] {
        let (ok, printed) = node.run(&["install", flag]).await;
        assert!(!ok && printed.contains(words), "{printed}");
    }
}

#[tokio::test]
async fn uninstall_removes_all_its_own_files_and_no_others() {
    let node = InstallFixture::new();
    node.install(&[]).await;
    let socket = node.path("vaultmount/vault.sock");
    let state = node.path("vaultmount/state");
    let (mut serving, _log) =
        spawn_provider(node.providers.path(), &socket, &[&format!("--state-dir={}", state.display())]).await;
    fs::write(state.join(format!("{}.session", "0".repeat(32))), "a session").unwrap();
    let _other = UnixListener::bind(node.path("aws.sock")).unwrap();
    symlink("aws.sock", node.path("gcp.sock")).unwrap();
    let before = node.entries();

    let (ok, printed) = node.run(&["uninstall"]).await;
    assert!(!ok && printed.contains("vaultmount serves here"), "{printed}");
    assert_eq!(node.entries(), before);
    Client::connect(&node.path("vault.sock")).await.unwrap();

    // A killed process leaves its sockets behind.
    serving.kill().await.unwrap();
    // One public and one private path each, for the driver's socket and for the status socket.
    assert_eq!(fs::read_dir(node.path("vaultmount")).unwrap().count(), 4 + 1);
    let (ok, printed) = node.run(&["uninstall"]).await;
    assert!(ok && printed.contains("vault.sock: removed") && printed.contains("vault.status: removed"), "{printed}");
    assert!(printed.contains("state: removed (sessions: 1)"), "{printed}");
    assert_eq!(node.entries(), ["aws.sock", "gcp.sock", "hmac.key"].map(str::to_owned).into());

    let (ok, printed) = node.run(&["uninstall"]).await;
    assert!(ok && printed == "vaultmount is not installed here\n", "{printed}");
    node.install(&[]).await;
    fs::write(node.path("vaultmount/notes"), "not ours").unwrap();
    let (ok, printed) = node.run(&["uninstall"]).await;
    assert!(!ok && printed.contains("contains files that are not vaultmount's"), "{printed}");
    assert!(node.path("vaultmount/notes").exists());
}

#[test]
fn manifests_use_the_image_of_this_version() {
    let image = concat!("image: localhost/vaultmount:", env!("CARGO_PKG_VERSION"), "\n");
    for (manifest, images) in
        [(include_str!("../../deploy/vaultmount.yaml"), 2), (include_str!("../../deploy/uninstall.yaml"), 1)]
    {
        assert_eq!((manifest.matches(image).count(), manifest.matches("image: ").count()), (images, images));
    }
}
