//! A session's token: the one held, or one from a login.

use std::sync::Arc;

use jiff::Timestamp;
use tokio::time::Instant;

use super::{Prover, Session};
use crate::{
    audit::{Event, Line},
    clock,
    error::{Cause, Error},
    lease::Hold,
    metrics::{AuthKind, LoginOutcome},
    term::Term,
    vault::{
        Client,
        client::{LoginRequest, LoginResult},
        failure::{LoginContext, RequestError, TokenClaims},
    },
};

impl Session {
    /// The token held, or one from a login: at most one login at a time, and none that returns `gone`.
    pub(super) async fn token(
        self: &Arc<Self>,
        prover: &Prover,
        gone: Option<&Arc<Hold>>,
        deadline: Instant,
    ) -> Result<Arc<Hold>, Error> {
        if let Some(hold) = self.held(gone) {
            return Ok(hold);
        }
        let mut is_tried = false;
        loop {
            let mut is_own = false;
            let outcome = self.login.join(|| {
                is_own = true;
                let (session, prover, gone) = (Arc::clone(self), Arc::clone(prover), gone.cloned());
                async move {
                    // Another's login may have ended between our look and our turn.
                    match session.held(gone.as_ref()) {
                        Some(hold) => Ok(hold),
                        None => session.log_in(&prover, deadline).await,
                    }
                }
            });
            match outcome.await {
                // The login was another caller's, and so was the deadline.
                Some(Err(error)) if error.cause() == Cause::Deadline && Instant::now() < deadline => {}
                // It was another pod's, and may fail for that one's token.
                Some(Err(error)) if self.is_shared() && !(is_own || is_tried || error.is_passing()) => is_tried = true,
                Some(outcome) => return outcome,
                None => {
                    let error = Error::new(Cause::Internal, "the login panicked");
                    return Err(error.advice("report it with the provider's log"));
                }
            }
        }
    }

    async fn log_in(self: &Arc<Self>, prover: &Prover, deadline: Instant) -> Result<Arc<Hold>, Error> {
        let proof = prover().await?;
        let (key, client) = (&self.key, self.client()?);
        let login = LoginRequest {
            auth_mount: key.auth_mount.clone(),
            namespace: key.auth_namespace.clone(),
            role: key.role.clone(),
            jwt: proof.jwt,
        };
        let outcome = {
            let _active = self.active().await?;
            let sent = clock::now();
            let outcome = client.login(&login, deadline).await;
            outcome.map(|LoginResult { token, auth_method: method, request_id }| {
                (self.keep(Arc::new(Hold::new(token, sent))), method, request_id)
            })
        };
        match outcome {
            Ok((hold, method, request_id)) => {
                self.observers.metrics.login(method, LoginOutcome::Ok);
                let request_id = Some(request_id.as_str()).filter(|id| !id.is_empty());
                self.observers.audit.tell(&Line {
                    accessor: &hold.token.accessor,
                    request_id,
                    ..self.key.line(Event::Login)
                });
                Ok(hold)
            }
            Err(failure) => {
                let refused = matches!(&failure, RequestError::ErrorResponse(refusal) if refusal.status < 500 && refusal.status != 429);
                let (error, method) = self.login_error(&client, &failure, proof.claims, deadline).await;
                self.observers
                    .metrics
                    .login(method, if refused { LoginOutcome::Refused } else { LoginOutcome::Failed });
                self.observers.audit.tell(&self.key.line(Event::Login).failed(&error));
                self.trouble("logging in", &error);
                Err(error)
            }
        }
    }

    /// Keeps the token of a new login. The one before lives on while credentials hang on it.
    fn keep(self: &Arc<Self>, hold: Arc<Hold>) -> Arc<Hold> {
        let now = clock::now();
        let mut state = self.state();
        let before = state.hold.replace(Arc::clone(&hold));
        if let Some(before) = &before {
            // Only the current one is renewed: what hangs on another must be read anew before that ends.
            before.cannot_be_renewed();
        }
        state.superseded.extend(before);
        // One of a single use that is used up is over at Vault, too.
        state.superseded.retain(|hold| !(hold.is_over(now) || hold.token.num_uses == 1 && hold.token.is_exhausted()));
        state.last_success = Some(now);
        drop(state);
        // So that a token is known to a successor while things are made under it.
        self.changed();
        self.save_soon();
        tracing::debug!(role = self.key.role, pod = self.key.pod_uid, ttl = ?hold.token.ttl, "logged in");
        hold
    }

    /// The token held, unless it is `gone`, spent, or past nine tenths of its life.
    pub(super) fn held(&self, gone: Option<&Arc<Hold>>) -> Option<Arc<Hold>> {
        let state = self.state();
        let hold = state.hold.as_ref()?;
        let is_gone = gone.is_some_and(|gone| Arc::ptr_eq(gone, hold));
        let (now, gap) = (clock::now(), state.volumes.gap());
        // What hangs on it already is read anew when its end is near, and so must not be read under it.
        let ends = |term: &Term| self.leases.named_hang_on(hold) && term.is_near_end(term.forced_end(), gap, now);
        let is_good = hold.term().is_some_and(|term| !term.is_old(now) && !ends(&term));
        (!is_gone && is_good && !hold.token.is_exhausted()).then(|| Arc::clone(hold))
    }

    /// What a login met, and what takes logins there, if that was learnt.
    async fn login_error(
        &self,
        client: &Client,
        failure: &RequestError,
        claims: TokenClaims,
        deadline: Instant,
    ) -> (Error, AuthKind) {
        let key = &self.key;
        let mut at = LoginContext {
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
        let mut error = failure.explain_login(&at);
        if error.cause() == Cause::LoginDenied {
            at.auth_method = client.detect_auth_method(mount, namespace, &key.role, deadline).await;
            error = failure.explain_login(&at);
        }
        (error, client.cached_auth_method(mount, namespace))
    }
}
