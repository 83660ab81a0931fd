//! Explains connections that failed.

use crate::{
    error::{Cause, Error},
    vault::address::Address,
    vault::connect::{ConnectError as C, ConnectStage, HandshakeError},
};

pub(super) fn explain_connect_error(error: &C, address: &str) -> Error {
    const BLOCKED_ADDRESS_FIX: &str = "an address chosen by a class may not lead to the node itself; have the operator write it out in --allow-address, or in addresses of the policy file";
    const UNREACHABLE_FIX: &str = "check the address, that Vault runs, and network policies between this node and it";
    let cause = match error {
        C::BlockedAddress { .. } => Cause::AddressNotAllowed,
        C::Tls { error: tls_error, .. } => tls_cause(tls_error),
        C::PlainToTls { .. } => Cause::PlainToTls,
        C::ConnectionRefused { .. } => Cause::ConnectionRefused,
        C::TimedOut { stage: ConnectStage::DnsLookup | ConnectStage::Tcp | ConnectStage::Tls, .. } => {
            Cause::ConnectTimeout
        }
        C::NameNotFound { .. } => Cause::NameNotFound,
        _ => Cause::Unreachable,
    };
    let fix =
        if cause == Cause::AddressNotAllowed { BLOCKED_ADDRESS_FIX } else { error.fix().unwrap_or(UNREACHABLE_FIX) };
    Error::new(cause, format!("Vault at {address} cannot be reached: {error}")).with_fix(fix)
}

/// Explains a redirect that may not be followed.
pub(super) fn explain_redirect(location: &str, reason: &str, address: &str) -> Error {
    if is_same_host_over_https(address, location) {
        let summary = format!("Vault at {address} redirects to {location}: it speaks TLS, and the address says http");
        return Error::new(Cause::PlainToTls, summary).with_fix(format!("write {location} as the address"));
    }
    Error::new(Cause::Redirect, format!("Vault at {address} redirects to {location}, which is not followed: {reason}"))
        .with_fix("set the address to the server that answers, let standbys forward requests, or have the operator name the host with --follow-redirects")
}

/// Returns true when both addresses name the same host, one with http and the other with https.
fn is_same_host_over_https(plain: &str, tls: &str) -> bool {
    match (Address::parse(plain), Address::parse(tls)) {
        (Ok(Address::Tcp { https: false, host, .. }), Ok(Address::Tcp { https: true, host: other_host, .. })) => {
            host == other_host
        }
        _ => false,
    }
}

fn tls_cause(error: &HandshakeError) -> Cause {
    match error {
        HandshakeError::ConnectionClosed => Cause::Unreachable,
        HandshakeError::UnknownIssuer
        | HandshakeError::SelfSigned
        | HandshakeError::WrongSignature
        | HandshakeError::NoAuthorities => Cause::CertificateUntrusted,
        HandshakeError::NameMismatch { .. } | HandshakeError::UnrecognizedName => Cause::CertificateName,
        HandshakeError::Expired { .. } | HandshakeError::NotYetValid { .. } => Cause::CertificateTime,
        HandshakeError::NotTls => Cause::TlsToPlain,
        _ => Cause::TlsSetup,
    }
}
