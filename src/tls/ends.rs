//! When the certificates of TLS settings end.

use jiff::Timestamp;
use rustls::pki_types::CertificateDer;

use super::{Ca, Tls, certificate_time, pem};

/// When a certificate ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct End {
    /// Where it is, as in `the CA file /etc/vault/ca.pem`.
    pub place: String,
    /// Its last moment.
    pub at: Timestamp,
}

/// When certificates end.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ends {
    /// The first of the authorities'.
    pub authority: Option<End>,
    /// The client's own.
    pub client: Option<End>,
}

/// When each certificate ends of those that some settings name. The system's own authorities are none of ours.
#[derive(Debug, Default)]
pub struct Certificates {
    authorities: Vec<End>,
    client: Option<End>,
}

impl Certificates {
    /// Those that were read for settings: what their CA names, and the first of the client's chain.
    pub(super) fn of(tls: &Tls, found: &[pem::Located], client: Option<&CertificateDer<'_>>) -> Self {
        let end =
            |place: &str, certificate| Some(End { place: place.to_owned(), at: certificate_time(certificate)?.1 });
        let own = found.iter().filter(|_| tls.ca != Ca::System);
        let authorities = own.filter_map(|(place, certificate)| end(place, certificate)).collect();
        let client = tls.client.as_ref().zip(client).and_then(|(named, client)| end(&named.place(), client));
        Self { authorities, client }
    }

    /// Those in the files, whether the settings can be used or not. Reads them, and blocks while it does.
    #[must_use]
    pub fn read(tls: &Tls) -> Self {
        let found = pem::found(&tls.ca).unwrap_or_default();
        let chain = tls.client.as_ref().and_then(|client| pem::chain(&client.place(), &client.certificate).ok());
        Self::of(tls, &found, chain.as_deref().and_then(<[_]>::first))
    }

    /// When they end; of several, the first that is not over by `now`, or the last if all are.
    #[must_use]
    pub fn ends(&self, now: Timestamp) -> Ends {
        let to_come = self.authorities.iter().filter(|end| end.at > now).min_by_key(|end| end.at);
        let first = to_come.or_else(|| self.authorities.iter().max_by_key(|end| end.at));
        Ends { authority: first.cloned(), client: self.client.clone() }
    }
}
