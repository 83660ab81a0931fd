//! Pods of one service account on the node that share a session.

use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::{MAX_SILENCE_UNWATCHED, Session};
use crate::clock;

/// A pod that a session is for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SharingPod {
    /// UID of the pod.
    pub uid: String,
    /// Name of the pod.
    pub name: String,
}

/// The pods of a session, and since when; none of one that is a single pod's.
#[derive(Default)]
pub(super) struct SharingPods(Vec<(SharingPod, Instant)>);

impl SharingPods {
    /// A pod shares from now on. Whether it did not before.
    pub(super) fn add(&mut self, pod: &SharingPod, now: Instant) -> bool {
        let is_new = self.get(&pod.uid).is_none();
        if is_new {
            self.0.push((pod.clone(), now));
        }
        is_new
    }

    /// A pod shares no more. Whether any still does.
    pub(super) fn remove(&mut self, uid: &str) -> bool {
        self.0.retain(|(pod, _)| pod.uid != uid);
        !self.0.is_empty()
    }

    /// A pod, and since when it shares.
    pub(super) fn get(&self, uid: &str) -> Option<&(SharingPod, Instant)> {
        self.0.iter().find(|(pod, _)| pod.uid == uid)
    }

    /// All of them.
    pub(super) fn iter(&self) -> impl Iterator<Item = &SharingPod> {
        self.0.iter().map(|(pod, _)| pod)
    }

    /// Returns the number of pods.
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }
}

impl Session {
    /// Returns `true` if pods share the session.
    #[must_use]
    pub fn is_shared(&self) -> bool {
        self.key.shared_by_account_uid.is_some()
    }

    /// Returns the UIDs of the session's pods.
    #[must_use]
    pub fn pod_uids(&self) -> Vec<String> {
        if self.is_shared() {
            self.state().sharing_pods.iter().map(|pod| pod.uid.clone()).collect()
        } else {
            vec![self.key.pod_uid.clone()]
        }
    }

    /// A pod shares it from now on.
    pub(super) fn add_pod(&self, pod: &SharingPod) {
        if self.state().sharing_pods.add(pod, clock::now()) {
            self.mark_dirty();
        }
    }

    /// A pod that shared it has ended: what its volumes had is nobody's, unless another's volumes have it. Whether pods are left.
    pub(super) fn remove_pod(&self, uid: &str) -> bool {
        let (has_pods, volumes) = {
            let mut state = self.state();
            (state.sharing_pods.remove(uid), state.volumes.remove_pod(uid))
        };
        for volume_path in &volumes {
            self.cache.set_references(volume_path, [], clock::now());
        }
        self.mark_dirty();
        has_pods
    }

    /// Its pods that have been silent for as long as one counts as living of which nothing is heard.
    pub(super) fn idle_pods(&self, now: Instant) -> Vec<String> {
        let state = self.state();
        let max_silence = MAX_SILENCE_UNWATCHED.max(state.volumes.longest_mount_interval().unwrap_or_default() * 3);
        let is_silent = |since: Instant| now.saturating_duration_since(since) > max_silence;
        let idle = state.sharing_pods.0.iter().filter(|(pod, since)| {
            let last_active = state.volumes.last_mount_of_pod(&pod.uid).map_or(*since, |last| last.max(*since));
            is_silent(last_active)
        });
        idle.map(|(pod, _)| pod.uid.clone()).collect()
    }

    /// What a pod is called that it is for, and since when it is.
    pub(super) fn pod_since(&self, uid: &str) -> Option<(String, Instant)> {
        if !self.is_shared() {
            return Some((self.key.pod_name.clone(), self.started_at));
        }
        self.state().sharing_pods.get(uid).map(|(pod, since)| (pod.name.clone(), *since))
    }
}
