//! What keeps a session alive in the background: renewals, and warnings of ends that no renewal moves.

use std::{sync::Arc, time::Duration};

use futures_util::future::join_all;
use tokio::{sync::Semaphore, time::Instant};

use super::{Session, SessionKey};
use crate::{
    clock,
    error::Error,
    lease::{Hold, Renewal, Warning},
    metrics::{Kind, Renewable, RenewalOutcome},
    term::{Granted, Term},
    vault::{Client, Vault, failure::Failure},
};

/// What the upkeep of every session shares.
pub struct Means<'a> {
    /// Every server.
    pub vault: &'a Vault,
    /// Bounds the requests of the background, so that mounts find Vault free.
    pub gate: &'a Semaphore,
}

/// How long one renewal may take.
const ATTEMPT: Duration = Duration::from_secs(10);

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
        let hold = {
            let state = self.state();
            if state.ended || state.volumes.is_empty() {
                return None;
            }
            state.hold.clone()
        };
        let token = hold.filter(|hold| self.leases.hang_on(hold)).and_then(|hold| hold.term());
        let token = token.filter(|term| term.is_renewable() && !term.is_over(now)).map(|term| term.renew_at());
        [token, self.leases.next(now)].into_iter().flatten().min()
    }

    /// Does what is due: renews the token if anything hangs on it, then leases; and says what ends. False when somebody is at
    /// it: each poll finds the same due, and while Vault is slow those who wait for their turn would be ever more.
    pub async fn attend(&self, means: &Means<'_>) -> bool {
        let Ok(_only) = self.attended.try_lock() else { return false };
        let hold = {
            let state = self.state();
            if state.ended {
                return true;
            }
            state.hold.clone()
        };
        match means.vault.client(&self.key.endpoint).await {
            Ok(client) => {
                self.state().client = client.clone();
                if let Some(hold) = hold {
                    self.renew_token(&client, &hold, means).await;
                }
                let due = self.leases.to_renew(clock::now());
                join_all(due.iter().map(|renewal| self.renew_lease(&client, renewal, means))).await;
            }
            Err(error) => {
                self.trouble("preparing a renewal", &error);
                self.put_off(hold.as_deref(), &error);
            }
        }
        self.warn();
        true
    }

    /// Counts what is due as failed, so that it is tried again after a pause and not at once.
    fn put_off(&self, hold: Option<&Hold>, error: &Error) {
        let now = clock::now();
        let is_due = |hold: &&Hold| hold.term().is_some_and(|term| term.is_renewable() && now >= term.renew_at());
        if let Some(hold) = hold.filter(is_due) {
            hold.failed(now);
        }
        for renewal in self.leases.to_renew(clock::now()) {
            renewal.failed(now, error.to_string());
        }
    }

    async fn renew_token(&self, client: &Client, hold: &Arc<Hold>, means: &Means<'_>) {
        let due = || {
            let now = clock::now();
            let is_due = |term: &Term| term.is_renewable() && !term.is_over(now) && now >= term.renew_at();
            hold.term().filter(is_due).filter(|_| self.leases.hang_on(hold))
        };
        if due().is_none() {
            return;
        }
        let Ok(_turn) = means.gate.acquire().await else { return };
        // A mount may have found it gone meanwhile.
        let Some(term) = due() else { return };
        let (sent, deadline) = (clock::now(), Instant::now() + ATTEMPT);
        let SessionKey { role, pod_name: pod, pod_namespace: namespace, .. } = &self.key;
        match client.renew_token(&hold.token, self.home(), term.asked(), deadline).await {
            Ok(grant) => {
                let granted = hold.renewed(grant, sent);
                self.count(Renewable::Token, granted.into());
                self.state().last_success = Some(clock::now());
                match granted {
                    Granted::Whole => tracing::debug!(role, pod, namespace, ttl = ?grant.duration, "token renewed"),
                    Granted::Short => tracing::info!(
                        role, pod, namespace, end = %clock::time_of_day(sent + grant.duration),
                        "the token's maximum is near: a poll before its end logs in again"
                    ),
                }
            }
            Err(failure) => match self.refused(client, Renewable::Token, hold, &failure, means).await {
                Refused::TokenGone => self.lost(hold),
                Refused::NotRenewable | Refused::LeaseGone => hold.cannot_be_renewed(),
                Refused::Failed(error) => {
                    let error = self.advised(error, &failure, hold, "auth/token/renew-self");
                    let failures = hold.failed(clock::now());
                    self.trouble("renewing the token", &error);
                    if failures.is_power_of_two() {
                        tracing::warn!(role, pod, namespace, failures, "the token is not renewed: {error}");
                    }
                }
            },
        }
    }

    async fn renew_lease(&self, client: &Client, renewal: &Renewal, means: &Means<'_>) {
        let Ok(_turn) = means.gate.acquire().await else { return };
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
                        role, pod, namespace, path, end = %clock::time_of_day(sent + grant.duration),
                        "the lease's maximum is near: a poll before its end reads it anew"
                    ),
                    Granted::Whole => {
                        tracing::debug!(role, pod, namespace, path, ttl = ?grant.duration, "lease renewed");
                    }
                }
            }
            Err(failure) => match self.refused(client, Renewable::Lease, &renewal.hold, &failure, means).await {
                Refused::TokenGone => self.lost(&renewal.hold),
                Refused::LeaseGone => {
                    renewal.is_gone(clock::now());
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
                    let failures = renewal.failed(clock::now(), error.to_string());
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
        failure: &Failure,
        means: &Means<'_>,
    ) -> Refused {
        let (outcome, refused) = match failure {
            Failure::Refused(refusal) if refusal.is_lease_gone() => (RenewalOutcome::Gone, Refused::LeaseGone),
            Failure::Refused(refusal) if refusal.is_not_renewable() => (RenewalOutcome::Refused, Refused::NotRenewable),
            Failure::Refused(refusal)
                if refusal.status == 403
                    && client.is_gone(&hold.token, self.home(), Instant::now() + ATTEMPT).await =>
            {
                (RenewalOutcome::Gone, Refused::TokenGone)
            }
            failure => {
                let error = failure.of_transport(client.address());
                if error.cause().is_tls() {
                    means.vault.forget(&self.key.endpoint);
                }
                let is_no =
                    matches!(failure, Failure::Refused(refusal) if refusal.status < 500 && refusal.status != 429);
                (if is_no { RenewalOutcome::Refused } else { RenewalOutcome::Failed }, Refused::Failed(error))
            }
        };
        self.count(what, outcome);
        refused
    }

    fn count(&self, what: Renewable, outcome: RenewalOutcome) {
        self.metrics.renewal(what, outcome);
    }

    /// The failure of a renewal, with the policy that lacks if that is why.
    fn advised(&self, error: Error, failure: &Failure, hold: &Hold, path: &str) -> Error {
        match failure {
            Failure::Refused(refusal) if refusal.status == 403 => {
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
    fn warn(&self) {
        let now = clock::now();
        let polled = self.state().volumes.are_polled(now);
        let SessionKey { role, pod_name: pod, pod_namespace: namespace, .. } = &self.key;
        for Warning { read, kind, end, over } in self.leases.warnings(polled, now) {
            let (path, end) = (&read.path, clock::time_of_day(end));
            let what = match kind {
                Kind::Leased => "credential",
                Kind::Certificate => "certificate",
                Kind::Static => "static credential",
                Kind::Plain => "secret",
            };
            if over {
                tracing::error!(role, pod, namespace, path, %end, "the pod's {what} is over, and no poll came to replace it: restart the pod, or switch on rotation in the driver");
            } else {
                tracing::warn!(role, pod, namespace, path, %end, "the pod's {what} ends, and no poll comes to replace it: restart the pod before, or switch on rotation in the driver");
            }
        }
    }

    /// Lets it rest: it is not renewed until its pod is heard of again. Whether it was not resting before.
    pub fn rest(&self, why: &'static str) -> bool {
        self.state().resting.replace(why).is_none()
    }

    /// How long its pod has been silent, and whether polls were seen before.
    #[must_use]
    pub fn silence(&self) -> (Duration, bool) {
        let state = self.state();
        (clock::now().saturating_duration_since(state.last_heard), state.volumes.were_polled())
    }
}
