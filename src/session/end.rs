//! The end of a pod: its tokens are revoked, and with them all that was leased under them.

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;

use super::{
    Estate, Session, SessionKey,
    upkeep::{ATTEMPT, unwaited},
};
use crate::{
    clock::{self, with_jitter},
    error::Error,
    lease::Hold,
    vault::{Vault, failure::RequestError},
};

/// A token that is to be revoked. Kept until Vault has, or the token ends by itself.
pub struct Debt {
    /// Whose it was.
    pub key: SessionKey,
    /// The token.
    pub hold: Arc<Hold>,
    /// Since when it is to be revoked.
    pub since: Instant,
    /// How often that was tried.
    pub attempts: u32,
    /// Why the last attempt failed.
    pub trouble: String,
    /// The file of the session that has ended with it.
    estate: Option<Arc<Estate>>,
}

/// What came of trying to revoke a token.
pub enum Paid {
    /// It is revoked, and all that was leased under it.
    Revoked,
    /// It was over before.
    Over,
    /// Not yet.
    Later {
        /// When to try again.
        at: Instant,
        /// Why.
        error: Error,
    },
    /// It ended by itself before Vault could be asked, or Vault keeps no record of it.
    Never,
}

/// The first pause before another attempt; it doubles, up to the longest.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const MAX_PAUSE: Duration = Duration::from_secs(300);
/// The pause before it is looked at again while nobody can be asked: that takes no request.
const DOWN_PAUSE: Duration = Duration::from_secs(20);

impl Session {
    /// Ends it: nothing is asked under it any more. What is to be revoked, once nothing is under way.
    pub async fn end(&self) -> Vec<Debt> {
        self.state().ended = true;
        // Whoever asks takes the guard first, and then sees that it has ended; what is under way has a deadline of its own.
        let _quiet = self.activity.write().await;
        let now = clock::now();
        let holds: Vec<Arc<Hold>> = {
            let mut state = self.state();
            let holds = std::mem::take(&mut state.superseded).into_iter().chain(state.hold.take());
            // One that Vault did not know may be known to another of its servers.
            holds.filter(|hold| !hold.is_over(now)).collect()
        };
        let estate = self.estate(holds.len()).await;
        if let Some(estate) = estate.as_ref().filter(|_| holds.is_empty()) {
            estate.erase();
        }
        holds.into_iter().map(|hold| Debt { estate: estate.clone(), ..self.owe(hold, now) }).collect()
    }

    /// Takes the tokens of few uses that are of no more, to be revoked by the use that was left: nothing was ever leased
    /// under them. None while a request is under way, which may be for a lease.
    pub fn take_spent(&self) -> Vec<Debt> {
        if self.state().superseded.is_empty() {
            return Vec::new();
        }
        let Ok(_quiet) = self.activity.try_write() else { return Vec::new() };
        let (mut state, now) = (self.state(), clock::now());
        let is_of_no_use = |hold: &mut Arc<Hold>| hold.token.is_exhausted() && !hold.has_leased();
        state.superseded.extract_if(.., is_of_no_use).map(|hold| self.owe(hold, now)).collect()
    }

    fn owe(&self, hold: Arc<Hold>, now: Instant) -> Debt {
        Debt { key: self.key.clone(), hold, since: now, attempts: 0, trouble: String::new(), estate: None }
    }
}

impl Debt {
    /// When to look at it again, while its server cannot be asked: that is no attempt.
    pub fn put_off(&mut self, vault: &Vault) -> Option<Instant> {
        let now = clock::now();
        if self.hold.token.is_batch || self.hold.is_over(now) {
            return None;
        }
        self.trouble = vault.outage(&self.key.endpoint)?.reason.to_string();
        Some(now + with_jitter(DOWN_PAUSE))
    }

    /// Tries to revoke the token.
    pub async fn pay(&mut self, vault: &Vault) -> Paid {
        let paid = self.try_to_pay(vault).await;
        if let (Some(estate), false) = (&self.estate, matches!(paid, Paid::Later { .. })) {
            estate.settle();
        }
        paid
    }

    async fn try_to_pay(&mut self, vault: &Vault) -> Paid {
        let SessionKey { pod_name: pod, pod_namespace: namespace, role, .. } = &self.key;
        if self.hold.token.is_batch {
            tracing::debug!(pod, namespace, role, "a batch token cannot be revoked; it ends by itself");
            return Paid::Never;
        }
        if self.hold.is_over(clock::now()) {
            if self.attempts > 0 {
                tracing::warn!(
                    pod,
                    namespace,
                    role,
                    attempts = self.attempts,
                    "the pod's token ended before it could be revoked"
                );
            }
            return Paid::Never;
        }
        self.attempts += 1;
        let error = match self.attempt(vault).await {
            Ok(true) => {
                if self.hold.token.is_exhausted() && !self.hold.has_leased() {
                    tracing::debug!(pod, namespace, role, "a token of few uses is revoked by its last");
                } else {
                    tracing::info!(pod, namespace, role, "the pod's token is revoked, and what was leased under it");
                }
                return Paid::Revoked;
            }
            Ok(false) => return Paid::Over,
            Err(error) => error,
        };
        self.trouble = error.to_string();
        let pause = with_jitter(MAX_PAUSE.min(FIRST_PAUSE * 2u32.saturating_pow(self.attempts.min(16) - 1)));
        if self.attempts.is_power_of_two() {
            tracing::warn!(pod, namespace, role, attempts = self.attempts, again_in = ?pause, "the pod's token cannot be revoked: {error}");
        }
        Paid::Later { at: clock::now() + pause, error }
    }

    /// Whether it was revoked now; false: it was over before.
    async fn attempt(&self, vault: &Vault) -> Result<bool, Error> {
        let client = vault.client_for_session(&self.key.endpoint, &self.key.pod_namespace).await?;
        let _turn = client.background_permit(self.hold.term().and_then(|term| term.ends())).await;
        let deadline = Instant::now() + ATTEMPT;
        match client.revoke_token(&self.hold.token, self.key.auth_namespace.as_deref(), deadline).await {
            Ok(()) => Ok(true),
            Err(RequestError::ErrorResponse(refusal)) if refusal.status == 403 => {
                // What a policy forbids, or what Vault does not know: it does not always say which.
                let gone =
                    client.is_token_invalid(&self.hold.token, self.key.auth_namespace.as_deref(), deadline).await;
                let denied = || RequestError::ErrorResponse(refusal.clone()).explain_transport(client.address());
                if gone {
                    Ok(false)
                } else {
                    Err(denied().advice("let the role's policies update auth/token/revoke-self, as `default` does"))
                }
            }
            Err(failure) => {
                let error = unwaited(&failure, &client);
                if error.cause().is_tls() {
                    vault.mark_tls_suspect(&self.key.endpoint);
                }
                Err(error)
            }
        }
    }
}
