//! Error type of vaultmount: subject, failure, cause and fix.

pub mod cause;
pub mod source_chain;

use std::fmt;

pub use cause::{Cause, Code};

use crate::text::one_line;

/// Error as shown in pod events: names, paths and Vault's messages with argument values redacted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    cause: Cause,
    summary: String,
    server_message: Option<Box<str>>,
    fix: Option<String>,
    denial: Option<Box<Denial>>,
    /// Set if the summary lists several failures that each end with their ID.
    is_aggregate: bool,
}

/// Request that a Vault policy denies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Denial {
    /// Request as named in the summary.
    pub request: String,
    /// Policy stanza that would allow the request, as given in the fix.
    pub stanza: String,
}

/// Maximum length of a quoted server message in bytes.
const MAX_SERVER_MESSAGE_BYTES: usize = 300;

impl Error {
    /// Returns an error. `summary` is one clause that names the object, path, role or mount.
    #[must_use]
    pub fn new(cause: Cause, summary: impl Into<String>) -> Self {
        Self { cause, summary: summary.into(), server_message: None, fix: None, denial: None, is_aggregate: false }
    }

    /// Returns one error for several failures. `summary` lists them, each followed by its ID. `cause` is the worst cause.
    #[must_use]
    pub fn aggregate(cause: Cause, summary: impl Into<String>) -> Self {
        Self { is_aggregate: true, ..Self::new(cause, summary) }
    }

    /// Adds the server's message on one line, truncated to 300 bytes.
    #[must_use]
    pub fn with_server_message(mut self, message: impl AsRef<str>) -> Self {
        let message = one_line(message.as_ref(), MAX_SERVER_MESSAGE_BYTES);
        self.server_message = (!message.is_empty()).then(|| message.into_boxed_str());
        self
    }

    /// Adds the fix: the next step for the reader of the event.
    #[must_use]
    pub fn with_fix(mut self, fix: impl Into<String>) -> Self {
        self.fix = Some(fix.into());
        self
    }

    /// Returns a key under which repeats of an error are equal: cause and summary without digits, which may be times.
    #[must_use]
    pub fn fingerprint(&self) -> (Cause, String) {
        (self.cause, self.summary.replace(|c: char| c.is_ascii_digit(), ""))
    }

    /// Adds the denied request and the policy stanza that would allow it.
    #[must_use]
    pub fn with_denial(mut self, denial: Denial) -> Self {
        self.denial = Some(Box::new(denial));
        self
    }

    /// Puts the subject in front: `object "db-pass": …`.
    #[must_use]
    pub fn with_subject(mut self, subject: impl fmt::Display) -> Self {
        self.summary = format!("{subject}: {}", self.summary);
        self
    }

    /// Returns the cause.
    #[must_use]
    pub fn cause(&self) -> Cause {
        self.cause
    }

    /// Returns the summary without server message and fix.
    #[must_use]
    pub fn summary(&self) -> &str {
        &self.summary
    }

    /// Returns the denied request and the policy stanza that would allow it.
    #[must_use]
    pub fn denial(&self) -> Option<&Denial> {
        self.denial.as_deref()
    }

    /// Returns true if the error lists several failures, each with its ID.
    #[must_use]
    pub fn is_aggregate(&self) -> bool {
        self.is_aggregate
    }

    /// Returns the server's message.
    #[must_use]
    pub fn server_message(&self) -> Option<&str> {
        self.server_message.as_deref()
    }

    /// Returns the fix.
    #[must_use]
    pub fn fix(&self) -> Option<&str> {
        self.fix.as_deref()
    }

    /// Returns true if a retry may succeed without a fix.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        self.cause.code() == Code::Unavailable || self.cause == Cause::DeadlineExceeded
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.summary)?;
        if let Some(message) = &self.server_message {
            write!(f, " (it said: {message})")?;
        }
        if let Some(fix) = &self.fix {
            write!(f, "; {fix}")?;
        }
        if self.is_aggregate { Ok(()) } else { write!(f, " [{}]", self.cause.id()) }
    }
}

impl std::error::Error for Error {}
