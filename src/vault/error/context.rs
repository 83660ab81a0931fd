//! Who asked for what, for the messages.

use jiff::Timestamp;

use crate::vault::{engine::Engine, request::Method, request::SecretRequest};

/// Who logs in where, for the messages.
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
    /// What the token says of itself.
    pub claims: TokenClaims,
    /// The time by this node's clock.
    pub now: Timestamp,
    /// What takes logins there, as far as it is known.
    pub auth_method: Option<DetectedAuthMethod>,
}

/// What takes logins at an auth mount, told by what it says to one without a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DetectedAuthMethod {
    /// Nothing that takes service account tokens.
    Neither,
    /// The method that asks the Kubernetes API about each token.
    Kubernetes,
    /// The method that looks at the token alone.
    Jwt,
}

/// What a service account token says of itself, for the messages.
#[derive(Clone, Debug, Default)]
pub struct TokenClaims {
    /// Whom it is for.
    pub audiences: Vec<String>,
    /// When it begins to be valid.
    pub not_before: Option<Timestamp>,
    /// When it ends.
    pub expires_at: Option<Timestamp>,
}

/// Who reads what where, for the messages.
#[derive(Clone, Copy, Debug)]
pub struct ReadContext<'a> {
    /// The server.
    pub address: &'a str,
    /// The Vault namespace.
    pub namespace: Option<&'a str>,
    /// The Vault namespace the token came from, which its policies are of.
    pub auth_namespace: Option<&'a str>,
    /// The role the token came from.
    pub role: &'a str,
    /// The token's policies.
    pub policies: &'a [String],
    /// The request.
    pub request: &'a SecretRequest,
    /// The engine mounted there, if Vault would tell.
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

    /// Path, and namespace if there is one.
    pub(super) fn display_path(&self) -> String {
        match self.namespace {
            Some(namespace) => format!("{} in Vault namespace {namespace}", self.request.path),
            None => self.request.path.clone(),
        }
    }

    /// Where the engine is mounted, as far as it is known: of an engine that is not, the first part of the path.
    pub(super) fn mount_path(&self) -> &str {
        let first = || self.request.path.split_inclusive('/').next().unwrap_or_default();
        self.engine.map_or_else(first, |engine| engine.path.as_str())
    }

    /// What would allow the request: a stanza for a policy of the role, as a policy of the login's namespace writes it;
    /// or, where there is none to give, what to do instead.
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

/// The way from a Vault namespace down to another, with a slash at its end; none when the other is not below it.
pub(in crate::vault) fn relative_namespace(from: Option<&str>, to: Option<&str>) -> Option<String> {
    let path = |namespace: Option<&str>| format!("{}/", namespace.filter(|n| *n != "root").unwrap_or_default());
    let (from, to) = (path(from), path(to));
    if from == "/" { Some(to.trim_start_matches('/').to_owned()) } else { to.strip_prefix(&from).map(str::to_owned) }
}
