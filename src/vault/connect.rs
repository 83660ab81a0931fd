//! Connections to one Vault endpoint: TCP or a unix socket, direct or through a proxy, plain or TLS, and why not.

mod error;
mod fault;
mod guard;
mod handshake;
mod proxy;
mod stream;
mod tcp;
#[cfg(test)]
mod tests;

use std::{
    fmt,
    path::PathBuf,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    task::{Context, Poll},
    time::Duration,
};

use arc_swap::ArcSwap;
use http::{HeaderValue, Uri};
use hyper_util::{client::proxy::matcher::Intercept, rt::TokioIo};
use jiff::Timestamp;
use rustls::{
    ClientConfig,
    client::Resumption,
    pki_types::{ServerName, UnixTime},
    time_provider::TimeProvider,
};
use tokio::{
    net::UnixStream,
    time::{Instant, timeout_at},
};
use tower::Service;

use crate::tls::{self, Certificates, Oldest, Tls, TlsError};
use handshake::handshake;
use stream::{Io, Use};
use tcp::Target;

pub use error::{ConnectError, ProxyFault, Stage, connect_error};
pub use fault::TlsFault;
pub use proxy::{Proxies, ProxyError};
pub use stream::Stream;
pub use tcp::Lookups;

/// How long a connection may take, from the name to the end of the TLS handshake, unless [`Options::timeout`] says else.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// How to reach an endpoint, beside its TLS settings.
#[derive(Clone, Debug)]
pub struct Options {
    /// Connect to this unix socket, whatever the address says.
    pub socket: Option<PathBuf>,
    /// Proxies on the way.
    pub proxies: Proxies,
    /// A tenant chose the address: refuse those that are the node's own ([`ConnectError::Guarded`]).
    ///
    /// Checked on the very addresses that are connected to. A name that a proxy resolves is the proxy's to judge;
    /// an IP address is still checked here.
    pub guarded: bool,
    /// For name, TCP, proxy and TLS together.
    pub timeout: Duration,
    /// Offer HTTP/2 to TLS servers. Plain connections speak HTTP/1.1.
    pub http2: bool,
    /// The oldest version of TLS that is spoken.
    pub oldest: Oldest,
    /// Places for lookups of names.
    pub lookups: Lookups,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            socket: None,
            proxies: Proxies::none(),
            guarded: false,
            timeout: CONNECT_TIMEOUT,
            http2: true,
            oldest: Oldest::Tls12,
            lookups: Lookups::of_server(),
        }
    }
}

/// Makes connections for hyper's client. Cheap to clone.
#[derive(Clone)]
pub struct Connector {
    inner: Arc<Inner>,
}

struct Inner {
    /// Shared with the same of another timeout.
    settings: Arc<ArcSwap<Settings>>,
    server_name: Option<ServerName<'static>>,
    options: Options,
}

/// What was read of TLS files at one time.
pub(super) struct Settings {
    tls: Arc<ClientConfig>,
    /// When the certificates end that were read.
    pub(super) certificates: Certificates,
    /// Whether a server was ever spoken to with it.
    worked: AtomicBool,
}

impl Settings {
    /// Reads the TLS files, and blocks while it does.
    pub(super) fn read(tls: &Tls, options: &Options) -> Result<Self, TlsError> {
        let (mut config, certificates) = tls::load(tls, options.oldest)?;
        config.alpn_protocols =
            if options.http2 { vec!["h2".into(), "http/1.1".into()] } else { vec!["http/1.1".into()] };
        Ok(Self { tls: Arc::new(config), certificates, worked: AtomicBool::new(false) })
    }

    /// Whether a server was ever spoken to with it.
    pub(super) fn worked(&self) -> bool {
        self.worked.load(Relaxed)
    }
}

impl Connector {
    /// A connector with these settings. Reads the TLS files, and blocks while it does.
    pub fn new(tls: &Tls, options: Options) -> Result<Self, TlsError> {
        let settings = Arc::new(ArcSwap::from_pointee(Settings::read(tls, &options)?));
        let server_name = tls
            .server_name
            .as_ref()
            .map(|name| ServerName::try_from(name.clone()).map_err(|_| TlsError::ServerName { name: name.clone() }));
        let inner = Inner { settings, server_name: server_name.transpose()?, options };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// The same with another limit of [`Options::timeout`].
    #[must_use]
    pub fn within(&self, timeout: Duration) -> Self {
        let Inner { settings, server_name, options } = &*self.inner;
        let options = Options { timeout, ..options.clone() };
        Self { inner: Arc::new(Inner { settings: Arc::clone(settings), server_name: server_name.clone(), options }) }
    }

    /// What new connections are made with.
    pub(super) fn settings(&self) -> Arc<Settings> {
        self.inner.settings.load_full()
    }

    /// Reads the TLS files again, for [`Connector::change`]; those before that worked are not given up for what is half written. Blocks.
    pub(super) fn reread(&self, tls: &Tls) -> Result<Settings, TlsError> {
        let (settings, used) = (Settings::read(tls, &self.inner.options)?, self.settings());
        match settings.certificates.torn_since(&used.certificates) {
            // Else they are as good as those before.
            Some(place) if used.worked() => Err(TlsError::Torn { place: place.to_owned() }),
            _ => Ok(settings),
        }
    }

    /// New connections are made with these settings from now on, also of the connectors that [`Connector::within`] made.
    pub(super) fn change(&self, settings: Settings) {
        self.inner.settings.store(Arc::new(settings));
    }

    /// The `Proxy-Authorization` that a request to this URI must carry: plain HTTP through a proxy with a password.
    #[must_use]
    pub fn proxy_authorization(&self, uri: &Uri) -> Option<HeaderValue> {
        self.inner.forwarder(uri)?.basic_auth().cloned()
    }

    /// What an answer with status 407 means: the proxy that forwards plain HTTP wants other credentials.
    pub fn proxy_credentials(&self, uri: &Uri) -> Option<ConnectError> {
        let proxy = self.inner.forwarder(uri)?;
        Some(refused_by(&proxy, &Target::of(uri), ProxyFault::Credentials))
    }

    /// When the certificate of a TLS server that is accepted now will be over: a client whose clock is a hundred years ahead
    /// is told why it accepts it no more.
    pub async fn certificate_end(&self, uri: &Uri) -> Option<Timestamp> {
        let mut tls = ClientConfig::clone(&self.settings().tls);
        tls.time_provider = Arc::new(Later);
        // A session that is resumed looks at no certificate.
        tls.resumption = Resumption::disabled();
        let (server_name, options) = (self.inner.server_name.clone(), self.inner.options.clone());
        let certificates = Certificates::default();
        let settings = Settings { tls: Arc::new(tls), certificates, worked: AtomicBool::new(false) };
        let settings = Arc::new(ArcSwap::from_pointee(settings));
        match (Inner { settings, server_name, options }).connect(uri).await {
            Err(ConnectError::Tls { fault: TlsFault::Expired { at: Some(end) }, .. }) => end.parse().ok(),
            _ => None,
        }
    }
}

/// The time in a hundred years.
#[derive(Debug)]
struct Later;

impl TimeProvider for Later {
    fn current_time(&self) -> Option<UnixTime> {
        let century = Duration::from_secs(100 * 365 * 24 * 3600);
        Some(UnixTime::since_unix_epoch(Duration::from_secs(UnixTime::now().as_secs()) + century))
    }
}

impl fmt::Debug for Connector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connector").field("options", &self.inner.options).finish_non_exhaustive()
    }
}

impl Service<Uri> for Connector {
    type Response = TokioIo<Stream>;
    type Error = ConnectError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, ConnectError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), ConnectError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let inner = Arc::clone(&self.inner);
        Box::pin(async move { inner.connect(&uri).await.map(TokioIo::new) })
    }
}

impl Inner {
    async fn connect(&self, uri: &Uri) -> Result<Stream, ConnectError> {
        let target = Target::of(uri);
        let deadline = Deadline { at: Instant::now() + self.options.timeout, after: self.options.timeout };
        let proxy = self.proxy(uri);
        let (io, used) = match (&self.options.socket, &proxy) {
            (Some(path), _) => (unix(path).await?, Use::Plain),
            (None, None) => (self.tcp(&target, self.options.guarded, deadline).await?, Use::Plain),
            (None, Some(proxy)) => self.through(proxy, &target, deadline).await?,
        };
        let settings = self.settings.load_full();
        if !target.tls {
            return Ok(Stream::new(io, target.to_string(), used));
        }
        let secured = self.secure(&settings.tls, self.server_name.clone(), io, &target, deadline).await;
        let (io, h2) = secured.map_err(|fault| match (fault, &proxy) {
            (ConnectError::Tls { fault: TlsFault::NotTls, .. }, Some(proxy)) => {
                refused_by(proxy, &target, ProxyFault::NotTls)
            }
            (fault, _) => fault,
        })?;
        settings.worked.store(true, Relaxed);
        Ok(Stream::new(io, target.to_string(), Use::Tls { h2 }))
    }

    /// The proxy that takes requests to a URI itself, as plain HTTP.
    fn forwarder(&self, uri: &Uri) -> Option<Intercept> {
        self.proxy(uri).filter(|proxy| uri.scheme_str() == Some("http") && !proxy::is_socks(proxy))
    }

    /// The proxy on the way to a URI, if there is one.
    fn proxy(&self, uri: &Uri) -> Option<Intercept> {
        if self.options.socket.is_some() { None } else { self.options.proxies.intercept(uri) }
    }

    /// A connection to the proxy, and through it to the target unless the proxy forwards requests.
    async fn through(
        &self,
        proxy: &Intercept,
        target: &Target,
        deadline: Deadline,
    ) -> Result<(Box<dyn Io>, Use), ConnectError> {
        if self.options.guarded {
            guard::check_unresolved(&target.host)?;
        }
        let hop = Target::of(proxy.uri());
        let failed = |fault| refused_by(proxy, target, fault);
        let io = self.to_proxy(&hop, deadline).await.map_err(|error| failed(ProxyFault::Connect(Box::new(error))))?;
        if !target.tls && !proxy::is_socks(proxy) {
            return Ok((io, Use::Forwarded));
        }
        let io = timeout_at(deadline.at, proxy::pass(io, target, proxy))
            .await
            .map_err(|_| deadline.missed(Stage::Proxy, target))?
            .map_err(failed)?;
        Ok((io, Use::Plain))
    }

    async fn tcp(&self, target: &Target, guarded: bool, deadline: Deadline) -> Result<Box<dyn Io>, ConnectError> {
        let addresses = deadline.bound(Stage::Name, target, self.options.lookups.resolve(target)).await?;
        if guarded {
            guard::check(&target.host, &addresses)?;
        }
        let connecting = tcp::connect(target, addresses, deadline.after);
        Ok(Box::new(deadline.bound(Stage::Tcp, target, connecting).await?))
    }

    async fn to_proxy(&self, hop: &Target, deadline: Deadline) -> Result<Box<dyn Io>, ConnectError> {
        let io = self.tcp(hop, false, deadline).await?;
        if !hop.tls {
            return Ok(io);
        }
        let mut config = ClientConfig::clone(&self.settings.load().tls);
        config.alpn_protocols.clear();
        Ok(self.secure(&Arc::new(config), None, io, hop, deadline).await?.0)
    }

    async fn secure(
        &self,
        config: &Arc<ClientConfig>,
        name: Option<ServerName<'static>>,
        io: Box<dyn Io>,
        target: &Target,
        deadline: Deadline,
    ) -> Result<(Box<dyn Io>, bool), ConnectError> {
        let at = target.to_string();
        let name = match name {
            Some(name) => name,
            None => ServerName::try_from(target.host.clone()).map_err(|_| ConnectError::Tls {
                at: at.clone(),
                fault: TlsFault::Other("the host is no valid name for TLS".to_owned()),
            })?,
        };
        let secured = deadline.bound(Stage::Tls, target, handshake(config, name, io, &at)).await;
        secured.map_err(|fault| match fault {
            ConnectError::Tls { at, fault: TlsFault::Version { .. } } => {
                ConnectError::Tls { at, fault: TlsFault::Version { oldest: self.options.oldest } }
            }
            fault => fault,
        })
    }
}

fn refused_by(proxy: &Intercept, target: &Target, fault: ProxyFault) -> ConnectError {
    ConnectError::Proxy { proxy: Target::of(proxy.uri()).to_string(), at: target.to_string(), fault }
}

/// When a connection must stand, and the time it had from the start.
#[derive(Clone, Copy)]
struct Deadline {
    at: Instant,
    after: Duration,
}

impl Deadline {
    fn missed(self, stage: Stage, target: &Target) -> ConnectError {
        ConnectError::TimedOut { at: target.to_string(), stage, after: self.after }
    }

    async fn bound<T>(
        self,
        stage: Stage,
        target: &Target,
        step: impl Future<Output = Result<T, ConnectError>>,
    ) -> Result<T, ConnectError> {
        timeout_at(self.at, step).await.map_err(|_| self.missed(stage, target))?
    }
}

async fn unix(path: &PathBuf) -> Result<Box<dyn Io>, ConnectError> {
    match UnixStream::connect(path).await {
        Ok(stream) => Ok(Box::new(stream)),
        Err(error) => Err(ConnectError::Socket { path: path.clone(), said: error.to_string() }),
    }
}
