//! Explains failed logins.

use jiff::Timestamp;

use super::{DetectedAuthMethod, ErrorResponse, LoginContext};
use crate::{
    error::{Cause, Error},
    vault::auth_method::AuthMethod,
};

#[expect(clippy::too_many_lines, reason = "one branch for each response of a login")]
pub(super) fn explain_login_error(response: &ErrorResponse, context: &LoginContext) -> Error {
    if let Some(error) = response.explain_server_error(&context.address) {
        return error.with_subject(format_args!("login at auth/{} with role {:?}", context.auth_mount, context.role));
    }
    let LoginContext { auth_mount, role, address, pod_namespace, service_account, .. } = context;
    let location = match &context.namespace {
        Some(namespace) => format!("auth/{auth_mount} in Vault namespace {namespace} at {address}"),
        None => format!("auth/{auth_mount} at {address}"),
    };
    let (cause, summary, fix) = if response.mentions(&["namespace not found"]) {
        let namespace = context.namespace.as_deref().unwrap_or_default();
        (
            Cause::VaultNamespaceMissing,
            format!("there is no Vault namespace {namespace:?} at {address} to log in at"),
            "correct vaultNamespace (or vaultAuthNamespace, where it is set), or create the namespace".to_owned(),
        )
    } else if response.mentions(&["role with oidc role_type"]) {
        (
            Cause::LoginRoleUnusable,
            format!("role {role:?} at {location} is for people who log in with a browser (role_type oidc)"),
            "name a role of role_type jwt, or create one".to_owned(),
        )
    } else if response.mentions(&["cannot create root tokens"]) {
        (
            Cause::LoginRoleUnusable,
            format!("role {role:?} at {location} gives the policy root, which Vault does not allow for logins"),
            "give it policies of its own in the role's token_policies".to_owned(),
        )
    } else if response.mentions(&["invalid role name", "could not be found"]) {
        (
            Cause::RoleMissing,
            format!("role {role:?} does not exist at {location}"),
            "correct roleName or the auth mount path in the class, or create the role".to_owned(),
        )
    } else if let Some(problem) = token_problem(response, context, &location) {
        problem
    } else if response.mentions(&["namespace not authorized"]) {
        (
            Cause::NamespaceNotBound,
            format!("role {role:?} at {location} does not take pods of namespace {pod_namespace:?}"),
            format!("add {pod_namespace:?} to the role's bound_service_account_namespaces"),
        )
    } else if response.mentions(&["service account name not authorized"]) {
        (
            Cause::ServiceAccountNotBound,
            format!("role {role:?} at {location} does not take service account {service_account:?}"),
            format!(
                "add {service_account:?} to the role's bound_service_account_names, or set the pod's serviceAccountName"
            ),
        )
    } else if response.mentions(&["could not load backend configuration", "could not load configuration"]) {
        (
            Cause::AuthUnconfigured,
            format!("{location} is mounted but not configured"),
            format!(
                "write its configuration: vault write auth/{auth_mount}/config kubernetes_host=… (jwt: oidc_discovery_url=…)"
            ),
        )
    } else if context.auth_method == Some(DetectedAuthMethod::Neither)
        || response.status == 404
        || response.mentions(&[
            "no handler for route",
            "unsupported path",
            "missing role_id",
            "no client certificate found",
        ])
    {
        let flag = context.namespace.as_ref().map(|namespace| format!("-namespace={namespace} ")).unwrap_or_default();
        (
            Cause::AuthMountMissing,
            format!("no kubernetes or jwt auth method is mounted at {location}"),
            format!(
                "correct vaultAuthMountPath (or vaultKubernetesMountPath) or the Vault namespace in the class, or enable the method: vault auth enable {flag}-path={auth_mount} kubernetes"
            ),
        )
    } else if response.is_unexplained_denial() {
        (
            Cause::LoginDenied,
            format!("login with role {role:?} was denied at {location} without a reason"),
            format!(
                "most likely {}; Vault's server log says more, at level debug",
                unexplained_denial_reasons(context.auth_method)
            ),
        )
    } else if response.mentions(&["invalid issuer"]) {
        (
            Cause::LoginClaims,
            format!("{location} does not take service account tokens of this issuer"),
            format!("compare the token's iss with its issuer (jwt: bound_issuer): vault read auth/{auth_mount}/config"),
        )
    } else if response.status >= 500 && !response.mentions(&["UID from claims", "service account uid"]) {
        (
            Cause::ServerError,
            format!("login with role {role:?} failed at {location} with status {}", response.status),
            "look into Vault's server log".to_owned(),
        )
    } else {
        (
            Cause::LoginClaims,
            format!("role {role:?} at {location} does not take this service account token"),
            format!(
                "compare the token's claims with the role's bound claims: vault read auth/{auth_mount}/role/{role}"
            ),
        )
    };
    Error::new(cause, summary).with_server_message(&response.errors).with_fix(fix)
}

/// Infers the auth method from the error text of a failed login: each method has error texts of its own.
pub(super) fn infer_auth_method(response: &ErrorResponse) -> AuthMethod {
    const KUBERNETES_PHRASES: &[&str] = &[
        "missing jwt",
        "invalid role name",
        "namespace not authorized",
        "service account name not authorized",
        "service account uid",
        "UID from claims",
        "could not load backend configuration",
    ];
    const JWT_PHRASES: &[&str] = &[
        "missing token",
        "could not be found",
        "could not load configuration",
        "role with oidc role_type",
        "error validating token",
        "error validating claims",
    ];
    if response.mentions(KUBERNETES_PHRASES) {
        AuthMethod::Kubernetes
    } else if response.mentions(JWT_PHRASES) {
        AuthMethod::Jwt
    } else {
        AuthMethod::Unknown
    }
}

/// Returns possible causes of a denial without a reason.
fn unexplained_denial_reasons(method: Option<DetectedAuthMethod>) -> String {
    const TOKEN_REVIEW_REASONS: &str = "it does not take this cluster's tokens (kubernetes_host is another's), this pod or its service account is gone, it cannot ask the Kubernetes API for a TokenReview (unreachable, certificate not trusted, or no right: system:auth-delegator)";
    const BOUND_CIDRS_REASON: &str = "the provider's address is not in the role's token_bound_cidrs";
    match method {
        Some(DetectedAuthMethod::Jwt) => BOUND_CIDRS_REASON.to_owned(),
        Some(_) => format!("one of: {TOKEN_REVIEW_REASONS}, or {BOUND_CIDRS_REASON}"),
        None => format!("{BOUND_CIDRS_REASON}, or, at a kubernetes method, one of: {TOKEN_REVIEW_REASONS}"),
    }
}

/// Finds a problem of the service account token itself. Returns cause, summary and fix.
fn token_problem(response: &ErrorResponse, context: &LoginContext, location: &str) -> Option<(Cause, String, String)> {
    let role = &context.role;
    Some(if response.mentions(&["no audiences bound to the role", "does not have an audience"]) {
        (
            Cause::AudienceUnbound,
            format!(
                "role {role:?} at {location} names no audience, and the service account token is for {}",
                list_audiences(context)
            ),
            "set the role's bound_audiences (kubernetes: audience) to it".to_owned(),
        )
    } else if response.mentions(&["invalid audience", "audience claim"]) {
        (
            Cause::AudienceWrong,
            match context.claims.audiences.as_slice() {
                [] => {
                    format!("role {role:?} at {location} requires an audience, and the service account token has none")
                }
                _ => format!(
                    "role {role:?} at {location} does not take the service account token's audience {}",
                    list_audiences(context)
                ),
            },
            "make the role's audience (jwt: bound_audiences) and the class's `audience` the same".to_owned(),
        )
    } else if response.mentions(&["token signature", "verify signature", "verifying signature"]) {
        (
            Cause::TokenSignature,
            format!("{location} does not know the key that signed this cluster's service account tokens"),
            "configure it for this cluster (jwt: oidc_discovery_url, jwks_url or jwt_validation_pubkeys), or name this cluster's auth mount in the class".to_owned(),
        )
    } else if response.mentions(&["not yet valid", "issued in the future"]) {
        (
            Cause::ClockSkew,
            format!(
                "the service account token is not valid yet according to {location}{}",
                describe_clocks(response, context)
            ),
            CLOCK_SKEW_FIX.to_owned(),
        )
    } else if response.mentions(&["token is expired", "token has expired"]) {
        let cause = match context.claims.expires_at {
            Some(end) if end > context.now => Cause::ClockSkew,
            _ => Cause::TokenExpired,
        };
        let summary = format!(
            "the service account token has expired according to {location}{}",
            describe_clocks(response, context)
        );
        let fix = if cause == Cause::ClockSkew { CLOCK_SKEW_FIX } else { TOKEN_EXPIRED_FIX };
        (cause, summary, fix.to_owned())
    } else {
        return None;
    })
}

const TOKEN_EXPIRED_FIX: &str =
    "the next mount uses a fresh token; if it fails, too, compare the clocks of this node, the API server and Vault";
const CLOCK_SKEW_FIX: &str = "set the clocks of this node, the API server and Vault (NTP)";

/// Maximum difference of two clocks that a message reports as equal, in seconds.
const MAX_CLOCK_DIFFERENCE_SECONDS: i64 = 5;

/// Describes the token's validity and Vault's clock, by this node's clock.
fn describe_clocks(response: &ErrorResponse, context: &LoginContext) -> String {
    let from_now = |time: Timestamp| time.as_second() - context.now.as_second();
    let starts_in = context.claims.not_before.map(from_now).filter(|ahead| *ahead > 0);
    let own_clock = match (starts_in, context.claims.expires_at.map(from_now)) {
        (Some(ahead), _) => format!("; by this node's clock it becomes valid in {ahead} s"),
        (None, Some(remaining)) if remaining > 0 => format!("; by this node's clock it expires in {remaining} s"),
        (None, Some(elapsed)) => format!("; by this node's clock it expired {} s ago", -elapsed),
        (None, None) => String::new(),
    };
    let vault_clock = match response.server_time.map(from_now) {
        Some(ahead) if ahead > MAX_CLOCK_DIFFERENCE_SECONDS => {
            format!("; Vault's clock is {ahead} s ahead of this node's")
        }
        Some(behind) if behind < -MAX_CLOCK_DIFFERENCE_SECONDS => {
            format!("; Vault's clock is {} s behind this node's", -behind)
        }
        Some(_) if starts_in.is_some() => "; Vault's clock agrees, so that of the API server is ahead".to_owned(),
        Some(_) => "; Vault's clock and this node's agree".to_owned(),
        None => String::new(),
    };
    own_clock + &vault_clock
}

fn list_audiences(context: &LoginContext) -> String {
    context.claims.audiences.iter().map(|name| format!("{name:?}")).collect::<Vec<_>>().join(", ")
}
