//! Pods of one service account on the node that share a session.

use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::{MAX_SILENCE_UNWATCHED, Session};
use crate::clock;

/// Pod of a session.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SharingPod {
    /// UID of the pod.
    pub uid: String,
    /// Name of the pod.
    pub name: String,
}

/// Pods of a shared session and the times they joined. Empty if the session is not shared.
#[derive(Default)]
pub(super) struct SharingPods(Vec<(SharingPod, Instant)>);

impl SharingPods {
    /// Adds a pod. Returns `true` if it is new.
    pub(super) fn add(&mut self, pod: &SharingPod, now: Instant) -> bool {
        let is_new = self.get(&pod.uid).is_none();
        if is_new {
            self.0.push((pod.clone(), now));
        }
        is_new
    }

    /// Removes a pod. Returns `true` if others are left.
    pub(super) fn remove(&mut self, uid: &str) -> bool {
        self.0.retain(|(pod, _)| pod.uid != uid);
        !self.0.is_empty()
    }

    /// Returns a pod and the time it joined.
    pub(super) fn get(&self, uid: &str) -> Option<&(SharingPod, Instant)> {
        self.0.iter().find(|(pod, _)| pod.uid == uid)
    }

    /// Iterates over the pods.
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

    /// Adds a pod that shares the session.
    pub(super) fn add_pod(&self, pod: &SharingPod) {
        if self.state().sharing_pods.add(pod, clock::now()) {
            self.mark_dirty();
        }
    }

    /// Removes an ended pod and its references to secrets. Returns `true` if other pods are left.
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

    /// Returns the pods idle for [`MAX_SILENCE_UNWATCHED`], or longer if their polls are rare.
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

    /// Returns a pod's name and the time it joined.
    pub(super) fn pod_since(&self, uid: &str) -> Option<(String, Instant)> {
        if !self.is_shared() {
            return Some((self.key.pod_name.clone(), self.started_at));
        }
        self.state().sharing_pods.get(uid).map(|(pod, since)| (pod.name.clone(), *since))
    }
}
