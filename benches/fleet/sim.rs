//! A fleet in virtual time: nodes, pods, kubelet's polls, and a Vault of so much strength.
//!
//! What decides is the provider's own code: [`Term`] and [`Life::decide`] say what is renewed and read anew and when, a
//! [`Schedule`] per node what is next, [`Standing`] and [`look_again`] how an outage is probed and come back from. What is played is
//! the rest: kubelet calls when drivers 1.6 do, requests take their turns at a node's limits and at Vault, and take time there.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, VecDeque},
    time::Duration,
};

use tokio::time::Instant;
use vaultmount::{
    error::{Cause, Error},
    lease::{CacheAction, Lifecycle, LifecycleContext, Refresh},
    renewal::Schedule,
    term::Lifetime,
    vault::standing::{CircuitBreaker, ProbeResult, retry_at},
};

/// Whose rules a node follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rules {
    /// Ours: a session for each pod, or for each service account of the node.
    Vaultmount {
        /// `tokenScope: serviceAccount`.
        shares: bool,
        /// `--state-dir`: sessions outlive a restart of the provider.
        keeps: bool,
    },
    /// The Go provider's: a token for each pod until it ends, every path read at every poll, the HMAC Secret read at every mount.
    Go,
}

/// A fleet, and what happens to it.
#[derive(Clone, Debug)]
pub struct Fleet {
    pub rules: Rules,
    pub nodes: usize,
    /// Pods of each node.
    pub pods: usize,
    /// Service accounts of each node's pods.
    pub accounts: usize,
    /// Secrets of KV that each pod reads, beside one database credential.
    pub secrets: usize,
    /// `--refresh-interval`.
    pub refresh: Duration,
    /// The ttl of tokens and credentials, and their maximum.
    pub ttl: Duration,
    pub max_ttl: Duration,
    /// What Vault can do: requests, and database credentials, in a second.
    pub requests: f64,
    pub credentials: f64,
    pub lasts: Duration,
    pub happens: Happens,
}

/// What happens once everything has run for a while.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Happens {
    /// Nothing.
    Nothing,
    /// Vault answers nobody for so long.
    Outage(Duration),
    /// Every node starts anew, with every pod, within so long.
    Reboot(Duration),
    /// The provider of every node is replaced, one after another, within so long.
    Update(Duration),
}

pub const MINUTE: Duration = Duration::from_secs(60);
/// What a Vault can do that is never busy.
const UNBOUND: f64 = 1e12;
/// When it happens.
pub const HAPPENS_AT: Duration = Duration::from_secs(300);

/// Requests in each second, and what became of pods.
#[derive(Clone, Debug, Default)]
pub struct Played {
    /// To Vault: everything, and of that logins, credentials and renewals.
    pub vault: Vec<u32>,
    pub logins: Vec<u32>,
    pub credentials: Vec<u32>,
    pub renewals: Vec<u32>,
    /// To the API server.
    pub api: Vec<u32>,
    /// Polls that failed, of pods that had everything.
    pub failed_polls: u64,
    /// How long after it happened the last pod had its files that had none.
    pub all_running: Duration,
    /// Pods that had everything in the end.
    pub running: usize,
}

/// kubelet's pause between two polls of a pod, in milliseconds.
const POLL: std::ops::Range<u64> = 66_000..73_000;
/// What one mount may take (kubelet's two minutes, less our last words).
const DEADLINE: u64 = 119_500;
/// kubelet's first pause before it tries again, and its longest.
const RETRY: u64 = 500;
const MAX_RETRY: u64 = 122_000;
/// What a request takes at a Vault that has nothing else to do, in milliseconds.
const TAKES: u64 = 3;
const CREATING_TAKES: u64 = 30;
/// Of a node, requests at once that create something: `--max-creating`.
const MAX_CREATING: usize = 4;
/// Of a node, requests at once that no mount waits for.
const BACKGROUND: usize = 4;
/// Requests that the Go provider's client may make of the API server in a second, and at once.
const GO_API: f64 = 5.0;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    /// kubelet calls for a pod.
    Mount(u32),
    /// A mount of a pod that waits, begun then, has taken all its time.
    Late(u32, u64),
    /// A request of a session is answered.
    Done(u32, Request),
    /// The background of a node looks at what is due.
    Wake(u32),
    /// A node asks a server that is down how it is.
    Probe(u32),
    /// A node's provider is another process.
    Replaced(u32),
    /// A node has started anew.
    Booted(u32),
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
    standing: CircuitBreaker,
    schedule: Schedule<u32, u32>,
    /// When it wakes; another event is out of date.
    wakes: Option<u64>,
    creating: usize,
    waiting: VecDeque<u32>,
    background: usize,
    /// By the end of what is to be renewed.
    urgent: BinaryHeap<Reverse<(Option<u64>, u32, Request)>>,
    /// When the Go provider's client may ask the API server again.
    api_free: f64,
}

#[derive(Default)]
#[allow(clippy::struct_excessive_bools, reason = "each is a request under way")]
struct Session {
    token: Option<Lifetime>,
    life: Option<Lifecycle>,
    read: Option<Instant>,
    delivered: bool,
    /// Under way.
    login: bool,
    secrets: bool,
    credential: bool,
    renews: bool,
}

#[derive(Default)]
struct Pod {
    /// Since when it waits for its files, and for the mount under way.
    waits: Option<(u64, u64)>,
    retry: u64,
    has: bool,
    /// Polls under this number are those of its life before.
    life: u32,
}

/// A run of the fleet.
pub struct Play<'a> {
    fleet: &'a Fleet,
    begin: Instant,
    now: u64,
    events: BinaryHeap<Reverse<(u64, u64, Event, u32)>>,
    order: u64,
    nodes: Vec<Node>,
    sessions: Vec<Session>,
    pods: Vec<Pod>,
    /// When Vault has done what it was asked so far, and what it was asked to create, in milliseconds.
    free: f64,
    creating_free: f64,
    played: Played,
    random: u64,
}

impl Fleet {
    /// Nodes of 50 pods each, of 10 service accounts, at a Vault that is never busy; nothing happens.
    #[must_use]
    pub fn usual(rules: Rules, nodes: usize) -> Self {
        Self {
            rules,
            nodes,
            pods: 50,
            accounts: 10,
            secrets: 2,
            refresh: 2 * MINUTE,
            ttl: 60 * MINUTE,
            max_ttl: 24 * 60 * MINUTE,
            requests: UNBOUND,
            credentials: UNBOUND,
            lasts: 15 * MINUTE,
            happens: Happens::Nothing,
        }
    }

    /// Plays it.
    #[must_use]
    pub fn play(&self) -> Played {
        let mut play = Play::new(self);
        play.run();
        play.played.running = play.pods.iter().filter(|pod| pod.has).count();
        play.played
    }

    fn shares(&self) -> bool {
        matches!(self.rules, Rules::Vaultmount { shares: true, .. })
    }

    fn is_go(&self) -> bool {
        self.rules == Rules::Go
    }

    fn is_down(&self, at: u64) -> bool {
        let from = HAPPENS_AT.as_millis() as u64;
        matches!(self.happens, Happens::Outage(lasts) if (from..from + lasts.as_millis() as u64).contains(&at))
    }
}

impl<'a> Play<'a> {
    fn new(fleet: &'a Fleet) -> Self {
        let pods = fleet.nodes * fleet.pods;
        let sessions = if fleet.shares() { fleet.nodes * fleet.accounts } else { pods };
        let seconds = fleet.lasts.as_secs() as usize + 1;
        let played = Played {
            vault: vec![0; seconds],
            logins: vec![0; seconds],
            credentials: vec![0; seconds],
            renewals: vec![0; seconds],
            api: vec![0; seconds],
            ..Played::default()
        };
        let mut play = Self {
            fleet,
            begin: Instant::now(),
            now: 0,
            events: BinaryHeap::new(),
            order: 0,
            nodes: (0..fleet.nodes).map(|_| Node::default()).collect(),
            sessions: (0..sessions).map(|_| Session::default()).collect(),
            pods: (0..pods).map(|_| Pod::default()).collect(),
            free: 0.0,
            creating_free: 0.0,
            played,
            random: 0x2545_f491_4f6c_dd1d,
        };
        play.set_out();
        play
    }

    /// Everything has run for long: pods are polled at times of their own, tokens and credentials are of every age.
    fn set_out(&mut self) {
        for session in 0..self.sessions.len() {
            let age = Duration::from_millis(self.below(self.fleet.ttl.as_millis() as u64 * 3 / 5));
            let read = Duration::from_millis(self.below(self.fleet.refresh.as_millis() as u64));
            let (now, ttl) = (self.instant(), self.fleet.ttl);
            let begun = now.checked_sub(age).unwrap_or(now);
            let state = &mut self.sessions[session];
            state.token = Some(Lifetime::new(ttl, true, begun));
            state.life = Some(Lifecycle::Leased {
                lease_id: String::new(),
                lifetime: Box::new(Lifetime::new(ttl, true, begun)),
            });
            state.read = now.checked_sub(read);
            state.delivered = true;
            if !self.fleet.is_go() {
                self.schedule(session);
            }
        }
        for pod in 0..self.pods.len() {
            self.pods[pod].has = true;
            let at = self.below(POLL.end);
            self.at(at, Event::Mount(pod as u32), 0);
        }
        let from = HAPPENS_AT.as_millis() as u64;
        let spread =
            |within: Duration, node: usize, nodes: usize| from + within.as_millis() as u64 * node as u64 / nodes as u64;
        for node in 0..self.nodes.len() {
            match self.fleet.happens {
                Happens::Reboot(within) => {
                    self.at(spread(within, node, self.nodes.len()), Event::Booted(node as u32), 0);
                }
                Happens::Update(within) => {
                    self.at(spread(within, node, self.nodes.len()), Event::Replaced(node as u32), 0);
                }
                Happens::Nothing | Happens::Outage(_) => {}
            }
        }
    }

    fn run(&mut self) {
        let end = self.fleet.lasts.as_millis() as u64;
        while let Some(Reverse((at, _, event, life))) = self.events.pop() {
            if at >= end {
                break;
            }
            self.now = at;
            match event {
                Event::Mount(pod) => self.mount(pod as usize, life),
                Event::Late(pod, begun) => self.late(pod as usize, begun),
                Event::Done(session, request) => self.done(session as usize, request),
                Event::Wake(node) => self.wake(node as usize),
                Event::Probe(node) => self.probe(node as usize),
                Event::Replaced(node) => self.replaced(node as usize),
                Event::Booted(node) => self.booted(node as usize),
            }
        }
    }

    /// kubelet calls for a pod: for its first files, or to see whether there are others.
    fn mount(&mut self, pod: usize, life: u32) {
        if self.pods[pod].life != life {
            return;
        }
        let node = pod / self.fleet.pods;
        if self.fleet.is_go() {
            // Its client to the API server waits for its turn.
            let (now, free) = (self.now as f64, self.nodes[node].api_free);
            let turn = now.max(free);
            self.nodes[node].api_free = turn + 1000.0 / GO_API;
            self.count_api(turn as u64, 1);
        }
        if self.pods[pod].has {
            let next = self.now + POLL.start + self.below(POLL.end - POLL.start);
            self.at(next, Event::Mount(pod as u32), life);
        } else {
            let since = self.pods[pod].waits.map_or(self.now, |(since, _)| since);
            self.pods[pod].waits = Some((since, self.now));
            self.at(self.now + DEADLINE, Event::Late(pod as u32, self.now), life);
        }
        let session = self.session_of(pod);
        if self.fleet.is_go() {
            self.go(pod, session);
        } else {
            self.ours(pod, session);
        }
        self.deliver(pod, session);
    }

    /// What the Go provider asks in a mount: everything.
    fn go(&mut self, pod: usize, session: usize) {
        if self.fleet.is_down(self.now) {
            self.turned_away(pod);
            return;
        }
        let now = self.instant();
        let state = &mut self.sessions[session];
        let has_token = state.token.as_ref().is_some_and(|token| !token.is_expired(now));
        (state.read, state.life) = (None, None);
        if has_token {
            self.ask(session, Request::Secrets);
            self.ask(session, Request::Credential);
        } else {
            self.ask(session, Request::Login);
        }
    }

    /// What ours asks in a mount: what is due.
    fn ours(&mut self, pod: usize, session: usize) {
        let (secrets, credential) = self.due(session);
        if !(secrets || credential) {
            return;
        }
        let node = self.node_of(session);
        if self.fleet.is_down(self.now) {
            self.notice(node);
        }
        if self.nodes[node].standing.outage().is_some() {
            self.turned_away(pod);
            return;
        }
        let now = self.instant();
        let held = self.sessions[session].token.as_ref().is_some_and(|token| {
            let ends = credential && token.needs_replacement(token.max_expires_at(), Some(gap()), now);
            !(token.is_nearly_expired(now) || ends)
        });
        if held {
            if secrets {
                self.ask(session, Request::Secrets);
            }
            if credential {
                self.ask(session, Request::Credential);
            }
        } else {
            self.ask(session, Request::Login);
        }
    }

    /// Whether secrets, and the credential, must be read.
    fn due(&self, session: usize) -> (bool, bool) {
        let (state, now) = (&self.sessions[session], self.instant());
        let at = LifecycleContext {
            now,
            token_lifetime: state.token.as_ref().filter(|token| !token.is_expired(now)),
            poll_interval: Some(gap()),
            refresh: Refresh::Every(self.fleet.refresh),
            delivered: state.delivered,
            is_referenced: true,
        };
        let secrets = state.read.is_none_or(|read_at| {
            matches!(Lifecycle::Plain { read_at, mutating: false }.next_action(&at), CacheAction::Refetch(_))
                && state.delivered
        });
        let credential =
            state.life.as_ref().is_none_or(|life| matches!(life.next_action(&at), CacheAction::Refetch(_)));
        (secrets, credential)
    }

    /// Vault cannot be asked: who has everything keeps it, who has not is called for again.
    fn turned_away(&mut self, pod: usize) {
        let (node, now) = (pod / self.fleet.pods, self.instant());
        if self.pods[pod].has {
            self.played.failed_polls += u64::from(self.fleet.is_go());
            return;
        }
        if self.nodes[node].standing.request_probe(Duration::ZERO, now) {
            self.set_probe(node);
        }
        self.again(pod);
    }

    /// kubelet calls again for a pod that has not got its files.
    fn again(&mut self, pod: usize) {
        let state = &mut self.pods[pod];
        let since = state.waits.map_or(self.now, |(since, _)| since);
        state.waits = Some((since, u64::MAX));
        state.retry = (state.retry * 2).clamp(RETRY, MAX_RETRY);
        let (at, life) = (self.now + state.retry, state.life);
        self.at(at, Event::Mount(pod as u32), life);
    }

    fn late(&mut self, pod: usize, begun: u64) {
        if self.pods[pod].waits.is_some_and(|(_, of)| of == begun) {
            self.again(pod);
        }
    }

    /// Hands out what a session has, if it is all.
    fn deliver(&mut self, pod: usize, session: usize) {
        let state = &mut self.sessions[session];
        if state.read.is_some() && state.life.is_some() {
            state.delivered = true;
            let pod_state = &mut self.pods[pod];
            if !pod_state.has && pod_state.waits.take().is_some() {
                pod_state.has = true;
                pod_state.retry = 0;
                let life = pod_state.life;
                self.played.all_running = Duration::from_millis(self.now).saturating_sub(HAPPENS_AT);
                let next = self.now + POLL.start + self.below(POLL.end - POLL.start);
                self.at(next, Event::Mount(pod as u32), life);
            }
        }
    }

    /// Sends a request, unless its like is under way or waits for its turn.
    fn ask(&mut self, session: usize, request: Request) {
        let node = self.node_of(session);
        let state = &mut self.sessions[session];
        let flag = match request {
            Request::Login => &mut state.login,
            Request::Secrets => &mut state.secrets,
            Request::Credential => &mut state.credential,
            Request::RenewToken | Request::RenewLease => return self.send(session, request),
        };
        if std::mem::replace(flag, true) {
            return;
        }
        if request == Request::Credential && !self.fleet.is_go() {
            if self.nodes[node].creating >= MAX_CREATING {
                self.nodes[node].waiting.push_back(session as u32);
                return;
            }
            self.nodes[node].creating += 1;
        }
        self.send(session, request);
    }

    /// A request arrives at Vault, and is answered when Vault has come to it.
    fn send(&mut self, session: usize, request: Request) {
        let (weight, now) = (if request == Request::Secrets { self.fleet.secrets } else { 1 }, self.now);
        self.count(request, weight);
        self.free = self.free.max(now as f64) + weight as f64 * 1000.0 / self.fleet.requests;
        let mut done = self.free as u64 + TAKES;
        if request == Request::Credential {
            self.creating_free = self.creating_free.max(now as f64) + 1000.0 / self.fleet.credentials;
            done = done.max(self.creating_free as u64) + CREATING_TAKES;
        }
        self.at(done, Event::Done(session as u32, request), 0);
    }

    fn done(&mut self, session: usize, request: Request) {
        let (now, fleet) = (self.instant(), self.fleet);
        let node = self.node_of(session);
        let (ttl, max) = (fleet.ttl, fleet.max_ttl);
        let state = &mut self.sessions[session];
        let is_known = match request {
            Request::Login => std::mem::take(&mut state.login),
            Request::Secrets => std::mem::take(&mut state.secrets),
            Request::Credential => std::mem::take(&mut state.credential),
            Request::RenewToken | Request::RenewLease => true,
        };
        match request {
            Request::Login if is_known => {
                state.token = Some(Lifetime::new(ttl.min(max), true, now));
                let (secrets, credential) = if fleet.is_go() { (true, true) } else { self.due(session) };
                if secrets {
                    self.ask(session, Request::Secrets);
                }
                if credential {
                    self.ask(session, Request::Credential);
                }
            }
            Request::Secrets if is_known => state.read = Some(now),
            Request::Credential => {
                if is_known {
                    let term = Box::new(Lifetime::new(ttl.min(max), true, now));
                    state.life = Some(Lifecycle::Leased { lease_id: String::new(), lifetime: term });
                }
                if !fleet.is_go() {
                    self.nodes[node].creating = self.nodes[node].creating.saturating_sub(1);
                    if let Some(next) = self.nodes[node].waiting.pop_front() {
                        self.nodes[node].creating += 1;
                        self.send(next as usize, Request::Credential);
                    }
                }
            }
            Request::RenewToken => {
                state.renews = false;
                if let Some(token) = &mut state.token {
                    token.apply_renewal(ttl, true, now);
                }
                self.background_done(node);
            }
            Request::RenewLease => {
                state.renews = false;
                if let Some(Lifecycle::Leased { lifetime: term, .. }) = &mut state.life {
                    term.apply_renewal(ttl, true, now);
                }
                self.background_done(node);
            }
            Request::Login | Request::Secrets => {}
        }
        if !fleet.is_go() {
            self.schedule(session);
        }
        for pod in self.pods_of(session) {
            if self.pods[pod].waits.is_some() {
                self.deliver(pod, session);
            }
        }
    }

    /// The background of a node looks at what is due.
    fn wake(&mut self, node: usize) {
        if self.nodes[node].wakes != Some(self.now) {
            return;
        }
        self.nodes[node].wakes = None;
        let now = self.instant();
        while let Some(session) = self.nodes[node].schedule.pop(now) {
            self.attend(session as usize);
        }
        self.set_wake(node);
    }

    fn set_wake(&mut self, node: usize) {
        let Some(first) = self.nodes[node].schedule.first_due_at() else { return };
        let at = self.told(first).max(self.now + 1);
        if self.nodes[node].wakes.is_none_or(|wakes| at < wakes) {
            self.nodes[node].wakes = Some(at);
            self.at(at, Event::Wake(node as u32), 0);
        }
    }

    fn put(&mut self, session: usize, at: Instant) {
        let node = self.node_of(session);
        self.nodes[node].schedule.put(session as u32, at, session as u32);
        self.set_wake(node);
    }

    /// What is due of a session is renewed, the most urgent of the node first, or looked at again when Vault is away.
    fn attend(&mut self, session: usize) {
        let (node, now) = (self.node_of(session), self.instant());
        let Some(request) = self.renewal_due(session, now) else { return self.schedule(session) };
        if self.fleet.is_down(self.now) {
            self.notice(node);
        }
        let end = self.end_of(session);
        if self.nodes[node].standing.outage().is_some() {
            return self.put(session, retry_at(end, now));
        }
        self.sessions[session].renews = true;
        let end = end.map(|end| self.told(end));
        self.nodes[node].urgent.push(Reverse((end, session as u32, request)));
        self.background_next(node);
    }

    fn background_done(&mut self, node: usize) {
        self.nodes[node].background = self.nodes[node].background.saturating_sub(1);
        self.background_next(node);
    }

    fn background_next(&mut self, node: usize) {
        while self.nodes[node].background < BACKGROUND {
            let Some(Reverse((_, session, request))) = self.nodes[node].urgent.pop() else { return };
            self.nodes[node].background += 1;
            self.send(session as usize, request);
        }
    }

    /// A request of this node has met the outage.
    fn notice(&mut self, node: usize) {
        let now = self.instant();
        let standing = &mut self.nodes[node].standing;
        if standing.outage().is_none() && standing.on_probe_result(away(), now).is_some() {
            self.set_probe(node);
        }
    }

    fn probe(&mut self, node: usize) {
        let now = self.instant();
        let standing = &mut self.nodes[node].standing;
        if standing.next_probe_at().is_none_or(|next| next > now) {
            return;
        }
        let second = (self.now / 1000) as usize;
        self.played.vault[second] += 1;
        if self.fleet.is_down(self.now) {
            standing.on_probe_result(away(), now);
            self.set_probe(node);
        } else {
            standing.on_probe_result(ProbeResult::Healthy, now);
        }
    }

    fn set_probe(&mut self, node: usize) {
        if let Some(next) = self.nodes[node].standing.next_probe_at() {
            // Moments are finer than a millisecond.
            let at = self.told(next).max(self.now) + 1;
            self.at(at, Event::Probe(node as u32), 0);
        }
    }

    /// Another process has this node's pods: with everything of the one before, or with nothing.
    fn replaced(&mut self, node: usize) {
        // The key, the list of pods, their watch.
        self.count_api(self.now, if self.fleet.is_go() { 1 } else { 3 });
        if matches!(self.fleet.rules, Rules::Vaultmount { keeps: true, .. }) {
            return;
        }
        for session in self.sessions_of(node) {
            self.sessions[session] = Session { delivered: true, ..Session::default() };
        }
        self.nodes[node] = Node::default();
    }

    /// A node has started anew: its pods, all of them, want their files.
    fn booted(&mut self, node: usize) {
        self.replaced(node);
        for session in self.sessions_of(node) {
            self.sessions[session] = Session::default();
        }
        self.nodes[node] = Node::default();
        for pod in node * self.fleet.pods..(node + 1) * self.fleet.pods {
            let life = self.pods[pod].life + 1;
            self.pods[pod] = Pod { life, ..Pod::default() };
            // kubelet starts them within some seconds.
            let at = self.now + self.below(10_000);
            self.at(at, Event::Mount(pod as u32), life);
        }
    }

    fn renewal_due(&self, session: usize, now: Instant) -> Option<Request> {
        let state = &self.sessions[session];
        let token = state.token.as_ref()?;
        if state.renews || token.is_expired(now) {
            return None;
        }
        if token.is_renewable() && now >= token.renew_at() {
            return Some(Request::RenewToken);
        }
        let due = state.life.as_ref()?.renew_at(Some(token), now)?;
        (now >= due).then_some(Request::RenewLease)
    }

    fn end_of(&self, session: usize) -> Option<Instant> {
        let state = &self.sessions[session];
        let token = state.token.as_ref().and_then(Lifetime::expires_at);
        [token, state.life.as_ref().and_then(Lifecycle::expires_at)].into_iter().flatten().min()
    }

    fn schedule(&mut self, session: usize) {
        let (state, now) = (&self.sessions[session], self.instant());
        let Some(token) = state.token.as_ref().filter(|token| !token.is_expired(now)) else { return };
        let renewal = state.life.as_ref().and_then(|life| life.renew_at(Some(token), now));
        let Some(next) = [Some(token.renew_at()), renewal].into_iter().flatten().min() else { return };
        if !state.renews {
            self.put(session, next);
        }
    }

    fn count(&mut self, request: Request, weight: usize) {
        let (second, weight) = ((self.now / 1000) as usize, weight as u32);
        self.played.vault[second] += weight;
        match request {
            Request::Login => self.played.logins[second] += weight,
            Request::Credential => self.played.credentials[second] += weight,
            Request::RenewToken | Request::RenewLease => self.played.renewals[second] += weight,
            Request::Secrets => {}
        }
    }

    fn count_api(&mut self, at: u64, requests: u32) {
        if let Some(second) = self.played.api.get_mut((at / 1000) as usize) {
            *second += requests;
        }
    }

    fn session_of(&self, pod: usize) -> usize {
        if !self.fleet.shares() {
            return pod;
        }
        let (node, pod) = (pod / self.fleet.pods, pod % self.fleet.pods);
        node * self.fleet.accounts + pod % self.fleet.accounts
    }

    fn node_of(&self, session: usize) -> usize {
        session / if self.fleet.shares() { self.fleet.accounts } else { self.fleet.pods }
    }

    fn sessions_of(&self, node: usize) -> std::ops::Range<usize> {
        let each = if self.fleet.shares() { self.fleet.accounts } else { self.fleet.pods };
        node * each..(node + 1) * each
    }

    fn pods_of(&self, session: usize) -> Vec<usize> {
        if !self.fleet.shares() {
            return vec![session];
        }
        let (node, account) = (session / self.fleet.accounts, session % self.fleet.accounts);
        (account..self.fleet.pods).step_by(self.fleet.accounts).map(|pod| node * self.fleet.pods + pod).collect()
    }

    fn at(&mut self, at: u64, event: Event, life: u32) {
        self.order += 1;
        self.events.push(Reverse((at, self.order, event, life)));
    }

    fn instant(&self) -> Instant {
        self.begin + Duration::from_millis(self.now)
    }

    fn told(&self, moment: Instant) -> u64 {
        moment.saturating_duration_since(self.begin).as_millis() as u64
    }

    /// A number below another, the same in every run.
    fn below(&mut self, end: u64) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random % end.max(1)
    }
}

/// The longest pause between two polls.
fn gap() -> Duration {
    Duration::from_millis(POLL.end)
}

fn away() -> ProbeResult {
    ProbeResult::Down(Error::new(Cause::Refused, "Vault is away"))
}

impl Played {
    /// The most in any second of a span, and the mean.
    #[must_use]
    pub fn peak_and_mean(series: &[u32], from: Duration, to: Duration) -> (u32, f64) {
        let span = &series[from.as_secs() as usize..to.as_secs() as usize];
        let sum: u64 = span.iter().map(|n| u64::from(*n)).sum();
        (span.iter().copied().max().unwrap_or(0), sum as f64 / span.len().max(1) as f64)
    }
}
