//! Certificates and TLS servers for tests.

use std::sync::Arc;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use rustls::{
    RootCertStore, ServerConfig, SupportedProtocolVersion,
    crypto::ring,
    pki_types::CertificateDer,
    server::WebPkiClientVerifier,
    sign::{CertifiedKey, SingleCertAndKey},
};

use super::{Ca, Tls, public_key};

/// A certificate and its key.
pub(crate) struct Identity {
    pub(crate) certificate: CertificateDer<'static>,
    pub(crate) key: KeyPair,
}

impl Identity {
    /// Creates a self-signed certificate.
    pub(crate) fn self_signed(params: &CertificateParams) -> Self {
        let key = KeyPair::generate().unwrap();
        Self { certificate: params.self_signed(&key).unwrap().der().clone(), key }
    }

    pub(crate) fn pem(&self) -> String {
        pem_section("CERTIFICATE", &self.certificate)
    }

    /// Returns settings that trust this certificate.
    pub(crate) fn trust_settings(&self) -> Tls {
        Tls { ca: Ca::Pem(self.pem()), ..Tls::default() }
    }

    /// Converts the certificate to X.509 version 1, as `openssl x509 -req` makes it, with the same key. The signature is invalid.
    pub(crate) fn into_x509_version_1(mut self) -> Self {
        const VERSION: u8 = 0xa0;
        const EXTENSIONS: u8 = 0xa3;
        let parts = der_elements(der_contents(&self.certificate));
        let fields =
            der_elements(der_contents(parts[0])).into_iter().filter(|field| ![VERSION, EXTENSIONS].contains(&field[0]));
        let body = public_key::encode_der_sequence(&fields.collect::<Vec<_>>().concat());
        self.certificate = public_key::encode_der_sequence(&[&body, parts[1], parts[2]].concat()).into();
        self
    }

    pub(crate) fn certified_key(&self) -> CertifiedKey {
        let key = self.key.serialize_der().try_into().unwrap();
        CertifiedKey::new(vec![self.certificate.clone()], ring::sign::any_supported_type(&key).unwrap())
    }
}

/// Test CA.
pub(crate) struct Authority {
    certificate: CertificateDer<'static>,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    pub(crate) fn new(name: &str) -> Self {
        let mut params = ca_params(&[]);
        params.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap().der().clone();
        Self { certificate, issuer: Issuer::new(params, key) }
    }

    pub(crate) fn issue(&self, params: &CertificateParams) -> Identity {
        let key = KeyPair::generate().unwrap();
        Identity { certificate: params.signed_by(&key, &self.issuer).unwrap().der().clone(), key }
    }

    pub(crate) fn pem(&self) -> String {
        pem_section("CERTIFICATE", &self.certificate)
    }

    /// Returns settings that trust this CA.
    pub(crate) fn trust_settings(&self) -> Tls {
        Tls { ca: Ca::Pem(self.pem()), ..Tls::default() }
    }
}

/// Returns parameters of a long-lived certificate for these names and addresses.
pub(crate) fn params(names: &[&str]) -> CertificateParams {
    CertificateParams::new(names.iter().map(ToString::to_string).collect::<Vec<_>>()).unwrap()
}

/// Same as [`params`], for a CA certificate.
pub(crate) fn ca_params(names: &[&str]) -> CertificateParams {
    let mut params = params(names);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params
}

/// Changes the parameters to an expired certificate.
pub(crate) fn expired(mut params: CertificateParams) -> CertificateParams {
    params.not_after = rcgen::date_time_ymd(2001, 2, 3);
    params
}

/// Returns the configuration of a server with this certificate. If `clients` is set, the server requires a client certificate of
/// that CA.
pub(crate) fn server_config(
    identity: CertifiedKey,
    clients: Option<&Authority>,
    versions: &[&'static SupportedProtocolVersion],
) -> ServerConfig {
    let provider = Arc::new(ring::default_provider());
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider)).with_protocol_versions(versions).unwrap();
    let resolver = Arc::new(SingleCertAndKey::from(identity));
    let Some(clients) = clients else { return builder.with_no_client_auth().with_cert_resolver(resolver) };
    let mut roots = RootCertStore::empty();
    roots.add(clients.certificate.clone()).unwrap();
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build().unwrap();
    builder.with_client_cert_verifier(verifier).with_cert_resolver(resolver)
}

/// Encodes DER as a PEM section.
pub(crate) fn pem_section(label: &str, der: &[u8]) -> String {
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", STANDARD.encode(der))
}

/// Returns the contents of the first DER element.
pub(crate) fn der_contents(der: &[u8]) -> &[u8] {
    let (header, length) = der_header(der);
    &der[header..header + length]
}

/// Returns the consecutive DER elements.
pub(crate) fn der_elements(mut der: &[u8]) -> Vec<&[u8]> {
    let mut elements = Vec::new();
    while !der.is_empty() {
        let (header, length) = der_header(der);
        let (element, rest) = der.split_at(header + length);
        elements.push(element);
        der = rest;
    }
    elements
}

fn der_header(der: &[u8]) -> (usize, usize) {
    match usize::from(der[1]) {
        short @ 0..=0x7f => (2, short),
        long => {
            let end = 2 + (long & 0x7f);
            (end, der[2..end].iter().fold(0, |length, byte| length << 8 | usize::from(*byte)))
        }
    }
}
