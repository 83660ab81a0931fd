//! The composition root: everything is built from the configuration, run until told to stop, and drained.

use std::{sync::Arc, time::Duration};

use tokio::{net::TcpListener, sync::watch, task::JoinSet, time::timeout};

use crate::{
    admin,
    config::{Config, MintTokens},
    error::Error,
    kube::{self, Kube},
    metrics::Metrics,
    mount::{Mounter, VersionKeySource},
    provider,
    session::Sessions,
    socket::Socket,
    vault::Vault,
};

/// A server that is ready to serve.
pub struct App {
    mounter: Arc<Mounter>,
    metrics: Arc<Metrics>,
    sockets: Vec<Socket>,
    health: Option<TcpListener>,
    drain_timeout: Duration,
}

impl App {
    /// Builds everything and takes over the sockets; the error names what cannot be had. Must run inside the runtime.
    pub async fn build(config: Config) -> Result<Self, String> {
        let kube = kube(&config).map_err(|e| e.to_string())?;
        let version_key = match (&config.hmac_key_file, &kube) {
            (Some(file), _) => VersionKeySource::file(file).map_err(|e| format!("--hmac-key-file {e}"))?,
            (None, Some(kube)) => VersionKeySource::secret(Arc::clone(kube), config.hmac_secret_name.clone()),
            (None, None) => {
                tracing::warn!(
                    "not in a cluster and no --hmac-key-file: object versions are made with a key of this process alone"
                );
                VersionKeySource::process()
            }
        };
        let health = match config.health_addr {
            Some(address) => Some(
                admin::bind(address)
                    .await
                    .map_err(|e| format!("--health-addr {address} cannot be listened on: {e}"))?,
            ),
            None => None,
        };
        let metrics = Arc::new(Metrics::new());
        let mounter = Arc::new(mounter(&config, kube, version_key, Arc::clone(&metrics)));
        let mut sockets = Vec::new();
        for path in &config.endpoints {
            let bound = Socket::bind(path).await;
            sockets.push(bound.map_err(|e| format!("--endpoint {} cannot be bound: {e}", path.display()))?);
        }
        Ok(Self { mounter, metrics, sockets, health, drain_timeout: config.drain_timeout })
    }

    /// Serves until `stop`, then answers the calls in flight within the drain timeout.
    pub async fn run(self, stop: impl Future<Output = ()>) {
        let (stopping, stopped) = watch::channel(false);
        if let Some(listener) = self.health {
            tokio::spawn(admin::serve(listener, stopped.clone()));
        }
        let mut serving = JoinSet::new();
        for socket in self.sockets {
            tracing::info!(socket = %socket.path().display(), version = env!("CARGO_PKG_VERSION"), "serving");
            serving.spawn(provider::serve(
                socket,
                Arc::clone(&self.mounter),
                Arc::clone(&self.metrics),
                stopped.clone(),
            ));
        }
        stop.await;
        tracing::info!("stopping: calls in flight are answered");
        stopping.send_replace(true);
        if timeout(self.drain_timeout, serving.join_all()).await.is_err() {
            tracing::warn!(after = ?self.drain_timeout, "calls were still in flight when the drain timeout ended");
        }
    }
}

/// The Kubernetes API, when this process is in a cluster or was given a kubeconfig.
pub fn kube(config: &Config) -> Result<Option<Arc<Kube>>, Error> {
    kube::Config::from_env(config.kubeconfig.clone()).build().map(|kube| kube.map(Arc::new))
}

/// What mounts volumes, with nothing bound or begun. Requests to Vault are counted in `metrics`.
#[must_use]
pub fn mounter(
    config: &Config,
    kube: Option<Arc<Kube>>,
    version_key: VersionKeySource,
    metrics: Arc<Metrics>,
) -> Mounter {
    Mounter {
        operator: config.connection.operator.clone(),
        vault: Vault::new(config.connection.vault.clone(), metrics),
        sessions: Sessions::new(config.max_sessions),
        kube,
        mint_tokens: config.mint_tokens == MintTokens::Auto,
        version_key,
    }
}
