//! Gauges of the current state, collected at each scrape.

use std::{collections::BTreeMap, fmt};

use prometheus_client::{
    encoding::text::encode_registry,
    metrics::{family::Family, gauge::Gauge},
    registry::Registry,
};

use super::{CertificateRole, Gauges, Labels, PREFIX};
use crate::{
    cache::kind::{SecretKind, SecretState},
    kube::watch_state::WatchState,
};

/// State at the time of a scrape. A key that is missing in a map counts as zero.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GaugeSnapshot {
    /// Cached secrets, by state and kind.
    pub cached_secrets: BTreeMap<(SecretState, SecretKind), usize>,
    /// Unix time at which the first failing or expiring secret expires; `None` if there is none.
    pub earliest_secret_expiry: Option<i64>,
    /// Cached secrets that have expired and were not replaced.
    pub expired_secrets: usize,
    /// Vault tokens, by state.
    pub tokens: BTreeMap<SecretState, usize>,
    /// Unix time at which the first token expires unless it is renewed.
    pub earliest_token_expiry: Option<i64>,
    /// Unix time of the oldest last successful refresh among polled pods.
    pub oldest_refresh_success: Option<i64>,
    /// Open sessions.
    pub sessions: usize,
    /// Maximum number of open sessions.
    pub sessions_limit: usize,
    /// Maximum number of concurrent mounts.
    pub mounts_limit: usize,
    /// Pending revocations.
    pub pending_revocations: usize,
    /// Pods with a session that the pod watch covers.
    pub pods_watched: usize,
    /// State of the pod watch.
    pub pod_watch_state: WatchState,
    /// Vault endpoints that are down.
    pub endpoints_down: usize,
    /// Success of the last reload of the policy file; `None` without one.
    pub policy_reloaded: Option<bool>,
    /// Success of the last reload of the TLS files of each operator endpoint, by address.
    pub tls_reloaded: BTreeMap<String, bool>,
    /// Health of each operator endpoint, by address. Endpoints with unknown health are missing.
    pub endpoints: BTreeMap<String, EndpointHealth>,
    /// Unix time at which the operator's certificates expire, by role.
    pub certificate_expiries: BTreeMap<CertificateRole, i64>,
}

/// Last known health of an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EndpointHealth {
    /// True if the endpoint is up.
    pub is_up: bool,
    /// True if the endpoint is sealed or uninitialized.
    pub is_sealed: bool,
}

impl GaugeSnapshot {
    /// Appends the gauges in the text format. Each scrape has its own gauges, so that concurrent scrapes do not mix.
    pub(super) fn encode(&self, text: &mut String) -> fmt::Result {
        let mut registry = Registry::with_prefix(PREFIX);
        let cached_secrets = family(&mut registry, "cached_secrets", "Cached secrets, by kind and state");
        for (state, kind) in SecretState::ALL.iter().flat_map(|s| SecretKind::ALL.iter().map(move |k| (*s, *k))) {
            let count = self.cached_secrets.get(&(state, kind)).copied().unwrap_or(0);
            set_count(&cached_secrets, [("state", state.as_str()), ("kind", kind.as_str())], count);
        }
        let tokens = family(&mut registry, "tokens", "Vault tokens of open sessions, by state");
        for state in SecretState::ALL {
            set_count(&tokens, [("state", state.as_str())], self.tokens.get(state).copied().unwrap_or(0));
        }
        for (name, help, count) in [
            ("expired_secrets", "Cached secrets that have expired and were not replaced", self.expired_secrets),
            ("sessions", "Open sessions", self.sessions),
            ("sessions_limit", "Maximum number of open sessions (--max-sessions)", self.sessions_limit),
            ("mounts_limit", "Maximum number of concurrent mounts (--max-mounts)", self.mounts_limit),
            ("pending_revocations", "Vault tokens queued for revocation", self.pending_revocations),
            ("pods_watched", "Pods of this node with a session that the pod watch covers", self.pods_watched),
            ("endpoints_down", "Vault endpoints that are down", self.endpoints_down),
        ] {
            set_count(&family(&mut registry, name, help), [], count);
        }
        for (name, help, timestamp) in [
            (
                "earliest_secret_expiry_timestamp_seconds",
                "Unix time at which the first failing or expiring secret expires; absent if there is none",
                self.earliest_secret_expiry,
            ),
            (
                "earliest_token_expiry_timestamp_seconds",
                "Unix time at which the first Vault token expires unless it is renewed; absent if no token expires",
                self.earliest_token_expiry,
            ),
            (
                "oldest_refresh_success_timestamp_seconds",
                "Unix time of the oldest last successful refresh among polled pods; absent if no pod is polled",
                self.oldest_refresh_success,
            ),
        ] {
            let family = family(&mut registry, name, help);
            timestamp.inspect(|value| set_value(&family, [], *value));
        }
        let watch = family(
            &mut registry,
            "pod_watch_state",
            "State of the pod watch: 1 for the current state, 0 for the others",
        );
        for state in WatchState::ALL {
            set_count(&watch, [("state", state.as_str())], usize::from(*state == self.pod_watch_state));
        }
        let certificate_expiries = family(
            &mut registry,
            "certificate_expiry_timestamp_seconds",
            "Unix time at which the first unexpired TLS certificate of the operator expires; absent without certificate files",
        );
        for (role, expires_at) in &self.certificate_expiries {
            set_value(&certificate_expiries, [("certificate", role.as_str())], *expires_at);
        }
        let reloaded = family(
            &mut registry,
            "policy_last_reload_successful",
            "1 if the last reload of the policy file succeeded, 0 if the previous policy is still in force; absent without a policy file",
        );
        self.policy_reloaded.inspect(|is_ok| set_count(&reloaded, [], usize::from(*is_ok)));
        let (reloaded, up, sealed) = (EndpointGauges::default(), EndpointGauges::default(), EndpointGauges::default());
        for (address, is_ok) in &self.tls_reloaded {
            reloaded.get_or_create(&[("endpoint", address.clone())]).set((*is_ok).into());
        }
        for (address, health) in &self.endpoints {
            let label = [("endpoint", address.clone())];
            up.get_or_create(&label).set(health.is_up.into());
            sealed.get_or_create(&label).set(health.is_sealed.into());
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

type EndpointGauges = Family<[(&'static str, String); 1], Gauge>;

fn family<const N: usize>(registry: &mut Registry, name: &str, help: &str) -> Gauges<N> {
    let family = Gauges::default();
    registry.register(name, help, Family::clone(&family));
    family
}

fn set_count<const N: usize>(family: &Gauges<N>, labels: Labels<N>, count: usize) {
    set_value(family, labels, i64::try_from(count).unwrap_or(i64::MAX));
}

fn set_value<const N: usize>(family: &Gauges<N>, labels: Labels<N>, value: i64) {
    family.get_or_create(&labels).set(value);
}
