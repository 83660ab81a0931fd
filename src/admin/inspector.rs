//! Collects the status document and the gauges of a scrape.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use tokio::{task::spawn_blocking, time::timeout};

use crate::{
    error::Cause,
    observe::{
        metrics::{CertificateRole, EndpointHealth, GaugeSnapshot},
        mounts::MountObserver,
        status::{self, ServerState, Status},
    },
    policy::{OperatorPolicy, VaultServer},
    reconcile::Reconciler,
    vault::{TlsFileStatus, Vault, breaker::LastContact},
};

/// Timeout for reading TLS files.
const TLS_FILE_READ_TIMEOUT: Duration = Duration::from_secs(2);

/// Reads the state of a process. Changes nothing.
pub struct Inspector {
    /// The operator's servers and policy.
    pub operator: Arc<OperatorPolicy>,
    /// The clients of all endpoints.
    pub vault: Arc<Vault>,
    /// Sessions, pending revocations and the pod watch.
    pub reconciler: Arc<Reconciler>,
    /// Recent failures of mounts.
    pub mounts: Arc<MountObserver>,
    /// Maximum number of concurrent mounts.
    pub mounts_limit: usize,
}

impl Inspector {
    /// Returns the current state and the recent failures.
    #[must_use]
    pub fn status(&self) -> Status {
        let status = self.reconciler.status();
        Status { servers: self.servers(&status.sessions), failures: self.mounts.recent_failures(), ..status }
    }

    /// The operator's servers and those that are or were used, by address.
    fn servers(&self, sessions: &[status::SessionStatus]) -> Vec<status::ServerStatus> {
        let mut servers: BTreeMap<String, (ServerState, Option<String>)> = BTreeMap::new();
        let configured = self.operator.servers().into_iter().map(|server| server.address.to_string());
        let known = configured.chain(sessions.iter().map(|session| session.address.clone()));
        for (address, contact) in
            known.map(|address| (address, Ok(LastContact::Unknown))).chain(self.vault.health_by_endpoint())
        {
            let observed = match contact {
                Ok(LastContact::Unknown) => (ServerState::Unknown, None),
                Ok(LastContact::NotVault) => (ServerState::NotVault, None),
                Ok(LastContact::Failed(error)) => (ServerState::Failing, Some(error.to_string())),
                Ok(LastContact::Vault) => (ServerState::Up, None),
                Err(outage) => (ServerState::Down, Some(outage.reason.to_string())),
            };
            let known = servers.entry(address).or_insert((ServerState::Unknown, None));
            if observed.0 > known.0 {
                *known = observed;
            }
        }
        servers.into_iter().map(|(address, (state, error))| status::ServerStatus { address, state, error }).collect()
    }

    /// Returns the gauges of the current state. Reads the TLS files of operator servers that were not used yet.
    pub async fn gauges(&self) -> GaugeSnapshot {
        let mut gauges = self.reconciler.gauges();
        let servers = self.operator.servers();
        for server in &servers {
            let cause = match self.vault.endpoint_health(&server.endpoint()) {
                Ok(LastContact::Unknown | LastContact::NotVault) => continue,
                Ok(LastContact::Vault) => None,
                Ok(LastContact::Failed(error)) => Some(error.cause()),
                Err(outage) => Some(outage.reason.cause()),
            };
            let sealed = matches!(cause, Some(Cause::Sealed | Cause::Uninitialized));
            // Two servers may have the same address.
            let health = gauges
                .endpoints
                .entry(server.address.to_string())
                .or_insert(EndpointHealth { is_up: true, is_sealed: false });
            *health = EndpointHealth { is_up: health.is_up && cause.is_none(), is_sealed: health.is_sealed || sealed };
        }
        gauges.policy_reloaded = self.operator.policy_file.as_ref().map(|file| !file.is_invalid());
        gauges.mounts_limit = self.mounts_limit;
        for (address, TlsFileStatus { expiries, is_invalid }) in self.tls_files(servers).await {
            *gauges.tls_reloaded.entry(address).or_insert(true) &= !is_invalid;
            for (role, expiry) in
                [(CertificateRole::Ca, expiries.authority), (CertificateRole::Client, expiries.client)]
            {
                let Some(expires_at) = expiry.map(|end| end.expires_at.as_second()) else { continue };
                gauges
                    .certificate_expiries
                    .entry(role)
                    .and_modify(|first| *first = expires_at.min(*first))
                    .or_insert(expires_at);
            }
        }
        gauges
    }

    /// Returns the status of the servers' TLS files, by address. Files that are not read in time are missing.
    async fn tls_files(&self, servers: Vec<Arc<VaultServer>>) -> Vec<(String, TlsFileStatus)> {
        let now = jiff::Timestamp::now();
        let (mut known, mut unused) = (Vec::new(), Vec::new());
        for server in servers {
            match self.vault.tls_file_status(&server.endpoint(), now) {
                Some(files) => known.push((server.address.to_string(), files)),
                None => unused.push(server),
            }
        }
        let vault = Arc::clone(&self.vault);
        let read_status = move |server: Arc<VaultServer>| {
            Some((server.address.to_string(), vault.read_tls_file_status(&server.tls, now)?))
        };
        let read_task = spawn_blocking(move || unused.into_iter().filter_map(read_status).collect::<Vec<_>>());
        // A file system may hang, and a scrape may not.
        known.extend(timeout(TLS_FILE_READ_TIMEOUT, read_task).await.ok().and_then(Result::ok).unwrap_or_default());
        known
    }
}
