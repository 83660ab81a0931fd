//! Addresses that classes chose where no policy says which they may: each said once, and every use counted.

use std::{
    collections::{HashMap, HashSet},
    sync::{Mutex, PoisonError},
};

use super::MountService;
use crate::{policy::VaultTarget, request::MountSpec};

/// Addresses that were said, by the namespaces of their classes. Never held across an await.
#[derive(Debug, Default)]
pub struct TenantAddressLog(Mutex<HashMap<String, HashSet<String>>>);

/// How many addresses of a namespace are said, so that none uses up what is for others; more are counted alone.
const MAX_ADDRESSES_PER_NAMESPACE: usize = 16;
/// How many namespaces are remembered; what others choose is counted alone.
const MAX_NAMESPACES: usize = 1024;

/// What is said of an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Notice {
    /// Itself.
    FirstUse,
    /// That no more of its namespace are said.
    LimitReached,
}

impl TenantAddressLog {
    /// Remembers an address, at `place`; none if nothing is to be said of it.
    fn insert(&self, namespace: &str, place: &str) -> Option<Notice> {
        let mut said = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match said.get(namespace) {
            Some(places) if places.len() > MAX_ADDRESSES_PER_NAMESPACE || places.contains(place) => return None,
            None if said.len() >= MAX_NAMESPACES => return None,
            _ => {}
        }
        let places = said.entry(namespace.to_owned()).or_default();
        places.insert(place.to_owned());
        // That it is enough is said in place of one more.
        Some(if places.len() > MAX_ADDRESSES_PER_NAMESPACE { Notice::LimitReached } else { Notice::FirstUse })
    }
}

impl MountService {
    /// Counts a mount whose class chose the address, if no policy says that it may, and warns at its first.
    pub(super) fn record_tenant_address(&self, spec: &MountSpec, target: &VaultTarget) {
        if target.is_operator_address || self.operator.policy_file.is_some() {
            return;
        }
        self.sessions.metrics().count_tenant_address_mount();
        let address = &target.endpoint.address;
        let endpoint =
            address.unix_socket().map_or_else(|| address.origin(), |socket| format!("unix://{}", socket.display()));
        let namespace = &spec.pod.namespace;
        match self.chosen.insert(namespace, &endpoint) {
            Some(Notice::FirstUse) => tracing::warn!(
                namespace,
                endpoint,
                class = spec.class_name,
                "a class chose the address that gets its pods' service account tokens; \
                 --policy-file says which namespace may use which, --allow-address which all may"
            ),
            Some(Notice::LimitReached) => tracing::warn!(
                namespace,
                "classes of this namespace chose more than {MAX_ADDRESSES_PER_NAMESPACE} addresses: no more of them are said, each use is counted"
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
