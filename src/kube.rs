//! The Kubernetes API, as little of it as is needed: the HMAC key's Secret, TokenRequest, and when a node's pods end.
//!
//! No mount needs a request: the key is read once at start, and tokens are minted only when the driver passed none and
//! the operator allows it. [`Kube::requests`] counts, so that a test can hold us to that.

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

/// Where the API server is and who we are there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// A kubeconfig file; without one, the pod's own service account is used.
    pub kubeconfig: Option<PathBuf>,
    /// The API server's host as kubelet tells every container.
    pub service_host: Option<String>,
    /// Its port, likewise.
    pub service_port: Option<String>,
    /// The directory that kubelet projects the pod's service account into: `ca.crt`, `token`, `namespace`.
    pub service_account: PathBuf,
    /// The oldest version of TLS that is spoken.
    pub min_tls_version: MinTlsVersion,
}

impl Config {
    /// The configuration of this process's environment, unless `kubeconfig` says otherwise.
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

    /// Reads the files and prepares the client; sends nothing. Without a kubeconfig and outside a cluster, or in a pod
    /// without a service account token, there is no API to speak to: `None`, which is no failure. Requests are counted in
    /// `metrics`.
    pub fn build(self, metrics: Arc<Metrics>) -> Result<Option<Kube>, Error> {
        let connection = match &self.kubeconfig {
            Some(file) => Some(kubeconfig::read(file)?),
            None => in_cluster::read(&self)?,
        };
        let Some(connection) = connection else { return Ok(None) };
        Ok(Some(Kube { client: ApiClient::new(connection, self.min_tls_version, metrics)? }))
    }
}

/// A client of one API server.
pub struct Kube {
    client: ApiClient,
}

impl Kube {
    /// The namespace we live in: the pod's, or the kubeconfig context's.
    #[must_use]
    pub fn namespace(&self) -> &str {
        &self.client.connection().namespace
    }

    /// The API server's address.
    #[must_use]
    pub fn server(&self) -> &str {
        self.client.connection().server.as_str()
    }

    /// Reads the TLS files anew, for new connections.
    pub async fn reload_tls(&self) {
        self.client.reload_tls().await;
    }

    /// How many requests were sent so far.
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
