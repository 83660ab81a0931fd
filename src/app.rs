//! The composition root: builds everything from the configuration, runs it until a stop signal, and drains it.

mod handover;

use std::{net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use futures_util::{FutureExt, future::try_join_all};
use tokio::{
    net::{TcpListener, UnixStream},
    sync::{Mutex, watch},
    task::{JoinSet, spawn_blocking},
    time::{Instant, timeout, timeout_at},
};

use handover::Handover;

use crate::{
    admin::{self, AdminState, Inspector, Probes, Routes},
    cache::Refresh,
    config::{Config, MintTokens, StatusSocket},
    error::Error,
    hmac_keys::HmacKeys,
    kube::{self, Kube},
    mount::{MountLimiter, MountService},
    observe::{Observers, audit::AuditLog, events::EventRecorder, metrics::Metrics, mounts::MountObserver},
    policy::OperatorPolicy,
    provider::{self, Connections},
    reconcile::Reconciler,
    request::ClassCache,
    session::SessionRegistry,
    socket::Socket,
    state::{Gate, Store},
    trust::Reloader,
    vault::Vault,
};

/// A provider that is ready to serve.
pub struct App {
    parts: Components,
    metrics: Arc<Metrics>,
    sockets: Vec<Socket>,
    status: Option<Socket>,
    pages: Arc<AdminState>,
    store: Option<Arc<Store>>,
    drain_timeout: Duration,
}

impl App {
    /// Builds everything and takes over the sockets. Probes are served from the start. The error names the flag that failed. Must
    /// run inside the runtime.
    pub async fn build(config: Config) -> Result<Self, String> {
        let metrics = Arc::new(Metrics::new());
        let kube = kube(&config, &metrics).map_err(|e| e.to_string())?;
        let store = store(&config, &metrics);
        let keys = match (&config.hmac_key_file, &kube) {
            (Some(file), _) => HmacKeys::from_file(file).map_err(|e| format!("--hmac-key-file {e}"))?,
            (None, Some(kube)) => {
                HmacKeys::from_secret(Arc::clone(kube), config.hmac_secret_name.clone(), store.is_some())
            }
            (None, None) => {
                tracing::warn!(
                    fix = "set --hmac-key-file outside a cluster",
                    "process-local HMAC key; object versions differ between nodes and restarts"
                );
                HmacKeys::process_local()
            }
        };
        let audit = match config.audit_log.clone() {
            Some(place) => AuditLog::open(place, Arc::clone(&metrics)).map_err(|e| format!("--audit-log {e}"))?,
            None => AuditLog::default(),
        };
        let events = match kube.clone().filter(|_| config.events_enabled) {
            Some(kube) => {
                EventRecorder::start(kube, config.node_name.clone().unwrap_or_default(), Arc::clone(&metrics))
            }
            None => EventRecorder::default(),
        };
        let observers = Observers { metrics: Arc::clone(&metrics), audit, events };
        let parts = Components::new(&config, kube, keys, observers, store.clone(), true);
        let pages = AdminState {
            probes: Probes::default(),
            inspector: parts.inspector(config.max_mounts),
            metrics: Arc::clone(&metrics),
            reconciler: Arc::clone(&parts.reconciler),
            settings: config.summary(),
        };
        let pages = Arc::new(pages);
        for (listener, shown) in listeners(&config).await? {
            tokio::spawn(admin::serve(listener, shown, Arc::clone(&pages)));
        }
        if store.is_some() && has_listener(&config).await && parts.hmac_keys.try_get().is_none() {
            tracing::info!("waiting for the HMAC key; the previous process continues");
            parts.hmac_keys.get().await;
        }
        let status = match &config.status_socket {
            Some(wanted) => status_socket(wanted).await?,
            None => None,
        };
        let mut sockets = Vec::new();
        for path in &config.endpoints {
            let bound = Socket::bind(path).await;
            sockets.push(bound.map_err(|e| format!("--endpoint {} cannot be bound: {e}", path.display()))?);
        }
        Ok(Self { parts, metrics, sockets, status, pages, store, drain_timeout: config.drain_timeout })
    }

    /// Serves until `stop`, or until a background task breaks, then completes calls in flight within the drain timeout.
    pub async fn run(self, stop: impl Future<Output = ()>) -> Result<(), String> {
        let (stopping, stopped) = watch::channel(false);
        let mut background = tokio::spawn(Arc::clone(&self.parts.reconciler).run());
        let (vault, kube) = (Arc::clone(&self.parts.vault), self.parts.kube.clone());
        let mut trust = tokio::spawn(Reloader::new(vault, kube, &self.parts.operator).run());
        let mut serving = JoinSet::new();
        if let Some(socket) = self.status {
            serving.spawn(admin::status::serve(socket, Arc::clone(&self.pages), stopped.clone()));
        }
        let connections = Arc::<Connections>::default();
        let handover = self.store.map(|store| Handover {
            store,
            parts: self.parts.clone(),
            connections: Arc::clone(&connections),
            socket_ownership: self.sockets.iter().map(Socket::ownership).collect(),
            drain_timeout: self.drain_timeout,
            release_lock: Mutex::default(),
        });
        let socket_paths: Vec<PathBuf> = self.sockets.iter().map(|socket| socket.path().to_owned()).collect();
        let private_paths: Arc<[PathBuf]> =
            self.sockets.iter().map(|socket| socket.private_path().to_owned()).collect();
        for socket in self.sockets {
            let (mounts, metrics) = (Arc::clone(&self.parts.mounts), Arc::clone(&self.metrics));
            serving.spawn(provider::serve(socket, mounts, metrics, Arc::clone(&connections), stopped.clone()));
        }
        self.pages.probes.start_serving(Box::new(move || {
            let paths = Arc::clone(&private_paths);
            async move { try_join_all(paths.iter().map(|path| provider::check_socket(path))).await.map(drop) }.boxed()
        }));
        // Logged once `/readyz` succeeds, so that the line can be waited for.
        for path in socket_paths {
            tracing::info!(socket = %path.display(), version = env!("CARGO_PKG_VERSION"), "serving");
        }
        let handover = handover.map(Arc::new);
        let mut handing = JoinSet::new();
        if let Some(handover) = handover.clone() {
            handing.spawn(async move { handover.run().await });
        }
        let broken = tokio::select! {
            () = stop => None,
            Some(_) = handing.join_next() => Some("the handover task failed; see the log".to_owned()),
            _ = &mut trust => Some("the reload task failed; see the log".to_owned()),
            _ = &mut background => Some("the reconciler failed; see the log".to_owned()),
        };
        tracing::info!("stopping; completing calls in flight");
        let by = Instant::now() + self.drain_timeout;
        self.pages.probes.start_draining();
        stopping.send_replace(true);
        if timeout(self.drain_timeout, serving.join_all()).await.is_err() {
            tracing::warn!(drain_timeout = ?self.drain_timeout, "drain timeout exceeded with calls in flight");
        }
        // Nothing is revoked: the pods continue to run with their tokens.
        background.abort();
        trust.abort();
        if let Some(handover) = handover {
            // A handover in progress waits for calls in flight, too.
            let _ = timeout_at(by, handover.release_lock.lock()).await;
            handing.abort_all();
            handover.finish().await;
        }
        let audit = self.parts.sessions.audit().clone();
        let _ = spawn_blocking(move || audit.flush()).await;
        broken.map_or(Ok(()), Err)
    }
}

/// Opens the state store. If the directory is not writable, mounts succeed without persistence.
fn store(config: &Config, metrics: &Arc<Metrics>) -> Option<Arc<Store>> {
    match Store::new(config.state_dir.as_ref()?, Arc::clone(metrics)) {
        Ok(store) => Some(Arc::new(store)),
        Err(error) => {
            tracing::error!(%error, "state directory unusable; sessions will not survive a restart");
            None
        }
    }
}

/// Returns true if a process listens on one of the socket paths.
async fn has_listener(config: &Config) -> bool {
    for path in &config.endpoints {
        if UnixStream::connect(path).await.is_ok() {
            return true;
        }
    }
    false
}

/// Listens for probes and scrapes: at one address for both if it is the same.
async fn listeners(config: &Config) -> Result<Vec<(TcpListener, Routes)>, String> {
    let is_shared = config.health_addr == config.metrics_addr;
    let mut listeners = Vec::new();
    if let Some(address) = config.health_addr {
        listeners.push((listen("--health-addr", address).await?, Routes { probes: true, metrics: is_shared }));
    }
    if let Some(address) = config.metrics_addr.filter(|_| !is_shared) {
        listeners.push((listen("--metrics-addr", address).await?, Routes { probes: false, metrics: true }));
    }
    Ok(listeners)
}

async fn listen(flag: &str, address: SocketAddr) -> Result<TcpListener, String> {
    admin::bind(address).await.map_err(|e| format!("cannot listen on {flag} {address}: {e}"))
}

/// Takes over the status socket. A failure is tolerated at the default path, since mounts do not need the socket.
async fn status_socket(wanted: &StatusSocket) -> Result<Option<Socket>, String> {
    match Socket::bind(&wanted.path).await {
        Ok(socket) => Ok(Some(socket)),
        Err(error) if wanted.is_explicit => {
            Err(format!("--status-socket {} cannot be bound: {error}", wanted.path.display()))
        }
        Err(error) => {
            tracing::warn!(%error, socket = %wanted.path.display(), "no status socket: it cannot be bound");
            Ok(None)
        }
    }
}

/// The Kubernetes API, when this process is in a cluster or was given a kubeconfig. Requests to it are counted in `metrics`.
pub fn kube(config: &Config, metrics: &Arc<Metrics>) -> Result<Option<Arc<Kube>>, Error> {
    let of = kube::Config {
        min_tls_version: config.connection.vault.min_tls_version,
        ..kube::Config::from_env(config.kubeconfig.clone())
    };
    of.build(Arc::clone(metrics)).map(|kube| kube.map(Arc::new))
}

/// The parts of a process, built once from its configuration. Cheap to clone.
#[derive(Clone)]
pub struct Components {
    operator: Arc<OperatorPolicy>,
    vault: Arc<Vault>,
    sessions: Arc<SessionRegistry>,
    reconciler: Arc<Reconciler>,
    kube: Option<Arc<Kube>>,
    hmac_keys: HmacKeys,
    gate: Arc<Gate>,
    observer: Arc<MountObserver>,
    mounts: Arc<MountService>,
}

impl Components {
    /// Builds the parts; nothing is bound, requested or spawned. Outcomes of mounts are logged if `logs_outcomes` is set.
    #[must_use]
    pub fn new(
        config: &Config,
        kube: Option<Arc<Kube>>,
        hmac_keys: HmacKeys,
        observers: Observers,
        store: Option<Arc<Store>>,
        logs_outcomes: bool,
    ) -> Self {
        let operator = Arc::new(config.connection.operator.clone());
        let vault = Arc::new(Vault::new(config.connection.vault.clone(), Arc::clone(&observers.metrics)));
        let gate = if store.is_some() { Gate::new_closed(handover::WAITING_FOR_PREDECESSOR) } else { Gate::new_open() };
        let gate = Arc::new(gate);
        let observer = Arc::new(MountObserver::new(observers.clone(), logs_outcomes));
        let sessions = Arc::new(SessionRegistry::new(config.max_sessions, observers, store));
        let (watched, node) = (kube.clone(), config.node_name.clone());
        let reconciler = Reconciler::new(Arc::clone(&vault), Arc::clone(&sessions), watched, node, config.orphan_after);
        let reconciler = Arc::new(reconciler);
        let mounts = MountService {
            operator: Arc::clone(&operator),
            vault: Arc::clone(&vault),
            sessions: Arc::clone(&sessions),
            reconciler: Arc::clone(&reconciler),
            default_refresh: config.refresh_interval.map_or(Refresh::Never, Refresh::Every),
            token_minter: kube.clone().filter(|_| config.mint_tokens == MintTokens::Auto),
            hmac_keys: hmac_keys.clone(),
            gate: Arc::clone(&gate),
            limiter: MountLimiter::new(config.max_mounts),
            observer: Arc::clone(&observer),
            classes: ClassCache::default(),
        };
        Self { operator, vault, sessions, reconciler, kube, hmac_keys, gate, observer, mounts: Arc::new(mounts) }
    }

    /// Returns the service that mounts volumes.
    #[must_use]
    pub fn mounts(&self) -> &Arc<MountService> {
        &self.mounts
    }

    fn inspector(&self, mounts_limit: usize) -> Inspector {
        Inspector {
            operator: Arc::clone(&self.operator),
            vault: Arc::clone(&self.vault),
            reconciler: Arc::clone(&self.reconciler),
            mounts: Arc::clone(&self.observer),
            mounts_limit,
        }
    }
}
