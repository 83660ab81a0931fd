//! What was read under a session: kept for as long as it is good, so that nothing Vault created is lost on its way to the pod,
//! polls ask Vault for nothing that the pod has, and equal secrets keep their bytes.

pub mod kind;
mod lifecycle;
mod maintenance;
mod persistence;
mod session_token;

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
    cache::kind::{RotationReason, SecretKind},
    error::{Cause, Error},
    lifetime::Lifetime,
    single_flight::SingleFlight,
    vault::{client::ReadResult, request::SecretRequest, response::SecretResponse},
};
pub use lifecycle::{CacheAction, Lifecycle, LifecycleContext, MIN_REFRESH_INTERVAL, Refresh};
use maintenance::ExpiryWarning;
pub use maintenance::{ExpiryNotice, PendingRenewal, SecretSnapshot};
pub use persistence::{SavedSecret, TokenTable};
pub use session_token::{SavedSessionToken, SessionToken};

/// One answer of Vault.
#[derive(Debug)]
pub struct CachedSecret {
    /// What Vault answered.
    pub response: SecretResponse,
    /// Numbers what this process has read, so that it can be told what a volume was given.
    pub serial: u64,
}

impl CachedSecret {
    fn new(response: SecretResponse) -> Arc<Self> {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        Arc::new(Self { response, serial: NEXT.fetch_add(1, Relaxed) })
    }
}

/// What a reading brought.
#[derive(Clone)]
pub struct FetchOutcome {
    /// The answer: the earlier one when the data is as before.
    pub secret: Arc<CachedSecret>,
    /// Vault's id of the answer to this very request, when it gave one.
    pub request_id: Option<Arc<str>>,
}

/// The leases of one session, by request. Equal requests share one.
#[derive(Default)]
pub struct SecretCache {
    /// Never held across an await.
    slots: Mutex<HashMap<Arc<SecretRequest>, Arc<CacheSlot>>>,
}

#[derive(Default)]
struct CacheSlot {
    in_flight: SingleFlight<Result<FetchOutcome, Error>>,
    /// Never held across an await.
    state: Mutex<SlotState>,
}

#[derive(Default)]
struct SlotState {
    entry: Option<CacheEntry>,
    /// The volumes whose class names it.
    referenced_by: Vec<Arc<str>>,
    /// Counts what was kept, so that whoever looked before another's reading ended sees that it has.
    generation: u64,
}

/// A lease and all that is known of it.
struct CacheEntry {
    secret: Arc<CachedSecret>,
    lifecycle: Lifecycle,
    token: Arc<SessionToken>,
    read_at: Instant,
    delivered: bool,
    /// It is not what a class wants of it, and reading it again makes nothing new.
    invalidated: bool,
    expiry_warning: ExpiryWarning,
    /// Why its last renewal or reading failed.
    last_error: Option<String>,
}

/// What a fetch brings: the answer, when it was asked for, and under which token.
pub struct FetchedSecret {
    /// Vault's answer.
    pub result: ReadResult,
    /// When the request was sent, by [`crate::clock::now`]: what Vault grants begins then at the earliest.
    pub sent_at: Instant,
    /// The token.
    pub token: Arc<SessionToken>,
}

/// When and how a lease is looked at.
#[derive(Clone, Copy, Debug)]
pub struct LookupOptions {
    /// Now, by [`crate::clock::now`].
    pub now: Instant,
    /// The longest of the last pauses between two polls.
    pub poll_interval: Option<Duration>,
    /// How long plain secrets count as fresh.
    pub refresh: Refresh,
}

/// What there is of a request's answer.
pub enum Lookup {
    /// It is good.
    Fresh(Arc<CachedSecret>),
    /// It must be read.
    Due(DueSecret),
}

/// A request that must be read.
pub struct DueSecret {
    /// Why, if there was an answer before.
    pub reason: Option<RotationReason>,
    /// What was read before, if the pod has it.
    pub previous: Option<Arc<CachedSecret>>,
    /// The same, if it is of use still.
    pub stale: Option<Arc<CachedSecret>>,
    /// Of what kind it was.
    pub kind: Option<SecretKind>,
    /// The token it hung on.
    pub token: Option<Arc<SessionToken>>,
    generation: u64,
}

/// Requests remembered at most per session; more than a class may hold, as classes are edited and pods have several volumes.
const MAX_CACHED_REQUESTS: usize = 1024;
impl SecretCache {
    /// What there is of a request's answer, and whether it is good.
    pub fn lookup(&self, request: &SecretRequest, options: &LookupOptions) -> Lookup {
        let slot = self.lock().get(request).cloned();
        let not_cached = |generation| {
            Lookup::Due(DueSecret { reason: None, previous: None, stale: None, kind: None, token: None, generation })
        };
        let Some(slot) = slot else { return not_cached(0) };
        let slot_state = slot.state();
        let Some(entry) = &slot_state.entry else { return not_cached(slot_state.generation) };
        let token_lifetime = entry.token.lifetime();
        match entry.next_action(token_lifetime.as_ref(), !slot_state.referenced_by.is_empty(), options) {
            CacheAction::Reuse | CacheAction::Renew => Lookup::Fresh(Arc::clone(&entry.secret)),
            CacheAction::Refetch(reason) => {
                let is_usable = entry.delivered && !entry.lifecycle.is_expired(token_lifetime.as_ref(), options.now);
                Lookup::Due(DueSecret {
                    reason: Some(reason),
                    previous: entry.delivered.then(|| Arc::clone(&entry.secret)),
                    stale: is_usable.then(|| Arc::clone(&entry.secret)),
                    kind: Some(entry.lifecycle.kind()),
                    token: Some(Arc::clone(&entry.token)),
                    generation: slot_state.generation,
                })
            }
        }
    }

    /// A new answer to a request that was found due, shared with whoever asks meanwhile. When the data is as before, it is the
    /// earlier answer, so that whole responses keep their bytes.
    ///
    /// `heard` hears what was kept: of an earlier answer that was a credential, and is none any more; and whether the new one was
    /// created for this.
    pub async fn fetch<F>(
        &self,
        request: &Arc<SecretRequest>,
        due: &DueSecret,
        fetch: impl FnOnce() -> F,
        on_stored: impl FnOnce(Option<SecretKind>, bool) + Send + 'static,
    ) -> Result<FetchOutcome, Error>
    where
        F: Future<Output = Result<FetchedSecret, Error>> + Send + 'static,
    {
        let (key, slot) = self.slot_or_insert(request);
        let generation = due.generation;
        let outcome = slot.in_flight.join(|| {
            let (slot, fetch) = (Arc::clone(&slot), fetch());
            async move {
                // Another's reading may have ended between our look and our turn.
                if let Some(secret) = slot.newer_than(generation) {
                    let request_id = secret.response.request_id().map(Arc::from);
                    return Ok(FetchOutcome { secret, request_id });
                }
                let fetched = fetch.await.map_err(|error| slot.record_failure(error))?;
                let request_id = fetched.result.response.request_id().map(Arc::from);
                let mutating = fetched.result.mutating;
                let (secret, replaced_kind) = slot.insert(&key, fetched);
                on_stored(replaced_kind.filter(|kind| *kind != SecretKind::Plain), mutating);
                Ok(FetchOutcome { secret, request_id })
            }
        });
        outcome.await.unwrap_or_else(|| {
            Err(Error::new(Cause::Internal, "reading the secret panicked")
                .with_fix("report it with the provider's log"))
        })
    }

    /// Whether the last reading of a static credential came before Vault had rotated it, and its time was over already.
    pub fn missed_rotation(&self, request: &SecretRequest, fetched: &FetchedSecret) -> bool {
        let Lifecycle::Static { rotates_at, .. } = Lifecycle::from_result(request, &fetched.result, fetched.sent_at)
        else {
            return false;
        };
        let is_due = rotates_at <= fetched.sent_at;
        let Some(slot) = self.lock().get(request).cloned() else { return is_due };
        let slot_state = slot.state();
        match slot_state.entry.as_ref().map(|entry| (&entry.lifecycle, &entry.secret.response)) {
            // It was waited for before, in vain: Vault cannot rotate it, and polls must not wait for that each time.
            Some((Lifecycle::Static { rotates_at, read_at }, _)) if rotates_at <= read_at => false,
            Some((Lifecycle::Static { rotates_at, .. }, before)) => {
                is_due
                    || (*rotates_at <= fetched.sent_at
                        && lifecycle::is_same_static_credential(before, &fetched.result.response))
            }
            _ => is_due,
        }
    }

    /// A pod has (as far as anyone can know) what was read. Whether it is new to it.
    pub fn mark_delivered(&self, request: &SecretRequest, secret: &Arc<CachedSecret>) -> bool {
        let slot = self.lock().get(request).cloned();
        slot.is_none_or(|slot| {
            let mut slot_state = slot.state();
            match slot_state.entry.as_mut().filter(|entry| Arc::ptr_eq(&entry.secret, secret)) {
                Some(entry) => !std::mem::replace(&mut entry.delivered, true),
                None => true,
            }
        })
    }

    /// What was read is not what the class wants of it: the next mount reads it again, unless that would make something new.
    /// Whether it will.
    pub fn invalidate(&self, request: &SecretRequest, secret: &Arc<CachedSecret>) -> bool {
        let Some(slot) = self.lock().get(request).cloned() else { return false };
        let mut slot_state = slot.state();
        let Some(entry) = slot_state.entry.as_mut().filter(|entry| Arc::ptr_eq(&entry.secret, secret)) else {
            return false;
        };
        entry.invalidated |= matches!(entry.lifecycle, Lifecycle::Plain { mutating: false, .. });
        entry.invalidated
    }

    /// A volume's class names these requests and no others. What nobody names any more is not renewed, and forgotten when there
    /// is nothing to tell of it. Whether it named others before.
    pub fn set_references<'a>(
        &self,
        volume_path: &Arc<str>,
        requests: impl IntoIterator<Item = &'a Arc<SecretRequest>>,
        now: Instant,
    ) -> bool {
        let mut slots = self.lock();
        let mut referenced: Vec<*const CacheSlot> = Vec::new();
        let mut is_changed = false;
        for slot in requests.into_iter().filter_map(|read| slots.get(read)) {
            let mut slot_state = slot.state();
            if !slot_state.referenced_by.contains(volume_path) {
                // Few are named by a second, and there are many.
                slot_state.referenced_by.reserve_exact(1);
                slot_state.referenced_by.push(Arc::clone(volume_path));
                is_changed = true;
            }
            referenced.push(Arc::as_ptr(slot));
        }
        slots.retain(|_, slot| {
            if referenced.contains(&Arc::as_ptr(slot)) {
                return true;
            }
            let mut slot_state = slot.state();
            let previous_count = slot_state.referenced_by.len();
            slot_state.referenced_by.retain(|name| name != volume_path);
            is_changed |= slot_state.referenced_by.len() != previous_count;
            !slot_state.referenced_by.is_empty() || Arc::strong_count(slot) > 1 || slot_state.is_still_needed(now)
        });
        is_changed
    }

    /// The answers to these requests, when the pod has each of them, each is good, and nothing must be asked first.
    pub fn get_all_fresh<'a>(
        &self,
        requests: impl Iterator<Item = &'a Arc<SecretRequest>>,
        options: &LookupOptions,
        verify_interval: Duration,
    ) -> Option<Vec<Arc<CachedSecret>>> {
        let slots = self.lock();
        let secrets = requests.map(|request| {
            let slot_state = slots.get(request)?.state();
            let entry = slot_state
                .entry
                .as_ref()
                .filter(|entry| entry.delivered && !entry.needs_verification(options.now, verify_interval))?;
            match entry.next_action(entry.token.lifetime().as_ref(), !slot_state.referenced_by.is_empty(), options) {
                CacheAction::Reuse | CacheAction::Renew => Some(Arc::clone(&entry.secret)),
                CacheAction::Refetch(_) => None,
            }
        });
        secrets.collect()
    }

    /// The tokens that must be asked about before the answers to these requests are handed out, as they were not proven within
    /// the time `proof`; and of each whether any of the answers waits for its pod.
    pub fn tokens_to_verify<'a>(
        &self,
        requests: impl Iterator<Item = &'a Arc<SecretRequest>>,
        now: Instant,
        verify_interval: Duration,
    ) -> Vec<(Arc<SessionToken>, bool)> {
        let mut tokens = Vec::<(Arc<SessionToken>, bool)>::new();
        let slots = self.lock();
        for slot in requests.filter_map(|request| slots.get(request)) {
            let slot_state = slot.state();
            let Some(entry) = slot_state.entry.as_ref().filter(|entry| entry.needs_verification(now, verify_interval))
            else {
                continue;
            };
            match tokens.iter_mut().find(|(hold, _)| Arc::ptr_eq(hold, &entry.token)) {
                Some((_, is_undelivered)) => *is_undelivered |= !entry.delivered,
                None => tokens.push((Arc::clone(&entry.token), !entry.delivered)),
            }
        }
        tokens
    }

    /// Whether anything that a volume names hangs on this token.
    pub fn has_referenced_bound_secrets(&self, token: &Arc<SessionToken>) -> bool {
        self.any_entry(|slot_state, entry| {
            !slot_state.referenced_by.is_empty()
                && entry.lifecycle.is_bound_to_token()
                && Arc::ptr_eq(&entry.token, token)
        })
    }

    /// Whether anything hangs on this token: also what no volume names any more, which lives to an end of its own.
    pub fn has_bound_secrets(&self, token: &Arc<SessionToken>, now: Instant) -> bool {
        self.any_entry(|slot_state, entry| {
            let is_live = !slot_state.referenced_by.is_empty()
                || !entry.lifecycle.is_expired(entry.token.lifetime().as_ref(), now);
            is_live && entry.lifecycle.is_bound_to_token() && Arc::ptr_eq(&entry.token, token)
        })
    }

    /// Whether anything has an end of its own that is still to come.
    pub fn has_unexpired(&self, now: Instant) -> bool {
        self.any_entry(|_, entry| {
            entry.lifecycle.expires_at().is_some() && !entry.lifecycle.is_expired(entry.token.lifetime().as_ref(), now)
        })
    }

    fn any_entry(&self, predicate: impl Fn(&SlotState, &CacheEntry) -> bool) -> bool {
        self.lock().values().any(|slot| {
            let slot_state = slot.state();
            slot_state.entry.as_ref().is_some_and(|entry| predicate(&slot_state, entry))
        })
    }

    fn slot_or_insert(&self, request: &Arc<SecretRequest>) -> (Arc<SecretRequest>, Arc<CacheSlot>) {
        let mut slots = self.lock();
        if let Some((request, slot)) = slots.get_key_value(&**request) {
            return (Arc::clone(request), Arc::clone(slot));
        }
        if slots.len() >= MAX_CACHED_REQUESTS {
            slots.retain(|_, slot| {
                let slot_state = slot.state();
                Arc::strong_count(slot) > 1
                    || !slot_state.referenced_by.is_empty()
                    || slot_state.entry.as_ref().is_some_and(|e| !e.delivered)
            });
        }
        let slot = Arc::<CacheSlot>::default();
        slots.insert(Arc::clone(request), Arc::clone(&slot));
        (Arc::clone(request), slot)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Arc<SecretRequest>, Arc<CacheSlot>>> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl CacheSlot {
    fn state(&self) -> MutexGuard<'_, SlotState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What was kept after a turn.
    fn newer_than(&self, generation: u64) -> Option<Arc<CachedSecret>> {
        let slot_state = self.state();
        slot_state.entry.as_ref().filter(|_| slot_state.generation > generation).map(|entry| Arc::clone(&entry.secret))
    }

    /// Keeps a new answer, or the earlier one if nothing but its envelope differs.
    /// Of what kind that was if it is replaced.
    fn insert(&self, request: &SecretRequest, fetched: FetchedSecret) -> (Arc<CachedSecret>, Option<SecretKind>) {
        let FetchedSecret { result, sent_at, token } = fetched;
        let mut lifecycle = Lifecycle::from_result(request, &result, sent_at);
        if let Lifecycle::Leased { lifetime, .. } = &mut lifecycle
            && !token.can_renew()
        {
            lifetime.disable_renewal();
        }
        let mut slot_state = self.state();
        slot_state.generation += 1;
        let unchanged = slot_state.entry.as_ref().filter(|entry| {
            let (a, b) = (&entry.secret.response, &result.response);
            a.has_same_data(b) || (lifecycle.kind() == SecretKind::Static && lifecycle::is_same_static_credential(a, b))
        });
        let replaced_kind =
            slot_state.entry.as_ref().filter(|_| unchanged.is_none()).map(|entry| entry.lifecycle.kind());
        let (secret, delivered) = match unchanged {
            Some(entry) => (Arc::clone(&entry.secret), entry.delivered),
            None => (CachedSecret::new(result.response), false),
        };
        slot_state.entry = Some(CacheEntry {
            secret: Arc::clone(&secret),
            lifecycle,
            token,
            read_at: sent_at,
            delivered,
            invalidated: false,
            expiry_warning: ExpiryWarning::NotSent,
            last_error: None,
        });
        (secret, replaced_kind)
    }

    fn record_failure(&self, error: Error) -> Error {
        if let Some(entry) = &mut self.state().entry {
            entry.last_error = Some(error.to_string());
        }
        error
    }
}

impl SlotState {
    /// Whether it waits for its pod, or lives on at Vault.
    fn is_still_needed(&self, now: Instant) -> bool {
        self.entry.as_ref().is_some_and(|entry| match entry.lifecycle {
            Lifecycle::Leased { .. } => !entry.lifecycle.is_expired(entry.token.lifetime().as_ref(), now),
            Lifecycle::Token | Lifecycle::Plain { mutating: false, .. } => false,
            _ => !entry.delivered,
        })
    }
}

impl CacheEntry {
    /// Whether Vault must be asked whether the token lives that it hangs on: always for what waits for its pod, which no read
    /// would show to be dead; for what the pod has, when Vault has not taken the token within the time `proof`.
    fn needs_verification(&self, now: Instant, verify_interval: Duration) -> bool {
        if !self.lifecycle.is_bound_to_token() || self.lifecycle.is_expired(self.token.lifetime().as_ref(), now) {
            return false;
        }
        // One of few uses has none to spare for what the pod has, and one that is used up cannot be asked.
        let vault_token = &self.token.vault_token;
        (!self.delivered && !vault_token.is_exhausted())
            || (vault_token.num_uses == 0 && now.saturating_duration_since(self.token.verified_at()) >= verify_interval)
    }

    fn next_action(
        &self,
        token_lifetime: Option<&Lifetime>,
        is_referenced: bool,
        options: &LookupOptions,
    ) -> CacheAction {
        let LookupOptions { now, poll_interval, refresh } = *options;
        if self.invalidated {
            return CacheAction::Refetch(RotationReason::RefreshDue);
        }
        self.lifecycle.next_action(&LifecycleContext {
            now,
            token_lifetime,
            poll_interval,
            refresh,
            delivered: self.delivered,
            is_referenced,
        })
    }
}

#[cfg(test)]
mod tests;
