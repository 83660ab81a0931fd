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
use crate::tls::test_pki::{Authority, Identity, expired, params, server_config};

const NAME: &str = "vault.example";

/// Sends a GET request with hyper's client over the connector. The body shows what the server saw.
async fn get(tls: &Tls, options: ConnectOptions, url: &str) -> Result<String, Error> {
    let connector = Connector::new(tls, options).unwrap();
    let mut request = Request::get(url).body(Empty::<Bytes>::new()).unwrap();
    if let Some(credentials) = connector.proxy_authorization(request.uri()) {
        request.headers_mut().insert("proxy-authorization", credentials);
    }
    let client = Client::builder(TokioExecutor::new()).build(connector);
    let body = client.request(request).await?.into_body().collect().await.unwrap().to_bytes();
    Ok(String::from_utf8(body.to_vec()).unwrap())
}

/// Returns the connector's error inside the client's.
async fn expect_connect_error(tls: &Tls, options: ConnectOptions, url: &str) -> ConnectError {
    let error = get(tls, options, url).await.expect_err("the connection fails");
    find_connect_error(&error).unwrap_or_else(|| panic!("no ConnectError behind {error:?}")).clone()
}

/// Returns the handshake error of a TLS server on loopback.
async fn expect_handshake_error(tls: &Tls, address: SocketAddr) -> HandshakeError {
    match expect_connect_error(tls, ConnectOptions::default(), &format!("https://{address}/")).await {
        ConnectError::Tls { target, error } if target == address.to_string() => error,
        other => panic!("not a TLS error: {other:?}"),
    }
}

/// Starts a server with this certificate.
async fn serve_certificate(identity: &Identity) -> SocketAddr {
    servers::https(server_config(identity.certified_key(), None, DEFAULT_VERSIONS)).await
}

fn with_server_name(mut tls: Tls, name: &str) -> Tls {
    tls.server_name = Some(name.to_owned());
    tls
}

fn deny_local() -> ConnectOptions {
    ConnectOptions { deny_local_addresses: true, ..ConnectOptions::default() }
}

fn short_timeout() -> ConnectOptions {
    ConnectOptions { timeout: Duration::from_millis(100), ..ConnectOptions::default() }
}

#[tokio::test]
async fn plain_connection_uses_http1() {
    let address = servers::http().await;
    let seen = get(&Tls::default(), ConnectOptions::default(), &format!("http://{address}/v1/x")).await.unwrap();
    assert_eq!(seen, "HTTP/1.1 /v1/x");
}

#[tokio::test]
async fn tls_connection_uses_http2_unless_disabled() {
    let authority = Authority::new("ours");
    let address = serve_certificate(&authority.issue(&params(&["127.0.0.1"]))).await;
    let url = format!("https://{address}/v1/x");
    let seen = get(&authority.trust_settings(), ConnectOptions::default(), &url).await.unwrap();
    assert_eq!(seen, format!("HTTP/2.0 {url}"));
    let options = ConnectOptions { offer_http2: false, ..ConnectOptions::default() };
    assert_eq!(get(&authority.trust_settings(), options, &url).await.unwrap(), "HTTP/1.1 /v1/x");
}

#[tokio::test]
async fn tls_server_name_is_sent_as_sni_and_verified() {
    let authority = Authority::new("ours");
    let address = serve_certificate(&authority.issue(&params(&[NAME]))).await;
    let url = format!("https://{address}/");
    let seen = get(&with_server_name(authority.trust_settings(), NAME), ConnectOptions::default(), &url).await.unwrap();
    assert_eq!(seen, format!("HTTP/2.0 {url} {NAME}"));
    let error = expect_handshake_error(&with_server_name(authority.trust_settings(), "other.example"), address).await;
    assert_eq!(error, HandshakeError::NameMismatch { expected: "other.example".into(), presented: vec![NAME.into()] });
}

#[test]
fn invalid_tls_server_name_is_rejected() {
    let error = Connector::new(&with_server_name(Tls::default(), "no name"), ConnectOptions::default()).unwrap_err();
    assert_eq!(error.to_string(), r#"the TLS server name "no name" is neither a host name nor an IP address"#);
}

#[tokio::test]
async fn name_mismatch_error_lists_presented_names() {
    let authority = Authority::new("ours");
    let error = expect_handshake_error(
        &authority.trust_settings(),
        serve_certificate(&authority.issue(&params(&[NAME, "10.0.0.1"]))).await,
    )
    .await;
    assert_eq!(error.to_string(), "its certificate is not for 127.0.0.1 but for vault.example, 10.0.0.1");
    assert!(error.fix().unwrap().contains("vaultTLSServerName"));
}

#[tokio::test]
async fn certificate_without_san_is_name_mismatch() {
    let authority = Authority::new("ours");
    let error =
        expect_handshake_error(&authority.trust_settings(), serve_certificate(&authority.issue(&params(&[]))).await)
            .await;
    assert_eq!(error.to_string(), "its certificate is not for 127.0.0.1: it has no subject alternative names at all");
    assert!(error.fix().unwrap().contains("the common name does not count"));
}

#[tokio::test]
async fn unknown_issuer_fix_suggests_ca() {
    let server = serve_certificate(&Authority::new("theirs").issue(&params(&["127.0.0.1"]))).await;
    let error = expect_handshake_error(&Authority::new("ours").trust_settings(), server).await;
    assert_eq!(error, HandshakeError::UnknownIssuer);
    assert!(error.fix().unwrap().contains("set the CA"));
}

#[tokio::test]
async fn untrusted_ca_of_same_name_is_wrong_signature() {
    let server = serve_certificate(&Authority::new("ours").issue(&params(&["127.0.0.1"]))).await;
    let error = expect_handshake_error(&Authority::new("ours").trust_settings(), server).await;
    assert_eq!(error, HandshakeError::WrongSignature);
    assert!(error.fix().unwrap().contains("set the CA"));
}

#[tokio::test]
async fn expired_certificate_error_contains_not_after() {
    let authority = Authority::new("ours");
    let error = expect_handshake_error(
        &authority.trust_settings(),
        serve_certificate(&authority.issue(&expired(params(&["127.0.0.1"])))).await,
    )
    .await;
    assert_eq!(error.to_string(), "its certificate is expired (since 2001-02-03T00:00:00Z)");
}

#[tokio::test]
async fn future_certificate_error_contains_not_before() {
    let authority = Authority::new("ours");
    let mut params = params(&["127.0.0.1"]);
    params.not_before = rcgen::date_time_ymd(2999, 1, 1);
    let error =
        expect_handshake_error(&authority.trust_settings(), serve_certificate(&authority.issue(&params)).await).await;
    assert_eq!(error.to_string(), "its certificate is not valid yet (from 2999-01-01T00:00:00Z)");
}

#[tokio::test]
async fn x509_version_1_server_certificate_is_reported() {
    let identity = Identity::self_signed(&params(&["127.0.0.1"])).into_x509_version_1();
    assert_eq!(
        expect_handshake_error(&identity.trust_settings(), serve_certificate(&identity).await).await,
        HandshakeError::X509Version1
    );
}

#[tokio::test]
async fn missing_client_certificate_is_reported() {
    let authority = Authority::new("ours");
    let certified = || authority.issue(&params(&["127.0.0.1"])).certified_key();
    let tls13 = servers::https(server_config(certified(), Some(&authority), &[&TLS13])).await;
    for offer_http2 in [false, true] {
        let options = ConnectOptions { offer_http2, ..ConnectOptions::default() };
        let error = expect_connect_error(&authority.trust_settings(), options, &format!("https://{tls13}/")).await;
        assert_eq!(
            error,
            ConnectError::Tls { target: tls13.to_string(), error: HandshakeError::ClientCertificateMissing },
            "{offer_http2}"
        );
    }
    let tls12 = servers::https(server_config(certified(), Some(&authority), &[&TLS12])).await;
    let error = expect_handshake_error(&authority.trust_settings(), tls12).await;
    assert!(error.to_string().contains("client certificate"), "{error:?}");
}

#[tokio::test]
async fn non_tls_server_behind_https_address_is_reported() {
    let tls = Authority::new("ours").trust_settings();
    assert_eq!(expect_handshake_error(&tls, servers::http().await).await, HandshakeError::NotTls);
    assert_eq!(
        expect_handshake_error(&tls, servers::replying(b"220 mail.example ESMTP\r\n").await).await,
        HandshakeError::NotTls
    );
    assert_eq!(expect_handshake_error(&tls, servers::replying(b"").await).await, HandshakeError::ConnectionClosed);
}

#[tokio::test]
async fn tls_server_behind_http_address_is_reported() {
    const GO: &[u8] = b"HTTP/1.0 400 Bad Request\r\n\r\nClient sent an HTTP request to an HTTPS server.\n";
    for address in [serve_certificate(&Identity::self_signed(&params(&[NAME]))).await, servers::replying(GO).await] {
        let error =
            expect_connect_error(&Tls::default(), ConnectOptions::default(), &format!("http://{address}/")).await;
        assert_eq!(error, ConnectError::PlainToTls { target: address.to_string() });
    }
    let address = servers::replying(b"HTTP/1.0 400 Bad Request\r\n\r\nno").await;
    assert!(get(&Tls::default(), ConnectOptions::default(), &format!("http://{address}/")).await.is_ok());
}

#[tokio::test]
async fn unsupported_tls_version_is_reported() {
    const PROTOCOL_VERSION_ALERT: &[u8] = &[0x15, 3, 1, 0, 2, 2, 70];
    let address = servers::replying(PROTOCOL_VERSION_ALERT).await;
    assert_eq!(
        expect_handshake_error(&Authority::new("ours").trust_settings(), address).await,
        HandshakeError::UnsupportedVersion { min_tls_version: MinTlsVersion::Tls12 }
    );
}

#[tokio::test]
async fn connect_timeout_covers_silent_tls_server() {
    let address = servers::silent().await;
    let error = expect_connect_error(&Tls::default(), short_timeout(), &format!("https://{address}/")).await;
    let timeout = Duration::from_millis(100);
    assert_eq!(error, ConnectError::TimedOut { target: address.to_string(), stage: ConnectStage::Tls, timeout });
    assert!(error.to_string().starts_with(&format!("connecting to {address} timed out after 100ms: ")), "{error}");
}

#[tokio::test]
async fn refused_connection_and_unknown_host_are_reported() {
    let address = servers::unused_address().await;
    let error = expect_connect_error(&Tls::default(), ConnectOptions::default(), &format!("https://{address}/")).await;
    assert_eq!(error, ConnectError::ConnectionRefused { target: address.to_string() });
    let error = expect_connect_error(&Tls::default(), ConnectOptions::default(), "https://vault.invalid/").await;
    assert!(matches!(error, ConnectError::NameNotFound { .. }), "{error:?}");
}

#[tokio::test]
async fn connect_tries_all_resolved_addresses() {
    let (dead, live) = (servers::unused_address().await, servers::http().await);
    let target = Target { uses_tls: false, host: NAME.into(), port: 1 };
    let stream = tcp::connect(&target, vec![dead, live], DEFAULT_CONNECT_TIMEOUT).await.unwrap();
    assert_eq!(stream.peer_addr().unwrap(), live);
    assert!(stream.nodelay().unwrap());
}

fn over_unix_socket(path: &Path) -> ConnectOptions {
    ConnectOptions { unix_socket: Some(path.into()), ..ConnectOptions::default() }
}

#[tokio::test]
async fn unix_socket_address_is_connected() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("agent.sock");
    let listener = UnixListener::bind(&path).unwrap();
    tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        servers::serve_http(Box::new(stream), false, String::new()).await
    });
    let seen = get(&Tls::default(), over_unix_socket(&path), "http://localhost/v1/x").await.unwrap();
    assert_eq!(seen, "HTTP/1.1 /v1/x");
}

#[tokio::test]
async fn missing_unix_socket_error_names_path() {
    let error =
        expect_connect_error(&Tls::default(), over_unix_socket(Path::new("/nowhere/agent.sock")), "http://localhost/")
            .await;
    assert!(
        error.to_string().starts_with("cannot connect to the unix socket /nowhere/agent.sock: No such file"),
        "{error}"
    );
}

#[tokio::test]
async fn deny_local_addresses_blocks_all_loopback_forms() {
    let address = servers::http().await;
    let port = address.port();
    for host in
        ["localhost", "127.0.0.1", "[::1]", "[::ffff:127.0.0.1]", "0.0.0.0", "127.1", "2130706433", "0x7f000001"]
    {
        for scheme in ["http", "https"] {
            let error =
                expect_connect_error(&Tls::default(), deny_local(), &format!("{scheme}://{host}:{port}/")).await;
            assert!(
                matches!(&error, ConnectError::BlockedAddress { host: blocked_host, .. } if *blocked_host == host.trim_matches(['[', ']'])),
                "{host}: {error:?}"
            );
        }
    }
    assert!(get(&Tls::default(), ConnectOptions::default(), &format!("http://127.1:{port}/")).await.is_ok());
}

#[tokio::test]
async fn connect_errors_do_not_contain_credentials() {
    let proxies =
        Proxies::for_all_hosts("VAULT_PROXY_ADDR", format!("http://user:HUSH@{}", servers::unused_address().await))
            .unwrap();
    let options = ConnectOptions { proxies, ..ConnectOptions::default() };
    let connector = Connector::new(&Tls::default(), options.clone()).unwrap();
    let error = expect_connect_error(&Tls::default(), options, "https://user:HUSH@vault.example:8200/").await;
    assert!(!format!("{connector:?} {error:?} {error}").contains("HUSH"), "{error}");
}
