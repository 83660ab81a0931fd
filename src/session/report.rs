//! A session, told.

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;

use super::{Session, SessionKey, State};
use crate::{
    audit::{Event, Line},
    clock::{self, time_of_day},
    lease::Hold,
    metrics::{self, Levels},
    status::{self, Failed, Lease, Token, Volume},
    vault::standing::Outage,
};

impl Session {
    /// What there is to tell of it.
    #[must_use]
    pub fn tell(&self) -> status::Session {
        let SessionKey {
            endpoint, namespace, auth_mount, role, pod_uid, pod_name, pod_namespace, service_account, ..
        } = self.key.clone();
        let renewed = self.state().is_renewed();
        let mut leases: Vec<Lease> = self.leases.tell(renewed, clock::now()).into_iter().map(lease).collect();
        leases.sort_by(|a, b| (&a.path, &a.method).cmp(&(&b.path, &b.method)));
        let (state, now) = (self.state(), clock::now());
        let hangs = state.hold.as_ref().is_some_and(|hold| self.leases.hang_on(hold, now));
        let renews = hangs && state.is_renewed() && !state.volumes.is_empty();
        status::Session {
            pod: pod_name,
            namespace: pod_namespace,
            uid: pod_uid,
            pods: if self.is_shared() { state.pods.len() } else { 1 },
            service_account,
            address: endpoint.address.to_string(),
            vault_namespace: namespace,
            auth_mount,
            role,
            token: state.hold.as_ref().filter(|hold| hold.lives(now)).and_then(|hold| token(hold, renews, now)),
            superseded_tokens: state.superseded.iter().filter(|hold| hold.lives(now)).count(),
            volumes: state.volumes.iter().map(volume).collect(),
            secrets: leases,
            last_success_at: state.last_success.map(time_of_day),
            last_error: state.last_error.as_ref().map(|trouble| Failed {
                at: time_of_day(trouble.at),
                operation: trouble.what.to_owned(),
                error: trouble.error.clone(),
            }),
            renewal_active: why_not(&state, hangs).is_none(),
            renewal_paused_reason: why_not(&state, hangs).map(str::to_owned),
        }
    }

    /// Counts its leases and tokens by how they stand.
    pub fn count_into(&self, levels: &mut Levels, now: Instant) {
        let renewed = self.state().is_renewed();
        for told in self.leases.tell(renewed, now) {
            *levels.leases.entry((told.state, told.kind)).or_default() += 1;
            let is_near = matches!(told.state, metrics::State::Failing | metrics::State::Ending);
            let end = told.forced_end.filter(|_| is_near);
            let end = end.map(|end| time_of_day(end).as_second());
            levels.next_end = first(levels.next_end, end);
            let is_over = told.volumes > 0 && told.ends.is_some_and(|end| end <= now);
            levels.overdue += usize::from(is_over);
        }
        let state = self.state();
        if let Some(hold) = state.hold.as_ref().filter(|hold| hold.lives(now)) {
            *levels.tokens.entry(standing(hold, now)).or_default() += 1;
            let end = hold.term().and_then(|term| term.ends());
            levels.token_end = first(levels.token_end, end.map(|end| time_of_day(end).as_second()));
        }
        let stalest = state.volumes.stalest(state.polls_fail()).map(|at| time_of_day(at).as_second());
        levels.oldest_success = first(levels.oldest_success, stalest);
        let superseded = state.superseded.iter().filter(|hold| hold.lives(now)).count();
        *levels.tokens.entry(metrics::State::Superseded).or_default() += superseded;
    }
}

impl SessionKey {
    /// What the audit log tells of whoever logs in so.
    #[must_use]
    pub fn line(&self, event: Event) -> Line<'_> {
        let namespace = if event == Event::Read { &self.namespace } else { &self.auth_namespace };
        Line {
            event,
            namespace: &self.pod_namespace,
            service_account: &self.service_account,
            pod: &self.pod_name,
            uid: &self.pod_uid,
            endpoint: Some(&self.endpoint.address),
            vault_namespace: namespace.as_deref(),
            auth_mount: &self.auth_mount,
            role: &self.role,
            ..Line::default()
        }
    }
}

/// The earlier of two moments.
fn first(some: Option<i64>, other: Option<i64>) -> Option<i64> {
    [some, other].into_iter().flatten().min()
}

/// How long after a delivery a Mount that brought none shows that polls fail.
const FAILING: Duration = Duration::from_secs(1);

impl State {
    /// Why Vault cannot be asked at present, if that is known.
    pub(super) fn outage(&self) -> Option<Arc<Outage>> {
        self.client.as_ref().ok()?.outage()
    }

    /// Whether a Mount came since the last that brought something.
    pub(super) fn polls_fail(&self) -> bool {
        self.last_heard > self.volumes.last_mount() + FAILING
    }

    /// Whether renewals are to come, as things stand.
    fn is_renewed(&self) -> bool {
        self.resting.is_none() && self.outage().is_none()
    }
}

fn why_not(state: &State, hangs: bool) -> Option<&'static str> {
    if state.volumes.is_empty() {
        return Some("no volume of the pod uses it any more");
    }
    if state.hold.as_ref().is_some_and(|hold| hold.term().is_none()) {
        return Some("its token is gone before its time; the next poll logs in again");
    }
    let renews = state.hold.as_ref().is_none_or(|hold| hold.renews());
    let never = (!renews).then_some("the role gives batch tokens, or tokens of few uses");
    let down = state.outage().map(|_| "its Vault is down; what is due is renewed when that is back");
    state.resting.or((!hangs).then_some("nothing that was read ends with the token")).or(never).or(down)
}

fn standing(hold: &Hold, now: Instant) -> metrics::State {
    match hold.term() {
        Some(term) if term.is_failing() => metrics::State::Failing,
        Some(term) if term.forced_end().is_some_and(|end| now >= term.notice(end)) => metrics::State::Ending,
        _ => metrics::State::Live,
    }
}

fn token(hold: &Hold, renews: bool, now: Instant) -> Option<Token> {
    let term = hold.term()?;
    Some(Token {
        accessor: hold.token.accessor.clone(),
        state: standing(hold, now),
        expires_at: term.ends().map(time_of_day),
        renew_at: (renews && term.is_renewable()).then(|| time_of_day(term.renew_at())),
        max_expires_at: term.forced_end().map(time_of_day),
    })
}

fn volume(volume: &super::volumes::Volume) -> Volume {
    Volume {
        target_path: volume.path.to_string(),
        class: volume.class.clone(),
        last_mount_at: time_of_day(volume.last),
        mounts: volume.mounts,
        poll_interval_seconds: volume.gap().map(|gap| gap.as_secs()),
    }
}

fn lease(told: crate::lease::Told) -> Lease {
    Lease {
        path: told.read.display_path().to_owned(),
        method: told.read.method.to_string(),
        kind: told.kind,
        state: told.state,
        expires_at: told.ends.map(time_of_day),
        max_expires_at: told.forced_end.map(time_of_day),
        renew_at: told.renews_at.map(time_of_day),
        read_at: time_of_day(told.read_at),
        last_error: told.trouble,
        volumes: told.volumes,
    }
}
