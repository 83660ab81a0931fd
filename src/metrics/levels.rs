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
    /// Whether the last reload of the policy file succeeded; `None` without one.
    pub policy_reloaded: Option<bool>,
    /// Whether the last reload of the TLS files of each operator endpoint succeeded, by address.
    pub tls_reloaded: BTreeMap<String, bool>,
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
        let leases = family(&mut registry, "cached_secrets", "Cached secrets, by kind and state");
        for (state, kind) in State::ALL.iter().flat_map(|s| Kind::ALL.iter().map(move |k| (*s, *k))) {
            let level = self.leases.get(&(state, kind)).copied().unwrap_or(0);
            set(&leases, [("state", state.word()), ("kind", kind.word())], level);
        }
        let tokens = family(&mut registry, "tokens", "Vault tokens of open sessions, by state");
        for state in State::ALL {
            set(&tokens, [("state", state.word())], self.tokens.get(state).copied().unwrap_or(0));
        }
        for (name, help, level) in [
            ("expired_secrets", "Cached secrets that have expired and were not replaced", self.overdue),
            ("sessions", "Open sessions", self.sessions),
            ("sessions_limit", "Maximum number of open sessions (--max-sessions)", self.sessions_limit),
            ("mounts_limit", "Maximum number of concurrent mounts (--max-mounts)", self.mounts_limit),
            ("pending_revocations", "Vault tokens queued for revocation", self.revocations_waiting),
            ("pods_watched", "Pods of this node with a session that the pod watch covers", self.pods_watched),
            ("endpoints_down", "Vault endpoints that are down", self.endpoints_down),
        ] {
            set(&family(&mut registry, name, help), [], level);
        }
        for (name, help, moment) in [
            (
                "earliest_secret_expiry_timestamp_seconds",
                "Unix time at which the first failing or expiring secret expires; absent if there is none",
                self.next_end,
            ),
            (
                "earliest_token_expiry_timestamp_seconds",
                "Unix time at which the first Vault token expires unless it is renewed; absent if no token expires",
                self.token_end,
            ),
            (
                "oldest_refresh_success_timestamp_seconds",
                "Unix time of the oldest last successful refresh among polled pods; absent if no pod is polled",
                self.oldest_success,
            ),
        ] {
            let family = family(&mut registry, name, help);
            moment.inspect(|moment| set_moment(&family, [], *moment));
        }
        let watch = family(
            &mut registry,
            "pod_watch_state",
            "State of the pod watch: 1 for the current state, 0 for the others",
        );
        for state in Watching::ALL {
            set(&watch, [("state", state.word())], usize::from(*state == self.pod_watch));
        }
        let ends = family(
            &mut registry,
            "certificate_expiry_timestamp_seconds",
            "Unix time at which the first unexpired TLS certificate of the operator expires; absent without certificate files",
        );
        for (what, end) in &self.certificates {
            set_moment(&ends, [("certificate", what.word())], *end);
        }
        let reloaded = family(
            &mut registry,
            "policy_last_reload_successful",
            "1 if the last reload of the policy file succeeded, 0 if the previous policy is still in force; absent without a policy file",
        );
        self.policy_reloaded.inspect(|is_ok| set(&reloaded, [], usize::from(*is_ok)));
        let (reloaded, up, sealed) = (Endpoints::default(), Endpoints::default(), Endpoints::default());
        for (address, is_ok) in &self.tls_reloaded {
            reloaded.get_or_create(&[("endpoint", address.clone())]).set((*is_ok).into());
        }
        for (address, health) in &self.endpoints {
            let label = [("endpoint", address.clone())];
            up.get_or_create(&label).set(health.up.into());
            sealed.get_or_create(&label).set(health.sealed.into());
        }
        registry.register(
            "tls_last_reload_successful",
            "1 if the last reload of an operator endpoint's TLS files succeeded, 0 if the previous files are still in use",
            reloaded,
        );
        registry.register(
            "endpoint_up",
            "1 if an operator endpoint is up, 0 if it is down; absent while its state is unknown",
            up,
        );
        registry.register(
            "endpoint_sealed",
            "1 if an operator endpoint is sealed or uninitialized, 0 if not; absent while its state is unknown",
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
