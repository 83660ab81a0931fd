//! How much there is of everything, now.

use std::{collections::BTreeMap, fmt};

use prometheus_client::{
    encoding::text::encode_registry,
    metrics::{family::Family, gauge::Gauge},
    registry::Registry,
};

use super::{Certified, Gauges, Kind, Labels, PREFIX, State, Watching};

/// What is there at the moment of a scrape. What is not counted in a map is none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Levels {
    /// Answers of Vault that pods have, by how they stand and what they are.
    pub leases: BTreeMap<(State, Kind), usize>,
    /// When the first of those that are failing or ending ends, in seconds since 1970; none when none is.
    pub next_end: Option<i64>,
    /// Answers of Vault that pods have and that have ended.
    pub overdue: usize,
    /// Vault tokens, by how they stand.
    pub tokens: BTreeMap<State, usize>,
    /// When the first of them ends, in seconds since 1970.
    pub token_end: Option<i64>,
    /// Of the pods that are polled, when the one that has gone longest without all that was due had it last, in seconds since 1970.
    pub oldest_success: Option<i64>,
    /// Pods with a standing at a Vault.
    pub sessions: usize,
    /// How many there may be.
    pub sessions_limit: usize,
    /// How many mounts may be under way at once.
    pub mounts_limit: usize,
    /// Tokens that wait to be revoked.
    pub revocations_waiting: usize,
    /// Pods whose end will be seen.
    pub pods_watched: usize,
    /// How the watch stands.
    pub pod_watch: Watching,
    /// Servers that cannot be asked.
    pub endpoints_down: usize,
    /// Whether the policy file cannot be used as it is; none without one.
    pub policy_broken: Option<bool>,
    /// Whether the TLS files of the servers that the operator named cannot be used as they are, by the servers' addresses.
    pub tls_broken: BTreeMap<String, bool>,
    /// How the servers stand that the operator named, by their addresses; those of which nothing is known are missing.
    pub endpoints: BTreeMap<String, Health>,
    /// When certificates end that the operator named, in seconds since 1970.
    pub certificates: BTreeMap<Certified, i64>,
}

/// How a server stands, as far as is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Health {
    /// Whether it can be asked.
    pub up: bool,
    /// Whether it is sealed, or was never initialized.
    pub sealed: bool,
}

impl Levels {
    /// Appends them in the text format. Each scrape has gauges of its own, so that two at once print what each was given.
    pub(super) fn encode(&self, text: &mut String) -> fmt::Result {
        let mut registry = Registry::with_prefix(PREFIX);
        let leases = family(&mut registry, "leases", "Answers of Vault that pods have");
        for (state, kind) in State::ALL.iter().flat_map(|s| Kind::ALL.iter().map(move |k| (*s, *k))) {
            let level = self.leases.get(&(state, kind)).copied().unwrap_or(0);
            set(&leases, [("state", state.word()), ("kind", kind.word())], level);
        }
        let tokens = family(&mut registry, "tokens", "Vault tokens held");
        for state in State::ALL {
            set(&tokens, [("state", state.word())], self.tokens.get(state).copied().unwrap_or(0));
        }
        for (name, help, level) in [
            ("leases_overdue", "Answers of Vault that pods have and that have ended", self.overdue),
            ("sessions", "Pods with a standing at a Vault", self.sessions),
            (
                "sessions_limit",
                "How many pods with a standing at a Vault there may be (--max-sessions)",
                self.sessions_limit,
            ),
            ("mounts_limit", "How many mounts may be under way at once (--max-mounts)", self.mounts_limit),
            ("revocations_waiting", "Vault tokens that wait to be revoked", self.revocations_waiting),
            ("pods_watched", "Pods of this node whose end will be seen", self.pods_watched),
            ("endpoints_down", "Servers that cannot be asked", self.endpoints_down),
        ] {
            set(&family(&mut registry, name, help), [], level);
        }
        for (name, help, moment) in [
            (
                "next_end_timestamp_seconds",
                "When the first of the leases that are failing or ending ends, in seconds since 1970; missing when none is",
                self.next_end,
            ),
            (
                "token_end_timestamp_seconds",
                "When the first of the Vault tokens ends unless it is renewed, in seconds since 1970; missing when none ends",
                self.token_end,
            ),
            (
                "oldest_success_timestamp_seconds",
                "When the pod that has gone longest without a poll that brought all that was due had its last, in seconds since 1970; missing without pods that are polled",
                self.oldest_success,
            ),
        ] {
            let family = family(&mut registry, name, help);
            moment.inspect(|moment| set_moment(&family, [], *moment));
        }
        let watch = family(&mut registry, "pod_watch", "How the watch of this node's pods stands: 1 for what it is");
        for state in Watching::ALL {
            set(&watch, [("state", state.word())], usize::from(*state == self.pod_watch));
        }
        let ends = family(
            &mut registry,
            "certificate_end_timestamp_seconds",
            "When the first of the operator's certificates ends that is not over, in seconds since 1970; missing without files",
        );
        for (what, end) in &self.certificates {
            set_moment(&ends, [("certificate", what.word())], *end);
        }
        let broken = family(
            &mut registry,
            "policy_broken",
            "Whether the policy file cannot be used as it is, and what it said before is in force; missing without one",
        );
        self.policy_broken.inspect(|is_broken| set(&broken, [], usize::from(*is_broken)));
        let (broken, up, sealed) = (Endpoints::default(), Endpoints::default(), Endpoints::default());
        for (address, is_broken) in &self.tls_broken {
            broken.get_or_create(&[("endpoint", address.clone())]).set((*is_broken).into());
        }
        for (address, health) in &self.endpoints {
            let label = [("endpoint", address.clone())];
            up.get_or_create(&label).set(health.up.into());
            sealed.get_or_create(&label).set(health.sealed.into());
        }
        registry.register(
            "tls_broken",
            "Whether the TLS files of a server that the operator named cannot be used as they are, and those read before are in use",
            broken,
        );
        registry.register(
            "endpoint_up",
            "Whether a server that the operator named can be asked; missing while that is not known",
            up,
        );
        registry.register(
            "endpoint_sealed",
            "Whether a server that the operator named is sealed; missing while that is not known",
            sealed,
        );
        encode_registry(text, &registry)
    }
}

type Endpoints = Family<[(&'static str, String); 1], Gauge>;

fn family<const N: usize>(registry: &mut Registry, name: &str, help: &str) -> Gauges<N> {
    let family = Gauges::default();
    registry.register(name, help, Family::clone(&family));
    family
}

fn set<const N: usize>(family: &Gauges<N>, labels: Labels<N>, level: usize) {
    set_moment(family, labels, i64::try_from(level).unwrap_or(i64::MAX));
}

fn set_moment<const N: usize>(family: &Gauges<N>, labels: Labels<N>, level: i64) {
    family.get_or_create(&labels).set(level);
}
