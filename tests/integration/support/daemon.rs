//! Providers under test: in this process, or the real program.

use std::{
    collections::BTreeMap,
    ffi::OsStr,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, BufReader},
    process::{Child, Command},
    sync::oneshot,
    task::JoinHandle,
};
use vaultmount::{
    app::App,
    cli::Command as Cli,
    config::Config,
    error::Cause,
    provider::{
        client::{Client, MountCall},
        pb::MountResponse,
    },
};

use super::{pod::Pod, required_env};

/// Maximum length of one object's error, in bytes, so that an event stays readable.
const MAX_ERROR_BYTES: usize = 600;

/// A provider in this process, stopped when dropped.
pub struct Daemon {
    pub socket: PathBuf,
    _folder: TempDir,
    stop: oneshot::Sender<()>,
    task: JoinHandle<Result<(), String>>,
}

impl Daemon {
    /// Starts a provider for the real OpenBao, with the tests' HMAC key and more flags.
    pub async fn start(flags: &[&str]) -> Self {
        Self::start_at(&required_env("VAULTMOUNT_TEST_BAO_ADDR"), flags).await
    }

    /// Starts a provider for another Vault address.
    pub async fn start_at(address: &str, flags: &[&str]) -> Self {
        Self::start_with_socket_name("vault.sock", address, flags).await
    }

    /// Starts a provider with another socket name, which is also the provider name.
    pub async fn start_with_socket_name(name: &str, address: &str, flags: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join(name);
        let args = serve_arguments(folder.path(), &socket, address, flags);
        let Cli::Serve(args) = Cli::parse(args.into_iter().map(Into::into)).unwrap() else { panic!("serve was meant") };
        let (config, _) = Config::load(&args, [("", ""); 0]).unwrap_or_else(|e| panic!("{e}"));
        let app = App::build(config).await.unwrap();
        let (stop, stopped) = oneshot::channel::<()>();
        let task = tokio::spawn(app.run(async { drop(stopped.await) }));
        Self { socket, _folder: folder, stop, task }
    }

    /// Stops the provider as SIGTERM does, and waits until it has ended.
    pub async fn stop(self) {
        drop(self.stop);
        self.task.await.unwrap().unwrap();
    }

    /// Calls Mount as a driver does.
    pub async fn mount(&self, call: MountCall) -> Result<MountResponse, tonic::Status> {
        Client::connect(&self.socket).await.unwrap().mount(call).await
    }

    /// Returns the cause and text of a mount error. The cause is that of the first ID, and its code must match the
    /// status.
    pub async fn mount_error(&self, call: MountCall) -> (Cause, String) {
        let Err(status) = self.mount(call).await else { panic!("the mount should have failed") };
        let text = status.message();
        let id = text.split(" [").filter_map(|after| after.split_once(']')).find_map(|(id, _)| Cause::from_id(id));
        let Some(cause) = id else { panic!("no id in: {text}") };
        assert_eq!(format!("{:?}", status.code()), cause.code().to_string(), "{text}");
        (cause, text.to_owned())
    }

    /// Checks that a mount fails with this cause, in one line of bounded length that contains all parts. Returns the
    /// text.
    pub async fn assert_mount_error(&self, pod: &Pod, cause: Cause, parts: &[&str]) -> String {
        let (got, text) = self.mount_error(pod.mount_call()).await;
        eprintln!("{got:?}: {text}");
        assert_eq!(got, cause, "{text}");
        for part in parts {
            assert!(text.contains(part), "{part:?} is not in: {text}");
        }
        assert!(text.split(" | ").all(|one| one.len() <= MAX_ERROR_BYTES) && !text.contains('\n'), "too long: {text}");
        text
    }

    /// Returns the files of a successful mount, by path.
    pub async fn mount_files(&self, pod: &Pod) -> BTreeMap<String, String> {
        let response = self.mount(pod.mount_call()).await.unwrap_or_else(|status| panic!("{status}"));
        response.files.into_iter().map(|f| (f.path, String::from_utf8(f.contents.into()).unwrap())).collect()
    }
}

/// Writes a key for object versions: 32 times `a`, as in the test vector of the Go provider.
pub fn write_hmac_key(folder: &Path) -> PathBuf {
    let path = folder.join("hmac.key");
    std::fs::write(&path, [b'a'; 32]).unwrap();
    path
}

fn serve_arguments(folder: &Path, socket: &Path, address: &str, flags: &[&str]) -> Vec<String> {
    let key = write_hmac_key(folder);
    let mut args = vec!["vaultmount".to_owned(), "serve".to_owned(), format!("--endpoint={}", socket.display())];
    args.extend([
        format!("--vault-addr={address}"),
        format!("--hmac-key-file={}", key.display()),
        "--health-addr=off".to_owned(),
    ]);
    args.extend(flags.iter().map(ToString::to_string));
    args
}

/// The real program, ready to serve; killed when dropped.
pub struct ProviderProcess {
    pub socket: PathBuf,
    pub child: Child,
    pub folder: TempDir,
    log: JoinHandle<String>,
}

impl ProviderProcess {
    pub async fn start(flags: &[&str]) -> Self {
        Self::start_at(&required_env("VAULTMOUNT_TEST_BAO_ADDR"), flags).await
    }

    /// Starts the program with another Vault address.
    pub async fn start_at(address: &str, flags: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("vault.sock");
        let (child, log) = start_process(&serve_arguments(folder.path(), &socket, address, flags)).await;
        Self { socket, child, folder, log }
    }

    /// Sends SIGTERM.
    pub fn terminate(&self) {
        terminate(&self.child);
    }

    /// Waits until the program ends and returns its standard error output since it was ready.
    pub async fn wait_for_log(mut self) -> String {
        self.child.wait().await.unwrap();
        self.log.await.unwrap()
    }
}

/// Sends SIGTERM.
pub fn terminate(child: &Child) {
    let pid = child.id().unwrap().to_string();
    assert!(std::process::Command::new("kill").arg(&pid).status().unwrap().success());
}

/// Starts the program and waits until it is ready. The task returns the standard error output from then on.
pub async fn spawn_provider(folder: &Path, socket: &Path, flags: &[&str]) -> (Child, JoinHandle<String>) {
    start_process(&serve_arguments(folder, socket, &required_env("VAULTMOUNT_TEST_BAO_ADDR"), flags)).await
}

async fn start_process(args: &[String]) -> (Child, JoinHandle<String>) {
    let mut child = vaultmount_command(&args[1..]).stderr(Stdio::piped()).spawn().unwrap();
    let mut stderr = BufReader::new(child.stderr.take().unwrap());
    let ready = async {
        let mut line = String::new();
        while !line.contains("serving") {
            line.clear();
            assert!(stderr.read_line(&mut line).await.unwrap() > 0, "the program ended before it served");
        }
    };
    tokio::time::timeout(Duration::from_secs(20), ready).await.unwrap();
    let log = tokio::spawn(async move {
        let mut log = String::new();
        stderr.read_to_string(&mut log).await.unwrap();
        log
    });
    (child, log)
}

/// Returns a command for the program, with arguments and an empty environment.
pub fn vaultmount_command<S: AsRef<OsStr>>(args: &[S]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_vaultmount"));
    command.args(args).env_clear().stdin(Stdio::null()).kill_on_drop(true);
    command
}
