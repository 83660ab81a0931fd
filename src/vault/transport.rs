//! One HTTP request to one endpoint: limits, deadline, retries, redirects, bounded answers.

use std::{
    pin::pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode, Uri, header};
use http_body_util::{BodyExt, Full};
use hyper_util::{
    client::legacy::{
        Client as Http,
        connect::{CaptureConnection, capture_connection},
    },
    rt::{TokioExecutor, TokioTimer},
};
use jiff::Timestamp;
use tokio::time::{Instant, timeout_at};

use super::{
    Endpoint, VaultConfig,
    concurrency::{ConcurrencyLimits, Permit, RequestClass},
    connect::{
        ConnectError, ConnectOptions, Connector, DnsLimiter, HandshakeError, LoadedTls, Proxies, find_connect_error,
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
    observe::metrics::{Metrics, Operation},
    secret::{SecretBuffer, SecretBytes},
    tls::{self, Ca, Digest, Tls, TlsError, TlsReload, TlsReloader},
};

/// How one request may be treated.
#[derive(Clone, Copy)]
pub(super) struct CallOptions<'a> {
    /// Whether it creates something at Vault, and so must not be repeated.
    pub(super) mutating: bool,
    /// When its caller gives up.
    pub(super) deadline: Instant,
    /// Where it is sent at once and only once, whatever else is under way: it asks how the server is.
    pub(super) probe: Option<&'a Pool>,
    /// Room for an answer as large as the configuration allows; that of anything but a secret is small.
    pub(super) budget: Option<&'a Arc<MemoryBudget>>,
}

impl CallOptions<'_> {
    /// One that may be repeated until `deadline`.
    pub(super) fn with_deadline(deadline: Instant) -> Self {
        Self { mutating: false, deadline, probe: None, budget: None }
    }
}

/// Connections to one endpoint.
#[derive(Clone)]
pub(super) struct Pool {
    client: Http<Connector, Full<Bytes>>,
    /// None of its connections was made with older settings.
    loaded_tls: Arc<LoadedTls>,
}

/// How one endpoint is reached.
pub(super) struct Transport {
    origin: String,
    prefix: String,
    /// Never held across an await.
    pool: Mutex<Pool>,
    connector: Connector,
    tls: Tls,
    /// Held while TLS files are read, by threads that may block.
    tls_reloader: Mutex<TlsReloader>,
    /// Whether they could not be used when they were last read.
    has_invalid_tls_files: AtomicBool,
    /// Whether a connection failed for TLS since the files were last read.
    is_tls_suspect: AtomicBool,
    concurrency_limits: ConcurrencyLimits,
    /// Room for answers of all servers of its kind.
    budget: Arc<MemoryBudget>,
    config: Arc<VaultConfig>,
    metrics: Arc<Metrics>,
    /// How far the cluster had come.
    pub(super) seen_index: SeenIndex,
}

/// How long an answer is awaited that creates something, even when its caller has given up: it is handed out next time.
const MUTATING_RESPONSE_TIMEOUT: Duration = Duration::from_secs(60);
/// The largest answer to a login, a renewal or a question about a token, and the largest refusal, in bytes: a server that is sick or hostile shall not take
/// more memory than such an answer needs.
const MAX_SMALL_RESPONSE_BYTES: usize = 1 << 20;
/// The first delay before sending again; it doubles from there.
const INITIAL_BACKOFF: Duration = Duration::from_millis(100);
/// The longest delay we choose ourselves.
const MAX_BACKOFF: Duration = Duration::from_secs(2);
/// Idle connections are kept this long: longer than the gap between two pods' polls, shorter than common load balancers' patience.
const POOL_IDLE_TIMEOUT: Duration = Duration::from_secs(60);

/// The TLS settings that connections to an endpoint need. Where none speaks TLS the system's authorities, which are many, are not
/// read; files that somebody names are, so that what is wrong with them is told.
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
        // Before they are read: what changes meanwhile is noticed.
        let tls_reloader = Mutex::new(TlsReloader::new(tls::compute_digest(&tls, [])));
        let connector =
            Connector::new(&tls, options).map_err(|e| tls_setup_error(&e, &endpoint.address.to_string()))?;
        Ok(Self {
            origin: endpoint.address.origin(),
            prefix: format!("{}/v1", endpoint.address.prefix()),
            pool: Mutex::new(build_pool(connector.clone(), config.max_in_flight)),
            connector,
            tls,
            tls_reloader: tls_reloader,
            has_invalid_tls_files: AtomicBool::new(false),
            is_tls_suspect: AtomicBool::new(false),
            concurrency_limits: ConcurrencyLimits::new(config.max_in_flight, config.max_mutating),
            budget: budget,
            config: Arc::clone(config),
            metrics: Arc::clone(metrics),
            seen_index: SeenIndex::default(),
        })
    }

    /// When the server's certificate will be over.
    pub(super) async fn fetch_certificate_expiry(&self) -> Option<Timestamp> {
        self.connector.fetch_certificate_expiry(&parse_uri(&self.origin).ok()?).await
    }

    /// New connections, each of which must stand within `limit`, so that a probe hears of no connection that is dead by now.
    pub(super) fn dedicated_pool(&self, connect_timeout: Duration) -> Pool {
        let connect_timeout = connect_timeout.min(self.config.connect_timeout);
        build_pool(self.connector.with_timeout(connect_timeout), self.config.max_in_flight)
    }

    /// Requests go out on these connections from now on. Some of those so far may be dead without anybody having been told.
    /// Those made with TLS files that have changed meanwhile are let go instead.
    pub(super) fn replace_pool(&self, pool: Pool) {
        let mut current = self.lock_pool();
        if Arc::ptr_eq(&pool.loaded_tls, &self.connector.loaded_tls()) {
            *current = pool;
        }
    }

    /// Uses the TLS files as they are now, which have this digest, if they can be used: for new connections. Requests in flight
    /// end on theirs; connections that are idle are let go. Blocks.
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

    /// The TLS settings that connections need.
    pub(super) fn tls(&self) -> &Tls {
        &self.tls
    }

    /// The TLS files as they are in use, whatever is in them now.
    pub(super) fn tls_file_status(&self, now: Timestamp) -> TlsFileStatus {
        TlsFileStatus {
            expiries: self.connector.loaded_tls().certificates.expiries(now),
            is_invalid: self.has_invalid_tls_files.load(Relaxed),
        }
    }

    /// A connection failed for TLS, perhaps because the files are others by now.
    pub(super) fn mark_tls_suspect(&self) {
        self.is_tls_suspect.store(true, Relaxed);
    }

    /// Whether the files must be read before the next use.
    pub(super) fn is_tls_suspect(&self) -> bool {
        self.is_tls_suspect.load(Relaxed)
    }

    /// Reads the files for a use after a doubt. Broken ones are an error unless those before worked. Blocks.
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

    /// What request builders take as their base.
    pub(super) fn origin(&self) -> &str {
        &self.origin
    }

    /// An error when there is no room for an answer of any size, to a token of this room.
    pub(super) fn ensure_budget_available(&self, token_budget: &MemoryBudget) -> Result<(), RequestError> {
        token_budget.ensure_available()?;
        self.budget.ensure_available()
    }

    /// Sends a request whose path starts below `/v1`, and brings the body of a success.
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
                    match self.redirect_target(&response, &uri, was_redirected) {
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
                // Refused before anything was done.
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
                    let mut failure = RequestError::from_response(status, body, parse_retry_after(&response.headers));
                    if is_from_leaderless_standby(&failure) {
                        response.avoid_connection();
                    }
                    if let RequestError::ErrorResponse(error_response) = &mut failure {
                        error_response.server_time = parse_date_header(&response.headers);
                    }
                    if options.mutating { failure.for_mutating() } else { failure }
                }
                Err(failure) => failure,
            };
            let failure = match (failure, earlier_connect_error) {
                // What the time ran out over.
                (RequestError::DeadlineExceeded { sent: false, .. }, Some(error)) => RequestError::Connect(error),
                (RequestError::DeadlineExceeded { during, sent: true }, Some(error)) => {
                    RequestError::DeadlineExceeded {
                        during: format!("{during} (it could not be reached before: {error})"),
                        sent: true,
                    }
                }
                (failure, _) => failure,
            };
            let Some(delay) = self.retry_delay(&failure, attempt, options) else { return Err(failure) };
            tracing::debug!(?delay, attempt, "the request to Vault is sent again");
            tokio::time::sleep(delay).await;
            attempt += 1;
            last_connect_error = if let RequestError::Connect(error) = failure { Some(error) } else { None };
        }
    }

    /// One request on the wire, one answer or failure.
    async fn send_once(
        &self,
        method: &Method,
        uri: &Uri,
        headers: &HeaderMap,
        body: Bytes,
        operation: Operation,
        options: CallOptions<'_>,
    ) -> Result<HttpResponse, RequestError> {
        let class = match operation {
            Operation::Login => RequestClass::Login,
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
                read_bounded(body, max_bytes, Reservation::new(options.budget, &self.budget), options.mutating).await?;
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
            // Nobody waits for it any more, and nobody shall wait because of it.
            permit = permit.map(|permit| self.concurrency_limits.detach(permit));
            outcome = timeout_at(response_deadline, response_future).await;
        }
        drop(permit);
        if let Ok(Ok(response)) = &outcome {
            in_flight.finish(response.status.as_u16());
        }
        outcome.unwrap_or_else(|_| {
            // A caller's deadline is its own affair.
            Err(if options.mutating {
                RequestError::ConnectionLost {
                    detail: format!("no answer within {:.0?}", sent_at.elapsed()),
                    mutating: true,
                }
            } else if response_deadline < options.deadline {
                RequestError::Timeout(response_deadline - sent_at)
            } else if connection.connection_metadata().is_none() {
                RequestError::deadline_before_sending("connecting to Vault")
            } else {
                RequestError::DeadlineExceeded { during: "waiting for the answer of Vault".to_owned(), sent: true }
            })
        })
    }

    /// A place among the requests under way.
    async fn acquire_permit(&self, class: RequestClass, deadline: Instant) -> Result<Permit<'_>, RequestError> {
        let _queued = self.metrics.start_vault_queueing();
        match timeout_at(deadline, self.concurrency_limits.acquire(class)).await {
            // Those before may have stepped aside because the time is over.
            Ok(Some(permit)) if Instant::now() < deadline => Ok(permit),
            _ => Err(RequestError::deadline_before_sending("waiting for a free connection to Vault")),
        }
    }

    /// How long to wait before sending again, if that may help, is safe, and ends before the caller gives up.
    fn retry_delay(&self, failure: &RequestError, attempt: u32, options: CallOptions<'_>) -> Option<Duration> {
        if options.probe.is_some() {
            return None;
        }
        let retry_after = match failure {
            RequestError::ErrorResponse(response) if response.is_transient(options.mutating) => response.retry_after,
            RequestError::Connect(error) if is_transient_connect_error(error) => None,
            RequestError::ConnectionLost { mutating: false, .. } | RequestError::Timeout(_) => None,
            // While a leader has just gone, who may have had the request before.
            RequestError::RedirectNotFollowed { is_other_server: true, .. } if !options.mutating => None,
            _ => return None,
        };
        let backoff = with_jitter((INITIAL_BACKOFF * 2u32.saturating_pow(attempt)).min(MAX_BACKOFF));
        let delay = retry_after.map_or(backoff, |retry_after| retry_after + backoff);
        (attempt < self.config.max_retries && Instant::now() + delay < options.deadline).then_some(delay)
    }

    /// Where a redirect leads, if it may be followed: once, 307 or 308, same scheme, and to another host and port only
    /// when the operator allows it, as token and body go along.
    fn redirect_target(
        &self,
        response: &HttpResponse,
        current_uri: &Uri,
        was_redirected: bool,
    ) -> Result<Uri, RequestError> {
        let location = response.headers.get(header::LOCATION).and_then(|l| l.to_str().ok()).unwrap_or_default();
        let target_url =
            if location.starts_with('/') { format!("{}{location}", self.origin) } else { location.to_owned() };
        let not_followed = |target: &str, reason| {
            Err(RequestError::RedirectNotFollowed { location: target.to_owned(), reason, is_other_server: false })
        };
        // What cannot be read is not repeated: a query may hold arguments.
        let unknown = "an unknown place";
        let Ok(uri) = target_url.parse::<Uri>() else { return not_followed(unknown, "its location is no URL") };
        let parse_server = |uri: &Uri| {
            super::Address::parse(&format!(
                "{}://{}",
                uri.scheme_str().unwrap_or_default(),
                uri.authority().map_or("", |a| a.as_str())
            ))
        };
        let (Ok(target_address), Ok(current_address)) = (parse_server(&uri), parse_server(current_uri)) else {
            let scheme = uri.scheme_str().unwrap_or_default();
            let target =
                uri.authority().map(|a| format!("{scheme}://{}", a.as_str().rsplit('@').next().unwrap_or_default()));
            return not_followed(target.as_deref().unwrap_or(unknown), "its location is no URL of a server");
        };
        let target = target_address.to_string();
        if !self.config.redirects_enabled {
            return not_followed(&target, "redirects are switched off (VAULT_DISABLE_REDIRECTS)");
        }
        if was_redirected {
            return not_followed(&target, "it was redirected before");
        }
        if !matches!(response.status, StatusCode::TEMPORARY_REDIRECT | StatusCode::PERMANENT_REDIRECT) {
            return not_followed(&target, "only 307 and 308 keep the method");
        }
        if uri.scheme() != current_uri.scheme() {
            return not_followed(&target, "the scheme differs");
        }
        if target_address != current_address
            && !self.config.allowed_redirect_hosts.iter().any(|allowed| matches_allowed_host(allowed, &target_address))
        {
            let reason = "the token or login would go to another host";
            return Err(RequestError::RedirectNotFollowed { location: target, reason, is_other_server: true });
        }
        Ok(uri)
    }
}

fn parse_uri(text: &str) -> Result<Uri, RequestError> {
    text.parse().map_err(|_| RequestError::InvalidRequest("its path makes no URL"))
}

struct HttpResponse {
    status: StatusCode,
    headers: HeaderMap,
    body: ResponseBody,
    connection: CaptureConnection,
}

/// A body, and the room it takes.
pub(super) struct ResponseBody {
    pub(super) bytes: Vec<u8>,
    pub(super) reservation: Reservation,
}

impl HttpResponse {
    /// Lets the next request go out on another connection, which may lead to another server behind the same address.
    fn avoid_connection(&self) {
        if let Some(connection) = &*self.connection.connection_metadata() {
            connection.poison();
        }
    }
}

/// Whether it is what a standby says that knows or reaches no active node, as others of its cluster may.
fn is_from_leaderless_standby(failure: &RequestError) -> bool {
    match failure {
        RequestError::ErrorResponse(refusal) => refusal.has_no_leader(),
        RequestError::RedirectNotFollowed { is_other_server: elsewhere, .. } => *elsewhere,
        _ => false,
    }
}

/// Whether a `host` or `host:port` of `--follow-redirects` names this address.
fn matches_allowed_host(allowed_host: &str, address: &super::Address) -> bool {
    match address {
        super::Address::Tcp { host, port, .. } => {
            allowed_host.eq_ignore_ascii_case(host) || allowed_host.eq_ignore_ascii_case(&format!("{host}:{port}"))
        }
        super::Address::Unix(_) => false,
    }
}

/// That TLS files cannot be used.
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
    Pool { client: client, loaded_tls: loaded_tls }
}

/// Whether a connection may soon be had: what is misconfigured stays so. A load balancer without a server behind it
/// accepts, and closes during the handshake.
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

/// The last words of an error's chain, which say what happened; the ones before say where in the library.
fn innermost_message(error: &dyn std::error::Error) -> String {
    let mut last = error;
    while let Some(source) = last.source() {
        last = source;
    }
    last.to_string()
}

/// The whole body in one buffer that was never moved by growing, or the failure to have it.
async fn read_bounded(
    body: hyper::body::Incoming,
    max_bytes: usize,
    mut reservation: Reservation,
    mutating: bool,
) -> Result<ResponseBody, RequestError> {
    let expected_bytes =
        hyper::body::Body::size_hint(&body).exact().and_then(|n| usize::try_from(n).ok()).unwrap_or(4096);
    if expected_bytes > max_bytes {
        return Err(RequestError::ResponseTooLarge(max_bytes));
    }
    let mut capacity = expected_bytes;
    reservation.resize(capacity)?;
    let mut buffer = SecretBuffer::with_capacity(capacity);
    let mut body = std::pin::pin!(body);
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|e| RequestError::ConnectionLost { detail: innermost_message(&e), mutating })?;
        let Some(data) = frame.data_ref() else { continue };
        if buffer.len() + data.len() > max_bytes {
            return Err(RequestError::ResponseTooLarge(max_bytes));
        }
        let needed = buffer.len() + data.len();
        if needed > capacity {
            // As the buffer grows.
            capacity = needed.next_power_of_two();
            reservation.resize(capacity)?;
        }
        buffer.append(data);
    }
    Ok(ResponseBody { bytes: buffer.into_inner(), reservation })
}

/// `Date`, which HTTP writes as mail does.
fn parse_date_header(headers: &HeaderMap<HeaderValue>) -> Option<Timestamp> {
    jiff::fmt::rfc2822::DateTimeParser::new().parse_timestamp(headers.get(header::DATE)?).ok()
}

/// `Retry-After` in seconds, at most an hour; the form with a date is not used by Vault.
fn parse_retry_after(headers: &HeaderMap<HeaderValue>) -> Option<Duration> {
    let seconds: u64 = headers.get(header::RETRY_AFTER)?.to_str().ok()?.trim().parse().ok()?;
    Some(Duration::from_secs(seconds.min(3600)))
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
