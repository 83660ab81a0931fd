//! What was read under a session: kept for as long as it is good, so that nothing Vault created is lost on its way to the pod,
//! polls ask Vault for nothing that the pod has, and equal secrets keep their bytes.

mod hold;
mod life;
mod saved;
mod upkeep;

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use tokio::time::Instant;

use crate::{
    error::{Cause, Error},
    flight::SingleFlight,
    metrics::{Kind, Reason},
    term::Term,
    vault::{answer::SecretResponse, client::ReadResult, wire::SecretRequest},
};
pub use hold::{Hold, SavedHold};
pub use life::{Circumstances, Life, MIN_REFRESH, Refresh, Step};
pub use saved::{Holds, SavedLease};
use upkeep::Warned;
pub use upkeep::{DueRenewal, Told, Warning};

/// One answer of Vault.
#[derive(Debug)]
pub struct Lease {
    /// What Vault answered.
    pub answer: SecretResponse,
    /// Numbers what this process has read, so that it can be told what a volume was given.
    pub serial: u64,
}

impl Lease {
    fn new(answer: SecretResponse) -> Arc<Self> {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        Arc::new(Self { answer, serial: NEXT.fetch_add(1, Relaxed) })
    }
}

/// What a reading brought.
#[derive(Clone)]
pub struct Brought {
    /// The answer: the earlier one when the data is as before.
    pub lease: Arc<Lease>,
    /// Vault's id of the answer to this very request, when it gave one.
    pub request_id: Option<Arc<str>>,
}

/// The leases of one session, by request. Equal requests share one.
#[derive(Default)]
pub struct Leases {
    /// Never held across an await.
    slots: Mutex<HashMap<Arc<SecretRequest>, Arc<Slot>>>,
}

#[derive(Default)]
struct Slot {
    flight: SingleFlight<Result<Brought, Error>>,
    /// Never held across an await.
    kept: Mutex<Kept>,
}

#[derive(Default)]
struct Kept {
    entry: Option<Entry>,
    /// The volumes whose class names it.
    named_by: Vec<Arc<str>>,
    /// Counts what was kept, so that whoever looked before another's reading ended sees that it has.
    turn: u64,
}

/// A lease and all that is known of it.
struct Entry {
    lease: Arc<Lease>,
    life: Life,
    hold: Arc<Hold>,
    read_at: Instant,
    delivered: bool,
    /// It is not what a class wants of it, and reading it again makes nothing new.
    doubted: bool,
    warned: Warned,
    /// Why its last renewal or reading failed.
    trouble: Option<String>,
}

/// What a fetch brings: the answer, when it was asked for, and under which token.
pub struct Fetched {
    /// Vault's answer.
    pub reading: ReadResult,
    /// When the request was sent, by [`crate::clock::now`]: what Vault grants begins then at the earliest.
    pub sent: Instant,
    /// The token.
    pub hold: Arc<Hold>,
}

/// When and how a lease is looked at.
#[derive(Clone, Copy, Debug)]
pub struct Look {
    /// Now, by [`crate::clock::now`].
    pub now: Instant,
    /// The longest of the last pauses between two polls.
    pub gap: Option<Duration>,
    /// How long plain secrets count as fresh.
    pub refresh: Refresh,
}

/// What there is of a request's answer.
pub enum Found {
    /// It is good.
    Good(Arc<Lease>),
    /// It must be read.
    Due(Due),
}

/// A request that must be read.
pub struct Due {
    /// Why, if there was an answer before.
    pub reason: Option<Reason>,
    /// What was read before, if the pod has it.
    pub had: Option<Arc<Lease>>,
    /// The same, if it is of use still.
    pub kept: Option<Arc<Lease>>,
    /// Of what kind it was.
    pub kind: Option<Kind>,
    /// The token it hung on.
    pub hold: Option<Arc<Hold>>,
    turn: u64,
}

/// Requests remembered at most per session; more than a class may hold, as classes are edited and pods have several volumes.
const MAX_SLOTS: usize = 1024;
impl Leases {
    /// What there is of a request's answer, and whether it is good.
    pub fn look(&self, read: &SecretRequest, look: &Look) -> Found {
        let slot = self.lock().get(read).cloned();
        let new = |turn| Found::Due(Due { reason: None, had: None, kept: None, kind: None, hold: None, turn });
        let Some(slot) = slot else { return new(0) };
        let kept = slot.kept();
        let Some(entry) = &kept.entry else { return new(kept.turn) };
        let token = entry.hold.term();
        match entry.decide(token.as_ref(), !kept.named_by.is_empty(), look) {
            Step::Reuse | Step::Renew => Found::Good(Arc::clone(&entry.lease)),
            Step::Reread(reason) => {
                let of_use = entry.delivered && !entry.life.is_over(token.as_ref(), look.now);
                Found::Due(Due {
                    reason: Some(reason),
                    had: entry.delivered.then(|| Arc::clone(&entry.lease)),
                    kept: of_use.then(|| Arc::clone(&entry.lease)),
                    kind: Some(entry.life.kind()),
                    hold: Some(Arc::clone(&entry.hold)),
                    turn: kept.turn,
                })
            }
        }
    }

    /// A new answer to a request that was found due, shared with whoever asks meanwhile. When the data is as before, it is the
    /// earlier answer, so that whole responses keep their bytes.
    ///
    /// `heard` hears what was kept: of an earlier answer that was a credential, and is none any more; and whether the new one was
    /// created for this.
    pub async fn read<F>(
        &self,
        read: &Arc<SecretRequest>,
        due: &Due,
        fetch: impl FnOnce() -> F,
        heard: impl FnOnce(Option<Kind>, bool) + Send + 'static,
    ) -> Result<Brought, Error>
    where
        F: Future<Output = Result<Fetched, Error>> + Send + 'static,
    {
        let (key, slot) = self.slot(read);
        let turn = due.turn;
        let outcome = slot.flight.join(|| {
            let (slot, fetch) = (Arc::clone(&slot), fetch());
            async move {
                // Another's reading may have ended between our look and our turn.
                if let Some(lease) = slot.since(turn) {
                    let request_id = lease.answer.request_id().map(Arc::from);
                    return Ok(Brought { lease, request_id });
                }
                let fetched = fetch.await.map_err(|error| slot.failed(error))?;
                let request_id = fetched.reading.response.request_id().map(Arc::from);
                let creates = fetched.reading.mutating;
                let (lease, earlier) = slot.keep(&key, fetched);
                heard(earlier.filter(|kind| *kind != Kind::Plain), creates);
                Ok(Brought { lease, request_id })
            }
        });
        outcome.await.unwrap_or_else(|| {
            Err(Error::new(Cause::Internal, "reading the secret panicked").advice("report it with the provider's log"))
        })
    }

    /// Whether the last reading of a static credential came before Vault had rotated it, and its time was over already.
    pub fn is_still_old(&self, read: &SecretRequest, fetched: &Fetched) -> bool {
        let Life::Static { rotates, .. } = Life::of(read, &fetched.reading, fetched.sent) else { return false };
        let is_due = rotates <= fetched.sent;
        let Some(slot) = self.lock().get(read).cloned() else { return is_due };
        let kept = slot.kept();
        match kept.entry.as_ref().map(|entry| (&entry.life, &entry.lease.answer)) {
            // It was waited for before, in vain: Vault cannot rotate it, and polls must not wait for that each time.
            Some((Life::Static { rotates, read }, _)) if rotates <= read => false,
            Some((Life::Static { rotates, .. }, before)) => {
                is_due || (*rotates <= fetched.sent && life::same_static(before, &fetched.reading.response))
            }
            _ => is_due,
        }
    }

    /// A pod has (as far as anyone can know) what was read. Whether it is new to it.
    pub fn delivered(&self, read: &SecretRequest, lease: &Arc<Lease>) -> bool {
        let slot = self.lock().get(read).cloned();
        slot.is_none_or(|slot| {
            let mut kept = slot.kept();
            match kept.entry.as_mut().filter(|entry| Arc::ptr_eq(&entry.lease, lease)) {
                Some(entry) => !std::mem::replace(&mut entry.delivered, true),
                None => true,
            }
        })
    }

    /// What was read is not what the class wants of it: the next mount reads it again, unless that would make something new.
    /// Whether it will.
    pub fn doubt(&self, read: &SecretRequest, lease: &Arc<Lease>) -> bool {
        let Some(slot) = self.lock().get(read).cloned() else { return false };
        let mut kept = slot.kept();
        let Some(entry) = kept.entry.as_mut().filter(|entry| Arc::ptr_eq(&entry.lease, lease)) else { return false };
        entry.doubted |= matches!(entry.life, Life::Plain { creates: false, .. });
        entry.doubted
    }

    /// A volume's class names these requests and no others. What nobody names any more is not renewed, and forgotten when there
    /// is nothing to tell of it. Whether it named others before.
    pub fn name<'a>(
        &self,
        volume: &Arc<str>,
        reads: impl IntoIterator<Item = &'a Arc<SecretRequest>>,
        now: Instant,
    ) -> bool {
        let mut slots = self.lock();
        let mut named: Vec<*const Slot> = Vec::new();
        let mut is_new = false;
        for slot in reads.into_iter().filter_map(|read| slots.get(read)) {
            let mut kept = slot.kept();
            if !kept.named_by.contains(volume) {
                // Few are named by a second, and there are many.
                kept.named_by.reserve_exact(1);
                kept.named_by.push(Arc::clone(volume));
                is_new = true;
            }
            named.push(Arc::as_ptr(slot));
        }
        slots.retain(|_, slot| {
            if named.contains(&Arc::as_ptr(slot)) {
                return true;
            }
            let mut kept = slot.kept();
            let before = kept.named_by.len();
            kept.named_by.retain(|name| name != volume);
            is_new |= kept.named_by.len() != before;
            !kept.named_by.is_empty() || Arc::strong_count(slot) > 1 || kept.is_of_use(now)
        });
        is_new
    }

    /// The answers to these requests, when the pod has each of them, each is good, and nothing must be asked first.
    pub fn again<'a>(
        &self,
        reads: impl Iterator<Item = &'a Arc<SecretRequest>>,
        look: &Look,
        proof: Duration,
    ) -> Option<Vec<Arc<Lease>>> {
        let slots = self.lock();
        let answers = reads.map(|read| {
            let kept = slots.get(read)?.kept();
            let entry = kept.entry.as_ref().filter(|entry| entry.delivered && !entry.is_unproven(look.now, proof))?;
            match entry.decide(entry.hold.term().as_ref(), !kept.named_by.is_empty(), look) {
                Step::Reuse | Step::Renew => Some(Arc::clone(&entry.lease)),
                Step::Reread(_) => None,
            }
        });
        answers.collect()
    }

    /// The tokens that must be asked about before the answers to these requests are handed out, as they were not proven within
    /// the time `proof`; and of each whether any of the answers waits for its pod.
    pub fn unproven<'a>(
        &self,
        reads: impl Iterator<Item = &'a Arc<SecretRequest>>,
        now: Instant,
        proof: Duration,
    ) -> Vec<(Arc<Hold>, bool)> {
        let mut holds = Vec::<(Arc<Hold>, bool)>::new();
        let slots = self.lock();
        for slot in reads.filter_map(|read| slots.get(read)) {
            let kept = slot.kept();
            let Some(entry) = kept.entry.as_ref().filter(|entry| entry.is_unproven(now, proof)) else { continue };
            match holds.iter_mut().find(|(hold, _)| Arc::ptr_eq(hold, &entry.hold)) {
                Some((_, waits)) => *waits |= !entry.delivered,
                None => holds.push((Arc::clone(&entry.hold), !entry.delivered)),
            }
        }
        holds
    }

    /// Whether anything that a volume names hangs on this token.
    pub fn named_hang_on(&self, hold: &Arc<Hold>) -> bool {
        self.any(|kept, entry| {
            !kept.named_by.is_empty() && entry.life.hangs_on_token() && Arc::ptr_eq(&entry.hold, hold)
        })
    }

    /// Whether anything hangs on this token: also what no volume names any more, which lives to an end of its own.
    pub fn hang_on(&self, hold: &Arc<Hold>, now: Instant) -> bool {
        self.any(|kept, entry| {
            let lives = !kept.named_by.is_empty() || !entry.life.is_over(entry.hold.term().as_ref(), now);
            lives && entry.life.hangs_on_token() && Arc::ptr_eq(&entry.hold, hold)
        })
    }

    /// Whether anything has an end of its own that is still to come.
    pub fn any_lives(&self, now: Instant) -> bool {
        self.any(|_, entry| entry.life.ends().is_some() && !entry.life.is_over(entry.hold.term().as_ref(), now))
    }

    fn any(&self, is: impl Fn(&Kept, &Entry) -> bool) -> bool {
        self.lock().values().any(|slot| {
            let kept = slot.kept();
            kept.entry.as_ref().is_some_and(|entry| is(&kept, entry))
        })
    }

    fn slot(&self, read: &Arc<SecretRequest>) -> (Arc<SecretRequest>, Arc<Slot>) {
        let mut slots = self.lock();
        if let Some((read, slot)) = slots.get_key_value(&**read) {
            return (Arc::clone(read), Arc::clone(slot));
        }
        if slots.len() >= MAX_SLOTS {
            slots.retain(|_, slot| {
                let kept = slot.kept();
                Arc::strong_count(slot) > 1
                    || !kept.named_by.is_empty()
                    || kept.entry.as_ref().is_some_and(|e| !e.delivered)
            });
        }
        let slot = Arc::<Slot>::default();
        slots.insert(Arc::clone(read), Arc::clone(&slot));
        (Arc::clone(read), slot)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Arc<SecretRequest>, Arc<Slot>>> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Slot {
    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What was kept after a turn.
    fn since(&self, turn: u64) -> Option<Arc<Lease>> {
        let kept = self.kept();
        kept.entry.as_ref().filter(|_| kept.turn > turn).map(|entry| Arc::clone(&entry.lease))
    }

    /// Keeps a new answer, or the earlier one if nothing but its envelope differs.
    /// Of what kind that was if it is replaced.
    fn keep(&self, read: &SecretRequest, fetched: Fetched) -> (Arc<Lease>, Option<Kind>) {
        let Fetched { reading, sent, hold } = fetched;
        let mut life = Life::of(read, &reading, sent);
        if let Life::Leased { term, .. } = &mut life
            && !hold.renews()
        {
            term.cannot_be_renewed();
        }
        let mut kept = self.kept();
        kept.turn += 1;
        let earlier = kept.entry.as_ref().filter(|entry| {
            let (a, b) = (&entry.lease.answer, &reading.response);
            a.has_same_data(b) || (life.kind() == Kind::Static && life::same_static(a, b))
        });
        let replaced = kept.entry.as_ref().filter(|_| earlier.is_none()).map(|entry| entry.life.kind());
        let (lease, delivered) = match earlier {
            Some(entry) => (Arc::clone(&entry.lease), entry.delivered),
            None => (Lease::new(reading.response), false),
        };
        kept.entry = Some(Entry {
            lease: Arc::clone(&lease),
            life,
            hold,
            read_at: sent,
            delivered,
            doubted: false,
            warned: Warned::No,
            trouble: None,
        });
        (lease, replaced)
    }

    fn failed(&self, error: Error) -> Error {
        if let Some(entry) = &mut self.kept().entry {
            entry.trouble = Some(error.to_string());
        }
        error
    }
}

impl Kept {
    /// Whether it waits for its pod, or lives on at Vault.
    fn is_of_use(&self, now: Instant) -> bool {
        self.entry.as_ref().is_some_and(|entry| match entry.life {
            Life::Leased { .. } => !entry.life.is_over(entry.hold.term().as_ref(), now),
            Life::Token | Life::Plain { creates: false, .. } => false,
            _ => !entry.delivered,
        })
    }
}

impl Entry {
    /// Whether Vault must be asked whether the token lives that it hangs on: always for what waits for its pod, which no read
    /// would show to be dead; for what the pod has, when Vault has not taken the token within the time `proof`.
    fn is_unproven(&self, now: Instant, proof: Duration) -> bool {
        if !self.life.hangs_on_token() || self.life.is_over(self.hold.term().as_ref(), now) {
            return false;
        }
        // One of few uses has none to spare for what the pod has, and one that is used up cannot be asked.
        let token = &self.hold.token;
        (!self.delivered && !token.is_exhausted())
            || (token.num_uses == 0 && now.saturating_duration_since(self.hold.proven_at()) >= proof)
    }

    fn decide(&self, token: Option<&Term>, named: bool, look: &Look) -> Step {
        let Look { now, gap, refresh } = *look;
        if self.doubted {
            return Step::Reread(Reason::Age);
        }
        self.life.decide(&Circumstances { now, token, gap, refresh, delivered: self.delivered, named })
    }
}

#[cfg(test)]
mod tests;
