//! How much there is of everything, now.

use std::{collections::BTreeMap, fmt};

use prometheus_client::{
    encoding::text::encode_registry,
    metrics::{family::Family, gauge::Gauge},
    registry::Registry,
};

use super::{Kind, Labels, PREFIX, State, Watching};

/// What is there at the moment of a scrape. What is not counted in a map is none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Levels {
    /// Answers of Vault that pods have, by how they stand and what they are.
    pub leases: BTreeMap<(State, Kind), usize>,
    /// When the first of those that are failing or ending ends, in seconds since 1970; none when none is.
    pub next_end: Option<i64>,
    /// Vault tokens, by how they stand.
    pub tokens: BTreeMap<State, usize>,
    /// Pods with a standing at a Vault.
    pub sessions: usize,
    /// Tokens that wait to be revoked.
    pub revocations_waiting: usize,
    /// Pods whose end will be seen.
    pub pods_watched: usize,
    /// How the watch stands.
    pub pod_watch: Watching,
    /// Servers that cannot be asked.
    pub endpoints_down: usize,
}

impl Levels {
    /// Appends them in the text format. Each scrape has gauges of its own, so that two at once print what each was given.
    pub(super) fn encode(&self, text: &mut String) -> fmt::Result {
        let mut registry = Registry::with_prefix(PREFIX);
        let leases = family(&mut registry, "leases", "Answers of Vault that pods have");
        for (state, kind) in State::ALL.iter().flat_map(|s| Kind::ALL.iter().map(move |k| (*s, *k))) {
            set(&leases, [("state", state.word()), ("kind", kind.word())], self.leases.get(&(state, kind)));
        }
        let next_end = family(
            &mut registry,
            "next_end_timestamp_seconds",
            "When the first of the leases that are failing or ending ends, in seconds since 1970; missing when none is",
        );
        if let Some(end) = self.next_end {
            next_end.get_or_create(&[]).set(end);
        }
        let tokens = family(&mut registry, "tokens", "Vault tokens held");
        for state in State::ALL {
            set(&tokens, [("state", state.word())], self.tokens.get(state));
        }
        for (name, help, level) in [
            ("sessions", "Pods with a standing at a Vault", self.sessions),
            ("revocations_waiting", "Vault tokens that wait to be revoked", self.revocations_waiting),
            ("pods_watched", "Pods of this node whose end will be seen", self.pods_watched),
            ("endpoints_down", "Servers that cannot be asked", self.endpoints_down),
        ] {
            set(&family(&mut registry, name, help), [], Some(&level));
        }
        let watch = family(&mut registry, "pod_watch", "How the watch of this node's pods stands: 1 for what it is");
        for state in Watching::ALL {
            set(&watch, [("state", state.word())], Some(&usize::from(*state == self.pod_watch)));
        }
        encode_registry(text, &registry)
    }
}

fn family<const N: usize>(registry: &mut Registry, name: &str, help: &str) -> Family<Labels<N>, Gauge> {
    let family = Family::default();
    registry.register(name, help, Family::clone(&family));
    family
}

fn set<const N: usize>(family: &Family<Labels<N>, Gauge>, labels: Labels<N>, level: Option<&usize>) {
    family.get_or_create(&labels).set(level.and_then(|level| i64::try_from(*level).ok()).unwrap_or(0));
}
