//! What is counted, for whoever scrapes it: `OpenMetrics` text.
//!
//! Every label is a word of [`label`]'s, so that no class and no server can make a series. All series of counters are
//! there from the start: a rate sees the first event, too.

pub mod label;
mod levels;

use std::time::Duration;

use prometheus_client::{
    encoding::text::{encode_eof, encode_registry},
    metrics::{counter::Counter, family::Family, histogram::Histogram, info::Info},
    registry::Registry,
};

use crate::error::Code;
pub use label::{
    Answered, EndpointState, Kind, LoginOutcome, Operation, Reason, Renewable, RenewalOutcome, RevocationOutcome,
    State, StateWrite, Watching,
};
pub use levels::Levels;

/// The content type of [`Metrics::encode`]'s text.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Starts every name.
const PREFIX: &str = "vaultmount";
/// Upper bounds of how long a mount takes, in seconds: from what is answered from memory to what a driver waits at most.
const MOUNT_SECONDS: [f64; 15] =
    [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0];

/// Labels of one series.
type Labels<const N: usize> = [(&'static str, &'static str); N];
type Counters<const N: usize> = Family<Labels<N>, Counter>;
type Histograms = Family<Labels<1>, Histogram, fn() -> Histogram>;

/// Everything that is counted. One per process.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    mounts: Counters<1>,
    mount_seconds: Histograms,
    logins: Counters<1>,
    renewals: Counters<2>,
    rotations: Counters<2>,
    revocations: Counters<1>,
    vault_requests: Counters<2>,
    polls_kept: Counters<0>,
    state_writes: Counters<1>,
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
    pub fn new() -> Self {
        let mut registry = Registry::with_prefix(PREFIX);
        let version = Info::new([("version", env!("CARGO_PKG_VERSION"))]);
        registry.register("build", "What runs", version);
        let codes = [None].into_iter().chain(Code::ALL.iter().copied().map(Some)).map(|code| [mount_code(code)]);
        Self {
            mounts: counters(&mut registry, "mounts", "Mounts answered, by gRPC code", codes),
            mount_seconds: histograms(&mut registry),
            logins: counters(
                &mut registry,
                "logins",
                "Logins of pods",
                LoginOutcome::ALL.iter().map(|outcome| [("outcome", outcome.word())]),
            ),
            renewals: counters(
                &mut registry,
                "renewals",
                "Renewals of tokens and leases",
                Renewable::ALL.iter().flat_map(|what| RenewalOutcome::ALL.iter().map(|o| renewal(*what, *o))),
            ),
            rotations: counters(
                &mut registry,
                "rotations",
                "Credentials replaced by new ones",
                Kind::ALL
                    .iter()
                    .filter(|kind| **kind != Kind::Plain)
                    .flat_map(|kind| Reason::ALL.iter().map(|reason| rotation(*kind, *reason))),
            ),
            revocations: counters(
                &mut registry,
                "revocations",
                "Revocations of tokens, with what was leased under them",
                RevocationOutcome::ALL.iter().map(|outcome| [("outcome", outcome.word())]),
            ),
            vault_requests: counters(
                &mut registry,
                "vault_requests",
                "Requests to Vault on the wire, each attempt by itself",
                Operation::ALL.iter().flat_map(|what| Answered::ALL.iter().map(|answered| request(*what, *answered))),
            ),
            polls_kept: counters(
                &mut registry,
                "polls_kept",
                "Polls answered with what the pod has, as Vault could not be asked",
                [[]],
            ),
            state_writes: counters(
                &mut registry,
                "state_writes",
                "Files of sessions written in --state-dir",
                StateWrite::ALL.iter().map(|outcome| [("outcome", outcome.word())]),
            ),
            endpoint_changes: counters(
                &mut registry,
                "endpoint_changes",
                "How often servers were found down, and up again",
                EndpointState::ALL.iter().map(|state| [("state", state.word())]),
            ),
            registry,
        }
    }

    /// A mount was answered, with a code if it failed, after so long.
    pub fn mount(&self, outcome: Result<(), Code>, took: Duration) {
        self.mounts.get_or_create(&[mount_code(outcome.err())]).inc();
        let outcome = if outcome.is_ok() { OK } else { FAILED };
        self.mount_seconds.get_or_create(&[outcome]).observe(took.as_secs_f64());
    }

    /// A pod logged in, or could not.
    pub fn login(&self, outcome: LoginOutcome) {
        self.logins.get_or_create(&[("outcome", outcome.word())]).inc();
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

    /// A session's file was written, or could not be.
    pub fn state_write(&self, outcome: StateWrite) {
        self.state_writes.get_or_create(&[("outcome", outcome.word())]).inc();
    }

    /// One request to Vault was on the wire.
    pub fn vault_request(&self, operation: Operation, answered: Answered) {
        self.vault_requests.get_or_create(&request(operation, answered)).inc();
    }

    /// A poll was answered with what the pod has, as Vault could not be asked.
    pub fn poll_kept(&self) {
        self.polls_kept.get_or_create(&[]).inc();
    }

    /// A server was found down, or up again.
    pub fn endpoint_change(&self, state: EndpointState) {
        self.endpoint_changes.get_or_create(&[("state", state.word())]).inc();
    }

    /// All of it, and what is there now, as `OpenMetrics` text.
    #[must_use]
    pub fn encode(&self, levels: &Levels) -> String {
        let mut text = String::new();
        // Writing to a text cannot fail.
        let _ = encode_registry(&mut text, &self.registry)
            .and_then(|()| levels.encode(&mut text))
            .and_then(|()| encode_eof(&mut text));
        text
    }
}

const OK: (&str, &str) = ("outcome", "ok");
const FAILED: (&str, &str) = ("outcome", "failed");

fn mount_code(code: Option<Code>) -> (&'static str, &'static str) {
    ("code", code.map_or("OK", Code::name))
}

fn renewal(what: Renewable, outcome: RenewalOutcome) -> Labels<2> {
    [("what", what.word()), ("outcome", outcome.word())]
}

fn rotation(kind: Kind, reason: Reason) -> Labels<2> {
    [("kind", kind.word()), ("reason", reason.word())]
}

fn request(operation: Operation, answered: Answered) -> Labels<2> {
    [("operation", operation.word()), ("status", answered.word())]
}

/// Counters with all their series, each at zero.
fn counters<const N: usize>(
    registry: &mut Registry,
    name: &str,
    help: &str,
    all: impl IntoIterator<Item = Labels<N>>,
) -> Counters<N> {
    let family = Counters::default();
    for labels in all {
        drop(family.get_or_create(&labels));
    }
    registry.register(name, help, family.clone());
    family
}

fn histograms(registry: &mut Registry) -> Histograms {
    let family = Histograms::new_with_constructor(|| Histogram::new(MOUNT_SECONDS));
    for outcome in [OK, FAILED] {
        drop(family.get_or_create(&[outcome]));
    }
    registry.register("mount_seconds", "How long mounts took, in seconds", family.clone());
    family
}

#[cfg(test)]
mod tests {
    use super::*;

    fn none() -> Levels {
        Levels {
            leases: [((State::Live, Kind::Leased), 3)].into(),
            next_end: Some(1_800_000_000),
            tokens: [(State::Failing, 2)].into(),
            sessions: 5,
            revocations_waiting: 1,
            pods_watched: 7,
            pod_watch: Watching::Denied,
            endpoints_down: 4,
        }
    }

    #[test]
    fn what_happened_and_what_is_there_is_printed() {
        let metrics = Metrics::new();
        metrics.mount(Ok(()), Duration::from_millis(3));
        metrics.mount(Err(Code::NotFound), Duration::from_secs(90));
        metrics.login(LoginOutcome::Refused);
        metrics.renewal(Renewable::Lease, RenewalOutcome::Short);
        metrics.rotation(Kind::Certificate, Reason::Age);
        metrics.revocation(RevocationOutcome::Over);
        metrics.vault_request(Operation::Read, Answered::of(503));
        metrics.poll_kept();
        metrics.endpoint_change(EndpointState::Down);
        let text = metrics.encode(&none());
        let version = env!("CARGO_PKG_VERSION");
        for line in [
            r#"vaultmount_mounts_total{code="OK"} 1"#,
            r#"vaultmount_mounts_total{code="NotFound"} 1"#,
            r#"vaultmount_mounts_total{code="Internal"} 0"#,
            r#"vaultmount_mount_seconds_bucket{le="0.0025",outcome="ok"} 0"#,
            r#"vaultmount_mount_seconds_bucket{le="0.005",outcome="ok"} 1"#,
            r#"vaultmount_mount_seconds_bucket{le="60.0",outcome="failed"} 0"#,
            r#"vaultmount_mount_seconds_sum{outcome="failed"} 90.0"#,
            r#"vaultmount_logins_total{outcome="refused"} 1"#,
            r#"vaultmount_renewals_total{what="lease",outcome="short"} 1"#,
            r#"vaultmount_rotations_total{kind="certificate",reason="age"} 1"#,
            r#"vaultmount_revocations_total{outcome="over"} 1"#,
            r#"vaultmount_vault_requests_total{operation="read",status="5xx"} 1"#,
            "vaultmount_polls_kept_total 1",
            r#"vaultmount_endpoint_changes_total{state="down"} 1"#,
            r#"vaultmount_endpoint_changes_total{state="up"} 0"#,
            "vaultmount_endpoints_down 4",
            &format!(r#"vaultmount_build_info{{version="{version}"}} 1"#),
            r#"vaultmount_leases{state="live",kind="leased"} 3"#,
            r#"vaultmount_leases{state="ending",kind="plain"} 0"#,
            "vaultmount_next_end_timestamp_seconds 1800000000",
            r#"vaultmount_tokens{state="failing"} 2"#,
            "vaultmount_sessions 5",
            "vaultmount_revocations_waiting 1",
            "vaultmount_pods_watched 7",
            r#"vaultmount_pod_watch{state="denied"} 1"#,
            r#"vaultmount_pod_watch{state="synced"} 0"#,
        ] {
            assert!(text.lines().any(|l| l == line), "{line} is not in:\n{text}");
        }
        assert!(text.ends_with("# EOF\n") && text.matches("# EOF").count() == 1, "{text}");
    }

    #[test]
    fn every_series_is_there_from_the_start_and_none_is_added() {
        let metrics = Metrics::new();
        let series = |metrics: &Metrics| metrics.encode(&none()).lines().filter(|l| !l.starts_with('#')).count();
        let before = series(&metrics);
        for code in Code::ALL {
            metrics.mount(Err(code), Duration::ZERO);
        }
        for (kind, reason) in Kind::ALL.iter().flat_map(|k| Reason::ALL.iter().map(move |r| (*k, *r))) {
            metrics.rotation(kind, reason);
        }
        for status in [0, 100, 204, 307, 404, 502, 999] {
            for what in Operation::ALL {
                metrics.vault_request(*what, Answered::of(status));
            }
        }
        assert_eq!(series(&metrics), before);
        assert!(before < 250, "{before} series");
    }
}
