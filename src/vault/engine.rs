//! Which secrets engine answers at a path, and so whether reading there creates something.

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
    /// The mount path, with a slash at its end.
    pub path: String,
    /// `kv`, `database`, `pki`, …
    #[serde(rename = "type")]
    pub kind: String,
    /// The mount's options; `version` for `kv`.
    pub options: Option<HashMap<String, String>>,
}

impl Engine {
    /// Whether a GET creates nothing, so that it may be repeated freely: it returns what is stored, or the engine issues by
    /// writes alone. An engine we do not know counts as one that creates.
    #[must_use]
    pub fn has_safe_reads(&self) -> bool {
        let stores = matches!(self.kind.as_str(), "kv" | "generic" | "cubbyhole" | "identity" | "system");
        stores || matches!(self.kind.as_str(), "pki" | "ssh" | "transit" | "totp")
    }

    /// What people call it.
    #[must_use]
    pub fn display_name(&self) -> String {
        match self.kind.as_str() {
            "kv" if self.is_kv2() => "KV version 2".to_owned(),
            "kv" => "KV version 1".to_owned(),
            kind => kind.to_owned(),
        }
    }

    /// Whether it is a KV engine of version 2, whose secrets are below `data/`.
    #[must_use]
    pub fn is_kv2(&self) -> bool {
        self.kind == "kv" && self.options.as_ref().is_some_and(|o| o.get("version").is_some_and(|v| v == "2"))
    }
}

/// Whether a path belongs to Vault itself, which needs no asking: nothing there creates when read.
#[must_use]
pub fn is_builtin_path(path: &str) -> bool {
    ["sys/", "auth/", "identity/", "cubbyhole/"].iter().any(|prefix| path.starts_with(prefix))
}

/// How long an engine is believed to stay mounted where it is.
const ENGINE_TTL: Duration = Duration::from_secs(600);
/// How long a path is not asked about again that Vault would not tell of.
const UNDISCLOSED_ENGINE_TTL: Duration = Duration::from_secs(60);
/// Mounts remembered at most per endpoint.
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

/// What Vault said when it was asked for the engine at a path.
#[derive(Clone)]
pub(super) enum EngineLookup {
    /// This one.
    Found(Arc<Engine>),
    /// It would not tell.
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
    /// What is known of a path, if it was asked about.
    pub(super) fn get(&self, namespace: Option<&str>, path: &str) -> Option<EngineLookup> {
        let entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        // Mount paths end in a slash and none is the start of another; a refusal is kept under the whole path.
        let prefix_ends = path.match_indices('/').map(|(i, _)| i + 1).chain([path.len()]);
        let mut prefixes = prefix_ends.map(|end| &path[..end]);
        prefixes.find_map(|prefix| {
            entries
                .get(&(namespace.map(str::to_owned), prefix.to_owned()))
                .filter(|e| e.expires_at > now)
                .map(|e| e.lookup.clone())
        })
    }

    /// Remembers what Vault told of a path, or that it would not.
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
        entries.insert((namespace.map(str::to_owned), key), CachedLookup { lookup: lookup, expires_at: now + ttl });
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
            Some(EngineLookup::Undisclosed) => "untold".into(),
            None => "unknown".into(),
        };
        assert_eq!(kind(None, "team/kv/other"), "kv");
        assert_eq!(kind(Some("ns"), "team/kv/other"), "unknown");
        assert_eq!(kind(None, "team/kvx"), "unknown");
        assert_eq!(kind(Some("ns"), "pki/issue/web"), "untold");
        assert_eq!(kind(Some("ns"), "pki/issue/other"), "unknown");
        tokio::time::advance(UNDISCLOSED_ENGINE_TTL).await;
        assert_eq!(kind(Some("ns"), "pki/issue/web"), "unknown");
        tokio::time::advance(ENGINE_TTL).await;
        assert_eq!(kind(None, "team/kv/other"), "unknown");
    }
}
