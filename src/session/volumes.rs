//! Volumes of a session, and the intervals between their mounts.

use std::{sync::Arc, time::Duration};

use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use crate::clock::{self, Epoch};

/// Number of mount intervals kept per volume. The longest one predicts the next: kubelet retries quickly while a pod starts, and
/// a single long interval (a restart of the driver) is soon dropped.
const INTERVALS_REMEMBERED: usize = 3;
/// Minimum interval between the first two mounts that shows polling. kubelet retries a failed mount within half a minute.
const MIN_POLL_INTERVAL: Duration = Duration::from_secs(60);
/// Number of expected intervals without a mount after which a poll is overdue.
const OVERDUE_AFTER_POLL_INTERVALS: u32 = 3;

/// Volume of a pod.
#[derive(Clone, Debug)]
pub(super) struct Volume {
    /// Directory of the volume on the node.
    pub(super) target_path: Arc<str>,
    /// Class of the volume; empty if the driver did not send it.
    pub(super) class: String,
    /// Time of the last mount.
    pub(super) last_mount_at: Instant,
    /// Time of the last mount that served no stale secret.
    pub(super) last_fresh_at: Instant,
    /// Number of mounts.
    pub(super) mount_count: u64,
    mount_intervals: [Duration; INTERVALS_REMEMBERED],
    /// UID of the pod; `None` unless pods share the session.
    pod_uid: Option<Arc<str>>,
    /// Serials of the delivered secrets; `None` if an earlier process delivered them.
    delivered_serials: Option<Box<[u64]>>,
    /// Process that reported a failed poll; `None` after the recovery was reported.
    failure_reported_by: Option<ReportedBy>,
}

/// Process that reported a failed poll.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ReportedBy {
    ThisProcess,
    EarlierProcess,
}

impl Volume {
    /// Returns `true` if the secret was delivered to the volume, or if that is unknown.
    pub(super) fn has_delivered(&self, serial: u64) -> bool {
        self.delivered_serials.as_ref().is_none_or(|serials| serials.contains(&serial))
    }

    /// Returns `true` if the volume is polled. A second mount soon after the first is a retry.
    fn is_polled(&self) -> bool {
        self.mount_count > 2 || self.longest_mount_interval() >= Some(MIN_POLL_INTERVAL)
    }

    /// Returns the longest recent mount interval; `None` after a single mount.
    pub(super) fn longest_mount_interval(&self) -> Option<Duration> {
        self.mount_intervals.into_iter().max().filter(|_| self.mount_count > 1)
    }
}

/// Volume in the state file. Times are relative to an [`Epoch`], intervals in milliseconds.
#[derive(Serialize, Deserialize)]
pub(super) struct SavedVolume {
    target_path: String,
    class: String,
    last_mount_at: i64,
    mount_count: u64,
    mount_intervals_ms: [u64; INTERVALS_REMEMBERED],
    #[serde(default)]
    pod_uid: Option<String>,
    #[serde(default)]
    failure_reported: bool,
}

/// Volumes of one session.
#[derive(Default)]
pub(super) struct Volumes(Vec<Volume>);

impl Volumes {
    /// Records a mount that delivered the secrets with these serials. Returns the volume's path, and `true` if any secret is new to
    /// the volume.
    pub(super) fn record_mount(
        &mut self,
        (target_path, class): (&str, &str),
        pod_uid: Option<&str>,
        delivered: impl Iterator<Item = u64> + Clone,
        served_stale: bool,
        now: Instant,
    ) -> (Arc<str>, bool) {
        if let Some(volume) = self.0.iter_mut().find(|volume| &*volume.target_path == target_path) {
            volume.mount_intervals.rotate_right(1);
            volume.mount_intervals[0] = now.saturating_duration_since(volume.last_mount_at);
            (volume.last_mount_at, volume.mount_count) = (now, volume.mount_count + 1);
            if !served_stale {
                volume.last_fresh_at = now;
            }
            if !class.is_empty() && volume.class != class {
                class.clone_into(&mut volume.class);
            }
            let is_new = delivered.clone().any(|serial| !volume.has_delivered(serial));
            if is_new || volume.delivered_serials.is_none() {
                volume.delivered_serials = Some(delivered.collect());
            }
            return (Arc::clone(&volume.target_path), is_new);
        }
        let target_path = Arc::<str>::from(target_path);
        let mount_intervals = [Duration::ZERO; INTERVALS_REMEMBERED];
        // Saves memory: most pods have one volume.
        self.0.reserve_exact(1);
        self.0.push(Volume {
            target_path: Arc::clone(&target_path),
            class: class.to_owned(),
            last_mount_at: now,
            last_fresh_at: now,
            mount_count: 1,
            mount_intervals,
            pod_uid: pod_uid.map(Arc::from),
            delivered_serials: Some(delivered.collect()),
            failure_reported_by: None,
        });
        (target_path, true)
    }

    /// Marks that this process reported a failed poll. Returns `false` if the mark was set already.
    pub(super) fn mark_refresh_failed(&mut self, target_path: &str) -> bool {
        let volume = self
            .0
            .iter_mut()
            .find(|volume| &*volume.target_path == target_path && volume.failure_reported_by.is_none());
        volume.map(|volume| volume.failure_reported_by = Some(ReportedBy::ThisProcess)).is_some()
    }

    /// Clears the mark of a failed poll. Returns the process that reported the failure.
    pub(super) fn take_refresh_failure(&mut self, target_path: &str) -> Option<ReportedBy> {
        self.0.iter_mut().find(|volume| &*volume.target_path == target_path)?.failure_reported_by.take()
    }

    /// Removes a volume that another session mounts now. Returns its path and the process that reported a failed poll.
    pub(super) fn transfer_out(&mut self, target_path: &str) -> Option<(Arc<str>, Option<ReportedBy>)> {
        let index = self.0.iter().position(|volume| &*volume.target_path == target_path)?;
        let Volume { target_path, failure_reported_by: reported_by, .. } = self.0.swap_remove(index);
        Some((target_path, reported_by))
    }

    /// Takes over the mark of a failed poll from the volume's previous session.
    pub(super) fn transfer_in(&mut self, target_path: &str, reported_by: Option<ReportedBy>) {
        if let Some(volume) = self.0.iter_mut().find(|volume| &*volume.target_path == target_path) {
            volume.failure_reported_by = volume.failure_reported_by.or(reported_by);
        }
    }

    /// Removes the volumes of a pod and returns their paths.
    pub(super) fn remove_pod(&mut self, pod_uid: &str) -> Vec<Arc<str>> {
        self.0
            .extract_if(.., |volume| volume.pod_uid.as_deref() == Some(pod_uid))
            .map(|volume| volume.target_path)
            .collect()
    }

    /// Returns the time of the last mount of any of a pod's volumes.
    pub(super) fn last_mount_of_pod(&self, pod_uid: &str) -> Option<Instant> {
        self.0
            .iter()
            .filter(|volume| volume.pod_uid.as_deref() == Some(pod_uid))
            .map(|volume| volume.last_mount_at)
            .max()
    }

    /// Returns the longest recent mount interval of all volumes.
    pub(super) fn longest_mount_interval(&self) -> Option<Duration> {
        self.0.iter().filter_map(Volume::longest_mount_interval).max()
    }

    /// Returns `true` if every volume was mounted repeatedly and none is overdue.
    pub(super) fn is_poll_expected(&self, now: Instant) -> bool {
        self.0.iter().all(|volume| {
            volume.longest_mount_interval().is_some_and(|interval| {
                now.saturating_duration_since(volume.last_mount_at) <= interval * OVERDUE_AFTER_POLL_INTERVALS
            })
        })
    }

    /// Returns the longest recent mount interval of the polled volumes.
    pub(super) fn longest_poll_interval(&self) -> Option<Duration> {
        self.0.iter().filter(|volume| volume.is_polled()).filter_map(Volume::longest_mount_interval).max()
    }

    /// Returns the time of the last mount of any volume.
    pub(super) fn last_mount_at(&self) -> Instant {
        self.0.iter().map(|volume| volume.last_mount_at).max().unwrap_or_else(clock::now)
    }

    /// Returns the index of a volume.
    pub(super) fn index_of(&self, target_path: &Arc<str>) -> Option<usize> {
        self.0.iter().position(|volume| volume.target_path == *target_path)
    }

    /// Returns the volumes for the state file, in order.
    pub(super) fn to_saved(&self, epoch: Epoch) -> Vec<SavedVolume> {
        let saved = self.0.iter().map(|volume| SavedVolume {
            target_path: volume.target_path.as_ref().to_owned(),
            class: volume.class.clone(),
            last_mount_at: epoch.to_millis(volume.last_mount_at),
            mount_count: volume.mount_count,
            mount_intervals_ms: volume
                .mount_intervals
                .map(|interval| u64::try_from(interval.as_millis()).unwrap_or(u64::MAX)),
            pod_uid: volume.pod_uid.as_deref().map(str::to_owned),
            failure_reported: volume.failure_reported_by.is_some(),
        });
        saved.collect()
    }

    /// Restores volumes from the state file and returns their paths. Polls do not update the file, so a polled volume counts as just
    /// mounted. Its secrets are as fresh as Vault's last response.
    pub(super) fn restore(
        &mut self,
        saved: Vec<SavedVolume>,
        last_fresh_at: Option<Instant>,
        epoch: Epoch,
    ) -> Vec<Arc<str>> {
        self.0.extend(saved.into_iter().map(|saved| {
            let SavedVolume {
                target_path,
                class,
                last_mount_at,
                mount_count,
                mount_intervals_ms,
                pod_uid,
                failure_reported,
            } = saved;
            let last_mount_at = if mount_count > 1 { clock::now() } else { epoch.instant_at(last_mount_at) };
            Volume {
                target_path: target_path.into(),
                class,
                last_mount_at,
                last_fresh_at: last_fresh_at.unwrap_or(last_mount_at),
                mount_count,
                mount_intervals: mount_intervals_ms.map(Duration::from_millis),
                pod_uid: pod_uid.map(Arc::from),
                delivered_serials: None,
                failure_reported_by: failure_reported.then_some(ReportedBy::EarlierProcess),
            }
        }));
        self.0.iter().map(|volume| Arc::clone(&volume.target_path)).collect()
    }

    /// Returns the oldest [`Volume::last_fresh_at`] of the polled volumes, or of all volumes if polls fail.
    pub(super) fn oldest_refresh(&self, polls_fail: bool) -> Option<Instant> {
        self.0.iter().filter(|volume| polls_fail || volume.is_polled()).map(|volume| volume.last_fresh_at).min()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Volume> {
        self.0.iter()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mount_interval_is_longest_of_last_three() {
        let start = Instant::now();
        let at = |s| start + Duration::from_secs(s);
        let mut volumes = Volumes::default();
        volumes.record_mount(("/a", "c"), None, [].into_iter(), false, at(0));
        assert_eq!(
            (volumes.longest_mount_interval(), volumes.is_poll_expected(at(1)), volumes.longest_poll_interval()),
            (None, false, None)
        );
        for (when, interval) in [(13, 13), (26, 13), (326, 300), (396, 300), (466, 300), (536, 70)] {
            volumes.record_mount(("/a", ""), None, [].into_iter(), false, at(when));
            assert_eq!(volumes.longest_mount_interval(), Some(Duration::from_secs(interval)), "{when}");
        }
        // A retry of kubelet is not a poll.
        for when in [0, 5] {
            volumes.record_mount(("/b", ""), None, [].into_iter(), false, at(when));
        }
        assert_eq!((volumes.oldest_refresh(false), volumes.oldest_refresh(true)), (Some(at(536)), Some(at(5))));
        volumes.transfer_out("/b");
        assert!(volumes.is_poll_expected(at(536 + 210)) && !volumes.is_poll_expected(at(536 + 211)));
        assert_eq!(volumes.iter().next().map(|v| (v.mount_count, &*v.class)), Some((7, "c")));
        volumes.record_mount(("/a", ""), None, [].into_iter(), true, at(600));
        assert_eq!(volumes.oldest_refresh(false), Some(at(536)), "the mount served a stale secret");
        volumes.mark_refresh_failed("/a");
        let (path, reported_by) = volumes.transfer_out("/a").unwrap();
        assert_eq!((&*path, reported_by), ("/a", Some(ReportedBy::ThisProcess)));
        assert!(volumes.is_empty() && volumes.transfer_out("/a").is_none());
    }
}
