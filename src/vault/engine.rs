//! Secrets engines by path, and the classification of their reads as safe or mutating.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use serde::Deserialize;
use tokio::time::Instant;

/// A mounted secrets engine, as `sys/internal/ui/mounts/PATH` describes it.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct Engine {
    /// The mount path, with a trailing slash.
    pub path: String,
    /// `kv`, `database`, `pki`, …
    #[serde(rename = "type")]
    pub kind: String,
    /// The mount's options; `version` for `kv`.
    pub options: Option<HashMap<String, String>>,
}

impl Engine {
    /// Returns true when a GET creates nothing and is idempotent: the engine returns stored data, or issues only on writes.
    /// Reads of an unknown engine count as mutating.
    #[must_use]
    pub fn has_safe_reads(&self) -> bool {
        let stores = matches!(self.kind.as_str(), "kv" | "generic" | "cubbyhole" | "identity" | "system");
        stores || matches!(self.kind.as_str(), "pki" | "ssh" | "transit" | "totp")
    }

    /// Returns the engine's name for messages.
    #[must_use]
    pub fn display_name(&self) -> String {
        match self.kind.as_str() {
            "kv" if self.is_kv2() => "KV version 2".to_owned(),
            "kv" => "KV version 1".to_owned(),
            kind => kind.to_owned(),
        }
    }

    /// Returns true for a KV engine of version 2, which has its secrets below `data/`.
    #[must_use]
    pub fn is_kv2(&self) -> bool {
        self.kind == "kv" && self.options.as_ref().is_some_and(|o| o.get("version").is_some_and(|v| v == "2"))
    }
}

/// Returns true for a path of Vault itself. It needs no lookup: reads there create nothing.
#[must_use]
pub fn is_builtin_path(path: &str) -> bool {
    ["sys/", "auth/", "identity/", "cubbyhole/"].iter().any(|prefix| path.starts_with(prefix))
}

/// Cache lifetime of a found engine.
const ENGINE_TTL: Duration = Duration::from_secs(600);
/// Cache lifetime of a path for which Vault did not disclose the engine.
const UNDISCLOSED_ENGINE_TTL: Duration = Duration::from_secs(60);
/// Maximum number of cached mounts per endpoint.
const MAX_CACHED_ENGINES: usize = 1024;

/// The engines of one endpoint, by Vault namespace and mount path.
#[derive(Default)]
pub(super) struct EngineCache {
    /// Never held across an await.
    entries: Mutex<HashMap<(Option<String>, String), CachedLookup>>,
}

struct CachedLookup {
    lookup: EngineLookup,
    expires_at: Instant,
}

/// Result of an engine lookup.
#[derive(Clone)]
pub(super) enum EngineLookup {
    /// The engine at the path.
    Found(Arc<Engine>),
    /// Vault did not disclose the engine.
    Undisclosed,
}

impl EngineLookup {
    pub(super) fn into_engine(self) -> Option<Arc<Engine>> {
        match self {
            Self::Found(engine) => Some(engine),
            Self::Undisclosed => None,
        }
    }
}

impl EngineCache {
    /// Returns the cached lookup of a path.
    pub(super) fn get(&self, namespace: Option<&str>, path: &str) -> Option<EngineLookup> {
        let entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        // A mount path ends in a slash and is never the prefix of another. An undisclosed lookup is cached under the whole path.
        let prefix_ends = path.match_indices('/').map(|(i, _)| i + 1).chain([path.len()]);
        let mut prefixes = prefix_ends.map(|end| &path[..end]);
        prefixes.find_map(|prefix| {
            entries
                .get(&(namespace.map(str::to_owned), prefix.to_owned()))
                .filter(|e| e.expires_at > now)
                .map(|e| e.lookup.clone())
        })
    }

    /// Caches the lookup of a path. At the limit, evicts expired entries first, then all entries.
    pub(super) fn record(&self, namespace: Option<&str>, path: &str, lookup: EngineLookup) {
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        if entries.len() >= MAX_CACHED_ENGINES {
            entries.retain(|_, entry| entry.expires_at > now);
        }
        if entries.len() >= MAX_CACHED_ENGINES {
            entries.clear();
        }
        let (key, ttl) = match &lookup {
            EngineLookup::Found(engine) => (engine.path.clone(), ENGINE_TTL),
            EngineLookup::Undisclosed => (path.to_owned(), UNDISCLOSED_ENGINE_TTL),
        };
        entries.insert((namespace.map(str::to_owned), key), CachedLookup { lookup, expires_at: now + ttl });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn engine_cache_entries_expire_per_mount_path() {
        let engines = EngineCache::default();
        let kv = Arc::new(Engine { path: "team/kv/".into(), kind: "kv".into(), options: None });
        engines.record(None, "team/kv/data/x", EngineLookup::Found(kv));
        engines.record(Some("ns"), "pki/issue/web", EngineLookup::Undisclosed);
        let kind = |ns, path| match engines.get(ns, path) {
            Some(EngineLookup::Found(engine)) => engine.kind.clone(),
            Some(EngineLookup::Undisclosed) => "undisclosed".into(),
            None => "unknown".into(),
        };
        assert_eq!(kind(None, "team/kv/other"), "kv");
        assert_eq!(kind(Some("ns"), "team/kv/other"), "unknown");
        assert_eq!(kind(None, "team/kvx"), "unknown");
        assert_eq!(kind(Some("ns"), "pki/issue/web"), "undisclosed");
        assert_eq!(kind(Some("ns"), "pki/issue/other"), "unknown");
        tokio::time::advance(UNDISCLOSED_ENGINE_TTL).await;
        assert_eq!(kind(Some("ns"), "pki/issue/web"), "unknown");
        tokio::time::advance(ENGINE_TTL).await;
        assert_eq!(kind(None, "team/kv/other"), "unknown");
    }
}
