//! The certificates of TLS settings: when they end, and what of their files is in pieces.

use jiff::Timestamp;
use rustls::pki_types::CertificateDer;

use super::{
    Ca, Tls, certificate_time,
    pem::{self, Found},
};

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

/// What there is to say of the certificates that some settings name. The system's own authorities are none of ours.
#[derive(Debug, Default)]
pub struct Certificates {
    authorities: Vec<End>,
    client: Option<End>,
    /// Where something begins a certificate and is none: once for each.
    torn: Vec<String>,
    /// The files of a CA directory without any.
    empty: Vec<String>,
}

impl Certificates {
    /// Those that were read for settings: what their CA names, and the first of the client's chain.
    pub(super) fn of(tls: &Tls, found: &Found, chain: Option<&Found>) -> Self {
        let end = |(place, certificate): &(String, CertificateDer<'_>)| {
            Some(End { place: place.clone(), at: certificate_time(certificate)?.1 })
        };
        let own = found.certificates.iter().filter(|_| tls.ca != Ca::System);
        let client = chain.and_then(|chain| chain.certificates.first()).and_then(end);
        let torn = [Some(found), chain].into_iter().flatten().flat_map(|found| found.torn.clone());
        Self { authorities: own.filter_map(end).collect(), client, torn: torn.collect(), empty: found.empty.clone() }
    }

    /// A file that is in pieces, as one that is only half written, and was not in what was read before. What always was is no
    /// reason to refuse what is new.
    #[must_use]
    pub fn torn_since(&self, before: &Self) -> Option<&str> {
        let count = |all: &[String], place: &String| all.iter().filter(|other| *other == place).count();
        let torn = self.torn.iter().find(|place| count(&self.torn, place) > count(&before.torn, place));
        let had_some = |place: &&String| before.authorities.iter().any(|end| end.place == **place);
        torn.or_else(|| self.empty.iter().find(had_some)).map(String::as_str)
    }

    /// Those in the files, whether the settings can be used or not. Reads them, and blocks while it does.
    #[must_use]
    pub fn read(tls: &Tls) -> Self {
        let found = pem::found(&tls.ca).unwrap_or_default();
        let chain = tls.client.as_ref().and_then(|client| pem::chain(&client.place(), &client.certificate).ok());
        Self::of(tls, &found, chain.as_ref())
    }

    /// When they end; of several, the first that is not over by `now`, or the last if all are.
    #[must_use]
    pub fn ends(&self, now: Timestamp) -> Ends {
        let to_come = self.authorities.iter().filter(|end| end.at > now).min_by_key(|end| end.at);
        let first = to_come.or_else(|| self.authorities.iter().max_by_key(|end| end.at));
        Ends { authority: first.cloned(), client: self.client.clone() }
    }
}
