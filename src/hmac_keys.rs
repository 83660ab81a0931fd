//! The HMAC key, from which object versions and the encryption of state files are derived: from a file, from the Kubernetes
//! Secret that all nodes share, or local to this process.

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

/// The keys derived from the HMAC key.
pub struct KeySet {
    /// Key of object versions.
    pub object_version: VersionKey,
    /// Key of state files; `None` if the HMAC key is local to this process.
    pub state: Option<StateKey>,
}

/// The keys of a process, available at once or later. Cheap to clone.
#[derive(Clone)]
pub struct HmacKeys(watch::Receiver<Option<Arc<KeySet>>>);

/// Time to wait for the API server before the process creates a local key.
const API_WAIT_TIMEOUT: Duration = Duration::from_secs(300);
/// Time to retry after a denial: a role may be bound, or a token rotated, just after this process started.
const REFUSAL_GRACE_PERIOD: Duration = Duration::from_secs(10);
/// Maximum delay between attempts to read the Secret.
const MAX_BACKOFF: Duration = Duration::from_secs(15);

impl HmacKeys {
    /// Reads the key from a file of at least 32 bytes. The error contains the file's path.
    pub fn from_file(path: &Path) -> Result<Self, String> {
        let bytes = zeroize::Zeroizing::new(std::fs::read(path).map_err(|e| format!("{}: {e}", path.display()))?);
        if bytes.len() < 32 {
            return Err(format!("{}: holds {} bytes; a key has at least 32", path.display(), bytes.len()));
        }
        Ok(Self::from_keys(KeySet::derive(&bytes)))
    }

    /// Creates a key that no other process has. Versions differ between nodes and after a restart.
    #[must_use]
    pub fn process_local() -> Self {
        Self::from_keys(KeySet::random())
    }

    /// Reads the key from a Kubernetes Secret in the background, with retries, once per process.
    ///
    /// With `is_awaited` a transient error is retried without limit, because the saved sessions are encrypted under this key.
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

    /// Returns the keys if they are available.
    #[must_use]
    pub fn try_get(&self) -> Option<Arc<KeySet>> {
        self.0.borrow().clone()
    }

    /// Waits for the keys.
    pub async fn get(&self) -> Arc<KeySet> {
        let mut source = self.0.clone();
        let keys = source.wait_for(Option::is_some).await.ok().and_then(|keys| keys.clone());
        // The task that reads the Secret has panicked.
        keys.unwrap_or_else(|| Arc::new(KeySet::random()))
    }

    /// Waits for the keys until `deadline`.
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
    let mut backoff = Duration::from_millis(200);
    loop {
        let error = match kube.hmac_key(name).await {
            Ok(key) => return KeySet::derive(key.expose()),
            Err(error) => error,
        };
        let timeout = match (error.is_transient(), is_awaited) {
            (true, true) => Duration::MAX,
            (true, false) => API_WAIT_TIMEOUT,
            (false, _) => REFUSAL_GRACE_PERIOD,
        };
        if start.elapsed() > timeout {
            tracing::warn!(%error, "HMAC Secret unavailable, using a process-local key; object versions will differ");
            return KeySet::random();
        }
        tracing::warn!(%error, "object version key unavailable, retrying");
        tokio::time::sleep(with_jitter(backoff)).await;
        backoff = (backoff * 2).min(MAX_BACKOFF);
    }
}
