//! Context of a failed login or read, for error messages.

use jiff::Timestamp;

use crate::vault::{engine::Engine, request::Method, request::SecretRequest};

/// Context of a login, for error messages.
#[derive(Clone, Debug)]
pub struct LoginContext {
    /// The server.
    pub address: String,
    /// The auth mount.
    pub auth_mount: String,
    /// The Vault namespace.
    pub namespace: Option<String>,
    /// The role.
    pub role: String,
    /// The pod's Kubernetes namespace.
    pub pod_namespace: String,
    /// The pod's service account.
    pub service_account: String,
    /// The claims of the service account token.
    pub claims: TokenClaims,
    /// The time by this node's clock.
    pub now: Timestamp,
    /// The auth method mounted there, if known.
    pub auth_method: Option<DetectedAuthMethod>,
}

/// The auth method at an auth mount, inferred from its response to a login without a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DetectedAuthMethod {
    /// Neither method that accepts service account tokens.
    Neither,
    /// The method that verifies each token with the Kubernetes API.
    Kubernetes,
    /// The method that verifies the token alone.
    Jwt,
}

/// Claims of a service account token, for error messages.
#[derive(Clone, Debug, Default)]
pub struct TokenClaims {
    /// The token's audiences.
    pub audiences: Vec<String>,
    /// Start of validity.
    pub not_before: Option<Timestamp>,
    /// Time of expiry.
    pub expires_at: Option<Timestamp>,
}

/// Context of a read, for error messages.
#[derive(Clone, Copy, Debug)]
pub struct ReadContext<'a> {
    /// The server.
    pub address: &'a str,
    /// The Vault namespace.
    pub namespace: Option<&'a str>,
    /// The Vault namespace of the login and of the token's policies.
    pub auth_namespace: Option<&'a str>,
    /// The role of the login.
    pub role: &'a str,
    /// The token's policies.
    pub policies: &'a [String],
    /// The request.
    pub request: &'a SecretRequest,
    /// The engine mounted there, if Vault disclosed it.
    pub engine: Option<&'a Engine>,
}

impl ReadContext<'_> {
    pub(super) fn verb(&self) -> &'static str {
        match self.request.method {
            Method::Get => "reading",
            Method::List => "listing",
            Method::Put | Method::Post => "writing",
        }
    }

    /// Returns the path, with the Vault namespace if one is set.
    pub(super) fn display_path(&self) -> String {
        match self.namespace {
            Some(namespace) => format!("{} in Vault namespace {namespace}", self.request.path),
            None => self.request.path.clone(),
        }
    }

    /// Returns the engine's mount path, or the first part of the path for an unknown engine.
    pub(super) fn mount_path(&self) -> &str {
        let first = || self.request.path.split_inclusive('/').next().unwrap_or_default();
        self.engine.map_or_else(first, |engine| engine.path.as_str())
    }

    /// Returns the policy stanza that allows the request, relative to the login's namespace. The error is an alternative fix
    /// when no stanza fits.
    pub(super) fn policy_stanza(&self) -> Result<String, String> {
        let (suffix, capabilities) = match self.request.method {
            Method::Get => ("", "\"read\""),
            Method::List => ("/", "\"list\""),
            Method::Put | Method::Post => ("", "\"create\", \"update\""),
        };
        let Some(inner) = relative_namespace(self.auth_namespace, self.namespace) else {
            return Err(format!(
                "log in at that namespace or one above it (vaultAuthNamespace), as policies of {} reach no other",
                self.auth_namespace.unwrap_or_default()
            ));
        };
        let path = format!("{inner}{}{suffix}", self.request.path);
        // In a policy these are wildcards, templates and quotes.
        if path.contains(['*', '"', '\\']) || path.contains("{{") || path.split('/').any(|part| part == "+") {
            return Err(format!("have a policy of the role allow [{capabilities}] on that path alone"));
        }
        Ok(format!("path \"{path}\" {{ capabilities = [{capabilities}] }}"))
    }
}

/// Returns the relative path from a Vault namespace to one at or below it, with a trailing slash. `None`
/// when the other is not below it.
pub(in crate::vault) fn relative_namespace(from: Option<&str>, to: Option<&str>) -> Option<String> {
    let path = |namespace: Option<&str>| format!("{}/", namespace.filter(|n| *n != "root").unwrap_or_default());
    let (from, to) = (path(from), path(to));
    if from == "/" { Some(to.trim_start_matches('/').to_owned()) } else { to.strip_prefix(&from).map(str::to_owned) }
}
