//! Negotiating TLS.

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

use super::{error::ConnectError, fault::TlsFault, stream::Io};

/// How long a server that asked for a client certificate may take to judge it.
const VERDICT: Duration = Duration::from_millis(250);

/// A TLS session, and whether the server chose HTTP/2 for it.
pub(super) async fn handshake(
    config: &Arc<ClientConfig>,
    name: ServerName<'static>,
    io: Box<dyn Io>,
    at: &str,
) -> Result<(Box<dyn Io>, bool), ConnectError> {
    let failed = |error: io::Error| ConnectError::Tls { at: at.to_owned(), fault: fault(&error) };
    let asked = Arc::new(Asked::around(config));
    let mut config = ClientConfig::clone(config);
    config.client_auth_cert_resolver = asked.clone();
    let mut session = TlsConnector::from(Arc::new(config)).connect(name, io).await.map_err(failed)?;
    let h2 = session.get_ref().1.alpn_protocol() == Some(b"h2");
    if h2 && asked.was() && session.get_ref().1.protocol_version() == Some(ProtocolVersion::TLSv1_3) {
        verdict(&mut session).await.map_err(failed)?;
    }
    Ok((Box::new(session), h2))
}

/// Waits for the server's first bytes, which tell that it accepts the client.
///
/// With TLS 1.3 the handshake ends before the server has judged the client's certificate, and HTTP/2 loses the alert
/// on its way to the request. An HTTP/2 server speaks first as a rule; one that does not is taken as it is in the end.
async fn verdict(session: &mut TlsStream<Box<dyn Io>>) -> io::Result<()> {
    match timeout(VERDICT, session.fill_buf()).await {
        Ok(Ok([])) => Err(io::ErrorKind::UnexpectedEof.into()),
        Ok(Err(error)) => Err(error),
        Ok(Ok(_)) | Err(_) => Ok(()),
    }
}

fn fault(error: &io::Error) -> TlsFault {
    TlsFault::of_io(error).unwrap_or_else(|| match error.kind() {
        io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => TlsFault::Closed,
        _ => TlsFault::Other(error.to_string()),
    })
}

/// A client certificate, if there is one, and whether the server asked for it.
#[derive(Debug)]
struct Asked {
    answer: Arc<dyn ResolvesClientCert>,
    was: AtomicBool,
}

impl Asked {
    fn around(config: &ClientConfig) -> Self {
        Self { answer: Arc::clone(&config.client_auth_cert_resolver), was: AtomicBool::new(false) }
    }

    fn was(&self) -> bool {
        self.was.load(Ordering::Relaxed)
    }
}

impl ResolvesClientCert for Asked {
    fn resolve(&self, hints: &[&[u8]], schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        self.was.store(true, Ordering::Relaxed);
        self.answer.resolve(hints, schemes)
    }

    fn has_certs(&self) -> bool {
        self.answer.has_certs()
    }
}
