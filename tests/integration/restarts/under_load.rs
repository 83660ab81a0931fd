//! A hundred pods under continuous polls, while processes are killed and replaced.

use std::{
    collections::HashMap,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use futures_util::future::join_all;
use tokio::time::{Instant, sleep};
use vaultmount::provider::client::Client;

use super::{RestartFixture, VolumeContents, volume_contents};
use crate::support::pod::Pod;

const PODS: usize = 100;
/// Attempts of a driver that receives `Unavailable`.
const MAX_ATTEMPTS: u32 = 3;

/// A driver: keeps its connection, waits for a missing socket, and makes three attempts on `Unavailable`.
struct Driver {
    socket: PathBuf,
    client: Option<Client>,
}

impl Driver {
    async fn mount(&mut self, pod: &Pod) -> Result<VolumeContents, tonic::Status> {
        let begun = Instant::now();
        let mut attempt = 0;
        loop {
            let Some(client) = &mut self.client else {
                assert!(begun.elapsed() < Duration::from_secs(30), "the socket does not respond");
                self.client = Client::connect(&self.socket).await.ok();
                if self.client.is_none() {
                    sleep(Duration::from_millis(10)).await;
                }
                continue;
            };
            match client.mount(pod.mount_call()).await {
                Ok(mounted) => return Ok(volume_contents(mounted)),
                Err(status) => {
                    self.client = None;
                    // The connection had ended before the call: grpc-go opens another and sends the call there.
                    if status.message().contains("not ready") {
                        continue;
                    }
                    // A status that no server sent means a closed connection, which grpc-go reports as `Unavailable` as
                    // well.
                    let is_broken = matches!(status.code(), tonic::Code::Unknown | tonic::Code::Cancelled);
                    attempt += 1;
                    if attempt == MAX_ATTEMPTS || (status.code() != tonic::Code::Unavailable && !is_broken) {
                        return Err(status);
                    }
                    sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }
}

/// Polls in progress, which must always return the same response.
struct Polling {
    stop: Arc<AtomicBool>,
    polls: Arc<AtomicUsize>,
    tasks: Vec<tokio::task::JoinHandle<()>>,
}

impl Polling {
    fn start(
        node: &RestartFixture,
        pods: &Arc<Vec<Pod>>,
        had: &Arc<HashMap<String, VolumeContents>>,
        drivers: usize,
    ) -> Self {
        let (stop, polls) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let tasks = (0..drivers).map(|first| {
            let (stop, polls, pods, had) = (stop.clone(), polls.clone(), pods.clone(), had.clone());
            let mut driver = Driver { socket: node.socket(), client: None };
            tokio::spawn(async move {
                for pod in pods.iter().cycle().skip(first * PODS / drivers) {
                    if stop.load(SeqCst) {
                        return;
                    }
                    let mounted = driver.mount(pod).await.unwrap_or_else(|status| panic!("a poll failed: {status}"));
                    assert!(mounted == had[&pod.uid], "a pod has something else now");
                    polls.fetch_add(1, SeqCst);
                    sleep(Duration::from_millis(2)).await;
                }
            })
        });
        let tasks = tasks.collect();
        Self { stop, polls, tasks }
    }

    /// Waits until this many further polls have succeeded.
    async fn wait_for_polls(&self, more: usize) {
        let target = self.polls.load(SeqCst) + more;
        while self.polls.load(SeqCst) < target {
            assert!(!self.tasks.iter().any(tokio::task::JoinHandle::is_finished), "a poll failed");
            sleep(Duration::from_millis(5)).await;
        }
    }

    async fn stop(self) {
        self.stop.store(true, SeqCst);
        for task in self.tasks {
            task.await.unwrap();
        }
    }
}

async fn mount_all_pods(node: &RestartFixture) -> (Arc<Vec<Pod>>, Arc<HashMap<String, VolumeContents>>) {
    let pods: Vec<Pod> = (0..PODS).map(|_| node.pod()).collect();
    let had = join_all(pods.iter().map(async |pod| (pod.uid.clone(), node.mount(pod).await))).await;
    (Arc::new(pods), Arc::new(had.into_iter().collect()))
}

#[tokio::test(flavor = "multi_thread")]
async fn handover_under_load_costs_no_login() {
    let node = RestartFixture::new().await;
    let mut process = node.start().await;
    let (pods, had) = mount_all_pods(&node).await;
    let polling = Polling::start(&node, &pods, &had, 8);
    for _ in 0..3 {
        let successor = node.start().await;
        // kubelet waits for readiness, then stops the predecessor.
        polling.wait_for_polls(PODS).await;
        process.stop().await;
        process = successor;
        polling.wait_for_polls(PODS).await;
    }
    polling.stop().await;
    assert_eq!((node.count_logins(), node.count_credential_requests()), (PODS, PODS));
    assert_eq!(node.database.users().await.len(), PODS);
    process.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn kill_under_load_costs_only_in_flight_mounts() {
    const KILLS: u64 = 5;
    let node = RestartFixture::new().await;
    let mut process = node.start().await;
    let (pods, had) = mount_all_pods(&node).await;
    let polling = Polling::start(&node, &pods, &had, 8);
    let mut new = Vec::new();
    let mut in_flight = 0;
    for kill in 0..KILLS {
        // New pods arrive while the process is killed.
        let comers: Vec<Pod> = (0..4).map(|_| node.pod()).collect();
        let mounts = comers.iter().map(async |pod| {
            let mut driver = Driver { socket: node.socket(), client: None };
            driver.mount(pod).await.unwrap_or_else(|status| panic!("a new pod failed: {status}"))
        });
        let killed = async {
            sleep(Duration::from_millis(1 + kill * 7)).await;
            process.kill().await;
            sleep(Duration::from_millis(50)).await;
            node.start().await
        };
        let (mounts, successor) = tokio::join!(join_all(mounts), killed);
        process = successor;
        in_flight += mounts.len();
        new.extend(comers.into_iter().zip(mounts));
        polling.wait_for_polls(PODS).await;
    }
    polling.stop().await;
    for (pod, had) in &new {
        assert_eq!(&node.mount(pod).await, had, "what a new pod was given at last");
    }
    let pods = PODS + new.len();
    for (what, number) in [("logins", node.count_logins()), ("credentials", node.count_credential_requests())] {
        assert!(
            (pods..=pods + in_flight).contains(&number),
            "{number} {what} of {pods} pods, {in_flight} were in flight"
        );
    }
    assert!(node.database.users().await.len() <= pods + in_flight);
    process.stop().await;
}
