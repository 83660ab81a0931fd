//! Simulated pods, with the calls of kubelet and the driver.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{
            AtomicBool, AtomicUsize,
            Ordering::{Relaxed, SeqCst},
        },
    },
    time::Duration,
};

use tokio::time::{Instant, sleep};
use vaultmount::provider::client::Client;

use crate::{
    NODE,
    kube_api::KubeApi,
    support::{
        bao::Tenant,
        database::{DatabaseEngine, log_in},
        pod::Pod,
        unique_name,
    },
};

/// Number of concurrent pods.
pub const PODS: usize = 300;
/// Kubernetes namespace of the pods.
const NAMESPACE: &str = "shop";
/// Value of the KV secrets.
pub const SECRET_VALUE: &str = "3q8Zt1vXw0cB7nLk5mRy2dJh9fPs6gTe";
/// Backoff after a failed first mount. It doubles up to [`MAX_BACKOFF`], like kubelet's.
const INITIAL_BACKOFF: Duration = Duration::from_millis(500);
const MAX_BACKOFF: Duration = Duration::from_secs(10);

/// Files of a mounted pod.
#[derive(Clone, PartialEq, Eq)]
pub struct MountedFiles {
    pub name: String,
    pub uid: String,
    pub username: String,
    pub password: String,
}

/// Node with its pods, faults and errors.
pub struct Node {
    pub tenant: Arc<Tenant>,
    pub database: DatabaseEngine,
    pub api: KubeApi,
    driver: Client,
    churn_stopped: AtomicBool,
    /// Mounted pods, by slot.
    mounted: Mutex<BTreeMap<usize, MountedFiles>>,
    errors: Mutex<Vec<String>>,
    faults: Mutex<Faults>,
    counts: Counts,
}

#[derive(Default)]
struct Faults {
    /// Active fault per target.
    active: BTreeMap<&'static str, &'static str>,
    /// Number of injections per fault.
    totals: BTreeMap<&'static str, usize>,
}

#[derive(Default)]
struct Counts {
    pods: AtomicUsize,
    first_mounts: AtomicUsize,
    first_mounts_failed: AtomicUsize,
    polls: AtomicUsize,
    polls_failed: AtomicUsize,
    new_credentials: AtomicUsize,
    verifications: AtomicUsize,
    verifications_failed: AtomicUsize,
    ends: [AtomicUsize; POD_ENDS.len()],
}

/// Way in which a pod ends.
#[derive(Clone, Copy)]
enum PodEnd {
    Deleted,
    Terminated,
    Finished,
    Replaced,
    InFirstMount,
    PolledAfter,
}

/// Ends with their share of twenty and their description.
const POD_ENDS: [(PodEnd, u64, &str); 6] = [
    (PodEnd::Deleted, 8, "deleted"),
    (PodEnd::Terminated, 4, "terminated slowly"),
    (PodEnd::Finished, 2, "finished"),
    (PodEnd::Replaced, 4, "replaced under their name"),
    (PodEnd::InFirstMount, 1, "deleted in their first mount"),
    (PodEnd::PolledAfter, 1, "polled once more after their end"),
];

/// Deterministic pseudo-random numbers.
pub struct Rng(u64);

impl Rng {
    pub fn new(seed: usize) -> Self {
        Self(seed as u64 ^ 0x5bd1_e995_7f4a_7c15)
    }

    /// Returns a number below a bound.
    pub fn below(&mut self, below: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % below
    }

    /// Returns a duration between two bounds in milliseconds.
    pub fn duration_between(&mut self, min: u64, max: u64) -> Duration {
        Duration::from_millis(min + self.below(max - min))
    }
}

impl Node {
    pub fn new(tenant: Arc<Tenant>, database: DatabaseEngine, api: KubeApi, driver: Client) -> Self {
        Self {
            tenant,
            database,
            api,
            driver,
            churn_stopped: AtomicBool::new(false),
            mounted: Mutex::default(),
            errors: Mutex::default(),
            faults: Mutex::default(),
            counts: Counts::default(),
        }
    }

    /// Runs one pod after another. After [`stop_churn`](Self::stop_churn), the last pod stays.
    pub async fn run_slot(self: Arc<Self>, slot: usize) {
        let mut dice = Rng::new(slot);
        let mut name = unique_name("pod");
        // Spread the start of the pods.
        sleep(dice.duration_between(0, 15_000)).await;
        loop {
            let mut roll = dice.below(20);
            let end = POD_ENDS.iter().position(|(_, share, _)| {
                let is_it = roll < *share;
                roll = roll.wrapping_sub(*share);
                is_it
            });
            let end = end.unwrap();
            name = self.run_pod(slot, name, end, &mut dice).await;
            self.counts.ends[end].fetch_add(1, Relaxed);
        }
    }

    /// Runs a pod from its creation to its end. Returns the name of the next pod.
    async fn run_pod(&self, slot: usize, name: String, end: usize, dice: &mut Rng) -> String {
        let pod = self.create_pod(name);
        let (end, ..) = POD_ENDS[end];
        if let (PodEnd::InFirstMount, false) = (end, self.is_churn_stopped()) {
            let ends = async {
                sleep(dice.duration_between(0, 30)).await;
                self.api.delete_pod(&pod.namespace, &pod.name);
            };
            let _ = tokio::join!(self.mount(&pod), ends);
            sleep(dice.duration_between(0, 3000)).await;
            return unique_name("pod");
        }
        let mut pause = INITIAL_BACKOFF;
        let mut files = loop {
            self.counts.first_mounts.fetch_add(1, Relaxed);
            if let Ok(files) = self.mount(&pod).await {
                break files;
            }
            self.counts.first_mounts_failed.fetch_add(1, Relaxed);
            sleep(pause).await;
            pause = MAX_BACKOFF.min(pause * 2);
        };
        self.mounted.lock().unwrap().insert(slot, files.clone());
        // Most pods live briefly, some for a long time.
        let share = dice.below(1000);
        let life = Duration::from_millis(15_000 + share * share / 5);
        let (begun, gap) = (Instant::now(), dice.duration_between(2000, 6000));
        while begun.elapsed() < life || self.is_churn_stopped() {
            sleep(dice.duration_between(gap.as_millis() as u64 * 9 / 10, gap.as_millis() as u64)).await;
            self.poll(slot, &pod, &mut files).await;
        }
        if let PodEnd::Terminated = end {
            self.api.begin_pod_deletion(&pod.namespace, &pod.name);
            sleep(dice.duration_between(0, 2000)).await;
            self.poll(slot, &pod, &mut files).await;
        }
        // From here on the pod's files are not verified.
        self.mounted.lock().unwrap().remove(&slot);
        match end {
            // Creating the next pod with the same name ends this one.
            PodEnd::Replaced => return pod.name,
            PodEnd::Finished => {
                let phase = if dice.below(2) == 0 { "Succeeded" } else { "Failed" };
                self.api.set_pod_phase(&pod.namespace, &pod.name, phase);
                sleep(dice.duration_between(0, 3000)).await;
                self.api.delete_pod(&pod.namespace, &pod.name);
            }
            _ => self.api.delete_pod(&pod.namespace, &pod.name),
        }
        if let PodEnd::PolledAfter = end {
            let _ = self.mount(&pod).await;
        }
        sleep(dice.duration_between(0, 3000)).await;
        unique_name("pod")
    }

    fn create_pod(&self, name: String) -> Pod {
        let object = |name: &str, path: &str, key: &str| {
            format!("- {{objectName: {name}, secretPath: {path}, secretKey: {key}}}\n")
        };
        let (path, kv) = (&self.database.path, &self.tenant.kv);
        let objects = [
            object("username", path, "username"),
            object("password", path, "password"),
            object("a", &format!("{kv}/data/a"), "value"),
            object("b", &format!("{kv}/data/b"), "value"),
        ];
        let pod =
            Pod { name, namespace: NAMESPACE.into(), ..Pod::for_tenant(&self.tenant).with_objects(objects.concat()) };
        self.api.add_pod(NODE, &pod.namespace, &pod.name, &pod.uid);
        self.counts.pods.fetch_add(1, Relaxed);
        pod
    }

    /// Mounts a pod with a new service account token.
    async fn mount(&self, pod: &Pod) -> Result<MountedFiles, String> {
        let sign_token = pod.sign_token("vault", 600);
        let call = pod.clone().with_tokens(&[("vault", &sign_token)]).mount_call();
        let response = self.driver.clone().mount(call).await.map_err(|status| status.to_string())?;
        let file = |name: &str| {
            let file = response.files.iter().find(|file| file.path == name).unwrap();
            String::from_utf8(file.contents.clone().into()).unwrap()
        };
        if (file("a").as_str(), file("b").as_str()) != (SECRET_VALUE, SECRET_VALUE) {
            return Err("the files differ from the secrets in Vault".into());
        }
        Ok(MountedFiles {
            name: pod.name.clone(),
            uid: pod.uid.clone(),
            username: file("username"),
            password: file("password"),
        })
    }

    async fn poll(&self, slot: usize, pod: &Pod, files: &mut MountedFiles) {
        self.counts.polls.fetch_add(1, Relaxed);
        match self.mount(pod).await {
            Ok(fresh) => {
                if fresh != *files {
                    self.counts.new_credentials.fetch_add(1, Relaxed);
                    *files = fresh;
                }
                self.mounted.lock().unwrap().insert(slot, files.clone());
            }
            Err(error) => {
                self.counts.polls_failed.fetch_add(1, Relaxed);
                self.record_error(&format!("a poll of {} failed: {error}", pod.name));
            }
        }
    }

    /// Logs in to the database with the credentials of random running pods.
    pub async fn verify_credentials(self: Arc<Self>) {
        let mut dice = Rng::new(PODS);
        loop {
            sleep(Duration::from_millis(500)).await;
            let slot = dice.below(PODS as u64) as usize;
            let Some(files) = self.files_in_slot(slot) else { continue };
            self.counts.verifications.fetch_add(1, Relaxed);
            if let Err(error) = log_in(&files.username, &files.password).await
                && self.files_in_slot(slot).is_some_and(|now| now == files)
            {
                self.counts.verifications_failed.fetch_add(1, Relaxed);
                self.record_error(&format!("running pod {} has an expired credential: {error}", files.name));
            }
        }
    }

    fn files_in_slot(&self, slot: usize) -> Option<MountedFiles> {
        self.mounted.lock().unwrap().get(&slot).cloned()
    }

    /// Stops ending pods.
    pub fn stop_churn(&self) {
        self.churn_stopped.store(true, SeqCst);
    }

    fn is_churn_stopped(&self) -> bool {
        self.churn_stopped.load(SeqCst)
    }

    /// Deletes all pods.
    pub fn delete_all_pods(&self) {
        for files in std::mem::take(&mut *self.mounted.lock().unwrap()).into_values() {
            self.api.delete_pod(NAMESPACE, &files.name);
        }
    }

    /// Returns the files of each mounted pod.
    pub fn mounted_pods(&self) -> Vec<MountedFiles> {
        self.mounted.lock().unwrap().values().cloned().collect()
    }

    /// Sets or clears the active fault of a target.
    pub fn set_fault(&self, target: &'static str, fault: Option<&'static str>) {
        let mut faults = self.faults.lock().unwrap();
        match fault {
            None => drop(faults.active.remove(target)),
            Some(how) => {
                faults.active.insert(target, how);
                *faults.totals.entry(how).or_default() += 1;
            }
        }
    }

    fn record_error(&self, what: &str) {
        let faults: Vec<&str> = self.faults.lock().unwrap().active.values().copied().collect();
        let what = format!("{what} (while: {})", faults.join(", "));
        eprintln!("{what}");
        self.errors.lock().unwrap().push(what);
    }

    pub fn take_errors(&self) -> Vec<String> {
        std::mem::take(&mut self.errors.lock().unwrap())
    }

    pub fn fault_summary(&self) -> String {
        let counts: Vec<String> =
            self.faults.lock().unwrap().totals.iter().map(|(how, n)| format!("{n} x {how}")).collect();
        counts.join(", ")
    }

    pub fn progress(&self) -> String {
        let counts = &self.counts;
        let now = |count: &AtomicUsize| count.load(Relaxed);
        format!(
            "{} pods so far, {} polls, {} failed; {} logins to the database, {} failed",
            now(&counts.pods),
            now(&counts.polls),
            now(&counts.polls_failed),
            now(&counts.verifications),
            now(&counts.verifications_failed)
        )
    }

    pub fn print_report(&self, line: impl Fn(&str, String)) {
        let counts = &self.counts;
        let now = |count: &AtomicUsize| count.load(Relaxed);
        let ends: Vec<String> =
            POD_ENDS.iter().zip(&counts.ends).map(|((_, _, how), count)| format!("{} {how}", now(count))).collect();
        line("pods", format!("{}: {}", now(&counts.pods), ends.join(", ")));
        line("first mounts", format!("{}, {} failed", now(&counts.first_mounts), now(&counts.first_mounts_failed)));
        line("polls", format!("{}, {} failed", now(&counts.polls), now(&counts.polls_failed)));
        line("polls that brought a new credential", now(&counts.new_credentials).to_string());
        line(
            "database logins of running pods",
            format!("{}, {} failed", now(&counts.verifications), now(&counts.verifications_failed)),
        );
    }
}
