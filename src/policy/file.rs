//! The policy file of a running process: the last that could be used is in force.

use std::{
    fs::File,
    io::{self, Read},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError, RwLock, TryLockError},
};

use super::{Policy, parse};
use crate::{
    text::{one_line, replace_control_chars},
    yaml::{
        Budget,
        node::{self, Offset},
    },
};

/// The most a file may hold, in bytes: a `ConfigMap` holds no more.
const MAX_POLICY_FILE_BYTES: u64 = 1 << 20;

/// A policy file, and what it said when it could last be used.
#[derive(Debug)]
pub struct PolicyFile {
    path: PathBuf,
    forbids_skip_verify: bool,
    /// Never held across an await.
    policy: RwLock<Arc<Policy>>,
    /// What was found last. Never held across an await.
    last_read: Mutex<LastRead>,
    /// Held while the file is read: a file system may hang, and one thread that waits for it is enough.
    read_lock: Mutex<()>,
}

/// What became of a file since it was last read.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use]
pub enum PolicyReload {
    /// It holds what it held.
    Unchanged,
    /// It says something else, which is in force.
    Applied,
    /// It cannot be used: what is wrong, one line each.
    Invalid(Vec<String>),
}

/// What the file held, or why it could not be read.
type FileText = Result<String, String>;

#[derive(Debug)]
struct LastRead {
    text: FileText,
    /// Whether it cannot be used.
    is_invalid: bool,
}

impl PolicyFile {
    /// Reads the file. The error has one line for each mistake in it.
    pub fn open(path: PathBuf, forbids_skip_verify: bool) -> Result<Self, Vec<String>> {
        let text = read_text(&path);
        let policy = parse_text(&path, &text, forbids_skip_verify)?;
        let last_read = Mutex::new(LastRead { text, is_invalid: false });
        Ok(Self {
            path,
            forbids_skip_verify,
            policy: RwLock::new(Arc::new(policy)),
            last_read: last_read,
            read_lock: Mutex::default(),
        })
    }

    /// What is in force.
    #[must_use]
    pub fn current(&self) -> Arc<Policy> {
        Arc::clone(&self.policy.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether the file cannot be used as it is, and what it said before is in force.
    #[must_use]
    pub fn is_invalid(&self) -> bool {
        self.last_read.lock().unwrap_or_else(PoisonError::into_inner).is_invalid
    }

    /// Reads the file again; what it says now is in force if all of it is right. Waits for the file system.
    pub fn reload(&self) -> PolicyReload {
        let _reading = match self.read_lock.try_lock() {
            Err(TryLockError::WouldBlock) => return PolicyReload::Unchanged,
            Err(TryLockError::Poisoned(reading)) => reading.into_inner(),
            Ok(reading) => reading,
        };
        let text = read_text(&self.path);
        let mut last_read = self.last_read.lock().unwrap_or_else(PoisonError::into_inner);
        if last_read.text == text {
            return PolicyReload::Unchanged;
        }
        let parsed = parse_text(&self.path, &text, self.forbids_skip_verify);
        *last_read = LastRead { text, is_invalid: parsed.is_err() };
        match parsed {
            Ok(policy) => {
                *self.policy.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(policy);
                PolicyReload::Applied
            }
            Err(errors) => PolicyReload::Invalid(errors),
        }
    }
}

impl PolicyReload {
    /// Says it in the log, if it is news.
    pub fn log(&self, file: &Path) {
        let file = file.display();
        match self {
            Self::Unchanged => {}
            Self::Applied => tracing::info!(%file, "the policy file has changed, and is in force"),
            Self::Invalid(errors) => {
                let mistakes = errors.join("; ");
                tracing::error!(%file, "the policy file has changed and cannot be used, what it said before is in force: {mistakes}");
            }
        }
    }
}

fn read_text(path: &Path) -> FileText {
    let mut text = String::new();
    let length = File::open(path).and_then(|file| file.take(MAX_POLICY_FILE_BYTES + 1).read_to_string(&mut text));
    match length {
        Ok(read) if read as u64 > MAX_POLICY_FILE_BYTES => Err(format!("is larger than {MAX_POLICY_FILE_BYTES} bytes")),
        Ok(_) => Ok(text),
        Err(error) if error.kind() == io::ErrorKind::InvalidData => Err("is no UTF-8 text".to_owned()),
        Err(error) => Err(format!("cannot be read: {error}")),
    }
}

/// The policy that a text is, or its mistakes, each on one line with its place.
fn parse_text(path: &Path, text: &FileText, forbids_skip_verify: bool) -> Result<Policy, Vec<String>> {
    let file = replace_control_chars(&path.to_string_lossy());
    let text = text.as_ref().map_err(|why| vec![format!("{file} {why}")])?;
    let document = node::parse(text, Offset::default(), Budget::POLICY).map_err(|fault| {
        let position = fault.position.map(|at| format!(":{}:{}", at.line, at.column)).unwrap_or_default();
        vec![format!("{file}{position}: is no valid YAML: {}", fault.problem)]
    })?;
    let (policy, errors) = parse(&document, &file, forbids_skip_verify);
    if errors.is_empty() {
        return Ok(policy);
    }
    let line = |error: super::PolicyError| {
        format!("{file}:{}:{}: {}", error.position.line, error.position.column, one_line(&error.problem, 300))
    };
    Err(errors.into_iter().map(line).collect())
}
