//! TLS files that change while their clients live.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures_util::{StreamExt, stream};
use tokio::time::timeout;

use super::{Client, Endpoint, Vault};
use crate::{
    error::{Cause, Error},
    task,
    tls::{self, Look, Tls},
};

/// How many settings' files are read at once.
const AT_ONCE: usize = 4;
/// How long is waited for them before others' are read: a file system may hang.
const PATIENCE: Duration = Duration::from_secs(5);

impl Vault {
    /// Reads the TLS files of every client anew. Where they changed, new connections use them; requests in flight end on theirs, and
    /// idle connections are let go. Brings the settings that changed.
    pub async fn reread(&self) -> Vec<Tls> {
        let mut uses: HashMap<Tls, Vec<Client>> = HashMap::new();
        for (endpoint, known) in self.lock().iter() {
            uses.entry(endpoint.tls.clone()).or_default().push(known.client.clone());
        }
        let looks = stream::iter(uses).map(async |(tls, clients)| {
            let addresses: Vec<String> = clients.iter().map(|client| client.address().to_owned()).collect();
            // Where a file system hangs, one thread waits for it, and no more.
            let reading = Arc::clone(&self.reading);
            if !guard(&reading).insert(tls.clone()) {
                return None;
            }
            let settings = tls.clone();
            let looking = tokio::task::spawn_blocking(move || {
                let digest = tls::digest(&settings, []);
                let looks = clients.iter().map(|client| client.transport().look(digest)).collect::<Vec<_>>();
                guard(&reading).remove(&settings);
                looks
            });
            // It is told even if nobody waits for it any more.
            let telling = task::spawn(async move {
                // Those of one digest hear the same; who was doubted meanwhile may have heard it before.
                let look = looking.await.ok()?.into_iter().find(Look::is_news)?;
                look.tell(&addresses.join(", "));
                matches!(look, Look::New { .. }).then_some(tls)
            });
            timeout(PATIENCE, telling).await.ok()?.ok()?
        });
        looks.buffer_unordered(AT_ONCE).filter_map(async |changed| changed).collect().await
    }

    /// The TLS settings of every client, and an address that each is used for.
    #[must_use]
    pub fn tls_in_use(&self) -> HashMap<Tls, String> {
        self.lock().iter().map(|(endpoint, known)| (endpoint.tls.clone(), known.client.address().to_owned())).collect()
    }

    /// A connection failed for TLS: the files are read before the next use, as they may have changed.
    pub fn doubt(&self, endpoint: &Endpoint) {
        if let Some(known) = self.lock().get(endpoint) {
            known.client.transport().doubt();
        }
    }
}

fn guard(reading: &Mutex<HashSet<Tls>>) -> MutexGuard<'_, HashSet<Tls>> {
    reading.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A client that was doubted, with the files as they are now.
pub(super) async fn settled(client: Client) -> Result<Client, Error> {
    let asked = client.clone();
    let settling = tokio::task::spawn_blocking(move || asked.transport().settle(asked.address()));
    let look = settling.await.unwrap_or_else(|_| Err(Error::new(Cause::Internal, "reading TLS files panicked")))?;
    look.tell(client.address());
    Ok(client)
}
