//! What is counted, for scrapes: `OpenMetrics` or classic Prometheus text.
//!
//! Every label is a word of [`label`]'s, or an endpoint that the operator named, so that no class and no server can make a
//! series. All series of counters are there from the start: a rate sees the first event, too. `docs/reference/metrics.md` lists them all.

pub mod label;
mod levels;
mod process;
#[cfg(test)]
mod tests;
mod text_format;

use std::fmt;

use jiff::Timestamp;
use prometheus_client::{
    encoding::{
        EncodeMetric,
        text::{encode_eof, encode_registry},
    },
    metrics::{TypedMetric, counter::Counter, family::Family, gauge::Gauge, histogram::Histogram, info::Info},
    registry::Registry,
};
use tokio::time::Instant;

use crate::error::{Cause, Code};
pub use label::{
    Answered, AuditWrite, AuthKind, Certified, EndpointState, EventWrite, Kind, KubeOperation, LoginOutcome, Operation,
    PolicyRule, ReadFrom, Reason, Renewable, RenewalOutcome, RevocationOutcome, Rpc, Stale, State, StateWrite,
    Watching,
};
pub use levels::{Health, Levels};
pub use text_format::TextFormat;

/// Starts every name but those of the process, which have the names that every process's have.
const PREFIX: &str = "vaultmount";
/// Upper bounds of how long something takes, in seconds: from what is answered from memory to what a driver waits for.
const SECONDS: [f64; 18] = [
    0.000_05, 0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0,
    10.0, 30.0,
];

/// Labels of one series.
type Labels<const N: usize> = [(&'static str, &'static str); N];
type Counters<const N: usize> = Family<Labels<N>, Counter>;
type Gauges<const N: usize> = Family<Labels<N>, Gauge>;
type Histograms = Family<Labels<1>, Histogram, fn() -> Histogram>;

/// Everything that is counted. One per process.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    /// In seconds since 1970.
    started: i64,
    grpc_requests: Counters<2>,
    grpc_seconds: Histograms,
    grpc_in_flight: Gauges<1>,
    vault_requests: Counters<2>,
    vault_seconds: Histograms,
    vault_in_flight: Gauges<0>,
    vault_queued: Gauges<0>,
    kubernetes_requests: Counters<2>,
    logins: Counters<2>,
    reads: Counters<1>,
    polls_kept: Counters<1>,
    renewals: Counters<2>,
    rotations: Counters<2>,
    revocations: Counters<1>,
    policy_refusals: Counters<1>,
    own_addresses: Counters<0>,
    state_writes: Counters<1>,
    audit_lines: Counters<1>,
    events: Counters<1>,
    endpoint_changes: Counters<1>,
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// Nothing has happened yet.
    #[must_use]
    #[expect(clippy::too_many_lines, reason = "a list")]
    pub fn new() -> Self {
        let mut registry = Registry::with_prefix(PREFIX);
        registry.register(
            "build",
            "Version of the running program; always 1",
            Info::new([("version", env!("CARGO_PKG_VERSION"))]),
        );
        Self {
            grpc_requests: family(
                &mut registry,
                "grpc_requests",
                "gRPC calls completed, by method and code",
                grpc_codes(),
            ),
            grpc_seconds: histograms(
                &mut registry,
                "grpc_request_duration_seconds",
                "Duration of gRPC calls in seconds",
                Rpc::ALL.iter().map(|method| ("method", method.word())),
            ),
            grpc_in_flight: family(
                &mut registry,
                "grpc_requests_in_flight",
                "gRPC calls in progress",
                Rpc::ALL.iter().map(|method| [("method", method.word())]),
            ),
            vault_requests: family(
                &mut registry,
                "vault_requests",
                "Requests sent to Vault; each retry counts",
                pairs(Operation::ALL, Answered::ALL, request),
            ),
            vault_seconds: histograms(
                &mut registry,
                "vault_request_duration_seconds",
                "Duration of requests to Vault in seconds, without time spent queued; each retry counts",
                Operation::ALL.iter().map(|what| ("operation", what.word())),
            ),
            vault_in_flight: family(&mut registry, "vault_requests_in_flight", "Requests to Vault in progress", [[]]),
            vault_queued: family(
                &mut registry,
                "vault_requests_queued",
                "Vault requests queued for a concurrency permit",
                [[]],
            ),
            kubernetes_requests: family(
                &mut registry,
                "kubernetes_requests",
                "Requests sent to the Kubernetes API",
                pairs(KubeOperation::ALL, Answered::ALL, kube_request),
            ),
            logins: family(
                &mut registry,
                "logins",
                "Vault logins of pods, by auth method and outcome",
                pairs(AuthKind::ALL, LoginOutcome::ALL, login),
            ),
            reads: by_word(
                &mut registry,
                "secret_reads",
                "Secrets read successfully for mounts, by source",
                "source",
                ReadFrom::ALL,
                ReadFrom::word,
            ),
            polls_kept: by_word(
                &mut registry,
                "stale_polls",
                "Polls served from stale cached secrets because Vault was unavailable",
                "reason",
                Stale::ALL,
                Stale::word,
            ),
            renewals: family(
                &mut registry,
                "renewals",
                "Renewals of Vault tokens and leases",
                pairs(Renewable::ALL, RenewalOutcome::ALL, renewal),
            ),
            rotations: family(
                &mut registry,
                "rotations",
                "Credentials replaced by new ones, by kind and reason",
                pairs(Kind::ALL, Reason::ALL, rotation).filter(|[(_, kind), _]| *kind != Kind::Plain.word()),
            ),
            revocations: by_word(
                &mut registry,
                "revocations",
                "Revocations of Vault tokens and the leases under them",
                "outcome",
                RevocationOutcome::ALL,
                RevocationOutcome::word,
            ),
            policy_refusals: by_word(
                &mut registry,
                "policy_denials",
                "Mounts denied by the operator's policy or flags, by rule",
                "rule",
                PolicyRule::ALL,
                PolicyRule::word,
            ),
            own_addresses: family(
                &mut registry,
                "tenant_address_mounts",
                "Mounts with an address from the class while no policy file is set",
                [[]],
            ),
            state_writes: by_word(
                &mut registry,
                "state_writes",
                "Writes of session files in --state-dir",
                "outcome",
                StateWrite::ALL,
                StateWrite::word,
            ),
            audit_lines: by_word(
                &mut registry,
                "audit_records",
                "Records of the audit log",
                "outcome",
                AuditWrite::ALL,
                AuditWrite::word,
            ),
            events: by_word(
                &mut registry,
                "events",
                "Kubernetes events of pods",
                "outcome",
                EventWrite::ALL,
                EventWrite::word,
            ),
            endpoint_changes: by_word(
                &mut registry,
                "endpoint_transitions",
                "Transitions of a Vault endpoint between up and down",
                "state",
                EndpointState::ALL,
                EndpointState::word,
            ),
            started: Timestamp::now().as_second(),
            registry,
        }
    }

    /// A call of the driver has come.
    #[must_use]
    pub fn call(&self, method: Rpc) -> Call<'_> {
        let in_flight = Underway::of(&self.grpc_in_flight, [("method", method.word())]);
        Call { metrics: self, method, begun: Instant::now(), code: GIVEN_UP, _in_flight: in_flight }
    }

    /// A request to Vault waits for others.
    #[must_use]
    pub fn vault_queue(&self) -> Underway {
        Underway::of(&self.vault_queued, [])
    }

    /// A request to Vault goes out.
    #[must_use]
    pub fn vault_request(&self, operation: Operation) -> VaultRequest<'_> {
        let in_flight = Underway::of(&self.vault_in_flight, []);
        VaultRequest {
            metrics: self,
            operation,
            begun: Instant::now(),
            answered: Answered::Nothing,
            _in_flight: in_flight,
        }
    }

    /// A request to the Kubernetes API was answered, or was not.
    pub fn kubernetes_request(&self, operation: KubeOperation, answered: Answered) {
        self.kubernetes_requests.get_or_create(&kube_request(operation, answered)).inc();
    }

    /// A pod logged in, or could not.
    pub fn login(&self, method: AuthKind, outcome: LoginOutcome) {
        self.logins.get_or_create(&login(method, outcome)).inc();
    }

    /// A mount asked for so many secrets, whose answers came from there.
    pub fn reads(&self, from: ReadFrom, count: usize) {
        self.reads.get_or_create(&[("source", from.word())]).inc_by(count as u64);
    }

    /// A poll was answered with what the pod has, as Vault could not be asked.
    pub fn poll_kept(&self, cause: Cause) {
        self.polls_kept.get_or_create(&[("reason", Stale::of(cause).word())]).inc();
    }

    /// A token or a lease was renewed, or could not be.
    pub fn renewal(&self, what: Renewable, outcome: RenewalOutcome) {
        self.renewals.get_or_create(&renewal(what, outcome)).inc();
    }

    /// A credential was replaced by a new one. What is [`Kind::Plain`] never is, and not counted.
    pub fn rotation(&self, kind: Kind, reason: Reason) {
        if kind != Kind::Plain {
            self.rotations.get_or_create(&rotation(kind, reason)).inc();
        }
    }

    /// A token was revoked, or could not be.
    pub fn revocation(&self, outcome: RevocationOutcome) {
        self.revocations.get_or_create(&[("outcome", outcome.word())]).inc();
    }

    /// A mount was refused by a rule of the operator's.
    pub fn policy_refusal(&self, rule: PolicyRule) {
        self.policy_refusals.get_or_create(&[("rule", rule.word())]).inc();
    }

    /// A class chose an address, and no policy file says whether it may.
    pub fn own_address(&self) {
        self.own_addresses.get_or_create(&[]).inc();
    }

    /// A session's file was written, or could not be.
    pub fn state_write(&self, outcome: StateWrite) {
        self.state_writes.get_or_create(&[("outcome", outcome.word())]).inc();
    }

    /// A line of the audit log was written, or lost. How many were.
    #[expect(clippy::must_use_candidate, reason = "what counts is that it is counted")]
    pub fn audit_write(&self, outcome: AuditWrite) -> u64 {
        self.audit_lines.get_or_create(&[("outcome", outcome.word())]).inc() + 1
    }

    /// An event of a pod was written, or not.
    pub fn event_write(&self, outcome: EventWrite) {
        self.events.get_or_create(&[("outcome", outcome.word())]).inc();
    }

    /// A server was found down, or up again.
    pub fn endpoint_change(&self, state: EndpointState) {
        self.endpoint_changes.get_or_create(&[("state", state.word())]).inc();
    }

    /// Returns every counter, and the given gauges, in a text format.
    #[must_use]
    pub fn encode(&self, levels: &Levels, format: TextFormat) -> String {
        let mut text = String::new();
        // Writing to a text cannot fail.
        let _ = encode_registry(&mut text, &self.registry)
            .and_then(|()| levels.encode(&mut text))
            .and_then(|()| process::encode(&mut text, self.started))
            .and_then(|()| encode_eof(&mut text));
        format.convert(text)
    }
}

/// The code of a call whose caller went away before its answer.
const GIVEN_UP: &str = "Cancelled";

/// A call of the driver, counted when it is dropped.
pub struct Call<'a> {
    metrics: &'a Metrics,
    method: Rpc,
    begun: Instant,
    code: &'static str,
    _in_flight: Underway,
}

impl Call<'_> {
    /// It is answered, with a code if it failed.
    pub fn answered(mut self, outcome: Result<(), Code>) {
        self.code = code(outcome);
    }
}

impl Drop for Call<'_> {
    fn drop(&mut self) {
        let method = ("method", self.method.word());
        self.metrics.grpc_requests.get_or_create(&[method, ("code", self.code)]).inc();
        self.metrics.grpc_seconds.get_or_create(&[method]).observe(self.begun.elapsed().as_secs_f64());
    }
}

/// A request to Vault on the wire, counted when it is dropped: without an answer, unless it had one.
pub struct VaultRequest<'a> {
    metrics: &'a Metrics,
    operation: Operation,
    begun: Instant,
    answered: Answered,
    _in_flight: Underway,
}

impl VaultRequest<'_> {
    /// It is answered with a status.
    pub fn answered(mut self, status: u16) {
        self.answered = Answered::of(status);
    }
}

impl Drop for VaultRequest<'_> {
    fn drop(&mut self) {
        let Self { metrics, operation, .. } = self;
        metrics.vault_requests.get_or_create(&request(*operation, self.answered)).inc();
        let seconds = metrics.vault_seconds.get_or_create(&[("operation", operation.word())]);
        seconds.observe(self.begun.elapsed().as_secs_f64());
    }
}

/// One more of something, until it is dropped.
pub struct Underway(Gauge);

impl Underway {
    fn of<const N: usize>(gauges: &Gauges<N>, labels: Labels<N>) -> Self {
        let gauge = gauges.get_or_create_owned(&labels);
        gauge.inc();
        Self(gauge)
    }
}

impl Drop for Underway {
    fn drop(&mut self) {
        self.0.dec();
    }
}

fn code(outcome: Result<(), Code>) -> &'static str {
    outcome.err().map_or("OK", Code::name)
}

/// The codes that each method may be answered with.
fn grpc_codes() -> impl Iterator<Item = Labels<2>> {
    let of = |method: Rpc, code| [("method", method.word()), ("code", code)];
    let failures = Code::ALL.iter().map(move |failure| of(Rpc::Mount, failure.name()));
    failures.chain([of(Rpc::Mount, "OK"), of(Rpc::Mount, GIVEN_UP), of(Rpc::Version, "OK")])
}

fn login(method: AuthKind, outcome: LoginOutcome) -> Labels<2> {
    [("method", method.word()), ("outcome", outcome.word())]
}

fn renewal(what: Renewable, outcome: RenewalOutcome) -> Labels<2> {
    [("target", what.word()), ("outcome", outcome.word())]
}

fn rotation(kind: Kind, reason: Reason) -> Labels<2> {
    [("kind", kind.word()), ("reason", reason.word())]
}

fn request(operation: Operation, answered: Answered) -> Labels<2> {
    [("operation", operation.word()), ("status", answered.word())]
}

fn kube_request(operation: KubeOperation, answered: Answered) -> Labels<2> {
    [("operation", operation.word()), ("status", answered.word())]
}

/// Labels for each of some words with each of others.
fn pairs<A: Copy, B: Copy>(
    some: &'static [A],
    others: &'static [B],
    labels: impl Fn(A, B) -> Labels<2> + Copy,
) -> impl Iterator<Item = Labels<2>> {
    some.iter().flat_map(move |a| others.iter().map(move |b| labels(*a, *b)))
}

/// Counters or gauges with all their series, each at zero.
fn family<const N: usize, M>(
    registry: &mut Registry,
    name: &str,
    help: &str,
    all: impl IntoIterator<Item = Labels<N>>,
) -> Family<Labels<N>, M>
where
    M: EncodeMetric + TypedMetric + Default + Clone + fmt::Debug + Send + Sync + 'static,
{
    let family = Family::<_, M>::default();
    for labels in all {
        drop(family.get_or_create(&labels));
    }
    registry.register(name, help, family.clone());
    family
}

/// Counters by one label, for each of its words.
fn by_word<W: Copy>(
    registry: &mut Registry,
    name: &str,
    help: &str,
    label: &'static str,
    words: &[W],
    word: fn(W) -> &'static str,
) -> Counters<1> {
    family(registry, name, help, words.iter().map(|each| [(label, word(*each))]))
}

fn histograms(
    registry: &mut Registry,
    name: &str,
    help: &str,
    all: impl IntoIterator<Item = (&'static str, &'static str)>,
) -> Histograms {
    let family = Histograms::new_with_constructor(|| Histogram::new(SECONDS));
    for label in all {
        drop(family.get_or_create(&[label]));
    }
    registry.register(name, help, family.clone());
    family
}
