//! Cached secrets of one session.
//!
//! The cache keeps credentials that Vault created across retries, answers polls without a request to Vault, and keeps
//! the bytes of unchanged secrets stable.

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

/// Cached response from Vault.
#[derive(Debug)]
pub struct CachedSecret {
    /// Response from Vault.
    pub response: SecretResponse,
    /// Number of the response, unique in this process. It identifies the response that a volume received.
    pub serial: u64,
}

impl CachedSecret {
    fn new(response: SecretResponse) -> Arc<Self> {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        Arc::new(Self { response, serial: NEXT.fetch_add(1, Relaxed) })
    }
}

/// Result of a fetch.
#[derive(Clone)]
pub struct FetchOutcome {
    /// Cached secret; the previous one if the data is unchanged.
    pub secret: Arc<CachedSecret>,
    /// Request ID that Vault returned for this fetch; `None` if the response had no ID.
    pub request_id: Option<Arc<str>>,
}

/// Cached secrets of one session, by request. Equal requests share one cached secret.
#[derive(Default)]
pub struct SecretCache {
    /// Lock is never held across an await.
    slots: Mutex<HashMap<Arc<SecretRequest>, Arc<CacheSlot>>>,
}

#[derive(Default)]
struct CacheSlot {
    in_flight: SingleFlight<Result<FetchOutcome, Error>>,
    /// Lock is never held across an await.
    state: Mutex<SlotState>,
}

#[derive(Default)]
struct SlotState {
    entry: Option<CacheEntry>,
    /// Paths of the volumes that reference the secret in their class.
    referenced_by: Vec<Arc<str>>,
    /// Number of stored responses. A caller compares it to detect a fetch that finished after the caller's lookup.
    generation: u64,
}

/// Cached secret with its lifecycle, session token and delivery state.
struct CacheEntry {
    secret: Arc<CachedSecret>,
    lifecycle: Lifecycle,
    token: Arc<SessionToken>,
    read_at: Instant,
    delivered: bool,
    /// Marks a secret that does not have the content that the class expects, and that can be fetched again without
    /// creating anything.
    invalidated: bool,
    expiry_warning: ExpiryWarning,
    /// Error of the last renewal or fetch.
    last_error: Option<String>,
}

/// Response of a fetch, with its send time and session token.
pub struct FetchedSecret {
    /// Response from Vault.
    pub result: ReadResult,
    /// Send time of the request, by [`crate::clock::now`]: the earliest start of every TTL in the response.
    pub sent_at: Instant,
    /// Session token of the request.
    pub token: Arc<SessionToken>,
}

/// Time, poll interval and refresh interval of a cache lookup.
#[derive(Clone, Copy, Debug)]
pub struct LookupOptions {
    /// Current time, by [`crate::clock::now`].
    pub now: Instant,
    /// Longest of the recent intervals between two polls.
    pub poll_interval: Option<Duration>,
    /// Refresh interval of plain secrets.
    pub refresh: Refresh,
}

/// Result of a cache lookup.
pub enum Lookup {
    /// Secret that may be served.
    Fresh(Arc<CachedSecret>),
    /// Secret that must be fetched.
    Due(DueSecret),
}

/// Request that must be sent to Vault, with the previous secret.
pub struct DueSecret {
    /// Reason to replace the previous secret; `None` if there was none.
    pub reason: Option<RotationReason>,
    /// Previous secret, if it was delivered to the pod.
    pub previous: Option<Arc<CachedSecret>>,
    /// Previous secret, if it was delivered and has not expired.
    pub stale: Option<Arc<CachedSecret>>,
    /// Kind of the previous secret.
    pub kind: Option<SecretKind>,
    /// Session token of the previous secret.
    pub token: Option<Arc<SessionToken>>,
    generation: u64,
}

/// Maximum number of cached requests per session. It exceeds the limit of one class, because classes are edited and
/// pods have several volumes.
const MAX_CACHED_REQUESTS: usize = 1024;
impl SecretCache {
    /// Returns the cached secret of a request if it is fresh, or a [`DueSecret`] to fetch.
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

    /// Fetches a due secret and stores it. Concurrent callers share one fetch.
    ///
    /// If the data is unchanged, the result is the previous secret, so that whole responses keep their bytes.
    ///
    /// Calls `on_stored` after the response is stored. Its first argument is the kind of the replaced secret, unless
    /// that secret was plain or its data is unchanged. Its second argument is `true` if the request was mutating.
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
                // Another fetch may have finished between the lookup and this turn.
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

    /// Returns `true` if Vault should have rotated a static credential before this fetch but had not.
    ///
    /// Returns `false` if the cached credential was already overdue when it was fetched.
    pub fn missed_rotation(&self, request: &SecretRequest, fetched: &FetchedSecret) -> bool {
        let Lifecycle::Static { rotates_at, .. } = Lifecycle::from_result(request, &fetched.result, fetched.sent_at)
        else {
            return false;
        };
        let is_due = rotates_at <= fetched.sent_at;
        let Some(slot) = self.lock().get(request).cloned() else { return is_due };
        let slot_state = slot.state();
        match slot_state.entry.as_ref().map(|entry| (&entry.lifecycle, &entry.secret.response)) {
            // An earlier fetch already waited without success. Vault cannot rotate this credential, and polls must not
            // wait for it each time.
            Some((Lifecycle::Static { rotates_at, read_at }, _)) if rotates_at <= read_at => false,
            Some((Lifecycle::Static { rotates_at, .. }, before)) => {
                is_due
                    || (*rotates_at <= fetched.sent_at
                        && lifecycle::is_same_static_credential(before, &fetched.result.response))
            }
            _ => is_due,
        }
    }

    /// Marks a secret as delivered to its pod, as far as vaultmount can know. Returns `true` if it was not marked
    /// before.
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

    /// Marks a secret that does not have the content that the class expects. The next mount fetches it again, unless
    /// the fetch would create something new. Returns `true` if the next mount will fetch it.
    pub fn invalidate(&self, request: &SecretRequest, secret: &Arc<CachedSecret>) -> bool {
        let Some(slot) = self.lock().get(request).cloned() else { return false };
        let mut slot_state = slot.state();
        let Some(entry) = slot_state.entry.as_mut().filter(|entry| Arc::ptr_eq(&entry.secret, secret)) else {
            return false;
        };
        entry.invalidated |= matches!(entry.lifecycle, Lifecycle::Plain { mutating: false, .. });
        entry.invalidated
    }

    /// Sets the requests that a volume references. Returns `true` if this changed the volume's references.
    ///
    /// A secret without references is not renewed. It is removed when no valid lease, pending delivery or running fetch
    /// needs it.
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
                // Few of the many secrets have a second reference, so reserve only one entry.
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

    /// Returns the secrets of all requests if each was delivered and is fresh, and no token needs verification. A token
    /// needs verification if Vault has not accepted it within `verify_interval`.
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

    /// Returns the tokens to verify before these secrets are served.
    ///
    /// A token needs verification if one of its secrets is undelivered, or if Vault has not accepted the token within
    /// `verify_interval`. The flag is `true` if a secret of the token is undelivered.
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
            match tokens.iter_mut().find(|(token, _)| Arc::ptr_eq(token, &entry.token)) {
                Some((_, is_undelivered)) => *is_undelivered |= !entry.delivered,
                None => tokens.push((Arc::clone(&entry.token), !entry.delivered)),
            }
        }
        tokens
    }

    /// Returns `true` if a referenced secret expires with this token.
    pub fn has_referenced_bound_secrets(&self, token: &Arc<SessionToken>) -> bool {
        self.any_entry(|slot_state, entry| {
            !slot_state.referenced_by.is_empty()
                && entry.lifecycle.is_bound_to_token()
                && Arc::ptr_eq(&entry.token, token)
        })
    }

    /// Returns `true` if a secret expires with this token. Secrets without references count until they expire.
    pub fn has_bound_secrets(&self, token: &Arc<SessionToken>, now: Instant) -> bool {
        self.any_entry(|slot_state, entry| {
            let is_live = !slot_state.referenced_by.is_empty()
                || !entry.lifecycle.is_expired(entry.token.lifetime().as_ref(), now);
            is_live && entry.lifecycle.is_bound_to_token() && Arc::ptr_eq(&entry.token, token)
        })
    }

    /// Returns `true` if a secret with an expiry of its own has not expired.
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

    /// Returns the secret if it was stored after `generation`.
    fn newer_than(&self, generation: u64) -> Option<Arc<CachedSecret>> {
        let slot_state = self.state();
        slot_state.entry.as_ref().filter(|_| slot_state.generation > generation).map(|entry| Arc::clone(&entry.secret))
    }

    /// Stores a new response, or keeps the previous secret if only the envelope differs. Returns the kind of the
    /// previous secret if it is replaced.
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
    /// Returns `true` if the secret is not delivered yet, or its lease is still valid in Vault. Undelivered tokens and
    /// plain secrets that can be fetched again do not count.
    fn is_still_needed(&self, now: Instant) -> bool {
        self.entry.as_ref().is_some_and(|entry| match entry.lifecycle {
            Lifecycle::Leased { .. } => !entry.lifecycle.is_expired(entry.token.lifetime().as_ref(), now),
            Lifecycle::Token | Lifecycle::Plain { mutating: false, .. } => false,
            _ => !entry.delivered,
        })
    }
}

impl CacheEntry {
    /// Returns `true` if the token must be verified with Vault before the secret is served.
    ///
    /// An undelivered secret always needs this, because no other request shows that its token was revoked. A delivered
    /// secret needs it if Vault has not accepted the token within `verify_interval`.
    fn needs_verification(&self, now: Instant, verify_interval: Duration) -> bool {
        if !self.lifecycle.is_bound_to_token() || self.lifecycle.is_expired(self.token.lifetime().as_ref(), now) {
            return false;
        }
        // A token with a use limit has no uses to spare for delivered secrets, and an exhausted token cannot be
        // verified.
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
