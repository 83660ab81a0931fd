//! How a request to Vault fails, and what that means: `docs/errors` in code.
//!
//! Meanings are read off status and stable fragments of Vault's words (measured against OpenBao 2.7 and documented for
//! Vault); nothing depends on them for safety.

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

/// Why a request brought no answer to use.
#[derive(Clone, Debug)]
pub enum RequestError {
    /// Vault answered with an error.
    ErrorResponse(Box<ErrorResponse>),
    /// No connection could be made; nothing was sent.
    Connect(Box<ConnectError>),
    /// The answer was lost on its way: the connection ended, or nobody waited longer.
    ConnectionLost {
        /// What the transport says of it.
        detail: String,
        /// Whether the request could have created something, and so was not sent again.
        mutating: bool,
    },
    /// There was no answer within the time that one request may take.
    Timeout(Duration),
    /// The caller's time ran out.
    DeadlineExceeded {
        /// While doing what, in a clause.
        during: String,
        /// Whether there was a connection, on which the request went out.
        sent: bool,
    },
    /// The answer is larger than the limit, in bytes.
    ResponseTooLarge(usize),
    /// A redirect that may not be followed.
    RedirectNotFollowed {
        /// Where it leads: scheme, host and port.
        location: String,
        /// Why it is not followed.
        reason: &'static str,
        /// Whether it leads to another server, as one of a standby's does that cannot reach the active node.
        is_other_server: bool,
    },
    /// The answer is none of Vault's. What it is instead, with as much of it as a foreign page may be long.
    NotVault(String),
    /// A success of an engine that is known, and whose body is no JSON.
    NotJson,
    /// Success without data (204, an empty body, `data: null`).
    NoData {
        /// What Vault warned of.
        warnings: Vec<String>,
    },
    /// The server was known to be down, or was found so while the answer was awaited. Nothing was sent that creates a credential.
    Outage(Arc<Outage>),
    /// What answers take already leaves no room for another.
    BudgetExceeded {
        /// Whose answers.
        scope: BudgetScope,
        /// What they may take, in bytes.
        limit_bytes: usize,
    },
    /// The token has made as many requests as its role allows; nothing was sent.
    TokenUsesExhausted,
    /// The request cannot be put into HTTP: a header or path with characters it does not take.
    InvalidRequest(&'static str),
}

/// Vault's answer when it refuses.
#[derive(Clone, Debug, Default)]
pub struct ErrorResponse {
    /// The HTTP status.
    pub status: u16,
    /// Vault's `errors`, or the start of a body that is not Vault's. May repeat what was sent: see [`Failure::covered`].
    pub errors: String,
    /// Vault's `warnings`.
    pub warnings: String,
    /// When the KV version asked for was deleted: its number and the time.
    pub deleted_version: Option<DeletedVersion>,
    /// How long Vault asks to wait.
    pub retry_after: Option<Duration>,
    /// What time it was by the server's clock.
    pub server_time: Option<Timestamp>,
    /// Whether the server says elsewhere that it was never initialized; here it only says that it is sealed.
    pub is_uninitialized: bool,
    /// Whether the body is one that Vault writes.
    is_from_vault: bool,
}

/// The KV v2 metadata of a version that is no more.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct DeletedVersion {
    /// When it was deleted; empty when it was not.
    #[serde(default)]
    pub deletion_time: String,
    /// Whether its data is gone for good.
    #[serde(default)]
    pub destroyed: bool,
    /// The version's number.
    #[serde(default)]
    pub version: u64,
}

/// The most that is kept of a body that is not Vault's, in bytes: what is repeated of it is covered first.
const MAX_FOREIGN_BODY_BYTES: usize = 16 << 10;
/// The most that is repeated of an answer that is not Vault's, in bytes.
const MAX_DETAIL_BYTES: usize = 240;
/// The most of a time that is kept, in bytes.
const MAX_DELETION_TIME_BYTES: usize = 40;

/// What a 403 says about the token it was answered to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenValidity {
    /// The token is valid; a policy denies.
    Valid,
    /// The token is not valid (any more).
    Invalid,
    /// Vault does not say; `lookup-self` will.
    Unknown,
}

impl ErrorResponse {
    /// Reads an error answer. A body that is not Vault's JSON is kept in part, as it often names the proxy that wrote it.
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

    /// The answer that Vault would give, foreseen by what it told of something else.
    #[must_use]
    pub fn predicted(status: u16, errors: &str) -> Self {
        Self { status, errors: errors.to_owned(), is_from_vault: true, ..Self::default() }
    }

    /// Whether the answer is one that Vault writes.
    pub(super) fn is_from_vault(&self) -> bool {
        self.is_from_vault
    }

    /// Whether something other than Vault refuses: a web server or a proxy that knows no such path, or denies it.
    /// Says nothing about secrets, then. What a proxy says of a server that fails is as good as Vault's own word.
    fn is_from_intermediary(&self) -> bool {
        !self.is_from_vault && self.status < 500 && !self.is_transient(false) && !self.is_https_required()
    }

    /// Whether a TLS server complains of plain HTTP: Go's words and nginx's.
    fn is_https_required(&self) -> bool {
        self.mentions(&["HTTP request to an HTTPS server", "plain HTTP request was sent to HTTPS port"])
    }

    /// Whether any of Vault's words contains one of the fragments.
    #[must_use]
    pub fn mentions(&self, fragments: &[&str]) -> bool {
        fragments.iter().any(|f| self.errors.contains(f) || self.warnings.contains(f))
    }

    /// Whether the server can do nothing until a person unseals or initializes it.
    #[must_use]
    pub fn is_sealed(&self) -> bool {
        // An engine may have something of its own that is not initialized.
        self.status == 503
            && self.mentions(&["Vault is sealed", "not initialized", "not yet initialized", "barrier is sealed"])
    }

    /// Whether an administrator locked the Vault namespace (503 of OpenBao).
    #[must_use]
    pub fn is_namespace_locked(&self) -> bool {
        self.mentions(&["API access to this namespace has been locked"])
    }

    /// Whether Vault denies and does not say why.
    #[must_use]
    pub fn is_unexplained_denial(&self) -> bool {
        let message =
            self.errors.trim().trim_start_matches("1 error occurred:").trim_start_matches([' ', '\n', '\t', '*']);
        self.status == 403 && matches!(message.trim_end(), "" | "permission denied")
    }

    /// Whether the same request may soon succeed. A request that creates something is sent again only when Vault
    /// surely did not act on it: a rate limit, or a standby that forwards nothing.
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

    /// Whether a secrets engine is being made KV version 2, for which it answers nobody: a new one for moments, and at a standby
    /// until the active node has done it.
    fn is_kv_upgrade_running(&self) -> bool {
        self.status == 400 && self.mentions(&["from non-versioned to versioned data"])
    }

    /// Whether a standby says that it knows no active node to forward to. It may have forwarded what it says this of, to one that is
    /// gone since.
    #[must_use]
    pub fn has_no_leader(&self) -> bool {
        matches!(self.status, 472 | 473)
            || self.status == 500 && self.mentions(&["active cluster node not found", "local node not active"])
    }

    /// Whether it says of a lease that it is no more.
    #[must_use]
    pub fn is_lease_not_found(&self) -> bool {
        self.status == 400 && self.mentions(&["lease not found", "lease expired", "invalid lease"])
    }

    /// Whether it says of a lease or token that it cannot be renewed.
    #[must_use]
    pub fn is_not_renewable(&self) -> bool {
        self.status == 400 && self.mentions(&["not renewable", "cannot be renewed", "past the max TTL"])
    }

    /// What refused a login, by its words.
    #[must_use]
    pub fn auth_method(&self) -> AuthMethod {
        login::infer_auth_method(self)
    }

    /// What a 403 says about the token.
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

    /// Failures of the server as such, whatever was asked.
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
                format!("Vault at {address} speaks TLS, and was spoken to without"),
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
                format!("a secrets engine of Vault at {address} is being made KV version 2 (status 400)"),
                "wait: it takes moments, or as long as it has secrets of version 1, and the mount is tried again by itself",
            ),
            _ if self.mentions(&["namespace not found"]) => None,
            _ if self.is_namespace_locked() => error(
                Cause::VaultNamespaceLocked,
                format!("the Vault namespace at {address} is locked"),
                "unlock it (`vault namespace unlock`), or ask whoever locked it",
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
    /// The caller's time ran out before anything was sent.
    pub(super) fn deadline_before_sending(during: &str) -> Self {
        Self::DeadlineExceeded { during: during.to_owned(), sent: false }
    }

    /// The same of a request that may have created something: a gateway that has no answer does not say whether Vault
    /// acted, and Vault's own 503 does.
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

    /// What an answer means that is no success.
    #[must_use]
    pub fn from_response(status: u16, body: &[u8], retry_after: Option<Duration>) -> Self {
        let response = ErrorResponse::parse(status, body, retry_after);
        if response.is_from_intermediary() {
            return Self::NotVault(format!("status {status} and what is no error of Vault's: {}", response.errors));
        }
        Self::ErrorResponse(Box::new(response))
    }

    /// The failure of a login, with its cause and its mend.
    #[must_use]
    pub fn explain_login(&self, context: &LoginContext) -> Error {
        match self {
            Self::ErrorResponse(response) => login::explain_login_error(response, context),
            other => other
                .explain_transport(&context.address)
                .with_subject(format_args!("login at auth/{} with role {:?}", context.auth_mount, context.role)),
        }
    }

    /// The failure of a read, with its cause and its mend.
    #[must_use]
    pub fn explain_read(&self, context: &ReadContext<'_>) -> Error {
        match &self.redacted(|text| context.request.redact(text)) {
            Self::ErrorResponse(response) => read::explain_read_error(response, context),
            Self::NoData { warnings } => {
                Error::new(Cause::NoData, format!("{} {} gave no data", context.verb(), context.display_path()))
                    .with_server_message(warnings.join("; "))
                    .with_fix("most writes answer nothing: read a path that answers with data")
            }
            Self::NotJson => Error::new(
                Cause::NoData,
                format!("{} {} gave something else than JSON", context.verb(), context.display_path()),
            )
            .with_fix(read::suggest_json_path(context)),
            Self::ResponseTooLarge(limit) => Error::new(
                Cause::ResponseTooLarge,
                format!(
                    "the answer of Vault at {} for {} is larger than {} MiB",
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

    /// The same without what was sent and is secret, which Vault, or what stands before it, may repeat.
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

    /// A failure that has nothing to do with what was asked.
    #[must_use]
    pub fn explain_transport(&self, address: &str) -> Error {
        match self {
            Self::Connect(error) => connect::explain_connect_error(error, address),
            Self::ConnectionLost { detail, mutating: false } => {
                Error::new(Cause::Unreachable, format!("the answer of Vault at {address} was lost"))
                    .with_server_message(detail)
            }
            Self::ConnectionLost { detail, mutating: true } => Error::new(
                Cause::OutcomeUnknown,
                format!("the answer of Vault at {address} was lost"),
            )
            .with_server_message(detail)
            .with_fix(
                "not sent again at once, as Vault may have created a credential, which then ends with its own lease",
            ),
            Self::DeadlineExceeded { during, .. } => {
                Error::new(Cause::DeadlineExceeded, format!("the caller's time ran out while {during} at {address}"))
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
                format!("{address} does not answer as Vault does: {}", one_line(detail, MAX_DETAIL_BYTES)),
            )
            .with_fix("check the address, which ends before /v1, and what stands between"),
            Self::NoData { .. } | Self::NotJson => {
                Error::new(Cause::NoData, format!("Vault at {address} answered without data"))
            }
            Self::Outage(outage) => outage.rejection.clone(),
            Self::BudgetExceeded { scope: BudgetScope::Token, limit_bytes } => Error::new(
                Cause::ResponseTooLarge,
                format!("the answers of Vault at {address} to one pod come to more than {} MiB", limit_bytes >> 20),
            )
            .with_fix("a volume holds at most 4 MiB; read smaller secrets, or fewer in one class"),
            Self::BudgetExceeded { scope, limit_bytes } => Error::new(
                Cause::ProviderAtCapacity,
                format!(
                    "the answers of {} come to {} MiB on this node, as many as it keeps",
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

/// What to do when a caller's time ran out.
pub const DEADLINE_FIX: &str =
    "check that Vault, and what it asks itself (a database; for logins the Kubernetes API), answers within seconds";
