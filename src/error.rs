//! The one error type: what failed, where, in whose words, and what to do about it.

pub mod cause;

use std::fmt;

pub use cause::{Cause, Code};

use crate::text::one_line;

/// A failure as the pod's events will show it: names, paths and Vault's words, from which argument values are taken out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    cause: Cause,
    summary: String,
    server_message: Option<Box<str>>,
    fix: Option<String>,
    denial: Option<Box<Denial>>,
    /// Several failures, each of which ends with its own id.
    is_aggregate: bool,
}

/// A request that a policy denies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Denial {
    /// What names it in what failed.
    pub request: String,
    /// The stanza of a policy that would allow it, in the advice.
    pub stanza: String,
}

/// The most of another program's words that a message repeats, in bytes.
const MAX_SERVER_MESSAGE_BYTES: usize = 300;

impl Error {
    /// A failure, and what failed in one clause that names object, path, role or mount.
    #[must_use]
    pub fn new(cause: Cause, summary: impl Into<String>) -> Self {
        Self { cause, summary: summary.into(), server_message: None, fix: None, denial: None, is_aggregate: false }
    }

    /// Several failures as one. `what` lists them, each with its id, the last at its end; `cause` is that of the worst.
    #[must_use]
    pub fn aggregate(cause: Cause, summary: impl Into<String>) -> Self {
        Self { is_aggregate: true, ..Self::new(cause, summary) }
    }

    /// Adds the other program's own words, on one line and bounded.
    #[must_use]
    pub fn with_server_message(mut self, message: impl AsRef<str>) -> Self {
        let message = one_line(message.as_ref(), MAX_SERVER_MESSAGE_BYTES);
        self.server_message = (!message.is_empty()).then(|| message.into_boxed_str());
        self
    }

    /// Adds the next step for whoever reads the event.
    #[must_use]
    pub fn with_fix(mut self, fix: impl Into<String>) -> Self {
        self.fix = Some(fix.into());
        self
    }

    /// What makes it the same as an earlier one: its cause, and what failed, but for numbers, which may be times.
    #[must_use]
    pub fn fingerprint(&self) -> (Cause, String) {
        (self.cause, self.summary.replace(|c: char| c.is_ascii_digit(), ""))
    }

    /// Says which part of it is the request that is denied, and which the stanza that would allow it.
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

    /// What went wrong.
    #[must_use]
    pub fn cause(&self) -> Cause {
        self.cause
    }

    /// What failed, without the words and the advice.
    #[must_use]
    pub fn summary(&self) -> &str {
        &self.summary
    }

    /// The request that is denied, and what would allow it.
    #[must_use]
    pub fn denial(&self) -> Option<&Denial> {
        self.denial.as_deref()
    }

    /// Whether it lists several failures, each with its id.
    #[must_use]
    pub fn is_aggregate(&self) -> bool {
        self.is_aggregate
    }

    /// The other program's words.
    #[must_use]
    pub fn server_message(&self) -> Option<&str> {
        self.server_message.as_deref()
    }

    /// The next step.
    #[must_use]
    pub fn fix(&self) -> Option<&str> {
        self.fix.as_deref()
    }

    /// Whether the same request may succeed soon without anybody mending anything.
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
