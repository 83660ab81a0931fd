//! Handover between two processes: an update, and an update that fails.

use std::time::Duration;

use tokio::{
    task::JoinHandle,
    time::{Instant, sleep},
};
use vaultmount::provider::{client::Client, pb::MountResponse};

use super::{RestartFixture, wait_until};
use crate::{
    admin_endpoints::{free_address, get},
    support::{
        fault_proxy::{Fault, Gate},
        pod::Pod,
    },
};

impl RestartFixture {
    /// Starts a mount with a credential request that the gate holds back from Vault.
    async fn start_held_mount(&self, pod: &Pod) -> (JoinHandle<Result<MountResponse, tonic::Status>>, Gate) {
        let (path, gate) = (&self.database.path, Gate::new());
        let count_before = self.vault.count("GET", path);
        self.vault.next(1, "GET", path, Fault::HoldRequest(gate.clone()));
        let (mut client, call) = (Client::connect(&self.socket()).await.unwrap(), pod.mount_call());
        let mount = tokio::spawn(async move { client.mount(call).await });
        self.vault.wait_for(count_before + 1, "GET", path).await;
        (mount, gate)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn successor_serves_all_before_predecessor_stops() {
    let node = RestartFixture::new().await;
    let pods = [node.pod(), node.pod()];
    let mut process = node.start().await;
    let mut had = Vec::new();
    for pod in &pods {
        had.push(node.mount(pod).await);
    }
    let requests = node.count_requests();
    for _ in 0..3 {
        // The driver's existing connection.
        let mut kept = Client::connect(&node.socket()).await.unwrap();
        kept.mount(pods[0].mount_call()).await.unwrap();
        let successor = node.start().await;
        let begun = Instant::now();
        for (pod, had) in pods.iter().zip(&had) {
            assert_eq!(&node.mount(pod).await, had);
        }
        assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
        wait_until("the predecessor's connection is closed", async || kept.version().await.is_err()).await;
        let log = process.stop().await;
        assert!(log.contains("handed over"), "{log}");
        process = successor;
    }
    assert_eq!(node.count_requests(), requests);
    node.assert_deletion_revokes_all(&pods).await;
    process.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn predecessor_reclaims_sessions_from_ended_successor() {
    let node = RestartFixture::new().await;
    let (pod, mut later) = (node.pod(), Vec::new());
    let predecessor = node.start().await;
    let had = node.mount(&pod).await;
    for killed in [true, false] {
        let successor = node.start().await;
        later.push(node.pod());
        node.mount(later.last().unwrap()).await;
        if killed {
            successor.kill().await;
        } else {
            successor.stop().await;
        }
        // A mount just before the state directory is back gets a retryable error, and the driver retries.
        wait_until("the socket path is reclaimed", async || match Client::connect(&node.socket()).await {
            Ok(mut client) => client.mount(pod.mount_call()).await.is_ok(),
            Err(_) => false,
        })
        .await;
        let requests = node.count_requests();
        assert_eq!(node.mount(&pod).await, had);
        node.mount(later.last().unwrap()).await;
        assert_eq!(node.count_requests(), requests, "secrets of the successor are cached as well");
    }
    later.push(pod);
    node.assert_deletion_revokes_all(&later).await;
    predecessor.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn drain_timeout_exceeded_in_handover_rejects_mount() {
    // The predecessor answers with `ProcessSuperseded`: the driver retries and finds the successor.
    let node = RestartFixture::new().await;
    let pod = node.pod();
    let predecessor = node.start_with(&["--drain-timeout=300ms"]).await;
    let (mount, gate) = node.start_held_mount(&pod).await;
    let successor = node.start().await;
    // Once the successor responds, it has the state directory.
    let other = node.pod();
    node.mount(&other).await;
    gate.open();
    let refused = mount.await.unwrap().map(|_| ()).unwrap_err();
    assert_eq!(refused.code(), tonic::Code::Unavailable, "{refused}");
    assert!(refused.message().contains("[VM0104]"), "{refused}");
    // The pod uses the session token that the predecessor persisted before its first use.
    node.mount(&pod).await;
    assert_eq!((node.count_logins(), node.count_credential_requests()), (2, 3));
    node.assert_deletion_revokes_all(&[pod, other]).await;
    predecessor.stop().await;
    successor.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn mount_waits_for_draining_predecessor() {
    let node = RestartFixture::new().await;
    let (slow, pod) = (node.pod(), node.pod());
    let predecessor = node.start().await;
    let had = node.mount(&pod).await;
    let (mount, gate) = node.start_held_mount(&slow).await;
    let successor = node.start().await;
    let (waited, ()) = tokio::join!(node.mount(&pod), async {
        sleep(Duration::from_millis(300)).await;
        gate.open();
    });
    assert_eq!(waited, had);
    let slow_had = super::volume_contents(mount.await.unwrap().unwrap());
    assert_eq!(node.mount(&slow).await, slow_had, "what the predecessor gave while it drained");
    assert_eq!((node.count_logins(), node.count_credential_requests()), (2, 2));
    node.assert_deletion_revokes_all(&[slow, pod]).await;
    predecessor.stop().await;
    successor.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn successor_without_hmac_key_takes_over_nothing() {
    let node = RestartFixture::new().await;
    let pod = node.pod();
    let of_secret = ["--hmac-key-file="];
    let predecessor = node.start_with(&of_secret).await;
    let had = node.mount(&pod).await;
    node.api.pause();
    let health = free_address();
    let probed = [of_secret[0], &format!("--health-addr={health}")];
    let (successor, ()) = tokio::join!(node.start_with(&probed), async {
        for _ in 0..10 {
            assert_eq!(node.mount(&pod).await, had, "answered by the predecessor");
            sleep(Duration::from_millis(100)).await;
        }
        // Restarting the process for that would only start the wait again.
        for (path, status) in [("/livez", 200), ("/health/ready", 200), ("/readyz", 503)] {
            assert_eq!(get(&format!("http://{health}{path}")).await.0, status, "{path}");
        }
        node.api.resume();
    });
    assert_eq!(get(&format!("http://{health}/readyz")).await.0, 200);
    assert_eq!(node.mount(&pod).await, had);
    assert_eq!(node.count_logins(), 1);
    predecessor.stop().await;
    node.assert_deletion_revokes_all(&[pod]).await;
    successor.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sigterm_during_handover_completes_in_flight_mount() {
    let node = RestartFixture::new().await;
    let pod = node.pod();
    let predecessor = node.start().await;
    let (mount, gate) = node.start_held_mount(&pod).await;
    let successor = node.start().await;
    sleep(Duration::from_millis(300)).await;
    let (log, ()) = tokio::join!(predecessor.stop(), async {
        sleep(Duration::from_millis(300)).await;
        gate.open();
    });
    let had = super::volume_contents(mount.await.unwrap().unwrap_or_else(|status| panic!("{status}: {log}")));
    assert_eq!(node.mount(&pod).await, had);
    assert_eq!((node.count_logins(), node.count_credential_requests()), (1, 1));
    node.assert_deletion_revokes_all(&[pod]).await;
    successor.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_endpoint_socket_is_handed_over() {
    let node = RestartFixture::new().await;
    let second = node.folder.path().join("openbao.sock");
    let both = format!("--endpoint={}", second.display());
    let pod = node.pod().with_parameter("audience", "vault");
    let mut process = node.start_with(&[&both]).await;
    let had = node.mount(&pod).await;
    let requests = node.count_requests();
    for _ in 0..5 {
        let mut kept = Client::connect(&second).await.unwrap();
        kept.mount(pod.mount_call()).await.unwrap();
        let successor = node.start_with(&[&both]).await;
        wait_until("the predecessor's connection is closed", async || kept.version().await.is_err()).await;
        let begun = Instant::now();
        let through = Client::connect(&second).await.unwrap().mount(pod.mount_call()).await.unwrap();
        assert_eq!(super::volume_contents(through), had);
        assert_eq!(node.mount(&pod).await, had);
        assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
        process.stop().await;
        process = successor;
    }
    assert_eq!(node.count_requests(), requests);
    process.stop().await;
}
