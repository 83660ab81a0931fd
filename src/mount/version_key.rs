//! Where the key of object versions comes from: a file, the Kubernetes Secret that all nodes share, or this process alone.

use std::{path::Path, sync::Arc, time::Duration};

use tokio::{
    sync::watch,
    time::{Instant, timeout_at},
};

use crate::{
    clock::jittered,
    error::{Cause, Error},
    kube::Kube,
    render::version::VersionKey,
};

/// The key, now or soon.
#[derive(Clone)]
pub struct VersionKeySource(watch::Receiver<Option<Arc<VersionKey>>>);

/// How long an API server is waited for before this process makes a key of its own.
const GIVE_UP: Duration = Duration::from_secs(300);
/// How long a refusal is not believed: a role may be bound, or a token rotated, just after this process started.
const SETTLE: Duration = Duration::from_secs(10);
/// The pause between attempts to read the Secret, at most.
const MAX_PAUSE: Duration = Duration::from_secs(15);

impl VersionKeySource {
    /// The key in a file; the error says why it is none.
    pub fn file(path: &Path) -> Result<Self, String> {
        let bytes = zeroize::Zeroizing::new(std::fs::read(path).map_err(|e| format!("{}: {e}", path.display()))?);
        if bytes.len() < 32 {
            return Err(format!("{}: holds {} bytes; a key has at least 32", path.display(), bytes.len()));
        }
        Ok(Self::ready(VersionKey::from_bytes(&bytes)))
    }

    /// A key that no other process has: versions differ between nodes and after a restart.
    #[must_use]
    pub fn process() -> Self {
        Self::ready(VersionKey::random())
    }

    /// The key in a Kubernetes Secret, read in the background until it is had, then never again.
    #[must_use]
    pub fn secret(kube: Arc<Kube>, name: String) -> Self {
        let (sender, receiver) = watch::channel(None);
        tokio::spawn(async move {
            let key = read_until_had(&kube, &name).await;
            sender.send_replace(Some(Arc::new(key)));
        });
        Self(receiver)
    }

    fn ready(key: VersionKey) -> Self {
        Self(watch::channel(Some(Arc::new(key))).1)
    }

    /// The key, if it is there.
    #[must_use]
    pub fn had(&self) -> Option<Arc<VersionKey>> {
        self.0.borrow().clone()
    }

    /// The key, waited for until `deadline`.
    pub async fn wait(&self, deadline: Instant) -> Result<Arc<VersionKey>, Error> {
        let mut source = self.0.clone();
        let had = timeout_at(deadline, source.wait_for(Option::is_some)).await;
        had.ok().and_then(|had| had.ok()?.clone()).ok_or_else(|| {
            Error::new(Cause::Deadline, "the key of object versions could not be read from the Kubernetes API in time")
                .advice("look into the provider's log for why; --hmac-key-file gives the key without the API")
        })
    }
}

async fn read_until_had(kube: &Kube, name: &str) -> VersionKey {
    let start = Instant::now();
    let mut pause = Duration::from_millis(200);
    loop {
        let error = match kube.hmac_key(name).await {
            Ok(key) => return VersionKey::from_bytes(key.expose()),
            Err(error) => error,
        };
        let patience = if error.is_passing() { GIVE_UP } else { SETTLE };
        if start.elapsed() > patience {
            tracing::warn!(%error, "object versions are made with a key of this process alone: they differ between nodes and after a restart");
            return VersionKey::random();
        }
        tracing::warn!(%error, "the key of object versions is not had yet; trying again");
        tokio::time::sleep(jittered(pause)).await;
        pause = (pause * 2).min(MAX_PAUSE);
    }
}
