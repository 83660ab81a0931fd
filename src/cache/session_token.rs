//! Session tokens: lifetime, verification and revocation of Vault tokens.

use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use crate::{
    clock::Epoch,
    lifetime::{GrantKind, Lifetime, SavedLifetime},
    vault::client::{RenewalGrant, SavedToken, VaultToken},
};

/// Vault token of a session, with its lifetime.
pub struct SessionToken {
    /// Vault token from the login.
    pub vault_token: Arc<VaultToken>,
    /// Lock is never held across an await.
    state: Mutex<TokenState>,
}

struct TokenState {
    lifetime: Lifetime,
    /// Time when vaultmount detected that the token was revoked.
    revoked_at: Option<Instant>,
    /// Prevents a renewal in progress from making the token renewable again.
    renewal_disabled: bool,
    /// Time when Vault last accepted the token.
    verified_at: Instant,
    has_leases: bool,
}

/// Session token in the encrypted state. Times are milliseconds relative to an [`Epoch`].
#[derive(Serialize, Deserialize)]
pub struct SavedSessionToken {
    vault_token: SavedToken,
    lifetime: SavedLifetime,
    revoked_at: Option<i64>,
    renewal_disabled: bool,
    verified_at: i64,
    has_leases: bool,
}

impl SavedSessionToken {
    /// Accessor of the token, which operators use to identify it.
    #[must_use]
    pub fn accessor(&self) -> &str {
        self.vault_token.accessor()
    }

    /// Returns the saved expiry; `None` if the token does not expire.
    #[must_use]
    pub fn expires_at(&self, epoch: Epoch) -> Option<Instant> {
        self.lifetime.expires_at(epoch)
    }

    /// Restores the session token; returns `None` if the saved token is not valid.
    #[must_use]
    pub fn restore(self, epoch: Epoch) -> Option<SessionToken> {
        let state = TokenState {
            lifetime: self.lifetime.restore(epoch),
            revoked_at: self.revoked_at.map(|gone| epoch.instant_at(gone)),
            renewal_disabled: self.renewal_disabled,
            verified_at: epoch.instant_at(self.verified_at),
            has_leases: self.has_leases,
        };
        Some(SessionToken { vault_token: Arc::new(self.vault_token.restore()?), state: Mutex::new(state) })
    }
}

impl SessionToken {
    /// Returns the saved form of the token.
    #[must_use]
    pub fn to_saved(&self, epoch: Epoch) -> SavedSessionToken {
        let state = self.lock();
        SavedSessionToken {
            vault_token: self.vault_token.save(),
            lifetime: state.lifetime.to_saved(epoch),
            revoked_at: state.revoked_at.map(|gone| epoch.to_millis(gone)),
            renewal_disabled: state.renewal_disabled,
            verified_at: epoch.to_millis(state.verified_at),
            has_leases: state.has_leases,
        }
    }

    /// Creates a session token from a login request that was sent at `sent_at`.
    #[must_use]
    pub fn new(token: VaultToken, sent_at: Instant) -> Self {
        let renewable = token.renewable && allows_renewal(&token);
        let lifetime = Lifetime::new(token.ttl, renewable, sent_at);
        Self {
            vault_token: Arc::new(token),
            state: Mutex::new(TokenState {
                lifetime,
                revoked_at: None,
                renewal_disabled: false,
                verified_at: sent_at,
                has_leases: false,
            }),
        }
    }

    /// Returns `true` if the token can be renewed, or can renew leases.
    #[must_use]
    pub fn can_renew(&self) -> bool {
        allows_renewal(&self.vault_token)
    }

    /// Returns the lifetime; `None` if the token was revoked.
    #[must_use]
    pub fn lifetime(&self) -> Option<Lifetime> {
        let state = self.lock();
        state.revoked_at.is_none().then(|| state.lifetime.clone())
    }

    /// Returns `true` if the token is not known to be expired or revoked.
    #[must_use]
    pub fn is_alive(&self, now: Instant) -> bool {
        let state = self.lock();
        state.revoked_at.is_none() && !state.lifetime.is_expired(now)
    }

    /// Marks the token as revoked in Vault, together with all its leases.
    pub fn mark_revoked(&self, now: Instant) {
        self.lock().revoked_at.get_or_insert(now);
    }

    /// Returns the time when the revocation was detected.
    #[must_use]
    pub fn revoked_at(&self) -> Option<Instant> {
        self.lock().revoked_at
    }

    /// Marks the token as having leases, which end with the token.
    pub fn mark_leased(&self) {
        self.lock().has_leases = true;
    }

    /// Returns `true` if the token ever had a lease.
    #[must_use]
    pub fn has_leases(&self) -> bool {
        self.lock().has_leases
    }

    /// Records that Vault accepted the token at `now`.
    pub fn mark_verified(&self, now: Instant) {
        let mut state = self.lock();
        state.verified_at = state.verified_at.max(now);
    }

    /// Returns the time when Vault last accepted the token.
    #[must_use]
    pub fn verified_at(&self) -> Instant {
        self.lock().verified_at
    }

    /// Applies a renewal that was sent at `sent_at`.
    pub fn apply_renewal(&self, grant: RenewalGrant, sent_at: Instant) -> GrantKind {
        let mut state = self.lock();
        state.verified_at = state.verified_at.max(sent_at);
        let renewable = grant.renewable && !state.renewal_disabled;
        state.lifetime.apply_renewal(grant.ttl, renewable, sent_at)
    }

    /// Records a failed renewal, `denied` by a policy or failed otherwise. Returns the number of consecutive failures.
    pub fn record_renewal_failure(&self, now: Instant, denied: bool) -> u32 {
        let mut state = self.lock();
        state.lifetime.record_failure(now, denied);
        state.lifetime.failures()
    }

    /// Disables renewal, because Vault rejects it or another token replaced this one.
    pub fn disable_renewal(&self) {
        let mut state = self.lock();
        state.renewal_disabled = true;
        state.lifetime.disable_renewal();
    }

    /// Returns `true` if the TTL has passed, even if the token was revoked earlier.
    #[must_use]
    pub fn is_expired(&self, now: Instant) -> bool {
        self.lock().lifetime.is_expired(now)
    }

    fn lock(&self) -> MutexGuard<'_, TokenState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Returns `false` for batch tokens and tokens with a use limit. Limited uses are reserved for secrets. Leases of a
/// batch token end with that token, and its expiry cannot be extended.
fn allows_renewal(token: &VaultToken) -> bool {
    !token.is_batch && token.num_uses == 0
}

impl fmt::Debug for SessionToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SessionToken").field("token", &self.vault_token).finish_non_exhaustive()
    }
}
