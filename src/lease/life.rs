//! What kind of thing a lease is, and so when it is used, renewed or read anew.

use std::{collections::BTreeMap, time::Duration};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use jiff::{SignedDuration, Timestamp};
use rustls::pki_types::{CertificateDer, pem::PemObject};
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::time::Instant;

use crate::{
    metrics::{Kind, Reason},
    secret::SecretText,
    term::Term,
    tls,
    vault::{
        answer::SecretResponse,
        client::ReadResult,
        wire::{Method, SecretRequest},
    },
};

/// How long a plain secret counts as fresh.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refresh {
    /// This long.
    Every(Duration),
    /// For as long as the pod lives.
    Never,
}

/// The shortest refresh interval.
pub const MIN_REFRESH: Duration = Duration::from_secs(10);
/// The longest: what is longer is meant never to come.
const MAX_REFRESH: Duration = Duration::from_secs(366 * 24 * 3600);

impl Refresh {
    /// Reads `30s`, `5m`, `1h30m` or `never`; an error says what it is instead, to follow the value. A time may be too short.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        const WRONG: &str = "is neither a time like 30s, 5m or 1h nor never";
        if text == "never" {
            return Ok(Self::Never);
        }
        let spelled = text.parse::<SignedDuration>().ok().and_then(|d| Duration::try_from(d).ok());
        let interval = spelled.filter(|_| !text.trim_start().starts_with('P')).ok_or(WRONG)?;
        if interval > MAX_REFRESH { Err("is more than a year; write never") } else { Ok(Self::Every(interval)) }
    }

    /// Whether something of this age must be read again. A driver's polls do not come to the second, so that a twentieth less
    /// is old enough: a poll every two minutes shall not read every four.
    fn is_due(self, age: Duration) -> bool {
        match self {
            Self::Every(interval) => age + (interval / 20).min(Duration::from_secs(1)) >= interval,
            Self::Never => false,
        }
    }
}

/// What is known of a lease's time.
#[derive(Clone, Debug)]
pub enum Life {
    /// Ends by itself unless it is renewed, and with the token it was read under.
    Leased {
        /// Names it to Vault.
        lease_id: String,
        /// Its time; apart, as most of what is read has none.
        term: Box<Term>,
    },
    /// Is over at a time of its own; not bound to the token.
    Certificate {
        /// When two thirds of its life have passed.
        aged: Instant,
        /// Its end.
        ends: Instant,
        /// When it was read.
        read: Instant,
    },
    /// Is replaced at Vault's side at a time that is known; what the pod has is wrong from then on.
    Static {
        /// When Vault replaces it.
        rotates: Instant,
        /// When it was read.
        read: Instant,
    },
    /// The token itself, which ends when it ends.
    Token,
    /// Reading it again is all there is to do.
    Plain {
        /// When it was read.
        read: Instant,
        /// Whether each reading makes something new.
        creates: bool,
    },
}

/// What else decides about a lease.
#[derive(Clone, Copy, Debug)]
pub struct Circumstances<'a> {
    /// Now, by [`crate::clock::now`].
    pub now: Instant,
    /// The time of the token it was read under; none when that is gone.
    pub token: Option<&'a Term>,
    /// The longest of the last pauses between two polls; none before the second.
    pub gap: Option<Duration>,
    /// What the class, or the operator, wants of plain secrets.
    pub refresh: Refresh,
    /// Whether it has reached its pod.
    pub delivered: bool,
    /// Whether a volume of the pod names it, so that it is renewed.
    pub named: bool,
}

/// What to do with a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Nothing: it is good as it is.
    Reuse,
    /// Ask Vault for more time, in the background; until then it is good.
    Renew,
    /// Read anew in the next mount.
    Reread(Reason),
}

/// How long something that was created without a lease (a signature) waits for its pod to ask again: longer than the longest
/// pause between kubelet's attempts (2 minutes).
const PATIENCE: Duration = Duration::from_secs(300);

impl Life {
    /// The life of what was read by a request that was sent at `sent`.
    #[must_use]
    pub fn of(read: &SecretRequest, reading: &ReadResult, sent: Instant) -> Self {
        let answer = &reading.response;
        if read.is_for_token() {
            return Self::Token;
        }
        if !answer.lease_id.is_empty() && answer.lease_duration > 0 {
            let duration = Duration::from_secs(answer.lease_duration.min(u64::from(u32::MAX)));
            let term = Box::new(Term::new(duration, answer.renewable, sent));
            return Self::Leased { lease_id: answer.lease_id.clone(), term };
        }
        // Only what was written for can have been issued; a certificate that lies somewhere is a plain secret.
        let issued = matches!(read.method, Method::Put | Method::Post).then(|| certificate_time(answer)).flatten();
        if let Some((begin, end)) = issued {
            // By a clock that is late it would seem to last longer than it does.
            let lasts = end.duration_since(begin).min(end.duration_since(Timestamp::now()));
            let left = Duration::try_from(lasts).unwrap_or_default();
            let left = left.min(Duration::from_secs(u64::from(u32::MAX)));
            return Self::Certificate { aged: sent + left * 2 / 3, ends: sent + left, read: sent };
        }
        if let Some(ttl) = static_ttl(read, answer) {
            return Self::Static { rotates: sent + ttl, read: sent };
        }
        Self::Plain { read: sent, creates: reading.mutating }
    }

    /// Its kind.
    #[must_use]
    pub fn kind(&self) -> Kind {
        match self {
            Self::Leased { .. } => Kind::Leased,
            Self::Certificate { .. } => Kind::Certificate,
            Self::Static { .. } => Kind::Static,
            Self::Token => Kind::Token,
            Self::Plain { .. } => Kind::Plain,
        }
    }

    /// When it is of no use any more, as things stand; none for what lasts.
    #[must_use]
    pub fn ends(&self) -> Option<Instant> {
        match self {
            Self::Leased { term, .. } => term.ends(),
            Self::Certificate { ends, .. } => Some(*ends),
            Self::Static { rotates, .. } => Some(*rotates),
            Self::Token | Self::Plain { .. } => None,
        }
    }

    /// The end that only another mount can put off, if it is known.
    #[must_use]
    pub fn forced_end(&self) -> Option<Instant> {
        match self {
            Self::Leased { term, .. } => term.forced_end(),
            _ => self.ends(),
        }
    }

    /// Whether Vault ends it when its token ends.
    #[must_use]
    pub fn hangs_on_token(&self) -> bool {
        matches!(self, Self::Leased { .. } | Self::Token)
    }

    /// Whether what the pod has of it is certainly of no use. Of a static credential nobody knows: Vault may be late.
    #[must_use]
    pub fn is_over(&self, token: Option<&Term>, now: Instant) -> bool {
        match self {
            Self::Leased { term, .. } => term.is_over(now) || token.is_none_or(|token| token.is_over(now)),
            Self::Token => token.is_none_or(|token| token.is_over(now)),
            Self::Certificate { ends, .. } => now >= *ends,
            Self::Static { .. } | Self::Plain { .. } => false,
        }
    }

    /// When its renewal is due, if it can be renewed; also near its end, as one that failed may still come through.
    #[must_use]
    pub fn renewal_due(&self, token: Option<&Term>, now: Instant) -> Option<Instant> {
        match self {
            Self::Leased { term, .. } if term.is_renewable() && !self.is_over(token, now) => Some(term.renew_at()),
            _ => None,
        }
    }

    /// What to do with it now. The one place where that is decided.
    #[must_use]
    pub fn decide(&self, at: &Circumstances<'_>) -> Step {
        let reread_if = |due: bool| if due { Step::Reread(Reason::Age) } else { Step::Reuse };
        match self {
            Self::Leased { term, .. } => {
                let Some(token) = at.token.filter(|_| !self.is_over(at.token, at.now)) else {
                    return Step::Reread(Reason::Gone);
                };
                // What nobody names is not renewed, and so ends when it ends.
                let end = if at.named { term.forced_end() } else { term.ends() };
                let token_end = if at.named { token.forced_end() } else { token.ends() };
                if token.is_near_end(token_end, at.gap, at.now) {
                    Step::Reread(Reason::Token)
                } else if term.is_near_end(end, at.gap, at.now) {
                    Step::Reread(Reason::Maximum)
                } else if at.named && self.renewal_due(at.token, at.now).is_some_and(|due| at.now >= due) {
                    Step::Renew
                } else {
                    Step::Reuse
                }
            }
            Self::Token => match at.token.filter(|token| !token.is_over(at.now)) {
                None => Step::Reread(Reason::Gone),
                Some(token) => {
                    let end = if at.named { token.forced_end() } else { token.ends() };
                    if token.is_near_end(end, at.gap, at.now) { Step::Reread(Reason::Token) } else { Step::Reuse }
                }
            },
            Self::Certificate { aged, .. } => reread_if(at.now >= *aged),
            // Somebody may rotate it by hand before its time.
            Self::Static { rotates, read } => {
                reread_if(at.now >= *rotates || at.refresh.is_due(at.now.saturating_duration_since(*read)))
            }
            Self::Plain { read, .. } if at.delivered => {
                reread_if(at.refresh.is_due(at.now.saturating_duration_since(*read)))
            }
            Self::Plain { read, creates } => reread_if(!creates || at.now >= *read + PATIENCE),
        }
    }
}

/// The data of a static credential, as the database and LDAP engines answer (measured against OpenBao 2.7).
#[derive(Deserialize)]
struct StaticData {
    ttl: Option<serde_json::Number>,
    rotation_period: Option<serde::de::IgnoredAny>,
    rotation_schedule: Option<serde::de::IgnoredAny>,
}

/// How long a static credential is served; none for anything else. Somebody's secret may have such keys, too.
fn static_ttl(read: &SecretRequest, answer: &SecretResponse) -> Option<Duration> {
    read.path.split('/').find(|part| matches!(*part, "static-creds" | "static-cred"))?;
    let data: StaticData = serde_json::from_str(answer.data()?).ok()?;
    data.rotation_period.map(|_| ()).or(data.rotation_schedule.map(|_| ()))?;
    let seconds = data.ttl?.as_f64()?.clamp(0.0, f64::from(u32::MAX));
    Some(Duration::from_secs_f64(seconds))
}

/// Whether two answers of a static credential hold the same but for the time that is left.
#[must_use]
pub(super) fn same_static(a: &SecretResponse, b: &SecretResponse) -> bool {
    fn parts(answer: &SecretResponse) -> Option<BTreeMap<&str, &str>> {
        let data: BTreeMap<&str, &RawValue> = serde_json::from_str(answer.data()?).ok()?;
        Some(data.into_iter().filter(|(name, _)| *name != "ttl").map(|(name, value)| (name, value.get())).collect())
    }
    parts(a).is_some_and(|a| parts(b) == Some(a))
}

/// Begin and end of the X.509 certificate in an answer's `certificate`: PEM, or DER in base64 (`format=der` of the PKI engine).
fn certificate_time(answer: &SecretResponse) -> Option<(Timestamp, Timestamp)> {
    #[derive(Deserialize)]
    struct Data {
        // With a private key in it, if the class asks for that.
        certificate: SecretText,
    }
    let Data { certificate } = serde_json::from_str(answer.data()?).ok()?;
    let der = CertificateDer::from_pem_slice(certificate.expose().as_bytes())
        .or_else(|_| STANDARD.decode(certificate.expose().trim()).map(CertificateDer::from))
        .ok()?;
    tls::certificate_validity(&der)
}

#[cfg(test)]
mod tests;
