//! Vault over HTTP; the only user of vaultrs and rustify.
//!
//! [`Vault`] keeps one [`Client`] per [`Endpoint`]: one connection pool, one set of limits, shared by every session.

pub mod address;
pub mod auth_method;
pub mod breaker;
pub mod client;
mod concurrency;
pub mod connect;
mod consistency;
pub mod engine;
pub mod error;
pub mod idle_prober;
mod memory_budget;
mod operation;
mod path_suggestions;
mod priority_semaphore;
pub mod request;
pub mod response;
mod tls_files;
mod transport;

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use serde::{Deserialize, Serialize};
use tokio::{sync::Semaphore, time::Instant};

use crate::{
    error::{Cause, Error},
    observe::metrics::Metrics,
    tls::{MinTlsVersion, Tls},
};
pub use address::{Address, SENSITIVE_URL_CHARS};
use breaker::{LastContact, Outage};
pub use client::Client;
use connect::DnsLimiter;
pub use connect::Proxies;
use memory_budget::{BudgetScope, MemoryBudget};
pub use tls_files::TlsFileStatus;

/// A server and how to reach it; classes that agree in all of it share a connection pool.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Endpoint {
    /// Where it is.
    pub address: Address,
    /// How to speak TLS to it.
    pub tls: Tls,
    /// Whether its name must not resolve to this node (loopback, link-local): a tenant chose it.
    pub deny_local_addresses: bool,
}

/// Limits and habits of every endpoint.
#[derive(Clone, Debug)]
pub struct VaultConfig {
    /// Requests in flight to one endpoint.
    pub max_in_flight: usize,
    /// Requests in flight to one mount path that create something (database credentials, certificates, writes).
    pub max_mutating: usize,
    /// Name resolution, TCP, proxy and TLS together.
    pub connect_timeout: Duration,
    /// Upper bound of one request, whatever its caller's deadline.
    pub request_timeout: Option<Duration>,
    /// How often a request is sent again that failed for a passing reason.
    pub max_retries: u32,
    /// The largest answer accepted, in bytes.
    pub max_response_bytes: usize,
    /// `host` or `host:port` to which a redirect may take token and body.
    pub allowed_redirect_hosts: Vec<String>,
    /// Whether redirects are followed at all.
    pub redirects_enabled: bool,
    /// Proxies on the way.
    pub proxies: Proxies,
    /// The oldest version of TLS that is spoken.
    pub min_tls_version: MinTlsVersion,
}

impl Default for VaultConfig {
    fn default() -> Self {
        Self {
            max_in_flight: 16,
            max_mutating: 4,
            connect_timeout: Duration::from_secs(5),
            request_timeout: None,
            max_retries: 4,
            max_response_bytes: 8 << 20,
            allowed_redirect_hosts: Vec::new(),
            redirects_enabled: true,
            proxies: Proxies::none(),
            min_tls_version: MinTlsVersion::default(),
        }
    }
}

/// Endpoints kept at most of which classes chose something. A Kubernetes namespace has half of them at most.
const MAX_TENANT_ENDPOINTS: usize = 256;

/// Clients that are made at once of endpoints of which classes chose something.
const MAX_CONCURRENT_CLIENT_BUILDS: usize = 4;

/// Every Vault this node talks to.
pub struct Vault {
    config: Arc<VaultConfig>,
    metrics: Arc<Metrics>,
    /// Room for the answers of the operator's servers, and of those that classes chose.
    budgets: [Arc<MemoryBudget>; 2],
    /// Never held across an await.
    clients: Mutex<Clients>,
    /// Turns for reading the files that classes chose: a file system may hang, and threads are few.
    client_builds: Arc<Semaphore>,
    /// Those for lookups of names that classes chose, by their Kubernetes namespaces. Never held across an await.
    dns_limiters: Mutex<HashMap<String, DnsLimiter>>,
    /// The settings whose files are being read. Never held across an await.
    tls_reads_in_progress: Arc<Mutex<HashSet<Tls>>>,
}

type Clients = HashMap<Endpoint, ClientEntry>;

/// A client, and the Kubernetes namespace whose class was the first to choose something of its endpoint.
struct ClientEntry {
    client: Client,
    tenant_namespace: Option<String>,
}

impl Vault {
    /// No connection is made before the first request. Requests are counted in `metrics`.
    #[must_use]
    pub fn new(config: VaultConfig, metrics: Arc<Metrics>) -> Self {
        let budgets = [MemoryBudget::new(BudgetScope::Operator), MemoryBudget::new(BudgetScope::Tenants)];
        let client_builds = Arc::new(Semaphore::new(MAX_CONCURRENT_CLIENT_BUILDS));
        Self {
            config: Arc::new(config),
            metrics,
            budgets,
            clients: Mutex::default(),
            client_builds,
            dns_limiters: Mutex::default(),
            tls_reads_in_progress: Arc::default(),
        }
    }

    /// The client of an endpoint of the operator's, made at its first use.
    pub async fn operator_client(&self, endpoint: &Endpoint) -> Result<Client, Error> {
        self.get_or_create_client(endpoint, None, false).await
    }

    /// The client of a session of this Kubernetes namespace that there is: never refused.
    pub async fn client_for_session(&self, endpoint: &Endpoint, namespace: &str) -> Result<Client, Error> {
        // Whether a class chose TLS settings at the operator's own address is not known any more.
        self.get_or_create_client(endpoint, Some(namespace).filter(|_| endpoint.deny_local_addresses), false).await
    }

    /// The client of an endpoint of which a class of this Kubernetes namespace chose something; an error when there are too
    /// many of those.
    pub async fn tenant_client(&self, endpoint: &Endpoint, namespace: &str) -> Result<Client, Error> {
        self.get_or_create_client(endpoint, Some(namespace), true).await
    }

    async fn get_or_create_client(
        &self,
        endpoint: &Endpoint,
        tenant_namespace: Option<&str>,
        is_limited: bool,
    ) -> Result<Client, Error> {
        let limited_namespace = tenant_namespace.filter(|_| is_limited);
        let cached_client = || self.lock().get(endpoint).map(|entry| entry.client.clone());
        if let Some(client) = cached_client() {
            return if client.transport().is_tls_suspect() {
                tls_files::reload_suspect_tls(client).await
            } else {
                Ok(client)
            };
        }
        let permit = match tenant_namespace {
            Some(_) => Arc::clone(&self.client_builds).acquire_owned().await.ok(),
            None => None,
        };
        // Another had its turn before.
        if let Some(client) = cached_client() {
            return Ok(client);
        }
        limited_namespace.map_or(Ok(()), |namespace| evict_or_reject(&mut self.lock(), endpoint, namespace))?;
        // TLS files are read, from a place that a class may have chosen: nobody else waits for it.
        let (owned_endpoint, config, metrics) = (endpoint.clone(), Arc::clone(&self.config), Arc::clone(&self.metrics));
        let budget = Arc::clone(&self.budgets[usize::from(endpoint.deny_local_addresses)]);
        let dns_limiter = self.dns_limiter(tenant_namespace.filter(|_| endpoint.deny_local_addresses));
        let build = tokio::task::spawn_blocking(move || {
            let _permit = permit;
            Client::new(&owned_endpoint, &config, &metrics, budget, dns_limiter)
        });
        let built = build.await;
        let client = built.unwrap_or_else(|_| Err(Error::new(Cause::Internal, "making a client panicked")))?;
        if endpoint.tls.skip_verify {
            tracing::warn!(endpoint = %endpoint.address, "TLS certificates are not verified: whoever sits between reads every secret");
        }
        let mut clients = self.lock();
        limited_namespace.map_or(Ok(()), |namespace| evict_or_reject(&mut clients, endpoint, namespace))?;
        // Another may have been first; everyone uses one pool.
        let entry = ClientEntry { client, tenant_namespace: tenant_namespace.map(str::to_owned) };
        Ok(clients.entry(endpoint.clone()).or_insert(entry).client.clone())
    }

    /// Places for lookups: of a server of the operator's, or of those that classes of a Kubernetes namespace chose together.
    fn dns_limiter(&self, tenant_namespace: Option<&str>) -> DnsLimiter {
        let Some(namespace) = tenant_namespace else { return DnsLimiter::for_server() };
        let mut limiters = self.dns_limiters.lock().unwrap_or_else(PoisonError::into_inner);
        if limiters.len() >= MAX_TENANT_ENDPOINTS {
            limiters.clear();
        }
        limiters.entry(namespace.to_owned()).or_insert_with(DnsLimiter::for_namespace).clone()
    }

    /// Why an endpoint cannot be asked at present, if that is known.
    #[must_use]
    pub fn outage(&self, endpoint: &Endpoint) -> Option<Arc<Outage>> {
        self.lock().get(endpoint).and_then(|entry| entry.client.outage())
    }

    /// The servers that cannot be asked at present, each with its address and why.
    #[must_use]
    pub fn outages(&self) -> Vec<(String, Arc<Outage>)> {
        let clients = self.lock();
        let outages = clients
            .values()
            .map(|entry| &entry.client)
            .filter_map(|client| Some((client.address().to_owned(), client.peek_outage()?)));
        outages.collect()
    }

    /// When a server last answered, unless what was heard since is that it cannot be asked.
    fn last_response_at(&self, endpoint: &Endpoint) -> Option<Instant> {
        match self.lock().get(endpoint)?.client.last_contact() {
            (LastContact::Vault | LastContact::NotVault, at) => at,
            (LastContact::Unknown | LastContact::Failed(_), _) => None,
        }
    }

    /// What was last heard of a server, unless it is known that it cannot be asked; nothing of one that nobody has used.
    pub fn endpoint_health(&self, endpoint: &Endpoint) -> Result<LastContact, Arc<Outage>> {
        self.lock().get(endpoint).map_or(Ok(LastContact::Unknown), |entry| entry.client.endpoint_health())
    }

    /// The same of every server that anybody has used, each with its address.
    #[must_use]
    pub fn health_by_endpoint(&self) -> Vec<(String, Result<LastContact, Arc<Outage>>)> {
        let clients = self.lock();
        clients
            .values()
            .map(|ClientEntry { client, .. }| (client.address().to_owned(), client.endpoint_health()))
            .collect()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Clients> {
        self.clients.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether there is room for the client of an endpoint of which a class chose something, or it is known. Others of those make room
/// that have no session.
fn evict_or_reject(clients: &mut Clients, endpoint: &Endpoint, namespace: &str) -> Result<(), Error> {
    if clients.contains_key(endpoint) {
        return Ok(());
    }
    let limit_message = |clients: &Clients| {
        let namespaces = clients.values().filter_map(|entry| entry.tenant_namespace.as_deref());
        let (mut total, mut in_namespace) = (0, 0);
        namespaces
            .for_each(|chooser| (total, in_namespace) = (total + 1, in_namespace + usize::from(chooser == namespace)));
        if in_namespace >= MAX_TENANT_ENDPOINTS / 2 {
            let scope = format!("by classes of namespace {namespace}, half of what it takes");
            Some(format!("{in_namespace} different Vault endpoints are chosen on this node {scope}"))
        } else {
            (total >= MAX_TENANT_ENDPOINTS)
                .then(|| format!("{total} different Vault endpoints are chosen by classes on this node"))
        }
    };
    if limit_message(clients).is_some() {
        clients.retain(|_, entry| entry.tenant_namespace.is_none() || entry.client.is_in_use());
    }
    limit_message(clients).map_or(Ok(()), |message| {
        Err(Error::new(Cause::ProviderAtCapacity, message)
            .with_fix("let classes share an address and TLS settings; the mount is tried again by itself"))
    })
}
