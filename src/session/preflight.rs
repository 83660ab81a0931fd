//! What `vaultmount check` wants of a session beyond a mount.

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
    /// The endpoint's client.
    pub fn vault_client(&self) -> Result<Client, Error> {
        self.client()
    }

    /// The Vault token of the last login, whatever it is still good for.
    #[must_use]
    pub fn last_login_token(&self) -> Option<Arc<VaultToken>> {
        self.state().token.as_ref().map(|token| Arc::clone(&token.vault_token))
    }

    /// Looks ahead at a read, and creates nothing. Beside it the error of a read that is known to fail.
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
        // Nobody said it yet.
        let error = predicted.map(|a| {
            self.read_error(&client, &RequestError::ErrorResponse(Box::new(a)), vault_token, request)
                .with_server_message("")
        });
        Ok((preflight, error))
    }

    /// Revokes a token of this session, and with it what was leased under it. Whether it was not over before.
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
