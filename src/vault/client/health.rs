//! Server health and certificate expiry, which do not need a token.

use jiff::Timestamp;
use serde::Deserialize;
use tokio::time::{Instant, timeout_at};

use super::Client;
use crate::{
    error::Error,
    text::one_line,
    vault::{
        error::{self, RequestError},
        transport::CallOptions,
    },
};

/// Maximum length of a displayed version, in bytes.
const MAX_VERSION_BYTES: usize = 40;

/// Public health of a server (`sys/health`).
#[derive(Clone, Debug)]
pub struct Health {
    /// State of the node.
    pub state: NodeState,
    /// Version of the server. Vault and OpenBao have separate version numbers.
    pub version: String,
    /// Server time in seconds since 1970.
    pub server_time_seconds: Option<i64>,
}

/// State of a Vault node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NodeState {
    /// The node must be initialized first.
    Uninitialized,
    /// The node must be unsealed first.
    Sealed,
    /// A standby without an active node to forward requests to.
    NoLeader,
    /// A standby that forwards requests to the active node.
    Standby,
    /// The active node.
    Active,
}

impl Health {
    /// Returns the error that a mount would fail with in this state, if any.
    #[must_use]
    pub fn unavailable_error(&self, address: &str) -> Option<Error> {
        match self.state {
            NodeState::Uninitialized => Some(error::uninitialized_error(address)),
            NodeState::Sealed => Some(error::sealed_error(address)),
            NodeState::NoLeader => Some(error::no_leader_error(address)),
            NodeState::Standby | NodeState::Active => None,
        }
    }
}

impl Client {
    /// Requests the server's health. Works in every state of the server.
    pub async fn health(&self, deadline: Instant) -> Result<Health, RequestError> {
        self.health_with(CallOptions::with_deadline(deadline)).await
    }

    /// Same as [`Client::health`], with call options.
    pub(super) async fn health_with(&self, options: CallOptions<'_>) -> Result<Health, RequestError> {
        #[derive(Deserialize)]
        struct Body {
            initialized: bool,
            sealed: bool,
            #[serde(default)]
            standby: bool,
            #[serde(default)]
            version: String,
            server_time_utc: Option<i64>,
        }
        // Without these parameters the response status depends on the state, and some states' bodies are lost.
        let states = ["standby", "sealed", "uninit", "drsecondary", "performancestandby"];
        let query = states.map(|state| format!("{state}code=200")).join("&");
        let body = self.send_idempotent_with(None, None, "sys/health", Some(&query), None, options).await?;
        let body: Body = serde_json::from_slice(&body)
            .map_err(|_| RequestError::NotVault("its sys/health response is not from Vault".to_owned()))?;
        let state = match body {
            Body { initialized: false, .. } => NodeState::Uninitialized,
            Body { sealed: true, .. } => NodeState::Sealed,
            Body { standby: false, .. } => NodeState::Active,
            Body { standby: true, .. } if self.has_leader(options).await => NodeState::Standby,
            Body { standby: true, .. } => NodeState::NoLeader,
        };
        Ok(Health {
            state,
            version: one_line(&body.version, MAX_VERSION_BYTES),
            server_time_seconds: body.server_time_utc,
        })
    }

    /// Returns true if a standby knows an active node. A standby that does not report it counts as knowing one.
    async fn has_leader(&self, options: CallOptions<'_>) -> bool {
        #[derive(Deserialize)]
        struct Body {
            ha_enabled: bool,
            // OpenBao omits empty fields (measured against 2.7).
            #[serde(default)]
            leader_address: String,
        }
        let Ok(body) = self.send_idempotent_with(None, None, "sys/leader", None, None, options).await else {
            return true;
        };
        serde_json::from_slice::<Body>(&body).map_or(true, |body| !(body.ha_enabled && body.leader_address.is_empty()))
    }

    /// Returns the expiry of a TLS server's certificate. `None` without TLS or if the deadline is exceeded.
    pub async fn fetch_certificate_expiry(&self, deadline: Instant) -> Option<Timestamp> {
        timeout_at(deadline, self.shared.transport.fetch_certificate_expiry()).await.ok().flatten()
    }
}
