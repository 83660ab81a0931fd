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
    tls::{self, CertificateSummary, Expiries, MinTlsVersion, Tls, TlsReload},
};

/// How many settings' files are read at once.
const MAX_CONCURRENT_TLS_RELOADS: usize = 4;
/// How long is waited for them before others' are read: a file system may hang.
const TLS_RELOAD_TIMEOUT: Duration = Duration::from_secs(5);

/// How the TLS files of a server stand.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFileStatus {
    /// When the certificates end that are in use.
    pub expiries: Expiries,
    /// Whether the files cannot be used as they are now.
    pub is_invalid: bool,
}

impl Vault {
    /// Reads the TLS files of every client anew. Where they changed, new connections use them; requests in flight end on theirs, and
    /// idle connections are let go. Brings the settings that changed.
    pub async fn reload_tls(&self) -> Vec<Tls> {
        let mut clients_by_tls: HashMap<Tls, Vec<Client>> = HashMap::new();
        for entry in self.lock().values() {
            let client = entry.client.clone();
            clients_by_tls.entry(client.transport().tls().clone()).or_default().push(client);
        }
        let reloads = stream::iter(clients_by_tls).map(async |(tls, clients)| {
            let addresses: Vec<String> = clients.iter().map(|client| client.address().to_owned()).collect();
            // Where a file system hangs, one thread waits for it, and no more.
            let in_progress = Arc::clone(&self.tls_reads_in_progress);
            if !lock_in_progress(&in_progress).insert(tls.clone()) {
                return None;
            }
            let settings = tls.clone();
            let reload_task = tokio::task::spawn_blocking(move || {
                let digest = tls::compute_digest(&settings, []);
                let reloads = clients.iter().map(|client| client.transport().reload_tls(digest)).collect::<Vec<_>>();
                lock_in_progress(&in_progress).remove(&settings);
                reloads
            });
            // It is told even if nobody waits for it any more.
            let log_task = task::spawn_boxed(async move {
                // Those of one digest hear the same; who was doubted meanwhile may have heard it before.
                let reload = reload_task.await.ok()?.into_iter().find(TlsReload::should_log)?;
                reload.log(&addresses.join(", "));
                matches!(reload, TlsReload::Applied { .. }).then_some(tls)
            });
            timeout(TLS_RELOAD_TIMEOUT, log_task).await.ok()?.ok()?
        });
        reloads.buffer_unordered(MAX_CONCURRENT_TLS_RELOADS).filter_map(async |changed| changed).collect().await
    }

    /// The TLS settings of every client, an address that each is used for, and when the certificates end that are in use.
    #[must_use]
    pub fn tls_in_use(&self, now: Timestamp) -> HashMap<Tls, (String, Expiries)> {
        let clients = self.lock();
        let settings_in_use = clients.iter().map(|(endpoint, entry)| {
            let client = &entry.client;
            (endpoint.tls.clone(), (client.address().to_owned(), client.transport().tls_file_status(now).expiries))
        });
        settings_in_use.collect()
    }

    /// How the files of settings stand that nobody uses yet. Reads them, and blocks while it does; none while others read them.
    #[must_use]
    pub fn read_tls_file_status(&self, tls: &Tls, now: Timestamp) -> Option<TlsFileStatus> {
        if !lock_in_progress(&self.tls_reads_in_progress).insert(tls.clone()) {
            return None;
        }
        let is_invalid = tls::load_client_config(tls, MinTlsVersion::default()).is_err();
        let status = TlsFileStatus { expiries: CertificateSummary::read(tls).expiries(now), is_invalid: is_invalid };
        lock_in_progress(&self.tls_reads_in_progress).remove(tls);
        Some(status)
    }

    /// How the TLS files of an endpoint stand; none while nobody uses it.
    #[must_use]
    pub fn tls_file_status(&self, endpoint: &Endpoint, now: Timestamp) -> Option<TlsFileStatus> {
        Some(self.lock().get(endpoint)?.client.transport().tls_file_status(now))
    }

    /// A connection failed for TLS: the files are read before the next use, as they may have changed.
    pub fn mark_tls_suspect(&self, endpoint: &Endpoint) {
        if let Some(entry) = self.lock().get(endpoint) {
            entry.client.transport().mark_tls_suspect();
        }
    }
}

fn lock_in_progress(in_progress: &Mutex<HashSet<Tls>>) -> MutexGuard<'_, HashSet<Tls>> {
    in_progress.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A client that was doubted, with the files as they are now.
pub(super) async fn reload_suspect_tls(client: Client) -> Result<Client, Error> {
    let owned_client = client.clone();
    let reload_task =
        tokio::task::spawn_blocking(move || owned_client.transport().reload_suspect_tls(owned_client.address()));
    let reload =
        reload_task.await.unwrap_or_else(|_| Err(Error::new(Cause::Internal, "reading TLS files panicked")))?;
    reload.log(client.address());
    Ok(client)
}
