//! What a refused login means.

use jiff::Timestamp;

use super::{AuthMethod, LoginContext, Refusal};
use crate::{
    error::{Cause, Error},
    metrics::AuthKind,
};

pub(super) fn refused(refusal: &Refusal, at: &LoginContext) -> Error {
    if let Some(error) = refusal.general(&at.address) {
        return error.about(format_args!("login at auth/{} with role {:?}", at.mount, at.role));
    }
    let LoginContext { mount, role, address, pod_namespace, service_account, .. } = at;
    let place = match &at.namespace {
        Some(namespace) => format!("auth/{mount} in Vault namespace {namespace} at {address}"),
        None => format!("auth/{mount} at {address}"),
    };
    let (cause, what, advice) = if refusal.says(&["namespace not found"]) {
        let namespace = at.namespace.as_deref().unwrap_or_default();
        (
            Cause::VaultNamespaceMissing,
            format!("there is no Vault namespace {namespace:?} at {address} to log in at"),
            "correct vaultNamespace (or vaultAuthNamespace, where it is set), or create the namespace".to_owned(),
        )
    } else if refusal.says(&["role with oidc role_type"]) {
        (
            Cause::LoginRole,
            format!("role {role:?} at {place} is for people who log in with a browser (role_type oidc)"),
            "name a role of role_type jwt, or create one".to_owned(),
        )
    } else if refusal.says(&["cannot create root tokens"]) {
        (
            Cause::LoginRole,
            format!("role {role:?} at {place} gives the policy root, which no login may"),
            "give it policies of its own in the role's token_policies".to_owned(),
        )
    } else if refusal.says(&["invalid role name", "could not be found"]) {
        (
            Cause::RoleMissing,
            format!("role {role:?} does not exist at {place}"),
            "correct roleName or the auth mount path in the class, or create the role".to_owned(),
        )
    } else if let Some(meaning) = of_token(refusal, at, &place) {
        meaning
    } else if refusal.says(&["namespace not authorized"]) {
        (
            Cause::NamespaceNotBound,
            format!("role {role:?} at {place} does not take pods of namespace {pod_namespace:?}"),
            format!("add {pod_namespace:?} to the role's bound_service_account_namespaces"),
        )
    } else if refusal.says(&["service account name not authorized"]) {
        (
            Cause::ServiceAccountNotBound,
            format!("role {role:?} at {place} does not take service account {service_account:?}"),
            format!(
                "add {service_account:?} to the role's bound_service_account_names, or set the pod's serviceAccountName"
            ),
        )
    } else if refusal.says(&["could not load backend configuration", "could not load configuration"]) {
        (
            Cause::AuthUnconfigured,
            format!("{place} is mounted but not configured"),
            format!(
                "write its configuration: vault write auth/{mount}/config kubernetes_host=… (jwt: oidc_discovery_url=…)"
            ),
        )
    } else if at.method == Some(AuthMethod::None)
        || refusal.status == 404
        || refusal.says(&["no handler for route", "unsupported path", "missing role_id", "no client certificate found"])
    {
        let flag = at.namespace.as_ref().map(|namespace| format!("-namespace={namespace} ")).unwrap_or_default();
        (
            Cause::AuthMountMissing,
            format!("no kubernetes or jwt auth method is mounted at {place}"),
            format!(
                "correct vaultAuthMountPath (or vaultKubernetesMountPath) or the Vault namespace in the class, or enable the method: vault auth enable {flag}-path={mount} kubernetes"
            ),
        )
    } else if refusal.is_bare_denial() {
        (
            Cause::LoginDenied,
            format!("login with role {role:?} was denied at {place} without a reason"),
            format!("most likely {}; Vault's server log says more, at level debug", reasons(at.method)),
        )
    } else if refusal.says(&["invalid issuer"]) {
        (
            Cause::LoginClaims,
            format!("{place} does not take service account tokens of this issuer"),
            format!("compare the token's iss with its issuer (jwt: bound_issuer): vault read auth/{mount}/config"),
        )
    } else if refusal.status >= 500 && !refusal.says(&["UID from claims", "service account uid"]) {
        (
            Cause::ServerFault,
            format!("login with role {role:?} failed at {place} with status {}", refusal.status),
            "look into Vault's server log".to_owned(),
        )
    } else {
        (
            Cause::LoginClaims,
            format!("role {role:?} at {place} does not take this service account token"),
            format!("compare the token's claims with the role's bound claims: vault read auth/{mount}/role/{role}"),
        )
    };
    Error::new(cause, what).said(&refusal.errors).advice(advice)
}

/// What takes logins at an auth mount, by the words in which it refused one: each method has some of its own.
pub(super) fn kind(refusal: &Refusal) -> AuthKind {
    const KUBERNETES: &[&str] = &[
        "missing jwt",
        "invalid role name",
        "namespace not authorized",
        "service account name not authorized",
        "service account uid",
        "UID from claims",
        "could not load backend configuration",
    ];
    const JWT: &[&str] = &[
        "missing token",
        "could not be found",
        "could not load configuration",
        "role with oidc role_type",
        "error validating token",
        "error validating claims",
    ];
    if refusal.says(KUBERNETES) {
        AuthKind::Kubernetes
    } else if refusal.says(JWT) {
        AuthKind::Jwt
    } else {
        AuthKind::Unknown
    }
}

/// Why a method denies without a word.
fn reasons(method: Option<AuthMethod>) -> String {
    const REVIEW: &str = "it does not take this cluster's tokens (kubernetes_host is another's), this pod or its service account is gone, it cannot ask the Kubernetes API for a TokenReview (unreachable, certificate not trusted, or no right: system:auth-delegator)";
    const CIDRS: &str = "the provider's address is not in the role's token_bound_cidrs";
    match method {
        Some(AuthMethod::Jwt) => CIDRS.to_owned(),
        Some(_) => format!("one of: {REVIEW}, or {CIDRS}"),
        None => format!("{CIDRS}, or, at a kubernetes method, one of: {REVIEW}"),
    }
}

/// What is wrong with the service account token itself: cause, what, advice.
fn of_token(refusal: &Refusal, at: &LoginContext, place: &str) -> Option<(Cause, String, String)> {
    let role = &at.role;
    Some(if refusal.says(&["no audiences bound to the role", "does not have an audience"]) {
        (
            Cause::AudienceUnbound,
            format!(
                "role {role:?} at {place} names no audience, and the service account token is for {}",
                audiences(at)
            ),
            "set the role's bound_audiences (kubernetes: audience) to it".to_owned(),
        )
    } else if refusal.says(&["invalid audience", "audience claim"]) {
        (
            Cause::AudienceWrong,
            match at.claims.audiences.as_slice() {
                [] => format!("role {role:?} at {place} wants an audience, and the service account token has none"),
                _ => format!(
                    "role {role:?} at {place} does not take the service account token's audience {}",
                    audiences(at)
                ),
            },
            "make the role's audience (jwt: bound_audiences) and the class's `audience` the same".to_owned(),
        )
    } else if refusal.says(&["token signature", "verify signature", "verifying signature"]) {
        (
            Cause::TokenSignature,
            format!("{place} does not know the key that signed this cluster's service account tokens"),
            "configure it for this cluster (jwt: oidc_discovery_url, jwks_url or jwt_validation_pubkeys), or name this cluster's auth mount in the class".to_owned(),
        )
    } else if refusal.says(&["not yet valid", "issued in the future"]) {
        (
            Cause::ClockSkew,
            format!("the service account token is not valid yet, says {place}{}", clocks(refusal, at)),
            CLOCKS.to_owned(),
        )
    } else if refusal.says(&["token is expired", "token has expired"]) {
        let cause = match at.claims.ends {
            Some(end) if end > at.now => Cause::ClockSkew,
            _ => Cause::TokenExpired,
        };
        let what = format!("the service account token is expired, says {place}{}", clocks(refusal, at));
        let advice = if cause == Cause::ClockSkew { CLOCKS } else { FRESH };
        (cause, what, advice.to_owned())
    } else {
        return None;
    })
}

const FRESH: &str =
    "the next mount brings a fresh one; if it does not, compare the clocks of this node, the API server and Vault";
const CLOCKS: &str = "set the clocks of this node, the API server and Vault (NTP)";

/// The most that two clocks differ by which a message calls the same, in seconds.
const AGREED: i64 = 5;

/// What this node's clock says of the token's time, and of Vault's clock.
fn clocks(refusal: &Refusal, at: &LoginContext) -> String {
    let from_now = |time: Timestamp| time.as_second() - at.now.as_second();
    let early = at.claims.begins.map(from_now).filter(|ahead| *ahead > 0);
    let ours = match (early, at.claims.ends.map(from_now)) {
        (Some(ahead), _) => format!("; by this node's clock it begins in {ahead} s"),
        (None, Some(left)) if left > 0 => format!("; by this node's clock it ends in {left} s"),
        (None, Some(over)) => format!("; by this node's clock it ended {} s ago", -over),
        (None, None) => String::new(),
    };
    let theirs = match refusal.date.map(from_now) {
        Some(ahead) if ahead > AGREED => format!("; Vault's clock is {ahead} s ahead of this node's"),
        Some(behind) if behind < -AGREED => format!("; Vault's clock is {} s behind this node's", -behind),
        Some(_) if early.is_some() => "; Vault's clock agrees, so that of the API server is ahead".to_owned(),
        Some(_) => "; Vault's clock and this node's agree".to_owned(),
        None => String::new(),
    };
    ours + &theirs
}

fn audiences(at: &LoginContext) -> String {
    at.claims.audiences.iter().map(|name| format!("{name:?}")).collect::<Vec<_>>().join(", ")
}
