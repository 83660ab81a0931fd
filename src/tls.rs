//! TLS settings and the client configuration made from them.

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

/// Which certificate authorities a server's certificate may come from.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Ca {
    /// The system's own.
    #[default]
    System,
    /// A PEM file.
    File(PathBuf),
    /// Every PEM file of a directory.
    Directory(PathBuf),
    /// PEM text.
    Pem(String),
}

impl Ca {
    /// The file or directory, if it is one that was named.
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
    /// Where the certificate is, in words.
    fn display_location(&self) -> String {
        format!("the client certificate {}", self.certificate.display())
    }
}

/// How to speak TLS to one endpoint.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Tls {
    /// Trusted authorities.
    pub ca: Ca,
    /// Shown to a server that asks for one.
    pub client: Option<ClientCertificate>,
    /// The name the certificate must be for, when it is not the address's host.
    pub server_name: Option<String>,
    /// Do not verify the server's certificate. Whoever sits between reads every secret.
    pub skip_verify: bool,
}

/// The oldest version of TLS that is spoken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MinTlsVersion {
    /// TLS 1.2.
    #[default]
    Tls12,
    /// TLS 1.3.
    Tls13,
}

impl MinTlsVersion {
    /// `1.2` or `1.3`.
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

/// Whether a text can be a [`Tls::server_name`]: a host name or an IP address.
#[must_use]
pub fn is_server_name(text: &str) -> bool {
    rustls::pki_types::ServerName::try_from(text).is_ok()
}

/// TLS settings that cannot be used. Names the file, never what is in it.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file or directory cannot be read.
    #[error("cannot read {location}")]
    Read {
        /// Which one, as in `the CA file /etc/vault/ca.pem`.
        location: String,
        /// The system's words.
        #[source]
        source: io::Error,
    },
    /// There is no certificate where one must be.
    #[error("{location} holds no certificate; PEM is expected (-----BEGIN CERTIFICATE-----)")]
    NoCertificate {
        /// Where.
        location: String,
    },
    /// There are certificates, and none can be used.
    #[error("{location} holds no certificate that can be used: what is there is damaged or not X.509")]
    BadCertificate {
        /// Where.
        location: String,
    },
    /// There is no private key in the key's file.
    #[error("{location} holds no private key; an unencrypted PEM key is expected (PKCS#8, PKCS#1 or SEC1)")]
    NoKey {
        /// Where.
        location: String,
    },
    /// The private key is of a kind that cannot be used.
    #[error(
        "{location} holds a private key that cannot be used; RSA (2048 bits and up), ECDSA P-256, P-384 and Ed25519 can"
    )]
    BadKey {
        /// Where.
        location: String,
    },
    /// Certificate and key are not a pair.
    #[error("{certificate} and {key} do not belong together")]
    KeyMismatch {
        /// Where the certificate is.
        certificate: String,
        /// Where the key is.
        key: String,
    },
    /// A file that was whole is in pieces.
    #[error(
        "{location} is in pieces, as if it were only half written: a certificate that begins in it is none, or the one in it is gone"
    )]
    Truncated {
        /// Where it is.
        location: String,
    },
    /// The name to verify is no host name and no IP address.
    #[error("the TLS server name {name:?} is neither a host name nor an IP address")]
    InvalidServerName {
        /// The name given.
        name: String,
    },
    /// rustls refuses its own defaults.
    #[error("TLS cannot be set up")]
    Setup(#[source] rustls::Error),
}

/// The client configuration for these settings: no application protocols.
///
/// Reads the files anew at each call, and blocks while it does. [`Tls::server_name`] is for whoever connects.
/// A system without any authorities is no error here: the handshake fails then ([`Refusal::NoAuthorities`]).
pub fn load_client_config(tls: &Tls, min_version: MinTlsVersion) -> Result<ClientConfig, TlsError> {
    load_config_and_certificates(tls, min_version).map(|(config, _)| config)
}

/// The same, and what there is to say of the certificates that it was made of.
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

/// Takes a client certificate with its key and makes sure that they are a pair.
///
/// rustls does that too, but not for certificates of X.509 version 1, which `openssl x509 -req` makes and servers take.
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
