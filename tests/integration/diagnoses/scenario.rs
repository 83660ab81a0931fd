//! What is arranged for a row, and what must be said of it.

use std::{any::Any, fs, path::Path, time::Duration};

use serde_json::Value;
use tempfile::TempDir;
use tokio::time::{sleep, timeout};
use vaultmount::{
    error::Cause,
    provider::client::{Call, Client},
};

use super::MARK;
use crate::{
    kube_api::KubeApi,
    support::{
        bao::root,
        by_hand::{ByHand, Ran},
        clock::leap,
        daemon::{Daemon, Program, program},
        pod::Pod,
        setting,
    },
};

/// What can be shown of a cause.
pub trait Proof {
    async fn prove(self, cause: Cause);
}

/// A pod whose mount fails.
pub struct Scenario {
    pod: Pod,
    address: String,
    /// Of the server and of `vaultmount check`.
    flags: Vec<String>,
    /// Of the check alone.
    checking: Vec<String>,
    /// What the message must say: the cause and the fix.
    says: Vec<String>,
    /// The fix where a pod's and that of whoever checks by hand are two.
    mends: [Vec<String>; 2],
    timeout: Option<Duration>,
    leaps: bool,
    daemon: Option<Daemon>,
    is_checked: bool,
    kept: Vec<Box<dyn Any>>,
    /// What is deleted from the shared OpenBao in the end.
    cleared: Vec<String>,
}

/// Manifests that `vaultmount validate` complains of.
pub struct Manifest {
    pub text: String,
    pub says: &'static [&'static str],
}

/// A server that goes on without something, and says so in its log.
pub struct Logged {
    api: KubeApi,
    _folder: TempDir,
    flag: String,
    says: &'static [&'static str],
}

impl Logged {
    pub fn of(api: KubeApi, folder: TempDir, flag: &str, says: &'static [&'static str]) -> Self {
        Self { api, _folder: folder, flag: flag.to_owned(), says }
    }
}

impl<const N: usize> Proof for [Logged; N] {
    async fn prove(self, cause: Cause) {
        for Logged { api, flag, says, .. } in self {
            let program = Program::start(&[&flag, "--hmac-key-file="]).await;
            // It asks again after it has told of the first refusal.
            timeout(Duration::from_secs(20), async {
                while api.lines().len() < 2 {
                    sleep(Duration::from_millis(20)).await;
                }
            })
            .await
            .unwrap();
            program.terminate();
            let log = program.log().await;
            for part in says.iter().chain([&cause.id()]) {
                assert!(log.contains(part), "{part:?} is not in: {log}");
            }
        }
    }
}

impl Scenario {
    /// A pod that asks the shared OpenBao, and what its event must say.
    pub fn of(pod: Pod, says: &[&str]) -> Self {
        Self {
            pod,
            address: setting("VAULTMOUNT_TEST_BAO_ADDR"),
            flags: Vec::new(),
            checking: Vec::new(),
            says: says.iter().map(ToString::to_string).collect(),
            mends: Default::default(),
            timeout: None,
            leaps: false,
            daemon: None,
            is_checked: true,
            kept: Vec::new(),
            cleared: Vec::new(),
        }
    }

    /// The same at another address, which the message must name.
    pub fn at(mut self, address: &str) -> Self {
        address.clone_into(&mut self.address);
        self.says.push(address.to_owned());
        self
    }

    /// With flags that server and check take alike.
    pub fn flags(mut self, flags: &[&str]) -> Self {
        self.flags.extend(flags.iter().map(ToString::to_string));
        self
    }

    /// With flags of the check.
    pub fn checking(mut self, flags: &[&str]) -> Self {
        self.checking.extend(flags.iter().map(ToString::to_string));
        self
    }

    /// Keeps what must live as long.
    pub fn keeping(mut self, kept: impl Any) -> Self {
        self.kept.push(Box::new(kept));
        self
    }

    /// Deletes a path of the shared OpenBao in the end.
    pub fn clearing(mut self, path: &str) -> Self {
        self.cleared.push(path.to_owned());
        self
    }

    /// With a fix of its own for a pod's event, and one for a check by hand.
    pub fn mending(mut self, event: &str, by_hand: &str) -> Self {
        self.mends = [vec![event.to_owned()], vec![by_hand.to_owned()]];
        self
    }

    /// With a deadline of the driver's.
    pub fn within(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    /// With time that passes faster.
    pub fn leaping(mut self) -> Self {
        self.leaps = true;
        self
    }

    /// By a server that something happened to before.
    pub fn by(mut self, daemon: Daemon) -> Self {
        self.daemon = Some(daemon);
        self
    }

    /// Only a mount shows it; the word says why.
    pub fn mount_only(mut self, _why: &str) -> Self {
        self.is_checked = false;
        self
    }

    async fn mounted(&self, cause: Cause) {
        let own;
        let daemon = if let Some(daemon) = &self.daemon {
            daemon
        } else {
            let flags: Vec<&str> = self.flags.iter().map(String::as_str).collect();
            own = Daemon::at(&self.address, &flags).await;
            &own
        };
        let call = Call { timeout: self.timeout, ..self.pod.call() };
        let (got, text) = tokio::select! {
            refusal = daemon.refusal(call) => refusal,
            () = self.time(&daemon.socket) => unreachable!("time goes on"),
        };
        eprintln!("{got:?}: {text}");
        assert_eq!(got, cause, "{text}");
        assert!(text.ends_with(&format!(" [{}]", cause.id())), "{text}");
        self.assert_told(&text, &self.mends[0]);
        self.assert_hidden(&text);
        assert!(text.len() <= 600 && !text.contains('\n'), "too long: {text}");
    }

    /// Passes: by itself, or a quarter of a second whenever the server has nothing to do.
    async fn time(&self, socket: &Path) {
        if !self.leaps {
            return std::future::pending().await;
        }
        let mut client = Client::connect(socket).await.unwrap();
        loop {
            for _ in 0..20 {
                client.version().await.unwrap();
            }
            leap(Duration::from_millis(250)).await;
        }
    }

    /// Runs `vaultmount check` with the same class, token and flags.
    async fn checked(&self, cause: Cause) {
        let address = format!("--vault-addr={}", self.address);
        let flags: Vec<&str> = self.flags.iter().chain(&self.checking).chain([&address]).map(String::as_str).collect();
        let Ran { code, out: text, err } = ByHand::of(&self.pod).run("check", &flags).await;
        assert_eq!(code, Some(1), "{text}{err}");
        let failed = failed(&text);
        assert!(failed.contains(&format!("[{}]", cause.id())), "{text}");
        self.assert_told(&failed, &self.mends[1]);
        self.assert_hidden(&text);
    }

    #[track_caller]
    fn assert_told(&self, text: &str, mends: &[String]) {
        for part in self.says.iter().chain(mends) {
            assert!(text.contains(part.as_str()), "{part:?} is not in: {text}");
        }
    }

    #[track_caller]
    fn assert_hidden(&self, text: &str) {
        assert!(!text.contains(MARK), "{text}");
        for token in self.pod.passed().iter().filter_map(|token| token.rsplit('.').next()).filter(|t| t.len() > 20) {
            assert!(!text.contains(token), "{text}");
        }
    }
}

/// What a check says of the steps that failed.
fn failed(text: &str) -> String {
    let mut fails = false;
    let of_failed = |line: &&str| {
        fails = if line.starts_with(' ') { fails } else { line.starts_with("FAIL") };
        fails
    };
    text.lines().filter(of_failed).collect::<Vec<_>>().join("\n")
}

impl<const N: usize> Proof for [Scenario; N] {
    async fn prove(self, cause: Cause) {
        Vec::from(self).prove(cause).await;
    }
}

impl Proof for Vec<Scenario> {
    async fn prove(self, cause: Cause) {
        for scenario in self {
            scenario.mounted(cause).await;
            if scenario.is_checked {
                scenario.checked(cause).await;
            }
            for path in &scenario.cleared {
                root("DELETE", path, Value::Null).await;
            }
        }
    }
}

impl<const N: usize> Proof for [Manifest; N] {
    async fn prove(self, cause: Cause) {
        for Manifest { text, says } in self {
            let folder = tempfile::tempdir().unwrap();
            let file = folder.path().join("manifest.yaml");
            fs::write(&file, text).unwrap();
            let output = program(&["validate", "--strict", file.to_str().unwrap()]).output().await.unwrap();
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            assert_eq!(output.status.code(), Some(1), "{text}{}", String::from_utf8_lossy(&output.stderr));
            for part in says.iter().chain([&cause.id()]) {
                assert!(text.contains(part), "{part:?} is not in: {text}");
            }
        }
    }
}
