//! A Vault token that leases hang on: its time, and whether Vault still knows it.

use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use crate::{
    clock::Epoch,
    term::{Granted, SavedTerm, Term},
    vault::client::{RenewalGrant, SavedToken, VaultToken},
};

/// A token of a session.
pub struct Hold {
    /// The token.
    pub token: Arc<VaultToken>,
    /// Never held across an await.
    standing: Mutex<Standing>,
}

struct Standing {
    term: Term,
    /// When it was found gone.
    gone: Option<Instant>,
    /// A renewal under way does not make it renewable again.
    retired: bool,
    /// When Vault last took it.
    proven: Instant,
    leased: bool,
}

/// A token as it is kept, sealed, across restarts. Moments are told from an [`Origin`].
#[derive(Serialize, Deserialize)]
pub struct SavedHold {
    token: SavedToken,
    term: SavedTerm,
    gone: Option<i64>,
    retired: bool,
    proven: i64,
    leased: bool,
}

impl SavedHold {
    /// What an operator names it by.
    #[must_use]
    pub fn accessor(&self) -> &str {
        self.token.accessor()
    }

    /// Its end as things stood; none: it has no end.
    #[must_use]
    pub fn ends(&self, origin: Epoch) -> Option<Instant> {
        self.term.ends(origin)
    }

    /// The token as it was. None when it is no token.
    #[must_use]
    pub fn restore(self, origin: Epoch) -> Option<Hold> {
        let standing = Standing {
            term: self.term.restore(origin),
            gone: self.gone.map(|gone| origin.instant_at(gone)),
            retired: self.retired,
            proven: origin.instant_at(self.proven),
            leased: self.leased,
        };
        Some(Hold { token: Arc::new(self.token.restore()?), standing: Mutex::new(standing) })
    }
}

impl Hold {
    /// What is kept of it across restarts.
    #[must_use]
    pub fn save(&self, origin: Epoch) -> SavedHold {
        let standing = self.lock();
        SavedHold {
            token: self.token.save(),
            term: standing.term.save(origin),
            gone: standing.gone.map(|gone| origin.to_millis(gone)),
            retired: standing.retired,
            proven: origin.to_millis(standing.proven),
            leased: standing.leased,
        }
    }

    /// The token of a login that was sent at `sent`.
    #[must_use]
    pub fn new(token: VaultToken, sent: Instant) -> Self {
        let renewable = token.renewable && renews(&token);
        let term = Term::new(token.ttl, renewable, sent);
        Self {
            token: Arc::new(token),
            standing: Mutex::new(Standing { term, gone: None, retired: false, proven: sent, leased: false }),
        }
    }

    /// Whether it is one to renew with, itself or leases.
    #[must_use]
    pub fn renews(&self) -> bool {
        renews(&self.token)
    }

    /// Its time; none when it is gone.
    #[must_use]
    pub fn term(&self) -> Option<Term> {
        let standing = self.lock();
        standing.gone.is_none().then(|| standing.term.clone())
    }

    /// Whether it still lives, as far as is known.
    #[must_use]
    pub fn lives(&self, now: Instant) -> bool {
        let standing = self.lock();
        standing.gone.is_none() && !standing.term.is_over(now)
    }

    /// Vault knows it no more, and ended everything that was leased under it.
    pub fn lost(&self, now: Instant) {
        self.lock().gone.get_or_insert(now);
    }

    /// When it was found gone, if it was.
    #[must_use]
    pub fn gone_at(&self) -> Option<Instant> {
        self.lock().gone
    }

    /// Something was leased under it, which ends with it.
    pub fn leased(&self) {
        self.lock().leased = true;
    }

    /// Whether anything ever was.
    #[must_use]
    pub fn has_leased(&self) -> bool {
        self.lock().leased
    }

    /// Vault took it at this moment.
    pub fn proven(&self, now: Instant) {
        let mut standing = self.lock();
        standing.proven = standing.proven.max(now);
    }

    /// When Vault last took it.
    #[must_use]
    pub fn proven_at(&self) -> Instant {
        self.lock().proven
    }

    /// A renewal that was sent at `sent` brought this.
    pub fn renewed(&self, grant: RenewalGrant, sent: Instant) -> Granted {
        let mut standing = self.lock();
        standing.proven = standing.proven.max(sent);
        let renewable = grant.renewable && !standing.retired;
        standing.term.renewed(grant.ttl, renewable, sent)
    }

    /// A renewal failed, for a policy `denied` it or else. How many have, one after another.
    pub fn failed(&self, now: Instant, denied: bool) -> u32 {
        let mut standing = self.lock();
        standing.term.failed(now, denied);
        standing.term.failures()
    }

    /// It is not renewed any more: Vault says that it cannot be, or another took its place.
    pub fn cannot_be_renewed(&self) {
        let mut standing = self.lock();
        standing.retired = true;
        standing.term.cannot_be_renewed();
    }

    /// Whether its time is over, gone before or not.
    #[must_use]
    pub fn is_over(&self, now: Instant) -> bool {
        self.lock().term.is_over(now)
    }

    fn lock(&self) -> MutexGuard<'_, Standing> {
        self.standing.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Uses are for secrets, and what hangs on a batch token ends with it, which nothing puts off.
fn renews(token: &VaultToken) -> bool {
    !token.is_batch && token.num_uses == 0
}

impl fmt::Debug for Hold {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hold").field("token", &self.token).finish_non_exhaustive()
    }
}
