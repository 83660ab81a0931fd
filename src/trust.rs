//! Background maintenance of the operator's files and servers: reloads the policy file and TLS files, warns of expiring
//! certificates, and probes idle servers.

use std::{collections::HashMap, error::Error as _, mem::take, sync::Arc, time::Duration};

use jiff::{SignedDuration, Timestamp};
use tokio::{
    task::spawn_blocking,
    time::{Instant, sleep, timeout},
};

use crate::{
    kube::Kube,
    policy::{OperatorPolicy, Policy, PolicyReload},
    task,
    tls::{self, CertificateExpiry, CertificateSummary, MinTlsVersion, Tls},
    vault::{Vault, idle_prober::IdleProber},
};

/// Reloads files when they change. One per process.
pub struct Reloader {
    vault: Arc<Vault>,
    kube: Option<Arc<Kube>>,
    /// The policy file and the operator's servers. Certificates of the servers are checked before their first use.
    operator: OperatorPolicy,
    idle_prober: IdleProber,
    /// Time of the last expiry check of each setting's certificates.
    last_checked: HashMap<Tls, Instant>,
}

/// Interval between reads of the files.
const RELOAD_INTERVAL: Duration = Duration::from_secs(10);
/// Timeout for one file before the next is read.
const FILE_READ_TIMEOUT: Duration = Duration::from_secs(5);
/// Interval between warnings of an expiring certificate.
const EXPIRY_WARNING_INTERVAL: Duration = Duration::from_secs(24 * 3600);
/// Time before expiry in which vaultmount warns.
const EXPIRY_WARNING_PERIOD: SignedDuration = SignedDuration::from_hours(30 * 24);

impl Reloader {
    /// Creates a reloader for every server and the Kubernetes API.
    #[must_use]
    pub fn new(vault: Arc<Vault>, kube: Option<Arc<Kube>>, operator: &OperatorPolicy) -> Self {
        let idle = IdleProber::new(Arc::clone(&vault));
        Self { vault, kube, operator: operator.clone(), idle_prober: idle, last_checked: HashMap::new() }
    }

    /// Runs forever. Ends only if it panics.
    pub async fn run(mut self) {
        let mut is_first_run = true;
        loop {
            self.reload_policy(take(&mut is_first_run)).await;
            self.idle_prober.probe_due(self.operator.servers().iter().map(|server| server.endpoint()));
            for changed_tls in self.vault.reload_tls().await {
                self.last_checked.remove(&changed_tls);
            }
            if let Some(kube) = &self.kube {
                kube.reload_tls().await;
            }
            self.warn_of_expiry().await;
            sleep(RELOAD_INTERVAL).await;
        }
    }

    async fn reload_policy(&self, is_first_run: bool) {
        let Some(policy) = self.operator.policy_file.clone() else { return };
        let file = policy.path().to_owned();
        let read_task = spawn_blocking(move || {
            let reload = policy.reload();
            let has_new_content = is_first_run || reload == PolicyReload::Applied;
            (reload, if has_new_content { unusable_endpoints(&policy.current()) } else { Vec::new() })
        });
        // A file system may hang. A task of its own logs the result even after the timeout.
        let log_task = task::spawn_boxed(async move {
            match read_task.await {
                Ok((reload, problems)) => {
                    reload.log(&file);
                    for (endpoint, error) in problems {
                        tracing::warn!(%endpoint, %error, "policy file endpoint is unusable");
                    }
                }
                Err(error) => {
                    tracing::error!(
                        %error,
                        file = %file.display(),
                        "policy file read failed, previous policy stays in force"
                    );
                }
            }
        });
        let _ = timeout(FILE_READ_TIMEOUT, log_task).await;
    }

    /// Warns of certificates that expire soon or have expired, once a day, and immediately for new files.
    async fn warn_of_expiry(&mut self) {
        let now = Timestamp::now();
        let in_use = self.vault.tls_in_use(now).into_iter();
        let mut settings: HashMap<_, _> =
            in_use.map(|(tls, (endpoint, expiries))| (tls, (endpoint, Some(expiries)))).collect();
        for server in self.operator.servers() {
            settings.entry(server.tls.clone()).or_insert_with(|| (server.address.to_string(), None));
        }
        self.last_checked
            .retain(|tls, checked_at| settings.contains_key(tls) && checked_at.elapsed() < EXPIRY_WARNING_INTERVAL);
        for (tls, (endpoint, expiries)) in settings {
            if self.last_checked.contains_key(&tls) {
                continue;
            }
            self.last_checked.insert(tls.clone(), Instant::now());
            let expiries = if let Some(known) = expiries {
                known
            } else {
                let read_task = spawn_blocking(move || CertificateSummary::read(&tls));
                let Ok(Ok(summary)) = timeout(FILE_READ_TIMEOUT, read_task).await else { continue };
                summary.expiries(now)
            };
            for expiry in [expiries.authority, expiries.client].into_iter().flatten() {
                log_expiry(&expiry, &endpoint, now);
            }
        }
    }
}

/// Returns the policy's endpoints with TLS files that cannot be loaded, each with the error. Blocks.
fn unusable_endpoints(policy: &Policy) -> Vec<(String, String)> {
    let mut problems = Vec::new();
    for (name, server) in &policy.endpoints {
        if let Err(error) = tls::load_client_config(&server.tls, MinTlsVersion::default()) {
            let source = error.source().map(|source| format!(": {source}")).unwrap_or_default();
            problems.push((name.clone(), format!("{error}{source}")));
        }
    }
    problems
}

fn log_expiry(CertificateExpiry { location, expires_at }: &CertificateExpiry, endpoint: &str, now: Timestamp) {
    if *expires_at <= now {
        tracing::error!(%location, endpoint, %expires_at, "certificate expired");
    } else if expires_at.duration_since(now) <= EXPIRY_WARNING_PERIOD {
        let days = expires_at.duration_since(now).as_hours() / 24;
        tracing::warn!(%location, endpoint, %expires_at, days_left = days, "certificate expires soon");
    }
}
