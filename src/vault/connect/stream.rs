//! A connection as the HTTP client sees it.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use hyper_util::client::legacy::connect::{Connected, Connection};
use rustls::{ClientConfig, pki_types::ServerName};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_rustls::TlsConnector;

use super::{error::ConnectError, fault::TlsFault};

/// What bytes go over: TCP, a unix socket, TLS, or one in the other.
pub(super) trait Io: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

/// How a stream is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Use {
    /// HTTP/1.1, straight to the server.
    Plain,
    /// HTTP/1.1 to a proxy, which wants whole URLs.
    Forwarded,
    /// TLS, with HTTP/2 if the server chose it.
    Tls { h2: bool },
}

/// One connection. An error that says why the server ends it is a [`ConnectError`] inside the [`io::Error`].
pub struct Stream {
    io: Box<dyn Io>,
    at: String,
    used: Use,
    /// Nothing was read yet.
    fresh: bool,
}

impl Stream {
    pub(super) fn new(io: Box<dyn Io>, at: String, used: Use) -> Self {
        Self { io, at, used, fresh: true }
    }

    fn explain(&self, error: io::Error) -> io::Error {
        match TlsFault::of_io(&error) {
            Some(fault) => io::Error::new(error.kind(), ConnectError::Tls { at: self.at.clone(), fault }),
            None => error,
        }
    }

    /// A TLS server answers plain HTTP with an alert, and an alert's first byte starts no HTTP answer.
    fn check_first(&mut self, read: &[u8]) -> io::Result<()> {
        const ALERT: u8 = 0x15;
        let Some(first) = read.first().filter(|_| self.fresh) else { return Ok(()) };
        self.fresh = false;
        if *first == ALERT && !matches!(self.used, Use::Tls { .. }) {
            return Err(io::Error::new(io::ErrorKind::InvalidData, ConnectError::PlainToTls { at: self.at.clone() }));
        }
        Ok(())
    }
}

impl Connection for Stream {
    fn connected(&self) -> Connected {
        match self.used {
            Use::Tls { h2: true } => Connected::new().negotiated_h2(),
            used => Connected::new().proxy(used == Use::Forwarded),
        }
    }
}

impl AsyncRead for Stream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let read = ready!(Pin::new(&mut self.io).poll_read(cx, buf));
        Poll::Ready(match read {
            Ok(()) => self.check_first(&buf.filled()[before..]),
            Err(error) => Err(self.explain(error)),
        })
    }
}

impl AsyncWrite for Stream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }
}

/// Negotiates TLS on `io`; the second value tells whether the server chose HTTP/2.
pub(super) async fn handshake(
    config: Arc<ClientConfig>,
    name: ServerName<'static>,
    io: Box<dyn Io>,
    at: &str,
) -> Result<(Box<dyn Io>, bool), ConnectError> {
    let session = TlsConnector::from(config).connect(name, io).await.map_err(|error| {
        let fault = TlsFault::of_io(&error).unwrap_or_else(|| match error.kind() {
            io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => TlsFault::Closed,
            _ => TlsFault::Other(error.to_string()),
        });
        ConnectError::Tls { at: at.to_owned(), fault }
    })?;
    let h2 = session.get_ref().1.alpn_protocol() == Some(b"h2");
    Ok((Box::new(session), h2))
}
