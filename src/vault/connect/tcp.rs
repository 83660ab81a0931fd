//! From a host and a port to a TCP connection.

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

use super::error::{ConnectError, MAX_SAID};
use crate::{task, text::one_line};

/// Idle connections are probed, so that one that a firewall forgot is noticed before a request needs it.
const KEEPALIVE: Duration = Duration::from_secs(30);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
const KEEPALIVE_RETRIES: u32 = 3;

/// Who is to be connected to. Shown as `host:port`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Target {
    /// Whether TLS is spoken there.
    pub(super) tls: bool,
    /// A name or an IP address, the latter without brackets.
    pub(super) host: String,
    pub(super) port: u16,
}

impl Target {
    /// The server or proxy that a URI names, its port the scheme's own if it names none.
    pub(super) fn of(uri: &Uri) -> Self {
        let tls = uri.scheme() == Some(&Scheme::HTTPS);
        let usual = match uri.scheme_str() {
            Some("https") => 443,
            Some("socks5" | "socks5h") => 1080,
            _ => 80,
        };
        let host = uri.host().unwrap_or_default().trim_start_matches('[').trim_end_matches(']').to_owned();
        Self { tls, host, port: uri.port_u16().unwrap_or(usual) }
    }

    /// Whether the host is this very node, which no proxy can reach. The same rule as Go's.
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

/// Places for lookups. The system looks a name up in a thread, of which there are few, and keeps it for half a minute where
/// no server answers: a name must not take those that other names need.
#[derive(Clone, Debug)]
pub struct Lookups {
    own: Arc<Semaphore>,
    all: Arc<Semaphore>,
}

/// How many names of one server of the operator's are looked up at once, and of all of them.
const OF_SERVER: usize = 2;
const OF_SERVERS: usize = 8;
/// The same of those that the classes of one Kubernetes namespace chose, and of all classes.
const OF_NAMESPACE: usize = 2;
const OF_CLASSES: usize = 4;

static SERVERS: LazyLock<Arc<Semaphore>> = LazyLock::new(|| Arc::new(Semaphore::new(OF_SERVERS)));
static CLASSES: LazyLock<Arc<Semaphore>> = LazyLock::new(|| Arc::new(Semaphore::new(OF_CLASSES)));

impl Lookups {
    /// Those of one of the operator's servers.
    #[must_use]
    pub fn of_server() -> Self {
        Self { own: Arc::new(Semaphore::new(OF_SERVER)), all: Arc::clone(&SERVERS) }
    }

    /// Those of servers that the classes of one Kubernetes namespace chose.
    #[must_use]
    pub fn of_namespace() -> Self {
        Self { own: Arc::new(Semaphore::new(OF_NAMESPACE)), all: Arc::clone(&CLASSES) }
    }

    /// Every address of the target; never none.
    pub(super) async fn resolve(&self, target: &Target) -> Result<Vec<SocketAddr>, ConnectError> {
        if let Ok(address) = target.host.parse::<IpAddr>() {
            return Ok(vec![SocketAddr::new(address, target.port)]);
        }
        let place = (Arc::clone(&self.own).acquire_owned().await, Arc::clone(&self.all).acquire_owned().await);
        let name = (target.host.clone(), target.port);
        // It goes on when nobody waits for it any more, and has its place until its end.
        let looking = task::spawn(async move {
            let _place = place;
            lookup_host(name).await.map(Iterator::collect::<Vec<_>>)
        });
        let failed =
            |said: &str| ConnectError::NameNotFound { host: target.host.clone(), said: one_line(said, MAX_SAID) };
        let found = looking.await.map_err(|error| failed(&error.to_string()))?;
        let addresses = found.map_err(|error| failed(&error.to_string()))?;
        if addresses.is_empty() { Err(failed("it has no address")) } else { Ok(addresses) }
    }
}

/// Connects to one of these addresses and no other: IPv6 and IPv4 side by side, each kind's in turn.
pub(super) async fn connect(
    target: &Target,
    addresses: Vec<SocketAddr>,
    timeout: Duration,
) -> Result<TcpStream, ConnectError> {
    let known = service_fn(move |_: Name| std::future::ready(Ok::<_, ConnectError>(addresses.clone().into_iter())));
    let mut connector = HttpConnector::new_with_resolver(known);
    connector.set_nodelay(true);
    connector.set_keepalive(Some(KEEPALIVE));
    connector.set_keepalive_interval(Some(KEEPALIVE_INTERVAL));
    connector.set_keepalive_retries(Some(KEEPALIVE_RETRIES));
    connector.set_connect_timeout(Some(timeout));
    // A name, not an address: the addresses are the ones that were looked up and checked.
    let uri = Uri::from_static("http://addresses");
    let stream = connector.oneshot(uri).await.map_err(|error| ConnectError::tcp(target, timeout, &error))?;
    Ok(stream.into_inner())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_the_schemes_own_unless_named() {
        let shown = |uri| Target::of(&Uri::from_static(uri)).to_string();
        assert_eq!(shown("https://vault"), "vault:443");
        assert_eq!(shown("http://vault"), "vault:80");
        assert_eq!(shown("socks5://user:pass@proxy"), "proxy:1080");
        assert_eq!(shown("https://[::1]:8200"), "[::1]:8200");
    }

    #[tokio::test]
    async fn names_of_one_namespace_leave_places_for_others_and_addresses_need_none() {
        let of = |host: &str| Target { tls: false, host: host.to_owned(), port: 1 };
        let (shop, other) = (Lookups::of_namespace(), Lookups::of_namespace());
        // Names that are looked up for long.
        let mut taken = Vec::new();
        while let Ok(own) = Arc::clone(&shop.own).try_acquire_owned() {
            taken.push((own, Arc::clone(&shop.all).acquire_owned().await.unwrap()));
        }
        let localhost = of("localhost");
        let waits = async |lookups: &Lookups| {
            tokio::time::timeout(Duration::from_millis(50), lookups.resolve(&localhost)).await.is_err()
        };
        assert_eq!(shop.resolve(&of("::1")).await.unwrap(), [SocketAddr::from((Ipv6Addr::LOCALHOST, 1))]);
        assert!(waits(&shop).await && !waits(&other).await);
        let rest = Arc::clone(&CLASSES).acquire_many_owned(2).await.unwrap();
        assert!(waits(&other).await && !waits(&Lookups::of_server()).await);
        drop((taken, rest));
        assert!(shop.resolve(&localhost).await.is_ok());
    }

    #[tokio::test]
    async fn a_name_without_address_says_so() {
        let target = Target { tls: true, host: "vault.invalid".into(), port: 8200 };
        let error = Lookups::of_server().resolve(&target).await.unwrap_err();
        assert!(matches!(&error, ConnectError::NameNotFound { host, .. } if host == "vault.invalid"), "{error}");
        assert!(error.to_string().starts_with("the host name vault.invalid cannot be resolved: "), "{error}");
    }
}
