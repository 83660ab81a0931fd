//! Certificates of TLS settings: their expiry, and truncated files.

use jiff::Timestamp;
use rustls::pki_types::CertificateDer;

use super::{
    Ca, Tls, certificate_validity,
    pem::{self, PemBundle},
};

/// Expiry of a certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateExpiry {
    /// Location of the certificate, such as `the CA file /etc/vault/ca.pem`.
    pub location: String,
    /// End of validity (`notAfter`).
    pub expires_at: Timestamp,
}

/// Expiry of the certificates of one setting.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Expiries {
    /// The CA certificate that expires first.
    pub authority: Option<CertificateExpiry>,
    /// The client certificate.
    pub client: Option<CertificateExpiry>,
}

/// Summary of the certificates in TLS settings, without the system's CAs.
#[derive(Debug, Default)]
pub struct CertificateSummary {
    authorities: Vec<CertificateExpiry>,
    client: Option<CertificateExpiry>,
    /// Locations of truncated or invalid certificates, one entry for each.
    truncated: Vec<String>,
    /// Files of a CA directory that do not contain a certificate.
    empty_files: Vec<String>,
}

impl CertificateSummary {
    /// Summarizes the configured CA certificates and the first certificate of the client's chain.
    pub(super) fn new(tls: &Tls, bundle: &PemBundle, chain: Option<&PemBundle>) -> Self {
        let expiry = |(location, certificate): &(String, CertificateDer<'_>)| {
            Some(CertificateExpiry { location: location.clone(), expires_at: certificate_validity(certificate)?.1 })
        };
        let configured = bundle.certificates.iter().filter(|_| tls.ca != Ca::System);
        let client = chain.and_then(|chain| chain.certificates.first()).and_then(expiry);
        let truncated = [Some(bundle), chain].into_iter().flatten().flat_map(|bundle| bundle.truncated.clone());
        Self {
            authorities: configured.filter_map(expiry).collect(),
            client,
            truncated: truncated.collect(),
            empty_files: bundle.empty_files.clone(),
        }
    }

    /// Returns a file that is truncated, as if half written, and was complete in `previous`. Files that were already truncated do
    /// not count, because they must not block an update.
    #[must_use]
    pub fn newly_truncated(&self, previous: &Self) -> Option<&str> {
        let count = |all: &[String], place: &String| all.iter().filter(|other| *other == place).count();
        let truncated =
            self.truncated.iter().find(|place| count(&self.truncated, place) > count(&previous.truncated, place));
        let had_certificates = |place: &&String| previous.authorities.iter().any(|expiry| expiry.location == **place);
        truncated.or_else(|| self.empty_files.iter().find(had_certificates)).map(String::as_str)
    }

    /// Reads the certificates from the files, even if the settings are invalid. Blocks.
    #[must_use]
    pub fn read(tls: &Tls) -> Self {
        let bundle = pem::load_ca_bundle(&tls.ca).unwrap_or_default();
        let chain = tls
            .client
            .as_ref()
            .and_then(|client| pem::load_chain(&client.display_location(), &client.certificate).ok());
        Self::new(tls, &bundle, chain.as_ref())
    }

    /// Returns the expiry of the certificates. Of several CAs it is the first that expires after `now`, or the last if all have
    /// expired.
    #[must_use]
    pub fn expiries(&self, now: Timestamp) -> Expiries {
        let upcoming =
            self.authorities.iter().filter(|expiry| expiry.expires_at > now).min_by_key(|expiry| expiry.expires_at);
        let earliest = upcoming.or_else(|| self.authorities.iter().max_by_key(|expiry| expiry.expires_at));
        Expiries { authority: earliest.cloned(), client: self.client.clone() }
    }
}
