//! HTTP requests to one endpoint, with concurrency limits, deadlines, retries, redirects and bounded responses.

mod http_response;
mod redirect;

use std::{
    pin::pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, Method, Request, StatusCode, Uri, header};
use http_body_util::Full;
use hyper_util::{
    client::legacy::{Client as Http, connect::capture_connection},
    rt::{TokioExecutor, TokioTimer},
};
use jiff::Timestamp;
use tokio::time::{Instant, timeout_at};

use super::{
    Endpoint, VaultConfig,
    concurrency::{ConcurrencyLimits, Permit, RequestClass},
    connect::{
        ConnectError, ConnectOptions, Connector, DnsLimiter, HandshakeError, LoadedTls, Proxies, find_connect_error,
        innermost_message,
    },
    consistency::SeenIndex,
    error::RequestError,
    memory_budget::{MemoryBudget, Reservation},
    operation::classify_operation,
    tls_files::TlsFileStatus,
};
use crate::{
    clock::with_jitter,
    error::{Cause, Error},
    observe::metrics::{Metrics, VaultOperation},
    secret::SecretBytes,
    tls::{self, Ca, Digest, Tls, TlsError, TlsReload, TlsReloader},
};

use http_response::HttpResponse;
pub(in crate::vault) use http_response::ResponseBody;
use redirect::redirect_target;

/// Options of one request.
#[derive(Clone, Copy)]
pub(super) struct CallOptions<'a> {
    /// True if the request may create something at Vault, so it must not be retried.
    pub(super) mutating: bool,
    /// Time at which the caller gives up.
    pub(super) deadline: Instant,
    /// Connections of a health probe. A probe is sent once, without retries and without waiting for a permit.
    pub(super) probe: Option<&'a Pool>,
    /// The token's memory budget, for a response as large as the configuration allows. Without it, the response must be
    /// small. Only secrets have a budget.
    pub(super) budget: Option<&'a Arc<MemoryBudget>>,
}

impl CallOptions<'_> {
    /// Returns options for a request that may be retried until `deadline`.
    pub(super) fn with_deadline(deadline: Instant) -> Self {
        Self { mutating: false, deadline, probe: None, budget: None }
    }
}

/// HTTP connection pool of one endpoint.
#[derive(Clone)]
pub(super) struct Pool {
    client: Http<Connector, Full<Bytes>>,
    /// TLS settings of every connection in the pool. No connection was made with older settings.
    loaded_tls: Arc<LoadedTls>,
}

/// HTTP transport to one endpoint.
pub(super) struct Transport {
    origin: String,
    prefix: String,
    /// Never held across an await.
    pool: Mutex<Pool>,
    connector: Connector,
    tls: Tls,
    /// Locked while TLS files are read, so only threads that may block take this lock.
    tls_reloader: Mutex<TlsReloader>,
    /// True if the TLS files were invalid when they were last read.
    has_invalid_tls_files: AtomicBool,
    /// True if a TLS connection failed since the files were last read.
    is_tls_suspect: AtomicBool,
    concurrency_limits: ConcurrencyLimits,
    /// Memory budget shared by all servers of the same scope (operator or tenants).
    budget: Arc<MemoryBudget>,
    config: Arc<VaultConfig>,
    metrics: Arc<Metrics>,
    /// The last known index of the cluster's replication state.
    pub(super) seen_index: SeenIndex,
}

/// Maximum wait for the response to a mutating request, even after the caller has given up. The next attempt uses the response.
const MUTATING_RESPONSE_TIMEOUT: Duration = Duration::from_secs(60);
/// Maximum size in bytes of a response to a login, a renewal or a token lookup, and of an error response. It limits the memory
/// that a faulty or hostile server can use.
const MAX_SMALL_RESPONSE_BYTES: usize = 1 << 20;
/// First backoff before a retry. It doubles with each attempt.
const INITIAL_BACKOFF: Duration = Duration::from_millis(100);
/// Maximum backoff before jitter. A `Retry-After` of the server is added to it.
const MAX_BACKOFF: Duration = Duration::from_secs(2);
/// Time after which an idle connection is closed. It is longer than the gap between the polls of two pods, and shorter than the
/// idle timeout of common load balancers.
const POOL_IDLE_TIMEOUT: Duration = Duration::from_secs(60);

/// Returns the TLS settings that connections to an endpoint need.
///
/// If no connection uses TLS, the system's many CAs are not loaded. Configured files are still loaded, so that errors in them
/// are reported.
fn effective_tls(endpoint: &Endpoint, proxies: &Proxies) -> Tls {
    let Endpoint { address, tls, .. } = endpoint;
    let origin = address.origin();
    let is_proxied = origin.parse().is_ok_and(|origin| proxies.intercept(&origin).is_some());
    let ca = if tls.ca == Ca::System && origin.starts_with("http:") && !is_proxied {
        Ca::Pem(String::new())
    } else {
        tls.ca.clone()
    };
    Tls { ca, ..tls.clone() }
}

impl Transport {
    pub(super) fn new(
        endpoint: &Endpoint,
        config: &Arc<VaultConfig>,
        metrics: &Arc<Metrics>,
        budget: Arc<MemoryBudget>,
        dns_limiter: DnsLimiter,
    ) -> Result<Self, Error> {
        let options = ConnectOptions {
            unix_socket: endpoint.address.unix_socket().map(Into::into),
            proxies: config.proxies.clone(),
            deny_local_addresses: endpoint.deny_local_addresses,
            timeout: config.connect_timeout,
            offer_http2: true,
            min_tls_version: config.min_tls_version,
            dns_limiter,
        };
        let tls = effective_tls(endpoint, &config.proxies);
        // Compute the digest before loading the files, so that a change in between is detected.
        let tls_reloader = Mutex::new(TlsReloader::new(tls::compute_digest(&tls, [])));
        let connector =
            Connector::new(&tls, options).map_err(|e| tls_setup_error(&e, &endpoint.address.to_string()))?;
        Ok(Self {
            origin: endpoint.address.origin(),
            prefix: format!("{}/v1", endpoint.address.prefix()),
            pool: Mutex::new(build_pool(connector.clone(), config.max_in_flight)),
            connector,
            tls,
            tls_reloader,
            has_invalid_tls_files: AtomicBool::new(false),
            is_tls_suspect: AtomicBool::new(false),
            concurrency_limits: ConcurrencyLimits::new(config.max_in_flight, config.max_mutating),
            budget,
            config: Arc::clone(config),
            metrics: Arc::clone(metrics),
            seen_index: SeenIndex::default(),
        })
    }

    /// Returns the expiry of the server's certificate.
    pub(super) async fn fetch_certificate_expiry(&self) -> Option<Timestamp> {
        self.connector.fetch_certificate_expiry(&parse_uri(&self.origin).ok()?).await
    }

    /// Returns a new pool with a connect timeout of at most `connect_timeout`, so that a probe never uses a dead connection.
    pub(super) fn dedicated_pool(&self, connect_timeout: Duration) -> Pool {
        let connect_timeout = connect_timeout.min(self.config.connect_timeout);
        build_pool(self.connector.with_timeout(connect_timeout), self.config.max_in_flight)
    }

    /// Replaces the pool for all further requests, because connections of the old pool may be dead without notice.
    /// Drops `pool` instead if the TLS files have been reloaded since it was made.
    pub(super) fn replace_pool(&self, pool: Pool) {
        let mut current = self.lock_pool();
        if Arc::ptr_eq(&pool.loaded_tls, &self.connector.loaded_tls()) {
            *current = pool;
        }
    }

    /// Reloads the TLS files for new connections, if the files are valid. `digest` is the digest of their contents.
    ///
    /// Requests in flight finish on their connections. Idle connections are dropped. Blocks.
    pub(super) fn reload_tls(&self, digest: Digest) -> TlsReload<(), TlsError> {
        let mut tls_reloader = self.tls_reloader.lock().unwrap_or_else(PoisonError::into_inner);
        let reload = tls_reloader
            .reload(digest, Instant::now(), || self.connector.load_new_tls(&self.tls))
            .map_settings(|loaded_tls| {
                self.connector.replace_tls(loaded_tls);
                self.replace_pool(build_pool(self.connector.clone(), self.config.max_in_flight));
            });
        self.has_invalid_tls_files.store(matches!(reload, TlsReload::Invalid { .. }), Relaxed);
        reload
    }

    /// Returns the TLS settings that connections need.
    pub(super) fn tls(&self) -> &Tls {
        &self.tls
    }

    /// Returns the state of the TLS files in use, which may be older than the files on disk.
    pub(super) fn tls_file_status(&self, now: Timestamp) -> TlsFileStatus {
        TlsFileStatus {
            expiries: self.connector.loaded_tls().certificates.expiries(now),
            is_invalid: self.has_invalid_tls_files.load(Relaxed),
        }
    }

    /// Marks the TLS files as suspect: a connection failed, perhaps because the files have changed.
    pub(super) fn mark_tls_suspect(&self) {
        self.is_tls_suspect.store(true, Relaxed);
    }

    /// Returns true if the TLS files must be reloaded before the next use.
    pub(super) fn is_tls_suspect(&self) -> bool {
        self.is_tls_suspect.load(Relaxed)
    }

    /// Reloads suspect TLS files. Invalid files are an error unless the loaded ones have worked before. Blocks.
    pub(super) fn reload_suspect_tls(&self, address: &str) -> Result<TlsReload<(), TlsError>, Error> {
        self.is_tls_suspect.store(false, Relaxed);
        match self.reload_tls(tls::compute_digest(&self.tls, [])) {
            TlsReload::Invalid { error, .. } if !self.connector.loaded_tls().has_connected() => {
                self.mark_tls_suspect();
                Err(tls_setup_error(&error, address))
            }
            reload => Ok(reload),
        }
    }

    fn lock_pool(&self) -> std::sync::MutexGuard<'_, Pool> {
        self.pool.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the origin of all request URLs.
    pub(super) fn origin(&self) -> &str {
        &self.origin
    }

    /// Fails if the token's or the server's memory budget is exhausted.
    pub(super) fn ensure_budget_available(&self, token_budget: &MemoryBudget) -> Result<(), RequestError> {
        token_budget.ensure_available()?;
        Ok(self.budget.ensure_available()?)
    }

    /// Sends a request, with retries, and returns the body of a successful response. The request's path is relative to `/v1`.
    pub(super) async fn send(
        &self,
        request: Request<Vec<u8>>,
        options: CallOptions<'_>,
    ) -> Result<ResponseBody, RequestError> {
        let (parts, body) = request.into_parts();
        let body = SecretBytes::from(body).into_bytes();
        let path = parts.uri.path_and_query().map_or("/", |p| p.as_str());
        let mut uri = parse_uri(&format!("{}{}{path}", self.origin, self.prefix))?;
        let operation = classify_operation(&parts.method, parts.uri.path());
        let (mut attempt, mut was_redirected, mut is_index_cleared) = (0, false, false);
        let mut last_connect_error = None;
        loop {
            let outcome = self.send_once(&parts.method, &uri, &parts.headers, body.clone(), operation, options).await;
            let earlier_connect_error = last_connect_error.take();
            let failure = match outcome {
                Ok(HttpResponse { status, body: response_body, .. }) if status.is_success() => {
                    return Ok(response_body);
                }
                Ok(response) if response.status.is_redirection() => {
                    match redirect_target(&self.config, &self.origin, &response, &uri, was_redirected) {
                        Ok(location) => {
                            uri = location;
                            was_redirected = true;
                            continue;
                        }
                        Err(failure) => {
                            if is_from_leaderless_standby(&failure) {
                                response.avoid_connection();
                            }
                            failure
                        }
                    }
                }
                // Vault rejects the index before it acts on the request, so a retry is safe.
                Ok(response)
                    if !is_index_cleared
                        && self.seen_index.clear_if_rejected(response.status.as_u16(), &response.body.bytes) =>
                {
                    is_index_cleared = true;
                    continue;
                }
                Ok(HttpResponse { status: StatusCode::PROXY_AUTHENTICATION_REQUIRED, .. })
                    if let Some(error) = self.connector.proxy_credentials_error(&uri) =>
                {
                    RequestError::Connect(Box::new(error))
                }
                Ok(response) => {
                    let (status, body) = (response.status.as_u16(), &response.body.bytes);
                    let mut failure = RequestError::from_response(status, body, response.retry_after());
                    if is_from_leaderless_standby(&failure) {
                        response.avoid_connection();
                    }
                    if let RequestError::ErrorResponse(error_response) = &mut failure {
                        error_response.server_time = response.date();
                    }
                    if options.mutating { failure.for_mutating() } else { failure }
                }
                Err(failure) => failure,
            };
            let failure = match (failure, earlier_connect_error) {
                // The earlier connect error is the reason why the deadline was exceeded.
                (RequestError::DeadlineExceeded { sent: false, .. }, Some(error)) => RequestError::Connect(error),
                (RequestError::DeadlineExceeded { during, sent: true }, Some(error)) => {
                    RequestError::DeadlineExceeded {
                        during: format!("{during} (an earlier attempt could not connect: {error})"),
                        sent: true,
                    }
                }
                (failure, _) => failure,
            };
            let Some(delay) = self.retry_delay(&failure, attempt, options) else { return Err(failure) };
            tracing::debug!(retry_in = ?delay, attempt, "retrying Vault request");
            tokio::time::sleep(delay).await;
            attempt += 1;
            last_connect_error = if let RequestError::Connect(error) = failure { Some(error) } else { None };
        }
    }

    /// Sends a request once and returns the response or the failure.
    async fn send_once(
        &self,
        method: &Method,
        uri: &Uri,
        headers: &HeaderMap,
        body: Bytes,
        operation: VaultOperation,
        options: CallOptions<'_>,
    ) -> Result<HttpResponse, RequestError> {
        let class = match operation {
            VaultOperation::Login => RequestClass::Login,
            _ if options.mutating => RequestClass::Mutating,
            _ => RequestClass::Plain,
        };
        let mut permit =
            if options.probe.is_some() { None } else { Some(self.acquire_permit(class, options.deadline).await?) };
        let in_flight = self.metrics.start_vault_request(operation);
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = method.clone();
        *request.uri_mut() = uri.clone();
        *request.headers_mut() = headers.clone();
        if let Some(authorization) = self.connector.proxy_authorization(uri) {
            request.headers_mut().insert(header::PROXY_AUTHORIZATION, authorization);
        }
        self.seen_index.add_headers(request.headers_mut());
        let connection = capture_connection(&mut request);

        let sent_at = Instant::now();
        let response_deadline =
            if options.mutating { options.deadline.max(sent_at + MUTATING_RESPONSE_TIMEOUT) } else { options.deadline };
        let request_timeout = self.config.request_timeout.filter(|_| options.probe.is_none());
        let response_deadline =
            request_timeout.map_or(response_deadline, |timeout| response_deadline.min(sent_at + timeout));
        let pool = options.probe.cloned().unwrap_or_else(|| self.lock_pool().clone());
        let response_future = async {
            let response = pool.client.request(request).await.map_err(|e| map_hyper_error(&e, options.mutating))?;
            let (parts, body) = response.into_parts();
            if parts.status.is_success() {
                self.seen_index.observe(&parts.headers);
            }
            let allows_large = options.budget.is_some() && parts.status.is_success();
            let max_bytes = if allows_large {
                self.config.max_response_bytes
            } else {
                self.config.max_response_bytes.min(MAX_SMALL_RESPONSE_BYTES)
            };
            let response_body =
                ResponseBody::read(body, max_bytes, Reservation::new(options.budget, &self.budget), options.mutating)
                    .await?;
            Ok(HttpResponse {
                status: parts.status,
                headers: parts.headers,
                body: response_body,
                connection: connection.clone(),
            })
        };
        let mut response_future = pin!(response_future);
        let mut outcome = timeout_at(response_deadline.min(options.deadline), &mut response_future).await;
        if outcome.is_err() && response_deadline > options.deadline {
            // The caller has given up, so the request must not take a permit from others.
            permit = permit.map(|permit| self.concurrency_limits.detach(permit));
            outcome = timeout_at(response_deadline, response_future).await;
        }
        drop(permit);
        if let Ok(Ok(response)) = &outcome {
            in_flight.finish(response.status.as_u16());
        }
        outcome.unwrap_or_else(|_| {
            // The caller's deadline is not a failure of the server.
            Err(if options.mutating {
                RequestError::ConnectionLost {
                    detail: format!("no response within {:.0?}", sent_at.elapsed()),
                    mutating: true,
                }
            } else if response_deadline < options.deadline {
                RequestError::Timeout(response_deadline - sent_at)
            } else if connection.connection_metadata().is_none() {
                RequestError::deadline_before_sending("connecting to Vault")
            } else {
                RequestError::DeadlineExceeded { during: "waiting for Vault's response".to_owned(), sent: true }
            })
        })
    }

    /// Waits for a concurrency permit until `deadline`.
    async fn acquire_permit(&self, class: RequestClass, deadline: Instant) -> Result<Permit<'_>, RequestError> {
        let _queued = self.metrics.start_vault_queue_wait();
        match timeout_at(deadline, self.concurrency_limits.acquire(class)).await {
            // Requests ahead in the queue may have been cancelled at the same deadline.
            Ok(Some(permit)) if Instant::now() < deadline => Ok(permit),
            _ => Err(RequestError::deadline_before_sending("waiting for a free connection to Vault")),
        }
    }

    /// Returns the delay before a retry, if a retry may help, is safe, and starts before the caller's deadline.
    fn retry_delay(&self, failure: &RequestError, attempt: u32, options: CallOptions<'_>) -> Option<Duration> {
        if options.probe.is_some() {
            return None;
        }
        let retry_after = match failure {
            RequestError::ErrorResponse(response) if response.is_transient(options.mutating) => response.retry_after,
            RequestError::Connect(error) if is_transient_connect_error(error) => None,
            RequestError::ConnectionLost { mutating: false, .. } | RequestError::Timeout(_) => None,
            // The leader has just gone. It may have received the request already, so a mutating one is not retried.
            RequestError::RedirectNotFollowed { is_other_server: true, .. } if !options.mutating => None,
            _ => return None,
        };
        let backoff = with_jitter((INITIAL_BACKOFF * 2u32.saturating_pow(attempt)).min(MAX_BACKOFF));
        let delay = retry_after.map_or(backoff, |retry_after| retry_after + backoff);
        (attempt < self.config.max_retries && Instant::now() + delay < options.deadline).then_some(delay)
    }
}

fn parse_uri(text: &str) -> Result<Uri, RequestError> {
    text.parse().map_err(|_| RequestError::InvalidRequest("its path does not form a valid URL"))
}

/// Returns true if the failure came from a standby that does not know or cannot reach the active node. Other nodes of its
/// cluster may be able to.
fn is_from_leaderless_standby(failure: &RequestError) -> bool {
    match failure {
        RequestError::ErrorResponse(refusal) => refusal.has_no_leader(),
        RequestError::RedirectNotFollowed { is_other_server: elsewhere, .. } => *elsewhere,
        _ => false,
    }
}

/// Returns the error for TLS settings that cannot be used.
fn tls_setup_error(error: &TlsError, address: &str) -> Error {
    Error::new(Cause::TlsSetup, format!("TLS settings for {address} cannot be used: {error}"))
        .with_server_message(std::error::Error::source(error).map(ToString::to_string).unwrap_or_default())
        .with_fix("correct the CA, certificate or key named here")
}

fn build_pool(connector: Connector, max_idle: usize) -> Pool {
    let loaded_tls = connector.loaded_tls();
    let client = Http::builder(TokioExecutor::new())
        .pool_timer(TokioTimer::new())
        .pool_idle_timeout(POOL_IDLE_TIMEOUT)
        .pool_max_idle_per_host(max_idle)
        .build(connector);
    Pool { client, loaded_tls }
}

/// Returns true if the connect error is transient: a later attempt may succeed. Configuration errors are permanent.
///
/// A load balancer without a backend accepts connections and closes them during the handshake, so that error is transient.
pub(super) fn is_transient_connect_error(error: &ConnectError) -> bool {
    use ConnectError as C;
    matches!(
        error,
        C::ConnectionRefused { .. }
            | C::TimedOut { .. }
            | C::NameNotFound { .. }
            | C::UnixSocket { .. }
            | C::Tls { error: HandshakeError::ConnectionClosed, .. }
            | C::Other { .. }
    )
}

fn map_hyper_error(error: &hyper_util::client::legacy::Error, mutating: bool) -> RequestError {
    match find_connect_error(error) {
        Some(cause) => RequestError::Connect(Box::new(cause.clone())),
        None => RequestError::ConnectionLost { detail: innermost_message(error), mutating },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn effective_tls_loads_system_ca_only_for_tls() {
        let file = Ca::File("/ca.pem".into());
        let no_ca = Ca::Pem(String::new());
        let proxied = || Proxies::from_vars(|name| (name == "HTTP_PROXY").then(|| "https://proxy.example".to_owned()));
        for (address, ca, proxies, expected_ca) in [
            ("https://vault.example", Ca::System, Proxies::none(), &Ca::System),
            ("http://vault.example", Ca::System, Proxies::none(), &no_ca),
            ("unix:///run/vault.sock", Ca::System, Proxies::none(), &no_ca),
            ("http://vault.example", file.clone(), Proxies::none(), &file),
            ("http://vault.example", Ca::System, proxied().unwrap(), &Ca::System),
        ] {
            let tls = Tls { ca, ..Tls::default() };
            let endpoint =
                Endpoint { address: crate::vault::Address::parse(address).unwrap(), tls, deny_local_addresses: false };
            assert_eq!(&effective_tls(&endpoint, &proxies).ca, expected_ca, "{address}");
        }
    }
}
