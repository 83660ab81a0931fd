//! How much of everything there is, for whoever scrapes.

use std::{
    collections::{BTreeMap, HashSet},
    sync::Arc,
    time::Duration,
};

use tokio::{task::spawn_blocking, time::timeout};

use super::Mounter;
use crate::{
    error::Cause,
    metrics::{Certified, Health, Levels},
    policy::Server,
    tls::{self, Tls},
    vault::Endpoint,
};

/// How long is waited for files.
const PATIENCE: Duration = Duration::from_secs(2);

impl Mounter {
    /// What there is now. Reads the operator's certificates anew.
    pub async fn levels(&self) -> Levels {
        let mut levels = self.renewal.levels();
        let servers = self.operator.servers();
        for server in &servers {
            // As the operator reaches it: a class may lay its own TLS settings over the address.
            let endpoint = Endpoint { address: server.address.clone(), tls: server.tls.clone(), guarded: false };
            let found = self.vault.outage(&endpoint).map(|outage| outage.found.cause());
            let sealed = matches!(found, Some(Cause::Sealed | Cause::Uninitialized));
            // Two may have one address.
            let health =
                levels.endpoints.entry(server.address.to_string()).or_insert(Health { up: true, sealed: false });
            *health = Health { up: health.up && found.is_none(), sealed: health.sealed || sealed };
        }
        levels.policy_broken = self.operator.policy.as_ref().map(|file| file.is_broken());
        levels.mounts_limit = self.slots.most();
        levels.certificates = certificates(servers).await;
        levels
    }
}

/// When the first of the operator's certificates ends, of each sort.
async fn certificates(servers: Vec<Arc<Server>>) -> BTreeMap<Certified, i64> {
    let now = jiff::Timestamp::now();
    let settings: HashSet<Tls> = servers.iter().map(|server| server.tls.clone()).collect();
    let reading = spawn_blocking(move || settings.iter().map(|tls| tls::ends(tls, now)).collect::<Vec<_>>());
    let mut first = BTreeMap::new();
    // A file system may hang, and a scrape may not.
    let ends = timeout(PATIENCE, reading).await.ok().and_then(Result::ok);
    for ends in ends.unwrap_or_default() {
        for (what, end) in [(Certified::Ca, ends.authority), (Certified::Client, ends.client)] {
            let Some(end) = end.map(|end| end.at.as_second()) else { continue };
            first.entry(what).and_modify(|first: &mut i64| *first = end.min(*first)).or_insert(end);
        }
    }
    first
}
