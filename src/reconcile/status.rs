//! Status of sessions, pending revocations and outages, for the status socket and for metrics.

use std::collections::BTreeMap;

use super::Reconciler;
use crate::{
    clock::{self, time_of_day},
    observe::{
        metrics::GaugeSnapshot,
        status::{OutageStatus, PendingRevocationStatus, Status},
    },
};

impl Reconciler {
    /// Returns the current status.
    #[must_use]
    pub fn status(&self) -> Status {
        let mut sessions: Vec<_> = self.sessions.all().iter().map(|session| session.status()).collect();
        sessions.sort_by(|a, b| (&a.namespace, &a.pod, &a.role).cmp(&(&b.namespace, &b.pod, &b.role)));
        let mut revocations = Vec::new();
        self.queue.for_each_revocation(|revocation| {
            let key = &revocation.key;
            revocations.push(PendingRevocationStatus {
                pod: key.pod_name.clone(),
                namespace: key.pod_namespace.clone(),
                uid: key.pod_uid.clone(),
                address: key.endpoint.address.to_string(),
                since: time_of_day(revocation.pending_since),
                attempts: revocation.attempts,
                expires_at: revocation.token.lifetime().and_then(|term| term.expires_at()).map(time_of_day),
                last_error: revocation.last_error.clone(),
            });
        });
        let known_outages = self.vault.outages().into_iter();
        let mut outages: Vec<OutageStatus> = known_outages
            .map(|(address, outage)| OutageStatus {
                address,
                since: time_of_day(outage.since),
                error: outage.reason.to_string(),
            })
            .collect();
        outages.sort_by(|a, b| a.address.cmp(&b.address));
        Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            started_at: self.started_at,
            now: time_of_day(clock::now()),
            watch: self.pod_watcher.status().0,
            mounts_disabled: self.sessions.is_disabled(),
            outages,
            servers: Vec::new(),
            sessions,
            revocations,
            failures: Vec::new(),
        }
    }

    /// Returns the current gauge values.
    #[must_use]
    pub fn gauges(&self) -> GaugeSnapshot {
        let (watch_status, pods_watched) = self.pod_watcher.status();
        let mut pending_revocations = 0;
        self.queue.for_each_revocation(|_| pending_revocations += 1);
        let (sessions, now) = (self.sessions.all(), clock::now());
        let mut gauges = GaugeSnapshot {
            cached_secrets: BTreeMap::new(),
            earliest_secret_expiry: None,
            expired_secrets: 0,
            tokens: BTreeMap::new(),
            earliest_token_expiry: None,
            oldest_refresh_success: None,
            sessions: sessions.len(),
            sessions_limit: self.sessions.max_sessions(),
            mounts_limit: 0,
            pending_revocations,
            pods_watched,
            pod_watch_state: watch_status.state,
            endpoints_down: self.vault.outages().len(),
            policy_reloaded: None,
            tls_reloaded: BTreeMap::new(),
            endpoints: BTreeMap::new(),
            certificate_expiries: BTreeMap::new(),
        };
        for session in &sessions {
            session.add_to_gauges(&mut gauges, now);
        }
        gauges
    }
}
