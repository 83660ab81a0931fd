//! Certificates for servers and clients of tests.

use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, date_time_ymd};
use rustls::{
    DEFAULT_VERSIONS, RootCertStore, ServerConfig, SupportedProtocolVersion,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    server::WebPkiClientVerifier,
    version::TLS12,
};

/// An issuer of certificates.
pub struct CertificateAuthority(CertifiedIssuer<'static, KeyPair>);

/// A certificate and its key, in PEM.
pub struct Leaf {
    pub certificate: String,
    pub key: String,
}

impl CertificateAuthority {
    pub fn new() -> Self {
        Self::with_name("tests")
    }

    pub fn with_name(name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    /// Creates an authority with a certificate that expires at the start of this day.
    pub fn with_expiry(year: i32, month: u8, day: u8) -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.not_after = date_time_ymd(year, month, day);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    pub fn pem(&self) -> String {
        self.0.pem()
    }

    pub fn issue(&self, name: &str) -> Leaf {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new([name.to_owned()]).unwrap();
        Leaf { certificate: params.signed_by(&key, &self.0).unwrap().pem(), key: key.serialize_pem() }
    }

    /// Issues a certificate that expires at the start of this day.
    pub fn issue_with_expiry(&self, name: &str, year: i32, month: u8, day: u8) -> Leaf {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new([name.to_owned()]).unwrap();
        params.not_after = date_time_ymd(year, month, day);
        Leaf { certificate: params.signed_by(&key, &self.0).unwrap().pem(), key: key.serialize_pem() }
    }

    /// Returns the configuration of a loopback server with a certificate of this authority. With `clients`, the server
    /// requires a client certificate of that authority.
    pub fn server_config(&self, clients: Option<&Self>) -> ServerConfig {
        config_for_leaf(&self.issue("127.0.0.1"), clients)
    }

    /// Returns a server configuration with TLS 1.2 only.
    pub fn tls12_server_config(&self) -> ServerConfig {
        config_with_versions(&self.issue("127.0.0.1"), None, &[&TLS12])
    }

    /// Returns a server configuration with an expired certificate.
    pub fn expired_server_config(&self) -> ServerConfig {
        self.server_config_with_expiry(2026, 1, 1)
    }

    /// Returns a server configuration with a certificate that expires at the start of this day.
    pub fn server_config_with_expiry(&self, year: i32, month: u8, day: u8) -> ServerConfig {
        config_for_leaf(&self.issue_with_expiry("127.0.0.1", year, month, day), None)
    }
}

/// Returns the configuration of a loopback server with a self-signed CA certificate, like that of `openssl req -x509`.
pub fn self_signed_server_config() -> ServerConfig {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(["127.0.0.1".to_owned()]).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    config_for_leaf(&Leaf { certificate: params.self_signed(&key).unwrap().pem(), key: key.serialize_pem() }, None)
}

fn config_for_leaf(leaf: &Leaf, clients: Option<&CertificateAuthority>) -> ServerConfig {
    config_with_versions(leaf, clients, DEFAULT_VERSIONS)
}

fn config_with_versions(
    leaf: &Leaf,
    clients: Option<&CertificateAuthority>,
    versions: &[&'static SupportedProtocolVersion],
) -> ServerConfig {
    let provider = Arc::new(ring::default_provider());
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider)).with_protocol_versions(versions);
    let builder = match clients {
        None => builder.unwrap().with_no_client_auth(),
        Some(clients) => {
            let mut roots = RootCertStore::empty();
            roots.add(clients.0.der().clone()).unwrap();
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build().unwrap();
            builder.unwrap().with_client_cert_verifier(verifier)
        }
    };
    let certificate = CertificateDer::from_pem_slice(leaf.certificate.as_bytes()).unwrap();
    builder.with_single_cert(vec![certificate], PrivateKeyDer::from_pem_slice(leaf.key.as_bytes()).unwrap()).unwrap()
}
