//! Addresses that classes chose where no policy says which they may: each said once, and every use counted.

use std::{
    collections::HashSet,
    sync::{Mutex, PoisonError},
};

use super::Mounter;
use crate::{policy::Target, request::MountSpec};

/// Addresses that were said, by the namespaces of their classes. Never held across an await.
#[derive(Debug, Default)]
pub struct Chosen(Mutex<HashSet<(String, String)>>);

/// How many are remembered; more than that are counted, and not said.
const MOST: usize = 1024;

impl Mounter {
    /// Counts a mount whose class chose the address, if no policy says that it may, and warns at its first.
    pub(super) fn chose(&self, spec: &MountSpec, target: &Target) {
        if target.own_address || self.operator.policy.is_some() {
            return;
        }
        self.sessions.metrics().own_address();
        let address = &target.endpoint.address;
        let place = address.socket().map_or_else(|| address.origin(), |socket| format!("unix://{}", socket.display()));
        let key = (spec.pod.namespace.clone(), place);
        let mut said = self.chosen.0.lock().unwrap_or_else(PoisonError::into_inner);
        if said.contains(&key) || said.len() >= MOST {
            return;
        }
        let (namespace, endpoint) = &key;
        tracing::warn!(
            namespace,
            endpoint,
            class = spec.class_name,
            "a class chose the address that gets its pods' service account tokens; \
             --policy-file says which namespace may use which, --allow-address which all may"
        );
        said.insert(key);
    }
}
