//! From a host and a port to a TCP connection.

use std::{
    fmt,
    net::{IpAddr, Ipv6Addr, SocketAddr},
    time::Duration,
};

use http::{Uri, uri::Scheme};
use hyper_util::client::legacy::connect::{HttpConnector, dns::Name};
use tokio::net::{TcpStream, lookup_host};
use tower::{ServiceExt as _, service_fn};

use super::error::{ConnectError, MAX_SAID};
use crate::text::one_line;

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

/// Every address of the target; never none.
pub(super) async fn resolve(target: &Target) -> Result<Vec<SocketAddr>, ConnectError> {
    let failed = |said: &str| ConnectError::NameNotFound { host: target.host.clone(), said: one_line(said, MAX_SAID) };
    let addresses: Vec<_> =
        lookup_host((target.host.as_str(), target.port)).await.map_err(|error| failed(&error.to_string()))?.collect();
    if addresses.is_empty() { Err(failed("it has no address")) } else { Ok(addresses) }
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
    async fn a_name_without_address_says_so() {
        let target = Target { tls: true, host: "vault.invalid".into(), port: 8200 };
        let error = resolve(&target).await.unwrap_err();
        assert!(matches!(&error, ConnectError::NameNotFound { host, .. } if host == "vault.invalid"), "{error}");
        assert!(error.to_string().starts_with("the host name vault.invalid cannot be resolved: "), "{error}");
    }
}
