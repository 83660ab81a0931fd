//! TLS files that change while their clients live.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures_util::{StreamExt, stream};
use jiff::Timestamp;
use tokio::time::timeout;

use super::{Client, Endpoint, Vault};
use crate::{
    error::{Cause, Error},
    task,
    tls::{self, Certificates, Ends, Look, Oldest, Tls},
};

/// How many settings' files are read at once.
const AT_ONCE: usize = 4;
/// How long is waited for them before others' are read: a file system may hang.
const PATIENCE: Duration = Duration::from_secs(5);

/// How the TLS files of a server stand.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    /// When the certificates end that are in use.
    pub ends: Ends,
    /// Whether the files cannot be used as they are now.
    pub broken: bool,
}

impl Vault {
    /// Reads the TLS files of every client anew. Where they changed, new connections use them; requests in flight end on theirs, and
    /// idle connections are let go. Brings the settings that changed.
    pub async fn reread(&self) -> Vec<Tls> {
        let mut uses: HashMap<Tls, Vec<Client>> = HashMap::new();
        for known in self.lock().values() {
            let client = known.client.clone();
            uses.entry(client.transport().tls().clone()).or_default().push(client);
        }
        let looks = stream::iter(uses).map(async |(tls, clients)| {
            let addresses: Vec<String> = clients.iter().map(|client| client.address().to_owned()).collect();
            // Where a file system hangs, one thread waits for it, and no more.
            let reading = Arc::clone(&self.tls_reads_in_progress);
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

    /// The TLS settings of every client, an address that each is used for, and when the certificates end that are in use.
    #[must_use]
    pub fn tls_in_use(&self, now: Timestamp) -> HashMap<Tls, (String, Ends)> {
        let clients = self.lock();
        let uses = clients.iter().map(|(endpoint, known)| {
            let client = &known.client;
            (endpoint.tls.clone(), (client.address().to_owned(), client.transport().tls_files(now).ends))
        });
        uses.collect()
    }

    /// How the files of settings stand that nobody uses yet. Reads them, and blocks while it does; none while others read them.
    #[must_use]
    pub fn read_tls_files(&self, tls: &Tls, now: Timestamp) -> Option<TlsFiles> {
        if !guard(&self.tls_reads_in_progress).insert(tls.clone()) {
            return None;
        }
        let broken = tls::client_config(tls, Oldest::default()).is_err();
        let files = TlsFiles { ends: Certificates::read(tls).ends(now), broken };
        guard(&self.tls_reads_in_progress).remove(tls);
        Some(files)
    }

    /// How the TLS files of an endpoint stand; none while nobody uses it.
    #[must_use]
    pub fn tls_files(&self, endpoint: &Endpoint, now: Timestamp) -> Option<TlsFiles> {
        Some(self.lock().get(endpoint)?.client.transport().tls_files(now))
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
