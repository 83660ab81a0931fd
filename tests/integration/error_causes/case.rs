//! Setup and expected error of one row of the table of causes.

use std::{any::Any, fs, path::Path, time::Duration};

use serde_json::Value;
use tempfile::TempDir;
use tokio::time::{sleep, timeout};
use vaultmount::{
    error::Cause,
    provider::client::{Client, MountCall},
};

use super::SECRET_MARK;
use crate::{
    kube_api::KubeApi,
    support::{
        bao::root_request,
        cli::{CliRun, Output},
        clock::advance,
        daemon::{Daemon, ProviderProcess, vaultmount_command},
        pod::Pod,
        required_env,
    },
};

/// One demonstration of a cause.
pub trait Case {
    async fn assert_reported(self, cause: Cause);
}

/// A pod with a mount that fails.
pub struct MountCase {
    pod: Pod,
    address: String,
    /// Flags of the server and of `vaultmount check`.
    flags: Vec<String>,
    /// Flags of the check only.
    check_flags: Vec<String>,
    /// Parts of the expected message: the cause and the fix.
    expected: Vec<String>,
    /// Expected fixes if a pod's event and a manual check differ: mount, then check.
    fixes: [Vec<String>; 2],
    timeout: Option<Duration>,
    fast_clock: bool,
    daemon: Option<Daemon>,
    is_checked: bool,
    kept_alive: Vec<Box<dyn Any>>,
    /// Paths to delete from the shared OpenBao afterwards.
    paths_to_delete: Vec<String>,
}

/// Manifests with findings in `vaultmount validate`.
pub struct ManifestCase {
    pub text: String,
    pub expected: &'static [&'static str],
}

/// A server that continues without a feature and logs it.
pub struct LogCase {
    api: KubeApi,
    _folder: TempDir,
    flag: String,
    expected: &'static [&'static str],
}

impl LogCase {
    pub fn from_api(api: KubeApi, folder: TempDir, flag: &str, parts: &'static [&'static str]) -> Self {
        Self { api, _folder: folder, flag: flag.to_owned(), expected: parts }
    }
}

impl<const N: usize> Case for [LogCase; N] {
    async fn assert_reported(self, cause: Cause) {
        for LogCase { api, flag, expected: parts, .. } in self {
            let program = ProviderProcess::start(&[&flag, "--hmac-key-file="]).await;
            // The process retries after it has logged the first refusal.
            timeout(Duration::from_secs(20), async {
                while api.request_lines().len() < 2 {
                    sleep(Duration::from_millis(20)).await;
                }
            })
            .await
            .unwrap();
            program.terminate();
            let log = program.wait_for_log().await;
            for part in parts.iter().chain([&cause.id()]) {
                assert!(log.contains(part), "{part:?} is not in: {log}");
            }
        }
    }
}

impl MountCase {
    /// Creates a case for a pod that uses the shared OpenBao, with the expected parts of its error.
    pub fn for_pod(pod: Pod, parts: &[&str]) -> Self {
        Self {
            pod,
            address: required_env("VAULTMOUNT_TEST_BAO_ADDR"),
            flags: Vec::new(),
            check_flags: Vec::new(),
            expected: parts.iter().map(ToString::to_string).collect(),
            fixes: Default::default(),
            timeout: None,
            fast_clock: false,
            daemon: None,
            is_checked: true,
            kept_alive: Vec::new(),
            paths_to_delete: Vec::new(),
        }
    }

    /// Sets another address, which the message must contain.
    pub fn with_address(mut self, address: &str) -> Self {
        address.clone_into(&mut self.address);
        self.expected.push(address.to_owned());
        self
    }

    /// Adds flags of both server and check.
    pub fn with_flags(mut self, flags: &[&str]) -> Self {
        self.flags.extend(flags.iter().map(ToString::to_string));
        self
    }

    /// Adds flags of the check only.
    pub fn with_check_flags(mut self, flags: &[&str]) -> Self {
        self.check_flags.extend(flags.iter().map(ToString::to_string));
        self
    }

    /// Keeps a value alive until the case ends.
    pub fn keep_alive(mut self, kept: impl Any) -> Self {
        self.kept_alive.push(Box::new(kept));
        self
    }

    /// Deletes a path of the shared OpenBao afterwards.
    pub fn delete_after(mut self, path: &str) -> Self {
        self.paths_to_delete.push(path.to_owned());
        self
    }

    /// Sets different expected fixes for a pod's event and for a manual check.
    pub fn with_fixes(mut self, for_mount: &str, for_check: &str) -> Self {
        self.fixes = [vec![for_mount.to_owned()], vec![for_check.to_owned()]];
        self
    }

    /// Sets the driver's deadline.
    pub fn with_timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    /// Advances the clock during the mount.
    pub fn with_fast_clock(mut self) -> Self {
        self.fast_clock = true;
        self
    }

    /// Uses a daemon that the test has prepared.
    pub fn with_daemon(mut self, daemon: Daemon) -> Self {
        self.daemon = Some(daemon);
        self
    }

    /// Skips the check, because only a mount shows the error; the argument documents why.
    pub fn mount_only(mut self, _why: &str) -> Self {
        self.is_checked = false;
        self
    }

    async fn assert_mount_reports(&self, cause: Cause) {
        let own;
        let daemon = if let Some(daemon) = &self.daemon {
            daemon
        } else {
            let flags: Vec<&str> = self.flags.iter().map(String::as_str).collect();
            own = Daemon::start_at(&self.address, &flags).await;
            &own
        };
        let call = MountCall { timeout: self.timeout, ..self.pod.mount_call() };
        let (got, text) = tokio::select! {
            refusal = daemon.mount_error(call) => refusal,
            () = self.advance_time(&daemon.socket) => unreachable!("time goes on"),
        };
        eprintln!("{got:?}: {text}");
        assert_eq!(got, cause, "{text}");
        assert!(text.ends_with(&format!(" [{}]", cause.id())), "{text}");
        self.assert_explained(&text, &self.fixes[0]);
        self.assert_no_secrets(&text);
        assert!(text.len() <= 600 && !text.contains('\n'), "too long: {text}");
    }

    /// Lets real time pass, or advances the clock by a quarter of a second whenever the server is idle.
    async fn advance_time(&self, socket: &Path) {
        if !self.fast_clock {
            return std::future::pending().await;
        }
        let mut client = Client::connect(socket).await.unwrap();
        loop {
            for _ in 0..20 {
                client.version().await.unwrap();
            }
            advance(Duration::from_millis(250)).await;
        }
    }

    /// Runs `vaultmount check` with the same class, token and flags.
    async fn assert_check_reports(&self, cause: Cause) {
        let address = format!("--vault-addr={}", self.address);
        let flags: Vec<&str> =
            self.flags.iter().chain(&self.check_flags).chain([&address]).map(String::as_str).collect();
        let Output { code, stdout: text, stderr: err } = CliRun::for_pod(&self.pod).run("check", &flags).await;
        assert_eq!(code, Some(1), "{text}{err}");
        let failed = failed_steps(&text);
        assert!(failed.contains(&format!("[{}]", cause.id())), "{text}");
        self.assert_explained(&failed, &self.fixes[1]);
        self.assert_no_secrets(&text);
    }

    #[track_caller]
    fn assert_explained(&self, text: &str, mends: &[String]) {
        for part in self.expected.iter().chain(mends) {
            assert!(text.contains(part.as_str()), "{part:?} is not in: {text}");
        }
    }

    #[track_caller]
    fn assert_no_secrets(&self, text: &str) {
        assert!(!text.contains(SECRET_MARK), "{text}");
        for token in self.pod.first_token().iter().filter_map(|token| token.rsplit('.').next()).filter(|t| t.len() > 20)
        {
            assert!(!text.contains(token), "{text}");
        }
    }
}

/// Returns the lines of the failed steps of a check.
fn failed_steps(text: &str) -> String {
    let mut fails = false;
    let of_failed = |line: &&str| {
        fails = if line.starts_with(' ') { fails } else { line.starts_with("FAIL") };
        fails
    };
    text.lines().filter(of_failed).collect::<Vec<_>>().join("\n")
}

impl<const N: usize> Case for [MountCase; N] {
    async fn assert_reported(self, cause: Cause) {
        Vec::from(self).assert_reported(cause).await;
    }
}

impl Case for Vec<MountCase> {
    async fn assert_reported(self, cause: Cause) {
        for scenario in self {
            scenario.assert_mount_reports(cause).await;
            if scenario.is_checked {
                scenario.assert_check_reports(cause).await;
            }
            for path in &scenario.paths_to_delete {
                root_request("DELETE", path, Value::Null).await;
            }
        }
    }
}

impl<const N: usize> Case for [ManifestCase; N] {
    async fn assert_reported(self, cause: Cause) {
        for ManifestCase { text, expected: parts } in self {
            let folder = tempfile::tempdir().unwrap();
            let file = folder.path().join("manifest.yaml");
            fs::write(&file, text).unwrap();
            let output = vaultmount_command(&["validate", "--strict", file.to_str().unwrap()]).output().await.unwrap();
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            assert_eq!(output.status.code(), Some(1), "{text}{}", String::from_utf8_lossy(&output.stderr));
            for part in parts.iter().chain([&cause.id()]) {
                assert!(text.contains(part), "{part:?} is not in: {text}");
            }
        }
    }
}
