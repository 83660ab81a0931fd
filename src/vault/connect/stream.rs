//! A connection as the HTTP client sees it.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use hyper_util::client::legacy::connect::{Connected, Connection};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

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

/// One connection. What a server says instead of its first answer is a [`ConnectError`] inside the [`io::Error`].
pub struct Stream {
    io: Box<dyn Io>,
    at: String,
    used: Use,
    /// Nothing was read yet, so the server has not acted on any request.
    fresh: bool,
}

impl Stream {
    pub(super) fn new(io: Box<dyn Io>, at: String, used: Use) -> Self {
        Self { io, at, used, fresh: true }
    }

    /// Judges the first thing read. With TLS 1.3 a server refuses a client only after the handshake.
    fn first(&mut self, read: io::Result<&[u8]>) -> io::Result<()> {
        let at = || self.at.clone();
        let error = match read {
            Ok(said) if !matches!(self.used, Use::Tls { .. }) && is_tls_servers(said) => {
                ConnectError::PlainToTls { at: at() }
            }
            Ok(said) => {
                self.fresh = said.is_empty();
                return Ok(());
            }
            Err(error) => match TlsFault::of_io(&error).filter(TlsFault::is_refusal) {
                Some(fault) => ConnectError::Tls { at: at(), fault },
                None => return Err(error),
            },
        };
        Err(io::Error::new(io::ErrorKind::ConnectionRefused, error))
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
        if !self.fresh {
            return Poll::Ready(read);
        }
        Poll::Ready(self.first(read.map(|()| &buf.filled()[before..])))
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
