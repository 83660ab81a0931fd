//! Where the key of object versions and of what outlives the process comes from: a file, the Kubernetes Secret that all nodes
//! share, or this process alone.

use std::{path::Path, sync::Arc, time::Duration};

use tokio::{
    sync::watch,
    time::{Instant, timeout_at},
};

use crate::{
    clock::with_jitter,
    error::{Cause, Error},
    kube::Kube,
    render::version::VersionKey,
    state::StateKey,
};

/// What is made of the key.
pub struct KeySet {
    /// Makes object versions.
    pub object_version: VersionKey,
    /// Seals what a successor is to read; none when the key is of this process alone.
    pub state: Option<StateKey>,
}

/// Where the keys come from: they are there, or will be soon.
#[derive(Clone)]
pub struct HmacKeys(watch::Receiver<Option<Arc<KeySet>>>);

/// How long an API server is waited for before this process makes a key of its own.
const API_WAIT_TIMEOUT: Duration = Duration::from_secs(300);
/// How long a refusal is not believed: a role may be bound, or a token rotated, just after this process started.
const REFUSAL_GRACE_PERIOD: Duration = Duration::from_secs(10);
/// The pause between attempts to read the Secret, at most.
const MAX_BACKOFF: Duration = Duration::from_secs(15);

impl HmacKeys {
    /// The key in a file; the error says why it is none.
    pub fn from_file(path: &Path) -> Result<Self, String> {
        let bytes = zeroize::Zeroizing::new(std::fs::read(path).map_err(|e| format!("{}: {e}", path.display()))?);
        if bytes.len() < 32 {
            return Err(format!("{}: holds {} bytes; a key has at least 32", path.display(), bytes.len()));
        }
        Ok(Self::from_keys(KeySet::derive(&bytes)))
    }

    /// A key that no other process has: versions differ between nodes and after a restart.
    #[must_use]
    pub fn process_local() -> Self {
        Self::from_keys(KeySet::random())
    }

    /// The key in a Kubernetes Secret, read in the background until it is had, then never again.
    ///
    /// `is_awaited`: as long as the API server does not answer, it is waited for, since what pods were given is sealed under it.
    #[must_use]
    pub fn from_secret(kube: Arc<Kube>, name: String, is_awaited: bool) -> Self {
        let (sender, receiver) = watch::channel(None);
        tokio::spawn(async move {
            let key = read_secret_with_retries(&kube, &name, is_awaited).await;
            sender.send_replace(Some(Arc::new(key)));
        });
        Self(receiver)
    }

    fn from_keys(keys: KeySet) -> Self {
        Self(watch::channel(Some(Arc::new(keys))).1)
    }

    /// The key, if it is there.
    #[must_use]
    pub fn try_get(&self) -> Option<Arc<KeySet>> {
        self.0.borrow().clone()
    }

    /// The key, waited for as long as it takes.
    pub async fn get(&self) -> Arc<KeySet> {
        let mut source = self.0.clone();
        let keys = source.wait_for(Option::is_some).await.ok().and_then(|keys| keys.clone());
        // Whoever reads the Secret has broken, and there will be no key.
        keys.unwrap_or_else(|| Arc::new(KeySet::random()))
    }

    /// The key, waited for until `deadline`.
    pub async fn get_by(&self, deadline: Instant) -> Result<Arc<KeySet>, Error> {
        let mut source = self.0.clone();
        let had = timeout_at(deadline, source.wait_for(Option::is_some)).await;
        had.ok().and_then(|had| had.ok()?.clone()).ok_or_else(|| {
            Error::new(
                Cause::DeadlineExceeded,
                "the key of object versions could not be read from the Kubernetes API in time",
            )
            .with_fix("look into the provider's log for why; --hmac-key-file gives the key without the API")
        })
    }
}

impl KeySet {
    fn derive(key: &[u8]) -> Self {
        Self { object_version: VersionKey::from_bytes(key), state: Some(StateKey::derive(key)) }
    }

    fn random() -> Self {
        Self { object_version: VersionKey::random(), state: None }
    }
}

async fn read_secret_with_retries(kube: &Kube, name: &str, is_awaited: bool) -> KeySet {
    let start = Instant::now();
    let mut pause = Duration::from_millis(200);
    loop {
        let error = match kube.hmac_key(name).await {
            Ok(key) => return KeySet::derive(key.expose()),
            Err(error) => error,
        };
        let patience = match (error.is_transient(), is_awaited) {
            (true, true) => Duration::MAX,
            (true, false) => API_WAIT_TIMEOUT,
            (false, _) => REFUSAL_GRACE_PERIOD,
        };
        if start.elapsed() > patience {
            tracing::warn!(%error, "object versions are made with a key of this process alone: they differ between nodes and after a restart");
            return KeySet::random();
        }
        tracing::warn!(%error, "the key of object versions is not had yet; trying again");
        tokio::time::sleep(with_jitter(pause)).await;
        pause = (pause * 2).min(MAX_BACKOFF);
    }
}
