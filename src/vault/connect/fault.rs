//! Why there is no TLS session, in plain words.

use std::{fmt, io};

use rustls::{
    AlertDescription as Alert, CertificateError, Error, InvalidMessage, OtherError, PeerIncompatible,
    pki_types::{ServerName, UnixTime},
};

use super::error::MAX_SAID;
use crate::{
    text::one_line,
    tls::{Oldest, Refusal},
};

/// The most names of a certificate that a message repeats.
const MAX_NAMES: usize = 8;

/// Why there is no TLS session.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum TlsFault {
    /// Nobody trusted issued the server's certificate.
    UnknownIssuer,
    /// The certificate says that it is a CA's, as self-signed ones do, and is not trusted itself.
    SelfSigned,
    /// A trusted authority has the issuer's name, and did not sign it.
    WrongSignature,
    /// No CA was configured and the system has none.
    NoAuthorities,
    /// The certificate is for other names, or for none.
    WrongName {
        /// The name it should be for.
        name: String,
        /// The names it is for; none if it has no subject alternative names.
        names: Vec<String>,
    },
    /// The certificate's time is over.
    Expired {
        /// Since when, if known.
        at: Option<String>,
    },
    /// The certificate's time has not come.
    NotYetValid {
        /// From when, if known.
        at: Option<String>,
    },
    /// The certificate is of X.509 version 1.
    Version1,
    /// The certificate is not for servers.
    WrongPurpose,
    /// A key or signature is of a kind that is not taken.
    Algorithm,
    /// The server speaks something else, most likely plain HTTP.
    NotTls,
    /// The server hung up.
    Closed,
    /// The server wants a client certificate and was shown none.
    ClientCertificateMissing,
    /// The server does not accept the client certificate (or its lack).
    ClientCertificateRefused {
        /// Its alert.
        alert: String,
    },
    /// The server gives no reason; a missing client certificate is one of them.
    HandshakeRefused,
    /// The server has no certificate for the name it was asked for.
    NameRefused,
    /// No version of TLS in common.
    Version {
        /// The oldest that we speak.
        oldest: Oldest,
    },
    /// No cipher in common.
    NoCommonGround,
    /// Anything else, in the library's words.
    Other(String),
}

impl TlsFault {
    /// What to set or look at, as far as it can be known.
    #[must_use]
    pub fn advice(&self) -> Option<&'static str> {
        Some(match self {
            Self::UnknownIssuer | Self::WrongSignature | Self::NoAuthorities => {
                "set the CA that issued it (vaultCACert, vaultCACertPath, --vault-tls-ca-cert)"
            }
            Self::SelfSigned => "set it as the CA (vaultCACert, vaultCACertPath, --vault-tls-ca-cert)",
            Self::WrongName { names, .. } if names.is_empty() => {
                "issue the certificate with subject alternative names; the common name does not count"
            }
            Self::WrongName { .. } => {
                "use one of these names in the address, or set vaultTLSServerName (--vault-tls-server-name) to one"
            }
            Self::Expired { .. } | Self::NotYetValid { .. } => {
                "renew the server's certificate, or set this node's clock"
            }
            Self::Version1 => "issue the certificate as version 3, with subject alternative names",
            Self::WrongPurpose => "issue the certificate for server authentication",
            Self::Algorithm => "use RSA with 2048 bits and up, ECDSA P-256 or P-384, or Ed25519, signed with SHA-2",
            Self::NotTls => "use http in the address, or the server's TLS port",
            Self::ClientCertificateMissing => {
                "set a client certificate and key (vaultTLSClientCertPath, --vault-tls-client-cert, and …key)"
            }
            Self::ClientCertificateRefused { .. } => "look at the client certificate's issuer, validity and purpose",
            Self::HandshakeRefused => "if the server demands a client certificate, set one",
            Self::NameRefused => "set the TLS server name to one that the server has a certificate for",
            Self::Version { oldest: Oldest::Tls12 } => "let the server speak TLS 1.2 or 1.3",
            Self::Version { oldest: Oldest::Tls13 } => {
                "let the server speak TLS 1.3, or have the operator allow 1.2 with --tls-min-version"
            }
            Self::NoCommonGround => "let the server take ciphers that are not outdated",
            Self::Other(_) => "look at the server's certificate and TLS settings, and at what stands between",
            Self::Closed => return None,
        })
    }

    /// Whether it is a server's way to turn a client away.
    pub(super) fn is_refusal(&self) -> bool {
        matches!(self, Self::ClientCertificateMissing | Self::ClientCertificateRefused { .. } | Self::HandshakeRefused)
    }

    /// What made a handshake, or a session's first bytes, fail; `None` if it was not TLS.
    pub(super) fn of_io(error: &io::Error) -> Option<Self> {
        error.get_ref().and_then(|inner| inner.downcast_ref::<Error>()).map(Self::from)
    }
}

impl From<&Error> for TlsFault {
    fn from(error: &Error) -> Self {
        match error {
            Error::InvalidCertificate(fault) => certificate(fault),
            Error::AlertReceived(alert) => refusal(*alert),
            Error::InvalidMessage(
                InvalidMessage::InvalidContentType
                | InvalidMessage::UnknownProtocolVersion
                | InvalidMessage::MessageTooLarge
                | InvalidMessage::InvalidEmptyPayload,
            ) => Self::NotTls,
            Error::PeerIncompatible(
                PeerIncompatible::ServerDoesNotSupportTls12Or13
                | PeerIncompatible::ServerTlsVersionIsDisabledByOurConfig,
            ) => Self::Version { oldest: Oldest::default() },
            Error::PeerIncompatible(
                PeerIncompatible::NoCipherSuitesInCommon
                | PeerIncompatible::NoKxGroupsInCommon
                | PeerIncompatible::ExtendedMasterSecretExtensionRequired,
            ) => Self::NoCommonGround,
            other => Self::Other(one_line(&other.to_string(), MAX_SAID)),
        }
    }
}

#[allow(deprecated)] // rustls still names the plain variant, so it may still come.
fn certificate(fault: &CertificateError) -> TlsFault {
    match fault {
        CertificateError::UnknownIssuer => TlsFault::UnknownIssuer,
        CertificateError::BadSignature => TlsFault::WrongSignature,
        CertificateError::NotValidForNameContext { expected, presented } => wrong_name(expected, presented),
        CertificateError::ExpiredContext { not_after, .. } => TlsFault::Expired { at: date(*not_after) },
        CertificateError::Expired => TlsFault::Expired { at: None },
        CertificateError::NotValidYetContext { not_before, .. } => TlsFault::NotYetValid { at: date(*not_before) },
        CertificateError::NotValidYet => TlsFault::NotYetValid { at: None },
        CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => TlsFault::WrongPurpose,
        CertificateError::UnsupportedSignatureAlgorithm
        | CertificateError::UnsupportedSignatureAlgorithmContext { .. }
        | CertificateError::UnsupportedSignatureAlgorithmForPublicKeyContext { .. } => TlsFault::Algorithm,
        CertificateError::Other(OtherError(cause)) => match cause.downcast_ref::<Refusal>() {
            Some(Refusal::NoAuthorities) => TlsFault::NoAuthorities,
            Some(Refusal::Version1) => TlsFault::Version1,
            Some(Refusal::UntrustedAuthority) => TlsFault::SelfSigned,
            None => TlsFault::Other(one_line(&format!("its certificate is refused: {cause}"), MAX_SAID)),
        },
        other => TlsFault::Other(one_line(&format!("its certificate is refused: {other}"), MAX_SAID)),
    }
}

fn refusal(alert: Alert) -> TlsFault {
    match alert {
        Alert::CertificateRequired | Alert::NoCertificate => TlsFault::ClientCertificateMissing,
        Alert::HandshakeFailure => TlsFault::HandshakeRefused,
        Alert::ProtocolVersion => TlsFault::Version { oldest: Oldest::default() },
        Alert::InsufficientSecurity => TlsFault::NoCommonGround,
        Alert::UnrecognisedName => TlsFault::NameRefused,
        Alert::BadCertificate
        | Alert::UnsupportedCertificate
        | Alert::CertificateRevoked
        | Alert::CertificateExpired
        | Alert::CertificateUnknown
        | Alert::UnknownCA
        | Alert::AccessDenied => TlsFault::ClientCertificateRefused { alert: format!("{alert:?}") },
        other => TlsFault::Other(format!("it ends the handshake with the alert {other:?}")),
    }
}

fn wrong_name(expected: &ServerName<'_>, presented: &[String]) -> TlsFault {
    let names = presented.iter().map(|name| one_line(bare(name), MAX_SAID)).collect();
    TlsFault::WrongName { name: expected.to_str().into_owned(), names }
}

/// The name in webpki's `DnsName("vault")` and `IpAddress(10.0.0.1)`.
fn bare(name: &str) -> &str {
    let inner = name.split_once('(').and_then(|(_, rest)| rest.strip_suffix(')'));
    inner.map_or(name, |inner| inner.trim_matches('"'))
}

fn date(time: UnixTime) -> Option<String> {
    let seconds = i64::try_from(time.as_secs()).ok()?;
    jiff::Timestamp::from_second(seconds).ok().map(|time| time.to_string())
}

impl fmt::Display for TlsFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::UnknownIssuer => "its certificate was not issued by a trusted authority",
            Self::SelfSigned => "its certificate is self-signed (it says that it is a CA's), and not trusted",
            Self::WrongSignature => "its certificate names a trusted authority that did not sign it",
            Self::NoAuthorities => "no CA is set, and this system trusts none",
            Self::WrongName { name, names } => return write_names(f, name, names),
            Self::Expired { at } => return write_date(f, "its certificate is expired", "since", at.as_deref()),
            Self::NotYetValid { at } => {
                return write_date(f, "its certificate is not valid yet", "from", at.as_deref());
            }
            Self::Version1 => "its certificate is of X.509 version 1, which cannot name a host",
            Self::WrongPurpose => "its certificate is not meant for servers",
            Self::Algorithm => "its certificate or signature is of a kind that is not supported",
            Self::NotTls => "it does not speak TLS there; most likely it speaks plain HTTP",
            Self::Closed => "it closed the connection during the handshake",
            Self::ClientCertificateMissing => "it demands a client certificate",
            Self::ClientCertificateRefused { alert } => {
                return write!(f, "it does not accept our client certificate, or that there is none ({alert})");
            }
            Self::HandshakeRefused => "it refuses the handshake without a reason",
            Self::NameRefused => "it has no certificate for this name",
            Self::Version { oldest: Oldest::Tls12 } => "it speaks neither TLS 1.2 nor 1.3",
            Self::Version { oldest: Oldest::Tls13 } => {
                "it does not speak TLS 1.3, and nothing older is spoken here (--tls-min-version=1.3)"
            }
            Self::NoCommonGround => "it has no cipher in common with us",
            Self::Other(said) => said,
        })
    }
}

fn write_names(f: &mut fmt::Formatter<'_>, name: &str, names: &[String]) -> fmt::Result {
    if names.is_empty() {
        return write!(f, "its certificate is not for {name}: it has no subject alternative names at all");
    }
    write!(f, "its certificate is not for {name} but for {}", names[..names.len().min(MAX_NAMES)].join(", "))?;
    if names.len() > MAX_NAMES { write!(f, " and {} more", names.len() - MAX_NAMES) } else { Ok(()) }
}

fn write_date(f: &mut fmt::Formatter<'_>, what: &str, word: &str, at: Option<&str>) -> fmt::Result {
    f.write_str(what)?;
    at.map_or(Ok(()), |at| write!(f, " ({word} {at})"))
}
