//! TLS handshake.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use rustls::{
    ClientConfig, ProtocolVersion, SignatureScheme, client::ResolvesClientCert, pki_types::ServerName,
    sign::CertifiedKey,
};
use tokio::{io::AsyncBufReadExt as _, time::timeout};
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::{error::ConnectError, stream::Io, tls_error::HandshakeError};

/// Maximum wait for a server's verdict on the client certificate that it requested.
const CLIENT_CERT_RESULT_TIMEOUT: Duration = Duration::from_millis(250);

/// Negotiates TLS. Returns the session, and true if the server chose HTTP/2.
pub(super) async fn handshake(
    config: &Arc<ClientConfig>,
    name: ServerName<'static>,
    io: Box<dyn Io>,
    target: &str,
) -> Result<(Box<dyn Io>, bool), ConnectError> {
    let to_error = |error: io::Error| ConnectError::Tls { target: target.to_owned(), error: handshake_error(&error) };
    let cert_request = Arc::new(ClientCertRequest::from_config(config));
    let mut config = ClientConfig::clone(config);
    config.client_auth_cert_resolver = cert_request.clone();
    let mut session = TlsConnector::from(Arc::new(config)).connect(name, io).await.map_err(to_error)?;
    let h2 = session.get_ref().1.alpn_protocol() == Some(b"h2");
    if h2 && cert_request.was_requested() && session.get_ref().1.protocol_version() == Some(ProtocolVersion::TLSv1_3) {
        await_client_cert_result(&mut session).await.map_err(to_error)?;
    }
    Ok((Box::new(session), h2))
}

/// Waits for the server's first bytes, which show that it accepts the client.
///
/// With TLS 1.3 the handshake ends before the server has verified the client's certificate, and HTTP/2 loses the alert before
/// it reaches the request. An HTTP/2 server usually sends the first bytes. One that does not is accepted after the
/// timeout.
async fn await_client_cert_result(session: &mut TlsStream<Box<dyn Io>>) -> io::Result<()> {
    match timeout(CLIENT_CERT_RESULT_TIMEOUT, session.fill_buf()).await {
        Ok(Ok([])) => Err(io::ErrorKind::UnexpectedEof.into()),
        Ok(Err(error)) => Err(error),
        Ok(Ok(_)) | Err(_) => Ok(()),
    }
}

fn handshake_error(error: &io::Error) -> HandshakeError {
    HandshakeError::from_io(error).unwrap_or_else(|| match error.kind() {
        io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => {
            HandshakeError::ConnectionClosed
        }
        _ => HandshakeError::Other(error.to_string()),
    })
}

/// Client certificate resolver that records a request by the server.
#[derive(Debug)]
struct ClientCertRequest {
    resolver: Arc<dyn ResolvesClientCert>,
    was_requested: AtomicBool,
}

impl ClientCertRequest {
    fn from_config(config: &ClientConfig) -> Self {
        Self { resolver: Arc::clone(&config.client_auth_cert_resolver), was_requested: AtomicBool::new(false) }
    }

    fn was_requested(&self) -> bool {
        self.was_requested.load(Ordering::Relaxed)
    }
}

impl ResolvesClientCert for ClientCertRequest {
    fn resolve(&self, hints: &[&[u8]], schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        self.was_requested.store(true, Ordering::Relaxed);
        self.resolver.resolve(hints, schemes)
    }

    fn has_certs(&self) -> bool {
        self.resolver.has_certs()
    }
}
