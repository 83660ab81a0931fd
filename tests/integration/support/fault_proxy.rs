//! A proxy before the real OpenBao that injects the faults a test requests, and records requests.

use std::{
    io,
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use http::{HeaderMap, Request, Response, Version, header, request::Parts};
use http_body_util::{BodyExt, Full, StreamBody, combinators::UnsyncBoxBody};
use hyper::{
    body::{Frame, Incoming},
    server::conn::{http1, http2},
    service::service_fn,
};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::{TokioExecutor, TokioIo},
};
use rustls::{ServerConfig, pki_types::CertificateDer};
use serde_json::json;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpSocket, UnixListener},
    sync::watch,
    task::{JoinHandle, JoinSet},
    time::{Instant, sleep, timeout},
};
use tokio_rustls::TlsAcceptor;

use super::required_env;

/// Treatment of a request.
#[derive(Clone)]
pub enum Fault {
    /// Sends this response; OpenBao does not receive the request.
    Respond(Response<Bytes>),
    /// Sends a response with this status that repeats the request, like the error pages of some proxies.
    EchoRequest(u16),
    /// Redirects with this status to the same path below this address.
    Redirect(u16, String),
    /// Sends a success with a body of this many bytes and no announced length; OpenBao does not receive the request.
    LargeBody(usize),
    /// Closes the connection; OpenBao does not receive the request.
    DropRequest,
    /// Closes the connection after OpenBao's response has arrived at the proxy.
    DropResponse,
    /// Closes the connection after half of OpenBao's response.
    TruncateResponse,
    /// Forwards the request to OpenBao when the gate opens.
    HoldRequest(Gate),
    /// Forwards the request at once, and the response when the gate opens.
    HoldResponse(Gate),
    /// Forwards OpenBao's response in sixteen pieces, with this pause before each.
    SlowResponse(Duration),
}

/// Responds with an error in Vault's format.
pub fn vault_error(status: u16, error: &str) -> Fault {
    respond(status, &[("content-type", "application/json")], json!({"errors": [error]}).to_string())
}

/// Responds instead of OpenBao.
pub fn respond(status: u16, headers: &[(&str, &str)], body: impl Into<Bytes>) -> Fault {
    let builder = headers.iter().fold(Response::builder().status(status), |b, (name, value)| b.header(*name, *value));
    Fault::Respond(builder.body(body.into()).unwrap())
}

/// Holds requests until it is opened.
#[derive(Clone)]
pub struct Gate(watch::Sender<bool>);

impl Gate {
    pub fn new() -> Self {
        Self(watch::Sender::new(false))
    }

    pub fn open(&self) {
        self.0.send_replace(true);
    }

    async fn wait_until_open(&self) {
        self.0.subscribe().wait_for(|open| *open).await.unwrap();
    }
}

/// The proxy; stopped when dropped.
pub struct FaultProxy {
    /// `http://…`, `https://…` or `unix://…`.
    pub address: String,
    shared: Arc<Shared>,
    server_task: JoinHandle<()>,
    /// Reserves the port while no listener is open.
    reserved_port: Option<TcpSocket>,
}

struct Shared {
    rules: Mutex<Vec<Rule>>,
    log: watch::Sender<RequestLog>,
    connections: AtomicUsize,
    /// The client certificate of each TLS handshake, if any.
    client_certificates: Mutex<Vec<Option<CertificateDer<'static>>>>,
    upstream: Client<HttpConnector, Full<Bytes>>,
}

type Body = UnsyncBoxBody<Bytes, io::Error>;

struct Rule {
    remaining: usize,
    method: &'static str,
    path: String,
    fault: Fault,
}

/// A received request.
#[derive(Clone)]
pub struct ReceivedRequest {
    pub method: String,
    /// Path below `/v1/`, with the query.
    pub path: String,
    pub headers: HeaderMap,
    pub body: Bytes,
    pub received_at: Instant,
}

/// Every request, and the order in which they began (`true`) and ended.
#[derive(Default)]
struct RequestLog {
    /// Number of times the log was cleared.
    generation: usize,
    requests: Vec<ReceivedRequest>,
    events: Vec<(usize, bool)>,
}

impl RequestLog {
    /// Returns the number of pending requests with this path prefix after each begin or end of one.
    fn concurrency(&self, path: &str) -> impl Iterator<Item = usize> {
        let events = self.events.iter().filter(move |(seen, _)| self.requests[*seen].path.starts_with(path));
        events.scan(0, |now, (_, begins)| {
            *now = if *begins { *now + 1 } else { *now - 1 };
            Some(*now)
        })
    }
}

impl ReceivedRequest {
    fn matches(&self, method: &str, path: &str) -> bool {
        self.method == method && self.path.starts_with(path)
    }
}

/// Binds a port below the ephemeral range, so that no outgoing connection takes it while the proxy is down.
async fn bind_port() -> TcpListener {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    loop {
        let port = 30_000 + std::process::id().wrapping_mul(31).wrapping_add(NEXT.fetch_add(1, Relaxed)) % 2700;
        if let Ok(listener) = TcpListener::bind(("127.0.0.1", u16::try_from(port).unwrap())).await {
            return listener;
        }
    }
}

impl FaultProxy {
    /// Starts a proxy with plain HTTP.
    pub async fn start() -> Self {
        let listener = bind_port().await;
        Self::with_listener(format!("http://{}", listener.local_addr().unwrap()), Listener::new(listener, None))
    }

    /// Starts a proxy with TLS, and HTTP/2 if the client offers it.
    pub async fn start_tls(config: ServerConfig) -> Self {
        let listener = bind_port().await;
        Self::with_listener(
            format!("https://{}", listener.local_addr().unwrap()),
            Listener::new(listener, Some(config)),
        )
    }

    /// Starts a proxy on a Unix socket.
    pub fn start_unix(path: &Path) -> Self {
        Self::with_listener(format!("unix://{}", path.display()), Listener::Unix(UnixListener::bind(path).unwrap()))
    }

    fn with_listener(address: String, listener: Listener) -> Self {
        let shared = Arc::new(Shared {
            rules: Mutex::default(),
            log: watch::Sender::default(),
            connections: AtomicUsize::new(0),
            client_certificates: Mutex::default(),
            upstream: Client::builder(TokioExecutor::new()).build_http(),
        });
        Self { address, server_task: tokio::spawn(serve(listener, Arc::clone(&shared))), shared, reserved_port: None }
    }

    /// Applies the fault to every request with this method and path prefix below `/v1/` from now on, unless an earlier
    /// rule matches.
    pub fn always(&self, method: &'static str, path: &str, fault: Fault) {
        self.next(usize::MAX, method, path, fault);
    }

    /// Applies the fault to the next `count` matching requests.
    pub fn next(&self, count: usize, method: &'static str, path: &str, fault: Fault) {
        self.shared.rules.lock().unwrap().push(Rule { remaining: count, method, path: path.to_owned(), fault });
    }

    /// Removes all rules: requests succeed from now on.
    pub fn clear_rules(&self) {
        self.shared.rules.lock().unwrap().clear();
    }

    /// Closes every connection and the listener.
    pub async fn stop_listening(&mut self) {
        self.server_task.abort();
        let _ = (&mut self.server_task).await;
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_reuseaddr(true).unwrap();
        socket.bind(self.address.split_once("://").unwrap().1.parse().unwrap()).unwrap();
        self.reserved_port = Some(socket);
    }

    /// Opens the listener again, with or without TLS.
    pub fn listen_again(&mut self, tls: Option<ServerConfig>) {
        let listener = Listener::new(self.reserved_port.take().unwrap().listen(64).unwrap(), tls);
        self.server_task = tokio::spawn(serve(listener, Arc::clone(&self.shared)));
    }

    /// Waits until `count` matching requests have arrived.
    pub async fn wait_for(&self, count: usize, method: &str, path: &str) {
        let mut log = self.shared.log.subscribe();
        let enough = log.wait_for(|log| log.requests.iter().filter(|s| s.matches(method, path)).count() >= count);
        let enough = timeout(Duration::from_secs(10), enough).await.is_ok();
        assert!(enough, "{method} {path} came {} times, not {count}", self.requests(method, path).len());
    }

    /// Returns the matching requests.
    pub fn requests(&self, method: &str, path: &str) -> Vec<ReceivedRequest> {
        self.shared.log.borrow().requests.iter().filter(|s| s.matches(method, path)).cloned().collect()
    }

    /// Returns all requests.
    pub fn all_requests(&self) -> Vec<ReceivedRequest> {
        self.shared.log.borrow().requests.clone()
    }

    /// Returns the number of matching requests.
    pub fn count(&self, method: &str, path: &str) -> usize {
        self.requests(method, path).len()
    }

    /// Returns the number of requests that are not health probes.
    pub fn count_except_health(&self) -> usize {
        let is_health_request =
            |seen: &&ReceivedRequest| ["sys/health", "sys/leader"].iter().any(|path| seen.path.starts_with(path));
        let log = self.shared.log.borrow();
        log.requests.len() - log.requests.iter().filter(is_health_request).count()
    }

    /// Returns the maximum number of concurrent requests with this path prefix.
    pub fn max_concurrent(&self, path: &str) -> usize {
        self.shared.log.borrow().concurrency(path).max().unwrap_or(0)
    }

    /// Returns the client certificate of the latest successful TLS handshake.
    pub fn last_client_certificate(&self) -> Option<CertificateDer<'static>> {
        self.shared.client_certificates.lock().unwrap().last().cloned().flatten()
    }

    /// Returns the number of accepted connections.
    pub fn connection_count(&self) -> usize {
        self.shared.connections.load(Relaxed)
    }
}

#[allow(dead_code, reason = "for runs of minutes")]
impl FaultProxy {
    /// Waits until no request with this path prefix is pending.
    pub async fn wait_until_idle(&self, path: &str) {
        let mut log = self.shared.log.subscribe();
        let idle = timeout(Duration::from_secs(60), log.wait_for(|log| log.concurrency(path).last().unwrap_or(0) == 0));
        assert!(idle.await.is_ok(), "requests of {path} never end");
    }

    /// Clears the recorded requests.
    pub fn clear_log(&self) {
        self.shared
            .log
            .send_modify(|log| *log = RequestLog { generation: log.generation + 1, ..RequestLog::default() });
    }
}

impl Drop for FaultProxy {
    fn drop(&mut self) {
        self.server_task.abort();
    }
}

enum Listener {
    Tcp(TcpListener, Option<TlsAcceptor>),
    Unix(UnixListener),
}

impl Listener {
    fn new(tcp: TcpListener, tls: Option<ServerConfig>) -> Self {
        let acceptor = |mut config: ServerConfig| {
            config.alpn_protocols = vec!["h2".into(), "http/1.1".into()];
            TlsAcceptor::from(Arc::new(config))
        };
        Self::Tcp(tcp, tls.map(acceptor))
    }
}

trait Io: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

/// Accepts connections, which end with the task.
async fn serve(listener: Listener, shared: Arc<Shared>) {
    let mut connections = JoinSet::new();
    loop {
        let (io, tls): (Box<dyn Io>, _) = match &listener {
            Listener::Tcp(tcp, tls) => (Box::new(tcp.accept().await.unwrap().0), tls.clone()),
            Listener::Unix(unix) => (Box::new(unix.accept().await.unwrap().0), None),
        };
        shared.connections.fetch_add(1, Relaxed);
        connections.spawn(serve_connection(io, tls, Arc::clone(&shared)));
    }
}

async fn serve_connection(io: Box<dyn Io>, tls: Option<TlsAcceptor>, shared: Arc<Shared>) -> Option<()> {
    let (io, h2): (Box<dyn Io>, _) = match tls {
        None => (io, false),
        Some(tls) => {
            let session = tls.accept(io).await.ok()?;
            let (h2, certificates) = {
                let (_, tls) = session.get_ref();
                (tls.alpn_protocol() == Some(b"h2"), tls.peer_certificates())
            };
            let certificate = certificates.and_then(<[_]>::first).map(|certificate| certificate.clone().into_owned());
            shared.client_certificates.lock().unwrap().push(certificate);
            (Box::new(session), h2)
        }
    };
    let service = service_fn(move |request| handle(Arc::clone(&shared), request));
    if h2 {
        http2::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(io), service).await.ok()
    } else {
        http1::Builder::new().serve_connection(TokioIo::new(io), service).await.ok()
    }
}

/// Handles one request; an error closes the connection.
async fn handle(shared: Arc<Shared>, request: Request<Incoming>) -> io::Result<Response<Body>> {
    let (parts, body) = request.into_parts();
    let body = body.collect().await.map_err(io::Error::other)?.to_bytes();
    let (_record, fault) = shared.record_request(&parts, &body);
    let (uri, sent, headers) = (parts.uri.clone(), body.clone(), parts.headers.clone());
    let forwarded = shared.forward(parts, body);
    match fault {
        None => Ok(forwarded.await?.map(full_body)),
        Some(Fault::Respond(answer)) => Ok(answer.map(full_body)),
        Some(Fault::EchoRequest(status)) => {
            let token = headers.get("x-vault-token").map_or("", |token| token.to_str().unwrap());
            let page = [format!("<p>no route for {token} {uri} ").as_bytes(), &sent].concat();
            Ok(Response::builder().status(status).body(full_body(page.into())).unwrap())
        }
        Some(Fault::Redirect(status, to)) => {
            let redirect = Response::builder().status(status).header(header::LOCATION, format!("{to}{uri}"));
            Ok(redirect.body(full_body(Bytes::new())).unwrap())
        }
        Some(Fault::LargeBody(size)) => Ok(Response::new(large_body(size))),
        Some(Fault::DropRequest) => Err(closed_by_test()),
        Some(Fault::DropResponse) => {
            forwarded.await?;
            Err(closed_by_test())
        }
        Some(Fault::TruncateResponse) => Ok(forwarded.await?.map(|body| truncated_body(&body))),
        Some(Fault::HoldRequest(gate)) => {
            gate.wait_until_open().await;
            Ok(forwarded.await?.map(full_body))
        }
        Some(Fault::HoldResponse(gate)) => {
            let answer = forwarded.await?;
            gate.wait_until_open().await;
            Ok(answer.map(full_body))
        }
        Some(Fault::SlowResponse(pause)) => Ok(forwarded.await?.map(|body| slow_body(&body, pause))),
    }
}

fn closed_by_test() -> io::Error {
    io::Error::other("the connection is closed, as the test wants")
}

fn full_body(body: Bytes) -> Body {
    Full::new(body).map_err(|never| match never {}).boxed_unsync()
}

fn truncated_body(body: &Bytes) -> Body {
    let half = body.slice(..body.len() / 2);
    StreamBody::new(stream::iter([Ok(Frame::data(half)), Err(closed_by_test())])).boxed_unsync()
}

fn large_body(size: usize) -> Body {
    const CHUNK: usize = 64 << 10;
    let chunk = Bytes::from(vec![b' '; CHUNK]);
    StreamBody::new(stream::iter(0..size.div_ceil(CHUNK)).map(move |_| Ok(Frame::data(chunk.clone())))).boxed_unsync()
}

fn slow_body(body: &Bytes, pause: Duration) -> Body {
    let size = body.len().div_ceil(16).max(1);
    let pieces: Vec<_> = body.chunks(size).map(Bytes::copy_from_slice).collect();
    let pieces = stream::iter(pieces).then(move |piece| async move {
        sleep(pause).await;
        Ok(Frame::data(piece))
    });
    StreamBody::new(pieces).boxed_unsync()
}

impl Shared {
    /// Records a request and returns its fault. The request ends when the guard is dropped.
    fn record_request(self: &Arc<Self>, parts: &Parts, body: &Bytes) -> (RequestGuard, Option<Fault>) {
        let path = parts.uri.path_and_query().unwrap().as_str();
        let seen = ReceivedRequest {
            method: parts.method.to_string(),
            path: path.strip_prefix("/v1/").unwrap_or(path).to_owned(),
            headers: parts.headers.clone(),
            body: body.clone(),
            received_at: Instant::now(),
        };
        let mut rules = self.rules.lock().unwrap();
        let rule = rules.iter_mut().find(|rule| rule.remaining > 0 && seen.matches(rule.method, &rule.path));
        let fault = rule.map(|rule| {
            rule.remaining -= 1;
            rule.fault.clone()
        });
        let (mut number, mut forgotten) = (0, 0);
        self.log.send_modify(|log| {
            (number, forgotten) = (log.requests.len(), log.generation);
            log.requests.push(seen);
            log.events.push((number, true));
        });
        (RequestGuard { shared: Arc::clone(self), index: number, generation: forgotten }, fault)
    }

    async fn forward(&self, parts: Parts, body: Bytes) -> io::Result<Response<Bytes>> {
        let path = parts.uri.path_and_query().unwrap();
        let uri = format!("{}{path}", required_env("VAULTMOUNT_TEST_BAO_ADDR")).parse().unwrap();
        let mut request = Request::from_parts(parts, Full::new(body));
        *request.uri_mut() = uri;
        *request.version_mut() = Version::HTTP_11;
        request.headers_mut().remove(header::HOST);
        let mut response = self.upstream.request(request).await.map_err(io::Error::other)?;
        response.headers_mut().remove(header::TRANSFER_ENCODING);
        let (parts, body) = response.into_parts();
        Ok(Response::from_parts(parts, body.collect().await.map_err(io::Error::other)?.to_bytes()))
    }
}

struct RequestGuard {
    shared: Arc<Shared>,
    index: usize,
    generation: usize,
}

impl Drop for RequestGuard {
    fn drop(&mut self) {
        self.shared.log.send_modify(|log| {
            if log.generation == self.generation {
                log.events.push((self.index, false));
            }
        });
    }
}
