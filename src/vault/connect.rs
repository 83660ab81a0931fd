//! Connections to one Vault endpoint: TCP or a unix socket, direct or through a proxy, plain or TLS, with their errors.

mod address_guard;
mod error;
mod handshake;
mod proxy;
mod stream;
mod tcp;
#[cfg(test)]
mod tests;
mod tls_error;

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

use crate::tls::{self, CertificateSummary, MinTlsVersion, Tls, TlsError};
use handshake::handshake;
use stream::{Io, StreamMode};
use tcp::Target;

pub use error::{ConnectError, ConnectStage, ProxyConnectError, find_connect_error, innermost_message};
pub use proxy::{InvalidProxyUrl, Proxies};
pub use stream::Stream;
pub use tcp::DnsLimiter;
pub use tls_error::HandshakeError;

/// Default of [`ConnectOptions::timeout`].
pub const DEFAULT_CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Connection options of an endpoint, without its TLS settings.
#[derive(Clone, Debug)]
pub struct ConnectOptions {
    /// Unix socket to connect to instead of the address.
    pub unix_socket: Option<PathBuf>,
    /// Proxies for the connection.
    pub proxies: Proxies,
    /// Reject the node's own addresses ([`ConnectError::BlockedAddress`]), because a tenant chose the address.
    ///
    /// The check applies to exactly the addresses that are connected to. A host name that a proxy resolves is not checked, but
    /// an IP address is.
    pub deny_local_addresses: bool,
    /// Timeout for DNS lookup, TCP connect, proxy and TLS handshake together.
    pub timeout: Duration,
    /// Offer HTTP/2 to TLS servers. Plain connections use HTTP/1.1.
    pub offer_http2: bool,
    /// Minimum TLS version.
    pub min_tls_version: MinTlsVersion,
    /// Concurrency limits for DNS lookups.
    pub dns_limiter: DnsLimiter,
}

impl Default for ConnectOptions {
    fn default() -> Self {
        Self {
            unix_socket: None,
            proxies: Proxies::none(),
            deny_local_addresses: false,
            timeout: DEFAULT_CONNECT_TIMEOUT,
            offer_http2: true,
            min_tls_version: MinTlsVersion::Tls12,
            dns_limiter: DnsLimiter::for_server(),
        }
    }
}

/// Connector for hyper's client. Cheap to clone.
#[derive(Clone)]
pub struct Connector {
    inner: Arc<Inner>,
}

struct Inner {
    /// Shared with the connectors that [`Connector::with_timeout`] made.
    loaded_tls: Arc<ArcSwap<LoadedTls>>,
    server_name: Option<ServerName<'static>>,
    options: ConnectOptions,
}

/// TLS settings loaded from files at one time.
pub(super) struct LoadedTls {
    client_config: Arc<ClientConfig>,
    /// Expiry of the loaded certificates.
    pub(super) certificates: CertificateSummary,
    /// True once a TLS handshake with these settings has succeeded.
    has_connected: AtomicBool,
}

impl LoadedTls {
    /// Reads the TLS files. Blocks.
    pub(super) fn load(tls: &Tls, options: &ConnectOptions) -> Result<Self, TlsError> {
        let (mut config, certificates) = tls::load_config_and_certificates(tls, options.min_tls_version)?;
        config.alpn_protocols =
            if options.offer_http2 { vec!["h2".into(), "http/1.1".into()] } else { vec!["http/1.1".into()] };
        Ok(Self { client_config: Arc::new(config), certificates, has_connected: AtomicBool::new(false) })
    }

    /// Returns true once a TLS handshake with these settings has succeeded.
    pub(super) fn has_connected(&self) -> bool {
        self.has_connected.load(Relaxed)
    }
}

impl Connector {
    /// Creates a connector with these settings. Reads the TLS files. Blocks.
    pub fn new(tls: &Tls, options: ConnectOptions) -> Result<Self, TlsError> {
        let loaded_tls = Arc::new(ArcSwap::from_pointee(LoadedTls::load(tls, &options)?));
        let server_name = tls.server_name.as_ref().map(|name| {
            ServerName::try_from(name.clone()).map_err(|_| TlsError::InvalidServerName { name: name.clone() })
        });
        let inner = Inner { loaded_tls, server_name: server_name.transpose()?, options };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Returns this connector with another [`ConnectOptions::timeout`].
    #[must_use]
    pub fn with_timeout(&self, timeout: Duration) -> Self {
        let Inner { loaded_tls, server_name, options } = &*self.inner;
        let options = ConnectOptions { timeout, ..options.clone() };
        Self {
            inner: Arc::new(Inner { loaded_tls: Arc::clone(loaded_tls), server_name: server_name.clone(), options }),
        }
    }

    /// Returns the TLS settings for new connections.
    pub(super) fn loaded_tls(&self) -> Arc<LoadedTls> {
        self.inner.loaded_tls.load_full()
    }

    /// Reads the TLS files again, for [`Connector::replace_tls`]. Blocks.
    ///
    /// If the current settings have worked, newly truncated files are an error, because they may be half written.
    pub(super) fn load_new_tls(&self, tls: &Tls) -> Result<LoadedTls, TlsError> {
        let (new_tls, current_tls) = (LoadedTls::load(tls, &self.inner.options)?, self.loaded_tls());
        match new_tls.certificates.newly_truncated(&current_tls.certificates) {
            // If the current settings never worked, truncated files are no worse.
            Some(location) if current_tls.has_connected() => Err(TlsError::Truncated { location: location.to_owned() }),
            _ => Ok(new_tls),
        }
    }

    /// Replaces the TLS settings for new connections, including those of connectors that [`Connector::with_timeout`] made.
    pub(super) fn replace_tls(&self, loaded_tls: LoadedTls) {
        self.inner.loaded_tls.store(Arc::new(loaded_tls));
    }

    /// Returns the `Proxy-Authorization` header that a request to this URI must carry. `None` unless plain HTTP goes through a
    /// proxy with a password.
    #[must_use]
    pub fn proxy_authorization(&self, uri: &Uri) -> Option<HeaderValue> {
        self.inner.forward_proxy(uri)?.basic_auth().cloned()
    }

    /// Returns the error for a response with status 407: the proxy that forwards plain HTTP requires other credentials.
    pub fn proxy_credentials_error(&self, uri: &Uri) -> Option<ConnectError> {
        let proxy = self.inner.forward_proxy(uri)?;
        Some(proxy_error(&proxy, &Target::from_uri(uri), ProxyConnectError::AuthenticationRequired))
    }

    /// Returns the expiry of a TLS server's certificate, if the certificate is accepted now.
    ///
    /// It connects with a clock that is a hundred years ahead and reads the expiry from the resulting error.
    pub async fn fetch_certificate_expiry(&self, uri: &Uri) -> Option<Timestamp> {
        let mut client_config = ClientConfig::clone(&self.loaded_tls().client_config);
        client_config.time_provider = Arc::new(FarFutureClock);
        // A resumed TLS session does not verify the certificate.
        client_config.resumption = Resumption::disabled();
        let (server_name, options) = (self.inner.server_name.clone(), self.inner.options.clone());
        let certificates = CertificateSummary::default();
        let loaded_tls =
            LoadedTls { client_config: Arc::new(client_config), certificates, has_connected: AtomicBool::new(false) };
        let loaded_tls = Arc::new(ArcSwap::from_pointee(loaded_tls));
        match (Inner { loaded_tls, server_name, options }).connect(uri).await {
            Err(ConnectError::Tls { error: HandshakeError::Expired { not_after: Some(expiry) }, .. }) => {
                expiry.parse().ok()
            }
            _ => None,
        }
    }
}

/// Clock that is a hundred years ahead.
#[derive(Debug)]
struct FarFutureClock;

impl TimeProvider for FarFutureClock {
    fn current_time(&self) -> Option<UnixTime> {
        let hundred_years = Duration::from_secs(100 * 365 * 24 * 3600);
        Some(UnixTime::since_unix_epoch(Duration::from_secs(UnixTime::now().as_secs()) + hundred_years))
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
        let target = Target::from_uri(uri);
        let deadline = Deadline { instant: Instant::now() + self.options.timeout, timeout: self.options.timeout };
        let proxy = self.proxy_for(uri);
        let (io, mode) = match (&self.options.unix_socket, &proxy) {
            (Some(path), _) => (connect_unix(path).await?, StreamMode::Plain),
            (None, None) => {
                (self.connect_tcp(&target, self.options.deny_local_addresses, deadline).await?, StreamMode::Plain)
            }
            (None, Some(proxy)) => self.connect_via_proxy(proxy, &target, deadline).await?,
        };
        let loaded_tls = self.loaded_tls.load_full();
        if !target.uses_tls {
            return Ok(Stream::new(io, target.to_string(), mode));
        }
        let result =
            self.establish_tls(&loaded_tls.client_config, self.server_name.clone(), io, &target, deadline).await;
        let (io, h2) = result.map_err(|error| match (error, &proxy) {
            (ConnectError::Tls { error: HandshakeError::NotTls, .. }, Some(proxy)) => {
                proxy_error(proxy, &target, ProxyConnectError::NotTls)
            }
            (error, _) => error,
        })?;
        loaded_tls.has_connected.store(true, Relaxed);
        Ok(Stream::new(io, target.to_string(), StreamMode::Tls { h2 }))
    }

    /// Returns the proxy that forwards plain HTTP requests to this URI.
    fn forward_proxy(&self, uri: &Uri) -> Option<Intercept> {
        self.proxy_for(uri).filter(|proxy| uri.scheme_str() == Some("http") && !proxy::is_socks(proxy))
    }

    /// Returns the proxy for a URI, if there is one.
    fn proxy_for(&self, uri: &Uri) -> Option<Intercept> {
        if self.options.unix_socket.is_some() { None } else { self.options.proxies.intercept(uri) }
    }

    /// Connects to the proxy, and through it to the target unless the proxy forwards requests.
    async fn connect_via_proxy(
        &self,
        proxy: &Intercept,
        target: &Target,
        deadline: Deadline,
    ) -> Result<(Box<dyn Io>, StreamMode), ConnectError> {
        if self.options.deny_local_addresses {
            address_guard::check_unresolved_host(&target.host)?;
        }
        let proxy_target = Target::from_uri(proxy.uri());
        let to_error = |error| proxy_error(proxy, target, error);
        let io = self
            .connect_to_proxy(&proxy_target, deadline)
            .await
            .map_err(|error| to_error(ProxyConnectError::Connect(Box::new(error))))?;
        if !target.uses_tls && !proxy::is_socks(proxy) {
            return Ok((io, StreamMode::Forwarded));
        }
        let io = timeout_at(deadline.instant, proxy::connect_through(io, target, proxy))
            .await
            .map_err(|_| deadline.timed_out(ConnectStage::Proxy, target))?
            .map_err(to_error)?;
        Ok((io, StreamMode::Plain))
    }

    async fn connect_tcp(
        &self,
        target: &Target,
        deny_local_addresses: bool,
        deadline: Deadline,
    ) -> Result<Box<dyn Io>, ConnectError> {
        let addresses =
            deadline.enforce(ConnectStage::DnsLookup, target, self.options.dns_limiter.resolve(target)).await?;
        if deny_local_addresses {
            address_guard::check_addresses(&target.host, &addresses)?;
        }
        let connecting = tcp::connect(target, addresses, deadline.timeout);
        Ok(Box::new(deadline.enforce(ConnectStage::Tcp, target, connecting).await?))
    }

    async fn connect_to_proxy(&self, proxy_target: &Target, deadline: Deadline) -> Result<Box<dyn Io>, ConnectError> {
        let io = self.connect_tcp(proxy_target, false, deadline).await?;
        if !proxy_target.uses_tls {
            return Ok(io);
        }
        let mut config = ClientConfig::clone(&self.loaded_tls.load().client_config);
        config.alpn_protocols.clear();
        Ok(self.establish_tls(&Arc::new(config), None, io, proxy_target, deadline).await?.0)
    }

    async fn establish_tls(
        &self,
        config: &Arc<ClientConfig>,
        name: Option<ServerName<'static>>,
        io: Box<dyn Io>,
        target: &Target,
        deadline: Deadline,
    ) -> Result<(Box<dyn Io>, bool), ConnectError> {
        let target_text = target.to_string();
        let name = match name {
            Some(name) => name,
            None => ServerName::try_from(target.host.clone()).map_err(|_| ConnectError::Tls {
                target: target_text.clone(),
                error: HandshakeError::Other("the host is not a valid TLS server name".to_owned()),
            })?,
        };
        let result = deadline.enforce(ConnectStage::Tls, target, handshake(config, name, io, &target_text)).await;
        result.map_err(|error| match error {
            ConnectError::Tls { target, error: HandshakeError::UnsupportedVersion { .. } } => ConnectError::Tls {
                target,
                error: HandshakeError::UnsupportedVersion { min_tls_version: self.options.min_tls_version },
            },
            error => error,
        })
    }
}

fn proxy_error(proxy: &Intercept, target: &Target, error: ProxyConnectError) -> ConnectError {
    ConnectError::Proxy { proxy: Target::from_uri(proxy.uri()).to_string(), target: target.to_string(), error }
}

/// Deadline of a connection attempt, and its timeout from the start.
#[derive(Clone, Copy)]
struct Deadline {
    instant: Instant,
    timeout: Duration,
}

impl Deadline {
    fn timed_out(self, stage: ConnectStage, target: &Target) -> ConnectError {
        ConnectError::TimedOut { target: target.to_string(), stage, timeout: self.timeout }
    }

    async fn enforce<T>(
        self,
        stage: ConnectStage,
        target: &Target,
        step: impl Future<Output = Result<T, ConnectError>>,
    ) -> Result<T, ConnectError> {
        timeout_at(self.instant, step).await.map_err(|_| self.timed_out(stage, target))?
    }
}

async fn connect_unix(path: &PathBuf) -> Result<Box<dyn Io>, ConnectError> {
    match UnixStream::connect(path).await {
        Ok(stream) => Ok(Box::new(stream)),
        Err(error) => Err(ConnectError::UnixSocket { path: path.clone(), message: error.to_string() }),
    }
}
