//! Client for the few parts of the Kubernetes API that vaultmount needs: the HMAC key's Secret, TokenRequest, pod events
//! and the pods of a node.
//!
//! A mount normally needs no request. The key is read once at start. Tokens are minted only if the driver passed none and
//! the operator allows it. [`Kube::request_count`] lets a test verify this.

use std::{env, fmt, path::PathBuf, sync::Arc};

use crate::{error::Error, observe::metrics::Metrics, tls::MinTlsVersion};

mod client;
mod connection;
mod credentials;
mod events;
mod hmac_key;
mod http;
mod in_cluster;
mod kubeconfig;
mod path;
mod pods;
mod response;
mod token_request;
pub mod watch_state;

pub use events::{Event, MAX_EVENT_MESSAGE_BYTES};
pub use pods::{PodEvent, PodRef, PodState, PodWatch};
pub use token_request::BoundPod;

use client::ApiClient;

/// Address of the API server and the credentials for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Kubeconfig file. If `None`, the pod's own service account is used.
    pub kubeconfig: Option<PathBuf>,
    /// Host of the API server, from `KUBERNETES_SERVICE_HOST`.
    pub service_host: Option<String>,
    /// Port of the API server, from `KUBERNETES_SERVICE_PORT`.
    pub service_port: Option<String>,
    /// Directory into which kubelet projects the pod's service account: `ca.crt`, `token`, `namespace`.
    pub service_account: PathBuf,
    /// Minimum TLS version.
    pub min_tls_version: MinTlsVersion,
}

impl Config {
    /// Returns the configuration from this process's environment. `kubeconfig` takes precedence over it.
    #[must_use]
    pub fn from_env(kubeconfig: Option<PathBuf>) -> Self {
        Self {
            kubeconfig,
            service_host: env::var("KUBERNETES_SERVICE_HOST").ok(),
            service_port: env::var("KUBERNETES_SERVICE_PORT").ok(),
            service_account: PathBuf::from("/var/run/secrets/kubernetes.io/serviceaccount"),
            min_tls_version: MinTlsVersion::default(),
        }
    }

    /// Reads the files and builds the client without sending a request. Returns `None` without a kubeconfig outside a
    /// cluster or in a pod without a service account token. Requests are counted in `metrics`.
    pub fn build(self, metrics: Arc<Metrics>) -> Result<Option<Kube>, Error> {
        let connection = match &self.kubeconfig {
            Some(file) => Some(kubeconfig::read(file)?),
            None => in_cluster::read(&self)?,
        };
        let Some(connection) = connection else { return Ok(None) };
        Ok(Some(Kube { client: ApiClient::new(connection, self.min_tls_version, metrics)? }))
    }
}

/// Client for one API server.
pub struct Kube {
    client: ApiClient,
}

impl Kube {
    /// Returns this process's namespace: that of the pod, or of the kubeconfig context.
    #[must_use]
    pub fn namespace(&self) -> &str {
        &self.client.connection().namespace
    }

    /// Returns the API server's address.
    #[must_use]
    pub fn server(&self) -> &str {
        self.client.connection().server.as_str()
    }

    /// Reloads the TLS files for new connections.
    pub async fn reload_tls(&self) {
        self.client.reload_tls().await;
    }

    /// Returns the number of requests sent so far.
    #[must_use]
    pub fn request_count(&self) -> u64 {
        self.client.request_count()
    }
}

impl fmt::Debug for Kube {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Kube")
            .field("server", &self.server())
            .field("namespace", &self.namespace())
            .field("requests", &self.request_count())
            .finish_non_exhaustive()
    }
}
