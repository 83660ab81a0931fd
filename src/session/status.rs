//! Status and gauges of a session.

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;

use super::{Session, SessionKey, SessionState};
use crate::{
    cache::{SessionToken, kind::SecretState},
    clock::{self, time_of_day},
    observe::{
        audit::{AuditEvent, AuditRecord},
        metrics::GaugeSnapshot,
        status::{self, LastErrorStatus, SecretStatus, TokenStatus, VolumeStatus},
    },
    vault::breaker::Outage,
};

impl Session {
    /// Returns the status of the session.
    #[must_use]
    pub fn status(&self) -> status::SessionStatus {
        let SessionKey {
            endpoint, namespace, auth_mount, role, pod_uid, pod_name, pod_namespace, service_account, ..
        } = self.key.clone();
        let is_renewal_active = self.state().is_renewal_active();
        let mut secrets: Vec<SecretStatus> =
            self.cache.snapshots(is_renewal_active, clock::now()).into_iter().map(secret_status).collect();
        secrets.sort_by(|a, b| (&a.path, &a.method).cmp(&(&b.path, &b.method)));
        let (state, now) = (self.state(), clock::now());
        let has_bound_secrets = state.token.as_ref().is_some_and(|token| self.cache.has_bound_secrets(token, now));
        let is_renewed = has_bound_secrets && state.is_renewal_active() && !state.volumes.is_empty();
        status::SessionStatus {
            pod: pod_name,
            namespace: pod_namespace,
            uid: pod_uid,
            pods: if self.is_shared() { state.sharing_pods.len() } else { 1 },
            service_account,
            address: endpoint.address.to_string(),
            vault_namespace: namespace,
            auth_mount,
            role,
            token: state
                .token
                .as_ref()
                .filter(|token| token.is_alive(now))
                .and_then(|token| token_status(token, is_renewed, now)),
            superseded_tokens: state.superseded_tokens.iter().filter(|token| token.is_alive(now)).count(),
            volumes: state.volumes.iter().map(volume_status).collect(),
            secrets,
            last_success_at: state.last_success_at.map(time_of_day),
            last_error: state.last_error.as_ref().map(|trouble| LastErrorStatus {
                at: time_of_day(trouble.at),
                operation: trouble.operation.to_owned(),
                error: trouble.message.clone(),
            }),
            renewal_active: renewal_paused_reason(&state, has_bound_secrets).is_none(),
            renewal_paused_reason: renewal_paused_reason(&state, has_bound_secrets).map(str::to_owned),
        }
    }

    /// Counts the session's cached secrets and tokens by state.
    pub fn add_to_gauges(&self, gauges: &mut GaugeSnapshot, now: Instant) {
        let is_renewal_active = self.state().is_renewal_active();
        for snapshot in self.cache.snapshots(is_renewal_active, now) {
            *gauges.cached_secrets.entry((snapshot.state, snapshot.kind)).or_default() += 1;
            let is_expiring = matches!(snapshot.state, SecretState::Failing | SecretState::Expiring);
            let expires_at = snapshot.max_expires_at.filter(|_| is_expiring);
            let expires_at = expires_at.map(|end| time_of_day(end).as_second());
            gauges.earliest_secret_expiry = earliest(gauges.earliest_secret_expiry, expires_at);
            let is_expired = snapshot.volume_count > 0 && snapshot.expires_at.is_some_and(|end| end <= now);
            gauges.expired_secrets += usize::from(is_expired);
        }
        let state = self.state();
        if let Some(token) = state.token.as_ref().filter(|token| token.is_alive(now)) {
            *gauges.tokens.entry(token_state(token, now)).or_default() += 1;
            let expires_at = token.lifetime().and_then(|term| term.expires_at());
            gauges.earliest_token_expiry =
                earliest(gauges.earliest_token_expiry, expires_at.map(|end| time_of_day(end).as_second()));
        }
        let oldest_refresh =
            state.volumes.oldest_refresh(state.has_failing_polls()).map(|at| time_of_day(at).as_second());
        gauges.oldest_refresh_success = earliest(gauges.oldest_refresh_success, oldest_refresh);
        let superseded = state.superseded_tokens.iter().filter(|token| token.is_alive(now)).count();
        *gauges.tokens.entry(SecretState::Superseded).or_default() += superseded;
    }
}

impl SessionKey {
    /// Returns an audit record with the fields of this key.
    #[must_use]
    pub fn audit_record(&self, event: AuditEvent) -> AuditRecord<'_> {
        let namespace = if event == AuditEvent::Read { &self.namespace } else { &self.auth_namespace };
        AuditRecord {
            event,
            namespace: &self.pod_namespace,
            service_account: &self.service_account,
            pod: &self.pod_name,
            uid: &self.pod_uid,
            endpoint: Some(&self.endpoint.address),
            vault_namespace: namespace.as_deref(),
            auth_mount: &self.auth_mount,
            role: &self.role,
            ..AuditRecord::default()
        }
    }
}

/// Returns the earlier of two times.
fn earliest(a: Option<i64>, b: Option<i64>) -> Option<i64> {
    [a, b].into_iter().flatten().min()
}

/// Minimum time from a delivery to a Mount without one before polls count as failing.
const FAILING_POLL_DELAY: Duration = Duration::from_secs(1);

impl SessionState {
    /// Returns the current Vault outage, if one is known.
    pub(super) fn outage(&self) -> Option<Arc<Outage>> {
        self.client.as_ref().ok()?.outage()
    }

    /// Returns `true` if a Mount arrived after the last one that delivered.
    pub(super) fn has_failing_polls(&self) -> bool {
        self.last_poll_at > self.volumes.last_mount_at() + FAILING_POLL_DELAY
    }

    /// Returns `true` if renewals are neither paused nor stopped by an outage.
    fn is_renewal_active(&self) -> bool {
        self.renewal_paused.is_none() && self.outage().is_none()
    }
}

fn renewal_paused_reason(state: &SessionState, has_bound_secrets: bool) -> Option<&'static str> {
    if state.volumes.is_empty() {
        return Some("no volume of the pod uses it any more");
    }
    if state.token.as_ref().is_some_and(|token| token.lifetime().is_none()) {
        return Some("its token is gone before its time; the next poll logs in again");
    }
    let can_renew = state.token.as_ref().is_none_or(|token| token.can_renew());
    let never_renewable = (!can_renew).then_some("the role gives batch tokens, or tokens of few uses");
    let vault_down = state.outage().map(|_| "its Vault is down; what is due is renewed when that is back");
    state
        .renewal_paused
        .or((!has_bound_secrets).then_some("nothing that was read ends with the token"))
        .or(never_renewable)
        .or(vault_down)
}

fn token_state(token: &SessionToken, now: Instant) -> SecretState {
    match token.lifetime() {
        Some(lifetime) if lifetime.is_failing() => SecretState::Failing,
        Some(lifetime) if lifetime.max_expires_at().is_some_and(|end| now >= lifetime.warn_at(end)) => {
            SecretState::Expiring
        }
        _ => SecretState::Active,
    }
}

fn token_status(token: &SessionToken, is_renewed: bool, now: Instant) -> Option<TokenStatus> {
    let lifetime = token.lifetime()?;
    Some(TokenStatus {
        accessor: token.vault_token.accessor.clone(),
        state: token_state(token, now),
        expires_at: lifetime.expires_at().map(time_of_day),
        renew_at: (is_renewed && lifetime.is_renewable()).then(|| time_of_day(lifetime.renew_at())),
        max_expires_at: lifetime.max_expires_at().map(time_of_day),
    })
}

fn volume_status(volume: &super::volumes::Volume) -> VolumeStatus {
    VolumeStatus {
        target_path: volume.target_path.to_string(),
        class: volume.class.clone(),
        last_mount_at: time_of_day(volume.last_mount_at),
        mounts: volume.mount_count,
        poll_interval_seconds: volume.longest_mount_interval().map(|gap| gap.as_secs()),
    }
}

fn secret_status(snapshot: crate::cache::SecretSnapshot) -> SecretStatus {
    SecretStatus {
        path: snapshot.request.display_path().to_owned(),
        method: snapshot.request.method.to_string(),
        kind: snapshot.kind,
        state: snapshot.state,
        expires_at: snapshot.expires_at.map(time_of_day),
        max_expires_at: snapshot.max_expires_at.map(time_of_day),
        renew_at: snapshot.renew_at.map(time_of_day),
        read_at: time_of_day(snapshot.read_at),
        last_error: snapshot.last_error,
        volumes: snapshot.volume_count,
    }
}
