//! The policy file of a running process: the last that could be used is in force.

use std::{
    fs::File,
    io::{self, Read},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError, RwLock, TryLockError},
};

use super::{Policy, parse};
use crate::{
    text::{one_line, printable},
    yaml::{
        Budget,
        node::{self, Offset},
    },
};

/// The most a file may hold, in bytes: a `ConfigMap` holds no more.
const MOST: u64 = 1 << 20;

/// A policy file, and what it said when it could last be used.
#[derive(Debug)]
pub struct PolicyFile {
    path: PathBuf,
    forbids_skip_verify: bool,
    /// Never held across an await.
    policy: RwLock<Arc<Policy>>,
    /// What was found last. Never held across an await.
    found: Mutex<Found>,
    /// Held while the file is read: a file system may hang, and one thread that waits for it is enough.
    reading: Mutex<()>,
}

/// What became of a file since it was last read.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use]
pub enum Reread {
    /// It holds what it held.
    Same,
    /// It says something else, which is in force.
    New,
    /// It cannot be used: what is wrong, one line each.
    Broken(Vec<String>),
}

/// What the file held, or why it could not be read.
type Text = Result<String, String>;

#[derive(Debug)]
struct Found {
    text: Text,
    /// Whether it cannot be used.
    broken: bool,
}

impl PolicyFile {
    /// Reads the file. The error has one line for each mistake in it.
    pub fn open(path: PathBuf, forbids_skip_verify: bool) -> Result<Self, Vec<String>> {
        let text = read(&path);
        let policy = understood(&path, &text, forbids_skip_verify)?;
        let found = Mutex::new(Found { text, broken: false });
        Ok(Self { path, forbids_skip_verify, policy: RwLock::new(Arc::new(policy)), found, reading: Mutex::default() })
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
    pub fn is_broken(&self) -> bool {
        self.found.lock().unwrap_or_else(PoisonError::into_inner).broken
    }

    /// Reads the file again; what it says now is in force if all of it is right. Waits for the file system.
    pub fn reread(&self) -> Reread {
        let _reading = match self.reading.try_lock() {
            Err(TryLockError::WouldBlock) => return Reread::Same,
            Err(TryLockError::Poisoned(reading)) => reading.into_inner(),
            Ok(reading) => reading,
        };
        let text = read(&self.path);
        let mut found = self.found.lock().unwrap_or_else(PoisonError::into_inner);
        if found.text == text {
            return Reread::Same;
        }
        let understood = understood(&self.path, &text, self.forbids_skip_verify);
        *found = Found { text, broken: understood.is_err() };
        match understood {
            Ok(policy) => {
                *self.policy.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(policy);
                Reread::New
            }
            Err(mistakes) => Reread::Broken(mistakes),
        }
    }
}

impl Reread {
    /// Says it in the log, if it is news.
    pub fn tell(&self, file: &Path) {
        let file = file.display();
        match self {
            Self::Same => {}
            Self::New => tracing::info!(%file, "the policy file has changed, and is in force"),
            Self::Broken(mistakes) => {
                let mistakes = mistakes.join("; ");
                tracing::error!(%file, "the policy file has changed and cannot be used, what it said before is in force: {mistakes}");
            }
        }
    }
}

fn read(path: &Path) -> Text {
    let mut text = String::new();
    let read = File::open(path).and_then(|file| file.take(MOST + 1).read_to_string(&mut text));
    match read {
        Ok(read) if read as u64 > MOST => Err(format!("is larger than {MOST} bytes")),
        Ok(_) => Ok(text),
        Err(error) if error.kind() == io::ErrorKind::InvalidData => Err("is no UTF-8 text".to_owned()),
        Err(error) => Err(format!("cannot be read: {error}")),
    }
}

/// The policy that a text is, or its mistakes, each on one line with its place.
fn understood(path: &Path, text: &Text, forbids_skip_verify: bool) -> Result<Policy, Vec<String>> {
    let file = printable(&path.to_string_lossy());
    let text = text.as_ref().map_err(|why| vec![format!("{file} {why}")])?;
    let document = node::read(text, Offset::default(), Budget::POLICY).map_err(|fault| {
        let at = fault.at.map(|at| format!(":{}:{}", at.line, at.column)).unwrap_or_default();
        vec![format!("{file}{at}: is no valid YAML: {}", fault.what)]
    })?;
    let (policy, mistakes) = parse(&document, &file, forbids_skip_verify);
    if mistakes.is_empty() {
        return Ok(policy);
    }
    let line = |mistake: super::Mistake| {
        format!("{file}:{}:{}: {}", mistake.at.line, mistake.at.column, one_line(&mistake.what, 300))
    };
    Err(mistakes.into_iter().map(line).collect())
}
