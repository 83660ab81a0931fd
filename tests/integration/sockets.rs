//! The socket: old drivers, takeover, drain.

use std::{path::Path, process::Stdio, time::Duration};

use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    process::{Child, Command},
    time::{Instant, sleep},
};
use vaultmount::provider::{
    client::{Client, MountCall},
    pb::MountRequest,
};

use crate::{
    admin_endpoints::{free_address, get},
    support::{
        bao::Tenant,
        daemon::{self, Daemon, ProviderProcess},
        pod::Pod,
        required_env,
    },
};

/// Returns the Mount call of a pod with one KV secret.
async fn kv_mount_call() -> MountCall {
    let tenant = Tenant::new().await;
    tenant.write_secret("db", json!({"pass": "s3cret"})).await;
    Pod::for_tenant(&tenant)
        .with_objects(format!("- {{objectName: a, secretPath: {}/data/db, secretKey: pass}}", tenant.kv))
        .mount_call()
}

/// Starts an old driver that calls Mount until its standard input ends.
async fn start_old_driver(socket: &Path, call: &MountCall, threads: u32) -> Child {
    let request = socket.with_extension("request");
    let message = MountRequest {
        attributes: call.attributes.clone(),
        secrets: call.secrets.clone(),
        target_path: call.target_path.clone(),
        permission: call.permission.clone(),
        current_object_version: Vec::new(),
    };
    std::fs::write(&request, prost::Message::encode_to_vec(&message)).unwrap();
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/integration/driver.py");
    let mut command = Command::new(required_env("VAULTMOUNT_TEST_PYTHON"));
    command.arg(script).arg(socket).arg(request).arg(threads.to_string());
    let mut driver = command.stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true).spawn().unwrap();
    let mut line = [0; 8];
    driver.stdout.as_mut().unwrap().read_exact(&mut line).await.unwrap();
    assert_eq!(&line, b"calling\n");
    driver
}

/// Stops the driver and returns the number of successful calls, the number of failed calls, and the first failure.
async fn stop_and_count(mut driver: Child) -> (u32, u32, String) {
    driver.stdin.take().unwrap().shutdown().await.unwrap();
    let output = driver.wait_with_output().await.unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let mut words = text.splitn(3, ' ');
    let mut number = || words.next().unwrap().parse().unwrap_or_else(|_| panic!("{text}"));
    (number(), number(), words.next().unwrap().trim().to_owned())
}

#[tokio::test]
async fn socket_path_as_grpc_authority_is_accepted() {
    let (call, daemon) = (kv_mount_call().await, Daemon::start(&[]).await);
    let driver = start_old_driver(&daemon.socket, &call, 1).await;
    let (ok, failed, first) = stop_and_count(driver).await;
    assert!(ok >= 2 && failed == 0, "{ok} {failed} {first}");
}

#[tokio::test(flavor = "multi_thread")]
async fn handover_to_second_process_fails_no_call() {
    let call = kv_mount_call().await;
    let first = ProviderProcess::start(&[]).await;
    let driver = start_old_driver(&first.socket, &call, 4).await;
    let mut reached = Client::connect(&first.socket).await.unwrap();
    reached.mount(call.clone()).await.unwrap();
    let mut last = None;
    for _ in 0..3 {
        let (successor, _) = daemon::spawn_provider(first.folder.path(), &first.socket, &[]).await;
        if let Some(predecessor) = last.replace(successor) {
            terminate_and_wait(predecessor).await;
        }
        sleep(Duration::from_millis(100)).await;
    }
    let socket = first.socket.clone();
    first.terminate();
    let ProviderProcess { child: mut first, folder, .. } = first;
    assert!(first.wait().await.unwrap().success());
    assert!(Client::connect(&socket).await.unwrap().mount(call).await.is_ok(), "the name is the successor's");
    let (ok, failed, why) = stop_and_count(driver).await;
    assert!(ok > 20 && failed == 0, "{ok} calls succeeded, {failed} failed: {why}");
    terminate_and_wait(last.unwrap()).await;
    let left: Vec<_> = std::fs::read_dir(folder.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert!(!left.iter().any(|n| ["sock", "status"].iter().any(|part| n.to_string_lossy().contains(part))), "{left:?}");
}

#[tokio::test]
async fn predecessor_reclaims_socket_from_ended_successor() {
    let call = kv_mount_call().await;
    let predecessor = ProviderProcess::start(&[]).await;
    for killed in [false, true] {
        let (mut successor, _) = daemon::spawn_provider(predecessor.folder.path(), &predecessor.socket, &[]).await;
        if killed {
            successor.kill().await.unwrap();
        } else {
            terminate_and_wait(successor).await;
        }
        let begin = Instant::now();
        let mut client = loop {
            match Client::connect(&predecessor.socket).await {
                Ok(client) => break client,
                Err(error) => assert!(begin.elapsed() < Duration::from_secs(10), "{error}"),
            }
            sleep(Duration::from_millis(20)).await;
        };
        client.mount(call.clone()).await.unwrap();
    }
    predecessor.terminate();
    let log = predecessor.wait_for_log().await;
    for name in ["vault.sock", "vault.status"] {
        let taken_back =
            |line: &&str| line.contains("socket path reclaimed from a dead process") && line.ends_with(name);
        assert_eq!(log.lines().filter(taken_back).count(), 2, "{name}: {log}");
    }
}

async fn terminate_and_wait(mut program: Child) {
    let pid = program.id().unwrap().to_string();
    assert!(std::process::Command::new("kill").arg(pid).status().unwrap().success());
    assert!(program.wait().await.unwrap().success());
}

#[tokio::test]
async fn drain_timeout_completes_in_flight_calls() {
    // A server that never responds: the mount uses its whole deadline.
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("--vault-addr=http://{}", silent.local_addr().unwrap());
    let mut call = kv_mount_call().await;
    call.timeout = Some(Duration::from_millis(1500));
    let health = free_address();
    let program = ProviderProcess::start(&[&address, &format!("--health-addr={health}")]).await;
    let mut client = Client::connect(&program.socket).await.unwrap();
    let mount = tokio::spawn(async move { client.mount(call).await.err().unwrap() });
    silent.accept().await.unwrap();
    let probe = async |path: &str| get(&format!("http://{health}{path}")).await;
    assert_eq!(probe("/readyz").await, (200, "ok\n".to_owned()));
    program.terminate();
    while probe("/readyz").await.0 == 200 {}
    assert_eq!(probe("/readyz").await, (503, "draining\n".to_owned()));
    for path in ["/livez", "/health/ready"] {
        assert_eq!(probe(path).await.0, 200, "{path}");
    }
    let status = mount.await.unwrap();
    assert_eq!(status.code(), tonic::Code::DeadlineExceeded, "{status}");
    let start = Instant::now();
    let log = program.wait_for_log().await;
    assert!(log.contains("stopping") && !log.contains("drain timeout"), "{log}");
    assert!(start.elapsed() < Duration::from_secs(5));
}

#[tokio::test]
async fn version_call_returns_runtime_name() {
    let daemon = Daemon::start(&[]).await;
    let version = Client::connect(&daemon.socket).await.unwrap().version().await.unwrap();
    assert_eq!((version.version.as_str(), version.runtime_name.as_str()), ("v1alpha1", "vaultmount"));
    assert_eq!(version.runtime_version.split('.').count(), 3);
}
