//! A server that stands before the real OpenBao, does to requests what a test tells it to, and remembers them.

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

use super::setting;

/// What becomes of a request.
#[derive(Clone)]
pub enum Fault {
    /// This answer, and OpenBao never hears of it.
    Answer(Response<Bytes>),
    /// An answer with this status that repeats the request, as the pages of some proxies do.
    Echo(u16),
    /// A redirect with this status to the same path below this address.
    Redirect(u16, String),
    /// A success with a body of this many bytes, whose length is not announced; OpenBao never hears of it.
    Endless(usize),
    /// The connection is closed, and OpenBao never hears of it.
    LoseRequest,
    /// OpenBao answers, and the connection is closed.
    LoseAnswer,
    /// OpenBao answers, and the connection is closed after half of it.
    CutAnswer,
    /// OpenBao hears of it when the gate opens.
    Hold(Gate),
    /// OpenBao answers at once, which goes on when the gate opens.
    HoldAnswer(Gate),
    /// OpenBao's answer goes on in sixteen pieces, each after this pause.
    Slow(Duration),
}

/// Refuses with one of Vault's errors.
pub fn status(status: u16, error: &str) -> Fault {
    answer(status, &[("content-type", "application/json")], json!({"errors": [error]}).to_string())
}

/// Answers instead of OpenBao.
pub fn answer(status: u16, headers: &[(&str, &str)], body: impl Into<Bytes>) -> Fault {
    let builder = headers.iter().fold(Response::builder().status(status), |b, (name, value)| b.header(*name, *value));
    Fault::Answer(builder.body(body.into()).unwrap())
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

    async fn pass(&self) {
        self.0.subscribe().wait_for(|open| *open).await.unwrap();
    }
}

/// The server; gone when dropped.
pub struct Faulty {
    /// `http://…`, `https://…` or `unix://…`.
    pub address: String,
    shared: Arc<Shared>,
    serving: JoinHandle<()>,
    /// Keeps the port while nothing listens there.
    down: Option<TcpSocket>,
}

struct Shared {
    rules: Mutex<Vec<Rule>>,
    log: watch::Sender<Log>,
    connections: AtomicUsize,
    /// What clients showed in each TLS handshake, if anything.
    shown: Mutex<Vec<Option<CertificateDer<'static>>>>,
    upstream: Client<HttpConnector, Full<Bytes>>,
}

type Body = UnsyncBoxBody<Bytes, io::Error>;

struct Rule {
    left: usize,
    method: &'static str,
    path: String,
    fault: Fault,
}

/// A request that came.
#[derive(Clone)]
pub struct Seen {
    pub method: String,
    /// Below `/v1/`, with the query.
    pub path: String,
    pub headers: HeaderMap,
    pub body: Bytes,
    pub at: Instant,
}

/// Every request, and which of them began (`true`) or ended when.
#[derive(Default)]
struct Log {
    /// How often what was before was forgotten.
    forgotten: usize,
    seen: Vec<Seen>,
    events: Vec<(usize, bool)>,
}

impl Log {
    /// How many requests whose paths begin so were there after each that began or ended.
    fn at_once(&self, path: &str) -> impl Iterator<Item = usize> {
        let events = self.events.iter().filter(move |(seen, _)| self.seen[*seen].path.starts_with(path));
        events.scan(0, |now, (_, begins)| {
            *now = if *begins { *now + 1 } else { *now - 1 };
            Some(*now)
        })
    }
}

impl Seen {
    fn is(&self, method: &str, path: &str) -> bool {
        self.method == method && self.path.starts_with(path)
    }
}

/// On a port below those that outgoing connections are given: none of them takes it while the server is down.
async fn listener() -> TcpListener {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    loop {
        let port = 30_000 + std::process::id().wrapping_mul(31).wrapping_add(NEXT.fetch_add(1, Relaxed)) % 2700;
        if let Ok(listener) = TcpListener::bind(("127.0.0.1", u16::try_from(port).unwrap())).await {
            return listener;
        }
    }
}

impl Faulty {
    /// Over plain HTTP.
    pub async fn start() -> Self {
        let listener = listener().await;
        Self::over(format!("http://{}", listener.local_addr().unwrap()), Listener::new(listener, None))
    }

    /// Over TLS, with HTTP/2 if the client offers it.
    pub async fn tls(config: ServerConfig) -> Self {
        let listener = listener().await;
        Self::over(format!("https://{}", listener.local_addr().unwrap()), Listener::new(listener, Some(config)))
    }

    /// On a unix socket.
    pub fn unix(path: &Path) -> Self {
        Self::over(format!("unix://{}", path.display()), Listener::Unix(UnixListener::bind(path).unwrap()))
    }

    fn over(address: String, listener: Listener) -> Self {
        let shared = Arc::new(Shared {
            rules: Mutex::default(),
            log: watch::Sender::default(),
            connections: AtomicUsize::new(0),
            shown: Mutex::default(),
            upstream: Client::builder(TokioExecutor::new()).build_http(),
        });
        Self { address, serving: tokio::spawn(serve(listener, Arc::clone(&shared))), shared, down: None }
    }

    /// From now on, every request of this method whose path below `/v1/` begins so fares so, unless an earlier rule
    /// says else.
    pub fn every(&self, method: &'static str, path: &str, fault: Fault) {
        self.next(usize::MAX, method, path, fault);
    }

    /// The same for the next few requests.
    pub fn next(&self, count: usize, method: &'static str, path: &str, fault: Fault) {
        self.shared.rules.lock().unwrap().push(Rule { left: count, method, path: path.to_owned(), fault });
    }

    /// From now on every request fares well.
    pub fn heal(&self) {
        self.shared.rules.lock().unwrap().clear();
    }

    /// Closes every connection, and accepts no more.
    pub async fn down(&mut self) {
        self.serving.abort();
        let _ = (&mut self.serving).await;
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_reuseaddr(true).unwrap();
        socket.bind(self.address.split_once("://").unwrap().1.parse().unwrap()).unwrap();
        self.down = Some(socket);
    }

    /// Listens again, with or without TLS.
    pub fn up(&mut self, tls: Option<ServerConfig>) {
        let listener = Listener::new(self.down.take().unwrap().listen(64).unwrap(), tls);
        self.serving = tokio::spawn(serve(listener, Arc::clone(&self.shared)));
    }

    /// Waits until so many requests have come.
    pub async fn saw(&self, count: usize, method: &str, path: &str) {
        let mut log = self.shared.log.subscribe();
        let enough = log.wait_for(|log| log.seen.iter().filter(|s| s.is(method, path)).count() >= count);
        let enough = timeout(Duration::from_secs(10), enough).await.is_ok();
        assert!(enough, "{method} {path} came {} times, not {count}", self.seen(method, path).len());
    }

    /// The requests that came.
    pub fn seen(&self, method: &str, path: &str) -> Vec<Seen> {
        self.shared.log.borrow().seen.iter().filter(|s| s.is(method, path)).cloned().collect()
    }

    /// All requests that came.
    pub fn all(&self) -> Vec<Seen> {
        self.shared.log.borrow().seen.clone()
    }

    /// How often such a request came.
    pub fn count(&self, method: &str, path: &str) -> usize {
        self.seen(method, path).len()
    }

    /// How many requests came that do not ask how the server is.
    pub fn asked(&self) -> usize {
        let is_of_itself = |seen: &&Seen| ["sys/health", "sys/leader"].iter().any(|path| seen.path.starts_with(path));
        let log = self.shared.log.borrow();
        log.seen.len() - log.seen.iter().filter(is_of_itself).count()
    }

    /// How many requests whose paths begin so were there at once, at most.
    pub fn peak(&self, path: &str) -> usize {
        self.shared.log.borrow().at_once(path).max().unwrap_or(0)
    }

    /// What the client showed in the latest TLS handshake that succeeded.
    pub fn shown(&self) -> Option<CertificateDer<'static>> {
        self.shared.shown.lock().unwrap().last().cloned().flatten()
    }

    /// How many connections were accepted.
    pub fn connections(&self) -> usize {
        self.shared.connections.load(Relaxed)
    }
}

#[allow(dead_code, reason = "for runs of minutes")]
impl Faulty {
    /// Waits until no request is there whose path begins so.
    pub async fn idle(&self, path: &str) {
        let mut log = self.shared.log.subscribe();
        let idle = timeout(Duration::from_secs(60), log.wait_for(|log| log.at_once(path).last().unwrap_or(0) == 0));
        assert!(idle.await.is_ok(), "requests of {path} never end");
    }

    /// Forgets the requests so far.
    pub fn forget(&self) {
        self.shared.log.send_modify(|log| *log = Log { forgotten: log.forgotten + 1, ..Log::default() });
    }
}

impl Drop for Faulty {
    fn drop(&mut self) {
        self.serving.abort();
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

/// Connections end with the task.
async fn serve(listener: Listener, shared: Arc<Shared>) {
    let mut connections = JoinSet::new();
    loop {
        let (io, tls): (Box<dyn Io>, _) = match &listener {
            Listener::Tcp(tcp, tls) => (Box::new(tcp.accept().await.unwrap().0), tls.clone()),
            Listener::Unix(unix) => (Box::new(unix.accept().await.unwrap().0), None),
        };
        shared.connections.fetch_add(1, Relaxed);
        connections.spawn(connection(io, tls, Arc::clone(&shared)));
    }
}

async fn connection(io: Box<dyn Io>, tls: Option<TlsAcceptor>, shared: Arc<Shared>) -> Option<()> {
    let (io, h2): (Box<dyn Io>, _) = match tls {
        None => (io, false),
        Some(tls) => {
            let session = tls.accept(io).await.ok()?;
            let (h2, certificates) = {
                let (_, tls) = session.get_ref();
                (tls.alpn_protocol() == Some(b"h2"), tls.peer_certificates())
            };
            let certificate = certificates.and_then(<[_]>::first).map(|certificate| certificate.clone().into_owned());
            shared.shown.lock().unwrap().push(certificate);
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

/// An error closes the connection.
async fn handle(shared: Arc<Shared>, request: Request<Incoming>) -> io::Result<Response<Body>> {
    let (parts, body) = request.into_parts();
    let body = body.collect().await.map_err(io::Error::other)?.to_bytes();
    let (_record, fault) = shared.begin(&parts, &body);
    let (uri, sent, headers) = (parts.uri.clone(), body.clone(), parts.headers.clone());
    let forwarded = shared.forward(parts, body);
    match fault {
        None => Ok(forwarded.await?.map(whole)),
        Some(Fault::Answer(answer)) => Ok(answer.map(whole)),
        Some(Fault::Echo(status)) => {
            let token = headers.get("x-vault-token").map_or("", |token| token.to_str().unwrap());
            let page = [format!("<p>no route for {token} {uri} ").as_bytes(), &sent].concat();
            Ok(Response::builder().status(status).body(whole(page.into())).unwrap())
        }
        Some(Fault::Redirect(status, to)) => {
            let redirect = Response::builder().status(status).header(header::LOCATION, format!("{to}{uri}"));
            Ok(redirect.body(whole(Bytes::new())).unwrap())
        }
        Some(Fault::Endless(size)) => Ok(Response::new(endless(size))),
        Some(Fault::LoseRequest) => Err(closed()),
        Some(Fault::LoseAnswer) => {
            forwarded.await?;
            Err(closed())
        }
        Some(Fault::CutAnswer) => Ok(forwarded.await?.map(|body| half(&body))),
        Some(Fault::Hold(gate)) => {
            gate.pass().await;
            Ok(forwarded.await?.map(whole))
        }
        Some(Fault::HoldAnswer(gate)) => {
            let answer = forwarded.await?;
            gate.pass().await;
            Ok(answer.map(whole))
        }
        Some(Fault::Slow(pause)) => Ok(forwarded.await?.map(|body| slow(&body, pause))),
    }
}

fn closed() -> io::Error {
    io::Error::other("the connection is closed, as the test wants")
}

fn whole(body: Bytes) -> Body {
    Full::new(body).map_err(|never| match never {}).boxed_unsync()
}

fn half(body: &Bytes) -> Body {
    let half = body.slice(..body.len() / 2);
    StreamBody::new(stream::iter([Ok(Frame::data(half)), Err(closed())])).boxed_unsync()
}

fn endless(size: usize) -> Body {
    const CHUNK: usize = 64 << 10;
    let chunk = Bytes::from(vec![b' '; CHUNK]);
    StreamBody::new(stream::iter(0..size.div_ceil(CHUNK)).map(move |_| Ok(Frame::data(chunk.clone())))).boxed_unsync()
}

fn slow(body: &Bytes, pause: Duration) -> Body {
    let size = body.len().div_ceil(16).max(1);
    let pieces: Vec<_> = body.chunks(size).map(Bytes::copy_from_slice).collect();
    let pieces = stream::iter(pieces).then(move |piece| async move {
        sleep(pause).await;
        Ok(Frame::data(piece))
    });
    StreamBody::new(pieces).boxed_unsync()
}

impl Shared {
    /// Notes that a request came, and tells what becomes of it. It ends with the record.
    fn begin(self: &Arc<Self>, parts: &Parts, body: &Bytes) -> (Record, Option<Fault>) {
        let path = parts.uri.path_and_query().unwrap().as_str();
        let seen = Seen {
            method: parts.method.to_string(),
            path: path.strip_prefix("/v1/").unwrap_or(path).to_owned(),
            headers: parts.headers.clone(),
            body: body.clone(),
            at: Instant::now(),
        };
        let mut rules = self.rules.lock().unwrap();
        let rule = rules.iter_mut().find(|rule| rule.left > 0 && seen.is(rule.method, &rule.path));
        let fault = rule.map(|rule| {
            rule.left -= 1;
            rule.fault.clone()
        });
        let (mut number, mut forgotten) = (0, 0);
        self.log.send_modify(|log| {
            (number, forgotten) = (log.seen.len(), log.forgotten);
            log.seen.push(seen);
            log.events.push((number, true));
        });
        (Record { shared: Arc::clone(self), number, forgotten }, fault)
    }

    async fn forward(&self, parts: Parts, body: Bytes) -> io::Result<Response<Bytes>> {
        let path = parts.uri.path_and_query().unwrap();
        let uri = format!("{}{path}", setting("VAULTMOUNT_TEST_BAO_ADDR")).parse().unwrap();
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

struct Record {
    shared: Arc<Shared>,
    number: usize,
    forgotten: usize,
}

impl Drop for Record {
    fn drop(&mut self) {
        self.shared.log.send_modify(|log| {
            if log.forgotten == self.forgotten {
                log.events.push((self.number, false));
            }
        });
    }
}
