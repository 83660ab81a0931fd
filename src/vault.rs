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

/// A server and its connection settings. Classes with equal settings share a connection pool.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Endpoint {
    /// The server's address.
    pub address: Address,
    /// The TLS settings.
    pub tls: Tls,
    /// Set when a tenant chose the address: the name must not resolve to this node (loopback, link-local).
    pub deny_local_addresses: bool,
}

/// Limits, timeouts and retries that apply to every endpoint.
#[derive(Clone, Debug)]
pub struct VaultConfig {
    /// Concurrency limit of one endpoint, in requests in flight.
    pub max_in_flight: usize,
    /// Concurrency limit of mutating requests (database credentials, certificates, writes) to one mount path.
    pub max_mutating: usize,
    /// Timeout for name resolution, TCP, proxy and TLS together.
    pub connect_timeout: Duration,
    /// Timeout of one request, independent of the caller's deadline.
    pub request_timeout: Option<Duration>,
    /// Maximum retries of a request after transient failures.
    pub max_retries: u32,
    /// Maximum size of an accepted response, in bytes.
    pub max_response_bytes: usize,
    /// Hosts (`host` or `host:port`) to which a redirect may carry token and body.
    pub allowed_redirect_hosts: Vec<String>,
    /// Enables following redirects.
    pub redirects_enabled: bool,
    /// The proxies to connect through.
    pub proxies: Proxies,
    /// The oldest accepted TLS version.
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

/// Maximum number of cached tenant endpoints: those with a setting that a class chose. One Kubernetes namespace may have at
/// most half of them.
const MAX_TENANT_ENDPOINTS: usize = 256;

/// Concurrency limit of building clients for tenant endpoints.
const MAX_CONCURRENT_CLIENT_BUILDS: usize = 4;

/// All Vault servers that this node talks to.
pub struct Vault {
    config: Arc<VaultConfig>,
    metrics: Arc<Metrics>,
    /// Memory budgets for responses: of the operator's servers first, then of servers that classes chose.
    budgets: [Arc<MemoryBudget>; 2],
    /// Never held across an await.
    clients: Mutex<Clients>,
    /// Permits for reading TLS files that classes chose: a file system may hang, and threads are few.
    client_builds: Arc<Semaphore>,
    /// DNS limiters for names that classes chose, by Kubernetes namespace. Never held across an await.
    dns_limiters: Mutex<HashMap<String, DnsLimiter>>,
    /// TLS settings with a file read in progress. Never held across an await.
    tls_reads_in_progress: Arc<Mutex<HashSet<Tls>>>,
}

type Clients = HashMap<Endpoint, ClientEntry>;

/// A client, and the Kubernetes namespace of the first class that chose a setting of its endpoint.
struct ClientEntry {
    client: Client,
    tenant_namespace: Option<String>,
}

impl Vault {
    /// Creates a registry without connections: the first request connects. Counts requests in `metrics`.
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

    /// Returns the client of an endpoint that the operator configured; builds it at its first use.
    pub async fn operator_client(&self, endpoint: &Endpoint) -> Result<Client, Error> {
        self.get_or_create_client(endpoint, None, false).await
    }

    /// Returns the client of an existing session in this Kubernetes namespace. The endpoint limit does not apply.
    pub async fn client_for_session(&self, endpoint: &Endpoint, namespace: &str) -> Result<Client, Error> {
        // A session does not record whether a class chose TLS settings at the operator's own address.
        self.get_or_create_client(endpoint, Some(namespace).filter(|_| endpoint.deny_local_addresses), false).await
    }

    /// Returns the client of an endpoint with a setting that a class of this Kubernetes namespace chose. Fails when the number
    /// of such endpoints reaches its limit.
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
        // Another caller may have built it while this one waited for the permit.
        if let Some(client) = cached_client() {
            return Ok(client);
        }
        limited_namespace.map_or(Ok(()), |namespace| evict_or_reject(&mut self.lock(), endpoint, namespace))?;
        // The build reads TLS files, from a path that a class may have chosen. A blocking thread keeps other requests running.
        let (owned_endpoint, config, metrics) = (endpoint.clone(), Arc::clone(&self.config), Arc::clone(&self.metrics));
        let budget = Arc::clone(&self.budgets[usize::from(endpoint.deny_local_addresses)]);
        let dns_limiter = self.dns_limiter(tenant_namespace.filter(|_| endpoint.deny_local_addresses));
        let build = tokio::task::spawn_blocking(move || {
            let _permit = permit;
            Client::new(&owned_endpoint, &config, &metrics, budget, dns_limiter)
        });
        let outcome = build.await;
        let client = outcome.unwrap_or_else(|_| Err(Error::new(Cause::Internal, "building a client panicked")))?;
        if endpoint.tls.skip_verify {
            tracing::warn!(endpoint = %endpoint.address, "TLS certificates are not verified: a man in the middle can read every secret");
        }
        let mut clients = self.lock();
        limited_namespace.map_or(Ok(()), |namespace| evict_or_reject(&mut clients, endpoint, namespace))?;
        // Another caller may have inserted a client first. All callers share that one connection pool.
        let entry = ClientEntry { client, tenant_namespace: tenant_namespace.map(str::to_owned) };
        Ok(clients.entry(endpoint.clone()).or_insert(entry).client.clone())
    }

    /// Returns the DNS limiter: one per server of the operator, or one shared by all servers that classes of a Kubernetes
    /// namespace chose.
    fn dns_limiter(&self, tenant_namespace: Option<&str>) -> DnsLimiter {
        let Some(namespace) = tenant_namespace else { return DnsLimiter::for_server() };
        let mut limiters = self.dns_limiters.lock().unwrap_or_else(PoisonError::into_inner);
        if limiters.len() >= MAX_TENANT_ENDPOINTS {
            limiters.clear();
        }
        limiters.entry(namespace.to_owned()).or_insert_with(DnsLimiter::for_namespace).clone()
    }

    /// Returns the current outage of an endpoint, if one is known.
    #[must_use]
    pub fn outage(&self, endpoint: &Endpoint) -> Option<Arc<Outage>> {
        self.lock().get(endpoint).and_then(|entry| entry.client.outage())
    }

    /// Returns the current outages, each with the server's address.
    #[must_use]
    pub fn outages(&self) -> Vec<(String, Arc<Outage>)> {
        let clients = self.lock();
        let outages = clients
            .values()
            .map(|entry| &entry.client)
            .filter_map(|client| Some((client.address().to_owned(), client.peek_outage()?)));
        outages.collect()
    }

    /// Returns the time of a server's last response, unless a later contact failed.
    fn last_response_at(&self, endpoint: &Endpoint) -> Option<Instant> {
        match self.lock().get(endpoint)?.client.last_contact() {
            (LastContact::Vault | LastContact::NotVault, at) => at,
            (LastContact::Unknown | LastContact::Failed(_), _) => None,
        }
    }

    /// Returns the last contact with a server, or its current outage as the error. An unused server is
    /// [`LastContact::Unknown`].
    pub fn endpoint_health(&self, endpoint: &Endpoint) -> Result<LastContact, Arc<Outage>> {
        self.lock().get(endpoint).map_or(Ok(LastContact::Unknown), |entry| entry.client.endpoint_health())
    }

    /// Returns the health of every used server, each with its address.
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

/// Accepts a tenant endpoint that is cached or fits into the limits. Evicts tenant endpoints without a session to make room,
/// and fails when the limit is still exceeded.
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
            let scope = format!("by classes of namespace {namespace}, half of the node's limit");
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
