//! Asking for more time: for a token, or for a lease under it.

use std::time::Duration;

use serde::Deserialize;
use tokio::time::Instant;

use super::{Client, Token};
use crate::vault::failure::Failure;

/// What a renewal brought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grant {
    /// From the time of the request on.
    pub duration: Duration,
    /// Whether it can be renewed again.
    pub renewable: bool,
}

#[derive(Deserialize)]
struct Granted {
    lease_duration: u64,
    #[serde(default)]
    renewable: bool,
}

impl From<Granted> for Grant {
    fn from(granted: Granted) -> Self {
        // No server's number makes our arithmetic overflow.
        let duration = Duration::from_secs(granted.lease_duration.min(u64::from(u32::MAX)));
        Self { duration, renewable: granted.renewable }
    }
}

impl Client {
    /// Renews a token by itself (`auth/token/renew-self`) in the namespace of its login.
    pub async fn renew_token(
        &self,
        token: &Token,
        namespace: Option<&str>,
        asked: Duration,
        deadline: Instant,
    ) -> Result<Grant, Failure> {
        #[derive(Deserialize)]
        struct Body {
            auth: Granted,
        }
        let body = serde_json::json!({ "increment": asked.as_secs() }).to_string();
        let answer = self.ask(Some(token), namespace, "auth/token/renew-self", None, Some(body), deadline).await?;
        let Body { auth } = serde_json::from_slice(&answer).map_err(|_| unlike_vault())?;
        Ok(auth.into())
    }

    /// Renews a lease in the namespace of its engine (`sys/leases/renew`).
    pub async fn renew_lease(
        &self,
        token: &Token,
        namespace: Option<&str>,
        lease_id: &str,
        asked: Duration,
        deadline: Instant,
    ) -> Result<Grant, Failure> {
        let body = serde_json::json!({ "lease_id": lease_id, "increment": asked.as_secs() }).to_string();
        let answer = self.ask(Some(token), namespace, "sys/leases/renew", None, Some(body), deadline).await?;
        let granted: Granted = serde_json::from_slice(&answer).map_err(|_| unlike_vault())?;
        Ok(granted.into())
    }
}

fn unlike_vault() -> Failure {
    Failure::NotVault("its answer to a renewal grants nothing".to_owned())
}
