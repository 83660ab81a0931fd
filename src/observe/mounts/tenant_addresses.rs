//! Warnings of addresses that classes choose while no policy file is set: one per address and namespace.

use std::{
    collections::{HashMap, HashSet},
    sync::{Mutex, PoisonError},
};

use crate::vault::Address;

/// Addresses that were logged, by the namespace of their class. Never locked across an await.
#[derive(Debug, Default)]
pub(super) struct TenantAddressLog(Mutex<HashMap<String, HashSet<String>>>);

/// Maximum number of addresses logged per namespace, so that no namespace suppresses the warnings of another.
const MAX_ADDRESSES_PER_NAMESPACE: usize = 16;
/// Maximum number of namespaces remembered; the addresses of further ones are only counted.
const MAX_NAMESPACES: usize = 1024;

/// Warning about an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Notice {
    /// First use of the address.
    FirstUse,
    /// Further addresses of the namespace are not logged.
    LimitReached,
}

impl TenantAddressLog {
    /// Remembers an address. Returns the warning to log, if any.
    fn insert(&self, namespace: &str, endpoint: &str) -> Option<Notice> {
        let mut logged = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match logged.get(namespace) {
            Some(endpoints) if endpoints.len() > MAX_ADDRESSES_PER_NAMESPACE || endpoints.contains(endpoint) => {
                return None;
            }
            None if logged.len() >= MAX_NAMESPACES => return None,
            _ => {}
        }
        let endpoints = logged.entry(namespace.to_owned()).or_default();
        endpoints.insert(endpoint.to_owned());
        Some(if endpoints.len() > MAX_ADDRESSES_PER_NAMESPACE { Notice::LimitReached } else { Notice::FirstUse })
    }
}

impl TenantAddressLog {
    /// Warns of an address at its first use by a namespace.
    pub(super) fn warn(&self, namespace: &str, class: &str, address: &Address) {
        let endpoint =
            address.unix_socket().map_or_else(|| address.origin(), |socket| format!("unix://{}", socket.display()));
        match self.insert(namespace, &endpoint) {
            Some(Notice::FirstUse) => tracing::warn!(
                namespace,
                endpoint,
                class,
                fix = "restrict addresses per namespace with --policy-file, or for all with --allow-address",
                "class chose the address that receives service account tokens"
            ),
            Some(Notice::LimitReached) => tracing::warn!(
                namespace,
                limit = MAX_ADDRESSES_PER_NAMESPACE,
                "namespace chose too many addresses; new ones are counted but not logged"
            ),
            None => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_namespace_uses_up_the_warnings_of_others() {
        let chosen = TenantAddressLog::default();
        let words: Vec<_> =
            (0..2 * MAX_ADDRESSES_PER_NAMESPACE).map(|n| chosen.insert("shop", &format!("https://{n}"))).collect();
        assert!(words[..MAX_ADDRESSES_PER_NAMESPACE].iter().all(|word| *word == Some(Notice::FirstUse)), "{words:?}");
        assert_eq!(words[MAX_ADDRESSES_PER_NAMESPACE], Some(Notice::LimitReached));
        assert!(words[MAX_ADDRESSES_PER_NAMESPACE + 1..].iter().all(Option::is_none), "{words:?}");
        assert_eq!(chosen.insert("shop", "https://0"), None);
        assert_eq!(chosen.insert("bank", "https://0"), Some(Notice::FirstUse));
        assert_eq!(chosen.insert("bank", "https://0"), None);
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let chosen = TenantAddressLog::default();
        for namespace in 0..2 * MAX_NAMESPACES {
            chosen.insert(&namespace.to_string(), "https://a");
        }
        assert_eq!(chosen.0.lock().unwrap().len(), MAX_NAMESPACES);
        assert_eq!(chosen.insert("0", "https://b"), Some(Notice::FirstUse), "one that is remembered has its places");
    }
}
