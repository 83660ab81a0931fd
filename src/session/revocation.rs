//! Revocation at the end of a pod: its tokens, and with them all leases under them.

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;

use super::{
    PendingStateFile, Session, SessionKey,
    maintenance::{BACKGROUND_REQUEST_TIMEOUT, background_error},
};
use crate::{
    cache::SessionToken,
    clock::{self, with_jitter},
    error::Error,
    vault::{Vault, error::RequestError},
};

/// Token to be revoked, kept until Vault has revoked it or it expires.
pub struct PendingRevocation {
    /// Key of the session.
    pub key: SessionKey,
    /// The token.
    pub token: Arc<SessionToken>,
    /// Start of the pending revocation.
    pub pending_since: Instant,
    /// Number of attempts.
    pub attempts: u32,
    /// Error of the last attempt.
    pub last_error: String,
    /// State file of the ended session.
    state_file: Option<Arc<PendingStateFile>>,
}

/// Outcome of an attempt to revoke a token.
pub enum RevocationResult {
    /// The token and all leases under it are revoked.
    Revoked,
    /// The token was already revoked or expired.
    AlreadyExpired,
    /// The attempt failed.
    Retry {
        /// Time of the next attempt.
        retry_at: Instant,
        /// Error of the attempt.
        error: Error,
    },
    /// The token expired before the attempt, or is a batch token.
    NotRevocable,
}

/// Initial retry backoff; it doubles up to the maximum.
const INITIAL_REVOCATION_BACKOFF: Duration = Duration::from_secs(1);
const MAX_REVOCATION_BACKOFF: Duration = Duration::from_secs(300);
/// Delay until the next check while Vault is down. The check sends no request.
const OUTAGE_RECHECK_INTERVAL: Duration = Duration::from_secs(20);

impl Session {
    /// Ends the session: no request is sent under it any more. Waits for requests in flight, then returns the pending revocations.
    pub async fn end(&self) -> Vec<PendingRevocation> {
        self.state().ended = true;
        // New requests take the lock first and then see the end; those in flight have their own deadlines.
        let _exclusive = self.activity_lock.write().await;
        let now = clock::now();
        let tokens: Vec<Arc<SessionToken>> = {
            let mut state = self.state();
            let tokens = std::mem::take(&mut state.superseded_tokens).into_iter().chain(state.token.take());
            // A token unknown to one Vault server may be known to another.
            tokens.filter(|token| !token.is_expired(now)).collect()
        };
        let state_file = self.release_state_file(tokens.len()).await;
        if let Some(state_file) = state_file.as_ref().filter(|_| tokens.is_empty()) {
            state_file.delete();
        }
        tokens
            .into_iter()
            .map(|token| PendingRevocation { state_file: state_file.clone(), ..self.pending_revocation(token, now) })
            .collect()
    }

    /// Removes and returns exhausted tokens of limited uses without leases, to be revoked with their last use. Returns none while a
    /// request is in flight, since it may create a lease.
    pub fn take_exhausted_tokens(&self) -> Vec<PendingRevocation> {
        if self.state().superseded_tokens.is_empty() {
            return Vec::new();
        }
        let Ok(_exclusive) = self.activity_lock.try_write() else { return Vec::new() };
        let (mut state, now) = (self.state(), clock::now());
        let is_exhausted = |token: &mut Arc<SessionToken>| token.vault_token.is_exhausted() && !token.has_leases();
        state.superseded_tokens.extract_if(.., is_exhausted).map(|token| self.pending_revocation(token, now)).collect()
    }

    fn pending_revocation(&self, token: Arc<SessionToken>, now: Instant) -> PendingRevocation {
        PendingRevocation {
            key: self.key.clone(),
            token,
            pending_since: now,
            attempts: 0,
            last_error: String::new(),
            state_file: None,
        }
    }
}

impl PendingRevocation {
    /// Returns the time of the next check if the endpoint is known to be down. That does not count as an attempt.
    pub fn defer(&mut self, vault: &Vault) -> Option<Instant> {
        let now = clock::now();
        if self.token.vault_token.is_batch || self.token.is_expired(now) {
            return None;
        }
        self.last_error = vault.outage(&self.key.endpoint)?.reason.to_string();
        Some(now + with_jitter(OUTAGE_RECHECK_INTERVAL))
    }

    /// Attempts to revoke the token.
    pub async fn attempt(&mut self, vault: &Vault) -> RevocationResult {
        let result = self.try_revoke(vault).await;
        if let (Some(state_file), false) = (&self.state_file, matches!(result, RevocationResult::Retry { .. })) {
            state_file.record_token_revoked();
        }
        result
    }

    async fn try_revoke(&mut self, vault: &Vault) -> RevocationResult {
        let SessionKey { pod_name: pod, pod_namespace: namespace, role, .. } = &self.key;
        if self.token.vault_token.is_batch {
            tracing::debug!(pod, namespace, role, "batch token cannot be revoked; it expires on its own");
            return RevocationResult::NotRevocable;
        }
        if self.token.is_expired(clock::now()) {
            if self.attempts > 0 {
                tracing::warn!(
                    pod,
                    namespace,
                    role,
                    attempts = self.attempts,
                    "token expired before it could be revoked"
                );
            }
            return RevocationResult::NotRevocable;
        }
        self.attempts += 1;
        let error = match self.send_revocation(vault).await {
            Ok(true) => {
                if self.token.vault_token.is_exhausted() && !self.token.has_leases() {
                    tracing::debug!(pod, namespace, role, "token revoked by its last use");
                } else {
                    tracing::info!(pod, namespace, role, "token and its leases revoked");
                }
                return RevocationResult::Revoked;
            }
            Ok(false) => return RevocationResult::AlreadyExpired,
            Err(error) => error,
        };
        self.last_error = error.to_string();
        let delay = with_jitter(
            MAX_REVOCATION_BACKOFF.min(INITIAL_REVOCATION_BACKOFF * 2u32.saturating_pow(self.attempts.min(16) - 1)),
        );
        if self.attempts.is_power_of_two() {
            tracing::warn!(pod, namespace, role, attempts = self.attempts, retry_in = ?delay, %error, "token revocation failed, retrying");
        }
        RevocationResult::Retry { retry_at: clock::now() + delay, error }
    }

    /// Revokes the token. Returns `false` if it was already revoked or expired.
    async fn send_revocation(&self, vault: &Vault) -> Result<bool, Error> {
        let client = vault.client_for_session(&self.key.endpoint, &self.key.pod_namespace).await?;
        let _permit = client.background_permit(self.token.lifetime().and_then(|lifetime| lifetime.expires_at())).await;
        let deadline = Instant::now() + BACKGROUND_REQUEST_TIMEOUT;
        match client.revoke_token(&self.token.vault_token, self.key.auth_namespace.as_deref(), deadline).await {
            Ok(()) => Ok(true),
            Err(RequestError::ErrorResponse(refusal)) if refusal.status == 403 => {
                // Denied by a policy, or an unknown token: the response does not always distinguish them.
                let is_revoked = client
                    .is_token_invalid(&self.token.vault_token, self.key.auth_namespace.as_deref(), deadline)
                    .await;
                let denied_error = || RequestError::ErrorResponse(refusal.clone()).explain_transport(client.address());
                if is_revoked {
                    Ok(false)
                } else {
                    Err(denied_error()
                        .with_fix("let the role's policies update auth/token/revoke-self, as `default` does"))
                }
            }
            Err(failure) => {
                let error = background_error(&failure, &client);
                if error.cause().is_tls() {
                    vault.mark_tls_suspect(&self.key.endpoint);
                }
                Err(error)
            }
        }
    }
}
