//! Two processes at once: an update, and one that fails.

use std::time::Duration;

use tokio::{
    task::JoinHandle,
    time::{Instant, sleep},
};
use vaultmount::provider::{client::Client, pb::MountResponse};

use super::{Node, until};
use crate::{
    operating::{free, get},
    support::{
        faulty::{Fault, Gate},
        pod::Pod,
    },
};

impl Node {
    /// A mount that has asked for its credential, which Vault is not told before the gate opens.
    async fn held_mount(&self, pod: &Pod) -> (JoinHandle<Result<MountResponse, tonic::Status>>, Gate) {
        let (path, gate) = (&self.database.path, Gate::new());
        let asked = self.vault.count("GET", path);
        self.vault.next(1, "GET", path, Fault::Hold(gate.clone()));
        let (mut client, call) = (Client::connect(&self.socket()).await.unwrap(), pod.call());
        let mount = tokio::spawn(async move { client.mount(call).await });
        self.vault.saw(asked + 1, "GET", path).await;
        (mount, gate)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_successor_has_everything_before_its_predecessor_is_told_to_stop() {
    let node = Node::new().await;
    let pods = [node.pod(), node.pod()];
    let mut process = node.start().await;
    let mut had = Vec::new();
    for pod in &pods {
        had.push(node.mount(pod).await);
    }
    let requests = node.requests();
    for _ in 0..3 {
        // The connection that a driver keeps.
        let mut kept = Client::connect(&node.socket()).await.unwrap();
        kept.mount(pods[0].call()).await.unwrap();
        let successor = node.start().await;
        let begun = Instant::now();
        for (pod, had) in pods.iter().zip(&had) {
            assert_eq!(&node.mount(pod).await, had);
        }
        assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
        until("the predecessor's connection is closed", async || kept.version().await.is_err()).await;
        let log = process.stop().await;
        assert!(log.contains("handed over"), "{log}");
        process = successor;
    }
    assert_eq!(node.requests(), requests);
    node.ends(&pods).await;
    process.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_predecessor_takes_everything_back_from_a_successor_that_ends_first() {
    let node = Node::new().await;
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
        // Whoever comes in the moment before the folder is back is told to try again, and so does the driver.
        until("the name is taken back", async || match Client::connect(&node.socket()).await {
            Ok(mut client) => client.mount(pod.call()).await.is_ok(),
            Err(_) => false,
        })
        .await;
        let requests = node.requests();
        assert_eq!(node.mount(&pod).await, had);
        node.mount(later.last().unwrap()).await;
        assert_eq!(node.requests(), requests, "also what the successor gave");
    }
    later.push(pod);
    node.ends(&later).await;
    predecessor.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mount_that_outlasts_the_handover_is_not_given_what_nobody_would_know() {
    // Replaced: the driver tries again, and finds the successor.
    let node = Node::new().await;
    let pod = node.pod();
    let predecessor = node.start_with(&["--drain-timeout=300ms"]).await;
    let (mount, gate) = node.held_mount(&pod).await;
    let successor = node.start().await;
    // The successor has the folder once it answers.
    let other = node.pod();
    node.mount(&other).await;
    gate.open();
    let refused = mount.await.unwrap().map(|_| ()).unwrap_err();
    assert_eq!(refused.code(), tonic::Code::Unavailable, "{refused}");
    assert!(refused.message().contains("[VM0104]"), "{refused}");
    // Under the token that was kept before it was used.
    node.mount(&pod).await;
    assert_eq!((node.logins(), node.created()), (2, 3));
    node.ends(&[pod, other]).await;
    predecessor.stop().await;
    successor.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mount_waits_for_a_predecessor_that_still_answers() {
    let node = Node::new().await;
    let (slow, pod) = (node.pod(), node.pod());
    let predecessor = node.start().await;
    let had = node.mount(&pod).await;
    let (mount, gate) = node.held_mount(&slow).await;
    let successor = node.start().await;
    let (waited, ()) = tokio::join!(node.mount(&pod), async {
        sleep(Duration::from_millis(300)).await;
        gate.open();
    });
    assert_eq!(waited, had);
    let slow_had = super::had(mount.await.unwrap().unwrap());
    assert_eq!(node.mount(&slow).await, slow_had, "what the predecessor gave while it drained");
    assert_eq!((node.logins(), node.created()), (2, 2));
    node.ends(&[slow, pod]).await;
    predecessor.stop().await;
    successor.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_successor_without_its_key_takes_nothing() {
    let node = Node::new().await;
    let pod = node.pod();
    let of_secret = ["--hmac-key-file="];
    let predecessor = node.start_with(&of_secret).await;
    let had = node.mount(&pod).await;
    node.api.hold();
    let health = free();
    let probed = [of_secret[0], &format!("--health-addr={health}")];
    let (successor, ()) = tokio::join!(node.start_with(&probed), async {
        for _ in 0..10 {
            assert_eq!(node.mount(&pod).await, had, "answered by the predecessor");
            sleep(Duration::from_millis(100)).await;
        }
        // Whoever ended it for that would begin it anew, and would have to wait again.
        for (path, status) in [("/livez", 200), ("/health/ready", 200), ("/readyz", 503)] {
            assert_eq!(get(&format!("http://{health}{path}")).await.0, status, "{path}");
        }
        node.api.release();
    });
    assert_eq!(get(&format!("http://{health}/readyz")).await.0, 200);
    assert_eq!(node.mount(&pod).await, had);
    assert_eq!(node.logins(), 1);
    predecessor.stop().await;
    node.ends(&[pod]).await;
    successor.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn told_to_stop_while_it_hands_over_it_answers_what_is_in_flight() {
    let node = Node::new().await;
    let pod = node.pod();
    let predecessor = node.start().await;
    let (mount, gate) = node.held_mount(&pod).await;
    let successor = node.start().await;
    sleep(Duration::from_millis(300)).await;
    let (log, ()) = tokio::join!(predecessor.stop(), async {
        sleep(Duration::from_millis(300)).await;
        gate.open();
    });
    let had = super::had(mount.await.unwrap().unwrap_or_else(|status| panic!("{status}: {log}")));
    assert_eq!(node.mount(&pod).await, had);
    assert_eq!((node.logins(), node.created()), (1, 1));
    node.ends(&[pod]).await;
    successor.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_socket_is_handed_over() {
    let node = Node::new().await;
    let second = node.folder.path().join("openbao.sock");
    let both = format!("--endpoint={}", second.display());
    let pod = node.pod().with("audience", "vault");
    let mut process = node.start_with(&[&both]).await;
    let had = node.mount(&pod).await;
    let requests = node.requests();
    for _ in 0..5 {
        let mut kept = Client::connect(&second).await.unwrap();
        kept.mount(pod.call()).await.unwrap();
        let successor = node.start_with(&[&both]).await;
        until("the predecessor's connection is closed", async || kept.version().await.is_err()).await;
        let begun = Instant::now();
        let through = Client::connect(&second).await.unwrap().mount(pod.call()).await.unwrap();
        assert_eq!(super::had(through), had);
        assert_eq!(node.mount(&pod).await, had);
        assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
        process.stop().await;
        process = successor;
    }
    assert_eq!(node.requests(), requests);
    process.stop().await;
}
