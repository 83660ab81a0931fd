//! The one error type: what failed, where, in whose words, and what to do about it.

pub mod cause;

use std::fmt;

pub use cause::{Cause, Code};

use crate::text::one_line;

/// A failure as the pod's events will show it: names, paths and Vault's words, from which argument values are taken out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    cause: Cause,
    what: String,
    said: Option<Box<str>>,
    advice: Option<String>,
    denial: Option<Box<Denial>>,
    /// Several failures, each of which ends with its own id.
    listing: bool,
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
const MAX_SAID: usize = 300;

impl Error {
    /// A failure, and what failed in one clause that names object, path, role or mount.
    #[must_use]
    pub fn new(cause: Cause, what: impl Into<String>) -> Self {
        Self { cause, what: what.into(), said: None, advice: None, denial: None, listing: false }
    }

    /// Several failures as one. `what` lists them, each with its id, the last at its end; `cause` is that of the worst.
    #[must_use]
    pub fn listing(cause: Cause, what: impl Into<String>) -> Self {
        Self { listing: true, ..Self::new(cause, what) }
    }

    /// Adds the other program's own words, on one line and bounded.
    #[must_use]
    pub fn said(mut self, words: impl AsRef<str>) -> Self {
        let words = one_line(words.as_ref(), MAX_SAID);
        self.said = (!words.is_empty()).then(|| words.into_boxed_str());
        self
    }

    /// Adds the next step for whoever reads the event.
    #[must_use]
    pub fn advice(mut self, advice: impl Into<String>) -> Self {
        self.advice = Some(advice.into());
        self
    }

    /// What makes it the same as an earlier one: its cause, and what failed, but for numbers, which may be times.
    #[must_use]
    pub fn way(&self) -> (Cause, String) {
        (self.cause, self.what.replace(|c: char| c.is_ascii_digit(), ""))
    }

    /// Says which part of it is the request that is denied, and which the stanza that would allow it.
    #[must_use]
    pub fn denial(mut self, denial: Denial) -> Self {
        self.denial = Some(Box::new(denial));
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

    /// What failed, without the words and the advice.
    #[must_use]
    pub fn what(&self) -> &str {
        &self.what
    }

    /// The request that is denied, and what would allow it.
    #[must_use]
    pub fn denied(&self) -> Option<&Denial> {
        self.denial.as_deref()
    }

    /// Whether it lists several failures, each with its id.
    #[must_use]
    pub fn is_listing(&self) -> bool {
        self.listing
    }

    /// The other program's words.
    #[must_use]
    pub fn words(&self) -> Option<&str> {
        self.said.as_deref()
    }

    /// The next step.
    #[must_use]
    pub fn next_step(&self) -> Option<&str> {
        self.advice.as_deref()
    }

    /// Whether the same request may succeed soon without anybody mending anything.
    #[must_use]
    pub fn is_passing(&self) -> bool {
        self.cause.code() == Code::Unavailable || self.cause == Cause::Deadline
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
        if self.listing { Ok(()) } else { write!(f, " [{}]", self.cause.id()) }
    }
}

impl std::error::Error for Error {}
