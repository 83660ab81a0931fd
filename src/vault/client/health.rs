//! How a server is, and how long its certificate counts: what anybody may ask.

use jiff::Timestamp;
use serde::Deserialize;
use tokio::time::{Instant, timeout_at};

use super::Client;
use crate::{
    error::Error,
    text::one_line,
    vault::{
        failure::{self, RequestError},
        transport::Call,
    },
};

/// The most of a version that is shown, in bytes.
const MAX_VERSION: usize = 40;

/// What a server says of itself to everybody (`sys/health`).
#[derive(Clone, Debug)]
pub struct Health {
    /// What it can do.
    pub state: State,
    /// Its version; Vault and OpenBao number theirs apart.
    pub version: String,
    /// Its clock, in seconds since 1970.
    pub clock: Option<i64>,
}

/// What a server can do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Nothing before it is initialized.
    Uninitialized,
    /// Nothing before it is unsealed.
    Sealed,
    /// Nothing before there is an active node to forward to.
    Leaderless,
    /// Everything, as it forwards to the active node.
    Standby,
    /// Everything.
    Active,
}

impl Health {
    /// Why a mount cannot succeed there, if it cannot.
    #[must_use]
    pub fn problem(&self, address: &str) -> Option<Error> {
        match self.state {
            State::Uninitialized => Some(failure::uninitialized_error(address)),
            State::Sealed => Some(failure::sealed_error(address)),
            State::Leaderless => Some(failure::no_leader_error(address)),
            State::Standby | State::Active => None,
        }
    }
}

impl Client {
    /// Asks the server how it is, in whatever state it is.
    pub async fn health(&self, deadline: Instant) -> Result<Health, RequestError> {
        self.health_by(Call::until(deadline)).await
    }

    /// The same of a call of any kind.
    pub(super) async fn health_by(&self, call: Call<'_>) -> Result<Health, RequestError> {
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
        let body = self.send_idempotent_with(None, None, "sys/health", Some(&query), None, call).await?;
        let body: Body = serde_json::from_slice(&body)
            .map_err(|_| RequestError::NotVault("its sys/health is another's".to_owned()))?;
        let state = match body {
            Body { initialized: false, .. } => State::Uninitialized,
            Body { sealed: true, .. } => State::Sealed,
            Body { standby: false, .. } => State::Active,
            Body { standby: true, .. } if self.has_leader(call).await => State::Standby,
            Body { standby: true, .. } => State::Leaderless,
        };
        Ok(Health { state, version: one_line(&body.version, MAX_VERSION), clock: body.server_time_utc })
    }

    /// Whether a standby knows an active node; one that does not say counts as knowing one.
    async fn has_leader(&self, call: Call<'_>) -> bool {
        #[derive(Deserialize)]
        struct Body {
            ha_enabled: bool,
            // OpenBao leaves out what is empty (measured against 2.7).
            #[serde(default)]
            leader_address: String,
        }
        let Ok(body) = self.send_idempotent_with(None, None, "sys/leader", None, None, call).await else { return true };
        serde_json::from_slice::<Body>(&body)
            .map_or(true, |leader| !(leader.ha_enabled && leader.leader_address.is_empty()))
    }

    /// When the certificate of a server over TLS will be over; none if it does not become known in time.
    pub async fn certificate_end(&self, deadline: Instant) -> Option<Timestamp> {
        timeout_at(deadline, self.shared.transport.certificate_end()).await.ok().flatten()
    }
}
