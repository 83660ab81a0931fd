//! Pods, as kubelet and the driver see to them.

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
        database::{Database, log_in},
        pod::Pod,
        unique,
    },
};

/// How many there are at once.
pub const PODS: usize = 300;
/// The Kubernetes namespace they are in.
const NAMESPACE: &str = "shop";
/// What they find in KV.
pub const SECRET: &str = "3q8Zt1vXw0cB7nLk5mRy2dJh9fPs6gTe";
/// The pause after a first mount that failed; it doubles, up to the longest, as kubelet's does.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const MAX_PAUSE: Duration = Duration::from_secs(10);

/// What a pod has.
#[derive(Clone, PartialEq, Eq)]
pub struct Files {
    pub name: String,
    pub uid: String,
    pub username: String,
    pub password: String,
}

/// The node's pods, and what went wrong.
pub struct Node {
    pub tenant: Arc<Tenant>,
    pub database: Database,
    pub api: KubeApi,
    driver: Client,
    settles: AtomicBool,
    /// Pods that are mounted, by their place.
    living: Mutex<BTreeMap<usize, Files>>,
    wrong: Mutex<Vec<String>>,
    faults: Mutex<Faults>,
    counts: Counts,
}

#[derive(Default)]
struct Faults {
    /// Who misbehaves, and how.
    now: BTreeMap<&'static str, &'static str>,
    /// How often anything did.
    ever: BTreeMap<&'static str, usize>,
}

#[derive(Default)]
struct Counts {
    pods: AtomicUsize,
    first: AtomicUsize,
    first_failed: AtomicUsize,
    polls: AtomicUsize,
    polls_failed: AtomicUsize,
    fresh: AtomicUsize,
    visits: AtomicUsize,
    visits_failed: AtomicUsize,
    ends: [AtomicUsize; ENDS.len()],
}

/// How a pod ends.
#[derive(Clone, Copy)]
enum End {
    Deleted,
    Terminated,
    Finished,
    Replaced,
    InFirstMount,
    PolledAfter,
}

/// Each with its share in twenty.
const ENDS: [(End, u64, &str); 6] = [
    (End::Deleted, 8, "deleted"),
    (End::Terminated, 4, "terminated slowly"),
    (End::Finished, 2, "finished"),
    (End::Replaced, 4, "replaced under their name"),
    (End::InFirstMount, 1, "deleted in their first mount"),
    (End::PolledAfter, 1, "polled once more after their end"),
];

/// Numbers that are random enough.
pub struct Dice(u64);

impl Dice {
    pub fn new(seed: usize) -> Self {
        Self(seed as u64 ^ 0x5bd1_e995_7f4a_7c15)
    }

    /// One below a bound.
    pub fn roll(&mut self, below: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % below
    }

    /// A time between two, in milliseconds.
    pub fn time(&mut self, from: u64, to: u64) -> Duration {
        Duration::from_millis(from + self.roll(to - from))
    }
}

impl Node {
    pub fn new(tenant: Arc<Tenant>, database: Database, api: KubeApi, driver: Client) -> Self {
        Self {
            tenant,
            database,
            api,
            driver,
            settles: AtomicBool::new(false),
            living: Mutex::default(),
            wrong: Mutex::default(),
            faults: Mutex::default(),
            counts: Counts::default(),
        }
    }

    /// One pod after another, for ever; when all settles, the last stays.
    pub async fn occupy(self: Arc<Self>, slot: usize) {
        let mut dice = Dice::new(slot);
        let mut name = unique("pod");
        // Nobody starts a whole node in a second.
        sleep(dice.time(0, 15_000)).await;
        loop {
            let mut roll = dice.roll(20);
            let end = ENDS.iter().position(|(_, share, _)| {
                let is_it = roll < *share;
                roll = roll.wrapping_sub(*share);
                is_it
            });
            let end = end.unwrap();
            name = self.host(slot, name, end, &mut dice).await;
            self.counts.ends[end].fetch_add(1, Relaxed);
        }
    }

    /// A pod from its beginning to its end; the name of the next.
    async fn host(&self, slot: usize, name: String, end: usize, dice: &mut Dice) -> String {
        let pod = self.begin(name);
        let (end, ..) = ENDS[end];
        if let (End::InFirstMount, false) = (end, self.settles()) {
            let ends = async {
                sleep(dice.time(0, 30)).await;
                self.api.delete_pod(&pod.namespace, &pod.name);
            };
            let _ = tokio::join!(self.mount(&pod), ends);
            sleep(dice.time(0, 3000)).await;
            return unique("pod");
        }
        let mut pause = FIRST_PAUSE;
        let mut files = loop {
            self.counts.first.fetch_add(1, Relaxed);
            if let Ok(files) = self.mount(&pod).await {
                break files;
            }
            self.counts.first_failed.fetch_add(1, Relaxed);
            sleep(pause).await;
            pause = MAX_PAUSE.min(pause * 2);
        };
        self.living.lock().unwrap().insert(slot, files.clone());
        // Some long, most short.
        let share = dice.roll(1000);
        let life = Duration::from_millis(15_000 + share * share / 5);
        let (begun, gap) = (Instant::now(), dice.time(2000, 6000));
        while begun.elapsed() < life || self.settles() {
            sleep(dice.time(gap.as_millis() as u64 * 9 / 10, gap.as_millis() as u64)).await;
            self.poll(slot, &pod, &mut files).await;
        }
        if let End::Terminated = end {
            self.api.begin_pod_deletion(&pod.namespace, &pod.name);
            sleep(dice.time(0, 2000)).await;
            self.poll(slot, &pod, &mut files).await;
        }
        // From here on nobody needs what it has.
        self.living.lock().unwrap().remove(&slot);
        match end {
            // The next one's beginning is its end.
            End::Replaced => return pod.name,
            End::Finished => {
                let phase = if dice.roll(2) == 0 { "Succeeded" } else { "Failed" };
                self.api.set_pod_phase(&pod.namespace, &pod.name, phase);
                sleep(dice.time(0, 3000)).await;
                self.api.delete_pod(&pod.namespace, &pod.name);
            }
            _ => self.api.delete_pod(&pod.namespace, &pod.name),
        }
        if let End::PolledAfter = end {
            let _ = self.mount(&pod).await;
        }
        sleep(dice.time(0, 3000)).await;
        unique("pod")
    }

    fn begin(&self, name: String) -> Pod {
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
        let pod = Pod { name, namespace: NAMESPACE.into(), ..Pod::of(&self.tenant).objects(objects.concat()) };
        self.api.add_pod(NODE, &pod.namespace, &pod.name, &pod.uid);
        self.counts.pods.fetch_add(1, Relaxed);
        pod
    }

    /// A mount with a token that kubelet has just renewed.
    async fn mount(&self, pod: &Pod) -> Result<Files, String> {
        let token = pod.token("vault", 600);
        let call = pod.clone().pass(&[("vault", &token)]).call();
        let response = self.driver.clone().mount(call).await.map_err(|status| status.to_string())?;
        let file = |name: &str| {
            let file = response.files.iter().find(|file| file.path == name).unwrap();
            String::from_utf8(file.contents.clone().into()).unwrap()
        };
        if (file("a").as_str(), file("b").as_str()) != (SECRET, SECRET) {
            return Err("the files are not what Vault has".into());
        }
        Ok(Files {
            name: pod.name.clone(),
            uid: pod.uid.clone(),
            username: file("username"),
            password: file("password"),
        })
    }

    async fn poll(&self, slot: usize, pod: &Pod, files: &mut Files) {
        self.counts.polls.fetch_add(1, Relaxed);
        match self.mount(pod).await {
            Ok(fresh) => {
                if fresh != *files {
                    self.counts.fresh.fetch_add(1, Relaxed);
                    *files = fresh;
                }
                self.living.lock().unwrap().insert(slot, files.clone());
            }
            Err(error) => {
                self.counts.polls_failed.fetch_add(1, Relaxed);
                self.went_wrong(&format!("a poll of {} failed: {error}", pod.name));
            }
        }
    }

    /// Logs in to the database as one living pod after another.
    pub async fn visit(self: Arc<Self>) {
        let mut dice = Dice::new(PODS);
        loop {
            sleep(Duration::from_millis(500)).await;
            let slot = dice.roll(PODS as u64) as usize;
            let Some(files) = self.has(slot) else { continue };
            self.counts.visits.fetch_add(1, Relaxed);
            if let Err(error) = log_in(&files.username, &files.password).await
                && self.has(slot).is_some_and(|now| now == files)
            {
                self.counts.visits_failed.fetch_add(1, Relaxed);
                self.went_wrong(&format!("a living pod ({}) has a dead credential: {error}", files.name));
            }
        }
    }

    fn has(&self, slot: usize) -> Option<Files> {
        self.living.lock().unwrap().get(&slot).cloned()
    }

    /// From now on no pod ends.
    pub fn settle(&self) {
        self.settles.store(true, SeqCst);
    }

    fn settles(&self) -> bool {
        self.settles.load(SeqCst)
    }

    /// Every pod is gone.
    pub fn clear(&self) {
        for files in std::mem::take(&mut *self.living.lock().unwrap()).into_values() {
            self.api.delete_pod(NAMESPACE, &files.name);
        }
    }

    /// What each mounted pod has.
    pub fn living(&self) -> Vec<Files> {
        self.living.lock().unwrap().values().cloned().collect()
    }

    /// Something misbehaves from now on, and then nothing of that.
    pub fn misbehaves(&self, who: &'static str, how: Option<&'static str>) {
        let mut faults = self.faults.lock().unwrap();
        match how {
            None => drop(faults.now.remove(who)),
            Some(how) => {
                faults.now.insert(who, how);
                *faults.ever.entry(how).or_default() += 1;
            }
        }
    }

    fn went_wrong(&self, what: &str) {
        let faults: Vec<&str> = self.faults.lock().unwrap().now.values().copied().collect();
        let what = format!("{what} (while: {})", faults.join(", "));
        eprintln!("{what}");
        self.wrong.lock().unwrap().push(what);
    }

    pub fn wrong(&self) -> Vec<String> {
        std::mem::take(&mut self.wrong.lock().unwrap())
    }

    pub fn faults(&self) -> String {
        let told: Vec<String> =
            self.faults.lock().unwrap().ever.iter().map(|(how, n)| format!("{n} x {how}")).collect();
        told.join(", ")
    }

    pub fn told(&self) -> String {
        let counts = &self.counts;
        let now = |count: &AtomicUsize| count.load(Relaxed);
        format!(
            "{} pods so far, {} polls, {} failed; {} logins to the database, {} failed",
            now(&counts.pods),
            now(&counts.polls),
            now(&counts.polls_failed),
            now(&counts.visits),
            now(&counts.visits_failed)
        )
    }

    pub fn report(&self, line: impl Fn(&str, String)) {
        let counts = &self.counts;
        let now = |count: &AtomicUsize| count.load(Relaxed);
        let ends: Vec<String> =
            ENDS.iter().zip(&counts.ends).map(|((_, _, how), count)| format!("{} {how}", now(count))).collect();
        line("pods", format!("{}: {}", now(&counts.pods), ends.join(", ")));
        line("first mounts", format!("{}, {} failed", now(&counts.first), now(&counts.first_failed)));
        line("polls", format!("{}, {} failed", now(&counts.polls), now(&counts.polls_failed)));
        line("polls that brought a new credential", now(&counts.fresh).to_string());
        line(
            "database logins of living pods",
            format!("{}, {} failed", now(&counts.visits), now(&counts.visits_failed)),
        );
    }
}
