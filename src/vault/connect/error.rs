//! Why there is no connection.

use std::{error::Error, fmt, io, net::IpAddr, path::PathBuf, time::Duration};

use super::tls_error::HandshakeError;
use crate::text::one_line;

/// The most of the system's or a library's words that a message repeats, in bytes.
pub(super) const MAX_MESSAGE_BYTES: usize = 200;

/// Why there is no connection. `at` is always `host:port`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// Nobody listens there.
    #[error("{target} refuses connections: nothing listens there")]
    ConnectionRefused {
        /// Where.
        target: String,
    },
    /// There was not enough time for the whole of name, TCP, proxy and TLS.
    #[error("no connection to {target} within {timeout:?}: {stage}")]
    TimedOut {
        /// Where.
        target: String,
        /// What took so long.
        stage: ConnectStage,
        /// The time there was.
        timeout: Duration,
    },
    /// The host has no address, or nobody could be asked.
    #[error("the host name {host} cannot be resolved: {message}")]
    NameNotFound {
        /// The name.
        host: String,
        /// The resolver's words.
        message: String,
    },
    /// The address is one that only an operator may choose ([`super::Options::guarded`]).
    #[error(
        "{host} is at {address}, which is loopback, link-local or otherwise the node's own, and not open to classes"
    )]
    BlockedAddress {
        /// The host as it was chosen.
        host: String,
        /// What it is.
        address: IpAddr,
    },
    /// The proxy on the way does not do its part.
    #[error("the proxy {proxy} gives no connection to {target}: {error}")]
    Proxy {
        /// The proxy's own `host:port`.
        proxy: String,
        /// Where to.
        target: String,
        /// What it did.
        error: ProxyConnectError,
    },
    /// The unix socket cannot be connected to.
    #[error("cannot connect to the unix socket {}: {message}", path.display())]
    UnixSocket {
        /// The socket.
        path: PathBuf,
        /// The system's words.
        message: String,
    },
    /// There is a server, but no TLS session with it.
    #[error("no TLS session with {target}: {error}")]
    Tls {
        /// Where.
        target: String,
        /// Why.
        error: HandshakeError,
    },
    /// A server that speaks TLS was asked in plain HTTP.
    #[error("{target} speaks TLS, and the address says http")]
    PlainToTls {
        /// Where.
        target: String,
    },
    /// No route, connection reset, and the like.
    #[error("cannot connect to {target}: {message}")]
    Other {
        /// Where.
        target: String,
        /// The system's words.
        message: String,
    },
}

/// What was going on when the time was up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConnectStage {
    /// The host name was looked up.
    DnsLookup,
    /// The TCP connection was made.
    Tcp,
    /// The proxy was asked for a way.
    Proxy,
    /// TLS was being negotiated.
    Tls,
}

impl fmt::Display for ConnectStage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::DnsLookup => "the host name was not resolved in time",
            Self::Tcp => "nothing answered, neither yes nor no",
            Self::Proxy => "the proxy did not answer",
            Self::Tls => "the connection was accepted, but the TLS handshake did not end",
        })
    }
}

/// What a proxy did instead of giving a connection.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProxyConnectError {
    /// It cannot be reached itself.
    #[error("{0}")]
    Connect(Box<ConnectError>),
    /// It wants a user name and password, or others.
    #[error("it wants a user name and password, or others than those in its URL (407)")]
    AuthenticationRequired,
    /// It refuses, by rule (403 as a rule) or because it gets no connection itself (502 to 504 as a rule).
    #[error("it answers {status} to CONNECT")]
    Rejected {
        /// The HTTP status.
        status: u16,
    },
    /// It says yes to CONNECT, and what then comes is no TLS.
    #[error("what comes through it does not speak TLS; most likely it is no proxy, or the server has no TLS")]
    NotTls,
    /// What it says is not HTTP, or it hangs up.
    #[error("it does not answer as an HTTP proxy does")]
    NotHttp,
    /// SOCKS did not work out.
    #[error("{message}")]
    Socks {
        /// The library's words.
        message: String,
    },
}

impl ConnectError {
    /// What to set or look at, as far as it can be known.
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
            Self::UnixSocket { .. } => "check the socket's path, and that what should listen there runs",
            Self::Proxy { error: ProxyConnectError::AuthenticationRequired, .. } => {
                "put user and password into the proxy's URL"
            }
            Self::Proxy { .. } | Self::TimedOut { stage: ConnectStage::Proxy, .. } => {
                "check the proxy, or except the host (NO_PROXY)"
            }
            _ => return None,
        })
    }

    /// A failed TCP connection.
    pub(super) fn from_tcp_error(target: impl fmt::Display, timeout: Duration, error: &(dyn Error + 'static)) -> Self {
        let target = target.to_string();
        match io_kind(error) {
            Some(io::ErrorKind::ConnectionRefused) => Self::ConnectionRefused { target: target },
            Some(io::ErrorKind::TimedOut) => {
                Self::TimedOut { target: target, stage: ConnectStage::Tcp, timeout: timeout }
            }
            _ => Self::Other { target, message: innermost_message(error) },
        }
    }
}

/// The [`ConnectError`] behind a failed request, if it is what made it fail; the server has not acted on the request then.
///
/// It may come up on a connection that was made: with TLS 1.3 a server refuses a client only after the handshake.
#[must_use]
pub fn find_connect_error<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a ConnectError> {
    error_chain(error).find_map(|each| each.downcast_ref())
}

/// An error and its causes. An [`io::Error`] says its cause's words itself and hides it from `source`.
fn error_chain<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    std::iter::successors(Some(error), |error| next_cause(*error))
}

fn next_cause<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a (dyn Error + 'static)> {
    match error.downcast_ref::<io::Error>().and_then(io::Error::get_ref) {
        Some(inner) => Some(inner),
        None => error.source(),
    }
}

fn io_kind(error: &(dyn Error + 'static)) -> Option<io::ErrorKind> {
    error_chain(error).find_map(|each| each.downcast_ref::<io::Error>()).map(io::Error::kind)
}

/// The last cause's words: the ones of the system.
fn innermost_message(error: &(dyn Error + 'static)) -> String {
    error_chain(error).last().map(|cause| one_line(&cause.to_string(), MAX_MESSAGE_BYTES)).unwrap_or_default()
}
