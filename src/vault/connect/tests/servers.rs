//! Servers and proxies on loopback that run until the test ends.

use std::{convert::Infallible, future::pending, net::SocketAddr, sync::Arc};

use http::{Request, Response};
use hyper::{body::Incoming, server::conn, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::ServerConfig;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader, copy_bidirectional},
    net::{TcpListener, TcpStream},
};
use tokio_rustls::TlsAcceptor;

use super::super::stream::Io;

/// Accepts connections and runs `serve` for each.
pub(super) async fn listen<F>(serve: impl Fn(TcpStream) -> F + Send + 'static) -> SocketAddr
where
    F: Future<Output = Option<()>> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(serve(stream));
        }
    });
    address
}

/// Starts a server that responds to each request with a description of it.
pub(super) async fn http() -> SocketAddr {
    listen(|stream| serve_http(Box::new(stream), false, String::new())).await
}

/// Same as [`http()`], over TLS, with HTTP/2 if the client offers it.
pub(super) async fn https(mut config: ServerConfig) -> SocketAddr {
    config.alpn_protocols = vec!["h2".into(), "http/1.1".into()];
    let acceptor = TlsAcceptor::from(Arc::new(config));
    listen(move |stream| {
        let acceptor = acceptor.clone();
        async move {
            let session = acceptor.accept(stream).await.ok()?;
            let h2 = session.get_ref().1.alpn_protocol() == Some(b"h2");
            let name = session.get_ref().1.server_name().unwrap_or_default().to_owned();
            serve_http(Box::new(session), h2, name).await
        }
    })
    .await
}

/// Serves HTTP on one connection.
pub(super) async fn serve_http(io: Box<dyn Io>, h2: bool, name: String) -> Option<()> {
    let service = service_fn(move |request| std::future::ready(Ok::<_, Infallible>(echo(&request, &name))));
    let io = TokioIo::new(io);
    if h2 {
        conn::http2::Builder::new(TokioExecutor::new()).serve_connection(io, service).await.ok()
    } else {
        conn::http1::Builder::new().serve_connection(io, service).await.ok()
    }
}

fn echo(request: &Request<Incoming>, name: &str) -> Response<String> {
    let credentials = request.headers().get("proxy-authorization").and_then(|value| value.to_str().ok());
    let seen = [
        format!("{:?}", request.version()),
        request.uri().to_string(),
        name.to_owned(),
        credentials.unwrap_or_default().to_owned(),
    ];
    Response::new(seen.join(" ").trim_end().to_owned())
}

/// Starts a server that accepts connections and never responds.
pub(super) async fn silent() -> SocketAddr {
    listen(|stream| async move {
        let _open = stream;
        pending().await
    })
    .await
}

/// Starts a server that responds to any bytes with `reply` and closes the connection.
pub(super) async fn replying(reply: &'static [u8]) -> SocketAddr {
    listen(move |mut stream| async move {
        let _request_bytes = stream.read(&mut [0; 4096]).await.ok()?;
        stream.write_all(reply).await.ok()
    })
    .await
}

/// Returns an address without a listener.
pub(super) async fn unused_address() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap()
}

/// Starts an HTTP proxy that accepts only `credentials` and connects only to `vault.example:8200`, which is `upstream`.
pub(super) async fn proxy(credentials: &'static str, upstream: SocketAddr) -> SocketAddr {
    listen(move |stream| relay(Box::new(stream), credentials, upstream)).await
}

/// Same as [`proxy()`], over TLS. It also offers HTTP/2, but without CONNECT.
pub(super) async fn tls_proxy(mut config: ServerConfig, upstream: SocketAddr) -> SocketAddr {
    config.alpn_protocols = vec!["h2".into(), "http/1.1".into()];
    let acceptor = TlsAcceptor::from(Arc::new(config));
    listen(move |stream| {
        let acceptor = acceptor.clone();
        async move {
            let session = acceptor.accept(stream).await.ok()?;
            let h2 = session.get_ref().1.alpn_protocol() == Some(b"h2");
            if h2 { None } else { relay(Box::new(session), "", upstream).await }
        }
    })
    .await
}

async fn relay(io: Box<dyn Io>, credentials: &str, upstream: SocketAddr) -> Option<()> {
    let mut client = BufReader::new(io);
    let (mut head, mut line) = (Vec::new(), String::new());
    while client.read_line(&mut line).await.ok()? > 2 {
        head.push(std::mem::take(&mut line).trim_end().to_owned());
    }
    let sent_credentials = head.iter().find_map(|line| line.strip_prefix("Proxy-Authorization: ")).unwrap_or_default();
    if sent_credentials != credentials {
        return client.write_all(b"HTTP/1.1 407 Who are you\r\n\r\n").await.ok();
    }
    if head.first()? != "CONNECT vault.example:8200 HTTP/1.1" {
        return client.write_all(b"HTTP/1.1 403 Not there\r\nContent-Length: 0\r\n\r\n").await.ok();
    }
    let mut server = TcpStream::connect(upstream).await.ok()?;
    client.write_all(b"HTTP/1.1 200 Connection established\r\nVia: test\r\n\r\n").await.ok()?;
    copy_bidirectional(&mut client, &mut server).await.ok().map(drop)
}

/// Starts a SOCKS5 proxy without credentials that connects only to `vault.example:8200`, which is `upstream`.
pub(super) async fn socks5_proxy(upstream: SocketAddr) -> SocketAddr {
    listen(move |mut client| async move {
        let mut greeting = [0; 3];
        client.read_exact(&mut greeting).await.ok()?;
        client.write_all(&[5, 0]).await.ok()?;
        let mut request = [0; 20];
        client.read_exact(&mut request).await.ok()?;
        let is_known_target = &request == b"\x05\x01\x00\x03\x0dvault.example\x20\x08";
        client.write_all(&[5, if is_known_target { 0 } else { 2 }, 0, 1, 0, 0, 0, 0, 0, 0]).await.ok()?;
        let mut server = TcpStream::connect(upstream).await.ok()?;
        copy_bidirectional(&mut client, &mut server).await.ok().map(drop)
    })
    .await
}
