//! What `vaultmount check` wants of a session beyond a mount.

use std::sync::Arc;

use tokio::time::Instant;

use super::{Prover, Session};
use crate::{
    error::Error,
    vault::{
        Client,
        client::{Token, inspect::Prospect},
        failure::{Failure, Refusal},
        wire::Read,
    },
};

impl Session {
    /// The endpoint's client.
    #[must_use]
    pub fn endpoint(&self) -> Client {
        self.client()
    }

    /// The Vault token held.
    #[must_use]
    pub fn standing(&self) -> Option<Arc<Token>> {
        self.held(None)
    }

    /// Looks ahead at a read, and creates nothing. An error when it is known to be denied.
    pub async fn prospect(
        self: &Arc<Self>,
        read: &Read,
        prover: &Prover,
        deadline: Instant,
    ) -> Result<Prospect, Error> {
        let token = self.token(prover, None, deadline).await?;
        let prospect = self.client().prospect(&token, self.key.namespace.as_deref(), read, deadline).await;
        if prospect.allowed == Some(false) {
            let refusal = Refusal::parse(403, br#"{"errors":[]}"#, None);
            return Err(self.read_error(&Failure::Refused(refusal), &token, read));
        }
        Ok(prospect)
    }

    /// Revokes the token held, and with it what was leased under it. Whether there was one.
    pub async fn end(&self, deadline: Instant) -> Result<bool, Error> {
        let Some((token, _)) = self.state().token.take() else { return Ok(false) };
        let (client, namespace) = (self.client(), self.key.auth_namespace.as_deref());
        let revoked = client.revoke(&token, namespace, deadline).await;
        revoked.map(|()| true).map_err(|failure| failure.of_transport(client.address()))
    }
}
