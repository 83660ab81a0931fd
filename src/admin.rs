//! HTTP for operators: probes and metrics on TCP ports, the status on a Unix socket and as a page for browsers on this host.

mod inspector;
mod metrics;
mod probes;
pub mod status;
mod statusz;

use std::{
    convert::Infallible,
    io::ErrorKind,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderValue, Request, Response, StatusCode, header::CONTENT_TYPE};
use http_body_util::Full;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{net::TcpListener, sync::Semaphore, time::timeout};

pub use probes::{LivenessCheck, Probes};

pub use inspector::Inspector;

use crate::{observe::metrics::Metrics, reconcile::Reconciler};

/// Data and actions of the admin endpoints.
pub struct AdminState {
    /// Phase and liveness of the process.
    pub probes: Probes,
    /// Reads the state of the process.
    pub inspector: Inspector,
    /// Counters and histograms.
    pub metrics: Arc<Metrics>,
    /// Revokes everything on request.
    pub reconciler: Arc<Reconciler>,
    /// Effective configuration without secrets.
    pub settings: Vec<(&'static str, String)>,
}

/// Routes that are served at an address. The status page is always served, but only to callers on this host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Routes {
    /// Serves the probes.
    pub probes: bool,
    /// Serves the metrics.
    pub metrics: bool,
}

/// Maximum number of connections, so that clients of the port cannot use up the file descriptors that mounts need.
const MAX_CONNECTIONS: usize = 256;
/// Timeout of a connection, which serves one request.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(30);
/// Timeout for the request header.
const HEADER_TIMEOUT: Duration = Duration::from_secs(3);

/// Binds the address. [`serve`] answers the requests. `[::]` falls back to `0.0.0.0` on a node without IPv6.
pub async fn bind(address: SocketAddr) -> std::io::Result<TcpListener> {
    match TcpListener::bind(address).await {
        Err(error) if error.kind() != ErrorKind::AddrInUse && address.ip() == Ipv6Addr::UNSPECIFIED => {
            TcpListener::bind((Ipv4Addr::UNSPECIFIED, address.port())).await
        }
        bound => bound,
    }
}

/// Serves requests until the process exits.
pub async fn serve(listener: TcpListener, routes: Routes, state: Arc<AdminState>) {
    let permits = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        // Further connections wait in the kernel's queue.
        let Ok(permit) = Arc::clone(&permits).acquire_owned().await else { return };
        let Ok((stream, peer)) = listener.accept().await else {
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        let (state, is_local) = (Arc::clone(&state), peer.ip().to_canonical().is_loopback());
        tokio::spawn(async move {
            let service =
                service_fn(async |request| Ok::<_, Infallible>(state.respond(&request, routes, is_local).await));
            let connection = http1_builder().keep_alive(false).serve_connection(TokioIo::new(stream), service);
            let _ = timeout(CONNECTION_TIMEOUT, connection).await;
            drop(permit);
        });
    }
}

fn http1_builder() -> http1::Builder {
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(HEADER_TIMEOUT);
    http
}

impl AdminState {
    async fn respond(&self, request: &Request<Incoming>, routes: Routes, is_local: bool) -> Response<Full<Bytes>> {
        if routes.probes
            && let Some(answer) = self.probes.respond(request).await
        {
            return answer;
        }
        if routes.metrics
            && let Some(answer) = metrics::respond(request, self).await
        {
            return answer;
        }
        let shows_status = is_local && statusz::is_for_this_host(request);
        shows_status.then(|| statusz::respond(request, self)).flatten().unwrap_or_else(|| {
            let probes = if routes.probes { probes::USAGE } else { "" };
            let metrics = if routes.metrics { metrics::USAGE } else { "" };
            text_response(StatusCode::NOT_FOUND, format!("{probes}{metrics}{}", statusz::USAGE))
        })
    }
}

fn text_response(status: StatusCode, text: impl Into<Bytes>) -> Response<Full<Bytes>> {
    response(status, "text/plain; charset=utf-8", text)
}

fn response(status: StatusCode, content_type: &'static str, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}
