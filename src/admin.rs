//! HTTP for those who look after the process: probes and metrics on ports, status on a socket.

mod probes;
mod scrape;
pub mod status;

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
use tokio::{net::TcpListener, sync::watch};

use crate::renewal::Renewal;

/// What is answered at an address.
#[derive(Clone, Default)]
pub struct Pages {
    /// Whether probes are.
    pub probes: bool,
    /// Where the numbers of `/metrics` come from, if it is there.
    pub metrics: Option<Arc<Renewal>>,
}

/// A client that does not send its request is let go after this.
const PATIENCE: Duration = Duration::from_secs(10);

/// Listens; requests are answered once [`serve`] runs. `[::]` becomes `0.0.0.0` on a node without IPv6.
pub async fn bind(address: SocketAddr) -> std::io::Result<TcpListener> {
    match TcpListener::bind(address).await {
        Err(error) if error.kind() != ErrorKind::AddrInUse && address.ip() == Ipv6Addr::UNSPECIFIED => {
            TcpListener::bind((Ipv4Addr::UNSPECIFIED, address.port())).await
        }
        bound => bound,
    }
}

/// Answers until the process exits. `stop` turns readiness off.
pub async fn serve(listener: TcpListener, pages: Pages, stop: watch::Receiver<bool>) {
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        let (stop, pages) = (stop.clone(), pages.clone());
        tokio::spawn(async move {
            let service =
                service_fn(|request| std::future::ready(Ok::<_, Infallible>(pages.answer(&request, *stop.borrow()))));
            let _ = http().serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

fn http() -> http1::Builder {
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(PATIENCE);
    http
}

impl Pages {
    fn answer(&self, request: &Request<Incoming>, stopping: bool) -> Response<Full<Bytes>> {
        let probe = self.probes.then(|| probes::answer(request, stopping)).flatten();
        let scrape = || self.metrics.as_ref().and_then(|numbers| scrape::answer(request, numbers));
        probe.or_else(scrape).unwrap_or_else(|| {
            let probes = if self.probes { probes::WHERE } else { "" };
            let metrics = if self.metrics.is_some() { scrape::WHERE } else { "" };
            text(StatusCode::NOT_FOUND, format!("{probes}{metrics}"))
        })
    }
}

fn text(status: StatusCode, text: impl Into<Bytes>) -> Response<Full<Bytes>> {
    page(status, "text/plain; charset=utf-8", text)
}

fn page(status: StatusCode, content_type: &'static str, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}
