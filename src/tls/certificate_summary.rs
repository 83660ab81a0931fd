//! The certificates of TLS settings: when they end, and what of their files is in pieces.

use jiff::Timestamp;
use rustls::pki_types::CertificateDer;

use super::{
    Ca, Tls, certificate_validity,
    pem::{self, PemBundle},
};

/// When a certificate ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateExpiry {
    /// Where it is, as in `the CA file /etc/vault/ca.pem`.
    pub location: String,
    /// Its last moment.
    pub expires_at: Timestamp,
}

/// When certificates end.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Expiries {
    /// The first of the authorities'.
    pub authority: Option<CertificateExpiry>,
    /// The client's own.
    pub client: Option<CertificateExpiry>,
}

/// What there is to say of the certificates that some settings name. The system's own authorities are none of ours.
#[derive(Debug, Default)]
pub struct CertificateSummary {
    authorities: Vec<CertificateExpiry>,
    client: Option<CertificateExpiry>,
    /// Where something begins a certificate and is none: once for each.
    truncated: Vec<String>,
    /// The files of a CA directory without any.
    empty_files: Vec<String>,
}

impl CertificateSummary {
    /// Those that were read for settings: what their CA names, and the first of the client's chain.
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

    /// A file that is in pieces, as one that is only half written, and was not in what was read before. What always was is no
    /// reason to refuse what is new.
    #[must_use]
    pub fn newly_truncated(&self, previous: &Self) -> Option<&str> {
        let count = |all: &[String], place: &String| all.iter().filter(|other| *other == place).count();
        let truncated =
            self.truncated.iter().find(|place| count(&self.truncated, place) > count(&previous.truncated, place));
        let had_certificates = |place: &&String| previous.authorities.iter().any(|expiry| expiry.location == **place);
        truncated.or_else(|| self.empty_files.iter().find(had_certificates)).map(String::as_str)
    }

    /// Those in the files, whether the settings can be used or not. Reads them, and blocks while it does.
    #[must_use]
    pub fn read(tls: &Tls) -> Self {
        let bundle = pem::load_ca_bundle(&tls.ca).unwrap_or_default();
        let chain = tls
            .client
            .as_ref()
            .and_then(|client| pem::load_chain(&client.display_location(), &client.certificate).ok());
        Self::new(tls, &bundle, chain.as_ref())
    }

    /// When they end; of several, the first that is not over by `now`, or the last if all are.
    #[must_use]
    pub fn expiries(&self, now: Timestamp) -> Expiries {
        let upcoming =
            self.authorities.iter().filter(|expiry| expiry.expires_at > now).min_by_key(|expiry| expiry.expires_at);
        let earliest = upcoming.or_else(|| self.authorities.iter().max_by_key(|expiry| expiry.expires_at));
        Expiries { authority: earliest.cloned(), client: self.client.clone() }
    }
}
