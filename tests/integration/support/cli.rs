//! The program as an operator runs it for a pod that does not exist: a class and a token in files, and flags.

use std::{ffi::OsStr, fs};

use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::process::Command;

use super::{daemon::vaultmount_command, pod::Pod};

/// Files with a pod's class and token.
pub struct CliRun {
    folder: TempDir,
    flags: Vec<String>,
}

/// Output and exit code of a run.
#[derive(Debug)]
pub struct Output {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl CliRun {
    /// Writes the class of a pod, and its first service account token if there is one.
    pub fn for_pod(pod: &Pod) -> Self {
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
        let token = pod.first_token();
        if let Some(token) = token {
            fs::write(folder.path().join("token"), token).unwrap();
            flags.push(format!("--token-file={}", folder.path().join("token").display()));
        }
        Self { folder, flags }
    }

    /// Returns the arguments of a command.
    pub fn arguments(&self, command: &str, flags: &[&str]) -> Vec<String> {
        let own = self.flags.iter().cloned();
        std::iter::once(command.to_owned()).chain(own).chain(flags.iter().map(ToString::to_string)).collect()
    }

    /// Runs a command and waits for its end.
    pub async fn run(&self, command: &str, flags: &[&str]) -> Output {
        run_cli(&self.arguments(command, flags)).await
    }

    /// Runs a command with these environment variables.
    pub async fn run_with(&self, variables: &[(&str, &str)], command: &str, flags: &[&str]) -> Output {
        wait_for_output(vaultmount_command(&self.arguments(command, flags)).envs(variables.iter().copied())).await
    }

    /// Runs `validate` on the class.
    pub async fn validate(&self, flags: &[&str]) -> Output {
        let class = self.folder.path().join("class.yaml").display().to_string();
        run_cli(&[&["validate", &class], flags].concat()).await
    }
}

/// Runs the program and waits for its end.
pub async fn run_cli<S: AsRef<OsStr>>(arguments: &[S]) -> Output {
    wait_for_output(&mut vaultmount_command(arguments)).await
}

async fn wait_for_output(command: &mut Command) -> Output {
    let output = command.output().await.unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    let ran = Output { code: output.status.code(), stdout: text(output.stdout), stderr: text(output.stderr) };
    eprintln!("{}{}", ran.stdout, ran.stderr);
    ran
}
