//! How a request to Vault fails, and what that means: `docs/errors` in code.
//!
//! Meanings are read off status and stable fragments of Vault's words (measured against OpenBao 2.7 and documented for
//! Vault); nothing depends on them for safety.

mod connect;
mod context;
mod login;
mod missing;
mod read;
mod state;

use std::{sync::Arc, time::Duration};

use jiff::Timestamp;
use serde::Deserialize;

use super::{connect::ConnectError, room::Whose, standing::Outage};
pub(super) use context::below;
pub use context::{AuthMethod, LoginContext, ReadContext, TokenClaims};
pub(super) use state::{no_leader, sealed, uninitialized};

use crate::{
    error::{Cause, Error},
    metrics::AuthKind,
    text::one_line,
};

/// Why a request brought no answer to use.
#[derive(Clone, Debug)]
pub enum Failure {
    /// Vault answered with an error.
    Refused(Box<Refusal>),
    /// No connection could be made; nothing was sent.
    Connect(Box<ConnectError>),
    /// The answer was lost on its way: the connection ended, or nobody waited longer.
    Lost {
        /// What the transport says of it.
        detail: String,
        /// Whether the request could have created something, and so was not sent again.
        creates: bool,
    },
    /// There was no answer within the time that one request may take.
    Slow(Duration),
    /// The caller's time ran out.
    Deadline {
        /// While doing what, in a clause.
        during: String,
        /// Whether there was a connection, on which the request went out.
        sent: bool,
    },
    /// The answer is larger than the limit, in bytes.
    TooLarge(usize),
    /// A redirect that may not be followed.
    Redirect {
        /// Where it leads: scheme, host and port.
        to: String,
        /// Why it is not followed.
        why: &'static str,
        /// Whether it leads to another server, as one of a standby's does that cannot reach the active node.
        elsewhere: bool,
    },
    /// The answer is none of Vault's. What it is instead, with as much of it as a foreign page may be long.
    NotVault(String),
    /// A success of an engine that is known, and whose body is no JSON.
    NoJson,
    /// Success without data (204, an empty body, `data: null`).
    NoData {
        /// What Vault warned of.
        warnings: Vec<String>,
    },
    /// The server was known to be down, or was found so while the answer was awaited. Nothing was sent that creates a credential.
    Down(Arc<Outage>),
    /// What answers take already leaves no room for another.
    NoRoom {
        /// Whose answers.
        whose: Whose,
        /// What they may take, in bytes.
        most: usize,
    },
    /// The token has made as many requests as its role allows; nothing was sent.
    Spent,
    /// The request cannot be put into HTTP: a header or path with characters it does not take.
    Unsendable(&'static str),
}

/// Vault's answer when it refuses.
#[derive(Clone, Debug, Default)]
pub struct Refusal {
    /// The HTTP status.
    pub status: u16,
    /// Vault's `errors`, or the start of a body that is not Vault's. May repeat what was sent: see [`Failure::covered`].
    pub errors: String,
    /// Vault's `warnings`.
    pub warnings: String,
    /// When the KV version asked for was deleted: its number and the time.
    pub deleted: Option<Deleted>,
    /// How long Vault asks to wait.
    pub retry_after: Option<Duration>,
    /// What time it was by the server's clock.
    pub date: Option<Timestamp>,
    /// Whether the server says elsewhere that it was never initialized; here it only says that it is sealed.
    pub uninitialized: bool,
    /// Whether the body is one that Vault writes.
    vaults: bool,
}

/// The KV v2 metadata of a version that is no more.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct Deleted {
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
const MAX_BODY: usize = 16 << 10;
/// The most that is repeated of an answer that is not Vault's, in bytes.
const MAX_DETAIL: usize = 240;
/// The most of a time that is kept, in bytes.
const MAX_TIME: usize = 40;

/// What a 403 says about the token it was answered to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenVerdict {
    /// The token is valid; a policy denies.
    Valid,
    /// The token is not valid (any more).
    Invalid,
    /// Vault does not say; `lookup-self` will.
    Unclear,
}

impl Refusal {
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
            metadata: Option<Deleted>,
        }
        match serde_json::from_slice::<Body>(body) {
            Ok(body) => Self {
                status,
                vaults: body.errors.is_some() || body.warnings.is_some() || body.data.is_some(),
                errors: body.errors.unwrap_or_default().join("; "),
                warnings: body.warnings.unwrap_or_default().join("; "),
                deleted: body
                    .data
                    .and_then(|d| d.metadata)
                    .map(|m| Deleted { deletion_time: one_line(&m.deletion_time, MAX_TIME), ..m })
                    .filter(|m| m.destroyed || !m.deletion_time.is_empty()),
                retry_after,
                ..Self::default()
            },
            Err(_) => Self {
                status,
                errors: String::from_utf8_lossy(&body[..body.len().min(MAX_BODY)]).into_owned(),
                retry_after,
                ..Self::default()
            },
        }
    }

    /// The answer that Vault would give, foreseen by what it told of something else.
    #[must_use]
    pub fn foreseen(status: u16, errors: &str) -> Self {
        Self { status, errors: errors.to_owned(), vaults: true, ..Self::default() }
    }

    /// Whether the answer is one that Vault writes.
    pub(super) fn is_vaults(&self) -> bool {
        self.vaults
    }

    /// Whether something other than Vault refuses: a web server or a proxy that knows no such path, or denies it.
    /// Says nothing about secrets, then. What a proxy says of a server that fails is as good as Vault's own word.
    fn is_foreign(&self) -> bool {
        !self.vaults && self.status < 500 && !self.is_passing(false) && !self.is_https()
    }

    /// Whether a TLS server complains of plain HTTP: Go's words and nginx's.
    fn is_https(&self) -> bool {
        self.says(&["HTTP request to an HTTPS server", "plain HTTP request was sent to HTTPS port"])
    }

    /// Whether any of Vault's words contains one of the fragments.
    #[must_use]
    pub fn says(&self, fragments: &[&str]) -> bool {
        fragments.iter().any(|f| self.errors.contains(f) || self.warnings.contains(f))
    }

    /// Whether the server can do nothing until a person unseals or initializes it.
    #[must_use]
    pub fn is_sealed(&self) -> bool {
        // An engine may have something of its own that is not initialized.
        self.status == 503
            && self.says(&["Vault is sealed", "not initialized", "not yet initialized", "barrier is sealed"])
    }

    /// Whether an administrator locked the Vault namespace (503 of OpenBao).
    #[must_use]
    pub fn is_locked(&self) -> bool {
        self.says(&["API access to this namespace has been locked"])
    }

    /// Whether Vault denies and does not say why.
    #[must_use]
    pub fn is_bare_denial(&self) -> bool {
        let words =
            self.errors.trim().trim_start_matches("1 error occurred:").trim_start_matches([' ', '\n', '\t', '*']);
        self.status == 403 && matches!(words.trim_end(), "" | "permission denied")
    }

    /// Whether the same request may soon succeed. A request that creates something is sent again only when Vault
    /// surely did not act on it: a rate limit, or a standby that forwards nothing.
    #[must_use]
    pub fn is_passing(&self, creates: bool) -> bool {
        match self.status {
            _ if self.is_sealed() || self.is_locked() => false,
            429 => true,
            503 => !creates || self.says(&["standby"]),
            500 => !creates && self.is_leaderless(),
            412 | 472 | 473 | 502 | 504 => !creates,
            _ => self.is_upgrading(),
        }
    }

    /// Whether a secrets engine is being made KV version 2, for which it answers nobody: a new one for moments, and at a standby
    /// until the active node has done it.
    fn is_upgrading(&self) -> bool {
        self.status == 400 && self.says(&["from non-versioned to versioned data"])
    }

    /// Whether a standby says that it knows no active node to forward to. It may have forwarded what it says this of, to one that is
    /// gone since.
    #[must_use]
    pub fn is_leaderless(&self) -> bool {
        matches!(self.status, 472 | 473)
            || self.status == 500 && self.says(&["active cluster node not found", "local node not active"])
    }

    /// Whether it says of a lease that it is no more.
    #[must_use]
    pub fn is_lease_gone(&self) -> bool {
        self.status == 400 && self.says(&["lease not found", "lease expired", "invalid lease"])
    }

    /// Whether it says of a lease or token that it cannot be renewed.
    #[must_use]
    pub fn is_not_renewable(&self) -> bool {
        self.status == 400 && self.says(&["not renewable", "cannot be renewed", "past the max TTL"])
    }

    /// What refused a login, by its words.
    #[must_use]
    pub fn auth_kind(&self) -> AuthKind {
        login::kind(self)
    }

    /// What a 403 says about the token.
    #[must_use]
    pub fn token_verdict(&self) -> TokenVerdict {
        if self.status != 403 {
            TokenVerdict::Valid
        } else if self.says(&["invalid token", "bad token", "token is expired"]) {
            TokenVerdict::Invalid
        } else if self.says(&["1 error occurred"]) {
            TokenVerdict::Valid
        } else {
            TokenVerdict::Unclear
        }
    }

    /// Failures of the server as such, whatever was asked.
    fn general(&self, address: &str) -> Option<Error> {
        let fault = |cause, what: String, advice: &str| Some(Error::new(cause, what).said(&self.errors).advice(advice));
        match self.status {
            503 if self.uninitialized || self.says(&["not initialized", "not yet initialized"]) => {
                Some(uninitialized(address).said(&self.errors))
            }
            _ if self.is_sealed() => Some(sealed(address).said(&self.errors)),
            _ if self.is_https() => fault(
                Cause::PlainToTls,
                format!("Vault at {address} speaks TLS, and was spoken to without"),
                "write https:// in the address",
            ),
            472 | 473 => Some(no_leader(address).said(format!("status {}", self.status))),
            _ if self.is_leaderless() => Some(no_leader(address).said(&self.errors)),
            429 => fault(
                Cause::Busy,
                format!("Vault at {address} limits requests (status 429)"),
                "raise the quota (sys/quotas/rate-limit), or wait: the mount is tried again by itself",
            ),
            412 => fault(
                Cause::Busy,
                format!("Vault at {address} is behind its active node (status 412)"),
                "check replication; the mount is tried again by itself",
            ),
            _ if self.is_upgrading() => fault(
                Cause::Busy,
                format!("a secrets engine of Vault at {address} is being made KV version 2 (status 400)"),
                "wait: it takes moments, or as long as it has secrets of version 1, and the mount is tried again by itself",
            ),
            _ if self.says(&["namespace not found"]) => None,
            _ if self.is_locked() => fault(
                Cause::VaultNamespaceLocked,
                format!("the Vault namespace at {address} is locked"),
                "unlock it (`vault namespace unlock`), or ask whoever locked it",
            ),
            502..=504 => fault(
                Cause::ServerFault,
                format!("Vault at {address}, or a proxy before it, answered with status {}", self.status),
                "look into its log; the mount is tried again by itself",
            ),
            _ => None,
        }
    }
}

impl Failure {
    /// The caller's time ran out before anything was sent.
    pub(super) fn late(during: &str) -> Self {
        Self::Deadline { during: during.to_owned(), sent: false }
    }

    /// The same of a request that may have created something: a gateway that has no answer does not say whether Vault
    /// acted, and Vault's own 503 does.
    pub(super) fn of_creating(self) -> Self {
        match self {
            Self::Refused(refusal)
                if matches!(refusal.status, 502..=504)
                    && !(refusal.is_sealed() || refusal.is_locked() || refusal.is_passing(true)) =>
            {
                Self::Lost { detail: format!("status {}: {}", refusal.status, refusal.errors), creates: true }
            }
            other => other,
        }
    }

    /// What an answer means that is no success.
    #[must_use]
    pub fn of_answer(status: u16, body: &[u8], retry_after: Option<Duration>) -> Self {
        let refusal = Refusal::parse(status, body, retry_after);
        if refusal.is_foreign() {
            return Self::NotVault(format!("status {status} and what is no error of Vault's: {}", refusal.errors));
        }
        Self::Refused(Box::new(refusal))
    }

    /// The failure of a login, with its cause and its mend.
    #[must_use]
    pub fn of_login(&self, at: &LoginContext) -> Error {
        match self {
            Self::Refused(refusal) => login::refused(refusal, at),
            other => other
                .of_transport(&at.address)
                .about(format_args!("login at auth/{} with role {:?}", at.mount, at.role)),
        }
    }

    /// The failure of a read, with its cause and its mend.
    #[must_use]
    pub fn of_read(&self, at: &ReadContext<'_>) -> Error {
        match &self.covered(|words| at.read.cover(words)) {
            Self::Refused(refusal) => read::refused(refusal, at),
            Self::NoData { warnings } => Error::new(Cause::NoData, format!("{} {} gave no data", at.verb(), at.path()))
                .said(warnings.join("; "))
                .advice("most writes answer nothing: read a path that answers with data"),
            Self::NoJson => {
                Error::new(Cause::NoData, format!("{} {} gave something else than JSON", at.verb(), at.path()))
                    .advice(read::json_instead(at))
            }
            Self::TooLarge(limit) => Error::new(
                Cause::AnswerTooLarge,
                format!("the answer of Vault at {} for {} is larger than {} MiB", at.address, at.path(), limit >> 20),
            )
            .advice("a volume holds at most 4 MiB; store large data elsewhere"),
            other => other.of_transport(at.address).about(format_args!("{} {}", at.verb(), at.path())),
        }
    }

    /// The same without what was sent and is secret, which Vault, or what stands before it, may repeat.
    pub(super) fn covered(&self, cover: impl Fn(&str) -> String) -> Self {
        match self.clone() {
            Self::Refused(refusal) => Self::Refused(Box::new(Refusal {
                errors: cover(&refusal.errors),
                warnings: cover(&refusal.warnings),
                ..*refusal
            })),
            Self::NoData { warnings } => Self::NoData { warnings: warnings.iter().map(|w| cover(w)).collect() },
            Self::Lost { detail, creates } => Self::Lost { detail: cover(&detail), creates },
            Self::NotVault(detail) => Self::NotVault(cover(&detail)),
            other => other,
        }
    }

    /// A failure that has nothing to do with what was asked.
    #[must_use]
    pub fn of_transport(&self, address: &str) -> Error {
        match self {
            Self::Connect(fault) => connect::failed(fault, address),
            Self::Lost { detail, creates: false } => {
                Error::new(Cause::Unreachable, format!("the answer of Vault at {address} was lost")).said(detail)
            }
            Self::Lost { detail, creates: true } => Error::new(
                Cause::Unconfirmed,
                format!("the answer of Vault at {address} was lost"),
            )
            .said(detail)
            .advice(
                "not sent again at once, as Vault may have created a credential, which then ends with its own lease",
            ),
            Self::Deadline { during, .. } => {
                Error::new(Cause::Deadline, format!("the caller's time ran out while {during} at {address}"))
                    .advice(IN_TIME)
            }
            Self::TooLarge(limit) => Error::new(
                Cause::AnswerTooLarge,
                format!("Vault at {address} answered with more than {} MiB", limit >> 20),
            ),
            Self::Slow(limit) => Error::new(
                Cause::Unreachable,
                format!("Vault at {address} did not answer within {limit:?} (VAULT_CLIENT_TIMEOUT)"),
            )
            .advice(format!("raise VAULT_CLIENT_TIMEOUT, or {IN_TIME}")),
            Self::Redirect { to, why, .. } => connect::redirected(to, why, address),
            Self::NotVault(detail) => Error::new(
                Cause::NotVault,
                format!("{address} does not answer as Vault does: {}", one_line(detail, MAX_DETAIL)),
            )
            .advice("check the address, which ends before /v1, and what stands between"),
            Self::NoData { .. } | Self::NoJson => {
                Error::new(Cause::NoData, format!("Vault at {address} answered without data"))
            }
            Self::Down(outage) => outage.error.clone(),
            Self::NoRoom { whose: Whose::Token, most } => Error::new(
                Cause::AnswerTooLarge,
                format!("the answers of Vault at {address} to one pod come to more than {} MiB", most >> 20),
            )
            .advice("a volume holds at most 4 MiB; read smaller secrets, or fewer in one class"),
            Self::NoRoom { whose, most } => Error::new(
                Cause::Overloaded,
                format!(
                    "the answers of {} come to {} MiB on this node, as many as it keeps",
                    if *whose == Whose::Classes { "servers that classes chose" } else { "Vault" },
                    most >> 20
                ),
            )
            .advice("let classes read smaller secrets; the mount is tried again by itself"),
            Self::Spent => Error::new(Cause::TokenUses, format!("the token of Vault at {address} has no uses left"))
                .advice("raise token_num_uses of the role, or set it to 0"),
            Self::Unsendable(what) => {
                Error::new(Cause::InvalidRequest, format!("a request to {address} cannot be sent: {what}"))
            }
            Self::Refused(refusal) => refusal.general(address).unwrap_or_else(|| {
                let cause = if refusal.status >= 500 { Cause::ServerFault } else { Cause::ReadRefused };
                Error::new(cause, format!("Vault at {address} answered with status {}", refusal.status))
                    .said(&refusal.errors)
            }),
        }
    }
}

/// What to do when a caller's time ran out.
pub const IN_TIME: &str =
    "check that Vault, and what it asks itself (a database; for logins the Kubernetes API), answers within seconds";
