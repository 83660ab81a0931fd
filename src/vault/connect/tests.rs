mod proxies;
mod servers;

use std::{net::SocketAddr, path::Path};

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt as _, Empty};
use hyper_util::{
    client::legacy::{Client, Error},
    rt::TokioExecutor,
};
use rustls::{
    DEFAULT_VERSIONS,
    version::{TLS12, TLS13},
};
use tokio::net::UnixListener;

use super::*;
use crate::tls::testing::{Authority, Identity, expired, params, server};

const NAME: &str = "vault.example";

/// Gets a URL through the client that will use the connector; the body tells what the server saw.
async fn get(tls: &Tls, options: Options, url: &str) -> Result<String, Error> {
    let connector = Connector::new(tls, options).unwrap();
    let mut request = Request::get(url).body(Empty::<Bytes>::new()).unwrap();
    if let Some(credentials) = connector.proxy_authorization(request.uri()) {
        request.headers_mut().insert("proxy-authorization", credentials);
    }
    let client = Client::builder(TokioExecutor::new()).build(connector);
    let answer = client.request(request).await?.into_body().collect().await.unwrap().to_bytes();
    Ok(String::from_utf8(answer.to_vec()).unwrap())
}

/// The connector's error behind the client's.
async fn refused(tls: &Tls, options: Options, url: &str) -> ConnectError {
    let error = get(tls, options, url).await.expect_err("there is no connection");
    connect_error(&error).unwrap_or_else(|| panic!("no ConnectError behind {error:?}")).clone()
}

/// The fault of a TLS server on loopback.
async fn fault(tls: &Tls, address: SocketAddr) -> TlsFault {
    match refused(tls, Options::default(), &format!("https://{address}/")).await {
        ConnectError::Tls { at, fault } if at == address.to_string() => fault,
        other => panic!("not a fault of TLS: {other:?}"),
    }
}

/// A server that shows this certificate.
async fn showing(identity: &Identity) -> SocketAddr {
    servers::https(server(identity.certified(), None, DEFAULT_VERSIONS)).await
}

fn named(mut tls: Tls, name: &str) -> Tls {
    tls.server_name = Some(name.to_owned());
    tls
}

fn guarded() -> Options {
    Options { guarded: true, ..Options::default() }
}

fn hurried() -> Options {
    Options { timeout: Duration::from_millis(100), ..Options::default() }
}

#[tokio::test]
async fn plain_http_is_http_1() {
    let address = servers::http().await;
    let seen = get(&Tls::default(), Options::default(), &format!("http://{address}/v1/x")).await.unwrap();
    assert_eq!(seen, "HTTP/1.1 /v1/x");
}

#[tokio::test]
async fn https_is_http_2_unless_it_is_switched_off() {
    let authority = Authority::new("ours");
    let address = showing(&authority.issue(&params(&["127.0.0.1"]))).await;
    let url = format!("https://{address}/v1/x");
    let seen = get(&authority.trusted(), Options::default(), &url).await.unwrap();
    assert_eq!(seen, format!("HTTP/2.0 {url}"));
    let options = Options { http2: false, ..Options::default() };
    assert_eq!(get(&authority.trusted(), options, &url).await.unwrap(), "HTTP/1.1 /v1/x");
}

#[tokio::test]
async fn the_server_name_is_asked_for_and_verified() {
    let authority = Authority::new("ours");
    let address = showing(&authority.issue(&params(&[NAME]))).await;
    let url = format!("https://{address}/");
    let seen = get(&named(authority.trusted(), NAME), Options::default(), &url).await.unwrap();
    assert_eq!(seen, format!("HTTP/2.0 {url} {NAME}"));
    let fault = fault(&named(authority.trusted(), "other.example"), address).await;
    assert_eq!(fault, TlsFault::WrongName { name: "other.example".into(), names: vec![NAME.into()] });
}

#[test]
fn a_server_name_that_is_none_is_refused() {
    let error = Connector::new(&named(Tls::default(), "no name"), Options::default()).unwrap_err();
    assert_eq!(error.to_string(), r#"the TLS server name "no name" is neither a host name nor an IP address"#);
}

#[tokio::test]
async fn a_wrong_name_lists_the_right_ones() {
    let authority = Authority::new("ours");
    let fault = fault(&authority.trusted(), showing(&authority.issue(&params(&[NAME, "10.0.0.1"]))).await).await;
    assert_eq!(fault.to_string(), "its certificate is not for 127.0.0.1 but for vault.example, 10.0.0.1");
    assert!(fault.advice().unwrap().contains("vaultTLSServerName"));
}

#[tokio::test]
async fn a_common_name_is_no_name() {
    let authority = Authority::new("ours");
    let fault = fault(&authority.trusted(), showing(&authority.issue(&params(&[]))).await).await;
    assert_eq!(fault.to_string(), "its certificate is not for 127.0.0.1: it has no subject alternative names at all");
    assert!(fault.advice().unwrap().contains("the common name does not count"));
}

#[tokio::test]
async fn an_unknown_issuer_asks_for_the_ca() {
    let server = showing(&Authority::new("theirs").issue(&params(&["127.0.0.1"]))).await;
    let fault = fault(&Authority::new("ours").trusted(), server).await;
    assert_eq!(fault, TlsFault::UnknownIssuer);
    assert!(fault.advice().unwrap().contains("set the CA"));
}

#[tokio::test]
async fn an_issuer_of_the_same_name_is_another() {
    let server = showing(&Authority::new("ours").issue(&params(&["127.0.0.1"]))).await;
    let fault = fault(&Authority::new("ours").trusted(), server).await;
    assert_eq!(fault, TlsFault::WrongSignature);
    assert!(fault.advice().unwrap().contains("set the CA"));
}

#[tokio::test]
async fn an_expired_certificate_tells_since_when() {
    let authority = Authority::new("ours");
    let fault = fault(&authority.trusted(), showing(&authority.issue(&expired(params(&["127.0.0.1"])))).await).await;
    assert_eq!(fault.to_string(), "its certificate is expired (since 2001-02-03T00:00:00Z)");
}

#[tokio::test]
async fn a_certificate_of_the_future_tells_from_when() {
    let authority = Authority::new("ours");
    let mut params = params(&["127.0.0.1"]);
    params.not_before = rcgen::date_time_ymd(2999, 1, 1);
    let fault = fault(&authority.trusted(), showing(&authority.issue(&params)).await).await;
    assert_eq!(fault.to_string(), "its certificate is not valid yet (from 2999-01-01T00:00:00Z)");
}

#[tokio::test]
async fn a_certificate_of_version_1_is_named() {
    let identity = Identity::self_signed(&params(&["127.0.0.1"])).version_1();
    assert_eq!(fault(&identity.trusted(), showing(&identity).await).await, TlsFault::Version1);
}

#[tokio::test]
async fn a_client_certificate_that_is_missing_is_asked_for() {
    let authority = Authority::new("ours");
    let certified = || authority.issue(&params(&["127.0.0.1"])).certified();
    let tls13 = servers::https(server(certified(), Some(&authority), &[&TLS13])).await;
    for http2 in [false, true] {
        let options = Options { http2, ..Options::default() };
        let error = refused(&authority.trusted(), options, &format!("https://{tls13}/")).await;
        assert_eq!(
            error,
            ConnectError::Tls { at: tls13.to_string(), fault: TlsFault::ClientCertificateMissing },
            "{http2}"
        );
    }
    let tls12 = servers::https(server(certified(), Some(&authority), &[&TLS12])).await;
    let fault = fault(&authority.trusted(), tls12).await;
    assert!(fault.to_string().contains("client certificate"), "{fault:?}");
}

#[tokio::test]
async fn http_behind_https_is_told() {
    let tls = Authority::new("ours").trusted();
    assert_eq!(fault(&tls, servers::http().await).await, TlsFault::NotTls);
    assert_eq!(fault(&tls, servers::saying(b"220 mail.example ESMTP\r\n").await).await, TlsFault::NotTls);
    assert_eq!(fault(&tls, servers::saying(b"").await).await, TlsFault::Closed);
}

#[tokio::test]
async fn https_behind_http_is_told() {
    const GO: &[u8] = b"HTTP/1.0 400 Bad Request\r\n\r\nClient sent an HTTP request to an HTTPS server.\n";
    for address in [showing(&Identity::self_signed(&params(&[NAME]))).await, servers::saying(GO).await] {
        let error = refused(&Tls::default(), Options::default(), &format!("http://{address}/")).await;
        assert_eq!(error, ConnectError::PlainToTls { at: address.to_string() });
    }
    let address = servers::saying(b"HTTP/1.0 400 Bad Request\r\n\r\nno").await;
    assert!(get(&Tls::default(), Options::default(), &format!("http://{address}/")).await.is_ok());
}

#[tokio::test]
async fn a_server_of_another_tls_version_is_told() {
    const PROTOCOL_VERSION_ALERT: &[u8] = &[0x15, 3, 1, 0, 2, 2, 70];
    let address = servers::saying(PROTOCOL_VERSION_ALERT).await;
    assert_eq!(fault(&Authority::new("ours").trusted(), address).await, TlsFault::Version { oldest: Oldest::Tls12 });
}

#[tokio::test]
async fn a_silent_server_is_given_up_in_time() {
    let address = servers::silent().await;
    let error = refused(&Tls::default(), hurried(), &format!("https://{address}/")).await;
    let after = Duration::from_millis(100);
    assert_eq!(error, ConnectError::TimedOut { at: address.to_string(), stage: Stage::Tls, after });
    assert!(error.to_string().starts_with(&format!("no connection to {address} within 100ms: ")), "{error}");
}

#[tokio::test]
async fn nobody_there_is_told() {
    let address = servers::nobody().await;
    let error = refused(&Tls::default(), Options::default(), &format!("https://{address}/")).await;
    assert_eq!(error, ConnectError::Refused { at: address.to_string() });
    let error = refused(&Tls::default(), Options::default(), "https://vault.invalid/").await;
    assert!(matches!(error, ConnectError::NameNotFound { .. }), "{error:?}");
}

#[tokio::test]
async fn one_live_address_among_dead_ones_is_found() {
    let (dead, live) = (servers::nobody().await, servers::http().await);
    let target = Target { tls: false, host: NAME.into(), port: 1 };
    let stream = tcp::connect(&target, vec![dead, live], CONNECT_TIMEOUT).await.unwrap();
    assert_eq!(stream.peer_addr().unwrap(), live);
    assert!(stream.nodelay().unwrap());
}

fn socket(path: &Path) -> Options {
    Options { socket: Some(path.into()), ..Options::default() }
}

#[tokio::test]
async fn a_unix_socket_is_spoken_to() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("agent.sock");
    let listener = UnixListener::bind(&path).unwrap();
    tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        servers::answer(Box::new(stream), false, String::new()).await
    });
    let seen = get(&Tls::default(), socket(&path), "http://localhost/v1/x").await.unwrap();
    assert_eq!(seen, "HTTP/1.1 /v1/x");
}

#[tokio::test]
async fn a_unix_socket_that_is_missing_is_named() {
    let error = refused(&Tls::default(), socket(Path::new("/nowhere/agent.sock")), "http://localhost/").await;
    assert!(
        error.to_string().starts_with("cannot connect to the unix socket /nowhere/agent.sock: No such file"),
        "{error}"
    );
}

#[tokio::test]
async fn a_guarded_connector_stays_off_the_node() {
    let address = servers::http().await;
    let port = address.port();
    for host in
        ["localhost", "127.0.0.1", "[::1]", "[::ffff:127.0.0.1]", "0.0.0.0", "127.1", "2130706433", "0x7f000001"]
    {
        for scheme in ["http", "https"] {
            let error = refused(&Tls::default(), guarded(), &format!("{scheme}://{host}:{port}/")).await;
            assert!(
                matches!(&error, ConnectError::Guarded { host: named, .. } if *named == host.trim_matches(['[', ']'])),
                "{host}: {error:?}"
            );
        }
    }
    assert!(get(&Tls::default(), Options::default(), &format!("http://127.1:{port}/")).await.is_ok());
}

#[tokio::test]
async fn errors_show_no_credentials() {
    let proxies = Proxies::always("VAULT_PROXY_ADDR", format!("http://user:HUSH@{}", servers::nobody().await)).unwrap();
    let options = Options { proxies, ..Options::default() };
    let connector = Connector::new(&Tls::default(), options.clone()).unwrap();
    let error = refused(&Tls::default(), options, "https://user:HUSH@vault.example:8200/").await;
    assert!(!format!("{connector:?} {error:?} {error}").contains("HUSH"), "{error}");
}
