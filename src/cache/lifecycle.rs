//! Lifecycle of cached secrets: the rules that decide between reuse, renewal and another fetch.

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

/// Refresh interval of a plain secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refresh {
    /// Fetch again after this interval.
    Every(Duration),
    /// Never fetch again during the life of the pod.
    Never,
}

/// Minimum refresh interval.
pub const MIN_REFRESH_INTERVAL: Duration = Duration::from_secs(10);
/// Maximum refresh interval. The error for a longer value suggests `never`.
const MAX_REFRESH_INTERVAL: Duration = Duration::from_secs(366 * 24 * 3600);

impl Refresh {
    /// Parses `30s`, `5m`, `1h30m` or `never`. The error completes the sentence that begins with the value. The
    /// interval may be below the minimum.
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

    /// Returns `true` if a secret of this age must be fetched again. The age may fall short by a twentieth of the
    /// interval, at most one second, because the driver's polls are not exact. Without this tolerance, a two-minute
    /// poll would fetch only every four minutes.
    fn is_due(self, age: Duration) -> bool {
        match self {
            Self::Every(interval) => age + (interval / 20).min(Duration::from_secs(1)) >= interval,
            Self::Never => false,
        }
    }
}

/// Lifecycle of a cached secret, by kind.
#[derive(Clone, Debug)]
pub enum Lifecycle {
    /// Secret with a lease. It expires unless it is renewed, or when the token of the fetch expires.
    Leased {
        /// Lease ID.
        lease_id: String,
        /// Lifetime; boxed, because most secrets have no lease.
        lifetime: Box<Lifetime>,
    },
    /// Certificate that expires independently of the token.
    Certificate {
        /// Time after two thirds of the certificate's remaining validity at the fetch.
        refresh_at: Instant,
        /// Expiry of the certificate.
        expires_at: Instant,
        /// Time of the fetch.
        read_at: Instant,
    },
    /// Static credential. Vault rotates it at a known time, and the pod's copy is invalid from then on.
    Static {
        /// Time of the rotation in Vault.
        rotates_at: Instant,
        /// Time of the fetch.
        read_at: Instant,
    },
    /// Session token, which expires by its own lifetime.
    Token,
    /// Secret without an expiry, which can only be fetched again.
    Plain {
        /// Time of the fetch.
        read_at: Instant,
        /// `true` if each fetch creates something new.
        mutating: bool,
    },
}

/// Conditions that decide the next action for a cached secret.
#[derive(Clone, Copy, Debug)]
pub struct LifecycleContext<'a> {
    /// Current time, by [`crate::clock::now`].
    pub now: Instant,
    /// Lifetime of the token of the fetch; `None` if that token was revoked.
    pub token_lifetime: Option<&'a Lifetime>,
    /// Longest of the recent intervals between two polls; `None` before the second poll.
    pub poll_interval: Option<Duration>,
    /// Refresh interval from the class or the operator.
    pub refresh: Refresh,
    /// `true` if the secret was delivered to its pod.
    pub delivered: bool,
    /// `true` if a volume of the pod references the secret, so that it is renewed.
    pub is_referenced: bool,
}

/// Next action for a cached secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CacheAction {
    /// Serve the secret unchanged.
    Reuse,
    /// Renew the lease in the background, and serve the secret until then.
    Renew,
    /// Fetch the secret again in the next mount.
    Refetch(RotationReason),
}

/// Time to keep an undelivered secret that was created without a lease, such as a signature. It exceeds the longest
/// delay between kubelet's attempts (2 minutes).
const UNDELIVERED_SECRET_TTL: Duration = Duration::from_secs(300);

impl Lifecycle {
    /// Derives the lifecycle of a response to a request that was sent at `sent_at`.
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
        // Only a write can issue a certificate. A certificate that is stored somewhere is a plain secret.
        let issued =
            matches!(request.method, Method::Put | Method::Post).then(|| certificate_validity(response)).flatten();
        if let Some((begin, end)) = issued {
            // A slow local clock would overestimate the remaining validity.
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

    /// Returns the kind of the secret.
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

    /// Returns the current expiry; `None` for secrets that do not expire on their own.
    #[must_use]
    pub fn expires_at(&self) -> Option<Instant> {
        match self {
            Self::Leased { lifetime, .. } => lifetime.expires_at(),
            Self::Certificate { expires_at, .. } => Some(*expires_at),
            Self::Static { rotates_at, .. } => Some(*rotates_at),
            Self::Token | Self::Plain { .. } => None,
        }
    }

    /// Returns the expiry that only another mount can extend, if known.
    #[must_use]
    pub fn max_expires_at(&self) -> Option<Instant> {
        match self {
            Self::Leased { lifetime, .. } => lifetime.max_expires_at(),
            _ => self.expires_at(),
        }
    }

    /// Returns `true` if Vault revokes the secret when its token expires.
    #[must_use]
    pub fn is_bound_to_token(&self) -> bool {
        matches!(self, Self::Leased { .. } | Self::Token)
    }

    /// Returns `true` if the pod's copy is certainly invalid. A static credential never counts as expired, because
    /// Vault may rotate late.
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

    /// Returns the time of the next renewal, if the lease is renewable and has not expired. A lease near its expiry
    /// counts too, because a retry may still succeed.
    #[must_use]
    pub fn renew_at(&self, token_lifetime: Option<&Lifetime>, now: Instant) -> Option<Instant> {
        match self {
            Self::Leased { lifetime, .. } if lifetime.is_renewable() && !self.is_expired(token_lifetime, now) => {
                Some(lifetime.renew_at())
            }
            _ => None,
        }
    }

    /// Decides the next action. No other code makes this decision.
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
                // An unreferenced secret is not renewed, so its current expiry is final.
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
            // An operator may rotate the credential manually before its time.
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

/// Data of a static credential, as the database and LDAP engines return it (measured against OpenBao 2.7).
#[derive(Deserialize)]
struct StaticData {
    ttl: Option<serde_json::Number>,
    rotation_period: Option<serde::de::IgnoredAny>,
    rotation_schedule: Option<serde::de::IgnoredAny>,
}

/// Returns the remaining TTL of a static credential; `None` for any other secret. The path must match too, because a
/// tenant's secret may have the same keys.
fn static_credential_ttl(request: &SecretRequest, response: &SecretResponse) -> Option<Duration> {
    request.path.split('/').find(|part| matches!(*part, "static-creds" | "static-cred"))?;
    let data: StaticData = serde_json::from_str(response.data()?).ok()?;
    data.rotation_period.map(|_| ()).or(data.rotation_schedule.map(|_| ()))?;
    let seconds = data.ttl?.as_f64()?.clamp(0.0, f64::from(u32::MAX));
    Some(Duration::from_secs_f64(seconds))
}

/// Returns `true` if two responses of a static credential differ at most in the remaining TTL.
#[must_use]
pub(super) fn is_same_static_credential(a: &SecretResponse, b: &SecretResponse) -> bool {
    fn fields_without_ttl(response: &SecretResponse) -> Option<BTreeMap<&str, &str>> {
        let data: BTreeMap<&str, &RawValue> = serde_json::from_str(response.data()?).ok()?;
        Some(data.into_iter().filter(|(name, _)| *name != "ttl").map(|(name, value)| (name, value.get())).collect())
    }
    fields_without_ttl(a).is_some_and(|a| fields_without_ttl(b) == Some(a))
}

/// Returns the start and end of validity of the X.509 certificate in the field `certificate`. The format is PEM, or DER
/// in base64 (`format=der` of the PKI engine).
fn certificate_validity(response: &SecretResponse) -> Option<(Timestamp, Timestamp)> {
    #[derive(Deserialize)]
    struct Data {
        // Contains a private key if the class asks for one.
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
