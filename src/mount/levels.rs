//! What there is, for whoever scrapes or asks how the process stands.

use std::{sync::Arc, time::Duration};

use tokio::{task::spawn_blocking, time::timeout};

use super::Mounter;
use crate::{
    error::Cause,
    metrics::{Certified, Health, Levels},
    policy::Server,
    status::Status,
    vault::TlsFiles,
};

/// How long is waited for files.
const PATIENCE: Duration = Duration::from_secs(2);

impl Mounter {
    /// What is held now, and what failed last.
    #[must_use]
    pub fn status(&self) -> Status {
        Status { failures: self.failures.tell(), ..self.renewal.status() }
    }

    /// What there is now. Reads the TLS files of the operator's servers that nobody has used.
    pub async fn levels(&self) -> Levels {
        let mut levels = self.renewal.levels();
        let servers = self.operator.servers();
        for server in &servers {
            let found = self.vault.outage(&server.endpoint()).map(|outage| outage.found.cause());
            let sealed = matches!(found, Some(Cause::Sealed | Cause::Uninitialized));
            // Two may have one address.
            let health =
                levels.endpoints.entry(server.address.to_string()).or_insert(Health { up: true, sealed: false });
            *health = Health { up: health.up && found.is_none(), sealed: health.sealed || sealed };
        }
        levels.policy_broken = self.operator.policy.as_ref().map(|file| file.is_broken());
        levels.mounts_limit = self.slots.most();
        for (address, TlsFiles { ends, broken }) in self.tls_files(servers).await {
            *levels.tls_broken.entry(address).or_default() |= broken;
            for (what, end) in [(Certified::Ca, ends.authority), (Certified::Client, ends.client)] {
                let Some(end) = end.map(|end| end.at.as_second()) else { continue };
                levels.certificates.entry(what).and_modify(|first| *first = end.min(*first)).or_insert(end);
            }
        }
        levels
    }

    /// How the TLS files of servers stand, each with its address. Those that are not read in time are missing.
    async fn tls_files(&self, servers: Vec<Arc<Server>>) -> Vec<(String, TlsFiles)> {
        let now = jiff::Timestamp::now();
        let (mut known, mut unused) = (Vec::new(), Vec::new());
        for server in servers {
            match self.vault.tls_files(&server.endpoint(), now) {
                Some(files) => known.push((server.address.to_string(), files)),
                None => unused.push(server),
            }
        }
        let read = move |server: Arc<Server>| (server.address.to_string(), TlsFiles::read(&server.tls, now));
        let reading = spawn_blocking(move || unused.into_iter().map(read).collect::<Vec<_>>());
        // A file system may hang, and a scrape may not.
        known.extend(timeout(PATIENCE, reading).await.ok().and_then(Result::ok).unwrap_or_default());
        known
    }
}
