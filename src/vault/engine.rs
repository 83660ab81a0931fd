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
    pub fn reads_only(&self) -> bool {
        let stores = matches!(self.kind.as_str(), "kv" | "generic" | "cubbyhole" | "identity" | "system");
        stores || matches!(self.kind.as_str(), "pki" | "ssh" | "transit" | "totp")
    }

    /// What people call it.
    #[must_use]
    pub fn name(&self) -> String {
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
pub fn is_builtin(path: &str) -> bool {
    ["sys/", "auth/", "identity/", "cubbyhole/"].iter().any(|prefix| path.starts_with(prefix))
}

/// How long an engine is believed to stay mounted where it is.
const KNOWN_FOR: Duration = Duration::from_secs(600);
/// How long a path is not asked about again that Vault would not tell of.
const UNKNOWN_FOR: Duration = Duration::from_secs(60);
/// Mounts remembered at most per endpoint.
const MAX_KNOWN: usize = 1024;

/// The engines of one endpoint, by Vault namespace and mount path.
#[derive(Default)]
pub(super) struct Engines {
    /// Never held across an await.
    known: Mutex<HashMap<(Option<String>, String), Entry>>,
}

struct Entry {
    known: Known,
    until: Instant,
}

/// What Vault said when it was asked for the engine at a path.
#[derive(Clone)]
pub(super) enum Known {
    /// This one.
    Engine(Arc<Engine>),
    /// It would not tell.
    Untold,
}

impl Known {
    pub(super) fn engine(self) -> Option<Arc<Engine>> {
        match self {
            Self::Engine(engine) => Some(engine),
            Self::Untold => None,
        }
    }
}

impl Engines {
    /// What is known of a path, if it was asked about.
    pub(super) fn find(&self, namespace: Option<&str>, path: &str) -> Option<Known> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        // Mount paths end in a slash and none is the start of another; a refusal is kept under the whole path.
        let ends = path.match_indices('/').map(|(i, _)| i + 1).chain([path.len()]);
        let mut ends = ends.map(|end| &path[..end]);
        ends.find_map(|start| {
            known
                .get(&(namespace.map(str::to_owned), start.to_owned()))
                .filter(|e| e.until > now)
                .map(|e| e.known.clone())
        })
    }

    /// Remembers what Vault told of a path, or that it would not.
    pub(super) fn learn(&self, namespace: Option<&str>, path: &str, told: Known) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        if known.len() >= MAX_KNOWN {
            known.retain(|_, entry| entry.until > now);
        }
        if known.len() >= MAX_KNOWN {
            known.clear();
        }
        let (key, life) = match &told {
            Known::Engine(engine) => (engine.path.clone(), KNOWN_FOR),
            Known::Untold => (path.to_owned(), UNKNOWN_FOR),
        };
        known.insert((namespace.map(str::to_owned), key), Entry { known: told, until: now + life });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn engines_are_known_by_mount_path_for_a_while() {
        let engines = Engines::default();
        let kv = Arc::new(Engine { path: "team/kv/".into(), kind: "kv".into(), options: None });
        engines.learn(None, "team/kv/data/x", Known::Engine(kv));
        engines.learn(Some("ns"), "pki/issue/web", Known::Untold);
        let kind = |ns, path| match engines.find(ns, path) {
            Some(Known::Engine(engine)) => engine.kind.clone(),
            Some(Known::Untold) => "untold".into(),
            None => "unknown".into(),
        };
        assert_eq!(kind(None, "team/kv/other"), "kv");
        assert_eq!(kind(Some("ns"), "team/kv/other"), "unknown");
        assert_eq!(kind(None, "team/kvx"), "unknown");
        assert_eq!(kind(Some("ns"), "pki/issue/web"), "untold");
        assert_eq!(kind(Some("ns"), "pki/issue/other"), "unknown");
        tokio::time::advance(UNKNOWN_FOR).await;
        assert_eq!(kind(Some("ns"), "pki/issue/web"), "unknown");
        tokio::time::advance(KNOWN_FOR).await;
        assert_eq!(kind(None, "team/kv/other"), "unknown");
    }
}
