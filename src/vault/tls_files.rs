//! Reload of TLS files that change while their clients are in use.

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

/// Maximum number of TLS settings that are reloaded concurrently.
const MAX_CONCURRENT_TLS_RELOADS: usize = 4;
/// Timeout for reading the files of one setting, because a file system may hang. The next files are read after it.
const TLS_RELOAD_TIMEOUT: Duration = Duration::from_secs(5);

/// State of the TLS files of a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFileStatus {
    /// Expiry of the certificates in use.
    pub expiries: Expiries,
    /// True if the current files are invalid.
    pub is_invalid: bool,
}

impl Vault {
    /// Rereads the TLS files of every client, and returns the settings with changed files.
    ///
    /// New connections use the changed files. Requests in flight finish on their connections, and idle connections are dropped.
    pub async fn reload_tls(&self) -> Vec<Tls> {
        let mut clients_by_tls: HashMap<Tls, Vec<Client>> = HashMap::new();
        for entry in self.lock().values() {
            let client = entry.client.clone();
            clients_by_tls.entry(client.transport().tls().clone()).or_default().push(client);
        }
        let reloads = stream::iter(clients_by_tls).map(async |(tls, clients)| {
            let addresses: Vec<String> = clients.iter().map(|client| client.address().to_owned()).collect();
            // If a file system hangs, at most one thread per setting blocks on it.
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
            // A task of its own, so that the result is logged even after the timeout.
            let log_task = task::spawn_boxed(async move {
                // Clients of one digest have the same result, but a suspect client may have logged it before.
                let reload = reload_task.await.ok()?.into_iter().find(TlsReload::should_log)?;
                reload.log(&addresses.join(", "));
                matches!(reload, TlsReload::Applied { .. }).then_some(tls)
            });
            timeout(TLS_RELOAD_TIMEOUT, log_task).await.ok()?.ok()?
        });
        reloads.buffer_unordered(MAX_CONCURRENT_TLS_RELOADS).filter_map(async |changed| changed).collect().await
    }

    /// Returns the TLS settings of every client, each with one address that uses them and the expiry of the certificates in use.
    #[must_use]
    pub fn tls_in_use(&self, now: Timestamp) -> HashMap<Tls, (String, Expiries)> {
        let clients = self.lock();
        let settings_in_use = clients.iter().map(|(endpoint, entry)| {
            let client = &entry.client;
            (endpoint.tls.clone(), (client.address().to_owned(), client.transport().tls_file_status(now).expiries))
        });
        settings_in_use.collect()
    }

    /// Reads the state of TLS files that no client uses yet. `None` while another task reads them. Blocks.
    #[must_use]
    pub fn read_tls_file_status(&self, tls: &Tls, now: Timestamp) -> Option<TlsFileStatus> {
        if !lock_in_progress(&self.tls_reads_in_progress).insert(tls.clone()) {
            return None;
        }
        let is_invalid = tls::load_client_config(tls, MinTlsVersion::default()).is_err();
        let status = TlsFileStatus { expiries: CertificateSummary::read(tls).expiries(now), is_invalid };
        lock_in_progress(&self.tls_reads_in_progress).remove(tls);
        Some(status)
    }

    /// Returns the state of an endpoint's TLS files. `None` if the endpoint does not have a client.
    #[must_use]
    pub fn tls_file_status(&self, endpoint: &Endpoint, now: Timestamp) -> Option<TlsFileStatus> {
        Some(self.lock().get(endpoint)?.client.transport().tls_file_status(now))
    }

    /// Marks an endpoint's TLS files as suspect after a failed TLS connection. They may have changed, so they are reread before
    /// the next use.
    pub fn mark_tls_suspect(&self, endpoint: &Endpoint) {
        if let Some(entry) = self.lock().get(endpoint) {
            entry.client.transport().mark_tls_suspect();
        }
    }
}

fn lock_in_progress(in_progress: &Mutex<HashSet<Tls>>) -> MutexGuard<'_, HashSet<Tls>> {
    in_progress.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Reloads the suspect TLS files of a client and returns the client.
pub(super) async fn reload_suspect_tls(client: Client) -> Result<Client, Error> {
    let owned_client = client.clone();
    let reload_task =
        tokio::task::spawn_blocking(move || owned_client.transport().reload_suspect_tls(owned_client.address()));
    let reload =
        reload_task.await.unwrap_or_else(|_| Err(Error::new(Cause::Internal, "reading TLS files panicked")))?;
    reload.log(client.address());
    Ok(client)
}
