//! Connections as the HTTP client uses them.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use hyper_util::client::legacy::connect::{Connected, Connection};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::{error::ConnectError, tls_error::HandshakeError};

/// Byte stream: TCP, a unix socket, TLS, or a combination.
pub(super) trait Io: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

/// Protocol of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum StreamMode {
    /// HTTP/1.1, directly to the server.
    Plain,
    /// HTTP/1.1 to a proxy, which requires absolute URLs.
    Forwarded,
    /// TLS, with HTTP/2 if the server chose it.
    Tls { h2: bool },
}

/// One connection. If the server rejects the client instead of sending a first response, the [`io::Error`] contains a
/// [`ConnectError`].
pub struct Stream {
    io: Box<dyn Io>,
    target: String,
    mode: StreamMode,
    /// True until the first read. The server has not acted on any request before.
    is_unread: bool,
}

impl Stream {
    pub(super) fn new(io: Box<dyn Io>, target: String, mode: StreamMode) -> Self {
        Self { io, target, mode, is_unread: true }
    }

    /// Checks the first bytes for a rejection. With TLS 1.3 a server rejects a client only after the handshake.
    fn check_first_read(&mut self, result: io::Result<&[u8]>) -> io::Result<()> {
        let target = || self.target.clone();
        let error = match result {
            Ok(bytes) if !matches!(self.mode, StreamMode::Tls { .. }) && is_tls_server_reply(bytes) => {
                ConnectError::PlainToTls { target: target() }
            }
            Ok(bytes) => {
                self.is_unread = bytes.is_empty();
                return Ok(());
            }
            Err(error) => match HandshakeError::from_io(&error).filter(HandshakeError::is_client_rejection) {
                Some(handshake_error) => ConnectError::Tls { target: target(), error: handshake_error },
                None => return Err(error),
            },
        };
        Err(io::Error::new(io::ErrorKind::ConnectionRefused, error))
    }
}

/// Returns true for a TLS server's reply to plain HTTP: an alert, which cannot start an HTTP response, or the reply of Go's
/// servers.
fn is_tls_server_reply(response: &[u8]) -> bool {
    const TLS_ALERT: u8 = 0x15;
    const GO_PLAIN_HTTP_REPLY: &[u8] =
        b"HTTP/1.0 400 Bad Request\r\n\r\nClient sent an HTTP request to an HTTPS server";
    response.first() == Some(&TLS_ALERT) || response.starts_with(GO_PLAIN_HTTP_REPLY)
}

impl Connection for Stream {
    fn connected(&self) -> Connected {
        match self.mode {
            StreamMode::Tls { h2: true } => Connected::new().negotiated_h2(),
            mode => Connected::new().proxy(mode == StreamMode::Forwarded),
        }
    }
}

impl AsyncRead for Stream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let read = ready!(Pin::new(&mut self.io).poll_read(cx, buf));
        if !self.is_unread {
            return Poll::Ready(read);
        }
        Poll::Ready(self.check_first_read(read.map(|()| &buf.filled()[before..])))
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
