//! When a certificate is over.

use jiff::Timestamp;
use rustls::{
    CertificateError, Error, RootCertStore,
    client::verify_server_cert_signed_by_trust_anchor,
    crypto::ring::default_provider,
    pki_types::{CertificateDer, UnixTime},
    server::ParsedCertificate,
};
use std::time::Duration;

/// The end of a certificate's time (X.509 `notAfter`); none for what is no certificate of version 3.
///
/// webpki tells it by refusing the certificate at a later time, which it looks at before who issued it.
#[must_use]
pub fn certificate_end(certificate: &CertificateDer<'_>) -> Option<Timestamp> {
    let certificate = ParsedCertificate::try_from(certificate).ok()?;
    // After the last time that X.509 can write, the end of the year 9999.
    let later = UnixTime::since_unix_epoch(Duration::from_secs(300_000_000_000));
    let algorithms = default_provider().signature_verification_algorithms.all;
    let verdict =
        verify_server_cert_signed_by_trust_anchor(&certificate, &RootCertStore::empty(), &[], later, algorithms);
    match verdict {
        Err(Error::InvalidCertificate(CertificateError::ExpiredContext { not_after, .. })) => {
            // No later than the library can count; such a certificate has no end that matters.
            let seconds = i64::try_from(not_after.as_secs()).unwrap_or(i64::MAX);
            Some(Timestamp::from_second(seconds).unwrap_or(Timestamp::MAX))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair, date_time_ymd};

    use super::*;

    fn until(year: i32) -> CertificateDer<'static> {
        let mut params = CertificateParams::new(["web.example".to_owned()]).unwrap();
        (params.not_before, params.not_after) = (date_time_ymd(2020, 1, 1), date_time_ymd(year, 1, 1));
        params.self_signed(&KeyPair::generate().unwrap()).unwrap().der().clone()
    }

    #[test]
    fn the_end_is_the_certificates_own() {
        for year in [2021, 2049, 2051, 9999] {
            let end = certificate_end(&until(year)).unwrap();
            assert_eq!(end.to_string(), format!("{year}-01-01T00:00:00Z"));
        }
    }

    #[test]
    fn what_is_no_certificate_has_no_end() {
        let cut = until(2030);
        for bad in [&b""[..], b"hunter2", &cut[..cut.len() / 2]] {
            assert_eq!(certificate_end(&CertificateDer::from(bad)), None);
        }
    }
}
