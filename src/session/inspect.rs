//! What `vaultmount check` wants of a session beyond a mount.

use std::sync::Arc;

use tokio::time::Instant;

use super::{Prover, Session};
use crate::{
    error::Error,
    vault::{
        Client,
        client::{Token, inspect::Prospect},
        failure::{Failure, Refusal, TokenVerdict},
        wire::Read,
    },
};

impl Session {
    /// The endpoint's client.
    pub fn endpoint(&self) -> Result<Client, Error> {
        self.client()
    }

    /// The Vault token of the last login, whatever it is still good for.
    #[must_use]
    pub fn logged_in(&self) -> Option<Arc<Token>> {
        self.state().hold.as_ref().map(|hold| Arc::clone(&hold.token))
    }

    /// Looks ahead at a read, and creates nothing. Beside it the error of a read that is known to fail.
    pub async fn prospect(
        self: &Arc<Self>,
        read: &Read,
        prover: &Prover,
        deadline: Instant,
    ) -> Result<(Prospect, Option<Error>), Error> {
        let (hold, client) = (self.token(prover, None, deadline).await?, self.client()?);
        if read.is_token() {
            return Ok((Prospect { engine: None, creates: false, allowed: Some(true), is_nowhere: false }, None));
        }
        let (token, namespace) = (&hold.token, self.key.namespace.as_deref());
        let prospect = client.prospect(token, self.home(), namespace, read, deadline).await;
        let answer = match &prospect {
            Prospect { allowed: Some(false), .. } => Some(Refusal::foreseen(403, "")),
            Prospect { is_nowhere: true, .. } => Some(Refusal::foreseen(404, "no handler for route")),
            _ => None,
        };
        // Nobody said it yet.
        let error = answer.map(|a| self.read_error(&client, &Failure::Refused(Box::new(a)), token, read).said(""));
        Ok((prospect, error))
    }

    /// Revokes a token of this session, and with it what was leased under it. Whether it was not over before.
    pub async fn revoke(&self, token: &Token, deadline: Instant) -> Result<bool, Error> {
        self.state().hold = None;
        let client = self.client()?;
        match client.revoke(token, self.key.auth_namespace.as_deref(), deadline).await {
            Ok(()) => Ok(true),
            Err(Failure::Refused(refusal)) if !token.is_batch && refusal.token_verdict() != TokenVerdict::Valid => {
                Ok(false)
            }
            Err(failure) => Err(failure.of_transport(client.address())),
        }
    }
}
