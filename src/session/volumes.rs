//! The volumes of a pod that are mounted under a session, and how often polls come for them.

use std::{sync::Arc, time::Duration};

use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use crate::clock::{self, Epoch};

/// Pauses remembered: the longest of them is what the next may come to. kubelet's pauses are short while a pod starts, and one
/// long pause (the driver was restarted) is soon forgotten.
const GAPS: usize = 3;
/// A pause shorter than this between the first two Mounts is no poll's: kubelet tries again within half a minute.
const RETRY: Duration = Duration::from_secs(60);
/// How many such pauses may pass before a poll counts as missing.
const PATIENCE: u32 = 3;

/// One volume.
#[derive(Clone, Debug)]
pub(super) struct Volume {
    /// Its directory on the node.
    pub(super) path: Arc<str>,
    /// Its class; empty when the driver did not say.
    pub(super) class: String,
    /// When it was mounted last.
    pub(super) last: Instant,
    /// When a mount last brought all that was due: it did not keep what was older.
    pub(super) fresh: Instant,
    /// How often.
    pub(super) mounts: u64,
    gaps: [Duration; GAPS],
    /// The pod it is of, where pods share the session.
    pod: Option<Arc<str>>,
    /// The serials of what it was given; none when an earlier process gave it.
    given: Option<Box<[u64]>>,
    /// Who told its pod's owner that a poll failed, if nobody has told of the end of that.
    failed: Option<Teller>,
}

/// Which process told something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Teller {
    This,
    Earlier,
}

impl Volume {
    /// Whether it was given an answer, as far as anybody knows.
    pub(super) fn has(&self, serial: u64) -> bool {
        self.given.as_ref().is_none_or(|given| given.contains(&serial))
    }

    /// Whether there were polls: a second Mount soon after the first is one that is tried again.
    fn is_polled(&self) -> bool {
        self.mounts > 2 || self.gap() >= Some(RETRY)
    }

    /// The longest of the last pauses between two polls; none while there was none.
    pub(super) fn gap(&self) -> Option<Duration> {
        self.gaps.into_iter().max().filter(|_| self.mounts > 1)
    }
}

/// One volume as it is kept across restarts. Moments are told from an [`Origin`], pauses are in milliseconds.
#[derive(Serialize, Deserialize)]
pub(super) struct SavedVolume {
    path: String,
    class: String,
    last: i64,
    mounts: u64,
    gaps: [u64; GAPS],
    #[serde(default)]
    pod: Option<String>,
    #[serde(default)]
    failed: bool,
}

/// The volumes of one session.
#[derive(Default)]
pub(super) struct Volumes(Vec<Volume>);

impl Volumes {
    /// A volume was mounted, and given answers of these serials, or `keeps` something older. Its name, to remember it by, and whether
    /// any is new to it.
    pub(super) fn mounted(
        &mut self,
        (path, class): (&str, &str),
        pod: Option<&str>,
        given: impl Iterator<Item = u64> + Clone,
        keeps: bool,
        now: Instant,
    ) -> (Arc<str>, bool) {
        if let Some(volume) = self.0.iter_mut().find(|volume| &*volume.path == path) {
            volume.gaps.rotate_right(1);
            volume.gaps[0] = now.saturating_duration_since(volume.last);
            (volume.last, volume.mounts) = (now, volume.mounts + 1);
            if !keeps {
                volume.fresh = now;
            }
            if !class.is_empty() && volume.class != class {
                class.clone_into(&mut volume.class);
            }
            let new = given.clone().any(|serial| !volume.has(serial));
            if new || volume.given.is_none() {
                volume.given = Some(given.collect());
            }
            return (Arc::clone(&volume.path), new);
        }
        let path = Arc::<str>::from(path);
        let gaps = [Duration::ZERO; GAPS];
        // Few pods have a second, and there are many pods.
        self.0.reserve_exact(1);
        self.0.push(Volume {
            path: Arc::clone(&path),
            class: class.to_owned(),
            last: now,
            fresh: now,
            mounts: 1,
            gaps,
            pod: pod.map(Arc::from),
            given: Some(given.collect()),
            failed: None,
        });
        (path, true)
    }

    /// It is told that a poll of a volume failed. Whether that is new.
    pub(super) fn failed(&mut self, path: &str) -> bool {
        let volume = self.0.iter_mut().find(|volume| &*volume.path == path && volume.failed.is_none());
        volume.map(|volume| volume.failed = Some(Teller::This)).is_some()
    }

    /// Polls of a volume go well. Who told that they did not.
    pub(super) fn recovered(&mut self, path: &str) -> Option<Teller> {
        self.0.iter_mut().find(|volume| &*volume.path == path)?.failed.take()
    }

    /// A volume is mounted under another session now. Its name, if it was one of these, and who told that its polls fail.
    pub(super) fn left(&mut self, path: &str) -> Option<(Arc<str>, Option<Teller>)> {
        let at = self.0.iter().position(|volume| &*volume.path == path)?;
        let Volume { path, failed, .. } = self.0.swap_remove(at);
        Some((path, failed))
    }

    /// Who told under another session that polls of a volume fail.
    pub(super) fn came(&mut self, path: &str, failed: Option<Teller>) {
        if let Some(volume) = self.0.iter_mut().find(|volume| &*volume.path == path) {
            volume.failed = volume.failed.or(failed);
        }
    }

    /// The volumes of a pod are no more. Their names.
    pub(super) fn left_by(&mut self, pod: &str) -> Vec<Arc<str>> {
        self.0.extract_if(.., |volume| volume.pod.as_deref() == Some(pod)).map(|volume| volume.path).collect()
    }

    /// When a pod's volumes were last mounted, if it has any.
    pub(super) fn last_of(&self, pod: &str) -> Option<Instant> {
        self.0.iter().filter(|volume| volume.pod.as_deref() == Some(pod)).map(|volume| volume.last).max()
    }

    /// The longest of the last pauses between two polls of a volume; none while there were no polls.
    pub(super) fn gap(&self) -> Option<Duration> {
        self.0.iter().filter_map(Volume::gap).max()
    }

    /// Whether a poll is to be expected for each: there were some, and none is missing.
    pub(super) fn are_polled(&self, now: Instant) -> bool {
        self.0
            .iter()
            .all(|volume| volume.gap().is_some_and(|gap| now.saturating_duration_since(volume.last) <= gap * PATIENCE))
    }

    /// The longest of the last pauses between polls, if there were any.
    pub(super) fn poll_gap(&self) -> Option<Duration> {
        self.0.iter().filter(|volume| volume.is_polled()).filter_map(Volume::gap).max()
    }

    /// When any was mounted last.
    pub(super) fn last_mount(&self) -> Instant {
        self.0.iter().map(|volume| volume.last).max().unwrap_or_else(clock::now)
    }

    /// The place of a volume among them.
    pub(super) fn place(&self, path: &Arc<str>) -> Option<usize> {
        self.0.iter().position(|volume| volume.path == *path)
    }

    /// What is kept of them across restarts, in their order.
    pub(super) fn save(&self, origin: Epoch) -> Vec<SavedVolume> {
        let saved = self.0.iter().map(|volume| SavedVolume {
            path: volume.path.as_ref().to_owned(),
            class: volume.class.clone(),
            last: origin.to_millis(volume.last),
            mounts: volume.mounts,
            gaps: volume.gaps.map(|gap| u64::try_from(gap.as_millis()).unwrap_or(u64::MAX)),
            pod: volume.pod.as_deref().map(str::to_owned),
            failed: volume.failed.is_some(),
        });
        saved.collect()
    }

    /// What was kept, in its order; their names. Polls are not kept, so that one of a polled volume counts as just heard of.
    /// What they have is as fresh as the last answer of Vault.
    pub(super) fn restore(&mut self, saved: Vec<SavedVolume>, fresh: Option<Instant>, origin: Epoch) -> Vec<Arc<str>> {
        self.0.extend(saved.into_iter().map(|saved| {
            let SavedVolume { path, class, last, mounts, gaps, pod, failed } = saved;
            let last = if mounts > 1 { clock::now() } else { origin.instant_at(last) };
            Volume {
                path: path.into(),
                class,
                last,
                fresh: fresh.unwrap_or(last),
                mounts,
                gaps: gaps.map(Duration::from_millis),
                pod: pod.map(Arc::from),
                given: None,
                failed: failed.then_some(Teller::Earlier),
            }
        }));
        self.0.iter().map(|volume| Arc::clone(&volume.path)).collect()
    }

    /// When the first of those that are polled was last brought all that was due; of all, if their polls fail.
    pub(super) fn stalest(&self, polls_fail: bool) -> Option<Instant> {
        self.0.iter().filter(|volume| polls_fail || volume.is_polled()).map(|volume| volume.fresh).min()
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
    fn the_gap_is_the_longest_of_the_last_three() {
        let start = Instant::now();
        let at = |s| start + Duration::from_secs(s);
        let mut volumes = Volumes::default();
        volumes.mounted(("/a", "c"), None, [].into_iter(), false, at(0));
        assert_eq!((volumes.gap(), volumes.are_polled(at(1)), volumes.poll_gap()), (None, false, None));
        for (when, gap) in [(13, 13), (26, 13), (326, 300), (396, 300), (466, 300), (536, 70)] {
            volumes.mounted(("/a", ""), None, [].into_iter(), false, at(when));
            assert_eq!(volumes.gap(), Some(Duration::from_secs(gap)), "{when}");
        }
        // Tried again by kubelet, and not polled.
        for when in [0, 5] {
            volumes.mounted(("/b", ""), None, [].into_iter(), false, at(when));
        }
        assert_eq!((volumes.stalest(false), volumes.stalest(true)), (Some(at(536)), Some(at(5))));
        volumes.left("/b");
        assert!(volumes.are_polled(at(536 + 210)) && !volumes.are_polled(at(536 + 211)));
        assert_eq!(volumes.iter().next().map(|v| (v.mounts, &*v.class)), Some((7, "c")));
        volumes.mounted(("/a", ""), None, [].into_iter(), true, at(600));
        assert_eq!(volumes.stalest(false), Some(at(536)), "it keeps what it had");
        volumes.failed("/a");
        let (path, failed) = volumes.left("/a").unwrap();
        assert_eq!((&*path, failed), ("/a", Some(Teller::This)));
        assert!(volumes.is_empty() && volumes.left("/a").is_none());
    }
}
