//! Session tokens: the current one, or one from a login.

use std::sync::Arc;

use jiff::Timestamp;
use tokio::time::Instant;

use super::{CredentialSource, Session};
use crate::{
    cache::SessionToken,
    clock,
    error::{Cause, Error},
    lifetime::Lifetime,
    observe::{
        audit::{AuditEvent, AuditRecord},
        metrics::LoginOutcome,
    },
    vault::{
        Client,
        auth_method::AuthMethod,
        client::{LoginRequest, LoginResult},
        error::{LoginContext, RequestError, TokenClaims},
    },
};

impl Session {
    /// Returns the current token, or one from a login. Logins run one at a time. Never returns `excluded`.
    pub(super) async fn token_or_login(
        self: &Arc<Self>,
        credentials: &CredentialSource,
        excluded: Option<&Arc<SessionToken>>,
        deadline: Instant,
    ) -> Result<Arc<SessionToken>, Error> {
        if let Some(token) = self.usable_token(excluded) {
            return Ok(token);
        }
        let mut is_retried = false;
        loop {
            let mut is_own_login = false;
            let outcome = self.login_in_flight.join(|| {
                is_own_login = true;
                let (session, credentials, excluded) = (Arc::clone(self), Arc::clone(credentials), excluded.cloned());
                async move {
                    // Another caller's login may have completed since the check above.
                    match session.usable_token(excluded.as_ref()) {
                        Some(token) => Ok(token),
                        None => session.log_in(&credentials, deadline).await,
                    }
                }
            });
            match outcome.await {
                // The login and its deadline belonged to another caller.
                Some(Err(error)) if error.cause() == Cause::DeadlineExceeded && Instant::now() < deadline => {}
                // The login used another pod's token, which may be why it failed.
                Some(Err(error)) if self.is_shared() && !(is_own_login || is_retried || error.is_transient()) => {
                    is_retried = true;
                }
                Some(outcome) => return outcome,
                None => {
                    let error = Error::new(Cause::Internal, "the login panicked");
                    return Err(error.with_fix("report it with the provider's log"));
                }
            }
        }
    }

    async fn log_in(
        self: &Arc<Self>,
        credentials: &CredentialSource,
        deadline: Instant,
    ) -> Result<Arc<SessionToken>, Error> {
        let credential = credentials().await?;
        let (key, client) = (&self.key, self.client()?);
        let login = LoginRequest {
            auth_mount: key.auth_mount.clone(),
            namespace: key.auth_namespace.clone(),
            role: key.role.clone(),
            jwt: credential.jwt,
        };
        let outcome = {
            let _active = self.enter().await?;
            let sent_at = clock::now();
            let outcome = client.login(&login, deadline).await;
            outcome.map(|LoginResult { token, auth_method: method, request_id }| {
                (self.replace_token(Arc::new(SessionToken::new(token, sent_at))), method, request_id)
            })
        };
        match outcome {
            Ok((token, method, request_id)) => {
                self.observers.metrics.count_login(method, LoginOutcome::Ok);
                let request_id = Some(request_id.as_str()).filter(|id| !id.is_empty());
                self.observers.audit.record(&AuditRecord {
                    accessor: &token.vault_token.accessor,
                    request_id,
                    ..self.key.audit_record(AuditEvent::Login)
                });
                Ok(token)
            }
            Err(failure) => {
                let is_denied = matches!(&failure, RequestError::ErrorResponse(refusal) if refusal.status < 500 && refusal.status != 429);
                let (error, method) = self.login_error(&client, &failure, credential.claims, deadline).await;
                self.observers
                    .metrics
                    .count_login(method, if is_denied { LoginOutcome::Denied } else { LoginOutcome::Failed });
                self.observers.audit.record(&self.key.audit_record(AuditEvent::Login).with_failure(&error));
                self.record_error("logging in", &error);
                Err(error)
            }
        }
    }

    /// Stores the token of a new login. The previous token stays while credentials depend on it.
    fn replace_token(self: &Arc<Self>, token: Arc<SessionToken>) -> Arc<SessionToken> {
        let now = clock::now();
        let mut state = self.state();
        let previous = state.token.replace(Arc::clone(&token));
        if let Some(previous) = &previous {
            // Only the current token is renewed: secrets bound to the previous one are fetched again before it expires.
            previous.disable_renewal();
        }
        state.superseded_tokens.extend(previous);
        // Vault revokes a token after its last use.
        state.superseded_tokens.retain(|token| {
            !(token.is_expired(now) || token.vault_token.num_uses == 1 && token.vault_token.is_exhausted())
        });
        state.last_success_at = Some(now);
        drop(state);
        // A successor must know the token while credentials are created under it.
        self.mark_dirty();
        self.persist_in_background();
        tracing::debug!(role = self.key.role, pod = self.key.pod_uid, ttl = ?token.vault_token.ttl, "logged in");
        token
    }

    /// Returns the current token unless it is `excluded`, exhausted, or past nine tenths of its lifetime.
    pub(super) fn usable_token(&self, excluded: Option<&Arc<SessionToken>>) -> Option<Arc<SessionToken>> {
        let state = self.state();
        let token = state.token.as_ref()?;
        let is_excluded = excluded.is_some_and(|excluded| Arc::ptr_eq(excluded, token));
        let (now, poll_interval) = (clock::now(), state.volumes.longest_mount_interval());
        // Secrets bound to an expiring token are fetched again before it expires, so they need another token.
        let is_expiring = |lifetime: &Lifetime| {
            self.cache.has_referenced_bound_secrets(token)
                && lifetime.needs_replacement(lifetime.max_expires_at(), poll_interval, now)
        };
        let is_usable =
            token.lifetime().is_some_and(|lifetime| !lifetime.is_nearly_expired(now) && !is_expiring(&lifetime));
        (!is_excluded && is_usable && !token.vault_token.is_exhausted()).then(|| Arc::clone(token))
    }

    /// Explains a failed login. Includes the auth method of the mount if it is known.
    async fn login_error(
        &self,
        client: &Client,
        failure: &RequestError,
        claims: TokenClaims,
        deadline: Instant,
    ) -> (Error, AuthMethod) {
        let key = &self.key;
        let mut context = LoginContext {
            address: client.address().to_owned(),
            auth_mount: key.auth_mount.clone(),
            namespace: key.auth_namespace.clone(),
            role: key.role.clone(),
            pod_namespace: key.pod_namespace.clone(),
            service_account: key.service_account.clone(),
            claims,
            now: Timestamp::now(),
            auth_method: None,
        };
        let (mount, namespace) = (&key.auth_mount, key.auth_namespace.as_deref());
        let mut error = failure.explain_login(&context);
        if error.cause() == Cause::LoginDenied {
            context.auth_method = client.detect_auth_method(mount, namespace, &key.role, deadline).await;
            error = failure.explain_login(&context);
        }
        (error, client.cached_auth_method(mount, namespace))
    }
}
