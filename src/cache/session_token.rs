//! A Vault token that leases hang on: its time, and whether Vault still knows it.

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

/// A token of a session.
pub struct SessionToken {
    /// The token.
    pub vault_token: Arc<VaultToken>,
    /// Never held across an await.
    state: Mutex<TokenState>,
}

struct TokenState {
    lifetime: Lifetime,
    /// When it was found gone.
    revoked_at: Option<Instant>,
    /// A renewal under way does not make it renewable again.
    renewal_disabled: bool,
    /// When Vault last took it.
    verified_at: Instant,
    has_leases: bool,
}

/// A token as it is kept, sealed, across restarts. Moments are told from an [`Origin`].
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
    /// What an operator names it by.
    #[must_use]
    pub fn accessor(&self) -> &str {
        self.vault_token.accessor()
    }

    /// Its end as things stood; none: it has no end.
    #[must_use]
    pub fn expires_at(&self, epoch: Epoch) -> Option<Instant> {
        self.lifetime.expires_at(epoch)
    }

    /// The token as it was. None when it is no token.
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
    /// What is kept of it across restarts.
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

    /// The token of a login that was sent at `sent`.
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

    /// Whether it is one to renew with, itself or leases.
    #[must_use]
    pub fn can_renew(&self) -> bool {
        allows_renewal(&self.vault_token)
    }

    /// Its time; none when it is gone.
    #[must_use]
    pub fn lifetime(&self) -> Option<Lifetime> {
        let state = self.lock();
        state.revoked_at.is_none().then(|| state.lifetime.clone())
    }

    /// Whether it still lives, as far as is known.
    #[must_use]
    pub fn is_alive(&self, now: Instant) -> bool {
        let state = self.lock();
        state.revoked_at.is_none() && !state.lifetime.is_expired(now)
    }

    /// Vault knows it no more, and ended everything that was leased under it.
    pub fn mark_revoked(&self, now: Instant) {
        self.lock().revoked_at.get_or_insert(now);
    }

    /// When it was found gone, if it was.
    #[must_use]
    pub fn revoked_at(&self) -> Option<Instant> {
        self.lock().revoked_at
    }

    /// Something was leased under it, which ends with it.
    pub fn mark_leased(&self) {
        self.lock().has_leases = true;
    }

    /// Whether anything ever was.
    #[must_use]
    pub fn has_leases(&self) -> bool {
        self.lock().has_leases
    }

    /// Vault took it at this moment.
    pub fn mark_verified(&self, now: Instant) {
        let mut state = self.lock();
        state.verified_at = state.verified_at.max(now);
    }

    /// When Vault last took it.
    #[must_use]
    pub fn verified_at(&self) -> Instant {
        self.lock().verified_at
    }

    /// A renewal that was sent at `sent` brought this.
    pub fn apply_renewal(&self, grant: RenewalGrant, sent_at: Instant) -> GrantKind {
        let mut state = self.lock();
        state.verified_at = state.verified_at.max(sent_at);
        let renewable = grant.renewable && !state.renewal_disabled;
        state.lifetime.apply_renewal(grant.ttl, renewable, sent_at)
    }

    /// A renewal failed, for a policy `denied` it or else. How many have, one after another.
    pub fn record_renewal_failure(&self, now: Instant, denied: bool) -> u32 {
        let mut state = self.lock();
        state.lifetime.record_failure(now, denied);
        state.lifetime.failures()
    }

    /// It is not renewed any more: Vault says that it cannot be, or another took its place.
    pub fn disable_renewal(&self) {
        let mut state = self.lock();
        state.renewal_disabled = true;
        state.lifetime.disable_renewal();
    }

    /// Whether its time is over, gone before or not.
    #[must_use]
    pub fn is_expired(&self, now: Instant) -> bool {
        self.lock().lifetime.is_expired(now)
    }

    fn lock(&self) -> MutexGuard<'_, TokenState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Uses are for secrets, and what hangs on a batch token ends with it, which nothing puts off.
fn allows_renewal(token: &VaultToken) -> bool {
    !token.is_batch && token.num_uses == 0
}

impl fmt::Debug for SessionToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SessionToken").field("token", &self.vault_token).finish_non_exhaustive()
    }
}
