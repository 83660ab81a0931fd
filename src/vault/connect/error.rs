//! Why there is no connection.

use std::{error::Error, fmt, io, net::IpAddr, path::PathBuf, time::Duration};

use super::fault::TlsFault;
use crate::text::one_line;

/// The most of the system's or a library's words that a message repeats, in bytes.
pub(super) const MAX_SAID: usize = 200;

/// Why there is no connection. `at` is always `host:port`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// Nobody listens there.
    #[error("{at} refuses connections: nothing listens there")]
    Refused {
        /// Where.
        at: String,
    },
    /// There was not enough time for the whole of name, TCP, proxy and TLS.
    #[error("no connection to {at} within {after:?}: {stage}")]
    TimedOut {
        /// Where.
        at: String,
        /// What took so long.
        stage: Stage,
        /// The time there was.
        after: Duration,
    },
    /// The host has no address, or nobody could be asked.
    #[error("the host name {host} cannot be resolved: {said}")]
    NameNotFound {
        /// The name.
        host: String,
        /// The resolver's words.
        said: String,
    },
    /// The address is one that only an operator may choose ([`super::Options::guarded`]).
    #[error(
        "{host} is at {address}, which is loopback, link-local or otherwise the node's own, and not open to classes"
    )]
    Guarded {
        /// The host as it was chosen.
        host: String,
        /// What it is.
        address: IpAddr,
    },
    /// The proxy on the way does not do its part.
    #[error("the proxy {proxy} gives no connection to {at}: {fault}")]
    Proxy {
        /// The proxy's own `host:port`.
        proxy: String,
        /// Where to.
        at: String,
        /// What it did.
        fault: ProxyFault,
    },
    /// The unix socket cannot be connected to.
    #[error("cannot connect to the unix socket {}: {said}", path.display())]
    Socket {
        /// The socket.
        path: PathBuf,
        /// The system's words.
        said: String,
    },
    /// There is a server, but no TLS session with it.
    #[error("no TLS session with {at}: {fault}")]
    Tls {
        /// Where.
        at: String,
        /// Why.
        fault: TlsFault,
    },
    /// A server that speaks TLS was asked in plain HTTP.
    #[error("{at} speaks TLS, and the address says http")]
    PlainToTls {
        /// Where.
        at: String,
    },
    /// No route, connection reset, and the like.
    #[error("cannot connect to {at}: {said}")]
    Other {
        /// Where.
        at: String,
        /// The system's words.
        said: String,
    },
}

/// What was going on when the time was up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// The host name was looked up.
    Name,
    /// The TCP connection was made.
    Tcp,
    /// The proxy was asked for a way.
    Proxy,
    /// TLS was being negotiated.
    Tls,
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Name => "the host name was not resolved in time",
            Self::Tcp => "nothing answered, neither yes nor no",
            Self::Proxy => "the proxy did not answer",
            Self::Tls => "the connection was accepted, but the TLS handshake did not end",
        })
    }
}

/// What a proxy did instead of giving a connection.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProxyFault {
    /// It cannot be reached itself.
    #[error("{0}")]
    Connect(Box<ConnectError>),
    /// It wants a user name and password, or others.
    #[error("it wants a user name and password, or others than those in its URL (407)")]
    Credentials,
    /// It refuses, by rule (403 as a rule) or because it gets no connection itself (502 to 504 as a rule).
    #[error("it answers {status} to CONNECT")]
    Refused {
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
    #[error("{said}")]
    Socks {
        /// The library's words.
        said: String,
    },
}

impl ConnectError {
    /// What to set or look at, as far as it can be known.
    #[must_use]
    pub fn advice(&self) -> Option<&'static str> {
        Some(match self {
            Self::Tls { fault, .. } => return fault.advice(),
            Self::PlainToTls { .. } => "write https in the address",
            Self::Refused { .. } => "check the address and its port, and that the server runs",
            Self::TimedOut { stage: Stage::Name, .. } | Self::NameNotFound { .. } => {
                "check the host name, and DNS on this machine"
            }
            Self::TimedOut { stage: Stage::Tls, .. } => {
                "check that a TLS server answers at this port, and firewalls and network policies between this node and it"
            }
            Self::TimedOut { stage: Stage::Tcp, .. } => "check firewalls and network policies between this node and it",
            Self::Socket { .. } => "check the socket's path, and that what should listen there runs",
            Self::Proxy { fault: ProxyFault::Credentials, .. } => "put user and password into the proxy's URL",
            Self::Proxy { .. } | Self::TimedOut { stage: Stage::Proxy, .. } => {
                "check the proxy, or except the host (NO_PROXY)"
            }
            _ => return None,
        })
    }

    /// A failed TCP connection.
    pub(super) fn tcp(at: impl fmt::Display, after: Duration, error: &(dyn Error + 'static)) -> Self {
        let at = at.to_string();
        match io_kind(error) {
            Some(io::ErrorKind::ConnectionRefused) => Self::Refused { at },
            Some(io::ErrorKind::TimedOut) => Self::TimedOut { at, stage: Stage::Tcp, after },
            _ => Self::Other { at, said: innermost(error) },
        }
    }
}

/// The [`ConnectError`] behind a failed request, if it is what made it fail; the server has not acted on the request then.
///
/// It may come up on a connection that was made: with TLS 1.3 a server refuses a client only after the handshake.
#[must_use]
pub fn connect_error<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a ConnectError> {
    chain(error).find_map(|each| each.downcast_ref())
}

/// An error and its causes. An [`io::Error`] says its cause's words itself and hides it from `source`.
fn chain<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    std::iter::successors(Some(error), |error| cause(*error))
}

fn cause<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a (dyn Error + 'static)> {
    match error.downcast_ref::<io::Error>().and_then(io::Error::get_ref) {
        Some(inner) => Some(inner),
        None => error.source(),
    }
}

fn io_kind(error: &(dyn Error + 'static)) -> Option<io::ErrorKind> {
    chain(error).find_map(|each| each.downcast_ref::<io::Error>()).map(io::Error::kind)
}

/// The last cause's words: the ones of the system.
fn innermost(error: &(dyn Error + 'static)) -> String {
    chain(error).last().map(|cause| one_line(&cause.to_string(), MAX_SAID)).unwrap_or_default()
}
