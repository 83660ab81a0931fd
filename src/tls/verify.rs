//! Verification of server certificates.

use std::sync::Arc;

use rustls::{
    CertificateError, DigitallySignedStruct, Error, OtherError, SignatureScheme,
    client::{
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        verify_server_cert_signed_by_trust_anchor, verify_server_name,
    },
    crypto::{
        WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature, verify_tls13_signature_with_raw_key,
    },
    pki_types::{CertificateDer, ServerName, UnixTime},
    server::ParsedCertificate,
};

use super::{pem::Authorities, public_key};

/// vaultmount's own reasons to reject a certificate, carried in [`CertificateError::Other`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CertificateRejection {
    /// No CA is configured, and the system does not have one.
    #[error("this system has no certificate authorities of its own")]
    NoAuthorities,
    /// X.509 version 1 does not support subject alternative names, so the certificate cannot name a host.
    #[error("the certificate is of X.509 version 1, which cannot name a host")]
    X509Version1,
    /// A CA's own certificate that is not trusted. `openssl req -x509` makes such certificates for servers.
    #[error("the certificate is a CA's own, and not trusted")]
    UntrustedAuthority,
}

impl From<CertificateRejection> for Error {
    fn from(refusal: CertificateRejection) -> Self {
        CertificateError::Other(OtherError(Arc::new(refusal))).into()
    }
}

/// Accepts certificates that a trusted CA issued and, like Go, the CA's own certificate.
///
/// A self-signed certificate for one server is usually marked as a CA, and the same file is then the server's certificate and
/// the client's CA. webpki rejects that (`CaUsedAsEndEntity`). Byte equality with a trusted certificate replaces the check of
/// the issuer's signature. Validity and name are still checked.
#[derive(Debug)]
pub(super) struct ChainVerifier {
    authorities: Authorities,
    algorithms: WebPkiSupportedAlgorithms,
}

impl ChainVerifier {
    pub(super) fn new(authorities: Authorities, algorithms: WebPkiSupportedAlgorithms) -> Self {
        Self { authorities, algorithms }
    }

    /// Returns true if `error` only reports an untrusted issuer, and the certificate itself is trusted.
    ///
    /// webpki checks the validity before the chain, so neither error hides an expired certificate. Tests verify this order.
    fn is_trusted_itself(&self, certificate: &CertificateDer<'_>, error: &Error) -> bool {
        let is_unknown_issuer = matches!(error, Error::InvalidCertificate(CertificateError::UnknownIssuer));
        (is_unknown_issuer || is_ca_used_as_server(error)) && self.authorities.contains(certificate)
    }
}

impl ServerCertVerifier for ChainVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        _ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let anchors = &self.authorities.anchors;
        if anchors.is_empty() {
            return Err(CertificateRejection::NoAuthorities.into());
        }
        let certificate = ParsedCertificate::try_from(end_entity).map_err(map_version_1_error)?;
        verify_server_cert_signed_by_trust_anchor(&certificate, anchors, intermediates, now, self.algorithms.all)
            .or_else(|error| match error {
                error if self.is_trusted_itself(end_entity, &error) => Ok(()),
                error if is_ca_used_as_server(&error) => Err(CertificateRejection::UntrustedAuthority.into()),
                error => Err(error),
            })?;
        verify_server_name(&certificate, server_name)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, dss, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

/// Accepts every certificate. The server must still prove that it holds the private key.
#[derive(Debug)]
pub(super) struct AcceptAnyVerifier(WebPkiSupportedAlgorithms);

impl AcceptAnyVerifier {
    pub(super) fn new(algorithms: WebPkiSupportedAlgorithms) -> Self {
        Self(algorithms)
    }
}

impl ServerCertVerifier for AcceptAnyVerifier {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, dss, &self.0).map_err(map_version_1_error)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature_with_raw_key(message, &public_key::from_certificate(cert)?, dss, &self.0)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_schemes()
    }
}

/// Returns true if webpki rejected a server's certificate because it is a CA certificate.
fn is_ca_used_as_server(error: &Error) -> bool {
    matches!(error, Error::InvalidCertificate(CertificateError::Other(other)) if other.to_string() == "CaUsedAsEndEntity")
}

/// Converts webpki's error for X.509 version 1 to [`CertificateRejection::X509Version1`].
fn map_version_1_error(error: Error) -> Error {
    match error {
        Error::InvalidCertificate(CertificateError::Other(other)) if other.to_string() == "UnsupportedCertVersion" => {
            CertificateRejection::X509Version1.into()
        }
        error => error,
    }
}
