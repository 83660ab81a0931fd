//! HTTP for probes: `/livez`, `/readyz` and `/health/ready`.

use std::{
    convert::Infallible,
    io::ErrorKind,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
};

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{net::TcpListener, sync::watch};

/// Listens for probes; they are answered once [`serve`] runs. `[::]` becomes `0.0.0.0` on a node without IPv6.
pub async fn bind(address: SocketAddr) -> std::io::Result<TcpListener> {
    match TcpListener::bind(address).await {
        Err(error) if error.kind() != ErrorKind::AddrInUse && address.ip() == Ipv6Addr::UNSPECIFIED => {
            TcpListener::bind((Ipv4Addr::UNSPECIFIED, address.port())).await
        }
        bound => bound,
    }
}

/// Answers probes until the process exits. `stop` turns readiness off.
pub async fn serve(listener: TcpListener, stop: watch::Receiver<bool>) {
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
            continue;
        };
        let stop = stop.clone();
        tokio::spawn(async move {
            let service =
                service_fn(|request| std::future::ready(Ok::<_, Infallible>(answer(&request, *stop.borrow()))));
            let mut http = http1::Builder::new();
            // A probe that does not send its request is let go.
            http.timer(TokioTimer::new()).header_read_timeout(std::time::Duration::from_secs(10));
            let _ = http.serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

/// Existing charts ask `/health/ready` for liveness too, so it says yes from bind to exit; `/readyz` says no while draining.
fn answer(request: &Request<Incoming>, stopping: bool) -> Response<Full<Bytes>> {
    let (status, text) = match request.uri().path() {
        "/readyz" if stopping => (StatusCode::SERVICE_UNAVAILABLE, "draining\n"),
        "/livez" | "/readyz" | "/health/ready" => (StatusCode::OK, "ok\n"),
        _ => (StatusCode::NOT_FOUND, "probes are at /livez, /readyz and /health/ready\n"),
    };
    let mut response = Response::new(Full::from(text));
    *response.status_mut() = status;
    response
}
