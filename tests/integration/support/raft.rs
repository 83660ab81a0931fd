//! A dedicated cluster of three OpenBao servers behind one address, with standbys that serve reads.

use std::{
    path::{Path, PathBuf},
    process::Stdio,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use http::StatusCode;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
    process::{Child, Command},
    sync::watch,
    task::JoinHandle,
    time::{sleep, timeout},
};

use super::{bao::issuer_key, bao_server::free_port, http as client, required_env};

/// The servers; stopped when dropped.
pub struct RaftCluster {
    /// Address of the balancer, which passes connections to the servers in turn, like a Service.
    pub address: String,
    nodes: Vec<Node>,
    unseal_key: String,
    root_token: String,
    balancer: Arc<Balancer>,
    balancer_task: JoinHandle<()>,
    folder: TempDir,
}

struct Node {
    address: String,
    config: PathBuf,
    child: Option<Child>,
}

/// Passes connections to the servers in turn, or to one server only.
struct Balancer {
    backends: Vec<String>,
    next: AtomicUsize,
    /// The only target server, or `None` for all in turn; connections end when it changes.
    pinned: watch::Sender<Option<usize>>,
}

impl RaftCluster {
    /// Starts three servers and waits for a leader.
    pub async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut nodes = Vec::new();
        for n in 0..3 {
            let leader = nodes.first().map(|node: &Node| node.address.clone());
            nodes.push(Node::start(folder.path(), n, leader).await);
        }
        let places: Vec<String> = nodes.iter().map(|node| node.address.replace("http://", "")).collect();
        let balancer =
            Arc::new(Balancer { backends: places, next: AtomicUsize::new(0), pinned: watch::Sender::new(None) });
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let serving = tokio::spawn(run_balancer(listener, Arc::clone(&balancer)));
        let init = json!({"secret_shares": 1, "secret_threshold": 1});
        let (status, made) =
            client::send("POST", &format!("{}/v1/sys/init", nodes[0].address), None, None, Some(&init)).await;
        assert!(status.is_success(), "{made}");
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        let (key, token) = (text(&made["keys"][0]), text(&made["root_token"]));
        let cluster =
            Self { address, nodes, unseal_key: key, root_token: token, balancer, balancer_task: serving, folder };
        for n in 0..3 {
            cluster.unseal(n).await;
        }
        cluster.wait_until_ready().await;
        cluster
    }

    /// Sends a request with the root token to each server in turn, until one succeeds.
    pub async fn root_request(&self, method: &str, path: &str, body: Value) -> Value {
        for _ in 0..200 {
            for node in self.nodes.iter().filter(|node| node.child.is_some()) {
                let body = (!body.is_null()).then_some(&body);
                let url = format!("{}/v1/{path}", node.address);
                let response = client::try_send(method, &url, Some(&self.root_token), body);
                if let Ok(Some((status, answer))) = timeout(Duration::from_secs(5), response).await {
                    if status.is_success() {
                        return answer;
                    }
                    let passes =
                        status.is_server_error() || status.is_redirection() || status == StatusCode::BAD_REQUEST;
                    assert!(passes, "{path}: {status} {answer}");
                }
            }
            sleep(Duration::from_millis(100)).await;
        }
        panic!("no server accepts {method} {path}");
    }

    /// Routes new connections to this server only, or to all servers in turn.
    pub fn route_to(&self, node: Option<usize>) {
        self.balancer.pinned.send_replace(node);
    }

    /// Waits for a leader and returns its index.
    pub async fn leader(&self) -> usize {
        for _ in 0..600 {
            for (n, node) in self.nodes.iter().enumerate().filter(|(_, node)| node.child.is_some()) {
                let url = format!("{}/v1/sys/health", node.address);
                let response = client::try_send("GET", &url, None, None);
                if matches!(timeout(Duration::from_secs(2), response).await, Ok(Some((StatusCode::OK, _)))) {
                    return n;
                }
            }
            sleep(Duration::from_millis(100)).await;
        }
        panic!("there is no leader");
    }

    /// Waits until every running server follows the leader and can take part in an election.
    pub async fn wait_until_ready(&self) {
        self.leader().await;
        for n in 0.. {
            let peers = self.root_request("GET", "sys/storage/raft/configuration", Value::Null).await;
            let peers = peers["data"]["config"]["servers"].as_array().unwrap().clone();
            if peers.iter().filter(|peer| peer["voter"] == json!(true)).count() == self.nodes.len() {
                break;
            }
            assert!(n < 300, "not everyone may vote: {peers:?}");
            sleep(Duration::from_millis(200)).await;
        }
        for node in self.nodes.iter().filter(|node| node.child.is_some()) {
            let url = format!("{}/v1/sys/health?standbyok=true", node.address);
            for n in 0.. {
                let response = client::try_send("GET", &url, None, None).await;
                if matches!(response, Some((StatusCode::OK, _))) {
                    break;
                }
                assert!(n < 300, "a server does not follow");
                sleep(Duration::from_millis(100)).await;
            }
        }
    }

    /// Saves a snapshot and returns its path.
    pub async fn save_snapshot(&self) -> PathBuf {
        let file = self.folder.path().join("backup.snap");
        self.run_raft_command(&["snapshot", "save"], &file).await;
        file
    }

    /// Restores a snapshot.
    pub async fn restore_snapshot(&self, backup: &Path) {
        self.run_raft_command(&["snapshot", "restore", "-force"], backup).await;
        self.wait_until_ready().await;
    }

    async fn run_raft_command(&self, subcommand: &[&str], file: &Path) {
        let mut command = Command::new(required_env("VAULTMOUNT_TEST_BAO_BIN"));
        command.args(["operator", "raft"]).args(subcommand).arg(file).env_clear();
        let leader = &self.nodes[self.leader().await].address;
        command.env("BAO_ADDR", leader).env("BAO_TOKEN", &self.root_token).env("HOME", self.folder.path());
        let ran = command.output().await.unwrap();
        assert!(ran.status.success(), "{subcommand:?}: {}", String::from_utf8_lossy(&ran.stderr));
    }

    /// Kills a server.
    pub async fn kill(&mut self, n: usize) {
        self.nodes[n].child.take().unwrap().kill().await.unwrap();
    }

    /// Restarts a server.
    pub async fn restart(&mut self, n: usize) {
        self.nodes[n].child = Some(spawn_server(&self.nodes[n].config));
        self.unseal(n).await;
    }

    async fn unseal(&self, n: usize) {
        let url = format!("{}/v1/sys/unseal", self.nodes[n].address);
        for _ in 0..300 {
            let answer = client::try_send("POST", &url, None, Some(&json!({"key": self.unseal_key}))).await;
            if answer.is_some_and(|(status, answer)| status.is_success() && answer["sealed"] == json!(false)) {
                return;
            }
            sleep(Duration::from_millis(100)).await;
        }
        panic!("server {n} stays sealed");
    }

    /// Creates the same tenant as on the shared server: a `jwt` mount `jwt`, a KV engine `kv`, and role `app` with this
    /// policy.
    pub async fn set_up_tenant(&self, policy: &str) {
        self.root_request("POST", "sys/mounts/kv", json!({"type": "kv", "options": {"version": "2"}})).await;
        self.root_request("POST", "sys/auth/jwt", json!({"type": "jwt"})).await;
        self.root_request(
            "POST",
            "auth/jwt/config",
            json!({"jwt_validation_pubkeys": [issuer_key().public_key_pem()]}),
        )
        .await;
        self.root_request("PUT", "sys/policies/acl/app", json!({"policy": policy})).await;
        let role = json!({
            "role_type": "jwt", "user_claim": "sub", "bound_audiences": ["vault"],
            "token_policies": ["app"], "token_ttl": "10m",
        });
        self.root_request("POST", "auth/jwt/role/app", role).await;
        // A new KV v2 engine is briefly unavailable while it upgrades itself, and standbys learn of the upgrade later.
        for node in &self.nodes {
            let url = format!("{}/v1/kv/config", node.address);
            for n in 0.. {
                let response = client::try_send("GET", &url, Some(&self.root_token), None).await;
                if matches!(response, Some((StatusCode::OK, _))) {
                    break;
                }
                assert!(n < 300, "{response:?}");
                sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

impl Drop for RaftCluster {
    fn drop(&mut self) {
        self.balancer_task.abort();
    }
}

impl Node {
    async fn start(folder: &Path, n: usize, leader: Option<String>) -> Self {
        let (port, cluster) = (free_port().await, free_port().await);
        let data = folder.join(format!("data-{n}"));
        std::fs::create_dir(&data).unwrap();
        let address = format!("http://127.0.0.1:{port}");
        let mut raft = json!({
            "path": data, "node_id": format!("n{n}"),
            // Short election timeouts: the tests wait until a missing leader is noticed.
            "performance_multiplier": "1",
        });
        if let Some(leader) = leader {
            raft["retry_join"] = json!([{"leader_api_addr": leader}]);
        }
        let config = json!({
            "storage": {"raft": raft},
            "listener": {"tcp": {
                "address": format!("127.0.0.1:{port}"), "cluster_address": format!("127.0.0.1:{cluster}"), "tls_disable": true,
            }},
            "api_addr": address, "cluster_addr": format!("https://127.0.0.1:{cluster}"),
        });
        let file = folder.join(format!("{n}.json"));
        std::fs::write(&file, config.to_string()).unwrap();
        let child = spawn_server(&file);
        let listens = async {
            while TcpStream::connect(("127.0.0.1", port)).await.is_err() {
                sleep(Duration::from_millis(50)).await;
            }
        };
        timeout(Duration::from_secs(60), listens).await.unwrap();
        Self { address, config: file, child: Some(child) }
    }
}

fn spawn_server(config: &Path) -> Child {
    let mut command = Command::new(required_env("VAULTMOUNT_TEST_BAO_BIN"));
    command.arg("server").arg("-config").arg(config).env_clear();
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true);
    command.spawn().unwrap()
}

async fn run_balancer(listener: TcpListener, balancer: Arc<Balancer>) {
    while let Ok((mut here, _)) = listener.accept().await {
        let balancer = Arc::clone(&balancer);
        tokio::spawn(async move {
            let mut only = balancer.pinned.subscribe();
            let (first, tries) = match *only.borrow_and_update() {
                Some(one) => (one, 1),
                None => (balancer.next.fetch_add(1, SeqCst), balancer.backends.len()),
            };
            for n in first..first + tries {
                if let Ok(mut there) = TcpStream::connect(&balancer.backends[n % balancer.backends.len()]).await {
                    tokio::select! {
                        _ = copy_bidirectional(&mut here, &mut there) => {}
                        _ = only.changed() => {}
                    }
                    return;
                }
            }
        });
    }
}
