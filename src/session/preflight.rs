//! Session operations that only `vaultmount check` uses.

use std::sync::Arc;

use tokio::time::Instant;

use super::{CredentialSource, Session};
use crate::{
    error::Error,
    vault::{
        Client,
        client::{VaultToken, preflight::Preflight},
        error::{ErrorResponse, RequestError, TokenValidity},
        request::SecretRequest,
    },
};

impl Session {
    /// Returns the endpoint's client.
    pub fn vault_client(&self) -> Result<Client, Error> {
        self.client()
    }

    /// Returns the Vault token of the last login, even if it is exhausted or expired.
    #[must_use]
    pub fn last_login_token(&self) -> Option<Arc<VaultToken>> {
        self.state().token.as_ref().map(|token| Arc::clone(&token.vault_token))
    }

    /// Predicts the effect of a request without sending it. Also returns the error of a request that is known to fail.
    pub async fn preflight(
        self: &Arc<Self>,
        request: &SecretRequest,
        credentials: &CredentialSource,
        deadline: Instant,
    ) -> Result<(Preflight, Option<Error>), Error> {
        let (token, client) = (self.token_or_login(credentials, None, deadline).await?, self.client()?);
        if request.is_for_token() {
            return Ok((
                Preflight { engine: None, mutating: false, is_allowed: Some(true), has_no_engine: false },
                None,
            ));
        }
        let (vault_token, namespace) = (&token.vault_token, self.key.namespace.as_deref());
        let preflight = client.preflight(vault_token, self.login_namespace(), namespace, request, deadline).await;
        let predicted = match &preflight {
            Preflight { is_allowed: Some(false), .. } => Some(ErrorResponse::predicted(403, "")),
            Preflight { has_no_engine: true, .. } => Some(ErrorResponse::predicted(404, "no handler for route")),
            _ => None,
        };
        // Predicted errors contain no message from the server.
        let error = predicted.map(|a| {
            self.read_error(&client, &RequestError::ErrorResponse(Box::new(a)), vault_token, request)
                .with_server_message("")
        });
        Ok((preflight, error))
    }

    /// Revokes a token of this session and its leases. Returns `false` if it was already revoked or expired.
    pub async fn revoke_token(&self, token: &VaultToken, deadline: Instant) -> Result<bool, Error> {
        self.state().token = None;
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
