//! Background maintenance of sessions: renewals, and warnings of expiries that no renewal can extend.

use std::{
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use futures_util::future::join_all;
use tokio::time::Instant;

use super::{Session, SessionKey};
use crate::{
    cache::{ExpiryNotice, PendingRenewal, SessionToken, kind::SecretKind},
    clock,
    error::{Cause, Error},
    lifetime::{GrantKind, Lifetime},
    observe::{
        events::EventReason,
        metrics::{RenewalOutcome, RenewalTarget},
    },
    vault::{Client, Vault, breaker::retry_at, error::RequestError},
};

/// Timeout of one background request.
pub(super) const BACKGROUND_REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

/// Returns `true` if a policy denies the request, which only a policy change can fix.
fn is_denied(failure: &RequestError) -> bool {
    matches!(failure, RequestError::ErrorResponse(refusal) if refusal.status == 403)
}

/// Converts the failure of a background request.
pub(super) fn background_error(failure: &RequestError, client: &Client) -> Error {
    match failure {
        RequestError::DeadlineExceeded { during, .. } => {
            let summary = format!(
                "Vault at {} did not answer within {BACKGROUND_REQUEST_TIMEOUT:?} ({during})",
                client.address()
            );
            Error::new(Cause::Unreachable, summary)
        }
        failure => failure.explain_transport(client.address()),
    }
}

impl From<GrantKind> for RenewalOutcome {
    fn from(kind: GrantKind) -> Self {
        match kind {
            GrantKind::Full => Self::Renewed,
            GrantKind::Capped => Self::Capped,
        }
    }
}

/// Reason for a failed renewal.
enum RenewalFailure {
    /// The token no longer exists.
    TokenRevoked,
    /// The lease no longer exists.
    LeaseRevoked,
    /// Vault reports that no further renewal is possible.
    NotRenewable,
    /// Any other failure, which may be transient.
    Failed(Error),
}

impl Session {
    /// Returns the time of the next maintenance; `None` if only a mount can make any due.
    pub fn next_wakeup(&self) -> Option<Instant> {
        let now = clock::now();
        let (token, is_paused, retry_at) = {
            let state = self.state();
            if state.ended || state.volumes.is_empty() {
                return None;
            }
            (state.token.clone(), state.renewal_paused.is_some(), state.retry_after_outage.filter(|at| *at > now))
        };
        let token = token.filter(|_| !is_paused);
        let token_lifetime =
            token.filter(|token| self.cache.has_bound_secrets(token, now)).and_then(|token| token.lifetime());
        let token_renew_at =
            token_lifetime.filter(|term| term.is_renewable() && !term.is_expired(now)).map(|term| term.renew_at());
        let next = [token_renew_at, self.cache.next_wakeup(!is_paused, now)].into_iter().flatten().min();
        match retry_at {
            // Expiry warnings are still due in time.
            Some(at) => [next.map(|next| next.max(at)), self.cache.next_wakeup(false, now)].into_iter().flatten().min(),
            None => next,
        }
    }

    /// Does due maintenance: renews the token if secrets depend on it, then leases, and warns of expiries.
    pub async fn maintain(&self, vault: &Vault) {
        let token = {
            let state = self.state();
            if state.ended {
                return;
            }
            state.token.clone()
        };
        match vault.client_for_session(&self.key.endpoint, &self.key.pod_namespace).await {
            Ok(client) => {
                self.state().client = Ok(client.clone());
                if let Some(token) = token {
                    self.renew_token(&client, &token, vault).await;
                }
                let renewals = self.cache.due_renewals(clock::now());
                join_all(renewals.iter().map(|renewal| self.renew_lease(&client, renewal, vault))).await;
            }
            Err(error) => {
                self.record_error("preparing a renewal", &error);
                self.fail_due_renewals(token.as_deref(), &error);
            }
        }
        self.warn_of_expiry();
    }

    /// Defers due renewals until Vault is back. They do not count as failed, since no request was sent.
    fn defer_until_up(&self, token: Option<&SessionToken>) {
        let now = clock::now();
        let lifetime =
            token.and_then(SessionToken::lifetime).filter(|term| term.is_renewable() && !term.is_expired(now));
        let expires_at =
            [lifetime.and_then(|term| term.expires_at()), self.cache.earliest_expiry(now)].into_iter().flatten().min();
        let mut state = self.state();
        state.retry_after_outage = Some(retry_at(expires_at, now));
        if let (Some(expires_at), Ok(client)) = (expires_at, &state.client) {
            client.request_probe(expires_at.saturating_duration_since(now) / 4);
        }
    }

    /// Counts due renewals as failed, so that the retry waits for the backoff.
    fn fail_due_renewals(&self, token: Option<&SessionToken>, error: &Error) {
        let now = clock::now();
        let is_due =
            |token: &&SessionToken| token.lifetime().is_some_and(|term| term.is_renewable() && now >= term.renew_at());
        if let Some(token) = token.filter(is_due) {
            token.record_renewal_failure(now, false);
        }
        for renewal in self.cache.due_renewals(clock::now()) {
            renewal.record_failure(now, false, error.to_string());
        }
    }

    async fn renew_token(&self, client: &Client, token: &Arc<SessionToken>, vault: &Vault) {
        let now = clock::now();
        let is_due =
            |lifetime: &Lifetime| lifetime.is_renewable() && !lifetime.is_expired(now) && now >= lifetime.renew_at();
        let Some(lifetime) = token.lifetime().filter(is_due).filter(|_| self.cache.has_bound_secrets(token, now))
        else {
            return;
        };
        let _permit = client.background_permit(lifetime.expires_at()).await;
        let (sent_at, deadline) = (clock::now(), Instant::now() + BACKGROUND_REQUEST_TIMEOUT);
        let SessionKey { role, pod_name: pod, pod_namespace: namespace, .. } = &self.key;
        match client.renew_token(&token.vault_token, self.login_namespace(), lifetime.requested_ttl(), deadline).await {
            Ok(grant) => {
                let grant_kind = token.apply_renewal(grant, sent_at);
                self.count_renewal(RenewalTarget::Token, grant_kind.into());
                self.state().last_success_at = Some(clock::now());
                match grant_kind {
                    GrantKind::Full => tracing::debug!(role, pod, namespace, ttl = ?grant.ttl, "token renewed"),
                    GrantKind::Capped => tracing::info!(
                        role, pod, namespace, expires_at = %clock::time_of_day(sent_at + grant.ttl),
                        "token near its maximum TTL; a poll before its expiry logs in again"
                    ),
                }
            }
            Err(RequestError::Outage(_)) => self.defer_until_up(Some(token)),
            Err(failure) => {
                match self.classify_renewal_failure(client, RenewalTarget::Token, token, &failure, vault).await {
                    RenewalFailure::TokenRevoked => self.mark_token_revoked(token),
                    RenewalFailure::NotRenewable | RenewalFailure::LeaseRevoked => token.disable_renewal(),
                    RenewalFailure::Failed(error) => {
                        let error = self.with_policy_fix(error, &failure, token, "auth/token/renew-self");
                        let failures = token.record_renewal_failure(clock::now(), is_denied(&failure));
                        self.record_error("renewing the token", &error);
                        if failures.is_power_of_two() {
                            tracing::warn!(role, pod, namespace, failures, %error, "token renewal failed");
                        }
                    }
                }
            }
        }
    }

    async fn renew_lease(&self, client: &Client, renewal: &PendingRenewal, vault: &Vault) {
        let _permit = client.background_permit(renewal.expires_at).await;
        // Another renewal may have found the token revoked meanwhile.
        if !renewal.token.is_alive(clock::now()) {
            return;
        }
        let (sent_at, deadline) = (clock::now(), Instant::now() + BACKGROUND_REQUEST_TIMEOUT);
        let SessionKey { role, pod_name: pod, pod_namespace: namespace, .. } = &self.key;
        let path = &renewal.request.path;
        let outcome = client
            .renew_lease(
                &renewal.token.vault_token,
                self.key.namespace.as_deref(),
                &renewal.lease_id,
                renewal.requested_ttl,
                deadline,
            )
            .await;
        match outcome {
            Ok(grant) => {
                renewal.token.mark_verified(sent_at);
                self.state().last_success_at = Some(clock::now());
                let grant_kind = renewal.apply_renewal(grant, sent_at).unwrap_or(GrantKind::Full);
                self.count_renewal(RenewalTarget::Lease, grant_kind.into());
                match grant_kind {
                    GrantKind::Capped => tracing::info!(
                        role, pod, namespace, path, expires_at = %clock::time_of_day(sent_at + grant.ttl),
                        "lease near its maximum TTL; a poll before its expiry fetches a new credential"
                    ),
                    GrantKind::Full => {
                        tracing::debug!(role, pod, namespace, path, ttl = ?grant.ttl, "lease renewed");
                    }
                }
            }
            Err(RequestError::Outage(_)) => self.defer_until_up(Some(&renewal.token)),
            Err(failure) => {
                match self.classify_renewal_failure(client, RenewalTarget::Lease, &renewal.token, &failure, vault).await
                {
                    RenewalFailure::TokenRevoked => self.mark_token_revoked(&renewal.token),
                    RenewalFailure::LeaseRevoked => {
                        renewal.mark_revoked(clock::now());
                        tracing::warn!(
                            role,
                            pod,
                            namespace,
                            path,
                            "lease revoked before its expiry; the next poll fetches a new credential"
                        );
                    }
                    RenewalFailure::NotRenewable => renewal.disable_renewal(),
                    RenewalFailure::Failed(error) => {
                        let error = self.with_policy_fix(error, &failure, &renewal.token, "sys/leases/renew");
                        let failures = renewal.record_failure(clock::now(), is_denied(&failure), error.to_string());
                        self.record_error("renewing a lease", &error);
                        if failures.is_some_and(u32::is_power_of_two) {
                            tracing::warn!(role, pod, namespace, path, failures, %error, "lease renewal failed");
                        }
                    }
                }
            }
        }
    }

    /// Classifies a failed renewal. A denial does not prove that the token is revoked, so the token is looked up.
    async fn classify_renewal_failure(
        &self,
        client: &Client,
        target: RenewalTarget,
        token: &SessionToken,
        failure: &RequestError,
        vault: &Vault,
    ) -> RenewalFailure {
        let (outcome, result) = match failure {
            RequestError::ErrorResponse(refusal) if refusal.is_lease_not_found() => {
                (RenewalOutcome::NotFound, RenewalFailure::LeaseRevoked)
            }
            RequestError::ErrorResponse(refusal) if refusal.is_not_renewable() => {
                (RenewalOutcome::Denied, RenewalFailure::NotRenewable)
            }
            RequestError::ErrorResponse(refusal)
                if refusal.status == 403
                    && client
                        .is_token_invalid(
                            &token.vault_token,
                            self.login_namespace(),
                            Instant::now() + BACKGROUND_REQUEST_TIMEOUT,
                        )
                        .await =>
            {
                (RenewalOutcome::NotFound, RenewalFailure::TokenRevoked)
            }
            failure => {
                let error = background_error(failure, client);
                if error.cause().is_tls() {
                    vault.mark_tls_suspect(&self.key.endpoint);
                }
                let is_rejected = matches!(failure, RequestError::ErrorResponse(refusal) if refusal.status < 500 && refusal.status != 429);
                (
                    if is_rejected { RenewalOutcome::Denied } else { RenewalOutcome::Failed },
                    RenewalFailure::Failed(error),
                )
            }
        };
        self.count_renewal(target, outcome);
        result
    }

    fn count_renewal(&self, target: RenewalTarget, outcome: RenewalOutcome) {
        self.mark_dirty();
        self.observers.metrics.count_renewal(target, outcome);
    }

    /// Adds the missing policy as the fix if a policy denied the renewal.
    fn with_policy_fix(&self, error: Error, failure: &RequestError, token: &SessionToken, path: &str) -> Error {
        match failure {
            failure if is_denied(failure) => {
                let policies = token.vault_token.policies.join(", ");
                error.with_fix(format!(
                    "role {:?} (policies {policies}) may not update {path}, as policy `default` would allow: \
                     unset token_no_default_policy, or add path \"{path}\" {{ capabilities = [\"update\"] }}",
                    self.key.role
                ))
            }
            _ => error,
        }
    }

    /// Warns in time of secrets that expire without a mount, if no mount is expected.
    pub fn warn_of_expiry(&self) {
        let now = clock::now();
        let (is_poll_expected, is_paused, has_failing_polls, is_down) = {
            let state = self.state();
            (
                state.volumes.is_poll_expected(now),
                state.renewal_paused.is_some(),
                state.has_failing_polls(),
                state.outage().is_some(),
            )
        };
        let fix = if is_down {
            "Vault is down, so nothing renews or replaces it: check Vault"
        } else if has_failing_polls {
            "polls fail, so nothing replaces it: check the errors of the polls"
        } else {
            "no poll replaces it: restart the pod, or enable rotation in the driver"
        };
        let SessionKey { role, pod_name: pod, pod_namespace: namespace, .. } = &self.key;
        for ExpiryNotice { request, kind, expires_at, is_expired } in
            self.cache.take_expiry_notices(is_poll_expected, !is_paused && !is_down, now)
        {
            let (path, expires_at) = (request.display_path(), clock::time_of_day(expires_at));
            let secret_noun = match kind {
                SecretKind::Leased => "credential",
                SecretKind::Certificate => "certificate",
                SecretKind::Static => "static credential",
                SecretKind::Token => "Vault token",
                SecretKind::Plain => "secret",
            };
            self.emit_event(EventReason::CredentialExpiring, || {
                let verb = if is_expired { "expired at" } else { "expires at" };
                format!("the {secret_noun} of {path} {verb} {expires_at}, and {fix}")
            });
            if is_expired {
                tracing::error!(role, pod, namespace, path, kind = secret_noun, %expires_at, fix, "credential expired");
            } else {
                tracing::warn!(role, pod, namespace, path, kind = secret_noun, %expires_at, fix, "credential expires soon");
            }
        }
    }

    /// Pauses renewals for this reason until the next mount, or resumes them with `None`. Returns `true` if that is a change.
    pub fn pause_renewal(&self, reason: Option<&'static str>) -> bool {
        std::mem::replace(&mut self.state().renewal_paused, reason).is_none() && reason.is_some()
    }

    /// Returns the pod's idle time and, if it is polled, the longest recent mount interval.
    #[must_use]
    pub fn idle_time(&self) -> (Duration, Option<Duration>) {
        let state = self.state();
        (clock::now().saturating_duration_since(state.last_poll_at), state.volumes.longest_poll_interval())
    }

    /// Marks the session as in maintenance. Returns `false` if it already is.
    pub fn try_start_maintenance(&self) -> bool {
        !self.is_in_maintenance.swap(true, Relaxed)
    }

    /// Clears the maintenance mark.
    pub fn finish_maintenance(&self) {
        self.is_in_maintenance.store(false, Relaxed);
    }
}
