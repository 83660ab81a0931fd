//! Cache of the auth method at each auth mount. A login without a response shows nothing about the method.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
};

use super::MountKey;
use crate::vault::auth_method::AuthMethod;

/// Maximum number of cached auth mounts per endpoint.
const MAX_CACHED_AUTH_METHODS: usize = 1024;

#[derive(Default)]
pub(super) struct AuthMethodCache {
    /// Never held across an await.
    by_mount: Mutex<HashMap<MountKey, AuthMethod>>,
}

impl AuthMethodCache {
    /// Returns the cached auth method of an auth mount.
    pub(super) fn get(&self, namespace: Option<&str>, mount: &str) -> AuthMethod {
        let by_mount = self.by_mount.lock().unwrap_or_else(PoisonError::into_inner);
        by_mount.get(&(namespace.map(str::to_owned), mount.to_owned())).copied().unwrap_or(AuthMethod::Unknown)
    }

    /// Caches the auth method of an auth mount. Ignores [`AuthMethod::Unknown`].
    pub(super) fn record(&self, namespace: Option<&str>, mount: &str, auth_method: AuthMethod) {
        let mut by_mount = self.by_mount.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (namespace.map(str::to_owned), mount.to_owned());
        if auth_method != AuthMethod::Unknown
            && (by_mount.len() < MAX_CACHED_AUTH_METHODS || by_mount.contains_key(&key))
        {
            by_mount.insert(key, auth_method);
        }
    }
}
