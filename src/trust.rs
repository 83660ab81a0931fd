//! The operator's files and servers in the background: a policy and TLS files that changed are used, certificates that end soon are
//! warned of, and servers that nobody asks are asked how they are.

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
    tls::{self, Certificates, End, Oldest, Tls},
    vault::{Vault, idle::Idle},
};

/// Keeps to what files hold. One per process.
pub struct Trust {
    vault: Arc<Vault>,
    kube: Option<Arc<Kube>>,
    /// The operator's servers, whose certificates are looked at before anybody uses them, and the policy file.
    operator: OperatorPolicy,
    idle: Idle,
    /// When the ends of the certificates of these settings were last looked at.
    looked: HashMap<Tls, Instant>,
}

/// How often files are read.
const EVERY: Duration = Duration::from_secs(10);
/// How long is waited for a file before others are read.
const PATIENCE: Duration = Duration::from_secs(5);
/// How often a certificate that ends soon is warned of.
const DAILY: Duration = Duration::from_secs(24 * 3600);
/// What ends soon.
const SOON: SignedDuration = SignedDuration::from_hours(30 * 24);

impl Trust {
    /// Of every server, and of the Kubernetes API.
    #[must_use]
    pub fn new(vault: Arc<Vault>, kube: Option<Arc<Kube>>, operator: &OperatorPolicy) -> Self {
        let idle = Idle::new(Arc::clone(&vault));
        Self { vault, kube, operator: operator.clone(), idle, looked: HashMap::new() }
    }

    /// Never ends, unless it breaks.
    pub async fn run(mut self) {
        let mut is_start = true;
        loop {
            self.reread_policy(take(&mut is_start)).await;
            self.idle.look(self.operator.servers().iter().map(|server| server.endpoint()));
            for changed in self.vault.reread().await {
                self.looked.remove(&changed);
            }
            if let Some(kube) = &self.kube {
                kube.reread().await;
            }
            self.warn().await;
            sleep(EVERY).await;
        }
    }

    async fn reread_policy(&self, is_start: bool) {
        let Some(policy) = self.operator.policy_file.clone() else { return };
        let file = policy.path().to_owned();
        let reading = spawn_blocking(move || {
            let reread = policy.reload();
            let is_new = is_start || reread == PolicyReload::Applied;
            (reread, if is_new { unusable(&policy.current()) } else { Vec::new() })
        });
        // It is told even if nobody waits for it any more: a file system may hang.
        let telling = task::spawn(async move {
            match reading.await {
                Ok((reread, unusable)) => {
                    reread.log(&file);
                    for why in unusable {
                        tracing::warn!("{why}");
                    }
                }
                Err(error) => {
                    tracing::error!("reading the policy file has broken, what it said before is in force: {error}");
                }
            }
        });
        let _ = timeout(PATIENCE, telling).await;
    }

    /// Warns of certificates that end soon, once a day, and at once of those that are new.
    async fn warn(&mut self) {
        let now = Timestamp::now();
        let in_use = self.vault.tls_in_use(now).into_iter();
        let mut uses: HashMap<_, _> = in_use.map(|(tls, (endpoint, ends))| (tls, (endpoint, Some(ends)))).collect();
        for server in self.operator.servers() {
            uses.entry(server.tls.clone()).or_insert_with(|| (server.address.to_string(), None));
        }
        self.looked.retain(|tls, at| uses.contains_key(tls) && at.elapsed() < DAILY);
        for (tls, (endpoint, ends)) in uses {
            if self.looked.contains_key(&tls) {
                continue;
            }
            self.looked.insert(tls.clone(), Instant::now());
            let ends = if let Some(ends) = ends {
                ends
            } else {
                let reading = spawn_blocking(move || Certificates::read(&tls));
                let Ok(Ok(read)) = timeout(PATIENCE, reading).await else { continue };
                read.ends(now)
            };
            for end in [ends.authority, ends.client].into_iter().flatten() {
                tell(&end, &endpoint, now);
            }
        }
    }
}

/// Why endpoints of a policy cannot be used, as far as that is known before somebody uses them. Blocks while it reads files.
fn unusable(policy: &Policy) -> Vec<String> {
    let mut lines = Vec::new();
    for (name, server) in &policy.endpoints {
        if let Err(error) = tls::client_config(&server.tls, Oldest::default()) {
            let source = error.source().map(|source| format!(": {source}")).unwrap_or_default();
            lines.push(format!("endpoint {name} of the policy file cannot be used as it is: {error}{source}"));
        }
    }
    lines
}

fn tell(End { place, at }: &End, endpoint: &str, now: Timestamp) {
    if *at <= now {
        tracing::error!(endpoint, end = %at, "a certificate is over since {at}: {place}");
    } else if at.duration_since(now) <= SOON {
        let days = at.duration_since(now).as_hours() / 24;
        tracing::warn!(endpoint, end = %at, "a certificate ends at {at}, which is in {days} days: {place}");
    }
}
