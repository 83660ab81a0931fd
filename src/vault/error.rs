//! Failures of requests to Vault and their explanations: `docs/errors` in code.
//!
//! Explanations are inferred from the status and from stable fragments of Vault's error texts (measured against OpenBao 2.7
//! and documented for Vault). Safety does not depend on them.

mod connect;
mod context;
mod login;
mod not_found;
mod read;
mod server_state;

use std::{sync::Arc, time::Duration};

use jiff::Timestamp;
use serde::Deserialize;

use super::{
    breaker::Outage,
    connect::ConnectError,
    memory_budget::{BudgetExceeded, BudgetScope},
};
pub(super) use context::relative_namespace;
pub use context::{DetectedAuthMethod, LoginContext, ReadContext, TokenClaims};
pub(super) use server_state::{no_leader_error, sealed_error, uninitialized_error};

use crate::{
    error::{Cause, Error},
    text::one_line,
    vault::auth_method::AuthMethod,
};

/// Failure of a request: it brought no usable response.
#[derive(Clone, Debug)]
pub enum RequestError {
    /// Vault responded with an error.
    ErrorResponse(Box<ErrorResponse>),
    /// No connection could be made; nothing was sent.
    Connect(Box<ConnectError>),
    /// The response was lost: the connection closed, or the caller stopped waiting.
    ConnectionLost {
        /// The transport's description of the failure.
        detail: String,
        /// Set when the request may have created a credential and was therefore not retried.
        mutating: bool,
    },
    /// No response arrived within the timeout of one request.
    Timeout(Duration),
    /// The caller's deadline was exceeded.
    DeadlineExceeded {
        /// The interrupted step, as a clause.
        during: String,
        /// Set when a connection existed and the request was sent.
        sent: bool,
    },
    /// The response exceeds the limit, in bytes.
    ResponseTooLarge(usize),
    /// A redirect that may not be followed.
    RedirectNotFollowed {
        /// The redirect's target: scheme, host and port.
        location: String,
        /// The reason for not following it.
        reason: &'static str,
        /// Set when it leads to another server, as the redirect of a standby that cannot reach the active node does.
        is_other_server: bool,
    },
    /// The response is not from Vault. Describes it and includes its start, up to the limit for foreign bodies.
    NotVault(String),
    /// A success response of a known engine with a body that is not JSON.
    NotJson,
    /// Success without data (204, an empty body, `data: null`).
    NoData {
        /// Vault's warnings.
        warnings: Vec<String>,
    },
    /// An outage of the server was known, or was detected while waiting for the response. No mutating request was sent.
    Outage(Arc<Outage>),
    /// The memory budget for responses is exhausted.
    BudgetExceeded {
        /// The scope of the exhausted budget.
        scope: BudgetScope,
        /// The budget's limit, in bytes.
        limit_bytes: usize,
    },
    /// The token has made as many requests as its role allows; nothing was sent.
    TokenUsesExhausted,
    /// The request cannot be encoded in HTTP: a header or path contains invalid characters.
    InvalidRequest(&'static str),
}

/// Vault's error response.
#[derive(Clone, Debug, Default)]
pub struct ErrorResponse {
    /// The HTTP status.
    pub status: u16,
    /// Vault's `errors`, or the start of a body that is not Vault's. May repeat sent values: `RequestError::redacted` removes them.
    pub errors: String,
    /// Vault's `warnings`.
    pub warnings: String,
    /// Number and deletion time of the requested KV version, if it was deleted.
    pub deleted_version: Option<DeletedVersion>,
    /// The wait that Vault requests before a retry.
    pub retry_after: Option<Duration>,
    /// The time of the response by the server's clock.
    pub server_time: Option<Timestamp>,
    /// Set when a health probe showed that the server was never initialized. This response only says that it is sealed.
    pub is_uninitialized: bool,
    /// Set when the body has Vault's format.
    is_from_vault: bool,
}

/// The KV v2 metadata of a deleted version.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct DeletedVersion {
    /// The deletion time; empty when the version was not deleted.
    #[serde(default)]
    pub deletion_time: String,
    /// Set when its data is permanently destroyed.
    #[serde(default)]
    pub destroyed: bool,
    /// The version's number.
    #[serde(default)]
    pub version: u64,
}

/// Maximum kept length of a body that is not Vault's, in bytes. Messages repeat it only redacted.
const MAX_FOREIGN_BODY_BYTES: usize = 16 << 10;
/// Maximum length of a foreign body in a message, in bytes.
const MAX_DETAIL_BYTES: usize = 240;
/// Maximum kept length of a deletion time, in bytes.
const MAX_DELETION_TIME_BYTES: usize = 40;

/// Validity of a token according to a 403.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenValidity {
    /// The token is valid; a policy denies.
    Valid,
    /// The token is invalid or has expired.
    Invalid,
    /// The 403 does not show it; `lookup-self` will.
    Unknown,
}

impl ErrorResponse {
    /// Parses an error response. Keeps part of a body that is not Vault's JSON, as it often names the proxy that wrote it.
    #[must_use]
    pub fn parse(status: u16, body: &[u8], retry_after: Option<Duration>) -> Self {
        #[derive(Default, Deserialize)]
        #[serde(default)]
        struct Body {
            errors: Option<Vec<String>>,
            warnings: Option<Vec<String>>,
            data: Option<Data>,
        }
        #[derive(Default, Deserialize)]
        #[serde(default)]
        struct Data {
            metadata: Option<DeletedVersion>,
        }
        match serde_json::from_slice::<Body>(body) {
            Ok(body) => Self {
                status,
                is_from_vault: body.errors.is_some() || body.warnings.is_some() || body.data.is_some(),
                errors: body.errors.unwrap_or_default().join("; "),
                warnings: body.warnings.unwrap_or_default().join("; "),
                deleted_version: body
                    .data
                    .and_then(|d| d.metadata)
                    .map(|m| DeletedVersion { deletion_time: one_line(&m.deletion_time, MAX_DELETION_TIME_BYTES), ..m })
                    .filter(|m| m.destroyed || !m.deletion_time.is_empty()),
                retry_after,
                ..Self::default()
            },
            Err(_) => Self {
                status,
                errors: String::from_utf8_lossy(&body[..body.len().min(MAX_FOREIGN_BODY_BYTES)]).into_owned(),
                retry_after,
                ..Self::default()
            },
        }
    }

    /// Returns the error response that Vault is expected to give, predicted from an earlier response.
    #[must_use]
    pub fn predicted(status: u16, errors: &str) -> Self {
        Self { status, errors: errors.to_owned(), is_from_vault: true, ..Self::default() }
    }

    /// Returns true when the body has Vault's format.
    pub(super) fn is_from_vault(&self) -> bool {
        self.is_from_vault
    }

    /// Returns true when a web server or proxy rejected the request because it does not know the path or denies it.
    /// Such a response says nothing about secrets. A proxy's report of a failed server counts like Vault's own.
    fn is_from_intermediary(&self) -> bool {
        !self.is_from_vault && self.status < 500 && !self.is_transient(false) && !self.is_https_required()
    }

    /// Returns true when a TLS server rejects plain HTTP, by the error texts of Go and nginx.
    fn is_https_required(&self) -> bool {
        self.mentions(&["HTTP request to an HTTPS server", "plain HTTP request was sent to HTTPS port"])
    }

    /// Returns true when Vault's errors or warnings contain one of the fragments.
    #[must_use]
    pub fn mentions(&self, fragments: &[&str]) -> bool {
        fragments.iter().any(|f| self.errors.contains(f) || self.warnings.contains(f))
    }

    /// Returns true when the server needs an operator to unseal or initialize it.
    #[must_use]
    pub fn is_sealed(&self) -> bool {
        // The status is checked too: an engine may report an uninitialized part of its own.
        self.status == 503
            && self.mentions(&["Vault is sealed", "not initialized", "not yet initialized", "barrier is sealed"])
    }

    /// Returns true when an administrator locked the Vault namespace (503 of OpenBao).
    #[must_use]
    pub fn is_namespace_locked(&self) -> bool {
        self.mentions(&["API access to this namespace has been locked"])
    }

    /// Returns true when Vault denies without a reason.
    #[must_use]
    pub fn is_unexplained_denial(&self) -> bool {
        let message =
            self.errors.trim().trim_start_matches("1 error occurred:").trim_start_matches([' ', '\n', '\t', '*']);
        self.status == 403 && matches!(message.trim_end(), "" | "permission denied")
    }

    /// Returns true for a transient error: a retry may succeed. A mutating request is retried only when Vault certainly did not
    /// act on it: a rate limit, or a standby that forwards nothing.
    #[must_use]
    pub fn is_transient(&self, mutating: bool) -> bool {
        match self.status {
            _ if self.is_sealed() || self.is_namespace_locked() => false,
            429 => true,
            503 => !mutating || self.mentions(&["standby"]),
            500 => !mutating && self.has_no_leader(),
            412 | 472 | 473 | 502 | 504 => !mutating,
            _ => self.is_kv_upgrade_running(),
        }
    }

    /// Returns true while a secrets engine is upgraded to KV version 2 and serves no requests. The upgrade of a new engine takes
    /// moments; a standby waits until the active node has finished.
    fn is_kv_upgrade_running(&self) -> bool {
        self.status == 400 && self.mentions(&["from non-versioned to versioned data"])
    }

    /// Returns true when a standby knows no active node to forward to. It may have forwarded the request to an active node that
    /// has failed since.
    #[must_use]
    pub fn has_no_leader(&self) -> bool {
        matches!(self.status, 472 | 473)
            || self.status == 500 && self.mentions(&["active cluster node not found", "local node not active"])
    }

    /// Returns true when Vault reports that the lease no longer exists.
    #[must_use]
    pub fn is_lease_not_found(&self) -> bool {
        self.status == 400 && self.mentions(&["lease not found", "lease expired", "invalid lease"])
    }

    /// Returns true when Vault reports that the lease or token cannot be renewed.
    #[must_use]
    pub fn is_not_renewable(&self) -> bool {
        self.status == 400 && self.mentions(&["not renewable", "cannot be renewed", "past the max TTL"])
    }

    /// Returns the auth method that rejected a login, inferred from its error text.
    #[must_use]
    pub fn auth_method(&self) -> AuthMethod {
        login::infer_auth_method(self)
    }

    /// Returns the token's validity according to a 403.
    #[must_use]
    pub fn token_validity(&self) -> TokenValidity {
        if self.status != 403 {
            TokenValidity::Valid
        } else if self.mentions(&["invalid token", "bad token", "token is expired"]) {
            TokenValidity::Invalid
        } else if self.mentions(&["1 error occurred"]) {
            TokenValidity::Valid
        } else {
            TokenValidity::Unknown
        }
    }

    /// Explains failures of the server itself, independent of the request.
    fn explain_server_error(&self, address: &str) -> Option<Error> {
        let error = |cause, summary: String, fix: &str| {
            Some(Error::new(cause, summary).with_server_message(&self.errors).with_fix(fix))
        };
        match self.status {
            503 if self.is_uninitialized || self.mentions(&["not initialized", "not yet initialized"]) => {
                Some(uninitialized_error(address).with_server_message(&self.errors))
            }
            _ if self.is_sealed() => Some(sealed_error(address).with_server_message(&self.errors)),
            _ if self.is_https_required() => error(
                Cause::PlainToTls,
                format!("Vault at {address} speaks TLS, but the request was plain HTTP"),
                "write https:// in the address",
            ),
            472 | 473 => Some(no_leader_error(address).with_server_message(format!("status {}", self.status))),
            _ if self.has_no_leader() => Some(no_leader_error(address).with_server_message(&self.errors)),
            429 => error(
                Cause::Throttled,
                format!("Vault at {address} limits requests (status 429)"),
                "raise the quota (sys/quotas/rate-limit), or wait: the mount is tried again by itself",
            ),
            412 => error(
                Cause::Throttled,
                format!("Vault at {address} is behind its active node (status 412)"),
                "check replication; the mount is tried again by itself",
            ),
            _ if self.is_kv_upgrade_running() => error(
                Cause::Throttled,
                format!("a secrets engine of Vault at {address} is being upgraded to KV version 2 (status 400)"),
                "wait: the upgrade takes moments, or longer with secrets of version 1; the mount is tried again by itself",
            ),
            _ if self.mentions(&["namespace not found"]) => None,
            _ if self.is_namespace_locked() => error(
                Cause::VaultNamespaceLocked,
                format!("the Vault namespace at {address} is locked"),
                "unlock it (`vault namespace unlock`), or ask the operator who locked it",
            ),
            502..=504 => error(
                Cause::ServerError,
                format!("Vault at {address}, or a proxy before it, answered with status {}", self.status),
                "look into its log; the mount is tried again by itself",
            ),
            _ => None,
        }
    }
}

impl From<BudgetExceeded> for RequestError {
    fn from(BudgetExceeded { scope, limit_bytes }: BudgetExceeded) -> Self {
        Self::BudgetExceeded { scope, limit_bytes }
    }
}

impl RequestError {
    /// Returns the error of a deadline exceeded before anything was sent.
    pub(super) fn deadline_before_sending(during: &str) -> Self {
        Self::DeadlineExceeded { during: during.to_owned(), sent: false }
    }

    /// Converts the error for a mutating request. A gateway error does not show whether Vault acted, so the outcome is unknown.
    /// Vault's own 503 does show it and stays.
    pub(super) fn for_mutating(self) -> Self {
        match self {
            Self::ErrorResponse(response)
                if matches!(response.status, 502..=504)
                    && !(response.is_sealed() || response.is_namespace_locked() || response.is_transient(true)) =>
            {
                Self::ConnectionLost {
                    detail: format!("status {}: {}", response.status, response.errors),
                    mutating: true,
                }
            }
            other => other,
        }
    }

    /// Creates the error of a response with a status other than success.
    #[must_use]
    pub fn from_response(status: u16, body: &[u8], retry_after: Option<Duration>) -> Self {
        let response = ErrorResponse::parse(status, body, retry_after);
        if response.is_from_intermediary() {
            return Self::NotVault(format!(
                "status {status} and a body that is not a Vault error: {}",
                response.errors
            ));
        }
        Self::ErrorResponse(Box::new(response))
    }

    /// Explains a failed login, with cause and fix.
    #[must_use]
    pub fn explain_login(&self, context: &LoginContext) -> Error {
        match self {
            Self::ErrorResponse(response) => login::explain_login_error(response, context),
            other => other
                .explain_transport(&context.address)
                .with_subject(format_args!("login at auth/{} with role {:?}", context.auth_mount, context.role)),
        }
    }

    /// Explains a failed read, with cause and fix.
    #[must_use]
    pub fn explain_read(&self, context: &ReadContext<'_>) -> Error {
        match &self.redacted(|text| context.request.redact(text)) {
            Self::ErrorResponse(response) => read::explain_read_error(response, context),
            Self::NoData { warnings } => {
                Error::new(Cause::NoData, format!("{} {} returned no data", context.verb(), context.display_path()))
                    .with_server_message(warnings.join("; "))
                    .with_fix("most writes return no data: read a path that returns data")
            }
            Self::NotJson => Error::new(
                Cause::NoData,
                format!("{} {} returned a body that is not JSON", context.verb(), context.display_path()),
            )
            .with_fix(read::suggest_json_path(context)),
            Self::ResponseTooLarge(limit) => Error::new(
                Cause::ResponseTooLarge,
                format!(
                    "the response of Vault at {} for {} is larger than {} MiB",
                    context.address,
                    context.display_path(),
                    limit >> 20
                ),
            )
            .with_fix("a volume holds at most 4 MiB; store large data elsewhere"),
            other => other.explain_transport(context.address).with_subject(format_args!(
                "{} {}",
                context.verb(),
                context.display_path()
            )),
        }
    }

    /// Returns the error without the secrets that were sent: Vault or a proxy may repeat them.
    pub(super) fn redacted(&self, redact: impl Fn(&str) -> String) -> Self {
        match self.clone() {
            Self::ErrorResponse(response) => Self::ErrorResponse(Box::new(ErrorResponse {
                errors: redact(&response.errors),
                warnings: redact(&response.warnings),
                ..*response
            })),
            Self::NoData { warnings } => Self::NoData { warnings: warnings.iter().map(|w| redact(w)).collect() },
            Self::ConnectionLost { detail, mutating } => Self::ConnectionLost { detail: redact(&detail), mutating },
            Self::NotVault(detail) => Self::NotVault(redact(&detail)),
            other => other,
        }
    }

    /// Explains a failure that is independent of the request's content.
    #[must_use]
    pub fn explain_transport(&self, address: &str) -> Error {
        match self {
            Self::Connect(error) => connect::explain_connect_error(error, address),
            Self::ConnectionLost { detail, mutating: false } => {
                Error::new(Cause::Unreachable, format!("the response of Vault at {address} was lost"))
                    .with_server_message(detail)
            }
            Self::ConnectionLost { detail, mutating: true } => Error::new(
                Cause::OutcomeUnknown,
                format!("the response of Vault at {address} was lost"),
            )
            .with_server_message(detail)
            .with_fix(
                "not retried at once, as Vault may have created a credential, which then expires with its own lease",
            ),
            Self::DeadlineExceeded { during, .. } => {
                Error::new(Cause::DeadlineExceeded, format!("deadline exceeded while {during} at {address}"))
                    .with_fix(DEADLINE_FIX)
            }
            Self::ResponseTooLarge(limit) => Error::new(
                Cause::ResponseTooLarge,
                format!("Vault at {address} answered with more than {} MiB", limit >> 20),
            ),
            Self::Timeout(limit) => Error::new(
                Cause::Unreachable,
                format!("Vault at {address} did not answer within {limit:?} (VAULT_CLIENT_TIMEOUT)"),
            )
            .with_fix(format!("raise VAULT_CLIENT_TIMEOUT, or {DEADLINE_FIX}")),
            Self::RedirectNotFollowed { location, reason, .. } => connect::explain_redirect(location, reason, address),
            Self::NotVault(detail) => Error::new(
                Cause::NotVault,
                format!("{address} did not respond like Vault: {}", one_line(detail, MAX_DETAIL_BYTES)),
            )
            .with_fix("check the address, which ends before /v1, and any proxy in between"),
            Self::NoData { .. } | Self::NotJson => {
                Error::new(Cause::NoData, format!("Vault at {address} answered without data"))
            }
            Self::Outage(outage) => outage.rejection.clone(),
            Self::BudgetExceeded { scope: BudgetScope::Token, limit_bytes } => Error::new(
                Cause::ResponseTooLarge,
                format!("the responses of Vault at {address} to one pod exceed {} MiB", limit_bytes >> 20),
            )
            .with_fix("a volume holds at most 4 MiB; read smaller secrets, or fewer in one class"),
            Self::BudgetExceeded { scope, limit_bytes } => Error::new(
                Cause::ProviderAtCapacity,
                format!(
                    "the responses of {} take {} MiB on this node, the limit of the memory budget",
                    if *scope == BudgetScope::Tenants { "servers that classes chose" } else { "Vault" },
                    limit_bytes >> 20
                ),
            )
            .with_fix("let classes read smaller secrets; the mount is tried again by itself"),
            Self::TokenUsesExhausted => {
                Error::new(Cause::TokenUsesTooFew, format!("the token of Vault at {address} has no uses left"))
                    .with_fix("raise token_num_uses of the role, or set it to 0")
            }
            Self::InvalidRequest(problem) => {
                Error::new(Cause::InvalidRequest, format!("a request to {address} cannot be sent: {problem}"))
            }
            Self::ErrorResponse(response) => response.explain_server_error(address).unwrap_or_else(|| {
                let cause = if response.status >= 500 { Cause::ServerError } else { Cause::RequestRejected };
                Error::new(cause, format!("Vault at {address} answered with status {}", response.status))
                    .with_server_message(&response.errors)
            }),
        }
    }
}

/// The fix for an exceeded deadline.
pub const DEADLINE_FIX: &str =
    "check that Vault, and what it asks itself (a database; for logins the Kubernetes API), answers within seconds";
