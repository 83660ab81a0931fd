//! What `vaultmount check` asks beyond a mount: what a token may do, and the token's end.

use std::{collections::HashMap, sync::Arc};

use tokio::time::Instant;

use super::{Client, LogicalEndpoint, VaultToken};
use crate::{
    secret::SecretText,
    vault::{
        engine::Engine,
        error::{self, RequestError},
        request::{Method, SecretRequest, redact_values},
        transport::CallOptions,
    },
};

/// What a request of a class would do.
#[derive(Clone, Debug)]
pub struct Preflight {
    /// The engine that answers, if Vault tells.
    pub engine: Option<Arc<Engine>>,
    /// Whether it may create something.
    pub mutating: bool,
    /// Whether the token's policies allow it; none when Vault does not tell.
    pub is_allowed: Option<bool>,
    /// Whether it is known that no engine is there.
    pub has_no_engine: bool,
}

impl Client {
    /// Looks ahead at a read in `namespace` with a token of `home`, and creates nothing.
    pub async fn preflight(
        &self,
        token: &VaultToken,
        login_namespace: Option<&str>,
        namespace: Option<&str>,
        request: &SecretRequest,
        deadline: Instant,
    ) -> Preflight {
        let engine = self.lookup_engine(token, namespace, request, deadline).await;
        let mutating = super::is_mutating(request, engine.as_deref());
        // The policies are those of the token's own namespace, and so is the right to ask about them.
        let is_allowed = match error::relative_namespace(login_namespace, namespace) {
            // Few uses are for the secrets themselves.
            Some(relative_namespace) if token.num_uses == 0 => self
                .check_capability(token, login_namespace, &relative_namespace, request, deadline)
                .await
                .ok()
                .flatten(),
            _ => None,
        };
        let has_no_engine = engine.is_none()
            && is_allowed == Some(true)
            && self.has_no_engine(token, namespace, &request.path, deadline).await;
        Preflight { engine, mutating, is_allowed: is_allowed, has_no_engine }
    }

    /// Whether Vault itself will not tell the engine at a path that the token may use: then there is none (measured against
    /// OpenBao 2.7).
    async fn has_no_engine(&self, token: &VaultToken, namespace: Option<&str>, path: &str, deadline: Instant) -> bool {
        let path = format!("sys/internal/ui/mounts/{path}");
        match self.send_idempotent(Some(token), namespace, &path, None, None, deadline).await {
            Err(RequestError::ErrorResponse(response)) => {
                response.status == 403 && response.mentions(&["preflight capability check"])
            }
            _ => false,
        }
    }

    /// Whether the token's policies allow a read below `inner`; none when the answer does not say.
    async fn check_capability(
        &self,
        token: &VaultToken,
        login_namespace: Option<&str>,
        relative_namespace: &str,
        request: &SecretRequest,
        deadline: Instant,
    ) -> Result<Option<bool>, RequestError> {
        let (suffix, required): (_, &[&str]) = match request.method {
            Method::Get => ("", &["read"]),
            Method::List => ("/", &["list"]),
            Method::Put | Method::Post => ("", &["create", "update"]),
        };
        let question =
            serde_json::json!({ "paths": [format!("{relative_namespace}{}{suffix}", request.path)] }).to_string();
        let body = self
            .send_idempotent(Some(token), login_namespace, "sys/capabilities-self", None, Some(question), deadline)
            .await?;
        let fields: HashMap<String, serde_json::Value> = serde_json::from_slice(&body).unwrap_or_default();
        let capabilities = fields.get("capabilities").and_then(serde_json::Value::as_array);
        Ok(capabilities
            .map(|granted| granted.iter().any(|c| c.as_str().is_some_and(|c| c == "root" || required.contains(&c)))))
    }

    /// Ends a token, and with it what was leased under it.
    pub async fn revoke_token(
        &self,
        token: &VaultToken,
        namespace: Option<&str>,
        deadline: Instant,
    ) -> Result<(), RequestError> {
        self.send_idempotent(Some(token), namespace, "auth/token/revoke-self", None, Some("{}".to_owned()), deadline)
            .await?;
        Ok(())
    }

    /// One request that may be repeated: a GET, or a POST when there is a body.
    pub(super) async fn send_idempotent(
        &self,
        token: Option<&VaultToken>,
        namespace: Option<&str>,
        path: &str,
        query: Option<&str>,
        body: Option<String>,
        deadline: Instant,
    ) -> Result<Vec<u8>, RequestError> {
        self.send_idempotent_with(token, namespace, path, query, body, CallOptions::with_deadline(deadline)).await
    }

    /// The same of a call of any kind.
    pub(super) async fn send_idempotent_with(
        &self,
        token: Option<&VaultToken>,
        namespace: Option<&str>,
        path: &str,
        query: Option<&str>,
        body: Option<String>,
        call: CallOptions<'_>,
    ) -> Result<Vec<u8>, RequestError> {
        let method = if body.is_some() { Method::Post } else { Method::Get };
        let (query, body) = (query.map(SecretText::from), body.map(SecretText::from));
        let request = SecretRequest { method, path: path.to_owned(), query, body };
        let http_request = self.build_request(&LogicalEndpoint(&request), token, namespace)?;
        let result = self.send(http_request, call).await;
        let secrets: Vec<&str> = token.map(VaultToken::expose).into_iter().collect();
        result
            .map(|received| received.bytes)
            .map_err(|failure| failure.redacted(|words| redact_values(words, &secrets, "[token]")))
    }
}
