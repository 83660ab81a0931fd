//! What a service account token says of itself, read without trusting it: Vault checks the signature, this tells a person
//! early and exactly why a login would be refused.

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

/// What a token should say.
#[derive(Clone, Copy, Debug)]
pub struct ExpectedClaims<'a> {
    /// The audience it is meant for; nothing if any will do.
    pub audience: Option<&'a str>,
    /// The pod whose service account it should be.
    pub pod: &'a Pod,
    /// The time now.
    pub now: Timestamp,
}

/// What a token says; nothing of it is proven, and all of it is absent from a token that is no JWT.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Claims {
    /// When it begins to be valid: the later of `nbf` and `iat`, as Vault looks at both.
    pub not_before: Option<Timestamp>,
    /// When it ends.
    pub expires_at: Option<Timestamp>,
    /// Whom it is for.
    pub audiences: Option<Vec<String>>,
    /// The service account's UID.
    pub service_account_uid: Option<String>,
    /// The UID of the pod it is bound to.
    pub pod_uid: Option<String>,
}

/// The payload. One of another shape counts as no JWT.
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

/// Looks at a token. It is refused when it has expired ([`Cause::TokenExpired`], compared exactly: Vault would do the same),
/// when it is for other audiences ([`Cause::TokenAudience`]), or another service account's ([`Cause::TokenIdentity`]).
/// What it does not say is not held against it; a token that is no JWT passes. So does one that is not valid yet: it is
/// fresh, so it may be this node's clock that is behind, and Vault's decides.
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

/// The UID of the service account that a token says it is of; an error ([`Cause::TokenIdentity`]) when it says none. Whose
/// it is by name, and whether it has expired, is looked at where it is used to log in.
pub fn service_account_uid(jwt: &SecretText) -> Result<String, Error> {
    let payload = decode_payload(jwt.expose()).unwrap_or_default();
    let uid = payload.kubernetes.serviceaccount.uid.filter(|uid| !uid.is_empty());
    uid.ok_or_else(|| {
        Error::new(Cause::TokenIdentity, "the service account token names no service account UID, which pods must have in common to share a Vault token (tokenScope: serviceAccount)")
            .with_fix("pass tokens of Kubernetes 1.21 or newer, or remove tokenScope")
    })
}

/// Whether a text is a JWT by its form.
#[must_use]
pub fn is_jwt(text: &SecretText) -> bool {
    decode_payload(text.expose()).is_some()
}

/// The middle of three parts, if it is a JSON object in base64url.
fn decode_payload(jwt: &str) -> Option<Payload> {
    let mut parts = jwt.trim().split('.');
    let (_, payload, _) = (parts.next()?, parts.next()?, parts.next()?);
    if parts.next().is_some() {
        return None;
    }
    let json = Zeroizing::new(URL_SAFE_NO_PAD.decode(payload.trim_end_matches('=')).ok()?);
    serde_json::from_slice(&json).ok()
}

/// A `NumericDate`, which may have a fraction.
fn parse_numeric_date(number: &serde_json::Number) -> Option<Timestamp> {
    match number.as_i64() {
        Some(seconds) => Timestamp::from_second(seconds).ok(),
        None => Timestamp::from_duration(jiff::SignedDuration::try_from_secs_f64(number.as_f64()?).ok()?).ok(),
    }
}

impl Payload {
    /// Namespace and name, from the subject or else from Kubernetes' own claims.
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
