//! TLS settings and the client configuration made from them.

mod certificate_time;
mod certificates;
mod pem;
mod public_key;
mod reload;
#[cfg(test)]
pub(crate) mod testing;
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

use verify::{Chain, Unverified};

pub use certificate_time::certificate_time;
pub use certificates::{Certificates, End, Ends};
pub use pem::{Digest, digest};
pub use reload::{Look, Reload};
pub use verify::Refusal;

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
    fn place(&self) -> String {
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
pub enum Oldest {
    /// TLS 1.2.
    #[default]
    Tls12,
    /// TLS 1.3.
    Tls13,
}

impl Oldest {
    /// `1.2` or `1.3`.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Tls12 => "1.2",
            Self::Tls13 => "1.3",
        }
    }

    fn versions(self) -> &'static [&'static SupportedProtocolVersion] {
        const BOTH: &[&SupportedProtocolVersion] = &[&TLS13, &TLS12];
        match self {
            Self::Tls12 => BOTH,
            Self::Tls13 => &BOTH[..1],
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
    #[error("cannot read {place}")]
    Read {
        /// Which one, as in `the CA file /etc/vault/ca.pem`.
        place: String,
        /// The system's words.
        #[source]
        source: io::Error,
    },
    /// There is no certificate where one must be.
    #[error("{place} holds no certificate; PEM is expected (-----BEGIN CERTIFICATE-----)")]
    NoCertificate {
        /// Where.
        place: String,
    },
    /// There are certificates, and none can be used.
    #[error("{place} holds no certificate that can be used: what is there is damaged or not X.509")]
    BadCertificate {
        /// Where.
        place: String,
    },
    /// There is no private key in the key's file.
    #[error("{place} holds no private key; an unencrypted PEM key is expected (PKCS#8, PKCS#1 or SEC1)")]
    NoKey {
        /// Where.
        place: String,
    },
    /// The private key is of a kind that cannot be used.
    #[error(
        "{place} holds a private key that cannot be used; RSA (2048 bits and up), ECDSA P-256, P-384 and Ed25519 can"
    )]
    BadKey {
        /// Where.
        place: String,
    },
    /// Certificate and key are not a pair.
    #[error("{certificate} and {key} do not belong together")]
    Mismatch {
        /// Where the certificate is.
        certificate: String,
        /// Where the key is.
        key: String,
    },
    /// A file that was whole is in pieces.
    #[error(
        "{place} is in pieces, as if it were only half written: a certificate that begins in it is none, or the one in it is gone"
    )]
    Torn {
        /// Where it is.
        place: String,
    },
    /// The name to verify is no host name and no IP address.
    #[error("the TLS server name {name:?} is neither a host name nor an IP address")]
    ServerName {
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
pub fn client_config(tls: &Tls, oldest: Oldest) -> Result<ClientConfig, TlsError> {
    load(tls, oldest).map(|(config, _)| config)
}

/// The same, and what there is to say of the certificates that it was made of.
pub fn load(tls: &Tls, oldest: Oldest) -> Result<(ClientConfig, Certificates), TlsError> {
    let provider = Arc::new(ring::default_provider());
    let algorithms = provider.signature_verification_algorithms;
    let found = pem::found(&tls.ca)?;
    let authorities = pem::authorities(&tls.ca, &found)?;
    let chain = tls.client.as_ref().map(|client| pem::chain(&client.place(), &client.certificate)).transpose()?;
    let certificates = Certificates::of(tls, &found, chain.as_ref());
    let identity = tls.client.as_ref().zip(chain).map(|(client, chain)| identity(client, chain)).transpose()?;
    let verifier: Arc<dyn ServerCertVerifier> = if tls.skip_verify {
        Arc::new(Unverified::new(algorithms))
    } else {
        Arc::new(Chain::new(authorities, algorithms))
    };
    let builder = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(oldest.versions())
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
fn identity(client: &ClientCertificate, chain: pem::Found) -> Result<CertifiedKey, TlsError> {
    let certificate = client.place();
    let key = format!("the client key {}", client.key.display());
    let chain: Vec<_> = chain.certificates.into_iter().map(|(_, certificate)| certificate).collect();
    let signer = ring::sign::any_supported_type(&pem::private_key(&key, &client.key)?)
        .map_err(|_| TlsError::BadKey { place: key.clone() })?;
    let certified = chain.first().map(public_key::of);
    match (certified, signer.public_key()) {
        (None, _) => Err(TlsError::NoCertificate { place: certificate }),
        (Some(Err(_)), _) => Err(TlsError::BadCertificate { place: certificate }),
        (Some(Ok(certified)), Some(own)) if certified != own => Err(TlsError::Mismatch { certificate, key }),
        _ => Ok(CertifiedKey::new(chain, signer)),
    }
}
