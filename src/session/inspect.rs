//! What `vaultmount check` wants of a session beyond a mount.

use std::sync::Arc;

use tokio::time::Instant;

use super::{Prover, Session};
use crate::{
    error::Error,
    vault::{
        Client,
        client::{VaultToken, inspect::Preflight},
        failure::{ErrorResponse, RequestError, TokenValidity},
        wire::SecretRequest,
    },
};

impl Session {
    /// The endpoint's client.
    pub fn endpoint(&self) -> Result<Client, Error> {
        self.client()
    }

    /// The Vault token of the last login, whatever it is still good for.
    #[must_use]
    pub fn logged_in(&self) -> Option<Arc<VaultToken>> {
        self.state().hold.as_ref().map(|hold| Arc::clone(&hold.token))
    }

    /// Looks ahead at a read, and creates nothing. Beside it the error of a read that is known to fail.
    pub async fn prospect(
        self: &Arc<Self>,
        read: &SecretRequest,
        prover: &Prover,
        deadline: Instant,
    ) -> Result<(Preflight, Option<Error>), Error> {
        let (hold, client) = (self.token(prover, None, deadline).await?, self.client()?);
        if read.is_for_token() {
            return Ok((
                Preflight { engine: None, mutating: false, is_allowed: Some(true), has_no_engine: false },
                None,
            ));
        }
        let (token, namespace) = (&hold.token, self.key.namespace.as_deref());
        let prospect = client.preflight(token, self.home(), namespace, read, deadline).await;
        let answer = match &prospect {
            Preflight { is_allowed: Some(false), .. } => Some(ErrorResponse::predicted(403, "")),
            Preflight { has_no_engine: true, .. } => Some(ErrorResponse::predicted(404, "no handler for route")),
            _ => None,
        };
        // Nobody said it yet.
        let error =
            answer.map(|a| self.read_error(&client, &RequestError::ErrorResponse(Box::new(a)), token, read).said(""));
        Ok((prospect, error))
    }

    /// Revokes a token of this session, and with it what was leased under it. Whether it was not over before.
    pub async fn revoke(&self, token: &VaultToken, deadline: Instant) -> Result<bool, Error> {
        self.state().hold = None;
        let client = self.client()?;
        match client.revoke_token(token, self.key.auth_namespace.as_deref(), deadline).await {
            Ok(()) => Ok(true),
            Err(RequestError::ErrorResponse(refusal))
                if !token.is_batch && refusal.token_validity() != TokenValidity::Valid =>
            {
                Ok(false)
            }
            Err(failure) => Err(failure.explain_transport(client.address())),
        }
    }
}
