//! High availability: a cluster of three with standbys that serve reads and lag behind, and leaders that are killed.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use futures_util::future::join_all;
use http::Uri;
use serde_json::json;
use tokio::{
    sync::Mutex,
    time::{Instant, sleep},
};
use vaultmount::provider::client::MountCall;

use crate::support::{
    bao::Tenant, clock::advance, daemon::Daemon, pod::Pod, raft::RaftCluster, required_env, unique_name,
};

/// Returns a pod that logs in to the cluster and fetches these objects again after ten seconds.
fn pod(objects: &str) -> Pod {
    let tenant = Tenant { address: String::new(), auth: "jwt".into(), kv: "kv".into(), policy: "app".into() };
    Pod::for_tenant(&tenant).with_objects(objects).with_parameter("refreshInterval", "10s")
}

const COUNTER_OBJECT: &str = "- {objectName: n, secretPath: kv/data/n, secretKey: n}\n";

#[tokio::test]
async fn stale_standby_never_serves_older_secret() {
    let cluster = RaftCluster::new().await;
    cluster.set_up_tenant("path \"kv/*\" { capabilities = [\"read\"] }").await;
    cluster.root_request("POST", "kv/data/n", json!({"data": {"n": "0"}})).await;
    let leader = cluster.leader().await;
    let standby = (leader + 1) % 3;
    let daemon = Daemon::start_at(&cluster.address, &[]).await;
    let (one, two) = (pod(COUNTER_OBJECT), pod(COUNTER_OBJECT));
    for pod in [&one, &two] {
        daemon.mount_files(pod).await;
    }
    for n in 1..=40 {
        cluster.root_request("POST", "kv/data/n", json!({"data": {"n": n.to_string()}})).await;
        advance(Duration::from_secs(11)).await;
        cluster.route_to(Some(leader));
        assert_eq!(daemon.mount_files(&one).await["n"], n.to_string());
        cluster.route_to(Some(standby));
        assert_eq!(daemon.mount_files(&two).await["n"], n.to_string(), "older than what was seen before");
    }
}

#[tokio::test]
async fn leader_loss_serves_stale_polls_that_need_login() {
    let mut cluster = RaftCluster::new().await;
    cluster.set_up_tenant("path \"kv/*\" { capabilities = [\"read\"] }").await;
    cluster.root_request("POST", "kv/data/n", json!({"data": {"n": "0"}})).await;
    let role = json!({
        "role_type": "jwt", "user_claim": "sub", "bound_audiences": ["vault"],
        // The TTL is shorter than the interval between two reads, so that each read needs a login.
        "token_policies": ["app"], "token_ttl": "5s",
    });
    cluster.root_request("POST", "auth/jwt/role/app", role).await;
    let leader = cluster.leader().await;
    // For some seconds after the leader's end, this standby still redirects requests to it that it cannot forward.
    cluster.route_to(Some((leader + 1) % 3));
    let daemon = Arc::new(Daemon::start_at(&cluster.address, &[]).await);
    let pods: Vec<Pod> = (0..8).map(|_| pod(COUNTER_OBJECT)).collect();
    for pod in &pods {
        daemon.mount_files(pod).await;
    }
    advance(Duration::from_secs(11)).await;
    cluster.kill(leader).await;
    cluster.route_to(None);
    let mut polling = Vec::new();
    for pod in pods {
        let daemon = daemon.clone();
        polling.push(tokio::spawn(async move {
            let begun = Instant::now();
            while begun.elapsed() < Duration::from_secs(4) {
                assert_eq!(daemon.mount_files(&pod).await["n"], "0");
                sleep(Duration::from_millis(100)).await;
            }
        }));
    }
    for task in polling {
        task.await.unwrap();
    }
    cluster.leader().await;
    // A new pod mounts as soon as there is a leader.
    assert_eq!(daemon.mount_files(&pod(COUNTER_OBJECT)).await["n"], "0");
}

/// Creates a cluster with a database engine for the real PostgreSQL.
async fn cluster_with_database() -> (RaftCluster, String) {
    let cluster = RaftCluster::new().await;
    cluster
        .set_up_tenant(
            "path \"kv/*\" { capabilities = [\"read\"] }\npath \"db/creds/app\" { capabilities = [\"read\"] }",
        )
        .await;
    cluster.root_request("POST", "sys/mounts/db", json!({"type": "database"})).await;
    let server: Uri = required_env("VAULTMOUNT_TEST_PG_URL").parse().unwrap();
    let (login, place) = server.authority().unwrap().as_str().split_once('@').unwrap();
    let (username, password) = login.split_once(':').unwrap();
    let prefix = unique_name("raft").replace('-', "_");
    let config = json!({
        "plugin_name": "postgresql-database-plugin",
        "connection_url": format!("postgresql://{{{{username}}}}:{{{{password}}}}@{place}/postgres?sslmode=disable"),
        "username": username, "password": password, "allowed_roles": ["app"], "max_idle_connections": -1,
        "username_template": format!("{prefix}_{{{{random 12 | lowercase}}}}"),
    });
    cluster.root_request("POST", "db/config/pg", config).await;
    let statement = r#"CREATE ROLE "{{name}}" LOGIN PASSWORD '{{password}}'"#;
    let role = json!({"db_name": "pg", "creation_statements": [statement], "default_ttl": "1h"});
    cluster.root_request("POST", "db/roles/app", role).await;
    (cluster, prefix)
}

/// Returns the number of database users with this prefix.
async fn count_database_users(prefix: &str) -> usize {
    crate::support::database::users_with_prefix(prefix).await.len()
}

#[tokio::test]
async fn backup_restore_gives_newer_pod_one_new_credential() {
    let (cluster, prefix) = cluster_with_database().await;
    cluster.root_request("POST", "kv/data/n", json!({"data": {"n": "0"}})).await;
    let daemon = Daemon::start_at(&cluster.address, &[]).await;
    let objects = format!("{COUNTER_OBJECT}- {{objectName: user, secretPath: db/creds/app, secretKey: username}}\n");
    let (before, after) = (pod(&objects), pod(&objects));
    let known = daemon.mount_files(&before).await;
    let backup = cluster.save_snapshot().await;
    cluster.root_request("POST", "kv/data/n", json!({"data": {"n": "1"}})).await;
    let lost = daemon.mount_files(&after).await;
    assert_eq!(lost["n"], "1");
    cluster.restore_snapshot(&backup).await;
    advance(Duration::from_secs(11)).await;
    assert_eq!(poll_until_success(&daemon, &before).await, known, "credentials in the backup stay valid");
    let new = poll_until_success(&daemon, &after).await;
    assert_eq!(new["n"], "0", "the restored value, although the pod's cluster index is higher");
    assert_ne!(new["user"], lost["user"]);
    advance(Duration::from_secs(11)).await;
    assert_eq!(daemon.mount_files(&after).await, new);
    // No pod uses one of these users.
    assert_eq!(count_database_users(&prefix).await, 3);
}

/// Polls until a poll succeeds, and returns the pod's files. Standbys redirect for a moment after a restore. Polls with
/// a mutating request fail meanwhile and leave the files unchanged.
async fn poll_until_success(daemon: &Daemon, pod: &Pod) -> BTreeMap<String, String> {
    for _ in 0..600 {
        match daemon.mount(pod.mount_call()).await {
            Ok(_) => return daemon.mount_files(pod).await,
            Err(status) => assert!(status.message().contains("[VM0012]"), "{status}"),
        }
        sleep(Duration::from_millis(100)).await;
    }
    panic!("no poll goes well");
}

/// Polls pods while leaders are killed `kills` times; a failed poll fails the test.
async fn assert_leader_kills_fail_no_poll(kills: usize, pods: usize) {
    let (mut cluster, prefix) = cluster_with_database().await;
    let daemon = Arc::new(Daemon::start_at(&cluster.address, &[]).await);
    let written = Arc::new(AtomicU64::new(0));
    cluster.root_request("POST", "kv/data/n", json!({"data": {"n": "0"}})).await;
    let objects = format!("{COUNTER_OBJECT}- {{objectName: user, secretPath: db/creds/app, secretKey: username}}\n");
    let pods: Vec<Pod> = (0..pods).map(|_| pod(&objects)).collect();
    let first = join_all(pods.iter().map(|pod| daemon.mount_files(pod))).await;
    let users_of: HashMap<String, String> =
        pods.iter().zip(first).map(|(pod, mut files)| (pod.uid.clone(), files.remove("user").unwrap())).collect();
    assert_eq!(count_database_users(&prefix).await, pods.len());

    let (stop, polls, reads) =
        (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)), Arc::new(Mutex::new(0)));
    let polling = pods.iter().cloned().map(|pod| {
        let (daemon, stop, polls, user) = (daemon.clone(), stop.clone(), polls.clone(), users_of[&pod.uid].clone());
        let reads = reads.clone();
        tokio::spawn(async move {
            let mut last = 0;
            while !stop.load(SeqCst) {
                let call = MountCall { timeout: Some(Duration::from_secs(110)), ..pod.mount_call() };
                let begun = Instant::now();
                let mounted = daemon.mount(call).await.unwrap_or_else(|status| panic!("a poll failed: {status}"));
                assert!(begun.elapsed() < Duration::from_secs(5), "a poll took {:?}", begun.elapsed());
                let file = |name: &str| {
                    let file = mounted.files.iter().find(|file| file.path == name).unwrap();
                    String::from_utf8(file.contents.to_vec()).unwrap()
                };
                let now: u64 = file("n").parse().unwrap();
                assert!(now >= last, "a file went back from {last} to {now}");
                *reads.lock().await += usize::from(now > last);
                last = now;
                assert_eq!(file("user"), user, "a credential was made anew");
                polls.fetch_add(1, SeqCst);
                sleep(Duration::from_millis(300)).await;
            }
        })
    });
    let polling: Vec<_> = polling.collect();
    for _ in 0..kills {
        for _ in 0..10 {
            let n = written.fetch_add(1, SeqCst) + 1;
            cluster.root_request("POST", "kv/data/n", json!({"data": {"n": n.to_string()}})).await;
            sleep(Duration::from_millis(100)).await;
        }
        let leader = cluster.leader().await;
        cluster.kill(leader).await;
        cluster.leader().await;
        for _ in 0..10 {
            let n = written.fetch_add(1, SeqCst) + 1;
            cluster.root_request("POST", "kv/data/n", json!({"data": {"n": n.to_string()}})).await;
            sleep(Duration::from_millis(100)).await;
        }
        cluster.restart(leader).await;
        cluster.wait_until_ready().await;
    }
    // Long enough for every pod to read once more.
    sleep(Duration::from_secs(12)).await;
    stop.store(true, SeqCst);
    for task in polling {
        task.await.unwrap();
    }
    assert!(polls.load(SeqCst) > pods.len() * 20, "{} polls", polls.load(SeqCst));
    assert!(*reads.lock().await >= pods.len(), "{} reads brought something newer", reads.lock().await);
    assert_eq!(count_database_users(&prefix).await, pods.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn leader_kill_under_load_fails_no_poll() {
    assert_leader_kills_fail_no_poll(1, 20).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes minutes: make soak"]
async fn repeated_leader_kills_fail_no_poll() {
    assert_leader_kills_fail_no_poll(8, 40).await;
}
