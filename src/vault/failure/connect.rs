//! What a connection that could not be made means.

use crate::{
    error::{Cause, Error},
    vault::address::Address,
    vault::connect::{ConnectError as C, Stage, TlsFault},
};

pub(super) fn failed(fault: &C, address: &str) -> Error {
    const GUARDED: &str = "an address chosen by a class may not lead to the node itself; have the operator write it out in --allow-address, or in addresses of the policy file";
    const GENERAL: &str = "check the address, that Vault runs, and network policies between this node and it";
    let cause = match fault {
        C::Guarded { .. } => Cause::NotAllowed,
        C::Tls { fault: tls, .. } => tls_cause(tls),
        C::PlainToTls { .. } => Cause::PlainToTls,
        C::Refused { .. } => Cause::Refused,
        C::TimedOut { stage: Stage::Name | Stage::Tcp | Stage::Tls, .. } => Cause::ConnectTimeout,
        C::NameNotFound { .. } => Cause::NameNotFound,
        _ => Cause::Unreachable,
    };
    let advice = if cause == Cause::NotAllowed { GUARDED } else { fault.advice().unwrap_or(GENERAL) };
    Error::new(cause, format!("Vault at {address} cannot be reached: {fault}")).advice(advice)
}

/// A redirect that may not be followed.
pub(super) fn redirected(to: &str, why: &str, address: &str) -> Error {
    if is_same_with_tls(address, to) {
        let what = format!("Vault at {address} redirects to {to}: it speaks TLS, and the address says http");
        return Error::new(Cause::PlainToTls, what).advice(format!("write {to} as the address"));
    }
    Error::new(Cause::Redirect, format!("Vault at {address} redirects to {to}, which is not followed: {why}"))
        .advice("set the address to the server that answers, let standbys forward requests, or have the operator name the host with --follow-redirects")
}

/// Whether one address is the other's host, by https instead of http.
fn is_same_with_tls(plain: &str, tls: &str) -> bool {
    match (Address::parse(plain), Address::parse(tls)) {
        (Ok(Address::Tcp { https: false, host, .. }), Ok(Address::Tcp { https: true, host: there, .. })) => {
            host == there
        }
        _ => false,
    }
}

fn tls_cause(fault: &TlsFault) -> Cause {
    match fault {
        TlsFault::Closed => Cause::Unreachable,
        TlsFault::UnknownIssuer | TlsFault::SelfSigned | TlsFault::WrongSignature | TlsFault::NoAuthorities => {
            Cause::CertificateUntrusted
        }
        TlsFault::WrongName { .. } | TlsFault::NameRefused => Cause::CertificateName,
        TlsFault::Expired { .. } | TlsFault::NotYetValid { .. } => Cause::CertificateTime,
        TlsFault::NotTls => Cause::TlsToPlain,
        _ => Cause::Tls,
    }
}
