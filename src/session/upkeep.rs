//! What keeps a session alive in the background: renewals, and warnings of ends that no renewal moves.

use std::{
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use futures_util::future::join_all;
use tokio::time::Instant;

use super::{Session, SessionKey};
use crate::{
    clock,
    error::{Cause, Error},
    events::Why,
    lease::{DueRenewal, Hold, Warning},
    metrics::{Kind, Renewable, RenewalOutcome},
    term::{Granted, Term},
    vault::{Client, Vault, failure::RequestError, standing::retry_at},
};

/// How long one request of the background may take.
pub(super) const ATTEMPT: Duration = Duration::from_secs(10);

/// Whether a policy denies it, which passes only when somebody changes that.
fn is_denied(failure: &RequestError) -> bool {
    matches!(failure, RequestError::ErrorResponse(refusal) if refusal.status == 403)
}

/// The failure of a request that nobody waits for.
pub(super) fn unwaited(failure: &RequestError, client: &Client) -> Error {
    match failure {
        RequestError::DeadlineExceeded { during, .. } => {
            let what = format!("Vault at {} did not answer within {ATTEMPT:?} ({during})", client.address());
            Error::new(Cause::Unreachable, what)
        }
        failure => failure.explain_transport(client.address()),
    }
}

impl From<Granted> for RenewalOutcome {
    fn from(granted: Granted) -> Self {
        match granted {
            Granted::Whole => Self::Renewed,
            Granted::Short => Self::Short,
        }
    }
}

/// Why a renewal brought nothing.
enum Refused {
    /// The token is no more.
    TokenGone,
    /// The lease is no more.
    LeaseGone,
    /// Vault says that there is no more.
    NotRenewable,
    /// Anything else, which may pass.
    Failed(Error),
}

impl Session {
    /// When there is something to be done for it; none when nothing but a mount will change that.
    pub fn next(&self) -> Option<Instant> {
        let now = clock::now();
        let (hold, rests, waits_until) = {
            let state = self.state();
            if state.ended || state.volumes.is_empty() {
                return None;
            }
            (state.hold.clone(), state.resting.is_some(), state.waits_until.filter(|at| *at > now))
        };
        let hold = hold.filter(|_| !rests);
        let token = hold.filter(|hold| self.leases.hang_on(hold, now)).and_then(|hold| hold.term());
        let token = token.filter(|term| term.is_renewable() && !term.is_over(now)).map(|term| term.renew_at());
        let next = [token, self.leases.next(!rests, now)].into_iter().flatten().min();
        match waits_until {
            // Ends are told in time all the same.
            Some(at) => [next.map(|next| next.max(at)), self.leases.next(false, now)].into_iter().flatten().min(),
            None => next,
        }
    }

    /// Does what is due: renews the token if anything hangs on it, then leases; and says what ends.
    pub async fn attend(&self, vault: &Vault) {
        let hold = {
            let state = self.state();
            if state.ended {
                return;
            }
            state.hold.clone()
        };
        match vault.client_for_session(&self.key.endpoint, &self.key.pod_namespace).await {
            Ok(client) => {
                self.state().client = Ok(client.clone());
                if let Some(hold) = hold {
                    self.renew_token(&client, &hold, vault).await;
                }
                let due = self.leases.to_renew(clock::now());
                join_all(due.iter().map(|renewal| self.renew_lease(&client, renewal, vault))).await;
            }
            Err(error) => {
                self.trouble("preparing a renewal", &error);
                self.put_off(hold.as_deref(), &error);
            }
        }
        self.warn();
    }

    /// Puts off what is due until Vault is back. Nothing has failed: nobody was asked.
    fn wait_for_return(&self, hold: Option<&Hold>) {
        let now = clock::now();
        let token = hold.and_then(Hold::term).filter(|term| term.is_renewable() && !term.is_over(now));
        let end = [token.and_then(|term| term.ends()), self.leases.first_end(now)].into_iter().flatten().min();
        let mut state = self.state();
        state.waits_until = Some(retry_at(end, now));
        if let (Some(end), Ok(client)) = (end, &state.client) {
            client.request_probe(end.saturating_duration_since(now) / 4);
        }
    }

    /// Counts what is due as failed, so that it is tried again after a pause and not at once.
    fn put_off(&self, hold: Option<&Hold>, error: &Error) {
        let now = clock::now();
        let is_due = |hold: &&Hold| hold.term().is_some_and(|term| term.is_renewable() && now >= term.renew_at());
        if let Some(hold) = hold.filter(is_due) {
            hold.failed(now, false);
        }
        for renewal in self.leases.to_renew(clock::now()) {
            renewal.failed(now, false, error.to_string());
        }
    }

    async fn renew_token(&self, client: &Client, hold: &Arc<Hold>, vault: &Vault) {
        let now = clock::now();
        let is_due = |term: &Term| term.is_renewable() && !term.is_over(now) && now >= term.renew_at();
        let Some(term) = hold.term().filter(is_due).filter(|_| self.leases.hang_on(hold, now)) else { return };
        let _turn = client.background_permit(term.ends()).await;
        let (sent, deadline) = (clock::now(), Instant::now() + ATTEMPT);
        let SessionKey { role, pod_name: pod, pod_namespace: namespace, .. } = &self.key;
        match client.renew_token(&hold.token, self.home(), term.asked(), deadline).await {
            Ok(grant) => {
                let granted = hold.renewed(grant, sent);
                self.count(Renewable::Token, granted.into());
                self.state().last_success = Some(clock::now());
                match granted {
                    Granted::Whole => tracing::debug!(role, pod, namespace, ttl = ?grant.ttl, "token renewed"),
                    Granted::Short => tracing::info!(
                        role, pod, namespace, end = %clock::time_of_day(sent + grant.ttl),
                        "the token's maximum is near: a poll before its end logs in again"
                    ),
                }
            }
            Err(RequestError::Outage(_)) => self.wait_for_return(Some(hold)),
            Err(failure) => match self.refused(client, Renewable::Token, hold, &failure, vault).await {
                Refused::TokenGone => self.lost(hold),
                Refused::NotRenewable | Refused::LeaseGone => hold.cannot_be_renewed(),
                Refused::Failed(error) => {
                    let error = self.advised(error, &failure, hold, "auth/token/renew-self");
                    let failures = hold.failed(clock::now(), is_denied(&failure));
                    self.trouble("renewing the token", &error);
                    if failures.is_power_of_two() {
                        tracing::warn!(role, pod, namespace, failures, "the token is not renewed: {error}");
                    }
                }
            },
        }
    }

    async fn renew_lease(&self, client: &Client, renewal: &DueRenewal, vault: &Vault) {
        let _turn = client.background_permit(renewal.ends).await;
        // Its token may have been found gone while others were renewed.
        if !renewal.hold.lives(clock::now()) {
            return;
        }
        let (sent, deadline) = (clock::now(), Instant::now() + ATTEMPT);
        let SessionKey { role, pod_name: pod, pod_namespace: namespace, .. } = &self.key;
        let path = &renewal.read.path;
        let outcome = client
            .renew_lease(&renewal.hold.token, self.key.namespace.as_deref(), &renewal.lease_id, renewal.asked, deadline)
            .await;
        match outcome {
            Ok(grant) => {
                renewal.hold.proven(sent);
                self.state().last_success = Some(clock::now());
                let granted = renewal.renewed(grant, sent).unwrap_or(Granted::Whole);
                self.count(Renewable::Lease, granted.into());
                match granted {
                    Granted::Short => tracing::info!(
                        role, pod, namespace, path, end = %clock::time_of_day(sent + grant.ttl),
                        "the lease's maximum is near: a poll before its end reads it anew"
                    ),
                    Granted::Whole => {
                        tracing::debug!(role, pod, namespace, path, ttl = ?grant.ttl, "lease renewed");
                    }
                }
            }
            Err(RequestError::Outage(_)) => self.wait_for_return(Some(&renewal.hold)),
            Err(failure) => match self.refused(client, Renewable::Lease, &renewal.hold, &failure, vault).await {
                Refused::TokenGone => self.lost(&renewal.hold),
                Refused::LeaseGone => {
                    renewal.gone(clock::now());
                    tracing::warn!(
                        role,
                        pod,
                        namespace,
                        path,
                        "the lease is gone before its time; the next mount reads it anew"
                    );
                }
                Refused::NotRenewable => renewal.cannot_be_renewed(),
                Refused::Failed(error) => {
                    let error = self.advised(error, &failure, &renewal.hold, "sys/leases/renew");
                    let failures = renewal.failed(clock::now(), is_denied(&failure), error.to_string());
                    self.trouble("renewing a lease", &error);
                    if failures.is_some_and(u32::is_power_of_two) {
                        tracing::warn!(role, pod, namespace, path, failures, "the lease is not renewed: {error}");
                    }
                }
            },
        }
    }

    /// What a failed renewal means. A denial is no proof that the token is gone: it is asked about itself.
    async fn refused(
        &self,
        client: &Client,
        what: Renewable,
        hold: &Hold,
        failure: &RequestError,
        vault: &Vault,
    ) -> Refused {
        let (outcome, refused) = match failure {
            RequestError::ErrorResponse(refusal) if refusal.is_lease_not_found() => {
                (RenewalOutcome::Gone, Refused::LeaseGone)
            }
            RequestError::ErrorResponse(refusal) if refusal.is_not_renewable() => {
                (RenewalOutcome::Refused, Refused::NotRenewable)
            }
            RequestError::ErrorResponse(refusal)
                if refusal.status == 403
                    && client.is_token_invalid(&hold.token, self.home(), Instant::now() + ATTEMPT).await =>
            {
                (RenewalOutcome::Gone, Refused::TokenGone)
            }
            failure => {
                let error = unwaited(failure, client);
                if error.cause().is_tls() {
                    vault.mark_tls_suspect(&self.key.endpoint);
                }
                let is_no = matches!(failure, RequestError::ErrorResponse(refusal) if refusal.status < 500 && refusal.status != 429);
                (if is_no { RenewalOutcome::Refused } else { RenewalOutcome::Failed }, Refused::Failed(error))
            }
        };
        self.count(what, outcome);
        refused
    }

    fn count(&self, what: Renewable, outcome: RenewalOutcome) {
        self.changed();
        self.observers.metrics.renewal(what, outcome);
    }

    /// The failure of a renewal, with the policy that lacks if that is why.
    fn advised(&self, error: Error, failure: &RequestError, hold: &Hold, path: &str) -> Error {
        match failure {
            failure if is_denied(failure) => {
                let policies = hold.token.policies.join(", ");
                error.advice(format!(
                    "role {:?} (policies {policies}) may not update {path}, as policy `default` would allow: \
                     unset token_no_default_policy, or add path \"{path}\" {{ capabilities = [\"update\"] }}",
                    self.key.role
                ))
            }
            _ => error,
        }
    }

    /// Says what ends without a mount, while there is time, when no mount is to be expected.
    pub fn warn(&self) {
        let now = clock::now();
        let (polled, rests, fails, is_down) = {
            let state = self.state();
            (state.volumes.are_polled(now), state.resting.is_some(), state.polls_fail(), state.outage().is_some())
        };
        let mend = if is_down {
            "Vault is down, so that nothing renews or replaces it: see why"
        } else if fails {
            "polls come and fail, so nothing replaces it: see what they say"
        } else {
            "no poll comes to replace it: restart the pod, or switch on rotation in the driver"
        };
        let SessionKey { role, pod_name: pod, pod_namespace: namespace, .. } = &self.key;
        for Warning { read, kind, end, over } in self.leases.warnings(polled, !rests && !is_down, now) {
            let (path, end) = (read.display_path(), clock::time_of_day(end));
            let what = match kind {
                Kind::Leased => "credential",
                Kind::Certificate => "certificate",
                Kind::Static => "static credential",
                Kind::Token => "Vault token",
                Kind::Plain => "secret",
            };
            self.tell_owner(Why::CredentialExpiring, || {
                let ends = if over { "is over since" } else { "ends at" };
                format!("the {what} of {path} {ends} {end}, and {mend}")
            });
            if over {
                tracing::error!(role, pod, namespace, path, %end, "the pod's {what} is over, and {mend}");
            } else {
                tracing::warn!(role, pod, namespace, path, %end, "the pod's {what} ends, and {mend}");
            }
        }
    }

    /// Lets it rest, for this reason: it is not renewed until its pod is heard of again. Or wakes it. Whether that is new.
    pub fn rest(&self, why: Option<&'static str>) -> bool {
        std::mem::replace(&mut self.state().resting, why).is_none() && why.is_some()
    }

    /// How long its pod has been silent; and if polls were seen, the longest of the last pauses between them.
    #[must_use]
    pub fn silence(&self) -> (Duration, Option<Duration>) {
        let state = self.state();
        (clock::now().saturating_duration_since(state.last_heard), state.volumes.poll_gap())
    }

    /// Marks that it is attended to; false if it is already.
    pub fn begin_attending(&self) -> bool {
        !self.attended.swap(true, Relaxed)
    }

    /// Marks that it is attended to no more.
    pub fn end_attending(&self) {
        self.attended.store(false, Relaxed);
    }
}
