//! Policy file with reload. The last valid policy stays in force.

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

/// Maximum size of a policy file, in bytes, which is that of a `ConfigMap`.
const MAX_POLICY_FILE_BYTES: u64 = 1 << 20;

/// A policy file and its last valid policy.
#[derive(Debug)]
pub struct PolicyFile {
    path: PathBuf,
    forbids_skip_verify: bool,
    /// Never held across an await.
    policy: RwLock<Arc<Policy>>,
    /// Result of the last read. Never held across an await.
    last_read: Mutex<LastRead>,
    /// Held while the file is read, so that a hanging file system blocks at most one thread.
    read_lock: Mutex<()>,
}

/// Result of a reload.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use]
pub enum PolicyReload {
    /// The content has not changed.
    Unchanged,
    /// The file has changed, and the new policy is in force.
    Applied,
    /// The file has changed but is invalid. Contains one line per error.
    Invalid(Vec<String>),
}

/// The content of the file, or the error of reading it.
type FileText = Result<String, String>;

#[derive(Debug)]
struct LastRead {
    text: FileText,
    /// True if the content is invalid.
    is_invalid: bool,
}

impl PolicyFile {
    /// Reads the file. Fails with one line for each error in it.
    pub fn open(path: PathBuf, forbids_skip_verify: bool) -> Result<Self, Vec<String>> {
        let text = read_text(&path);
        let policy = parse_text(&path, &text, forbids_skip_verify)?;
        let last_read = Mutex::new(LastRead { text, is_invalid: false });
        Ok(Self {
            path,
            forbids_skip_verify,
            policy: RwLock::new(Arc::new(policy)),
            last_read,
            read_lock: Mutex::default(),
        })
    }

    /// Returns the policy in force.
    #[must_use]
    pub fn current(&self) -> Arc<Policy> {
        Arc::clone(&self.policy.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Returns the path of the file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns true if the file is invalid and the previous policy is in force.
    #[must_use]
    pub fn is_invalid(&self) -> bool {
        self.last_read.lock().unwrap_or_else(PoisonError::into_inner).is_invalid
    }

    /// Reads the file again, and applies it if it has changed and is valid. Blocks on the file system. Does nothing while another
    /// reload is in progress.
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
    /// Logs the result, unless nothing has changed.
    pub fn log(&self, file: &Path) {
        let file = file.display();
        match self {
            Self::Unchanged => {}
            Self::Applied => tracing::info!(%file, "policy file applied"),
            Self::Invalid(errors) => {
                let error = errors.join("; ");
                tracing::error!(%file, error, "policy file is invalid; the previous policy stays in force");
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
        Err(error) if error.kind() == io::ErrorKind::InvalidData => Err("is not UTF-8 text".to_owned()),
        Err(error) => Err(format!("cannot be read: {error}")),
    }
}

/// Parses a policy, or returns its errors, each on one line with its position.
fn parse_text(path: &Path, text: &FileText, forbids_skip_verify: bool) -> Result<Policy, Vec<String>> {
    let file = replace_control_chars(&path.to_string_lossy());
    let text = text.as_ref().map_err(|why| vec![format!("{file} {why}")])?;
    let document = node::parse(text, Offset::default(), Budget::POLICY).map_err(|fault| {
        let position = fault.position.map(|at| format!(":{}:{}", at.line, at.column)).unwrap_or_default();
        vec![format!("{file}{position}: is not valid YAML: {}", fault.problem)]
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
