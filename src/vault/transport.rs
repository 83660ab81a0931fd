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
    connect::{ConnectError, Connector, Lookups, Options, Proxies, Settings, TlsFault, connect_error},
    failure::RequestError,
    files::TlsFiles,
    index::SeenIndex,
    lanes::{Lane, Lanes, Place},
    operation::classify_operation,
    room::{Room, Share},
};
use crate::{
    clock::jittered,
    error::{Cause, Error},
    metrics::{Metrics, Operation},
    secret::{SecretBuffer, SecretBytes},
    tls::{self, Ca, Digest, Look, Reload, Tls, TlsError},
};

/// How one request may be treated.
#[derive(Clone, Copy)]
pub(super) struct Call<'a> {
    /// Whether it creates something at Vault, and so must not be repeated.
    pub(super) creates: bool,
    /// When its caller gives up.
    pub(super) deadline: Instant,
    /// Where it is sent at once and only once, whatever else is under way: it asks how the server is.
    pub(super) probe: Option<&'a Pool>,
    /// Room for an answer as large as the configuration allows; that of anything but a secret is small.
    pub(super) room: Option<&'a Arc<Room>>,
}

impl Call<'_> {
    /// One that may be repeated until `deadline`.
    pub(super) fn until(deadline: Instant) -> Self {
        Self { creates: false, deadline, probe: None, room: None }
    }
}

/// Connections to one endpoint.
#[derive(Clone)]
pub(super) struct Pool {
    http: Http<Connector, Full<Bytes>>,
    /// None of its connections was made with older settings.
    settings: Arc<Settings>,
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
    files: Mutex<Reload>,
    /// Whether they could not be used when they were last read.
    broken: AtomicBool,
    /// Whether a connection failed for TLS since the files were last read.
    doubted: AtomicBool,
    lanes: Lanes,
    /// Room for answers of all servers of its kind.
    room: Arc<Room>,
    config: Arc<VaultConfig>,
    metrics: Arc<Metrics>,
    /// How far the cluster had come.
    pub(super) seen: SeenIndex,
}

/// How long an answer is awaited that creates something, even when its caller has given up: it is handed out next time.
const CREATING_PATIENCE: Duration = Duration::from_secs(60);
/// The largest answer to a login, a renewal or a question about a token, and the largest refusal, in bytes: a server that is sick or hostile shall not take
/// more memory than such an answer needs.
const SMALL: usize = 1 << 20;
/// The first delay before sending again; it doubles from there.
const FIRST_DELAY: Duration = Duration::from_millis(100);
/// The longest delay we choose ourselves.
const MAX_DELAY: Duration = Duration::from_secs(2);
/// Idle connections are kept this long: longer than the gap between two pods' polls, shorter than common load balancers' patience.
const IDLE: Duration = Duration::from_secs(60);

/// The TLS settings that connections to an endpoint need. Where none speaks TLS the system's authorities, which are many, are not
/// read; files that somebody names are, so that what is wrong with them is told.
fn needed(endpoint: &Endpoint, proxies: &Proxies) -> Tls {
    let Endpoint { address, tls, .. } = endpoint;
    let origin = address.origin();
    let goes_by_another = origin.parse().is_ok_and(|origin| proxies.intercept(&origin).is_some());
    let ca = if tls.ca == Ca::System && origin.starts_with("http:") && !goes_by_another {
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
        room: Arc<Room>,
        lookups: Lookups,
    ) -> Result<Self, Error> {
        let options = Options {
            socket: endpoint.address.unix_socket().map(Into::into),
            proxies: config.proxies.clone(),
            guarded: endpoint.deny_local_addresses,
            timeout: config.connect_timeout,
            http2: true,
            oldest: config.min_tls_version,
            lookups,
        };
        let tls = needed(endpoint, &config.proxies);
        // Before they are read: what changes meanwhile is noticed.
        let files = Mutex::new(Reload::new(tls::digest(&tls, [])));
        let connector = Connector::new(&tls, options).map_err(|e| unusable(&e, &endpoint.address.to_string()))?;
        Ok(Self {
            origin: endpoint.address.origin(),
            prefix: format!("{}/v1", endpoint.address.prefix()),
            pool: Mutex::new(pool(connector.clone(), config.max_in_flight)),
            connector,
            tls,
            files,
            broken: AtomicBool::new(false),
            doubted: AtomicBool::new(false),
            lanes: Lanes::new(config.max_in_flight, config.max_mutating),
            room,
            config: Arc::clone(config),
            metrics: Arc::clone(metrics),
            seen: SeenIndex::default(),
        })
    }

    /// When the server's certificate will be over.
    pub(super) async fn certificate_end(&self) -> Option<Timestamp> {
        self.connector.certificate_end(&uri(&self.origin).ok()?).await
    }

    /// New connections, each of which must stand within `limit`, so that a probe hears of no connection that is dead by now.
    pub(super) fn fresh(&self, limit: Duration) -> Pool {
        let limit = limit.min(self.config.connect_timeout);
        pool(self.connector.within(limit), self.config.max_in_flight)
    }

    /// Requests go out on these connections from now on. Some of those so far may be dead without anybody having been told.
    /// Those made with TLS files that have changed meanwhile are let go instead.
    pub(super) fn adopt(&self, pool: Pool) {
        let mut current = self.lock();
        if Arc::ptr_eq(&pool.settings, &self.connector.settings()) {
            *current = pool;
        }
    }

    /// Uses the TLS files as they are now, which have this digest, if they can be used: for new connections. Requests in flight
    /// end on theirs; connections that are idle are let go. Blocks.
    pub(super) fn look(&self, found: Digest) -> Look<(), TlsError> {
        let mut files = self.files.lock().unwrap_or_else(PoisonError::into_inner);
        let look = files.look(found, Instant::now(), || self.connector.reread(&self.tls)).take(|settings| {
            self.connector.change(settings);
            self.adopt(pool(self.connector.clone(), self.config.max_in_flight));
        });
        self.broken.store(matches!(look, Look::Broken { .. }), Relaxed);
        look
    }

    /// The TLS settings that connections need.
    pub(super) fn tls(&self) -> &Tls {
        &self.tls
    }

    /// The TLS files as they are in use, whatever is in them now.
    pub(super) fn tls_files(&self, now: Timestamp) -> TlsFiles {
        TlsFiles { ends: self.connector.settings().certificates.ends(now), broken: self.broken.load(Relaxed) }
    }

    /// A connection failed for TLS, perhaps because the files are others by now.
    pub(super) fn doubt(&self) {
        self.doubted.store(true, Relaxed);
    }

    /// Whether the files must be read before the next use.
    pub(super) fn is_doubted(&self) -> bool {
        self.doubted.load(Relaxed)
    }

    /// Reads the files for a use after a doubt. Broken ones are an error unless those before worked. Blocks.
    pub(super) fn settle(&self, address: &str) -> Result<Look<(), TlsError>, Error> {
        self.doubted.store(false, Relaxed);
        match self.look(tls::digest(&self.tls, [])) {
            Look::Broken { error, .. } if !self.connector.settings().worked() => {
                self.doubt();
                Err(unusable(&error, address))
            }
            look => Ok(look),
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Pool> {
        self.pool.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What request builders take as their base.
    pub(super) fn origin(&self) -> &str {
        &self.origin
    }

    /// An error when there is no room for an answer of any size, to a token of this room.
    pub(super) fn check_room(&self, token: &Room) -> Result<(), RequestError> {
        token.check()?;
        self.room.check()
    }

    /// Sends a request whose path starts below `/v1`, and brings the body of a success.
    pub(super) async fn send(&self, request: Request<Vec<u8>>, call: Call<'_>) -> Result<Received, RequestError> {
        let (parts, body) = request.into_parts();
        let body = SecretBytes::from(body).into_wire();
        let path = parts.uri.path_and_query().map_or("/", |p| p.as_str());
        let mut uri = uri(&format!("{}{}{path}", self.origin, self.prefix))?;
        let operation = classify_operation(&parts.method, parts.uri.path());
        let (mut attempt, mut redirected, mut unindexed) = (0, false, false);
        let mut unconnected = None;
        loop {
            let outcome = self.exchange(&parts.method, &uri, &parts.headers, body.clone(), operation, call).await;
            let before = unconnected.take();
            let failure = match outcome {
                Ok(Answer { status, received, .. }) if status.is_success() => return Ok(received),
                Ok(answer) if answer.status.is_redirection() => match self.redirect(&answer, &uri, redirected) {
                    Ok(to) => {
                        uri = to;
                        redirected = true;
                        continue;
                    }
                    Err(failure) => {
                        if is_of_standby(&failure) {
                            answer.leave();
                        }
                        failure
                    }
                },
                // Refused before anything was done.
                Ok(answer)
                    if !unindexed && self.seen.clear_if_rejected(answer.status.as_u16(), &answer.received.body) =>
                {
                    unindexed = true;
                    continue;
                }
                Ok(Answer { status: StatusCode::PROXY_AUTHENTICATION_REQUIRED, .. })
                    if let Some(fault) = self.connector.proxy_credentials(&uri) =>
                {
                    RequestError::Connect(Box::new(fault))
                }
                Ok(answer) => {
                    let (status, body) = (answer.status.as_u16(), &answer.received.body);
                    let mut failure = RequestError::from_response(status, body, retry_after(&answer.headers));
                    if is_of_standby(&failure) {
                        answer.leave();
                    }
                    if let RequestError::ErrorResponse(refusal) = &mut failure {
                        refusal.server_time = date(&answer.headers);
                    }
                    if call.creates { failure.for_mutating() } else { failure }
                }
                Err(failure) => failure,
            };
            let failure = match (failure, before) {
                // What the time ran out over.
                (RequestError::DeadlineExceeded { sent: false, .. }, Some(fault)) => RequestError::Connect(fault),
                (RequestError::DeadlineExceeded { during, sent: true }, Some(fault)) => {
                    RequestError::DeadlineExceeded {
                        during: format!("{during} (it could not be reached before: {fault})"),
                        sent: true,
                    }
                }
                (failure, _) => failure,
            };
            let Some(delay) = self.delay(&failure, attempt, call) else { return Err(failure) };
            tracing::debug!(?delay, attempt, "the request to Vault is sent again");
            tokio::time::sleep(delay).await;
            attempt += 1;
            unconnected = if let RequestError::Connect(fault) = failure { Some(fault) } else { None };
        }
    }

    /// One request on the wire, one answer or failure.
    async fn exchange(
        &self,
        method: &Method,
        uri: &Uri,
        headers: &HeaderMap,
        body: Bytes,
        operation: Operation,
        call: Call<'_>,
    ) -> Result<Answer, RequestError> {
        let lane = match operation {
            Operation::Login => Lane::Login,
            _ if call.creates => Lane::Creating,
            _ => Lane::Plain,
        };
        let mut place = if call.probe.is_some() { None } else { Some(self.place(lane, call.deadline).await?) };
        let counted = self.metrics.vault_request(operation);
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = method.clone();
        *request.uri_mut() = uri.clone();
        *request.headers_mut() = headers.clone();
        if let Some(authorization) = self.connector.proxy_authorization(uri) {
            request.headers_mut().insert(header::PROXY_AUTHORIZATION, authorization);
        }
        self.seen.add_headers(request.headers_mut());
        let connection = capture_connection(&mut request);

        let now = Instant::now();
        let patience = if call.creates { call.deadline.max(now + CREATING_PATIENCE) } else { call.deadline };
        let limit = self.config.request_timeout.filter(|_| call.probe.is_none());
        let patience = limit.map_or(patience, |limit| patience.min(now + limit));
        let pool = call.probe.cloned().unwrap_or_else(|| self.lock().clone());
        let answer = async {
            let response = pool.http.request(request).await.map_err(|e| lost(&e, call.creates))?;
            let (parts, body) = response.into_parts();
            if parts.status.is_success() {
                self.seen.observe(&parts.headers);
            }
            let large = call.room.is_some() && parts.status.is_success();
            let limit = if large { self.config.max_response_bytes } else { self.config.max_response_bytes.min(SMALL) };
            let received = bounded(body, limit, Share::of(call.room, &self.room), call.creates).await?;
            Ok(Answer { status: parts.status, headers: parts.headers, received, connection: connection.clone() })
        };
        let mut answer = pin!(answer);
        let mut outcome = timeout_at(patience.min(call.deadline), &mut answer).await;
        if outcome.is_err() && patience > call.deadline {
            // Nobody waits for it any more, and nobody shall wait because of it.
            place = place.map(|place| self.lanes.step_aside(place));
            outcome = timeout_at(patience, answer).await;
        }
        drop(place);
        if let Ok(Ok(answer)) = &outcome {
            counted.answered(answer.status.as_u16());
        }
        outcome.unwrap_or_else(|_| {
            // A caller's deadline is its own affair.
            Err(if call.creates {
                RequestError::ConnectionLost {
                    detail: format!("no answer within {:.0?}", now.elapsed()),
                    mutating: true,
                }
            } else if patience < call.deadline {
                RequestError::Timeout(patience - now)
            } else if connection.connection_metadata().is_none() {
                RequestError::deadline_before_sending("connecting to Vault")
            } else {
                RequestError::DeadlineExceeded { during: "waiting for the answer of Vault".to_owned(), sent: true }
            })
        })
    }

    /// A place among the requests under way.
    async fn place(&self, lane: Lane, deadline: Instant) -> Result<Place<'_>, RequestError> {
        let _queued = self.metrics.vault_queue();
        match timeout_at(deadline, self.lanes.enter(lane)).await {
            // Those before may have stepped aside because the time is over.
            Ok(Some(place)) if Instant::now() < deadline => Ok(place),
            _ => Err(RequestError::deadline_before_sending("waiting for a free connection to Vault")),
        }
    }

    /// How long to wait before sending again, if that may help, is safe, and ends before the caller gives up.
    fn delay(&self, failure: &RequestError, attempt: u32, call: Call<'_>) -> Option<Duration> {
        if call.probe.is_some() {
            return None;
        }
        let asked = match failure {
            RequestError::ErrorResponse(refusal) if refusal.is_transient(call.creates) => refusal.retry_after,
            RequestError::Connect(fault) if may_pass(fault) => None,
            RequestError::ConnectionLost { mutating: false, .. } | RequestError::Timeout(_) => None,
            // While a leader has just gone, who may have had the request before.
            RequestError::RedirectNotFollowed { is_other_server: true, .. } if !call.creates => None,
            _ => return None,
        };
        let own = jittered((FIRST_DELAY * 2u32.saturating_pow(attempt)).min(MAX_DELAY));
        let delay = asked.map_or(own, |asked| asked + own);
        (attempt < self.config.max_retries && Instant::now() + delay < call.deadline).then_some(delay)
    }

    /// Where a redirect leads, if it may be followed: once, 307 or 308, same scheme, and to another host and port only
    /// when the operator allows it, as token and body go along.
    fn redirect(&self, answer: &Answer, from: &Uri, redirected: bool) -> Result<Uri, RequestError> {
        let location = answer.headers.get(header::LOCATION).and_then(|l| l.to_str().ok()).unwrap_or_default();
        let to = if location.starts_with('/') { format!("{}{location}", self.origin) } else { location.to_owned() };
        let refuse = |to: &str, why| {
            Err(RequestError::RedirectNotFollowed { location: to.to_owned(), reason: why, is_other_server: false })
        };
        // What cannot be read is not repeated: a query may hold arguments.
        let unknown = "an unknown place";
        let Ok(uri) = to.parse::<Uri>() else { return refuse(unknown, "its location is no URL") };
        let origin = |uri: &Uri| {
            super::Address::parse(&format!(
                "{}://{}",
                uri.scheme_str().unwrap_or_default(),
                uri.authority().map_or("", |a| a.as_str())
            ))
        };
        let (Ok(there), Ok(here)) = (origin(&uri), origin(from)) else {
            let scheme = uri.scheme_str().unwrap_or_default();
            let place =
                uri.authority().map(|a| format!("{scheme}://{}", a.as_str().rsplit('@').next().unwrap_or_default()));
            return refuse(place.as_deref().unwrap_or(unknown), "its location is no URL of a server");
        };
        let place = there.to_string();
        if !self.config.redirects_enabled {
            return refuse(&place, "redirects are switched off (VAULT_DISABLE_REDIRECTS)");
        }
        if redirected {
            return refuse(&place, "it was redirected before");
        }
        if !matches!(answer.status, StatusCode::TEMPORARY_REDIRECT | StatusCode::PERMANENT_REDIRECT) {
            return refuse(&place, "only 307 and 308 keep the method");
        }
        if uri.scheme() != from.scheme() {
            return refuse(&place, "the scheme differs");
        }
        if there != here && !self.config.allowed_redirect_hosts.iter().any(|allowed| allows(allowed, &there)) {
            let why = "the token or login would go to another host";
            return Err(RequestError::RedirectNotFollowed { location: place, reason: why, is_other_server: true });
        }
        Ok(uri)
    }
}

fn uri(text: &str) -> Result<Uri, RequestError> {
    text.parse().map_err(|_| RequestError::InvalidRequest("its path makes no URL"))
}

struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    received: Received,
    connection: CaptureConnection,
}

/// A body, and the room it takes.
pub(super) struct Received {
    pub(super) body: Vec<u8>,
    pub(super) share: Share,
}

impl Answer {
    /// Lets the next request go out on another connection, which may lead to another server behind the same address.
    fn leave(&self) {
        if let Some(connection) = &*self.connection.connection_metadata() {
            connection.poison();
        }
    }
}

/// Whether it is what a standby says that knows or reaches no active node, as others of its cluster may.
fn is_of_standby(failure: &RequestError) -> bool {
    match failure {
        RequestError::ErrorResponse(refusal) => refusal.has_no_leader(),
        RequestError::RedirectNotFollowed { is_other_server: elsewhere, .. } => *elsewhere,
        _ => false,
    }
}

/// Whether a `host` or `host:port` of `--follow-redirects` names this address.
fn allows(allowed: &str, there: &super::Address) -> bool {
    match there {
        super::Address::Tcp { host, port, .. } => {
            allowed.eq_ignore_ascii_case(host) || allowed.eq_ignore_ascii_case(&format!("{host}:{port}"))
        }
        super::Address::Unix(_) => false,
    }
}

/// That TLS files cannot be used.
fn unusable(error: &TlsError, address: &str) -> Error {
    Error::new(Cause::Tls, format!("TLS settings for {address} cannot be used: {error}"))
        .said(std::error::Error::source(error).map(ToString::to_string).unwrap_or_default())
        .advice("correct the CA, certificate or key named here")
}

fn pool(connector: Connector, max_idle: usize) -> Pool {
    let settings = connector.settings();
    let http = Http::builder(TokioExecutor::new())
        .pool_timer(TokioTimer::new())
        .pool_idle_timeout(IDLE)
        .pool_max_idle_per_host(max_idle)
        .build(connector);
    Pool { http, settings }
}

/// Whether a connection may soon be had: what is misconfigured stays so. A load balancer without a server behind it
/// accepts, and closes during the handshake.
pub(super) fn may_pass(fault: &ConnectError) -> bool {
    use ConnectError as C;
    matches!(
        fault,
        C::Refused { .. }
            | C::TimedOut { .. }
            | C::NameNotFound { .. }
            | C::Socket { .. }
            | C::Tls { fault: TlsFault::Closed, .. }
            | C::Other { .. }
    )
}

fn lost(error: &hyper_util::client::legacy::Error, creates: bool) -> RequestError {
    match connect_error(error) {
        Some(fault) => RequestError::Connect(Box::new(fault.clone())),
        None => RequestError::ConnectionLost { detail: innermost(error), mutating: creates },
    }
}

/// The last words of an error's chain, which say what happened; the ones before say where in the library.
fn innermost(error: &dyn std::error::Error) -> String {
    let mut last = error;
    while let Some(source) = last.source() {
        last = source;
    }
    last.to_string()
}

/// The whole body in one buffer that was never moved by growing, or the failure to have it.
async fn bounded(
    body: hyper::body::Incoming,
    limit: usize,
    mut share: Share,
    creates: bool,
) -> Result<Received, RequestError> {
    let expected = hyper::body::Body::size_hint(&body).exact().and_then(|n| usize::try_from(n).ok()).unwrap_or(4096);
    if expected > limit {
        return Err(RequestError::ResponseTooLarge(limit));
    }
    let mut room = expected;
    share.resize(room)?;
    let mut whole = SecretBuffer::with_capacity(room);
    let mut body = std::pin::pin!(body);
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|e| RequestError::ConnectionLost { detail: innermost(&e), mutating: creates })?;
        let Some(data) = frame.data_ref() else { continue };
        if whole.len() + data.len() > limit {
            return Err(RequestError::ResponseTooLarge(limit));
        }
        let needed = whole.len() + data.len();
        if needed > room {
            // As the buffer grows.
            room = needed.next_power_of_two();
            share.resize(room)?;
        }
        whole.append(data);
    }
    Ok(Received { body: whole.into_inner(), share })
}

/// `Date`, which HTTP writes as mail does.
fn date(headers: &HeaderMap<HeaderValue>) -> Option<Timestamp> {
    jiff::fmt::rfc2822::DateTimeParser::new().parse_timestamp(headers.get(header::DATE)?).ok()
}

/// `Retry-After` in seconds, at most an hour; the form with a date is not used by Vault.
fn retry_after(headers: &HeaderMap<HeaderValue>) -> Option<Duration> {
    let seconds: u64 = headers.get(header::RETRY_AFTER)?.to_str().ok()?.trim().parse().ok()?;
    Some(Duration::from_secs(seconds.min(3600)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn authorities_of_the_system_are_needed_where_tls_is_spoken() {
        let file = Ca::File("/ca.pem".into());
        let none = Ca::Pem(String::new());
        let proxied = || Proxies::from_vars(|name| (name == "HTTP_PROXY").then(|| "https://proxy.example".to_owned()));
        for (address, ca, proxies, needs) in [
            ("https://vault.example", Ca::System, Proxies::none(), &Ca::System),
            ("http://vault.example", Ca::System, Proxies::none(), &none),
            ("unix:///run/vault.sock", Ca::System, Proxies::none(), &none),
            ("http://vault.example", file.clone(), Proxies::none(), &file),
            ("http://vault.example", Ca::System, proxied().unwrap(), &Ca::System),
        ] {
            let tls = Tls { ca, ..Tls::default() };
            let endpoint =
                Endpoint { address: crate::vault::Address::parse(address).unwrap(), tls, deny_local_addresses: false };
            assert_eq!(&needed(&endpoint, &proxies).ca, needs, "{address}");
        }
    }
}
