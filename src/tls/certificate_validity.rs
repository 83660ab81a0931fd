//! Validity period of certificates.

use jiff::Timestamp;
use rustls::{
    CertificateError, Error, RootCertStore,
    client::verify_server_cert_signed_by_trust_anchor,
    crypto::ring::default_provider,
    pki_types::{CertificateDer, UnixTime},
    server::ParsedCertificate,
};
use std::time::Duration;

/// Returns the validity period of a certificate (X.509 `notBefore` and `notAfter`). `None` unless it is a valid certificate of
/// version 3.
///
/// webpki reports both times in its errors when it verifies the certificate at a later and an earlier time. It checks the time
/// before the issuer.
#[must_use]
pub fn certificate_validity(certificate: &CertificateDer<'_>) -> Option<(Timestamp, Timestamp)> {
    let certificate = ParsedCertificate::try_from(certificate).ok()?;
    let verify_at = |seconds| {
        let time = UnixTime::since_unix_epoch(Duration::from_secs(seconds));
        let algorithms = default_provider().signature_verification_algorithms.all;
        verify_server_cert_signed_by_trust_anchor(&certificate, &RootCertStore::empty(), &[], time, algorithms)
    };
    // Times beyond the library's range are limited to its maximum. Such an expiry does not matter.
    let timestamp = |time: UnixTime| {
        i64::try_from(time.as_secs()).ok().and_then(|s| Timestamp::from_second(s).ok()).unwrap_or(Timestamp::MAX)
    };
    // Later than the last time that X.509 can express, the end of the year 9999.
    let Err(Error::InvalidCertificate(CertificateError::ExpiredContext { not_after, .. })) = verify_at(300_000_000_000)
    else {
        return None;
    };
    let not_before = match verify_at(0) {
        Err(Error::InvalidCertificate(CertificateError::NotValidYetContext { not_before, .. })) => {
            timestamp(not_before)
        }
        _ => Timestamp::UNIX_EPOCH,
    };
    Some((not_before, timestamp(not_after)))
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair, date_time_ymd};

    use super::*;

    fn certificate_until(year: i32) -> CertificateDer<'static> {
        let mut params = CertificateParams::new(["web.example".to_owned()]).unwrap();
        (params.not_before, params.not_after) = (date_time_ymd(2020, 1, 1), date_time_ymd(year, 1, 1));
        params.self_signed(&KeyPair::generate().unwrap()).unwrap().der().clone()
    }

    #[test]
    fn certificate_validity_returns_not_before_and_not_after() {
        for year in [2021, 2049, 2051, 9999] {
            let (not_before, not_after) = certificate_validity(&certificate_until(year)).unwrap();
            assert_eq!(not_before.to_string(), "2020-01-01T00:00:00Z");
            assert_eq!(not_after.to_string(), format!("{year}-01-01T00:00:00Z"));
        }
    }

    #[test]
    fn certificate_validity_of_invalid_der_is_none() {
        let der = certificate_until(2030);
        for bad in [&b""[..], b"hunter2", &der[..der.len() / 2]] {
            assert_eq!(certificate_validity(&CertificateDer::from(bad)), None);
        }
    }
}
