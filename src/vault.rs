//! Vault over HTTP; the only user of vaultrs and rustify.
//!
//! [`Vault`] keeps one [`Client`] per [`Endpoint`]: one connection pool, one set of limits, shared by every session.

pub mod address;
pub mod answer;
pub mod client;
pub mod connect;
pub mod engine;
pub mod failure;
mod files;
mod index;
mod lanes;
mod near;
mod operation;
mod room;
pub mod standing;
mod transport;
mod turns;
pub mod wire;

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use serde::{Deserialize, Serialize};

use crate::{
    error::{Cause, Error},
    metrics::Metrics,
    tls::{Oldest, Tls},
};
pub use address::{Address, SECRETIVE};
pub use client::Client;
pub use connect::Proxies;
use room::{Room, Whose};
use standing::Outage;

/// A server and how to reach it; classes that agree in all of it share a connection pool.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Endpoint {
    /// Where it is.
    pub address: Address,
    /// How to speak TLS to it.
    pub tls: Tls,
    /// Whether its name must not resolve to this node (loopback, link-local): a tenant chose it.
    pub guarded: bool,
}

/// Limits and habits of every endpoint.
#[derive(Clone, Debug)]
pub struct Config {
    /// Requests in flight to one endpoint.
    pub max_in_flight: usize,
    /// Requests in flight to one mount path that create something (database credentials, certificates, writes).
    pub max_creating: usize,
    /// Name resolution, TCP, proxy and TLS together.
    pub connect_timeout: Duration,
    /// Upper bound of one request, whatever its caller's deadline.
    pub request_timeout: Option<Duration>,
    /// How often a request is sent again that failed for a passing reason.
    pub max_retries: u32,
    /// The largest answer accepted, in bytes.
    pub max_answer: usize,
    /// `host` or `host:port` to which a redirect may take token and body.
    pub follow_redirects: Vec<String>,
    /// Whether redirects are followed at all.
    pub redirects: bool,
    /// Proxies on the way.
    pub proxies: Proxies,
    /// The oldest version of TLS that is spoken.
    pub oldest_tls: Oldest,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            max_in_flight: 16,
            max_creating: 4,
            connect_timeout: Duration::from_secs(5),
            request_timeout: None,
            max_retries: 4,
            max_answer: 8 << 20,
            follow_redirects: Vec::new(),
            redirects: true,
            proxies: Proxies::none(),
            oldest_tls: Oldest::default(),
        }
    }
}

/// Endpoints kept at most; the ones without sessions make room.
const MAX_ENDPOINTS: usize = 256;

/// Every Vault this node talks to.
pub struct Vault {
    config: Arc<Config>,
    metrics: Arc<Metrics>,
    /// Room for the answers of the operator's servers, and of those that classes chose.
    rooms: [Arc<Room>; 2],
    /// Never held across an await.
    clients: Mutex<HashMap<Endpoint, Client>>,
    /// The settings whose files are being read. Never held across an await.
    reading: Arc<Mutex<HashSet<Tls>>>,
}

impl Vault {
    /// No connection is made before the first request. Requests are counted in `metrics`.
    #[must_use]
    pub fn new(config: Config, metrics: Arc<Metrics>) -> Self {
        let rooms = [Room::new(Whose::Operator), Room::new(Whose::Classes)];
        Self { config: Arc::new(config), metrics, rooms, clients: Mutex::default(), reading: Arc::default() }
    }

    /// The endpoint's client, made at its first use.
    pub async fn client(&self, endpoint: &Endpoint) -> Result<Client, Error> {
        let known = self.lock().get(endpoint).cloned();
        if let Some(client) = known {
            return if client.transport().is_doubted() { files::settled(client).await } else { Ok(client) };
        }
        // TLS files are read, from a place that a class may have chosen: nobody else waits for it.
        let (wanted, config, metrics) = (endpoint.clone(), Arc::clone(&self.config), Arc::clone(&self.metrics));
        let room = Arc::clone(&self.rooms[usize::from(endpoint.guarded)]);
        let made = tokio::task::spawn_blocking(move || Client::new(&wanted, &config, &metrics, room)).await;
        let client = made.unwrap_or_else(|_| Err(Error::new(Cause::Internal, "making a client panicked")))?;
        if endpoint.tls.skip_verify {
            tracing::warn!(endpoint = %endpoint.address, "TLS certificates are not verified: whoever sits between reads every secret");
        }
        let mut clients = self.lock();
        if clients.len() >= MAX_ENDPOINTS {
            clients.retain(|_, client| client.is_shared());
        }
        if clients.len() >= MAX_ENDPOINTS {
            return Err(Error::new(
                Cause::Overloaded,
                format!("{MAX_ENDPOINTS} different Vault endpoints are in use on this node"),
            )
            .advice("let classes share an address and TLS settings; the mount is tried again by itself"));
        }
        // Another may have been first; everyone uses one pool.
        Ok(clients.entry(endpoint.clone()).or_insert(client).clone())
    }

    /// Why an endpoint cannot be asked at present, if that is known.
    #[must_use]
    pub fn outage(&self, endpoint: &Endpoint) -> Option<Arc<Outage>> {
        self.lock().get(endpoint).and_then(Client::outage)
    }

    /// The servers that cannot be asked at present, each with its address and why.
    #[must_use]
    pub fn outages(&self) -> Vec<(String, Arc<Outage>)> {
        let clients = self.lock();
        let down = clients.values().filter_map(|client| Some((client.address().to_owned(), client.known_outage()?)));
        down.collect()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<Endpoint, Client>> {
        self.clients.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
