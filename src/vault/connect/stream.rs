//! A connection as the HTTP client sees it.

use std::{
    io,
    pin::Pin,
    sync::{Arc, OnceLock},
    task::{Context, Poll, ready},
};

use http::Extensions;
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

/// One connection.
pub struct Stream {
    io: Box<dyn Io>,
    at: String,
    used: Use,
    /// Nothing was read yet, so the server has not acted on any request.
    fresh: bool,
    end: End,
}

/// Why the server ended a connection before it heard a request on it.
///
/// Stands beside the connection for all its requests, as HTTP/2 hands on an error's words and not the error.
#[derive(Clone, Default)]
struct End(Arc<OnceLock<ConnectError>>);

/// Why a connection ended, if that is known.
pub(super) fn end(connected: &Connected) -> Option<ConnectError> {
    let mut extras = Extensions::new();
    connected.get_extras(&mut extras);
    extras.get::<End>()?.0.get().cloned()
}

impl Stream {
    pub(super) fn new(io: Box<dyn Io>, at: String, used: Use) -> Self {
        Self { io, at, used, fresh: true, end: End::default() }
    }

    /// Judges the first thing read: a refusal of TLS, or the end of it all.
    fn first(&mut self, read: io::Result<&[u8]>) -> io::Result<()> {
        let at = || self.at.clone();
        let error = match read {
            Ok([]) => { eprintln!("DBG eof"); return Ok(()) },
            Ok(said) if !matches!(self.used, Use::Tls { .. }) && is_tls_servers(said) => {
                ConnectError::PlainToTls { at: at() }
            }
            Ok(_) => {
                self.fresh = false;
                return Ok(());
            }
            Err(error) => match {eprintln!("DBG read err {error:?}"); TlsFault::of_io(&error).filter(TlsFault::is_refusal)} {
                Some(fault) => ConnectError::Tls { at: at(), fault },
                None => return Err(error),
            },
        };
        let error = self.end.0.get_or_init(|| error);
        Err(io::Error::new(io::ErrorKind::ConnectionRefused, error.clone()))
    }

    /// What the server said before it stopped listening, else the error of writing to it. Takes no data off the stream.
    fn last_words(&mut self, cx: &mut Context<'_>, error: io::Error) -> io::Error {
        eprintln!("DBG write err {error:?}"); match Pin::new(&mut self.io).poll_read(cx, &mut ReadBuf::new(&mut [])) {
            Poll::Ready(Err(said)) if self.fresh => self.first(Err(said)).err().unwrap_or(error),
            _ => error,
        }
    }
}

/// Whether a TLS server answers plain HTTP: with an alert, as no HTTP answer starts, or as Go's do.
fn is_tls_servers(answer: &[u8]) -> bool {
    const ALERT: u8 = 0x15;
    const GO: &[u8] = b"HTTP/1.0 400 Bad Request\r\n\r\nClient sent an HTTP request to an HTTPS server";
    answer.first() == Some(&ALERT) || answer.starts_with(GO)
}

impl Connection for Stream {
    fn connected(&self) -> Connected {
        let connected = Connected::new().extra(self.end.clone());
        match self.used {
            Use::Tls { h2: true } => connected.negotiated_h2(),
            used => connected.proxy(used == Use::Forwarded),
        }
    }
}

impl AsyncRead for Stream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let read = ready!(Pin::new(&mut self.io).poll_read(cx, buf));
        if !self.fresh {
            return Poll::Ready(read);
        }
        Poll::Ready(self.first(read.map(|()| &buf.filled()[before..])))
    }
}

impl AsyncWrite for Stream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.io).poll_write(cx, buf));
        Poll::Ready(written.map_err(|error| self.last_words(cx, error)))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = ready!(Pin::new(&mut self.io).poll_flush(cx));
        Poll::Ready(flushed.map_err(|error| self.last_words(cx, error)))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.io).poll_write_vectored(cx, bufs));
        Poll::Ready(written.map_err(|error| self.last_words(cx, error)))
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
            io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => {
                TlsFault::Closed
            }
            _ => TlsFault::Other(error.to_string()),
        });
        ConnectError::Tls { at: at.to_owned(), fault }
    })?;
    let h2 = session.get_ref().1.alpn_protocol() == Some(b"h2");
    Ok((Box::new(session), h2))
}
