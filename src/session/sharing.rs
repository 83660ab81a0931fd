//! The pods that share a session: those of one service account on the node.

use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::{Session, UNHEARD};
use crate::clock;

/// A pod that a session is for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PodRef {
    /// Its UID.
    pub uid: String,
    /// Its name.
    pub name: String,
}

/// The pods of a session, and since when; none of one that is a single pod's.
#[derive(Default)]
pub(super) struct Pods(Vec<(PodRef, Instant)>);

impl Pods {
    /// A pod shares from now on. Whether it did not before.
    pub(super) fn joined(&mut self, pod: &PodRef, now: Instant) -> bool {
        let is_new = self.find(&pod.uid).is_none();
        if is_new {
            self.0.push((pod.clone(), now));
        }
        is_new
    }

    /// A pod shares no more. Whether any still does.
    pub(super) fn left(&mut self, uid: &str) -> bool {
        self.0.retain(|(pod, _)| pod.uid != uid);
        !self.0.is_empty()
    }

    /// A pod, and since when it shares.
    pub(super) fn find(&self, uid: &str) -> Option<&(PodRef, Instant)> {
        self.0.iter().find(|(pod, _)| pod.uid == uid)
    }

    /// All of them.
    pub(super) fn iter(&self) -> impl Iterator<Item = &PodRef> {
        self.0.iter().map(|(pod, _)| pod)
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }
}

impl Session {
    /// Whether pods share it.
    #[must_use]
    pub fn is_shared(&self) -> bool {
        self.key.shared_by.is_some()
    }

    /// The UIDs of its pods.
    #[must_use]
    pub fn pod_uids(&self) -> Vec<String> {
        if self.is_shared() {
            self.state().pods.iter().map(|pod| pod.uid.clone()).collect()
        } else {
            vec![self.key.pod_uid.clone()]
        }
    }

    /// A pod shares it from now on.
    pub(super) fn joined(&self, pod: &PodRef) {
        if self.state().pods.joined(pod, clock::now()) {
            self.changed();
        }
    }

    /// A pod that shared it has ended: what its volumes had is nobody's, unless another's volumes have it. Whether pods are left.
    pub(super) fn left(&self, uid: &str) -> bool {
        let (is_left, volumes) = {
            let mut state = self.state();
            (state.pods.left(uid), state.volumes.left_by(uid))
        };
        for volume in &volumes {
            self.leases.name(volume, [], clock::now());
        }
        self.changed();
        is_left
    }

    /// Its pods that have been silent for as long as one counts as living of which nothing is heard.
    pub(super) fn silent_pods(&self, now: Instant) -> Vec<String> {
        let state = self.state();
        let silence = UNHEARD.max(state.volumes.gap().unwrap_or_default() * 3);
        let is_silent = |since: Instant| now.saturating_duration_since(since) > silence;
        let silent = state.pods.0.iter().filter(|(pod, since)| {
            let last = state.volumes.last_of(&pod.uid).map_or(*since, |last| last.max(*since));
            is_silent(last)
        });
        silent.map(|(pod, _)| pod.uid.clone()).collect()
    }

    /// What a pod is called that it is for, and since when it is.
    pub(super) fn tenant(&self, uid: &str) -> Option<(String, Instant)> {
        if !self.is_shared() {
            return Some((self.key.pod_name.clone(), self.begun));
        }
        self.state().pods.find(uid).map(|(pod, since)| (pod.name.clone(), *since))
    }
}
