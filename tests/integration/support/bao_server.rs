//! Dedicated OpenBao servers, in states that the shared server never has.

use std::{
    process::Stdio,
    sync::atomic::{AtomicU32, Ordering::Relaxed},
    time::Duration,
};

use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    net::{TcpListener, TcpStream},
    process::{Child, Command},
    time::{sleep, timeout},
};

use super::{http, required_env};

/// A server; stopped when dropped.
pub struct BaoServer {
    pub address: String,
    cluster_port: u16,
    /// Unseal key; null before initialization.
    unseal_key: Value,
    folder: TempDir,
    child: Child,
}

impl BaoServer {
    /// Starts a server with empty storage.
    pub async fn uninitialized() -> Self {
        // Another process may take a port first.
        for _ in 0..5 {
            if let Some(server) = Self::start_at(free_port().await, free_port().await).await {
                return server;
            }
        }
        panic!("no port is free");
    }

    async fn start_at(port: u16, cluster: u16) -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let data = folder.path().join("data");
        std::fs::create_dir(&data).unwrap();
        let config = json!({
            "storage": {"raft": {"path": data, "node_id": "a"}},
            "listener": {"tcp": {
                "address": format!("127.0.0.1:{port}"), "cluster_address": format!("127.0.0.1:{cluster}"), "tls_disable": true,
            }},
            "api_addr": format!("http://127.0.0.1:{port}"), "cluster_addr": format!("https://127.0.0.1:{cluster}"),
        });
        std::fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
        let child = spawn_server(&folder).await?;
        Some(Self {
            address: format!("http://127.0.0.1:{port}"),
            cluster_port: cluster,
            unseal_key: Value::Null,
            folder,
            child,
        })
    }

    /// Starts a server that is initialized and sealed.
    pub async fn sealed() -> Self {
        let mut server = Self::uninitialized().await;
        server.unseal_key = server.initialize().await;
        server
    }

    /// Unseals the server with its key.
    pub async fn unseal(&self) {
        self.post("sys/unseal", json!({"key": self.unseal_key})).await;
    }

    /// Starts an unsealed server with one peer that never responds, so that no leader is elected.
    pub async fn without_leader() -> Self {
        let mut server = Self::uninitialized().await;
        let key = server.initialize().await;
        server.child.kill().await.unwrap();
        let peer = |id: &str, port| json!({"id": id, "address": format!("127.0.0.1:{port}"), "non_voter": false});
        let peers = json!([peer("a", server.cluster_port), peer("b", 1)]);
        std::fs::write(server.folder.path().join("data/raft/peers.json"), peers.to_string()).unwrap();
        server.child = spawn_server(&server.folder).await.unwrap();
        server.post("sys/unseal", json!({"key": key})).await;
        server
    }

    /// Initializes the storage and returns the key.
    async fn initialize(&self) -> Value {
        self.post("sys/init", json!({"secret_shares": 1, "secret_threshold": 1})).await["keys"][0].take()
    }

    async fn post(&self, path: &str, body: Value) -> Value {
        let (status, answer) =
            http::send("POST", &format!("{}/v1/{path}", self.address), None, None, Some(&body)).await;
        assert!(status.is_success(), "{path}: {status} {answer}");
        answer
    }
}

/// OpenBao's proxy before a server: it serves repeated requests from its cache, like the Go provider's Agent.
pub struct CachingProxy {
    pub address: String,
    _folder: TempDir,
    _child: Child,
}

impl CachingProxy {
    pub async fn start(server: &str) -> Self {
        let (folder, port) = (tempfile::tempdir().unwrap(), free_port().await);
        let config = format!(
            "vault {{ address = {server:?} }}\ncache {{}}\n\
             listener \"tcp\" {{\n  address = \"127.0.0.1:{port}\"\n  tls_disable = true\n}}\n"
        );
        let file = folder.path().join("proxy.hcl");
        std::fs::write(&file, config).unwrap();
        let mut command = Command::new(required_env("VAULTMOUNT_TEST_BAO_BIN"));
        command.arg("proxy").arg(format!("-config={}", file.display())).env_clear().env("HOME", folder.path());
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true);
        let child = command.spawn().unwrap();
        let listens = async {
            while TcpStream::connect(("127.0.0.1", port)).await.is_err() {
                sleep(Duration::from_millis(20)).await;
            }
        };
        timeout(Duration::from_secs(20), listens).await.unwrap();
        Self { address: format!("http://127.0.0.1:{port}"), _folder: folder, _child: child }
    }
}

/// Returns a free port below the ephemeral port range.
pub async fn free_port() -> u16 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    loop {
        let port = 20_000 + std::process::id().wrapping_mul(31).wrapping_add(NEXT.fetch_add(1, Relaxed)) % 10_000;
        let port = u16::try_from(port).unwrap();
        if TcpListener::bind(("127.0.0.1", port)).await.is_ok() {
            return port;
        }
    }
}

/// Starts the server and waits until it listens; `None` if it exits instead.
async fn spawn_server(folder: &TempDir) -> Option<Child> {
    let mut command = Command::new(required_env("VAULTMOUNT_TEST_BAO_BIN"));
    command.arg("server").arg("-config").arg(folder.path().join("config.json")).env_clear();
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).kill_on_drop(true);
    let mut child = command.spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.as_mut().unwrap()).lines();
    let listens = async {
        while let Some(line) = lines.next_line().await.unwrap() {
            if line.contains("server started") {
                return true;
            }
        }
        false
    };
    timeout(Duration::from_secs(20), listens).await.unwrap().then_some(child)
}
