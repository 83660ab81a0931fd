//! Recent failures of mounts, with the error that the driver received.

use std::{
    collections::VecDeque,
    sync::{Mutex, PoisonError},
};

use tokio::time::Instant;

use crate::{
    clock::{self, time_of_day},
    error::{Cause, Error},
    observe::status,
    request::Pod,
    text::one_line,
};

/// The last failure of each volume and cause, the newest first.
#[derive(Debug, Default)]
pub(super) struct RecentFailures {
    /// Never held across an await.
    failures: Mutex<VecDeque<RecentFailure>>,
}

#[derive(Debug)]
struct RecentFailure {
    pod: Pod,
    target_path: String,
    cause: Cause,
    at: Instant,
    count: u64,
    error: String,
}

/// Maximum number of failures kept.
const MAX_FAILURES: usize = 50;
/// Maximum length of a stored error in bytes: enough for the reasons of eight objects.
const MAX_ERROR_BYTES: usize = 4096;

impl RecentFailures {
    /// Records a failure. A repeat for the same volume and cause replaces the earlier one and increments its count.
    pub(super) fn record(&self, pod: &Pod, target_path: &str, error: &Error) {
        let mut last = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        let is_same = |known: &RecentFailure| {
            known.cause == error.cause() && known.pod.uid == pod.uid && known.target_path == target_path
        };
        let before = last.iter().position(is_same).and_then(|place| last.remove(place));
        last.truncate(MAX_FAILURES - 1);
        last.push_front(RecentFailure {
            pod: pod.clone(),
            target_path: target_path.to_owned(),
            cause: error.cause(),
            at: clock::now(),
            count: before.map_or(0, |before| before.count) + 1,
            error: one_line(&error.to_string(), MAX_ERROR_BYTES),
        });
    }

    /// Returns the failures for the status.
    pub(super) fn snapshot(&self) -> Vec<status::MountFailure> {
        let last = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        let failures =
            last.iter().map(|RecentFailure { pod, target_path, at, count, error, .. }| status::MountFailure {
                at: time_of_day(*at),
                count: *count,
                pod: pod.name.clone(),
                namespace: pod.namespace.clone(),
                uid: pod.uid.clone(),
                target_path: target_path.clone(),
                error: error.clone(),
            });
        failures.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_volume_and_cause_is_one_failure_and_the_oldest_goes() {
        let failures = RecentFailures::default();
        let pod = |uid: usize| Pod {
            uid: uid.to_string(),
            namespace: "shop".into(),
            name: "web".into(),
            service_account: "web".into(),
        };
        let note = |uid, path, cause, summary: &str| failures.record(&pod(uid), path, &Error::new(cause, summary));
        let entries =
            || failures.snapshot().into_iter().map(|entry| (entry.uid, entry.target_path, entry.count, entry.error));
        note(1, "/a", Cause::VaultPolicyDenied, "first");
        note(1, "/a", Cause::Sealed, "sealed");
        note(1, "/b", Cause::VaultPolicyDenied, "elsewhere");
        note(1, "/a", Cause::VaultPolicyDenied, "again");
        let expected = [
            ("/a", 2, format!("again [{}]", Cause::VaultPolicyDenied.id())),
            ("/b", 1, format!("elsewhere [{}]", Cause::VaultPolicyDenied.id())),
            ("/a", 1, format!("sealed [{}]", Cause::Sealed.id())),
        ];
        assert!(entries().eq(expected.map(|(path, times, error)| ("1".to_owned(), path.to_owned(), times, error))));
        for uid in 2..2 + MAX_FAILURES {
            note(uid, "/a", Cause::VaultPolicyDenied, &"long ".repeat(MAX_ERROR_BYTES));
        }
        assert!(
            entries().len() == MAX_FAILURES
                && entries().all(|(uid, _, _, error)| uid != "1" && error.len() <= MAX_ERROR_BYTES)
        );
    }
}
