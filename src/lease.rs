//! What was read under a session: kept so that equal secrets keep their bytes, and so that nothing Vault created is lost
//! on its way to the pod.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

use crate::{
    error::{Cause, Error},
    flight::Flight,
    vault::{answer::Answer, client::Reading, wire::Read},
};

/// One answer of Vault.
#[derive(Debug)]
pub struct Lease {
    /// What Vault answered.
    pub answer: Answer,
    /// Until when it may be handed out again if it never reached its pod; `None` when reading again costs nothing.
    reusable_until: Option<Instant>,
}

/// The leases of one session, by request. Equal requests share one.
#[derive(Default)]
pub struct Leases {
    /// Never held across an await.
    slots: Mutex<HashMap<Read, Arc<Slot>>>,
}

#[derive(Default)]
struct Slot {
    flight: Flight<Result<Arc<Lease>, Error>>,
    /// Never held across an await.
    kept: Mutex<Kept>,
}

#[derive(Default)]
struct Kept {
    lease: Option<Arc<Lease>>,
    delivered: bool,
}

/// How long an answer without a lease (a certificate, a signature) waits for its pod to ask again: longer than the
/// longest pause between kubelet's attempts (2 minutes).
const PATIENCE: Duration = Duration::from_secs(300);
/// Requests remembered at most per session; more than a class may hold, as classes are edited and pods have several volumes.
const MAX_SLOTS: usize = 1024;

impl Lease {
    fn new(reading: Reading, now: Instant) -> Self {
        let Reading { answer, creates } = reading;
        // Beyond two thirds of its life a credential is too old to hand to a pod as new.
        let life = if answer.lease_id.is_empty() {
            PATIENCE
        } else {
            Duration::from_secs(answer.lease_duration.min(u64::from(u32::MAX))) * 2 / 3
        };
        Self { answer, reusable_until: creates.then(|| now + life) }
    }
}

impl Leases {
    /// The answer to a request: one that was created for this pod and never reached it, else a new one from `fetch`,
    /// shared with whoever asks meanwhile. When the data is as before, it is the earlier answer.
    pub async fn read<F>(&self, read: &Read, fetch: impl FnOnce() -> F) -> Result<Arc<Lease>, Error>
    where
        F: Future<Output = Result<Reading, Error>> + Send + 'static,
    {
        let slot = self.slot(read);
        if let Some(waiting) = slot.undelivered() {
            return Ok(waiting);
        }
        let outcome = slot.flight.join(|| {
            let (slot, fetch) = (Arc::clone(&slot), fetch());
            async move { fetch.await.map(|reading| slot.keep(Lease::new(reading, Instant::now()))) }
        });
        outcome.await.unwrap_or_else(|| {
            Err(Error::new(Cause::Internal, "reading the secret panicked").advice("report it with the provider's log"))
        })
    }

    /// A pod has (as far as anyone can know) what was read: the next request asks Vault again. Whether it is new to it.
    pub fn delivered(&self, read: &Read, lease: &Arc<Lease>) -> bool {
        let slot = self.lock().get(read).cloned();
        slot.is_none_or(|slot| {
            let mut kept = slot.kept();
            let is_kept = kept.lease.as_ref().is_some_and(|l| Arc::ptr_eq(l, lease));
            !(is_kept && std::mem::replace(&mut kept.delivered, true))
        })
    }

    /// Whether any credential waits for its pod that ends with the token.
    pub fn are_waiting(&self) -> bool {
        self.lock().values().any(|slot| slot.undelivered().is_some_and(|lease| !lease.answer.lease_id.is_empty()))
    }

    /// The token is gone, and with it every credential that was leased under it.
    pub fn token_is_gone(&self) {
        for slot in self.lock().values() {
            let mut kept = slot.kept();
            if kept.lease.as_ref().is_some_and(|l| !l.answer.lease_id.is_empty()) {
                *kept = Kept::default();
            }
        }
    }

    fn slot(&self, read: &Read) -> Arc<Slot> {
        let mut slots = self.lock();
        if let Some(slot) = slots.get(read) {
            return Arc::clone(slot);
        }
        if slots.len() >= MAX_SLOTS {
            slots.retain(|_, slot| Arc::strong_count(slot) > 1 || slot.undelivered().is_some());
        }
        Arc::clone(slots.entry(read.clone()).or_default())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<Read, Arc<Slot>>> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Slot {
    fn kept(&self) -> std::sync::MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn undelivered(&self) -> Option<Arc<Lease>> {
        let kept = self.kept();
        let lease = kept.lease.as_ref().filter(|_| !kept.delivered)?;
        lease.reusable_until.is_some_and(|until| Instant::now() < until).then(|| Arc::clone(lease))
    }

    /// Keeps a new answer, or the earlier one if nothing but its envelope differs.
    fn keep(&self, lease: Lease) -> Arc<Lease> {
        let mut kept = self.kept();
        if let Some(earlier) = kept.lease.as_ref().filter(|l| l.answer.same_data(&lease.answer)) {
            return Arc::clone(earlier);
        }
        let lease = Arc::new(lease);
        *kept = Kept { lease: Some(Arc::clone(&lease)), delivered: false };
        lease
    }
}

#[cfg(test)]
mod tests {
    use std::future::{Ready, ready};

    use super::*;
    use crate::vault::wire::Method;

    fn read(path: &str) -> Read {
        Read { method: Method::Get, path: path.into(), query: None, body: None }
    }

    fn answer(id: u32, data: &str, creates: bool) -> Ready<Result<Reading, Error>> {
        let lease = if creates { "database/creds/app/x" } else { "" };
        let body = format!(r#"{{"request_id":"{id}","lease_id":"{lease}","lease_duration":90,"data":{data}}}"#);
        ready(Ok(Reading { answer: Answer::parse(body.into_bytes()).unwrap(), creates }))
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_created_waits_for_its_pod_and_is_handed_out_once() {
        let (leases, path) = (Leases::default(), read("database/creds/app"));
        let lost = leases.read(&path, || answer(1, r#"{"u":1}"#, true)).await.unwrap();
        let again = leases.read(&path, || answer(2, r#"{"u":2}"#, true)).await.unwrap();
        assert!(Arc::ptr_eq(&lost, &again));
        leases.delivered(&path, &again);
        let next = leases.read(&path, || answer(3, r#"{"u":3}"#, true)).await.unwrap();
        assert_eq!(next.answer.request_id, "3");
    }

    #[tokio::test(start_paused = true)]
    async fn an_undelivered_credential_ends_with_its_life_and_its_token() {
        let (leases, path) = (Leases::default(), read("database/creds/app"));
        leases.read(&path, || answer(1, r#"{"u":1}"#, true)).await.unwrap();
        tokio::time::advance(Duration::from_secs(61)).await;
        let second = leases.read(&path, || answer(2, r#"{"u":2}"#, true)).await.unwrap();
        assert_eq!(second.answer.request_id, "2");
        leases.token_is_gone();
        let third = leases.read(&path, || answer(3, r#"{"u":3}"#, true)).await.unwrap();
        assert_eq!(third.answer.request_id, "3");
    }

    #[tokio::test]
    async fn equal_data_keeps_the_first_envelope() {
        let (leases, path) = (Leases::default(), read("secret/data/x"));
        leases.read(&path, || answer(1, r#"{"a":1}"#, false)).await.unwrap();
        let same = leases.read(&path, || answer(2, r#"{"a":1}"#, false)).await.unwrap();
        assert_eq!(same.answer.request_id, "1");
        let changed = leases.read(&path, || answer(3, r#"{"a":2}"#, false)).await.unwrap();
        assert_eq!(changed.answer.request_id, "3");
    }
}
