//! What kind of thing a lease is, and so when it is used, renewed or read anew.

use std::{collections::BTreeMap, time::Duration};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use jiff::{SignedDuration, Timestamp};
use rustls::pki_types::{CertificateDer, pem::PemObject};
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::time::Instant;

use crate::{
    cache::kind::{RotationReason, SecretKind},
    lifetime::Lifetime,
    secret::SecretText,
    tls,
    vault::{
        client::ReadResult,
        request::{Method, SecretRequest},
        response::SecretResponse,
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
pub const MIN_REFRESH_INTERVAL: Duration = Duration::from_secs(10);
/// The longest: what is longer is meant never to come.
const MAX_REFRESH_INTERVAL: Duration = Duration::from_secs(366 * 24 * 3600);

impl Refresh {
    /// Reads `30s`, `5m`, `1h30m` or `never`; an error says what it is instead, to follow the value. A time may be too short.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        const INVALID_INTERVAL: &str = "is neither a time like 30s, 5m or 1h nor never";
        if text == "never" {
            return Ok(Self::Never);
        }
        let parsed = text.parse::<SignedDuration>().ok().and_then(|d| Duration::try_from(d).ok());
        let interval = parsed.filter(|_| !text.trim_start().starts_with('P')).ok_or(INVALID_INTERVAL)?;
        if interval > MAX_REFRESH_INTERVAL {
            Err("is more than a year; write never")
        } else {
            Ok(Self::Every(interval))
        }
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
pub enum Lifecycle {
    /// Ends by itself unless it is renewed, and with the token it was read under.
    Leased {
        /// Names it to Vault.
        lease_id: String,
        /// Its time; apart, as most of what is read has none.
        lifetime: Box<Lifetime>,
    },
    /// Is over at a time of its own; not bound to the token.
    Certificate {
        /// When two thirds of its life have passed.
        refresh_at: Instant,
        /// Its end.
        expires_at: Instant,
        /// When it was read.
        read_at: Instant,
    },
    /// Is replaced at Vault's side at a time that is known; what the pod has is wrong from then on.
    Static {
        /// When Vault replaces it.
        rotates_at: Instant,
        /// When it was read.
        read_at: Instant,
    },
    /// The token itself, which ends when it ends.
    Token,
    /// Reading it again is all there is to do.
    Plain {
        /// When it was read.
        read_at: Instant,
        /// Whether each reading makes something new.
        mutating: bool,
    },
}

/// What else decides about a lease.
#[derive(Clone, Copy, Debug)]
pub struct LifecycleContext<'a> {
    /// Now, by [`crate::clock::now`].
    pub now: Instant,
    /// The time of the token it was read under; none when that is gone.
    pub token_lifetime: Option<&'a Lifetime>,
    /// The longest of the last pauses between two polls; none before the second.
    pub poll_interval: Option<Duration>,
    /// What the class, or the operator, wants of plain secrets.
    pub refresh: Refresh,
    /// Whether it has reached its pod.
    pub delivered: bool,
    /// Whether a volume of the pod names it, so that it is renewed.
    pub is_referenced: bool,
}

/// What to do with a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CacheAction {
    /// Nothing: it is good as it is.
    Reuse,
    /// Ask Vault for more time, in the background; until then it is good.
    Renew,
    /// Read anew in the next mount.
    Refetch(RotationReason),
}

/// How long something that was created without a lease (a signature) waits for its pod to ask again: longer than the longest
/// pause between kubelet's attempts (2 minutes).
const UNDELIVERED_SECRET_TTL: Duration = Duration::from_secs(300);

impl Lifecycle {
    /// The life of what was read by a request that was sent at `sent`.
    #[must_use]
    pub fn from_result(request: &SecretRequest, result: &ReadResult, sent_at: Instant) -> Self {
        let response = &result.response;
        if request.is_for_token() {
            return Self::Token;
        }
        if !response.lease_id.is_empty() && response.lease_duration > 0 {
            let ttl = Duration::from_secs(response.lease_duration.min(u64::from(u32::MAX)));
            let lifetime = Box::new(Lifetime::new(ttl, response.renewable, sent_at));
            return Self::Leased { lease_id: response.lease_id.clone(), lifetime };
        }
        // Only what was written for can have been issued; a certificate that lies somewhere is a plain secret.
        let issued =
            matches!(request.method, Method::Put | Method::Post).then(|| certificate_validity(response)).flatten();
        if let Some((begin, end)) = issued {
            // By a clock that is late it would seem to last longer than it does.
            let validity = end.duration_since(begin).min(end.duration_since(Timestamp::now()));
            let remaining = Duration::try_from(validity).unwrap_or_default();
            let remaining = remaining.min(Duration::from_secs(u64::from(u32::MAX)));
            return Self::Certificate {
                refresh_at: sent_at + remaining * 2 / 3,
                expires_at: sent_at + remaining,
                read_at: sent_at,
            };
        }
        if let Some(ttl) = static_credential_ttl(request, response) {
            return Self::Static { rotates_at: sent_at + ttl, read_at: sent_at };
        }
        Self::Plain { read_at: sent_at, mutating: result.mutating }
    }

    /// Its kind.
    #[must_use]
    pub fn kind(&self) -> SecretKind {
        match self {
            Self::Leased { .. } => SecretKind::Leased,
            Self::Certificate { .. } => SecretKind::Certificate,
            Self::Static { .. } => SecretKind::Static,
            Self::Token => SecretKind::Token,
            Self::Plain { .. } => SecretKind::Plain,
        }
    }

    /// When it is of no use any more, as things stand; none for what lasts.
    #[must_use]
    pub fn expires_at(&self) -> Option<Instant> {
        match self {
            Self::Leased { lifetime, .. } => lifetime.expires_at(),
            Self::Certificate { expires_at, .. } => Some(*expires_at),
            Self::Static { rotates_at, .. } => Some(*rotates_at),
            Self::Token | Self::Plain { .. } => None,
        }
    }

    /// The end that only another mount can put off, if it is known.
    #[must_use]
    pub fn max_expires_at(&self) -> Option<Instant> {
        match self {
            Self::Leased { lifetime, .. } => lifetime.max_expires_at(),
            _ => self.expires_at(),
        }
    }

    /// Whether Vault ends it when its token ends.
    #[must_use]
    pub fn is_bound_to_token(&self) -> bool {
        matches!(self, Self::Leased { .. } | Self::Token)
    }

    /// Whether what the pod has of it is certainly of no use. Of a static credential nobody knows: Vault may be late.
    #[must_use]
    pub fn is_expired(&self, token_lifetime: Option<&Lifetime>, now: Instant) -> bool {
        match self {
            Self::Leased { lifetime, .. } => {
                lifetime.is_expired(now) || token_lifetime.is_none_or(|token| token.is_expired(now))
            }
            Self::Token => token_lifetime.is_none_or(|token| token.is_expired(now)),
            Self::Certificate { expires_at, .. } => now >= *expires_at,
            Self::Static { .. } | Self::Plain { .. } => false,
        }
    }

    /// When its renewal is due, if it can be renewed; also near its end, as one that failed may still come through.
    #[must_use]
    pub fn renew_at(&self, token_lifetime: Option<&Lifetime>, now: Instant) -> Option<Instant> {
        match self {
            Self::Leased { lifetime, .. } if lifetime.is_renewable() && !self.is_expired(token_lifetime, now) => {
                Some(lifetime.renew_at())
            }
            _ => None,
        }
    }

    /// What to do with it now. The one place where that is decided.
    #[must_use]
    pub fn next_action(&self, context: &LifecycleContext<'_>) -> CacheAction {
        let reread_if =
            |due: bool| if due { CacheAction::Refetch(RotationReason::RefreshDue) } else { CacheAction::Reuse };
        match self {
            Self::Leased { lifetime, .. } => {
                let Some(token_lifetime) =
                    context.token_lifetime.filter(|_| !self.is_expired(context.token_lifetime, context.now))
                else {
                    return CacheAction::Refetch(RotationReason::Revoked);
                };
                // What nobody names is not renewed, and so ends when it ends.
                let expiry = if context.is_referenced { lifetime.max_expires_at() } else { lifetime.expires_at() };
                let token_expiry =
                    if context.is_referenced { token_lifetime.max_expires_at() } else { token_lifetime.expires_at() };
                if token_lifetime.needs_replacement(token_expiry, context.poll_interval, context.now) {
                    CacheAction::Refetch(RotationReason::Token)
                } else if lifetime.needs_replacement(expiry, context.poll_interval, context.now) {
                    CacheAction::Refetch(RotationReason::MaxTtl)
                } else if context.is_referenced
                    && self.renew_at(context.token_lifetime, context.now).is_some_and(|due| context.now >= due)
                {
                    CacheAction::Renew
                } else {
                    CacheAction::Reuse
                }
            }
            Self::Token => match context.token_lifetime.filter(|token| !token.is_expired(context.now)) {
                None => CacheAction::Refetch(RotationReason::Revoked),
                Some(token_lifetime) => {
                    let expiry = if context.is_referenced {
                        token_lifetime.max_expires_at()
                    } else {
                        token_lifetime.expires_at()
                    };
                    if token_lifetime.needs_replacement(expiry, context.poll_interval, context.now) {
                        CacheAction::Refetch(RotationReason::Token)
                    } else {
                        CacheAction::Reuse
                    }
                }
            },
            Self::Certificate { refresh_at, .. } => reread_if(context.now >= *refresh_at),
            // Somebody may rotate it by hand before its time.
            Self::Static { rotates_at, read_at } => reread_if(
                context.now >= *rotates_at || context.refresh.is_due(context.now.saturating_duration_since(*read_at)),
            ),
            Self::Plain { read_at, .. } if context.delivered => {
                reread_if(context.refresh.is_due(context.now.saturating_duration_since(*read_at)))
            }
            Self::Plain { read_at, mutating } => {
                reread_if(!mutating || context.now >= *read_at + UNDELIVERED_SECRET_TTL)
            }
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
fn static_credential_ttl(request: &SecretRequest, response: &SecretResponse) -> Option<Duration> {
    request.path.split('/').find(|part| matches!(*part, "static-creds" | "static-cred"))?;
    let data: StaticData = serde_json::from_str(response.data()?).ok()?;
    data.rotation_period.map(|_| ()).or(data.rotation_schedule.map(|_| ()))?;
    let seconds = data.ttl?.as_f64()?.clamp(0.0, f64::from(u32::MAX));
    Some(Duration::from_secs_f64(seconds))
}

/// Whether two answers of a static credential hold the same but for the time that is left.
#[must_use]
pub(super) fn is_same_static_credential(a: &SecretResponse, b: &SecretResponse) -> bool {
    fn fields_without_ttl(response: &SecretResponse) -> Option<BTreeMap<&str, &str>> {
        let data: BTreeMap<&str, &RawValue> = serde_json::from_str(response.data()?).ok()?;
        Some(data.into_iter().filter(|(name, _)| *name != "ttl").map(|(name, value)| (name, value.get())).collect())
    }
    fields_without_ttl(a).is_some_and(|a| fields_without_ttl(b) == Some(a))
}

/// Begin and end of the X.509 certificate in an answer's `certificate`: PEM, or DER in base64 (`format=der` of the PKI engine).
fn certificate_validity(response: &SecretResponse) -> Option<(Timestamp, Timestamp)> {
    #[derive(Deserialize)]
    struct Data {
        // With a private key in it, if the class asks for that.
        certificate: SecretText,
    }
    let Data { certificate } = serde_json::from_str(response.data()?).ok()?;
    let der = CertificateDer::from_pem_slice(certificate.expose().as_bytes())
        .or_else(|_| STANDARD.decode(certificate.expose().trim()).map(CertificateDer::from))
        .ok()?;
    tls::certificate_validity(&der)
}

#[cfg(test)]
mod tests;
