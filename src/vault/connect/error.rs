//! Connect errors.

use std::{error::Error, fmt, io, net::IpAddr, path::PathBuf, time::Duration};

use super::tls_error::HandshakeError;
use crate::{
    error::source_chain::source_chain,
    text::{MAX_MESSAGE_BYTES, one_line},
};

/// Reason for a failed connection. `target` is always `host:port`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// The connection was refused.
    #[error("connection refused by {target}: nothing listens there")]
    ConnectionRefused {
        /// `host:port` of the server.
        target: String,
    },
    /// DNS lookup, TCP connect, proxy and TLS handshake together exceeded the timeout.
    #[error("connecting to {target} timed out after {timeout:?}: {stage}")]
    TimedOut {
        /// `host:port` of the server.
        target: String,
        /// Stage at the timeout.
        stage: ConnectStage,
        /// The timeout.
        timeout: Duration,
    },
    /// The host has no address, or the DNS lookup failed.
    #[error("the host name {host} cannot be resolved: {message}")]
    NameNotFound {
        /// Host name.
        host: String,
        /// Message of the resolver.
        message: String,
    },
    /// Only an operator may choose this address ([`super::ConnectOptions::deny_local_addresses`]).
    #[error(
        "{host} is at {address}, which is loopback, link-local or otherwise the node's own, and not allowed for classes"
    )]
    BlockedAddress {
        /// Host as configured.
        host: String,
        /// Blocked address of the host.
        address: IpAddr,
    },
    /// The proxy failed or rejected the connection.
    #[error("cannot connect to {target} through the proxy {proxy}: {error}")]
    Proxy {
        /// `host:port` of the proxy.
        proxy: String,
        /// `host:port` of the server.
        target: String,
        /// Failure of the proxy.
        error: ProxyConnectError,
    },
    /// The unix socket cannot be connected to.
    #[error("cannot connect to the unix socket {}: {message}", path.display())]
    UnixSocket {
        /// Path of the socket.
        path: PathBuf,
        /// Message of the system.
        message: String,
    },
    /// The server accepted the connection, but TLS failed.
    #[error("TLS handshake with {target} failed: {error}")]
    Tls {
        /// `host:port` of the server.
        target: String,
        /// Reason.
        error: HandshakeError,
    },
    /// A TLS server received a plain HTTP request.
    #[error("{target} expects TLS, but the address uses http")]
    PlainToTls {
        /// `host:port` of the server.
        target: String,
    },
    /// No route, connection reset, and the like.
    #[error("cannot connect to {target}: {message}")]
    Other {
        /// `host:port` of the server.
        target: String,
        /// Message of the system.
        message: String,
    },
}

/// Stage of a connection attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConnectStage {
    /// DNS lookup of the host name.
    DnsLookup,
    /// TCP connect.
    Tcp,
    /// Request to the proxy.
    Proxy,
    /// TLS handshake.
    Tls,
}

impl fmt::Display for ConnectStage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::DnsLookup => "the host name was not resolved in time",
            Self::Tcp => "there was no response to the TCP connection attempt",
            Self::Proxy => "the proxy did not respond",
            Self::Tls => "the connection was accepted, but the TLS handshake did not end",
        })
    }
}

/// Failure of a proxy.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProxyConnectError {
    /// The proxy itself cannot be reached.
    #[error("{0}")]
    Connect(Box<ConnectError>),
    /// The proxy requires a user name and password, or different ones.
    #[error("it requires a user name and password, or different ones from those in its URL (407)")]
    AuthenticationRequired,
    /// The proxy rejects the request, by policy (usually 403) or because it cannot connect itself (usually 502 to 504).
    #[error("it responds to CONNECT with status {status}")]
    Rejected {
        /// HTTP status.
        status: u16,
    },
    /// The proxy accepts CONNECT, but the bytes that follow are not TLS.
    #[error(
        "the connection through it does not use TLS; most likely it is not a proxy, or the server does not use TLS"
    )]
    NotTls,
    /// The response of the proxy is not HTTP, or the proxy closes the connection.
    #[error("it does not respond like an HTTP proxy")]
    NotHttp,
    /// The SOCKS handshake failed.
    #[error("{message}")]
    Socks {
        /// Message of the library.
        message: String,
    },
}

impl ConnectError {
    /// Returns what to set or check, if that is known.
    #[must_use]
    pub fn fix(&self) -> Option<&'static str> {
        Some(match self {
            Self::Tls { error, .. } => return error.fix(),
            Self::PlainToTls { .. } => "write https in the address",
            Self::ConnectionRefused { .. } => "check the address and its port, and that the server runs",
            Self::TimedOut { stage: ConnectStage::DnsLookup, .. } | Self::NameNotFound { .. } => {
                "check the host name, and DNS on this machine"
            }
            Self::TimedOut { stage: ConnectStage::Tls, .. } => {
                "check that a TLS server answers at this port, and firewalls and network policies between this node and it"
            }
            Self::TimedOut { stage: ConnectStage::Tcp, .. } => {
                "check firewalls and network policies between this node and it"
            }
            Self::UnixSocket { .. } => "check the socket's path, and that its server runs",
            Self::Proxy { error: ProxyConnectError::AuthenticationRequired, .. } => {
                "put the user name and password into the proxy's URL"
            }
            Self::Proxy { .. } | Self::TimedOut { stage: ConnectStage::Proxy, .. } => {
                "check the proxy, or exclude the host from it (NO_PROXY)"
            }
            _ => return None,
        })
    }

    /// Converts the error of a failed TCP connection.
    pub(super) fn from_tcp_error(target: impl fmt::Display, timeout: Duration, error: &(dyn Error + 'static)) -> Self {
        let target = target.to_string();
        match io_kind(error) {
            Some(io::ErrorKind::ConnectionRefused) => Self::ConnectionRefused { target },
            Some(io::ErrorKind::TimedOut) => Self::TimedOut { target, stage: ConnectStage::Tcp, timeout },
            _ => Self::Other { target, message: innermost_message(error) },
        }
    }
}

/// Returns the [`ConnectError`] that made a request fail, if there is one. The server has not acted on the request then.
///
/// The error may occur on an established connection, because with TLS 1.3 a server rejects a client only after the handshake.
#[must_use]
pub fn find_connect_error<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a ConnectError> {
    source_chain(error).find_map(|each| each.downcast_ref())
}

fn io_kind(error: &(dyn Error + 'static)) -> Option<io::ErrorKind> {
    source_chain(error).find_map(|each| each.downcast_ref::<io::Error>()).map(io::Error::kind)
}

/// Returns the message of the innermost error, which says what happened, as one bounded line. Outer messages only name the place
/// in a library.
pub fn innermost_message(error: &(dyn Error + 'static)) -> String {
    source_chain(error).last().map(|cause| one_line(&cause.to_string(), MAX_MESSAGE_BYTES)).unwrap_or_default()
}
