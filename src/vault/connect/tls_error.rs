//! TLS handshake errors in plain words.

use std::{fmt, io};

use rustls::{
    AlertDescription as Alert, CertificateError, Error, InvalidMessage, OtherError, PeerIncompatible,
    pki_types::{ServerName, UnixTime},
};

use crate::{
    text::{MAX_MESSAGE_BYTES, one_line},
    tls::{CertificateRejection, MinTlsVersion},
};

/// Maximum number of certificate names in a message.
const MAX_LISTED_NAMES: usize = 8;

/// Reason for a failed TLS handshake.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum HandshakeError {
    /// The server's certificate was not issued by a trusted CA.
    UnknownIssuer,
    /// The certificate is marked as a CA, as self-signed ones are, and is not trusted itself.
    SelfSigned,
    /// A trusted CA has the issuer's name but did not sign the certificate.
    WrongSignature,
    /// No CA is configured, and the system does not have one.
    NoAuthorities,
    /// The certificate is for other names, or does not contain a name.
    NameMismatch {
        /// Expected name.
        expected: String,
        /// Names in the certificate. Empty without subject alternative names.
        presented: Vec<String>,
    },
    /// The certificate has expired.
    Expired {
        /// Time of expiry, if known.
        not_after: Option<String>,
    },
    /// The certificate is not valid yet.
    NotYetValid {
        /// Start of validity, if known.
        not_before: Option<String>,
    },
    /// The certificate has X.509 version 1.
    X509Version1,
    /// The certificate is not for servers.
    WrongPurpose,
    /// The algorithm of a key or signature is not supported.
    UnsupportedAlgorithm,
    /// The server does not use TLS, most likely plain HTTP.
    NotTls,
    /// The server closed the connection.
    ConnectionClosed,
    /// The server requires a client certificate and did not receive one.
    ClientCertificateMissing,
    /// The server does not accept the client certificate, or requires one.
    ClientCertificateRejected {
        /// TLS alert of the server.
        alert: String,
    },
    /// The server rejected the handshake without a reason. A missing client certificate is a possible reason.
    HandshakeFailure,
    /// The server does not have a certificate for the requested name.
    UnrecognizedName,
    /// The server does not support an allowed TLS version.
    UnsupportedVersion {
        /// Configured minimum version.
        min_tls_version: MinTlsVersion,
    },
    /// The server does not support a common cipher suite.
    NoCommonCipher,
    /// Any other failure, with the library's message.
    Other(String),
}

impl HandshakeError {
    /// Returns what to set or check, if that is known.
    #[must_use]
    pub fn fix(&self) -> Option<&'static str> {
        Some(match self {
            Self::UnknownIssuer | Self::WrongSignature | Self::NoAuthorities => {
                "set the CA that issued it (vaultCACert, vaultCACertPath, --vault-tls-ca-cert)"
            }
            Self::SelfSigned => "set it as the CA (vaultCACert, vaultCACertPath, --vault-tls-ca-cert)",
            Self::NameMismatch { presented, .. } if presented.is_empty() => {
                "issue the certificate with subject alternative names; the common name does not count"
            }
            Self::NameMismatch { .. } => {
                "use one of these names in the address, or set vaultTLSServerName (--vault-tls-server-name) to one"
            }
            Self::Expired { .. } | Self::NotYetValid { .. } => {
                "renew the server's certificate, or set this node's clock"
            }
            Self::X509Version1 => "issue the certificate as version 3, with subject alternative names",
            Self::WrongPurpose => "issue the certificate for server authentication",
            Self::UnsupportedAlgorithm => {
                "use RSA with 2048 bits and up, ECDSA P-256 or P-384, or Ed25519, signed with SHA-2"
            }
            Self::NotTls => "use http in the address, or the server's TLS port",
            Self::ClientCertificateMissing => {
                "set a client certificate and key (vaultTLSClientCertPath, --vault-tls-client-cert, and …key)"
            }
            Self::ClientCertificateRejected { .. } => "check the client certificate's issuer, validity and purpose",
            Self::HandshakeFailure => "if the server demands a client certificate, set one",
            Self::UnrecognizedName => "set the TLS server name to one that the server has a certificate for",
            Self::UnsupportedVersion { min_tls_version: MinTlsVersion::Tls12 } => "let the server speak TLS 1.2 or 1.3",
            Self::UnsupportedVersion { min_tls_version: MinTlsVersion::Tls13 } => {
                "let the server speak TLS 1.3, or have the operator allow 1.2 with --tls-min-version"
            }
            Self::NoCommonCipher => "let the server accept cipher suites that are not outdated",
            Self::Other(_) => "check the server's certificate and TLS settings, and anything between this node and it",
            Self::ConnectionClosed => return None,
        })
    }

    /// Returns true if the server rejected the client.
    pub(super) fn is_client_rejection(&self) -> bool {
        matches!(self, Self::ClientCertificateMissing | Self::ClientCertificateRejected { .. } | Self::HandshakeFailure)
    }

    /// Returns the TLS error of a failed handshake or first read. `None` if the error is not from TLS.
    pub(super) fn from_io(error: &io::Error) -> Option<Self> {
        error.get_ref().and_then(|inner| inner.downcast_ref::<Error>()).map(Self::from)
    }
}

impl From<&Error> for HandshakeError {
    fn from(error: &Error) -> Self {
        match error {
            Error::InvalidCertificate(error) => certificate_error(error),
            Error::AlertReceived(alert) => alert_error(*alert),
            Error::InvalidMessage(
                InvalidMessage::InvalidContentType
                | InvalidMessage::UnknownProtocolVersion
                | InvalidMessage::MessageTooLarge
                | InvalidMessage::InvalidEmptyPayload,
            ) => Self::NotTls,
            Error::PeerIncompatible(
                PeerIncompatible::ServerDoesNotSupportTls12Or13
                | PeerIncompatible::ServerTlsVersionIsDisabledByOurConfig,
            ) => Self::UnsupportedVersion { min_tls_version: MinTlsVersion::default() },
            Error::PeerIncompatible(
                PeerIncompatible::NoCipherSuitesInCommon
                | PeerIncompatible::NoKxGroupsInCommon
                | PeerIncompatible::ExtendedMasterSecretExtensionRequired,
            ) => Self::NoCommonCipher,
            other => Self::Other(one_line(&other.to_string(), MAX_MESSAGE_BYTES)),
        }
    }
}

#[allow(deprecated)] // rustls still defines the plain variants, so they may still occur.
fn certificate_error(error: &CertificateError) -> HandshakeError {
    match error {
        CertificateError::UnknownIssuer => HandshakeError::UnknownIssuer,
        CertificateError::BadSignature => HandshakeError::WrongSignature,
        CertificateError::NotValidForNameContext { expected, presented } => name_mismatch(expected, presented),
        CertificateError::ExpiredContext { not_after, .. } => {
            HandshakeError::Expired { not_after: format_time(*not_after) }
        }
        CertificateError::Expired => HandshakeError::Expired { not_after: None },
        CertificateError::NotValidYetContext { not_before, .. } => {
            HandshakeError::NotYetValid { not_before: format_time(*not_before) }
        }
        CertificateError::NotValidYet => HandshakeError::NotYetValid { not_before: None },
        CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => {
            HandshakeError::WrongPurpose
        }
        CertificateError::UnsupportedSignatureAlgorithm
        | CertificateError::UnsupportedSignatureAlgorithmContext { .. }
        | CertificateError::UnsupportedSignatureAlgorithmForPublicKeyContext { .. } => {
            HandshakeError::UnsupportedAlgorithm
        }
        CertificateError::Other(OtherError(cause)) => match cause.downcast_ref::<CertificateRejection>() {
            Some(CertificateRejection::NoAuthorities) => HandshakeError::NoAuthorities,
            Some(CertificateRejection::X509Version1) => HandshakeError::X509Version1,
            Some(CertificateRejection::UntrustedAuthority) => HandshakeError::SelfSigned,
            None => {
                HandshakeError::Other(one_line(&format!("its certificate is rejected: {cause}"), MAX_MESSAGE_BYTES))
            }
        },
        other => HandshakeError::Other(one_line(&format!("its certificate is rejected: {other}"), MAX_MESSAGE_BYTES)),
    }
}

fn alert_error(alert: Alert) -> HandshakeError {
    match alert {
        Alert::CertificateRequired | Alert::NoCertificate => HandshakeError::ClientCertificateMissing,
        Alert::HandshakeFailure => HandshakeError::HandshakeFailure,
        Alert::ProtocolVersion => HandshakeError::UnsupportedVersion { min_tls_version: MinTlsVersion::default() },
        Alert::InsufficientSecurity => HandshakeError::NoCommonCipher,
        Alert::UnrecognisedName => HandshakeError::UnrecognizedName,
        Alert::BadCertificate
        | Alert::UnsupportedCertificate
        | Alert::CertificateRevoked
        | Alert::CertificateExpired
        | Alert::CertificateUnknown
        | Alert::UnknownCA
        | Alert::AccessDenied => HandshakeError::ClientCertificateRejected { alert: format!("{alert:?}") },
        other => HandshakeError::Other(format!("it ends the handshake with the alert {other:?}")),
    }
}

fn name_mismatch(expected: &ServerName<'_>, presented: &[String]) -> HandshakeError {
    let presented_names = presented.iter().map(|name| one_line(strip_name_type(name), MAX_MESSAGE_BYTES)).collect();
    HandshakeError::NameMismatch { expected: expected.to_str().into_owned(), presented: presented_names }
}

/// Returns the name inside webpki's `DnsName("vault")` and `IpAddress(10.0.0.1)`.
fn strip_name_type(name: &str) -> &str {
    let inner = name.split_once('(').and_then(|(_, rest)| rest.strip_suffix(')'));
    inner.map_or(name, |inner| inner.trim_matches('"'))
}

fn format_time(time: UnixTime) -> Option<String> {
    let seconds = i64::try_from(time.as_secs()).ok()?;
    jiff::Timestamp::from_second(seconds).ok().map(|time| time.to_string())
}

impl fmt::Display for HandshakeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::UnknownIssuer => "its certificate was not issued by a trusted authority",
            Self::SelfSigned => "its certificate is self-signed (it is marked as a CA), and not trusted",
            Self::WrongSignature => "its certificate names a trusted authority that did not sign it",
            Self::NoAuthorities => "no CA is set, and this system does not have one",
            Self::NameMismatch { expected, presented } => return write_names(f, expected, presented),
            Self::Expired { not_after } => {
                return write_time(f, "its certificate is expired", "since", not_after.as_deref());
            }
            Self::NotYetValid { not_before } => {
                return write_time(f, "its certificate is not valid yet", "from", not_before.as_deref());
            }
            Self::X509Version1 => "its certificate is of X.509 version 1, which cannot name a host",
            Self::WrongPurpose => "its certificate is not meant for servers",
            Self::UnsupportedAlgorithm => "its certificate or signature is of a kind that is not supported",
            Self::NotTls => "it does not speak TLS there; most likely it speaks plain HTTP",
            Self::ConnectionClosed => "it closed the connection during the handshake",
            Self::ClientCertificateMissing => "it demands a client certificate",
            Self::ClientCertificateRejected { alert } => {
                return write!(f, "it does not accept our client certificate, or that it is missing ({alert})");
            }
            Self::HandshakeFailure => "it rejected the handshake without a reason",
            Self::UnrecognizedName => "it does not have a certificate for this name",
            Self::UnsupportedVersion { min_tls_version: MinTlsVersion::Tls12 } => "it speaks neither TLS 1.2 nor 1.3",
            Self::UnsupportedVersion { min_tls_version: MinTlsVersion::Tls13 } => {
                "it does not speak TLS 1.3, and older versions are disabled (--tls-min-version=1.3)"
            }
            Self::NoCommonCipher => "it does not support a cipher suite that vaultmount supports",
            Self::Other(message) => message,
        })
    }
}

fn write_names(f: &mut fmt::Formatter<'_>, expected: &str, presented: &[String]) -> fmt::Result {
    if presented.is_empty() {
        return write!(f, "its certificate is not for {expected}: it has no subject alternative names at all");
    }
    write!(
        f,
        "its certificate is not for {expected} but for {}",
        presented[..presented.len().min(MAX_LISTED_NAMES)].join(", ")
    )?;
    if presented.len() > MAX_LISTED_NAMES {
        write!(f, " and {} more", presented.len() - MAX_LISTED_NAMES)
    } else {
        Ok(())
    }
}

fn write_time(f: &mut fmt::Formatter<'_>, problem: &str, preposition: &str, time: Option<&str>) -> fmt::Result {
    f.write_str(problem)?;
    time.map_or(Ok(()), |time| write!(f, " ({preposition} {time})"))
}
