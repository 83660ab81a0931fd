//! TLS: certificates of the server and the client.

use std::{
    fs,
    io::{self, Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    path::Path,
    sync::Arc,
    thread,
};

use base64::{Engine, engine::general_purpose::STANDARD};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use serde_json::{Value, json};
use vaultmount::{
    error::{Cause, Error},
    kube::{Config, Kube},
    tls::MinTlsVersion,
};

use crate::{HMAC_SECRET_NAME, build_client};

struct CertificateAuthority {
    certificate: rcgen::CertifiedIssuer<'static, rcgen::KeyPair>,
}

/// A certificate and its key, in PEM.
struct Leaf {
    certificate: String,
    key: String,
}

impl CertificateAuthority {
    fn new() -> Self {
        let mut params = rcgen::CertificateParams::default();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let key = rcgen::KeyPair::generate().unwrap();
        Self { certificate: rcgen::CertifiedIssuer::self_signed(params, key).unwrap() }
    }

    fn pem(&self) -> String {
        self.certificate.pem()
    }

    fn issue(&self, name: &str) -> Leaf {
        let key = rcgen::KeyPair::generate().unwrap();
        let params = rcgen::CertificateParams::new([name.to_owned()]).unwrap();
        let certificate = params.signed_by(&key, &self.certificate).unwrap().pem();
        Leaf { certificate, key: key.serialize_pem() }
    }
}

/// Starts a server with certificate `leaf` that requires a client certificate of `clients`, if set, and answers every
/// request with an HMAC key.
fn serve(leaf: &Leaf, clients: Option<&CertificateAuthority>) -> SocketAddr {
    serve_with(server_config(leaf, clients, rustls::DEFAULT_VERSIONS))
}

fn serve_with(config: rustls::ServerConfig) -> SocketAddr {
    let config = Arc::new(config);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let session = rustls::ServerConnection::new(Arc::clone(&config)).unwrap();
            serve_request(&mut rustls::StreamOwned::new(session, stream.unwrap()));
        }
    });
    address
}

fn serve_request(stream: &mut rustls::StreamOwned<rustls::ServerConnection, TcpStream>) {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read(&mut byte) {
            Ok(1) => head.push(byte[0]),
            _ => return drain(&mut stream.sock),
        }
    }
    let body = r#"{"data":{"key":"YQ=="}}"#;
    let _ = write!(stream, "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    let _ = stream.flush();
}

/// Lets the client read the alert: closing the socket with unread bytes would reset the connection.
fn drain(socket: &mut TcpStream) {
    let _ = socket.shutdown(Shutdown::Write);
    let _ = io::copy(socket, &mut io::sink());
}

fn server_config(
    leaf: &Leaf,
    clients: Option<&CertificateAuthority>,
    versions: &[&'static rustls::SupportedProtocolVersion],
) -> rustls::ServerConfig {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = rustls::ServerConfig::builder_with_provider(Arc::clone(&provider));
    let builder = builder.with_protocol_versions(versions).unwrap();
    let builder = match clients {
        None => builder.with_no_client_auth(),
        Some(authority) => {
            let mut roots = rustls::RootCertStore::empty();
            roots.add(authority.certificate.der().clone()).unwrap();
            let verifier = rustls::server::WebPkiClientVerifier::builder_with_provider(roots.into(), provider);
            builder.with_client_cert_verifier(verifier.build().unwrap())
        }
    };
    let chain = vec![CertificateDer::from_pem_slice(leaf.certificate.as_bytes()).unwrap()];
    builder.with_single_cert(chain, PrivateKeyDer::from_pem_slice(leaf.key.as_bytes()).unwrap()).unwrap()
}

fn kubeconfig(address: SocketAddr, cluster: Value, user: &Value) -> String {
    let mut cluster = cluster;
    cluster["server"] = json!(format!("https://{address}"));
    json!({
        "current-context": "x", "contexts": [{"name": "x", "context": {"cluster": "x", "user": "x"}}],
        "clusters": [{"name": "x", "cluster": cluster}], "users": [{"name": "x", "user": user}],
    })
    .to_string()
}

fn base64_pem(pem: &str) -> String {
    STANDARD.encode(pem)
}

async fn read_hmac_key(kubeconfig: &str) -> Result<Vec<u8>, Error> {
    Ok(build_client(kubeconfig)?.hmac_key(HMAC_SECRET_NAME).await?.expose().to_vec())
}

#[tokio::test]
async fn kubeconfig_ca_is_trusted() {
    let authority = CertificateAuthority::new();
    let address = serve(&authority.issue("127.0.0.1"), None);
    let cluster = json!({"certificate-authority-data": base64_pem(&authority.pem())});
    assert_eq!(read_hmac_key(&kubeconfig(address, cluster, &json!({}))).await.unwrap(), b"a");
}

#[tokio::test]
async fn kubeconfig_ca_rejects_other_issuer() {
    let address = serve(&CertificateAuthority::new().issue("127.0.0.1"), None);
    let cluster = json!({"certificate-authority-data": base64_pem(&CertificateAuthority::new().pem())});
    let error = read_hmac_key(&kubeconfig(address, cluster, &json!({}))).await.unwrap_err();
    assert_eq!(error.cause(), Cause::KubernetesConfig);
    assert!(error.to_string().contains("failed the TLS handshake (it said: invalid peer certificate"), "{error}");
}

#[tokio::test]
async fn kubeconfig_tls_server_name_accepts_that_name() {
    let authority = CertificateAuthority::new();
    let address = serve(&authority.issue("kubernetes.default.svc"), None);
    let mut cluster = json!({"certificate-authority-data": base64_pem(&authority.pem())});
    assert_eq!(
        read_hmac_key(&kubeconfig(address, cluster.clone(), &json!({}))).await.unwrap_err().cause(),
        Cause::KubernetesConfig
    );
    cluster["tls-server-name"] = json!("kubernetes.default.svc");
    assert_eq!(read_hmac_key(&kubeconfig(address, cluster, &json!({}))).await.unwrap(), b"a");
}

#[tokio::test]
async fn kubeconfig_insecure_skip_tls_verify_disables_check() {
    let address = serve(&CertificateAuthority::new().issue("elsewhere"), None);
    let cluster = json!({"insecure-skip-tls-verify": true});
    assert_eq!(read_hmac_key(&kubeconfig(address, cluster, &json!({}))).await.unwrap(), b"a");
}

#[tokio::test]
async fn kubeconfig_client_certificate_authenticates() {
    let authority = CertificateAuthority::new();
    let address = serve(&authority.issue("127.0.0.1"), Some(&authority));
    let cluster = json!({"certificate-authority-data": base64_pem(&authority.pem())});
    let me = authority.issue("admin");
    let user = json!({"client-certificate-data": base64_pem(&me.certificate), "client-key-data": base64_pem(&me.key)});
    assert_eq!(read_hmac_key(&kubeconfig(address, cluster.clone(), &user)).await.unwrap(), b"a");
    assert_eq!(
        read_hmac_key(&kubeconfig(address, cluster, &json!({}))).await.unwrap_err().cause(),
        Cause::KubernetesConfig
    );
}

#[tokio::test]
async fn kubeconfig_client_key_mismatch_fails_at_build() {
    let authority = CertificateAuthority::new();
    let (me, other) = (authority.issue("a"), authority.issue("b"));
    let user =
        json!({"client-certificate-data": base64_pem(&me.certificate), "client-key-data": base64_pem(&other.key)});
    let error = build_client(&kubeconfig(([127, 0, 0, 1], 1).into(), json!({}), &user)).unwrap_err();
    assert_eq!(error.cause(), Cause::KubernetesConfig);
}

#[tokio::test]
async fn in_cluster_ca_rotation_succeeds_on_second_attempt() {
    let (old, new) = (CertificateAuthority::new(), CertificateAuthority::new());
    let address = serve(&new.issue("127.0.0.1"), None);
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| fs::write(folder.path().join(name), text).unwrap();
    write("token", "t");
    write("namespace", "csi");
    write("ca.crt", &old.pem());
    let kube = in_cluster_client(address, folder.path());
    write("ca.crt", &new.pem());

    assert_eq!(kube.hmac_key(HMAC_SECRET_NAME).await.unwrap_err().cause(), Cause::KubernetesConfig);
    assert_eq!(kube.hmac_key(HMAC_SECRET_NAME).await.unwrap().expose(), b"a");
    assert_eq!((kube.namespace(), kube.request_count()), ("csi", 2));
}

#[tokio::test]
async fn in_cluster_ca_reload_applies_new_and_ignores_broken() {
    let (old, new) = (CertificateAuthority::new(), CertificateAuthority::new());
    let address = serve(&new.issue("127.0.0.1"), None);
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| fs::write(folder.path().join(name), text).unwrap();
    write("token", "t");
    write("namespace", "csi");
    write("ca.crt", &old.pem());
    let kube = in_cluster_client(address, folder.path());
    for authority in [new.pem(), "nothing".to_owned()] {
        write("ca.crt", &authority);
        kube.reload_tls().await;
        assert_eq!(kube.hmac_key(HMAC_SECRET_NAME).await.unwrap().expose(), b"a");
    }
    assert_eq!(kube.request_count(), 2);
}

#[tokio::test]
async fn min_tls_version_applies_to_api_server() {
    let authority = CertificateAuthority::new();
    let folder = tempfile::tempdir().unwrap();
    for (name, text) in [("token", "t"), ("namespace", "csi"), ("ca.crt", &authority.pem())] {
        fs::write(folder.path().join(name), text).unwrap();
    }
    let leaf = authority.issue("127.0.0.1");
    let address = serve_with(server_config(&leaf, None, &[&rustls::version::TLS12]));
    let config = |min_tls_version| Config { min_tls_version, ..in_cluster_config(address, folder.path()) };
    let key = async |version| config(version).build(Arc::default()).unwrap().unwrap().hmac_key(HMAC_SECRET_NAME).await;
    assert_eq!(key(MinTlsVersion::Tls12).await.unwrap().expose(), b"a");
    assert_eq!(key(MinTlsVersion::Tls13).await.unwrap_err().cause(), Cause::KubernetesConfig);
}

fn in_cluster_client(address: SocketAddr, folder: &Path) -> Kube {
    in_cluster_config(address, folder).build(Arc::default()).unwrap().unwrap()
}

fn in_cluster_config(address: SocketAddr, folder: &Path) -> Config {
    Config {
        kubeconfig: None,
        service_host: Some(address.ip().to_string()),
        service_port: Some(address.port().to_string()),
        service_account: folder.to_owned(),
        ..Config::from_env(None)
    }
}
