//! What a refused login means.

use super::{LoginContext, Refusal};
use crate::error::{Cause, Error};

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
    } else if refusal.says(&["invalid role name", "could not be found", "role with oidc role_type"]) {
        (
            Cause::RoleMissing,
            format!("role {role:?} does not exist at {place}"),
            "correct roleName or the auth mount path in the class, or create the role".to_owned(),
        )
    } else if refusal.says(&["no audiences bound to the role"]) {
        (
            Cause::AudienceUnbound,
            format!(
                "role {role:?} at {place} names no audience, and the service account token is for {}",
                audiences(at)
            ),
            "set the role's audience to it (jwt: bound_audiences)".to_owned(),
        )
    } else if refusal.says(&["invalid audience", "audience claim"]) {
        (
            Cause::AudienceWrong,
            format!("role {role:?} at {place} does not take the service account token's audience {}", audiences(at)),
            "make the role's audience (jwt: bound_audiences) and the class's `audience` the same".to_owned(),
        )
    } else if refusal.says(&["token signature", "verify signature", "verifying signature"]) {
        (
            Cause::TokenSignature,
            format!("{place} does not know the key that signed this cluster's service account tokens"),
            "configure it for this cluster (jwt: oidc_discovery_url, jwks_url or jwt_validation_pubkeys), or name this cluster's auth mount in the class".to_owned(),
        )
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
    } else if refusal.says(&["token is expired", "token has expired"]) {
        (
            Cause::TokenExpired,
            format!("the service account token is expired, says {place}"),
            "compare the clocks of this node, the API server and Vault".to_owned(),
        )
    } else if refusal.says(&["could not load backend configuration", "could not load configuration"]) {
        (
            Cause::AuthUnconfigured,
            format!("{place} is mounted but not configured"),
            format!("write its configuration: vault write auth/{mount}/config …"),
        )
    } else if refusal.status == 404 || refusal.says(&["no handler for route", "unsupported path", "missing role_id"]) {
        (
            Cause::AuthMountMissing,
            format!("no kubernetes or jwt auth method answers logins at {place}"),
            "correct the auth mount path in the class, or enable the method there".to_owned(),
        )
    } else if refusal.status == 403 {
        (
            Cause::LoginDenied,
            format!("login with role {role:?} was denied at {place} without a reason"),
            format!(
                "one of three: no kubernetes or jwt method is mounted at auth/{mount}; it does not take this cluster's tokens, or this pod is gone; it cannot ask the Kubernetes API for a TokenReview (unreachable, or no right: system:auth-delegator). Vault's server log says which, at level debug"
            ),
        )
    } else if refusal.status >= 500 {
        (
            Cause::ServerFault,
            format!("login with role {role:?} failed at {place} with status {}", refusal.status),
            "look into Vault's server log".to_owned(),
        )
    } else {
        (
            Cause::LoginClaims,
            format!("role {role:?} at {place} does not take this service account token"),
            "compare the token's claims with the role's bound claims".to_owned(),
        )
    };
    Error::new(cause, what).said(&refusal.errors).advice(advice)
}

fn audiences(at: &LoginContext) -> String {
    at.audiences.iter().map(|name| format!("{name:?}")).collect::<Vec<_>>().join(", ")
}
