//! What takes logins at each auth mount, as far as it was learnt: a login that Vault does not answer says nothing of it.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
};

use super::Mount;
use crate::metrics::AuthKind;

/// Auth mounts remembered at most per endpoint.
const MAX_KNOWN: usize = 1024;

#[derive(Default)]
pub(super) struct Methods {
    /// Never held across an await.
    known: Mutex<HashMap<Mount, AuthKind>>,
}

impl Methods {
    /// What was last learnt of an auth mount.
    pub(super) fn find(&self, namespace: Option<&str>, mount: &str) -> AuthKind {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.get(&(namespace.map(str::to_owned), mount.to_owned())).copied().unwrap_or(AuthKind::Unknown)
    }

    /// Remembers what takes logins there; `unknown` is nothing to remember.
    pub(super) fn learn(&self, namespace: Option<&str>, mount: &str, kind: AuthKind) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (namespace.map(str::to_owned), mount.to_owned());
        if kind != AuthKind::Unknown && (known.len() < MAX_KNOWN || known.contains_key(&key)) {
            known.insert(key, kind);
        }
    }
}
