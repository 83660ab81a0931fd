//! What is held, told: for the status socket and for whoever scrapes.

use std::collections::BTreeMap;

use super::Renewal;
use crate::{
    clock::{self, time_of_day},
    metrics::Levels,
    status::{Down, Status, Waiting},
};

impl Renewal {
    /// What is held now.
    #[must_use]
    pub fn status(&self) -> Status {
        let mut sessions: Vec<_> = self.sessions.all().iter().map(|session| session.tell()).collect();
        sessions.sort_by(|a, b| (&a.namespace, &a.pod, &a.role).cmp(&(&b.namespace, &b.pod, &b.role)));
        let mut revocations = Vec::new();
        self.queue.each_debt(|debt| {
            let key = &debt.key;
            revocations.push(Waiting {
                pod: key.pod_name.clone(),
                namespace: key.pod_namespace.clone(),
                uid: key.pod_uid.clone(),
                address: key.endpoint.address.to_string(),
                since: time_of_day(debt.since),
                attempts: debt.attempts,
                expires_at: debt.hold.term().and_then(|term| term.ends()).map(time_of_day),
                last_error: debt.trouble.clone(),
            });
        });
        let outages = self.vault.outages().into_iter();
        let mut down: Vec<Down> = outages
            .map(|(address, outage)| Down {
                address,
                since: time_of_day(outage.since),
                error: outage.reason.to_string(),
            })
            .collect();
        down.sort_by(|a, b| a.address.cmp(&b.address));
        Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            started_at: self.started,
            now: time_of_day(clock::now()),
            watch: self.pods.tell().0,
            mounts_disabled: self.sessions.is_closed(),
            outages: down,
            servers: Vec::new(),
            sessions,
            revocations,
            failures: Vec::new(),
        }
    }

    /// How much of everything is held now.
    #[must_use]
    pub fn levels(&self) -> Levels {
        let (watch, pods_watched) = self.pods.tell();
        let mut waiting = 0;
        self.queue.each_debt(|_| waiting += 1);
        let (sessions, now) = (self.sessions.all(), clock::now());
        let mut levels = Levels {
            leases: BTreeMap::new(),
            next_end: None,
            overdue: 0,
            tokens: BTreeMap::new(),
            token_end: None,
            oldest_success: None,
            sessions: sessions.len(),
            sessions_limit: self.sessions.limit(),
            mounts_limit: 0,
            revocations_waiting: waiting,
            pods_watched,
            pod_watch: watch.state,
            endpoints_down: self.vault.outages().len(),
            policy_reloaded: None,
            tls_reloaded: BTreeMap::new(),
            endpoints: BTreeMap::new(),
            certificates: BTreeMap::new(),
        };
        for session in &sessions {
            session.count_into(&mut levels, now);
        }
        levels
    }
}
