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
pub mod idle;
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
use tokio::{sync::Semaphore, time::Instant};

use crate::{
    error::{Cause, Error},
    metrics::Metrics,
    tls::{Oldest, Tls},
};
pub use address::{Address, SECRETIVE};
pub use client::Client;
use connect::Lookups;
pub use connect::Proxies;
pub use files::TlsFiles;
use room::{Room, Whose};
use standing::{Heard, Outage};

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

/// Endpoints kept at most of which classes chose something. A Kubernetes namespace has half of them at most.
const MAX_CHOSEN: usize = 256;

/// Clients that are made at once of endpoints of which classes chose something.
const MAKING: usize = 4;

/// Every Vault this node talks to.
pub struct Vault {
    config: Arc<Config>,
    metrics: Arc<Metrics>,
    /// Room for the answers of the operator's servers, and of those that classes chose.
    rooms: [Arc<Room>; 2],
    /// Never held across an await.
    clients: Mutex<Clients>,
    /// Turns for reading the files that classes chose: a file system may hang, and threads are few.
    making: Arc<Semaphore>,
    /// Those for lookups of names that classes chose, by their Kubernetes namespaces. Never held across an await.
    lookups: Mutex<HashMap<String, Lookups>>,
    /// The settings whose files are being read. Never held across an await.
    reading: Arc<Mutex<HashSet<Tls>>>,
}

type Clients = HashMap<Endpoint, Known>;

/// A client, and the Kubernetes namespace whose class was the first to choose something of its endpoint.
struct Known {
    client: Client,
    chosen_by: Option<String>,
}

impl Vault {
    /// No connection is made before the first request. Requests are counted in `metrics`.
    #[must_use]
    pub fn new(config: Config, metrics: Arc<Metrics>) -> Self {
        let rooms = [Room::new(Whose::Operator), Room::new(Whose::Classes)];
        let making = Arc::new(Semaphore::new(MAKING));
        Self {
            config: Arc::new(config),
            metrics,
            rooms,
            clients: Mutex::default(),
            making,
            lookups: Mutex::default(),
            reading: Arc::default(),
        }
    }

    /// The client of an endpoint of the operator's, made at its first use.
    pub async fn client(&self, endpoint: &Endpoint) -> Result<Client, Error> {
        self.client_of(endpoint, None, false).await
    }

    /// The client of a session of this Kubernetes namespace that there is: never refused.
    pub async fn used(&self, endpoint: &Endpoint, namespace: &str) -> Result<Client, Error> {
        // Whether a class chose TLS settings at the operator's own address is not known any more.
        self.client_of(endpoint, Some(namespace).filter(|_| endpoint.guarded), false).await
    }

    /// The client of an endpoint of which a class of this Kubernetes namespace chose something; an error when there are too
    /// many of those.
    pub async fn chosen(&self, endpoint: &Endpoint, namespace: &str) -> Result<Client, Error> {
        self.client_of(endpoint, Some(namespace), true).await
    }

    async fn client_of(&self, endpoint: &Endpoint, chosen_by: Option<&str>, is_bounded: bool) -> Result<Client, Error> {
        let bounded_by = chosen_by.filter(|_| is_bounded);
        let known = || self.lock().get(endpoint).map(|known| known.client.clone());
        if let Some(client) = known() {
            return if client.transport().is_doubted() { files::settled(client).await } else { Ok(client) };
        }
        let turn = match chosen_by {
            Some(_) => Arc::clone(&self.making).acquire_owned().await.ok(),
            None => None,
        };
        // Another had its turn before.
        if let Some(client) = known() {
            return Ok(client);
        }
        bounded_by.map_or(Ok(()), |namespace| admit(&mut self.lock(), endpoint, namespace))?;
        // TLS files are read, from a place that a class may have chosen: nobody else waits for it.
        let (wanted, config, metrics) = (endpoint.clone(), Arc::clone(&self.config), Arc::clone(&self.metrics));
        let room = Arc::clone(&self.rooms[usize::from(endpoint.guarded)]);
        let lookups = self.lookups(chosen_by.filter(|_| endpoint.guarded));
        let making = tokio::task::spawn_blocking(move || {
            let _turn = turn;
            Client::new(&wanted, &config, &metrics, room, lookups)
        });
        let made = making.await;
        let client = made.unwrap_or_else(|_| Err(Error::new(Cause::Internal, "making a client panicked")))?;
        if endpoint.tls.skip_verify {
            tracing::warn!(endpoint = %endpoint.address, "TLS certificates are not verified: whoever sits between reads every secret");
        }
        let mut clients = self.lock();
        bounded_by.map_or(Ok(()), |namespace| admit(&mut clients, endpoint, namespace))?;
        // Another may have been first; everyone uses one pool.
        let known = Known { client, chosen_by: chosen_by.map(str::to_owned) };
        Ok(clients.entry(endpoint.clone()).or_insert(known).client.clone())
    }

    /// Places for lookups: of a server of the operator's, or of those that classes of a Kubernetes namespace chose together.
    fn lookups(&self, chosen_by: Option<&str>) -> Lookups {
        let Some(namespace) = chosen_by else { return Lookups::of_server() };
        let mut all = self.lookups.lock().unwrap_or_else(PoisonError::into_inner);
        if all.len() >= MAX_CHOSEN {
            all.clear();
        }
        all.entry(namespace.to_owned()).or_insert_with(Lookups::of_namespace).clone()
    }

    /// Why an endpoint cannot be asked at present, if that is known.
    #[must_use]
    pub fn outage(&self, endpoint: &Endpoint) -> Option<Arc<Outage>> {
        self.lock().get(endpoint).and_then(|known| known.client.outage())
    }

    /// The servers that cannot be asked at present, each with its address and why.
    #[must_use]
    pub fn outages(&self) -> Vec<(String, Arc<Outage>)> {
        let clients = self.lock();
        let down = clients
            .values()
            .map(|known| &known.client)
            .filter_map(|client| Some((client.address().to_owned(), client.known_outage()?)));
        down.collect()
    }

    /// When a server last answered, unless what was heard since is that it cannot be asked.
    fn answered(&self, endpoint: &Endpoint) -> Option<Instant> {
        match self.lock().get(endpoint)?.client.heard() {
            (Heard::Vault | Heard::Other, at) => at,
            (Heard::Nothing | Heard::Fault(_), _) => None,
        }
    }

    /// What was last heard of a server, unless it is known that it cannot be asked; nothing of one that nobody has used.
    pub fn heard(&self, endpoint: &Endpoint) -> Result<Heard, Arc<Outage>> {
        self.lock().get(endpoint).map_or(Ok(Heard::Nothing), |known| known.client.stands())
    }

    /// The same of every server that anybody has used, each with its address.
    #[must_use]
    pub fn standings(&self) -> Vec<(String, Result<Heard, Arc<Outage>>)> {
        let clients = self.lock();
        clients.values().map(|Known { client, .. }| (client.address().to_owned(), client.stands())).collect()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Clients> {
        self.clients.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether there is room for the client of an endpoint of which a class chose something, or it is known. Others of those make room
/// that have no session.
fn admit(clients: &mut Clients, endpoint: &Endpoint, namespace: &str) -> Result<(), Error> {
    if clients.contains_key(endpoint) {
        return Ok(());
    }
    let full = |clients: &Clients| {
        let chosen = clients.values().filter_map(|known| known.chosen_by.as_deref());
        let (mut all, mut own) = (0, 0);
        chosen.for_each(|by| (all, own) = (all + 1, own + usize::from(by == namespace)));
        if own >= MAX_CHOSEN / 2 {
            let of = format!("by classes of namespace {namespace}, half of what it takes");
            Some(format!("{own} different Vault endpoints are chosen on this node {of}"))
        } else {
            (all >= MAX_CHOSEN).then(|| format!("{all} different Vault endpoints are chosen by classes on this node"))
        }
    };
    if full(clients).is_some() {
        clients.retain(|_, known| known.chosen_by.is_none() || known.client.is_shared());
    }
    full(clients).map_or(Ok(()), |full| {
        Err(Error::new(Cause::Overloaded, full)
            .advice("let classes share an address and TLS settings; the mount is tried again by itself"))
    })
}
