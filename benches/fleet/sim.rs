//! Simulation of a fleet in virtual time: nodes, pods, kubelet's polls, and a Vault with limited capacity.
//!
//! The provider's own code makes the decisions. [`Lifetime`] and [`Lifecycle`] decide when to renew or read again. A
//! [`Schedule`] per node decides the order. [`CircuitBreaker`] and [`retry_at`] control health probes in an outage and the
//! recovery. The rest is simulated: kubelet calls at the times of drivers 1.6, requests queue at a node's concurrency limits
//! and at Vault, and take time there.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, VecDeque},
    time::Duration,
};

use tokio::time::Instant;
use vaultmount::{
    cache::{CacheAction, Lifecycle, LifecycleContext, Refresh},
    error::{Cause, Error},
    lifetime::Lifetime,
    reconcile::Schedule,
    vault::breaker::{CircuitBreaker, ProbeResult, retry_at},
};

/// Provider that runs on the nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Provider {
    /// vaultmount: one session per pod, or per service account of the node.
    Vaultmount {
        /// Uses `tokenScope: serviceAccount`.
        has_shared_tokens: bool,
        /// Uses `--state-dir`: sessions survive a restart of the provider.
        has_state_dir: bool,
    },
    /// Go provider: one token per pod until the token expires, every path read at every poll, the HMAC Secret read at every
    /// mount.
    Go,
}

/// Fleet and its incident.
#[derive(Clone, Debug)]
pub struct Fleet {
    pub provider: Provider,
    pub nodes: usize,
    /// Pods per node.
    pub pods: usize,
    /// Service accounts per node.
    pub accounts: usize,
    /// KV secrets that each pod reads, in addition to one database credential.
    pub secrets: usize,
    /// Value of `--refresh-interval`.
    pub refresh: Duration,
    /// TTL and max TTL of tokens and credentials.
    pub ttl: Duration,
    pub max_ttl: Duration,
    /// Capacity of Vault: requests and database credentials per second.
    pub requests: f64,
    pub credentials: f64,
    pub duration: Duration,
    pub incident: Incident,
}

/// Incident that starts at [`INCIDENT_AT`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Incident {
    /// No incident.
    None,
    /// Vault is down for this long.
    Outage(Duration),
    /// All nodes and their pods restart within this time.
    Reboot(Duration),
    /// The providers of all nodes are replaced one after another within this time.
    Update(Duration),
}

pub const MINUTE: Duration = Duration::from_secs(60);
/// Capacity of a Vault that is never busy.
const UNLIMITED_RATE: f64 = 1e12;
/// Start of the incident.
pub const INCIDENT_AT: Duration = Duration::from_secs(300);

/// Requests per second and the outcome of mounts.
#[derive(Clone, Debug, Default)]
pub struct SimulationResult {
    /// All requests to Vault. The next fields are the logins, credentials and renewals among them.
    pub vault: Vec<u32>,
    pub logins: Vec<u32>,
    pub credentials: Vec<u32>,
    pub renewals: Vec<u32>,
    /// Requests to the API server.
    pub api: Vec<u32>,
    /// Failed polls of running pods.
    pub failed_polls: u64,
    /// Time from the incident until the last pod had its files.
    pub all_running: Duration,
    /// Pods with all files at the end.
    pub running: usize,
}

/// Poll interval of a pod in milliseconds.
const POLL_INTERVAL_MS: std::ops::Range<u64> = 66_000..73_000;
/// Deadline of a mount: kubelet's two minutes, less the time for the error response.
const MOUNT_DEADLINE_MS: u64 = 119_500;
/// Initial and maximum backoff of kubelet.
const INITIAL_BACKOFF_MS: u64 = 500;
const MAX_BACKOFF_MS: u64 = 122_000;
/// Duration of a request at an idle Vault, in milliseconds.
const REQUEST_TIME_MS: u64 = 3;
const MUTATING_TIME_MS: u64 = 30;
/// Concurrent mutating requests per node (`--max-mutating`).
const MAX_MUTATING: usize = 4;
/// Concurrent background requests per node.
const MAX_BACKGROUND: usize = 4;
/// Rate limit of the Go provider's API server client, in requests per second.
const GO_API_RATE: f64 = 5.0;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    /// Mount call of kubelet for a pod.
    Mount(u32),
    /// Deadline of a waiting mount, with the start of the mount.
    MountDeadline(u32, u64),
    /// Response to a request of a session.
    RequestDone(u32, Request),
    /// Run of a node's schedule.
    RunQueue(u32),
    /// Health probe of a node.
    Probe(u32),
    /// Replacement of a node's provider process.
    ProviderReplaced(u32),
    /// Boot of a node.
    NodeBooted(u32),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Request {
    Login,
    Secrets,
    Credential,
    RenewToken,
    RenewLease,
}

#[derive(Default)]
struct Node {
    breaker: CircuitBreaker,
    schedule: Schedule<u32, u32>,
    /// Time of the next wake-up. Wake-up events for other times are outdated.
    wake_at: Option<u64>,
    mutating: usize,
    mutating_queue: VecDeque<u32>,
    background_requests: usize,
    /// Due renewals, ordered by expiry.
    due_renewals: BinaryHeap<Reverse<(Option<u64>, u32, Request)>>,
    /// Earliest time of the Go provider's next request to the API server.
    api_free_at: f64,
}

#[derive(Default)]
#[allow(clippy::struct_excessive_bools, reason = "each is a request in flight")]
struct Session {
    token: Option<Lifetime>,
    lifecycle: Option<Lifecycle>,
    secrets_read_at: Option<Instant>,
    delivered: bool,
    /// Requests in flight.
    login_pending: bool,
    secrets_pending: bool,
    credential_pending: bool,
    renewal_pending: bool,
}

#[derive(Default)]
struct Pod {
    /// Start of the wait for files, and of the current mount.
    waiting_since: Option<(u64, u64)>,
    backoff: u64,
    has_files: bool,
    /// Number of restarts of the pod. Events of earlier incarnations are ignored.
    incarnation: u32,
}

/// Run of a simulation.
pub struct Simulation<'a> {
    fleet: &'a Fleet,
    started_at: Instant,
    now_ms: u64,
    events: BinaryHeap<Reverse<(u64, u64, Event, u32)>>,
    next_order: u64,
    nodes: Vec<Node>,
    sessions: Vec<Session>,
    pods: Vec<Pod>,
    /// Times at which Vault has finished all queued requests, and all queued credentials, in milliseconds.
    vault_free_at: f64,
    mutating_free_at: f64,
    result: SimulationResult,
    rng_state: u64,
}

impl Fleet {
    /// Returns a fleet with 50 pods and 10 service accounts per node, a Vault that is never busy, and no incident.
    #[must_use]
    pub fn with_nodes(rules: Provider, nodes: usize) -> Self {
        Self {
            provider: rules,
            nodes,
            pods: 50,
            accounts: 10,
            secrets: 2,
            refresh: 2 * MINUTE,
            ttl: 60 * MINUTE,
            max_ttl: 24 * 60 * MINUTE,
            requests: UNLIMITED_RATE,
            credentials: UNLIMITED_RATE,
            duration: 15 * MINUTE,
            incident: Incident::None,
        }
    }

    /// Runs the simulation.
    #[must_use]
    pub fn simulate(&self) -> SimulationResult {
        let mut play = Simulation::new(self);
        play.run();
        play.result.running = play.pods.iter().filter(|pod| pod.has_files).count();
        play.result
    }

    fn has_shared_tokens(&self) -> bool {
        matches!(self.provider, Provider::Vaultmount { has_shared_tokens: true, .. })
    }

    fn is_go(&self) -> bool {
        self.provider == Provider::Go
    }

    fn is_down(&self, at: u64) -> bool {
        let from = INCIDENT_AT.as_millis() as u64;
        matches!(self.incident, Incident::Outage(lasts) if (from..from + lasts.as_millis() as u64).contains(&at))
    }
}

impl<'a> Simulation<'a> {
    fn new(fleet: &'a Fleet) -> Self {
        let pods = fleet.nodes * fleet.pods;
        let sessions = if fleet.has_shared_tokens() { fleet.nodes * fleet.accounts } else { pods };
        let seconds = fleet.duration.as_secs() as usize + 1;
        let played = SimulationResult {
            vault: vec![0; seconds],
            logins: vec![0; seconds],
            credentials: vec![0; seconds],
            renewals: vec![0; seconds],
            api: vec![0; seconds],
            ..SimulationResult::default()
        };
        let mut play = Self {
            fleet,
            started_at: Instant::now(),
            now_ms: 0,
            events: BinaryHeap::new(),
            next_order: 0,
            nodes: (0..fleet.nodes).map(|_| Node::default()).collect(),
            sessions: (0..sessions).map(|_| Session::default()).collect(),
            pods: (0..pods).map(|_| Pod::default()).collect(),
            vault_free_at: 0.0,
            mutating_free_at: 0.0,
            result: played,
            rng_state: 0x2545_f491_4f6c_dd1d,
        };
        play.initialize();
        play
    }

    /// Sets up a steady state: polls are spread over the interval, and tokens and credentials have random ages.
    fn initialize(&mut self) {
        for session in 0..self.sessions.len() {
            let age = Duration::from_millis(self.random_below(self.fleet.ttl.as_millis() as u64 * 3 / 5));
            let read = Duration::from_millis(self.random_below(self.fleet.refresh.as_millis() as u64));
            let (now, ttl) = (self.now_instant(), self.fleet.ttl);
            let begun = now.checked_sub(age).unwrap_or(now);
            let state = &mut self.sessions[session];
            state.token = Some(Lifetime::new(ttl, true, begun));
            state.lifecycle = Some(Lifecycle::Leased {
                lease_id: String::new(),
                lifetime: Box::new(Lifetime::new(ttl, true, begun)),
            });
            state.secrets_read_at = now.checked_sub(read);
            state.delivered = true;
            if !self.fleet.is_go() {
                self.schedule_renewal(session);
            }
        }
        for pod in 0..self.pods.len() {
            self.pods[pod].has_files = true;
            let at = self.random_below(POLL_INTERVAL_MS.end);
            self.push_event(at, Event::Mount(pod as u32), 0);
        }
        let from = INCIDENT_AT.as_millis() as u64;
        let spread =
            |within: Duration, node: usize, nodes: usize| from + within.as_millis() as u64 * node as u64 / nodes as u64;
        for node in 0..self.nodes.len() {
            match self.fleet.incident {
                Incident::Reboot(within) => {
                    self.push_event(spread(within, node, self.nodes.len()), Event::NodeBooted(node as u32), 0);
                }
                Incident::Update(within) => {
                    self.push_event(spread(within, node, self.nodes.len()), Event::ProviderReplaced(node as u32), 0);
                }
                Incident::None | Incident::Outage(_) => {}
            }
        }
    }

    fn run(&mut self) {
        let end = self.fleet.duration.as_millis() as u64;
        while let Some(Reverse((at, _, event, life))) = self.events.pop() {
            if at >= end {
                break;
            }
            self.now_ms = at;
            match event {
                Event::Mount(pod) => self.mount(pod as usize, life),
                Event::MountDeadline(pod, begun) => self.on_mount_deadline(pod as usize, begun),
                Event::RequestDone(session, request) => self.on_request_done(session as usize, request),
                Event::RunQueue(node) => self.run_queue(node as usize),
                Event::Probe(node) => self.run_probe(node as usize),
                Event::ProviderReplaced(node) => self.replace_provider(node as usize),
                Event::NodeBooted(node) => self.boot_node(node as usize),
            }
        }
    }

    /// Handles a mount call for a pod, either the first mount or a poll.
    fn mount(&mut self, pod: usize, life: u32) {
        if self.pods[pod].incarnation != life {
            return;
        }
        let node = pod / self.fleet.pods;
        if self.fleet.is_go() {
            // The Go provider's API server client waits for its rate limit.
            let (now, free) = (self.now_ms as f64, self.nodes[node].api_free_at);
            let turn = now.max(free);
            self.nodes[node].api_free_at = turn + 1000.0 / GO_API_RATE;
            self.count_api(turn as u64, 1);
        }
        if self.pods[pod].has_files {
            let next =
                self.now_ms + POLL_INTERVAL_MS.start + self.random_below(POLL_INTERVAL_MS.end - POLL_INTERVAL_MS.start);
            self.push_event(next, Event::Mount(pod as u32), life);
        } else {
            let since = self.pods[pod].waiting_since.map_or(self.now_ms, |(since, _)| since);
            self.pods[pod].waiting_since = Some((since, self.now_ms));
            self.push_event(self.now_ms + MOUNT_DEADLINE_MS, Event::MountDeadline(pod as u32, self.now_ms), life);
        }
        let session = self.session_of(pod);
        if self.fleet.is_go() {
            self.mount_with_go(pod, session);
        } else {
            self.mount_with_vaultmount(pod, session);
        }
        self.deliver(pod, session);
    }

    /// Sends the requests of a mount of the Go provider: all of them.
    fn mount_with_go(&mut self, pod: usize, session: usize) {
        if self.fleet.is_down(self.now_ms) {
            self.reject_mount(pod);
            return;
        }
        let now = self.now_instant();
        let state = &mut self.sessions[session];
        let has_token = state.token.as_ref().is_some_and(|token| !token.is_expired(now));
        (state.secrets_read_at, state.lifecycle) = (None, None);
        if has_token {
            self.request_once(session, Request::Secrets);
            self.request_once(session, Request::Credential);
        } else {
            self.request_once(session, Request::Login);
        }
    }

    /// Sends the requests of a mount of vaultmount: those that are due.
    fn mount_with_vaultmount(&mut self, pod: usize, session: usize) {
        let (secrets, credential) = self.due_requests(session);
        if !(secrets || credential) {
            return;
        }
        let node = self.node_of(session);
        if self.fleet.is_down(self.now_ms) {
            self.record_outage(node);
        }
        if self.nodes[node].breaker.outage().is_some() {
            self.reject_mount(pod);
            return;
        }
        let now = self.now_instant();
        let held = self.sessions[session].token.as_ref().is_some_and(|token| {
            let ends = credential && token.needs_replacement(token.max_expires_at(), Some(max_poll_interval()), now);
            !(token.is_nearly_expired(now) || ends)
        });
        if held {
            if secrets {
                self.request_once(session, Request::Secrets);
            }
            if credential {
                self.request_once(session, Request::Credential);
            }
        } else {
            self.request_once(session, Request::Login);
        }
    }

    /// Returns which reads are due: of the secrets, and of the credential.
    fn due_requests(&self, session: usize) -> (bool, bool) {
        let (state, now) = (&self.sessions[session], self.now_instant());
        let at = LifecycleContext {
            now,
            token_lifetime: state.token.as_ref().filter(|token| !token.is_expired(now)),
            poll_interval: Some(max_poll_interval()),
            refresh: Refresh::Every(self.fleet.refresh),
            delivered: state.delivered,
            is_referenced: true,
        };
        let secrets = state.secrets_read_at.is_none_or(|read_at| {
            matches!(Lifecycle::Plain { read_at, mutating: false }.next_action(&at), CacheAction::Refetch(_))
                && state.delivered
        });
        let credential =
            state.lifecycle.as_ref().is_none_or(|life| matches!(life.next_action(&at), CacheAction::Refetch(_)));
        (secrets, credential)
    }

    /// Ends mounts during an outage: running pods keep their files, other pods are retried.
    fn reject_mount(&mut self, pod: usize) {
        let (node, now) = (pod / self.fleet.pods, self.now_instant());
        if self.pods[pod].has_files {
            self.result.failed_polls += u64::from(self.fleet.is_go());
            return;
        }
        if self.nodes[node].breaker.request_probe(Duration::ZERO, now) {
            self.schedule_probe(node);
        }
        self.retry_mount(pod);
    }

    /// Schedules kubelet's retry for a pod without files.
    fn retry_mount(&mut self, pod: usize) {
        let state = &mut self.pods[pod];
        let since = state.waiting_since.map_or(self.now_ms, |(since, _)| since);
        state.waiting_since = Some((since, u64::MAX));
        state.backoff = (state.backoff * 2).clamp(INITIAL_BACKOFF_MS, MAX_BACKOFF_MS);
        let (at, life) = (self.now_ms + state.backoff, state.incarnation);
        self.push_event(at, Event::Mount(pod as u32), life);
    }

    fn on_mount_deadline(&mut self, pod: usize, begun: u64) {
        if self.pods[pod].waiting_since.is_some_and(|(_, of)| of == begun) {
            self.retry_mount(pod);
        }
    }

    /// Delivers the files of a session if they are complete.
    fn deliver(&mut self, pod: usize, session: usize) {
        let state = &mut self.sessions[session];
        if state.secrets_read_at.is_some() && state.lifecycle.is_some() {
            state.delivered = true;
            let pod_state = &mut self.pods[pod];
            if !pod_state.has_files && pod_state.waiting_since.take().is_some() {
                pod_state.has_files = true;
                pod_state.backoff = 0;
                let life = pod_state.incarnation;
                self.result.all_running = Duration::from_millis(self.now_ms).saturating_sub(INCIDENT_AT);
                let next = self.now_ms
                    + POLL_INTERVAL_MS.start
                    + self.random_below(POLL_INTERVAL_MS.end - POLL_INTERVAL_MS.start);
                self.push_event(next, Event::Mount(pod as u32), life);
            }
        }
    }

    /// Sends a request unless the same one is in flight or queued.
    fn request_once(&mut self, session: usize, request: Request) {
        let node = self.node_of(session);
        let state = &mut self.sessions[session];
        let flag = match request {
            Request::Login => &mut state.login_pending,
            Request::Secrets => &mut state.secrets_pending,
            Request::Credential => &mut state.credential_pending,
            Request::RenewToken | Request::RenewLease => return self.send(session, request),
        };
        if std::mem::replace(flag, true) {
            return;
        }
        if request == Request::Credential && !self.fleet.is_go() {
            if self.nodes[node].mutating >= MAX_MUTATING {
                self.nodes[node].mutating_queue.push_back(session as u32);
                return;
            }
            self.nodes[node].mutating += 1;
        }
        self.send(session, request);
    }

    /// Queues a request at Vault and schedules its response.
    fn send(&mut self, session: usize, request: Request) {
        let (weight, now) = (if request == Request::Secrets { self.fleet.secrets } else { 1 }, self.now_ms);
        self.count_request(request, weight);
        self.vault_free_at = self.vault_free_at.max(now as f64) + weight as f64 * 1000.0 / self.fleet.requests;
        let mut done = self.vault_free_at as u64 + REQUEST_TIME_MS;
        if request == Request::Credential {
            self.mutating_free_at = self.mutating_free_at.max(now as f64) + 1000.0 / self.fleet.credentials;
            done = done.max(self.mutating_free_at as u64) + MUTATING_TIME_MS;
        }
        self.push_event(done, Event::RequestDone(session as u32, request), 0);
    }

    fn on_request_done(&mut self, session: usize, request: Request) {
        let (now, fleet) = (self.now_instant(), self.fleet);
        let node = self.node_of(session);
        let (ttl, max) = (fleet.ttl, fleet.max_ttl);
        let state = &mut self.sessions[session];
        let is_known = match request {
            Request::Login => std::mem::take(&mut state.login_pending),
            Request::Secrets => std::mem::take(&mut state.secrets_pending),
            Request::Credential => std::mem::take(&mut state.credential_pending),
            Request::RenewToken | Request::RenewLease => true,
        };
        match request {
            Request::Login if is_known => {
                state.token = Some(Lifetime::new(ttl.min(max), true, now));
                let (secrets, credential) = if fleet.is_go() { (true, true) } else { self.due_requests(session) };
                if secrets {
                    self.request_once(session, Request::Secrets);
                }
                if credential {
                    self.request_once(session, Request::Credential);
                }
            }
            Request::Secrets if is_known => state.secrets_read_at = Some(now),
            Request::Credential => {
                if is_known {
                    let term = Box::new(Lifetime::new(ttl.min(max), true, now));
                    state.lifecycle = Some(Lifecycle::Leased { lease_id: String::new(), lifetime: term });
                }
                if !fleet.is_go() {
                    self.nodes[node].mutating = self.nodes[node].mutating.saturating_sub(1);
                    if let Some(next) = self.nodes[node].mutating_queue.pop_front() {
                        self.nodes[node].mutating += 1;
                        self.send(next as usize, Request::Credential);
                    }
                }
            }
            Request::RenewToken => {
                state.renewal_pending = false;
                if let Some(token) = &mut state.token {
                    token.apply_renewal(ttl, true, now);
                }
                self.on_background_done(node);
            }
            Request::RenewLease => {
                state.renewal_pending = false;
                if let Some(Lifecycle::Leased { lifetime: term, .. }) = &mut state.lifecycle {
                    term.apply_renewal(ttl, true, now);
                }
                self.on_background_done(node);
            }
            Request::Login | Request::Secrets => {}
        }
        if !fleet.is_go() {
            self.schedule_renewal(session);
        }
        for pod in self.pods_of(session) {
            if self.pods[pod].waiting_since.is_some() {
                self.deliver(pod, session);
            }
        }
    }

    /// Handles due sessions of a node.
    fn run_queue(&mut self, node: usize) {
        if self.nodes[node].wake_at != Some(self.now_ms) {
            return;
        }
        self.nodes[node].wake_at = None;
        let now = self.now_instant();
        while let Some(session) = self.nodes[node].schedule.pop(now) {
            self.reconcile(session as usize);
        }
        self.schedule_wake(node);
    }

    fn schedule_wake(&mut self, node: usize) {
        let Some(first) = self.nodes[node].schedule.first_due_at() else { return };
        let at = self.to_millis(first).max(self.now_ms + 1);
        if self.nodes[node].wake_at.is_none_or(|wakes| at < wakes) {
            self.nodes[node].wake_at = Some(at);
            self.push_event(at, Event::RunQueue(node as u32), 0);
        }
    }

    fn enqueue(&mut self, session: usize, at: Instant) {
        let node = self.node_of(session);
        self.nodes[node].schedule.put(session as u32, at, session as u32);
        self.schedule_wake(node);
    }

    /// Queues the due renewal of a session, the earliest expiry of the node first. During an outage, schedules a retry.
    fn reconcile(&mut self, session: usize) {
        let (node, now) = (self.node_of(session), self.now_instant());
        let Some(request) = self.renewal_due(session, now) else { return self.schedule_renewal(session) };
        if self.fleet.is_down(self.now_ms) {
            self.record_outage(node);
        }
        let end = self.earliest_expiry(session);
        if self.nodes[node].breaker.outage().is_some() {
            return self.enqueue(session, retry_at(end, now));
        }
        self.sessions[session].renewal_pending = true;
        let end = end.map(|end| self.to_millis(end));
        self.nodes[node].due_renewals.push(Reverse((end, session as u32, request)));
        self.start_background(node);
    }

    fn on_background_done(&mut self, node: usize) {
        self.nodes[node].background_requests = self.nodes[node].background_requests.saturating_sub(1);
        self.start_background(node);
    }

    fn start_background(&mut self, node: usize) {
        while self.nodes[node].background_requests < MAX_BACKGROUND {
            let Some(Reverse((_, session, request))) = self.nodes[node].due_renewals.pop() else { return };
            self.nodes[node].background_requests += 1;
            self.send(session as usize, request);
        }
    }

    /// Records the outage after a failed request of a node.
    fn record_outage(&mut self, node: usize) {
        let now = self.now_instant();
        let standing = &mut self.nodes[node].breaker;
        if standing.outage().is_none() && standing.on_probe_result(outage_result(), now).is_some() {
            self.schedule_probe(node);
        }
    }

    fn run_probe(&mut self, node: usize) {
        let now = self.now_instant();
        let standing = &mut self.nodes[node].breaker;
        if standing.next_probe_at().is_none_or(|next| next > now) {
            return;
        }
        let second = (self.now_ms / 1000) as usize;
        self.result.vault[second] += 1;
        if self.fleet.is_down(self.now_ms) {
            standing.on_probe_result(outage_result(), now);
            self.schedule_probe(node);
        } else {
            standing.on_probe_result(ProbeResult::Healthy, now);
        }
    }

    fn schedule_probe(&mut self, node: usize) {
        if let Some(next) = self.nodes[node].breaker.next_probe_at() {
            // `Instant` is finer than a millisecond, so round up.
            let at = self.to_millis(next).max(self.now_ms) + 1;
            self.push_event(at, Event::Probe(node as u32), 0);
        }
    }

    /// Replaces a node's provider. The new process restores the sessions with a state directory, and has none without.
    fn replace_provider(&mut self, node: usize) {
        // vaultmount requests the key, the list of pods and their watch.
        self.count_api(self.now_ms, if self.fleet.is_go() { 1 } else { 3 });
        if matches!(self.fleet.provider, Provider::Vaultmount { has_state_dir: true, .. }) {
            return;
        }
        for session in self.sessions_of(node) {
            self.sessions[session] = Session { delivered: true, ..Session::default() };
        }
        self.nodes[node] = Node::default();
    }

    /// Boots a node: all its pods need their first mount.
    fn boot_node(&mut self, node: usize) {
        self.replace_provider(node);
        for session in self.sessions_of(node) {
            self.sessions[session] = Session::default();
        }
        self.nodes[node] = Node::default();
        for pod in node * self.fleet.pods..(node + 1) * self.fleet.pods {
            let life = self.pods[pod].incarnation + 1;
            self.pods[pod] = Pod { incarnation: life, ..Pod::default() };
            // kubelet starts the pods within 10 s.
            let at = self.now_ms + self.random_below(10_000);
            self.push_event(at, Event::Mount(pod as u32), life);
        }
    }

    fn renewal_due(&self, session: usize, now: Instant) -> Option<Request> {
        let state = &self.sessions[session];
        let token = state.token.as_ref()?;
        if state.renewal_pending || token.is_expired(now) {
            return None;
        }
        if token.is_renewable() && now >= token.renew_at() {
            return Some(Request::RenewToken);
        }
        let due = state.lifecycle.as_ref()?.renew_at(Some(token), now)?;
        (now >= due).then_some(Request::RenewLease)
    }

    fn earliest_expiry(&self, session: usize) -> Option<Instant> {
        let state = &self.sessions[session];
        let token = state.token.as_ref().and_then(Lifetime::expires_at);
        [token, state.lifecycle.as_ref().and_then(Lifecycle::expires_at)].into_iter().flatten().min()
    }

    fn schedule_renewal(&mut self, session: usize) {
        let (state, now) = (&self.sessions[session], self.now_instant());
        let Some(token) = state.token.as_ref().filter(|token| !token.is_expired(now)) else { return };
        let renewal = state.lifecycle.as_ref().and_then(|life| life.renew_at(Some(token), now));
        let Some(next) = [Some(token.renew_at()), renewal].into_iter().flatten().min() else { return };
        if !state.renewal_pending {
            self.enqueue(session, next);
        }
    }

    fn count_request(&mut self, request: Request, weight: usize) {
        let (second, weight) = ((self.now_ms / 1000) as usize, weight as u32);
        self.result.vault[second] += weight;
        match request {
            Request::Login => self.result.logins[second] += weight,
            Request::Credential => self.result.credentials[second] += weight,
            Request::RenewToken | Request::RenewLease => self.result.renewals[second] += weight,
            Request::Secrets => {}
        }
    }

    fn count_api(&mut self, at: u64, requests: u32) {
        if let Some(second) = self.result.api.get_mut((at / 1000) as usize) {
            *second += requests;
        }
    }

    fn session_of(&self, pod: usize) -> usize {
        if !self.fleet.has_shared_tokens() {
            return pod;
        }
        let (node, pod) = (pod / self.fleet.pods, pod % self.fleet.pods);
        node * self.fleet.accounts + pod % self.fleet.accounts
    }

    fn node_of(&self, session: usize) -> usize {
        session / if self.fleet.has_shared_tokens() { self.fleet.accounts } else { self.fleet.pods }
    }

    fn sessions_of(&self, node: usize) -> std::ops::Range<usize> {
        let each = if self.fleet.has_shared_tokens() { self.fleet.accounts } else { self.fleet.pods };
        node * each..(node + 1) * each
    }

    fn pods_of(&self, session: usize) -> Vec<usize> {
        if !self.fleet.has_shared_tokens() {
            return vec![session];
        }
        let (node, account) = (session / self.fleet.accounts, session % self.fleet.accounts);
        (account..self.fleet.pods).step_by(self.fleet.accounts).map(|pod| node * self.fleet.pods + pod).collect()
    }

    fn push_event(&mut self, at: u64, event: Event, life: u32) {
        self.next_order += 1;
        self.events.push(Reverse((at, self.next_order, event, life)));
    }

    fn now_instant(&self) -> Instant {
        self.started_at + Duration::from_millis(self.now_ms)
    }

    fn to_millis(&self, moment: Instant) -> u64 {
        moment.saturating_duration_since(self.started_at).as_millis() as u64
    }

    /// Returns a pseudo-random number below `end`, the same in every run.
    fn random_below(&mut self, end: u64) -> u64 {
        self.rng_state ^= self.rng_state << 13;
        self.rng_state ^= self.rng_state >> 7;
        self.rng_state ^= self.rng_state << 17;
        self.rng_state % end.max(1)
    }
}

/// Returns the longest poll interval.
fn max_poll_interval() -> Duration {
    Duration::from_millis(POLL_INTERVAL_MS.end)
}

fn outage_result() -> ProbeResult {
    ProbeResult::Down(Error::new(Cause::ConnectionRefused, "connection refused"))
}

impl SimulationResult {
    /// Returns the maximum and the mean per second over a time span.
    #[must_use]
    pub fn peak_and_mean(series: &[u32], from: Duration, to: Duration) -> (u32, f64) {
        let span = &series[from.as_secs() as usize..to.as_secs() as usize];
        let sum: u64 = span.iter().map(|n| u64::from(*n)).sum();
        (span.iter().copied().max().unwrap_or(0), sum as f64 / span.len().max(1) as f64)
    }
}
