//! Renewal of tokens and leases, and revocation of tokens.

use std::time::Duration;

use serde::Deserialize;
use tokio::time::Instant;

use super::{Client, VaultToken};
use crate::vault::error::RequestError;

/// The result of a renewal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RenewalGrant {
    /// Remaining lifetime, from the time of the request.
    pub ttl: Duration,
    /// Set when another renewal is possible.
    pub renewable: bool,
}

#[derive(Deserialize)]
struct GrantBody {
    lease_duration: u64,
    #[serde(default)]
    renewable: bool,
}

impl From<GrantBody> for RenewalGrant {
    fn from(body: GrantBody) -> Self {
        // Bounded, so that no value from a server overflows later arithmetic.
        let duration = Duration::from_secs(body.lease_duration.min(u64::from(u32::MAX)));
        Self { ttl: duration, renewable: body.renewable }
    }
}

impl Client {
    /// Renews a token by itself (`auth/token/renew-self`) in the namespace of its login.
    pub async fn renew_token(
        &self,
        token: &VaultToken,
        namespace: Option<&str>,
        increment: Duration,
        deadline: Instant,
    ) -> Result<RenewalGrant, RequestError> {
        #[derive(Deserialize)]
        struct Body {
            auth: GrantBody,
        }
        let body = serde_json::json!({ "increment": increment.as_secs() }).to_string();
        let response =
            self.send_idempotent(Some(token), namespace, "auth/token/renew-self", Some(body), deadline).await?;
        let Body { auth } = serde_json::from_slice(&response).map_err(|_| invalid_renewal_response())?;
        Ok(auth.into())
    }

    /// Renews a lease in the namespace of its engine (`sys/leases/renew`).
    pub async fn renew_lease(
        &self,
        token: &VaultToken,
        namespace: Option<&str>,
        lease_id: &str,
        increment: Duration,
        deadline: Instant,
    ) -> Result<RenewalGrant, RequestError> {
        let body = serde_json::json!({ "lease_id": lease_id, "increment": increment.as_secs() }).to_string();
        let response = self.send_idempotent(Some(token), namespace, "sys/leases/renew", Some(body), deadline).await?;
        let grant: GrantBody = serde_json::from_slice(&response).map_err(|_| invalid_renewal_response())?;
        Ok(grant.into())
    }

    /// Revokes a token and the leases under it.
    pub async fn revoke_token(
        &self,
        token: &VaultToken,
        namespace: Option<&str>,
        deadline: Instant,
    ) -> Result<(), RequestError> {
        self.send_idempotent(Some(token), namespace, "auth/token/revoke-self", Some("{}".to_owned()), deadline).await?;
        Ok(())
    }
}

fn invalid_renewal_response() -> RequestError {
    RequestError::NotVault("its response to a renewal contains no grant".to_owned())
}
