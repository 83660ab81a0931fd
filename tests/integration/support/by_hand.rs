//! The program as a person runs it for a pod that does not exist: a class and a token in files, and flags.

use std::{ffi::OsStr, fs};

use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::process::Command;

use super::{daemon::program, pod::Pod};

/// A pod's class and token in files.
pub struct ByHand {
    folder: TempDir,
    flags: Vec<String>,
}

/// What a run printed, and its exit code.
#[derive(Debug)]
pub struct Ran {
    pub code: Option<i32>,
    pub out: String,
    pub err: String,
}

impl ByHand {
    /// The class of a pod, and its first service account token if it has one.
    pub fn of(pod: &Pod) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let parameters: serde_json::Map<String, Value> =
            pod.parameters.iter().map(|(name, value)| (name.clone(), json!(value))).collect();
        let class = json!({
            "apiVersion": "secrets-store.csi.x-k8s.io/v1", "kind": "SecretProviderClass",
            "metadata": {"name": "test-class", "namespace": pod.namespace},
            "spec": {"provider": "vault", "parameters": parameters},
        });
        fs::write(folder.path().join("class.yaml"), class.to_string()).unwrap();
        let mut flags = vec![
            format!("--file={}", folder.path().join("class.yaml").display()),
            format!("--namespace={}", pod.namespace),
            format!("--pod={}", pod.name),
            format!("--pod-uid={}", pod.uid),
            format!("--service-account={}", pod.service_account),
        ];
        let token = pod.passed();
        if let Some(token) = token {
            fs::write(folder.path().join("token"), token).unwrap();
            flags.push(format!("--token-file={}", folder.path().join("token").display()));
        }
        Self { folder, flags }
    }

    /// The arguments of a command.
    pub fn arguments(&self, command: &str, flags: &[&str]) -> Vec<String> {
        let own = self.flags.iter().cloned();
        std::iter::once(command.to_owned()).chain(own).chain(flags.iter().map(ToString::to_string)).collect()
    }

    /// Runs a command to its end.
    pub async fn run(&self, command: &str, flags: &[&str]) -> Ran {
        ran(&self.arguments(command, flags)).await
    }

    /// The same with these variables in its environment.
    pub async fn run_with(&self, variables: &[(&str, &str)], command: &str, flags: &[&str]) -> Ran {
        finished(program(&self.arguments(command, flags)).envs(variables.iter().copied())).await
    }

    /// Looks for mistakes in the class.
    pub async fn validate(&self, flags: &[&str]) -> Ran {
        let class = self.folder.path().join("class.yaml").display().to_string();
        ran(&[&["validate", &class], flags].concat()).await
    }
}

/// Runs the program to its end.
pub async fn ran<S: AsRef<OsStr>>(arguments: &[S]) -> Ran {
    finished(&mut program(arguments)).await
}

async fn finished(command: &mut Command) -> Ran {
    let output = command.output().await.unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    let ran = Ran { code: output.status.code(), out: text(output.stdout), err: text(output.stderr) };
    eprintln!("{}{}", ran.out, ran.err);
    ran
}
