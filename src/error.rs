//! The one error type: what failed, where, in whose words, and what to do about it.

use std::fmt;

use crate::text::one_line;

/// What went wrong, by the thing a person would have to mend. `provider::status` maps each to its gRPC code.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Cause {
    /// The class, the pod's volumeAttributes or the driver's request cannot be understood.
    InvalidRequest,
    /// The operator does not allow what the class asks for.
    NotAllowed,
    /// The driver passed no service account token of the audience, and none may be minted.
    TokenMissing,
    /// The service account token is expired.
    TokenExpired,
    /// The service account token is not for this audience.
    TokenAudience,
    /// The service account token is not the pod's.
    TokenIdentity,
    /// The Kubernetes API refused or failed a TokenRequest.
    TokenRequest,

    /// No answer: refused, no route, name not found, connection lost.
    Unreachable,
    /// No answer to a request that may have created something, so that it must not be repeated at once.
    Unconfirmed,
    /// The server's certificate is not trusted, or TLS settings cannot be used.
    Tls,
    /// The address answers, but not as Vault does.
    NotVault,
    /// The server is sealed.
    Sealed,
    /// The server is not initialized.
    Uninitialized,
    /// The cluster has no active node.
    NoLeader,
    /// A rate limit, or a standby that is behind, even after retries.
    Busy,
    /// Another failure of the server (5xx).
    ServerFault,
    /// The caller's time ran out.
    Deadline,
    /// The server redirects to where we may not follow.
    Redirect,
    /// An answer is larger than we accept.
    AnswerTooLarge,

    /// Vault's Kubernetes or JWT login was refused without a reason.
    LoginDenied,
    /// The login's role does not exist.
    RoleMissing,
    /// The role does not accept the token's claims (audience, bound claims).
    LoginClaims,
    /// The role does not accept the pod's namespace.
    NamespaceNotBound,
    /// The role does not accept the pod's service account.
    ServiceAccountNotBound,
    /// The auth mount is not configured.
    AuthUnconfigured,
    /// The Vault namespace does not exist.
    VaultNamespaceMissing,

    /// A policy denies the request (or the mount does not exist: Vault does not tell).
    Denied,
    /// There is no secret at the path.
    SecretMissing,
    /// The version asked for, or the newest, was deleted or destroyed.
    VersionDeleted,
    /// A KV v2 path without `data/`.
    KvPath,
    /// The engine does not know the role in the path.
    EngineRoleMissing,
    /// The engine cannot reach what is behind it (a database).
    BackendDown,
    /// The engine does not take this method.
    Method,
    /// The engine refuses an argument by a rule of its role (PKI names).
    ArgumentRefused,
    /// The engine refuses the request otherwise (400).
    ReadRefused,
    /// The answer holds no data.
    NoData,

    /// The key or pointer is not in the secret.
    KeyMissing,
    /// The value cannot be rendered as the object asks (encoding, format, file name).
    Render,
    /// The files are larger than the driver takes.
    FilesTooLarge,

    /// The process ends or is full; another attempt may succeed.
    Overloaded,
    /// A fault of ours.
    Internal,
}

/// A failure as the pod's events will show it: names, paths and Vault's words, from which argument values are taken out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    cause: Cause,
    what: String,
    said: Option<String>,
    advice: Option<String>,
}

/// The most of another program's words that a message repeats, in bytes.
const MAX_SAID: usize = 300;

impl Error {
    /// A failure, and what failed in one clause that names object, path, role or mount.
    #[must_use]
    pub fn new(cause: Cause, what: impl Into<String>) -> Self {
        Self { cause, what: what.into(), said: None, advice: None }
    }

    /// Adds the other program's own words, on one line and bounded.
    #[must_use]
    pub fn said(mut self, words: impl AsRef<str>) -> Self {
        let words = one_line(words.as_ref(), MAX_SAID);
        self.said = (!words.is_empty()).then_some(words);
        self
    }

    /// Adds the next step for whoever reads the event.
    #[must_use]
    pub fn advice(mut self, advice: impl Into<String>) -> Self {
        self.advice = Some(advice.into());
        self
    }

    /// Puts the subject in front: `object "db-pass": …`.
    #[must_use]
    pub fn about(mut self, subject: impl fmt::Display) -> Self {
        self.what = format!("{subject}: {}", self.what);
        self
    }

    /// What went wrong.
    #[must_use]
    pub fn cause(&self) -> Cause {
        self.cause
    }

    /// Whether the same request may succeed soon without anybody mending anything.
    #[must_use]
    pub fn is_passing(&self) -> bool {
        matches!(
            self.cause,
            Cause::Unreachable
                | Cause::Sealed
                | Cause::Uninitialized
                | Cause::NoLeader
                | Cause::Busy
                | Cause::ServerFault
                | Cause::BackendDown
                | Cause::Deadline
                | Cause::Overloaded
        )
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)?;
        if let Some(said) = &self.said {
            write!(f, " (it said: {said})")?;
        }
        if let Some(advice) = &self.advice {
            write!(f, "; {advice}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Error {}
