//! TLS settings, and the rustls client configuration made from them.

mod certificate_summary;
mod certificate_validity;
mod pem;
mod public_key;
mod reloader;
#[cfg(test)]
pub(crate) mod test_pki;
#[cfg(test)]
mod tests;
mod verify;

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use rustls::{
    ClientConfig, SupportedProtocolVersion,
    client::danger::ServerCertVerifier,
    crypto::ring,
    sign::{CertifiedKey, SingleCertAndKey},
    version::{TLS12, TLS13},
};

use serde::{Deserialize, Serialize};

use verify::{AcceptAnyVerifier, ChainVerifier};

pub use certificate_summary::{CertificateExpiry, CertificateSummary, Expiries};
pub use certificate_validity::certificate_validity;
pub use pem::{Digest, compute_digest};
pub use reloader::{TlsReload, TlsReloader};
pub use verify::CertificateRejection;

/// Certificate authorities that may issue a server's certificate.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Ca {
    /// CAs of the system.
    #[default]
    System,
    /// PEM file.
    File(PathBuf),
    /// Directory of PEM files.
    Directory(PathBuf),
    /// PEM text.
    Pem(String),
}

impl Ca {
    /// Returns the configured file or directory, if there is one.
    #[must_use]
    pub fn path(&self) -> Option<&Path> {
        match self {
            Self::File(path) | Self::Directory(path) => Some(path),
            Self::System | Self::Pem(_) => None,
        }
    }
}

/// A client certificate and its key, as PEM files.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ClientCertificate {
    /// The certificate chain.
    pub certificate: PathBuf,
    /// Its private key.
    pub key: PathBuf,
}

impl ClientCertificate {
    /// Returns the certificate's location for messages.
    fn display_location(&self) -> String {
        format!("the client certificate {}", self.certificate.display())
    }
}

/// TLS settings of one endpoint.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Tls {
    /// Trusted authorities.
    pub ca: Ca,
    /// Client certificate, sent if the server requests one.
    pub client: Option<ClientCertificate>,
    /// Expected name in the server's certificate, if it differs from the address's host.
    pub server_name: Option<String>,
    /// Do not verify the server's certificate. An attacker on the network path can then read every secret.
    pub skip_verify: bool,
}

/// Minimum TLS version.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MinTlsVersion {
    /// TLS 1.2.
    #[default]
    Tls12,
    /// TLS 1.3.
    Tls13,
}

impl MinTlsVersion {
    /// Returns `1.2` or `1.3`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Tls12 => "1.2",
            Self::Tls13 => "1.3",
        }
    }

    fn protocol_versions(self) -> &'static [&'static SupportedProtocolVersion] {
        const ALL_VERSIONS: &[&SupportedProtocolVersion] = &[&TLS13, &TLS12];
        match self {
            Self::Tls12 => ALL_VERSIONS,
            Self::Tls13 => &ALL_VERSIONS[..1],
        }
    }
}

/// Returns true if a text is a valid [`Tls::server_name`]: a host name or an IP address.
#[must_use]
pub fn is_server_name(text: &str) -> bool {
    rustls::pki_types::ServerName::try_from(text).is_ok()
}

/// Invalid TLS settings. Errors name the file and never contain its contents.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file or directory cannot be read.
    #[error("cannot read {location}")]
    Read {
        /// Description with path, such as `the CA file /etc/vault/ca.pem`.
        location: String,
        /// Error of the system.
        #[source]
        source: io::Error,
    },
    /// The file or text does not contain a certificate.
    #[error("{location} holds no certificate; PEM is expected (-----BEGIN CERTIFICATE-----)")]
    NoCertificate {
        /// Location of the file or text.
        location: String,
    },
    /// The file or text contains certificates, but they are all invalid.
    #[error("{location} holds no usable certificate: its contents are damaged or not X.509")]
    BadCertificate {
        /// Location of the file or text.
        location: String,
    },
    /// The key file does not contain a private key.
    #[error("{location} holds no private key; an unencrypted PEM key is expected (PKCS#8, PKCS#1 or SEC1)")]
    NoKey {
        /// Location of the file or text.
        location: String,
    },
    /// The type of the private key is not supported.
    #[error(
        "{location} holds a private key that cannot be used; RSA (2048 bits and up), ECDSA P-256, P-384 and Ed25519 can"
    )]
    BadKey {
        /// Location of the file or text.
        location: String,
    },
    /// The certificate and the key do not match.
    #[error("{certificate} and {key} do not belong together")]
    KeyMismatch {
        /// Location of the certificate.
        certificate: String,
        /// Location of the key.
        key: String,
    },
    /// A file that was complete is truncated.
    #[error("{location} is incomplete, as if half written: a certificate in it is truncated or missing")]
    Truncated {
        /// Location of the file.
        location: String,
    },
    /// The server name is neither a host name nor an IP address.
    #[error("the TLS server name {name:?} is neither a host name nor an IP address")]
    InvalidServerName {
        /// Configured name.
        name: String,
    },
    /// rustls rejected its own defaults.
    #[error("TLS cannot be set up")]
    Setup(#[source] rustls::Error),
}

/// Loads the client configuration for these settings, without application protocols.
///
/// Rereads the files at each call. Blocks. The caller must apply [`Tls::server_name`]. A system without CAs is not an error
/// here: the handshake then fails with [`CertificateRejection::NoAuthorities`].
pub fn load_client_config(tls: &Tls, min_version: MinTlsVersion) -> Result<ClientConfig, TlsError> {
    load_config_and_certificates(tls, min_version).map(|(config, _)| config)
}

/// Same as [`load_client_config`]. Also returns a summary of the certificates.
pub fn load_config_and_certificates(
    tls: &Tls,
    min_version: MinTlsVersion,
) -> Result<(ClientConfig, CertificateSummary), TlsError> {
    let provider = Arc::new(ring::default_provider());
    let algorithms = provider.signature_verification_algorithms;
    let bundle = pem::load_ca_bundle(&tls.ca)?;
    let authorities = pem::build_authorities(&tls.ca, &bundle)?;
    let chain = tls
        .client
        .as_ref()
        .map(|client| pem::load_chain(&client.display_location(), &client.certificate))
        .transpose()?;
    let certificates = CertificateSummary::new(tls, &bundle, chain.as_ref());
    let identity = tls.client.as_ref().zip(chain).map(|(client, chain)| load_identity(client, chain)).transpose()?;
    let verifier: Arc<dyn ServerCertVerifier> = if tls.skip_verify {
        Arc::new(AcceptAnyVerifier::new(algorithms))
    } else {
        Arc::new(ChainVerifier::new(authorities, algorithms))
    };
    let builder = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(min_version.protocol_versions())
        .map_err(TlsError::Setup)?
        .dangerous()
        .with_custom_certificate_verifier(verifier);
    let config = match identity {
        Some(identity) => builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(identity))),
        None => builder.with_no_client_auth(),
    };
    Ok((config, certificates))
}

/// Loads a client certificate's key and checks that both match.
///
/// rustls has the same check, but not for certificates of X.509 version 1, which `openssl x509 -req` makes and servers accept.
fn load_identity(client: &ClientCertificate, chain: pem::PemBundle) -> Result<CertifiedKey, TlsError> {
    let certificate = client.display_location();
    let key = format!("the client key {}", client.key.display());
    let chain: Vec<_> = chain.certificates.into_iter().map(|(_, certificate)| certificate).collect();
    let signer = ring::sign::any_supported_type(&pem::load_private_key(&key, &client.key)?)
        .map_err(|_| TlsError::BadKey { location: key.clone() })?;
    let certificate_key = chain.first().map(public_key::from_certificate);
    match (certificate_key, signer.public_key()) {
        (None, _) => Err(TlsError::NoCertificate { location: certificate }),
        (Some(Err(_)), _) => Err(TlsError::BadCertificate { location: certificate }),
        (Some(Ok(certificate_key)), Some(signer_key)) if certificate_key != signer_key => {
            Err(TlsError::KeyMismatch { certificate, key })
        }
        _ => Ok(CertifiedKey::new(chain, signer)),
    }
}
