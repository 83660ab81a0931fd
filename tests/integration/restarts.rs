//! Restarts: sessions and secrets survive when the process is stopped, killed or replaced.

mod corrupt_state;
mod handover;
mod under_load;

use std::{path::PathBuf, sync::Arc, time::Duration};

use serde_json::json;
use tempfile::TempDir;
use tokio::{process::Child, task::JoinHandle, time::sleep};
use vaultmount::provider::{client::Client, pb::MountResponse};

use crate::{
    admin_endpoints::{free_address, get},
    kube_api::{self, KubeApi},
    support::{bao::Tenant, daemon, database::DatabaseEngine, fault_proxy::FaultProxy, pod::Pod},
};

/// The node of all pods.
const NODE: &str = "node-1";

/// A node: its pods, its directories, a proxy that counts requests, and a database engine.
struct RestartFixture {
    tenant: Arc<Tenant>,
    database: DatabaseEngine,
    vault: FaultProxy,
    api: KubeApi,
    folder: TempDir,
}

/// Contents of a pod's volume: each file with its bytes, each object with its version.
type VolumeContents = (Vec<(String, String)>, Vec<(String, String)>);

fn volume_contents(mounted: MountResponse) -> VolumeContents {
    let files = mounted.files.into_iter().map(|f| (f.path, String::from_utf8(f.contents.into()).unwrap()));
    (files.collect(), mounted.object_version.into_iter().map(|v| (v.id, v.version)).collect())
}

/// The real program on a node.
struct Process {
    child: Child,
    log: JoinHandle<String>,
}

impl RestartFixture {
    async fn new() -> Self {
        Self::with_api(KubeApi::builder()).await
    }

    async fn with_api(api: kube_api::KubeApiBuilder) -> Self {
        let tenant = Arc::new(Tenant::new().await);
        tenant.write_secret("db", json!({"pass": "s3cret-pass"})).await;
        let database = DatabaseEngine::for_tenant(&tenant).await;
        let (vault, api) = (FaultProxy::start().await, api.start().await);
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("kubeconfig"), api.kubeconfig("csi", "t0ken")).unwrap();
        Self { tenant, database, vault, api, folder }
    }

    /// Returns a pod with a whole secret, one key of it, and one credential in two files.
    fn pod(&self) -> Pod {
        let (kv, path) = (&self.tenant.kv, &self.database.path);
        let objects = format!(
            "- {{objectName: whole, secretPath: {kv}/data/db}}\n\
             - {{objectName: pass, secretPath: {kv}/data/db, secretKey: pass}}\n\
             - {{objectName: username, secretPath: {path}, secretKey: username}}\n\
             - {{objectName: password, secretPath: {path}, secretKey: password}}\n"
        );
        let pod = Pod::for_tenant(&self.tenant).with_objects(objects);
        self.api.add_pod(NODE, &pod.namespace, &pod.name, &pod.uid);
        pod
    }

    fn state(&self) -> PathBuf {
        self.folder.path().join("state")
    }

    fn socket(&self) -> PathBuf {
        self.folder.path().join("vault.sock")
    }

    /// Starts a process on this node.
    async fn start(&self) -> Process {
        self.start_with(&[]).await
    }

    async fn start_with(&self, flags: &[&str]) -> Process {
        let own = [
            format!("--vault-addr={}", self.vault.address),
            format!("--kubeconfig={}", self.folder.path().join("kubeconfig").display()),
            format!("--node-name={NODE}"),
            format!("--state-dir={}", self.state().display()),
        ];
        let flags: Vec<&str> = own.iter().map(String::as_str).chain(flags.iter().copied()).collect();
        let (child, log) = daemon::spawn_provider(self.folder.path(), &self.socket(), &flags).await;
        Process { child, log }
    }

    async fn mount(&self, pod: &Pod) -> VolumeContents {
        let mounted = Client::connect(&self.socket()).await.unwrap().mount(pod.mount_call()).await;
        volume_contents(mounted.unwrap_or_else(|status| panic!("{status}")))
    }

    fn count_logins(&self) -> usize {
        self.vault.count("POST", &format!("auth/{}/login", self.tenant.auth))
    }

    fn count_credential_requests(&self) -> usize {
        self.vault.count("GET", &self.database.path)
    }

    /// Returns the number of requests to Vault, without health probes.
    fn count_requests(&self) -> usize {
        self.vault.count_except_health()
    }

    /// Returns the paths of the session files.
    fn state_files(&self) -> Vec<PathBuf> {
        let mut files: Vec<_> = std::fs::read_dir(self.state()).unwrap().map(|entry| entry.unwrap().path()).collect();
        files.sort();
        files
    }

    /// Deletes the pods, and waits until none of their users is left.
    async fn assert_deletion_revokes_all(&self, pods: &[Pod]) {
        for pod in pods {
            self.api.delete_pod(&pod.namespace, &pod.name);
        }
        self.database.wait_until_no_users().await;
        wait_until("no file is left", async || self.state_files().is_empty()).await;
    }
}

impl Process {
    /// Kills the process with SIGKILL and returns its log.
    async fn kill(mut self) -> String {
        self.child.kill().await.unwrap();
        self.log.await.unwrap()
    }

    /// Stops the process as kubelet does and returns its log.
    async fn stop(mut self) -> String {
        daemon::terminate(&self.child);
        assert!(self.child.wait().await.unwrap().success());
        self.log.await.unwrap()
    }
}

/// Waits until the condition holds.
async fn wait_until(description: &str, mut condition: impl AsyncFnMut() -> bool) {
    let begun = std::time::Instant::now();
    while !condition().await {
        assert!(begun.elapsed() < Duration::from_secs(30), "never: {description}");
        sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn state_dir_restores_pods_after_kill_or_stop() {
    let node = RestartFixture::new().await;
    let pods = [node.pod(), node.pod(), node.pod()];
    let mut process = node.start().await;
    let mut had = Vec::new();
    for pod in &pods {
        had.push(node.mount(pod).await);
    }
    let (logins, created, requests) = (node.count_logins(), node.count_credential_requests(), node.count_requests());
    assert_eq!((logins, created), (3, 3));
    for killed in [true, false, true] {
        let log = if killed { process.kill().await } else { process.stop().await };
        for text in ["s3cret-pass", "hvs.", "\ns."] {
            assert!(!log.contains(text), "{log}");
        }
        let pages = free_address();
        process = node.start_with(&[&format!("--metrics-addr={pages}")]).await;
        for (pod, had) in pods.iter().zip(&had).cycle().take(2 * pods.len()) {
            assert_eq!(&node.mount(pod).await, had, "not a byte, nor a version");
        }
        let (_, metrics) = get(&format!("http://{pages}/metrics")).await;
        assert!(metrics.contains("\nvaultmount_oldest_refresh_success_timestamp_seconds "), "{metrics}");
        assert_eq!(node.count_requests(), requests, "no request to Vault");
    }
    for file in node.state_files() {
        let text = String::from_utf8_lossy(&std::fs::read(&file).unwrap()).into_owned();
        assert!(!["s3cret", "shop", "hvs.", "app"].iter().any(|word| text.contains(word)), "{text}");
    }
    node.assert_deletion_revokes_all(&pods).await;
    process.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pod_deleted_during_downtime_is_revoked_after_restart() {
    let node = RestartFixture::new().await;
    let (ends, lives) = (node.pod(), node.pod());
    let process = node.start().await;
    node.mount(&ends).await;
    let had = node.mount(&lives).await;
    process.kill().await;
    node.api.delete_pod(&ends.namespace, &ends.name);
    let process = node.start().await;
    wait_until("one user is left", async || node.database.users().await.len() == 1).await;
    wait_until("one file is left", async || node.state_files().len() == 1).await;
    assert_eq!(node.mount(&lives).await, had);
    node.assert_deletion_revokes_all(&[lives]).await;
    process.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pending_revocation_is_completed_after_restart() {
    let node = RestartFixture::new().await;
    let pod = node.pod();
    let process = node.start().await;
    node.mount(&pod).await;
    node.vault.always(
        "POST",
        "auth/token/revoke-self",
        crate::support::fault_proxy::vault_error(503, "Vault is sealed"),
    );
    node.api.delete_pod(&pod.namespace, &pod.name);
    node.vault.wait_for(1, "POST", "auth/token/revoke-self").await;
    assert_eq!(node.state_files().len(), 1);
    process.stop().await;
    node.vault.clear_rules();
    let process = node.start().await;
    node.assert_deletion_revokes_all(&[]).await;
    process.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pending_revocation_spares_new_shared_session() {
    let node = RestartFixture::new().await;
    let sharing = || node.pod().with_parameter("tokenScope", "serviceAccount");
    let (first, second) = (sharing(), sharing());
    let process = node.start().await;
    node.mount(&first).await;
    node.vault.always("POST", "auth/token/revoke-self", crate::support::fault_proxy::vault_error(400, "not now"));
    node.api.delete_pod(&first.namespace, &first.name);
    node.vault.wait_for(1, "POST", "auth/token/revoke-self").await;
    let had = node.mount(&second).await;
    node.vault.clear_rules();
    wait_until("the first pod's user is dropped", async || node.database.users().await.len() == 1).await;
    process.kill().await;
    let process = node.start().await;
    assert_eq!(node.mount(&second).await, had);
    assert_eq!((node.count_logins(), node.count_credential_requests()), (2, 2));
    node.assert_deletion_revokes_all(&[second]).await;
    process.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn renewals_continue_after_restart() {
    let node = RestartFixture::new().await;
    node.database.write_role(json!({"default_ttl": "6s", "max_ttl": "1h"})).await;
    node.tenant.write_role("app", json!({"token_ttl": "6s", "token_max_ttl": "1h"})).await;
    let pod = node.pod();
    let process = node.start().await;
    let had = node.mount(&pod).await;
    process.kill().await;
    let process = node.start().await;
    sleep(Duration::from_secs(8)).await;
    let after = node.mount(&pod).await;
    assert_eq!(
        (node.count_logins(), node.count_credential_requests()),
        (1, 1),
        "renewed by a process that never saw it mounted"
    );
    assert_eq!(after, had);
    node.assert_deletion_revokes_all(&[pod]).await;
    process.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn shared_sessions_and_token_objects_survive_restart() {
    let node = RestartFixture::new().await;
    let shared: Vec<Pod> = (0..3).map(|_| node.pod().with_parameter("tokenScope", "serviceAccount")).collect();
    let own = node.pod().with_objects("- {objectName: token, type: token}");
    let process = node.start().await;
    let had = node.mount(&own).await;
    for pod in &shared {
        node.mount(pod).await;
    }
    let requests = node.count_requests();
    process.kill().await;
    assert_eq!(node.state_files().len(), 2);
    let process = node.start().await;
    assert_eq!(node.mount(&own).await, had);
    for pod in &shared {
        node.mount(pod).await;
    }
    assert_eq!(node.count_requests(), requests);
    node.api.delete_pod(&shared[0].namespace, &shared[0].name);
    node.api.delete_pod(&shared[1].namespace, &shared[1].name);
    process.kill().await;
    let process = node.start().await;
    node.mount(&shared[2]).await;
    assert_eq!(node.count_requests(), requests);
    node.assert_deletion_revokes_all(&[shared[2].clone(), own]).await;
    process.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn state_dir_empty_disables_persistence() {
    let node = RestartFixture::new().await;
    let pod = node.pod();
    let process = node.start_with(&["--state-dir="]).await;
    node.mount(&pod).await;
    process.stop().await;
    let process = node.start_with(&["--state-dir="]).await;
    node.mount(&pod).await;
    assert_eq!((node.count_logins(), node.count_credential_requests()), (2, 2));
    assert!(!node.state().exists());
    process.stop().await;
}
