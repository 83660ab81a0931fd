//! Metrics in `OpenMetrics` or classic Prometheus text format.
//!
//! Every label value is defined in [`labels`] or is an operator endpoint, so that no class and no server can create a series.
//! All series of counters exist from the start, so that `rate()` includes the first event. `docs/reference/metrics.md` lists
//! all metrics.

mod gauges;
pub mod labels;
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

use crate::{
    cache::kind::{ReadSource, RotationReason, SecretKind},
    error::{Cause, Code},
    policy::rule_kind::RuleKind,
    vault::auth_method::AuthMethod,
};
pub use gauges::{EndpointHealth, GaugeSnapshot};
pub use labels::{
    AuditWrite, CertificateRole, EndpointState, EventWrite, GrpcMethod, KubeOperation, LoginOutcome, OutageReason,
    RenewalOutcome, RenewalTarget, RevocationOutcome, StateWrite, StatusClass, VaultOperation,
};
pub use text_format::TextFormat;

/// Prefix of every metric name except those of the process, which have the standard names.
const PREFIX: &str = "vaultmount";
/// Upper bounds of duration histograms in seconds, from cache hits to the driver's timeout.
const DURATION_BUCKETS_SECONDS: [f64; 18] = [
    0.000_05, 0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0,
    10.0, 30.0,
];

/// Labels of one series.
type Labels<const N: usize> = [(&'static str, &'static str); N];
type Counters<const N: usize> = Family<Labels<N>, Counter>;
type Gauges<const N: usize> = Family<Labels<N>, Gauge>;
type Histograms = Family<Labels<1>, Histogram, fn() -> Histogram>;

/// All counters and histograms. One per process.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    /// Unix time in seconds.
    started_at: i64,
    grpc_requests: Counters<2>,
    grpc_request_durations: Histograms,
    grpc_requests_in_flight: Gauges<1>,
    vault_requests: Counters<2>,
    vault_request_durations: Histograms,
    vault_requests_in_flight: Gauges<0>,
    vault_requests_queued: Gauges<0>,
    kubernetes_requests: Counters<2>,
    logins: Counters<2>,
    secret_reads: Counters<1>,
    stale_polls: Counters<1>,
    renewals: Counters<2>,
    rotations: Counters<2>,
    revocations: Counters<1>,
    policy_denials: Counters<1>,
    tenant_address_mounts: Counters<0>,
    state_writes: Counters<1>,
    audit_records: Counters<1>,
    events: Counters<1>,
    endpoint_transitions: Counters<1>,
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// Returns metrics with every series at zero.
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
            grpc_request_durations: histograms(
                &mut registry,
                "grpc_request_duration_seconds",
                "Duration of gRPC calls in seconds",
                GrpcMethod::ALL.iter().map(|method| ("method", method.as_str())),
            ),
            grpc_requests_in_flight: family(
                &mut registry,
                "grpc_requests_in_flight",
                "gRPC calls in progress",
                GrpcMethod::ALL.iter().map(|method| [("method", method.as_str())]),
            ),
            vault_requests: family(
                &mut registry,
                "vault_requests",
                "Requests sent to Vault; each retry counts",
                label_pairs(VaultOperation::ALL, StatusClass::ALL, vault_request_labels),
            ),
            vault_request_durations: histograms(
                &mut registry,
                "vault_request_duration_seconds",
                "Duration of requests to Vault in seconds, without time spent queued; each retry counts",
                VaultOperation::ALL.iter().map(|operation| ("operation", operation.as_str())),
            ),
            vault_requests_in_flight: family(
                &mut registry,
                "vault_requests_in_flight",
                "Requests to Vault in progress",
                [[]],
            ),
            vault_requests_queued: family(
                &mut registry,
                "vault_requests_queued",
                "Vault requests queued for a concurrency permit",
                [[]],
            ),
            kubernetes_requests: family(
                &mut registry,
                "kubernetes_requests",
                "Requests sent to the Kubernetes API",
                label_pairs(KubeOperation::ALL, StatusClass::ALL, kubernetes_request_labels),
            ),
            logins: family(
                &mut registry,
                "logins",
                "Vault logins of pods, by auth method and outcome",
                label_pairs(AuthMethod::ALL, LoginOutcome::ALL, login_labels),
            ),
            secret_reads: counters_by_label(
                &mut registry,
                "secret_reads",
                "Secrets read successfully for mounts, by source",
                "source",
                ReadSource::ALL,
                ReadSource::as_str,
            ),
            stale_polls: counters_by_label(
                &mut registry,
                "stale_polls",
                "Polls served from stale cached secrets because Vault was unavailable",
                "reason",
                OutageReason::ALL,
                OutageReason::as_str,
            ),
            renewals: family(
                &mut registry,
                "renewals",
                "Renewals of Vault tokens and leases",
                label_pairs(RenewalTarget::ALL, RenewalOutcome::ALL, renewal_labels),
            ),
            rotations: family(
                &mut registry,
                "rotations",
                "Credentials replaced by new ones, by kind and reason",
                label_pairs(SecretKind::ALL, RotationReason::ALL, rotation_labels)
                    .filter(|[(_, kind), _]| *kind != SecretKind::Plain.as_str()),
            ),
            revocations: counters_by_label(
                &mut registry,
                "revocations",
                "Revocations of Vault tokens and the leases under them",
                "outcome",
                RevocationOutcome::ALL,
                RevocationOutcome::as_str,
            ),
            policy_denials: counters_by_label(
                &mut registry,
                "policy_denials",
                "Mounts denied by the operator's policy or flags, by rule",
                "rule",
                RuleKind::ALL,
                RuleKind::as_str,
            ),
            tenant_address_mounts: family(
                &mut registry,
                "tenant_address_mounts",
                "Mounts with an address from the class while no policy file is set",
                [[]],
            ),
            state_writes: counters_by_label(
                &mut registry,
                "state_writes",
                "Writes of session files in --state-dir",
                "outcome",
                StateWrite::ALL,
                StateWrite::as_str,
            ),
            audit_records: counters_by_label(
                &mut registry,
                "audit_records",
                "Records of the audit log",
                "outcome",
                AuditWrite::ALL,
                AuditWrite::as_str,
            ),
            events: counters_by_label(
                &mut registry,
                "events",
                "Kubernetes events of pods",
                "outcome",
                EventWrite::ALL,
                EventWrite::as_str,
            ),
            endpoint_transitions: counters_by_label(
                &mut registry,
                "endpoint_transitions",
                "Transitions of a Vault endpoint between up and down",
                "state",
                EndpointState::ALL,
                EndpointState::as_str,
            ),
            started_at: Timestamp::now().as_second(),
            registry,
        }
    }

    /// Starts a gRPC call. It is counted when the guard is dropped.
    #[must_use]
    pub fn start_grpc_call(&self, method: GrpcMethod) -> GrpcCall<'_> {
        let in_flight = InFlightGuard::new(&self.grpc_requests_in_flight, [("method", method.as_str())]);
        GrpcCall { metrics: self, method, started_at: Instant::now(), code: CANCELLED_CODE, _in_flight: in_flight }
    }

    /// Counts a request to Vault as queued until the guard is dropped.
    #[must_use]
    pub fn start_vault_queue_wait(&self) -> InFlightGuard {
        InFlightGuard::new(&self.vault_requests_queued, [])
    }

    /// Starts a request to Vault. It is counted when the guard is dropped.
    #[must_use]
    pub fn start_vault_request(&self, operation: VaultOperation) -> VaultRequest<'_> {
        let in_flight = InFlightGuard::new(&self.vault_requests_in_flight, []);
        VaultRequest {
            metrics: self,
            operation,
            started_at: Instant::now(),
            status: StatusClass::NoResponse,
            _in_flight: in_flight,
        }
    }

    /// Counts a request to the Kubernetes API.
    pub fn count_kubernetes_request(&self, operation: KubeOperation, status: StatusClass) {
        self.kubernetes_requests.get_or_create(&kubernetes_request_labels(operation, status)).inc();
    }

    /// Counts a login of a pod.
    pub fn count_login(&self, method: AuthMethod, outcome: LoginOutcome) {
        self.logins.get_or_create(&login_labels(method, outcome)).inc();
    }

    /// Counts secrets read for a mount from one source.
    pub fn count_secret_reads(&self, source: ReadSource, count: usize) {
        self.secret_reads.get_or_create(&[("source", source.as_str())]).inc_by(count as u64);
    }

    /// Counts a poll that was served stale secrets.
    pub fn count_stale_poll(&self, cause: Cause) {
        self.stale_polls.get_or_create(&[("reason", OutageReason::from_cause(cause).as_str())]).inc();
    }

    /// Counts a renewal of a token or lease.
    pub fn count_renewal(&self, target: RenewalTarget, outcome: RenewalOutcome) {
        self.renewals.get_or_create(&renewal_labels(target, outcome)).inc();
    }

    /// Counts a credential replaced by a new one. [`SecretKind::Plain`] is not counted, since it is never rotated.
    pub fn count_rotation(&self, kind: SecretKind, reason: RotationReason) {
        if kind != SecretKind::Plain {
            self.rotations.get_or_create(&rotation_labels(kind, reason)).inc();
        }
    }

    /// Counts a revocation of a token.
    pub fn count_revocation(&self, outcome: RevocationOutcome) {
        self.revocations.get_or_create(&[("outcome", outcome.as_str())]).inc();
    }

    /// Counts a mount denied by an operator rule.
    pub fn count_policy_denial(&self, rule: RuleKind) {
        self.policy_denials.get_or_create(&[("rule", rule.as_str())]).inc();
    }

    /// Counts a mount with an address from the class while no policy file is set.
    pub fn count_tenant_address_mount(&self) {
        self.tenant_address_mounts.get_or_create(&[]).inc();
    }

    /// Counts a write of a session file.
    pub fn count_state_write(&self, outcome: StateWrite) {
        self.state_writes.get_or_create(&[("outcome", outcome.as_str())]).inc();
    }

    /// Counts an audit record. Returns the new count for this outcome.
    #[expect(clippy::must_use_candidate, reason = "the count is needed only for dropped records")]
    pub fn count_audit_record(&self, outcome: AuditWrite) -> u64 {
        self.audit_records.get_or_create(&[("outcome", outcome.as_str())]).inc() + 1
    }

    /// Counts a pod event.
    pub fn count_event(&self, outcome: EventWrite) {
        self.events.get_or_create(&[("outcome", outcome.as_str())]).inc();
    }

    /// Counts a transition of a Vault endpoint between up and down.
    pub fn count_endpoint_transition(&self, state: EndpointState) {
        self.endpoint_transitions.get_or_create(&[("state", state.as_str())]).inc();
    }

    /// Returns every counter, and the given gauges, in a text format.
    #[must_use]
    pub fn encode(&self, gauges: &GaugeSnapshot, format: TextFormat) -> String {
        let mut text = String::new();
        // Writing to a String cannot fail.
        let _ = encode_registry(&mut text, &self.registry)
            .and_then(|()| gauges.encode(&mut text))
            .and_then(|()| process::encode(&mut text, self.started_at))
            .and_then(|()| encode_eof(&mut text));
        format.convert(text)
    }
}

/// Code label of a call that the client cancelled.
const CANCELLED_CODE: &str = "Cancelled";

/// gRPC call in progress, counted when it is dropped. Without [`finish`](Self::finish) it counts as cancelled.
pub struct GrpcCall<'a> {
    metrics: &'a Metrics,
    method: GrpcMethod,
    started_at: Instant,
    code: &'static str,
    _in_flight: InFlightGuard,
}

impl GrpcCall<'_> {
    /// Sets the code of the response.
    pub fn finish(mut self, outcome: Result<(), Code>) {
        self.code = code_label(outcome);
    }
}

impl Drop for GrpcCall<'_> {
    fn drop(&mut self) {
        let method = ("method", self.method.as_str());
        self.metrics.grpc_requests.get_or_create(&[method, ("code", self.code)]).inc();
        self.metrics.grpc_request_durations.get_or_create(&[method]).observe(self.started_at.elapsed().as_secs_f64());
    }
}

/// Request to Vault in flight, counted when it is dropped. Without [`finish`](Self::finish) it counts as `none`.
pub struct VaultRequest<'a> {
    metrics: &'a Metrics,
    operation: VaultOperation,
    started_at: Instant,
    status: StatusClass,
    _in_flight: InFlightGuard,
}

impl VaultRequest<'_> {
    /// Sets the HTTP status of the response.
    pub fn finish(mut self, status: u16) {
        self.status = StatusClass::from_http_status(status);
    }
}

impl Drop for VaultRequest<'_> {
    fn drop(&mut self) {
        let Self { metrics, operation, .. } = self;
        metrics.vault_requests.get_or_create(&vault_request_labels(*operation, self.status)).inc();
        let seconds = metrics.vault_request_durations.get_or_create(&[("operation", operation.as_str())]);
        seconds.observe(self.started_at.elapsed().as_secs_f64());
    }
}

/// Guard that increments a gauge until it is dropped.
pub struct InFlightGuard(Gauge);

impl InFlightGuard {
    fn new<const N: usize>(gauges: &Gauges<N>, labels: Labels<N>) -> Self {
        let gauge = gauges.get_or_create_owned(&labels);
        gauge.inc();
        Self(gauge)
    }
}

impl Drop for InFlightGuard {
    fn drop(&mut self) {
        self.0.dec();
    }
}

fn code_label(outcome: Result<(), Code>) -> &'static str {
    outcome.err().map_or("OK", Code::as_str)
}

/// Returns the labels of every method and code.
fn grpc_codes() -> impl Iterator<Item = Labels<2>> {
    let labels = |method: GrpcMethod, code| [("method", method.as_str()), ("code", code)];
    let failures = Code::ALL.iter().map(move |failure| labels(GrpcMethod::Mount, failure.as_str()));
    failures.chain([
        labels(GrpcMethod::Mount, "OK"),
        labels(GrpcMethod::Mount, CANCELLED_CODE),
        labels(GrpcMethod::Version, "OK"),
    ])
}

fn login_labels(method: AuthMethod, outcome: LoginOutcome) -> Labels<2> {
    [("method", method.as_str()), ("outcome", outcome.as_str())]
}

fn renewal_labels(target: RenewalTarget, outcome: RenewalOutcome) -> Labels<2> {
    [("target", target.as_str()), ("outcome", outcome.as_str())]
}

fn rotation_labels(kind: SecretKind, reason: RotationReason) -> Labels<2> {
    [("kind", kind.as_str()), ("reason", reason.as_str())]
}

fn vault_request_labels(operation: VaultOperation, status: StatusClass) -> Labels<2> {
    [("operation", operation.as_str()), ("status", status.as_str())]
}

fn kubernetes_request_labels(operation: KubeOperation, status: StatusClass) -> Labels<2> {
    [("operation", operation.as_str()), ("status", status.as_str())]
}

/// Returns the labels of every combination of two values.
fn label_pairs<A: Copy, B: Copy>(
    first_values: &'static [A],
    second_values: &'static [B],
    labels: impl Fn(A, B) -> Labels<2> + Copy,
) -> impl Iterator<Item = Labels<2>> {
    first_values.iter().flat_map(move |a| second_values.iter().map(move |b| labels(*a, *b)))
}

/// Registers a metric family with all its series at zero.
fn family<const N: usize, M>(
    registry: &mut Registry,
    name: &str,
    help: &str,
    series: impl IntoIterator<Item = Labels<N>>,
) -> Family<Labels<N>, M>
where
    M: EncodeMetric + TypedMetric + Default + Clone + fmt::Debug + Send + Sync + 'static,
{
    let family = Family::<_, M>::default();
    for labels in series {
        drop(family.get_or_create(&labels));
    }
    registry.register(name, help, family.clone());
    family
}

/// Registers counters with one label, one per value.
fn counters_by_label<W: Copy>(
    registry: &mut Registry,
    name: &str,
    help: &str,
    label: &'static str,
    values: &[W],
    to_str: fn(W) -> &'static str,
) -> Counters<1> {
    family(registry, name, help, values.iter().map(|value| [(label, to_str(*value))]))
}

fn histograms(
    registry: &mut Registry,
    name: &str,
    help: &str,
    series: impl IntoIterator<Item = (&'static str, &'static str)>,
) -> Histograms {
    let family = Histograms::new_with_constructor(|| Histogram::new(DURATION_BUCKETS_SECONDS));
    for label in series {
        drop(family.get_or_create(&[label]));
    }
    registry.register(name, help, family.clone());
    family
}
