//! Background maintenance of cached secrets: due renewals, expiry notices and status snapshots.

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;

use super::{CacheEntry, CacheSlot, Lifecycle, SecretCache, SessionToken};
use crate::{
    cache::kind::{SecretKind, SecretState},
    lifetime::{GrantKind, Lifetime},
    vault::{client::RenewalGrant, request::SecretRequest},
};

/// Lease that is due for renewal.
pub struct PendingRenewal {
    /// Request of the secret.
    pub request: Arc<SecretRequest>,
    /// Lease ID.
    pub lease_id: String,
    /// Duration to request from Vault.
    pub requested_ttl: Duration,
    /// Current expiry, by lease or token, whichever is earlier.
    pub expires_at: Option<Instant>,
    /// Session token of the lease.
    pub token: Arc<SessionToken>,
    slot: Arc<CacheSlot>,
}

/// Expiry of a secret that no mount replaces in time.
pub struct ExpiryNotice {
    /// Request of the secret.
    pub request: Arc<SecretRequest>,
    /// Kind of the secret.
    pub kind: SecretKind,
    /// Expiry time.
    pub expires_at: Instant,
    /// `true` if the secret has expired, `false` if it will.
    pub is_expired: bool,
}

/// Cached secret, as reported in the status.
pub struct SecretSnapshot {
    /// Request of the secret.
    pub request: Arc<SecretRequest>,
    /// Kind of the secret.
    pub kind: SecretKind,
    /// Current expiry, by secret or token, whichever is earlier.
    pub expires_at: Option<Instant>,
    /// Expiry that only a mount can extend.
    pub max_expires_at: Option<Instant>,
    /// Time of the next renewal.
    pub renew_at: Option<Instant>,
    /// Time of the fetch.
    pub read_at: Instant,
    /// State of the secret.
    pub state: SecretState,
    /// Error of the last renewal or fetch.
    pub last_error: Option<String>,
    /// Number of volumes that reference the secret.
    pub volume_count: usize,
}

/// Last expiry warning that was sent for a secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum ExpiryWarning {
    NotSent,
    Expiring,
    Expired,
}

/// Minimum interval between two checks of an approaching expiry.
const MIN_EXPIRY_CHECK_INTERVAL: Duration = Duration::from_secs(1);
/// Interval between checks for an overdue poll.
const OVERDUE_POLL_CHECK_INTERVAL: Duration = Duration::from_secs(15);

impl SecretCache {
    /// Returns the leases that are due for renewal.
    pub fn due_renewals(&self, now: Instant) -> Vec<PendingRenewal> {
        let mut renewals = Vec::new();
        for (request, slot) in &*self.lock() {
            let slot_state = slot.state();
            let Some(entry) = &slot_state.entry else { continue };
            let Lifecycle::Leased { lease_id, lifetime } = &entry.lifecycle else { continue };
            let renew_at = entry.lifecycle.renew_at(entry.token.lifetime().as_ref(), now);
            if !slot_state.referenced_by.is_empty() && renew_at.is_some_and(|due| now >= due) {
                renewals.push(PendingRenewal {
                    request: Arc::clone(request),
                    lease_id: lease_id.clone(),
                    requested_ttl: lifetime.requested_ttl(),
                    expires_at: entry.earlier_expiry(
                        entry.token.lifetime().as_ref(),
                        lifetime.expires_at(),
                        Lifetime::expires_at,
                    ),
                    token: Arc::clone(&entry.token),
                    slot: Arc::clone(slot),
                });
            }
        }
        renewals
    }

    /// Returns the time of the next renewal or expiry check; `None` if there is neither.
    pub fn next_wakeup(&self, is_renewal_active: bool, now: Instant) -> Option<Instant> {
        let mut next: Option<Instant> = None;
        for slot in self.lock().values() {
            let slot_state = slot.state();
            let Some(entry) = slot_state.entry.as_ref().filter(|_| !slot_state.referenced_by.is_empty()) else {
                continue;
            };
            let token_lifetime = entry.token.lifetime();
            let renew_at = entry.lifecycle.renew_at(token_lifetime.as_ref(), now).filter(|_| is_renewal_active);
            let expiry_check = entry.next_expiry_check(token_lifetime.as_ref(), is_renewal_active, now);
            next = [next, renew_at, expiry_check].into_iter().flatten().min();
        }
        next
    }

    /// Returns the earliest expiry of the renewed leases.
    pub fn earliest_expiry(&self, now: Instant) -> Option<Instant> {
        let slots = self.lock();
        let expiries = slots.values().filter_map(|slot| {
            let slot_state = slot.state();
            let entry = slot_state.entry.as_ref().filter(|_| !slot_state.referenced_by.is_empty())?;
            let token_lifetime = entry.token.lifetime();
            entry.lifecycle.renew_at(token_lifetime.as_ref(), now)?;
            entry.earlier_expiry(token_lifetime.as_ref(), entry.lifecycle.expires_at(), Lifetime::expires_at)
        });
        expiries.min()
    }

    /// Returns notices for secrets that expire without a mount: one when the expiry is near, and one when the secret
    /// has expired.
    ///
    /// `is_poll_expected` says that a poll is expected to fetch the secret again. `is_renewal_active` says that
    /// vaultmount will renew leases.
    pub fn take_expiry_notices(
        &self,
        is_poll_expected: bool,
        is_renewal_active: bool,
        now: Instant,
    ) -> Vec<ExpiryNotice> {
        let mut notices = Vec::new();
        for (request, slot) in &*self.lock() {
            let mut slot_state = slot.state();
            let is_referenced = !slot_state.referenced_by.is_empty();
            let Some(entry) = slot_state.entry.as_mut().filter(|_| is_referenced) else { continue };
            let token_lifetime = entry.token.lifetime();
            let Some((expires_at, warn_at)) = entry.expiry_and_warn_at(token_lifetime.as_ref(), is_renewal_active, now)
            else {
                entry.expiry_warning = ExpiryWarning::NotSent;
                continue;
            };
            let warning = if is_poll_expected || now < warn_at {
                continue;
            } else if now < expires_at {
                ExpiryWarning::Expiring
            } else {
                ExpiryWarning::Expired
            };
            if entry.expiry_warning < warning {
                entry.expiry_warning = warning;
                let is_expired = warning == ExpiryWarning::Expired;
                notices.push(ExpiryNotice {
                    request: Arc::clone(request),
                    kind: entry.lifecycle.kind(),
                    expires_at,
                    is_expired,
                });
            }
        }
        notices
    }

    /// Returns all cached secrets. `is_renewal_active` says that vaultmount will renew leases.
    pub fn snapshots(&self, is_renewal_active: bool, now: Instant) -> Vec<SecretSnapshot> {
        let slots = self.lock();
        let snapshots = slots.iter().filter_map(|(request, slot)| {
            let slot_state = slot.state();
            let entry = slot_state.entry.as_ref()?;
            let token_lifetime = entry.token.lifetime();
            let is_referenced = !slot_state.referenced_by.is_empty();
            let lifetime = match &entry.lifecycle {
                Lifecycle::Leased { lifetime, .. } => Some(lifetime),
                _ => None,
            };
            let max_expires_at = entry.max_expires_at(token_lifetime.as_ref(), is_renewal_active && is_referenced);
            let revoked_at = entry.token.revoked_at().filter(|_| entry.lifecycle.is_bound_to_token());
            let is_expired = revoked_at.is_some() || entry.lifecycle.is_expired(token_lifetime.as_ref(), now);
            let state = match lifetime {
                _ if !is_referenced && entry.delivered => SecretState::Superseded,
                Some(lifetime) if lifetime.is_failing() && !is_expired => SecretState::Failing,
                _ if entry
                    .expiry_and_warn_at(token_lifetime.as_ref(), is_renewal_active, now)
                    .is_some_and(|(_, warn_at)| now >= warn_at) =>
                {
                    SecretState::Expiring
                }
                _ => SecretState::Active,
            };
            Some(SecretSnapshot {
                request: Arc::clone(request),
                kind: entry.lifecycle.kind(),
                expires_at: revoked_at.or_else(|| {
                    entry.earlier_expiry(token_lifetime.as_ref(), entry.lifecycle.expires_at(), Lifetime::expires_at)
                }),
                max_expires_at: revoked_at.or(max_expires_at),
                renew_at: lifetime
                    .filter(|lifetime| is_renewal_active && is_referenced && !is_expired && lifetime.is_renewable())
                    .map(|lifetime| lifetime.renew_at()),
                read_at: entry.read_at,
                state,
                last_error: entry.last_error.clone(),
                volume_count: slot_state.referenced_by.len(),
            })
        });
        snapshots.collect()
    }
}

impl CacheEntry {
    /// Returns the earlier of the secret's own expiry and, if the secret is bound to its token, the token's expiry.
    fn earlier_expiry(
        &self,
        token_lifetime: Option<&Lifetime>,
        own_expiry: Option<Instant>,
        token_expiry: impl Fn(&Lifetime) -> Option<Instant>,
    ) -> Option<Instant> {
        let token_expires_at = token_lifetime.filter(|_| self.lifecycle.is_bound_to_token()).and_then(token_expiry);
        [own_expiry, token_expires_at].into_iter().flatten().min()
    }

    /// Returns the expiry that only a mount can extend. Without renewals, this is the current expiry.
    fn max_expires_at(&self, token_lifetime: Option<&Lifetime>, is_renewal_active: bool) -> Option<Instant> {
        if is_renewal_active {
            self.earlier_expiry(token_lifetime, self.lifecycle.max_expires_at(), Lifetime::max_expires_at)
        } else {
            self.earlier_expiry(token_lifetime, self.lifecycle.expires_at(), Lifetime::expires_at)
        }
    }

    /// Returns the expiry that only a mount can extend, and the time of its warning, when a third of the lifetime is
    /// left.
    fn expiry_and_warn_at(
        &self,
        token_lifetime: Option<&Lifetime>,
        is_renewal_active: bool,
        now: Instant,
    ) -> Option<(Instant, Instant)> {
        if self.lifecycle.is_bound_to_token() && token_lifetime.is_none() {
            return Some((now, now));
        }
        let expires_at = self.max_expires_at(token_lifetime, is_renewal_active)?;
        let warn_at = match &self.lifecycle {
            Lifecycle::Leased { lifetime, .. } => {
                let bounding_token = token_lifetime.filter(|token| token.expires_at() == Some(expires_at));
                bounding_token.unwrap_or(lifetime).warn_at(expires_at)
            }
            Lifecycle::Token => token_lifetime.map_or(now, |token| token.warn_at(expires_at)),
            Lifecycle::Certificate { refresh_at, .. } => *refresh_at,
            Lifecycle::Static { rotates_at, read_at } => {
                *rotates_at - rotates_at.saturating_duration_since(*read_at) / 3
            }
            Lifecycle::Plain { .. } => return None,
        };
        Some((expires_at, warn_at))
    }

    /// Returns the time of the next expiry check.
    fn next_expiry_check(
        &self,
        token_lifetime: Option<&Lifetime>,
        is_renewal_active: bool,
        now: Instant,
    ) -> Option<Instant> {
        let (expires_at, warn_at) = self.expiry_and_warn_at(token_lifetime, is_renewal_active, now)?;
        match self.expiry_warning {
            ExpiryWarning::Expired => None,
            ExpiryWarning::NotSent if now < warn_at => Some(warn_at),
            ExpiryWarning::NotSent if now < expires_at => {
                Some((now + (expires_at - now) / 2).max(now + MIN_EXPIRY_CHECK_INTERVAL))
            }
            // A poll is expected. If no poll comes, the next check sends the warning.
            ExpiryWarning::NotSent => Some(now + OVERDUE_POLL_CHECK_INTERVAL),
            ExpiryWarning::Expiring => Some(expires_at.max(now + MIN_EXPIRY_CHECK_INTERVAL)),
        }
    }
}

impl PendingRenewal {
    /// Applies a renewal that was sent at `sent_at`.
    pub(crate) fn apply_renewal(&self, grant: RenewalGrant, sent_at: Instant) -> Option<GrantKind> {
        self.update_lifetime(|last_error, lifetime| {
            *last_error = None;
            lifetime.apply_renewal(grant.ttl, grant.renewable, sent_at)
        })
    }

    /// Records a failed renewal. Returns the number of consecutive failures.
    pub(crate) fn record_failure(&self, now: Instant, denied: bool, error: String) -> Option<u32> {
        self.update_lifetime(|last_error, lifetime| {
            *last_error = Some(error);
            lifetime.record_failure(now, denied);
            lifetime.failures()
        })
    }

    /// Disables renewal, because Vault does not allow it.
    pub fn disable_renewal(&self) {
        self.update_lifetime(|_, lifetime| lifetime.disable_renewal());
    }

    /// Marks the lease as revoked in Vault.
    pub fn mark_revoked(&self, now: Instant) {
        self.update_lifetime(|_, lifetime| lifetime.apply_renewal(Duration::ZERO, false, now));
    }

    /// Updates the lifetime, unless the lease was replaced in the meantime.
    fn update_lifetime<T>(&self, update: impl FnOnce(&mut Option<String>, &mut Lifetime) -> T) -> Option<T> {
        let mut slot_state = self.slot.state();
        let CacheEntry { lifecycle, last_error, .. } = slot_state.entry.as_mut()?;
        match lifecycle {
            Lifecycle::Leased { lease_id, lifetime } if *lease_id == self.lease_id => {
                Some(update(last_error, lifetime))
            }
            _ => None,
        }
    }
}
