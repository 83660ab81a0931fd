//! DNS lookup and TCP connections.

use std::{
    fmt,
    net::{IpAddr, Ipv6Addr, SocketAddr},
    sync::{Arc, LazyLock},
    time::Duration,
};

use http::{Uri, uri::Scheme};
use hyper_util::client::legacy::connect::{HttpConnector, dns::Name};
use tokio::{
    net::{TcpStream, lookup_host},
    sync::Semaphore,
};
use tower::{ServiceExt as _, service_fn};

use super::error::ConnectError;
use crate::{
    task,
    text::{MAX_MESSAGE_BYTES, one_line},
};

/// Idle connections are probed, so that a connection dropped by a firewall is detected before a request uses it.
const KEEPALIVE_IDLE_TIME: Duration = Duration::from_secs(30);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
const KEEPALIVE_RETRIES: u32 = 3;

/// Server or proxy to connect to. Displayed as `host:port`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Target {
    /// True if the connection uses TLS.
    pub(super) uses_tls: bool,
    /// Host name, or IP address without brackets.
    pub(super) host: String,
    pub(super) port: u16,
}

impl Target {
    /// Returns the server or proxy of a URI. The port defaults to the scheme's default port.
    pub(super) fn from_uri(uri: &Uri) -> Self {
        let tls = uri.scheme() == Some(&Scheme::HTTPS);
        let default_port = match uri.scheme_str() {
            Some("https") => 443,
            Some("socks5" | "socks5h") => 1080,
            _ => 80,
        };
        let host = uri.host().unwrap_or_default().trim_start_matches('[').trim_end_matches(']').to_owned();
        Self { uses_tls: tls, host, port: uri.port_u16().unwrap_or(default_port) }
    }

    /// Returns true if the host is this node, which a proxy cannot reach. Same rule as Go's.
    pub(super) fn is_local(&self) -> bool {
        self.host == "localhost" || self.host.parse().is_ok_and(|address: IpAddr| address.is_loopback())
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.parse::<Ipv6Addr>().is_ok() {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

/// Concurrency limits for DNS lookups.
///
/// The system resolver blocks one of few threads, for half a minute if the DNS server does not answer. The limits keep slow
/// names from delaying others.
#[derive(Clone, Debug)]
pub struct DnsLimiter {
    own_permits: Arc<Semaphore>,
    shared_permits: Arc<Semaphore>,
}

/// Maximum concurrent DNS lookups for one operator server, and for all of them.
const MAX_LOOKUPS_PER_SERVER: usize = 2;
const MAX_OPERATOR_LOOKUPS: usize = 8;
/// Maximum concurrent DNS lookups for the classes of one Kubernetes namespace, and for all classes.
const MAX_LOOKUPS_PER_NAMESPACE: usize = 2;
const MAX_TENANT_LOOKUPS: usize = 4;

static OPERATOR_LOOKUPS: LazyLock<Arc<Semaphore>> = LazyLock::new(|| Arc::new(Semaphore::new(MAX_OPERATOR_LOOKUPS)));
static TENANT_LOOKUPS: LazyLock<Arc<Semaphore>> = LazyLock::new(|| Arc::new(Semaphore::new(MAX_TENANT_LOOKUPS)));

impl DnsLimiter {
    /// Returns the limits for one operator server.
    #[must_use]
    pub fn for_server() -> Self {
        Self {
            own_permits: Arc::new(Semaphore::new(MAX_LOOKUPS_PER_SERVER)),
            shared_permits: Arc::clone(&OPERATOR_LOOKUPS),
        }
    }

    /// Returns the limits for the servers that the classes of one Kubernetes namespace chose.
    #[must_use]
    pub fn for_namespace() -> Self {
        Self {
            own_permits: Arc::new(Semaphore::new(MAX_LOOKUPS_PER_NAMESPACE)),
            shared_permits: Arc::clone(&TENANT_LOOKUPS),
        }
    }

    /// Returns every address of the target, at least one.
    pub(super) async fn resolve(&self, target: &Target) -> Result<Vec<SocketAddr>, ConnectError> {
        if let Ok(address) = target.host.parse::<IpAddr>() {
            return Ok(vec![SocketAddr::new(address, target.port)]);
        }
        let permits = (
            Arc::clone(&self.own_permits).acquire_owned().await,
            Arc::clone(&self.shared_permits).acquire_owned().await,
        );
        let name = (target.host.clone(), target.port);
        // The lookup continues if its caller is cancelled, and keeps its permits until it ends.
        let lookup = task::spawn_boxed(async move {
            let _permits = permits;
            lookup_host(name).await.map(Iterator::collect::<Vec<_>>)
        });
        let not_found = |message: &str| ConnectError::NameNotFound {
            host: target.host.clone(),
            message: one_line(message, MAX_MESSAGE_BYTES),
        };
        let lookup_result = lookup.await.map_err(|error| not_found(&error.to_string()))?;
        let addresses = lookup_result.map_err(|error| not_found(&error.to_string()))?;
        if addresses.is_empty() { Err(not_found("it has no address")) } else { Ok(addresses) }
    }
}

/// Connects to one of these addresses and no other. IPv6 and IPv4 are tried in parallel, and the addresses of each in order.
pub(super) async fn connect(
    target: &Target,
    addresses: Vec<SocketAddr>,
    timeout: Duration,
) -> Result<TcpStream, ConnectError> {
    let resolver = service_fn(move |_: Name| std::future::ready(Ok::<_, ConnectError>(addresses.clone().into_iter())));
    let mut connector = HttpConnector::new_with_resolver(resolver);
    connector.set_nodelay(true);
    connector.set_keepalive(Some(KEEPALIVE_IDLE_TIME));
    connector.set_keepalive_interval(Some(KEEPALIVE_INTERVAL));
    connector.set_keepalive_retries(Some(KEEPALIVE_RETRIES));
    connector.set_connect_timeout(Some(timeout));
    // A host name, so that the connector uses the resolver above. It returns the addresses that were resolved and checked before.
    let uri = Uri::from_static("http://addresses");
    let stream = connector.oneshot(uri).await.map_err(|error| ConnectError::from_tcp_error(target, timeout, &error))?;
    Ok(stream.into_inner())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn target_from_uri_uses_default_port_of_scheme() {
        let shown = |uri| Target::from_uri(&Uri::from_static(uri)).to_string();
        assert_eq!(shown("https://vault"), "vault:443");
        assert_eq!(shown("http://vault"), "vault:80");
        assert_eq!(shown("socks5://user:pass@proxy"), "proxy:1080");
        assert_eq!(shown("https://[::1]:8200"), "[::1]:8200");
    }

    #[tokio::test]
    async fn dns_limiter_isolates_namespaces_and_skips_ips() {
        let target_for = |host: &str| Target { uses_tls: false, host: host.to_owned(), port: 1 };
        let (limiter, other) = (DnsLimiter::for_namespace(), DnsLimiter::for_namespace());
        // Simulates slow lookups that use every permit of the namespace.
        let mut held_permits = Vec::new();
        while let Ok(own) = Arc::clone(&limiter.own_permits).try_acquire_owned() {
            held_permits.push((own, Arc::clone(&limiter.shared_permits).acquire_owned().await.unwrap()));
        }
        let localhost = target_for("localhost");
        let is_blocked = async |lookups: &DnsLimiter| {
            tokio::time::timeout(Duration::from_millis(50), lookups.resolve(&localhost)).await.is_err()
        };
        assert_eq!(limiter.resolve(&target_for("::1")).await.unwrap(), [SocketAddr::from((Ipv6Addr::LOCALHOST, 1))]);
        assert!(is_blocked(&limiter).await && !is_blocked(&other).await);
        let tenant_permits = Arc::clone(&TENANT_LOOKUPS).acquire_many_owned(2).await.unwrap();
        assert!(is_blocked(&other).await && !is_blocked(&DnsLimiter::for_server()).await);
        drop((held_permits, tenant_permits));
        assert!(limiter.resolve(&localhost).await.is_ok());
    }

    #[tokio::test]
    async fn resolve_error_names_unresolvable_host() {
        let target = Target { uses_tls: true, host: "vault.invalid".into(), port: 8200 };
        let error = DnsLimiter::for_server().resolve(&target).await.unwrap_err();
        assert!(matches!(&error, ConnectError::NameNotFound { host, .. } if host == "vault.invalid"), "{error}");
        assert!(error.to_string().starts_with("the host name vault.invalid cannot be resolved: "), "{error}");
    }
}
