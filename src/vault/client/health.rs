//! How a server is, and how long its certificate counts: what anybody may ask.

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

/// The most of a version that is shown, in bytes.
const MAX_VERSION_BYTES: usize = 40;

/// What a server says of itself to everybody (`sys/health`).
#[derive(Clone, Debug)]
pub struct Health {
    /// What it can do.
    pub state: NodeState,
    /// Its version; Vault and OpenBao number theirs apart.
    pub version: String,
    /// Its clock, in seconds since 1970.
    pub server_time_seconds: Option<i64>,
}

/// What a server can do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NodeState {
    /// Nothing before it is initialized.
    Uninitialized,
    /// Nothing before it is unsealed.
    Sealed,
    /// Nothing before there is an active node to forward to.
    NoLeader,
    /// Everything, as it forwards to the active node.
    Standby,
    /// Everything.
    Active,
}

impl Health {
    /// Why a mount cannot succeed there, if it cannot.
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
    /// Asks the server how it is, in whatever state it is.
    pub async fn health(&self, deadline: Instant) -> Result<Health, RequestError> {
        self.health_with(CallOptions::with_deadline(deadline)).await
    }

    /// The same of a call of any kind.
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
        // Without these the state is the answer's status, and not every state's body arrives.
        let states = ["standby", "sealed", "uninit", "drsecondary", "performancestandby"];
        let query = states.map(|state| format!("{state}code=200")).join("&");
        let body = self.send_idempotent_with(None, None, "sys/health", Some(&query), None, options).await?;
        let body: Body = serde_json::from_slice(&body)
            .map_err(|_| RequestError::NotVault("its sys/health is another's".to_owned()))?;
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

    /// Whether a standby knows an active node; one that does not say counts as knowing one.
    async fn has_leader(&self, options: CallOptions<'_>) -> bool {
        #[derive(Deserialize)]
        struct Body {
            ha_enabled: bool,
            // OpenBao leaves out what is empty (measured against 2.7).
            #[serde(default)]
            leader_address: String,
        }
        let Ok(body) = self.send_idempotent_with(None, None, "sys/leader", None, None, options).await else {
            return true;
        };
        serde_json::from_slice::<Body>(&body).map_or(true, |body| !(body.ha_enabled && body.leader_address.is_empty()))
    }

    /// When the certificate of a server over TLS will be over; none if it does not become known in time.
    pub async fn fetch_certificate_expiry(&self, deadline: Instant) -> Option<Timestamp> {
        timeout_at(deadline, self.shared.transport.fetch_certificate_expiry()).await.ok().flatten()
    }
}
