//! The claims of a service account token, read without trusting them. Vault checks the signature. These checks report
//! early and exactly why a login would be denied.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use jiff::Timestamp;
use serde::Deserialize;
use zeroize::Zeroizing;

use crate::{
    error::{Cause, Error},
    request::{Pod, findings::join_truncated},
    secret::SecretText,
    text::quote,
};

/// The claims that a token is expected to have.
#[derive(Clone, Copy, Debug)]
pub struct ExpectedClaims<'a> {
    /// The required audience; absent if any audience is accepted.
    pub audience: Option<&'a str>,
    /// The pod that has the expected service account.
    pub pod: &'a Pod,
    /// The current time.
    pub now: Timestamp,
}

/// The unverified claims of a token; all absent if the token is not a JWT.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Claims {
    /// The start of the token's validity: the later of `nbf` and `iat`, because Vault checks both.
    pub not_before: Option<Timestamp>,
    /// The time at which the token expires.
    pub expires_at: Option<Timestamp>,
    /// The audiences of the token.
    pub audiences: Option<Vec<String>>,
    /// The service account's UID.
    pub service_account_uid: Option<String>,
    /// The UID of the pod that the token is bound to.
    pub pod_uid: Option<String>,
}

/// The payload. A token with a payload of another shape is treated as not a JWT.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Payload {
    exp: Option<serde_json::Number>,
    nbf: Option<serde_json::Number>,
    iat: Option<serde_json::Number>,
    aud: Option<OneOrMany>,
    sub: Option<String>,
    #[serde(rename = "kubernetes.io")]
    kubernetes: KubernetesClaims,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum OneOrMany {
    One(String),
    Many(Vec<String>),
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct KubernetesClaims {
    namespace: Option<String>,
    pod: ObjectClaims,
    serviceaccount: ObjectClaims,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct ObjectClaims {
    name: Option<String>,
    uid: Option<String>,
}

/// Checks a token's claims and returns them. Fails if the token:
///
/// - has expired ([`Cause::TokenExpired`]; compared exactly, as Vault does),
/// - is for other audiences ([`Cause::TokenAudience`]), or
/// - belongs to another service account ([`Cause::TokenIdentity`]).
///
/// Missing claims are not errors, and a token that is not a JWT passes. A token that is not valid yet also passes: this
/// node's clock may be behind, and Vault's clock decides.
pub fn inspect(jwt: &SecretText, expected: &ExpectedClaims<'_>) -> Result<Claims, Error> {
    let Some(payload) = decode_payload(jwt.expose()) else { return Ok(Claims::default()) };
    let identity = payload.service_account();
    let claims = Claims {
        not_before: [&payload.nbf, &payload.iat].into_iter().filter_map(|n| parse_numeric_date(n.as_ref()?)).max(),
        expires_at: payload.exp.as_ref().and_then(parse_numeric_date),
        audiences: payload.aud.map(|aud| match aud {
            OneOrMany::One(one) => vec![one],
            OneOrMany::Many(more) => more,
        }),
        service_account_uid: payload.kubernetes.serviceaccount.uid,
        pod_uid: payload.kubernetes.pod.uid,
    };
    check_identity(identity, expected.pod)?;
    claims.check_audience(expected.audience)?;
    claims.check_expiry(expected.now)?;
    Ok(claims)
}

/// Returns the service account UID in a token's claims, or [`Cause::TokenIdentity`] if it is missing. The login checks
/// the service account's name and the token's expiry.
pub fn service_account_uid(jwt: &SecretText) -> Result<String, Error> {
    let payload = decode_payload(jwt.expose()).unwrap_or_default();
    let uid = payload.kubernetes.serviceaccount.uid.filter(|uid| !uid.is_empty());
    uid.ok_or_else(|| {
        Error::new(Cause::TokenIdentity, "the service account token names no service account UID, which pods must have in common to share a Vault token (tokenScope: serviceAccount)")
            .with_fix("pass tokens of Kubernetes 1.21 or newer, or remove tokenScope")
    })
}

/// Returns true if a text has the form of a JWT.
#[must_use]
pub fn is_jwt(text: &SecretText) -> bool {
    decode_payload(text.expose()).is_some()
}

/// Decodes the middle one of three parts, if it is a JSON object in base64url.
fn decode_payload(jwt: &str) -> Option<Payload> {
    let mut parts = jwt.trim().split('.');
    let (_, payload, _) = (parts.next()?, parts.next()?, parts.next()?);
    if parts.next().is_some() {
        return None;
    }
    let json = Zeroizing::new(URL_SAFE_NO_PAD.decode(payload.trim_end_matches('=')).ok()?);
    serde_json::from_slice(&json).ok()
}

/// Parses a `NumericDate`, which may have a fraction.
fn parse_numeric_date(number: &serde_json::Number) -> Option<Timestamp> {
    match number.as_i64() {
        Some(seconds) => Timestamp::from_second(seconds).ok(),
        None => Timestamp::from_duration(jiff::SignedDuration::try_from_secs_f64(number.as_f64()?).ok()?).ok(),
    }
}

impl Payload {
    /// Returns the service account's namespace and name, from the subject or else from Kubernetes' own claims.
    fn service_account(&self) -> Option<(String, String)> {
        let subject = self.sub.as_deref().and_then(|sub| sub.strip_prefix("system:serviceaccount:"));
        if let Some((namespace, name)) = subject.and_then(|names| names.split_once(':')) {
            return Some((namespace.to_owned(), name.to_owned()));
        }
        self.kubernetes.namespace.clone().zip(self.kubernetes.serviceaccount.name.clone())
    }
}

fn check_identity(identity: Option<(String, String)>, pod: &Pod) -> Result<(), Error> {
    let Some((namespace, name)) = identity else { return Ok(()) };
    if namespace == pod.namespace && name == pod.service_account {
        return Ok(());
    }
    let theirs = quote(&format!("{namespace}/{name}"));
    let ours = quote(&format!("{}/{}", pod.namespace, pod.service_account));
    Err(Error::new(Cause::TokenIdentity, format!("the token is of service account {theirs}, not of the pod's {ours}"))
        .with_fix(
            "remove any serviceAccount.tokens from the class and from the pod's volumeAttributes: kubelet sets it",
        ))
}

impl Claims {
    fn check_audience(&self, expected: Option<&str>) -> Result<(), Error> {
        let (Some(audiences), Some(expected)) = (&self.audiences, expected) else { return Ok(()) };
        if audiences.iter().any(|audience| audience == expected) {
            return Ok(());
        }
        let token_audiences = join_truncated(audiences.iter().map(|audience| quote(audience)), audiences.len());
        Err(Error::new(
            Cause::TokenAudience,
            format!("the token is for {token_audiences}, not for audience {}", quote(expected)),
        )
        .with_fix("name the audience in the CSIDriver's tokenRequests, or set the class's audience to one of these"))
    }

    fn check_expiry(&self, now: Timestamp) -> Result<(), Error> {
        let Some(expires_at) = self.expires_at.filter(|end| *end <= now) else { return Ok(()) };
        let elapsed = jiff::SignedDuration::from_secs(now.as_second() - expires_at.as_second());
        let whole_second = Timestamp::from_second(expires_at.as_second()).unwrap_or(expires_at);
        Err(Error::new(
            Cause::TokenExpired,
            format!("the service account token expired at {whole_second}, {elapsed:#} ago"),
        )
        .with_fix(
            "the next mount uses a fresh token; if it fails, too, compare the clocks of this node and of the API server",
        ))
    }
}

#[cfg(test)]
mod tests;
