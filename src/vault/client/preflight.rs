//! Requests that only `vaultmount check` sends: the engine of a path and a token's capabilities.

use std::{collections::HashMap, sync::Arc};

use tokio::time::Instant;

use super::{Client, VaultToken};
use crate::vault::{
    engine::Engine,
    error::{self, RequestError},
    request::{Method, SecretRequest},
};

/// The expected effect of a class's request.
#[derive(Clone, Debug)]
pub struct Preflight {
    /// The engine that serves the request, if Vault discloses it.
    pub engine: Option<Arc<Engine>>,
    /// Set when the request may create something.
    pub mutating: bool,
    /// Verdict of the token's policies; `None` when Vault does not report it.
    pub is_allowed: Option<bool>,
    /// Set when Vault confirms that no engine is mounted there.
    pub has_no_engine: bool,
}

impl Client {
    /// Predicts a read in `namespace` with a token of `login_namespace`, and creates nothing.
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
        // The policies, and the right to query them, belong to the namespace of the login.
        let is_allowed = match error::relative_namespace(login_namespace, namespace) {
            // A token with limited uses needs them for the secrets.
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
        Preflight { engine, mutating, is_allowed, has_no_engine }
    }

    /// Returns true when Vault does not disclose an engine at a path that the token may use: then no engine is mounted there
    /// (measured against OpenBao 2.7).
    async fn has_no_engine(&self, token: &VaultToken, namespace: Option<&str>, path: &str, deadline: Instant) -> bool {
        let path = format!("sys/internal/ui/mounts/{path}");
        match self.send_idempotent(Some(token), namespace, &path, None, deadline).await {
            Err(RequestError::ErrorResponse(response)) => {
                response.status == 403 && response.mentions(&["preflight capability check"])
            }
            _ => false,
        }
    }

    /// Returns the verdict of the token's policies on a request below `relative_namespace`; `None` when the response has none.
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
            .send_idempotent(Some(token), login_namespace, "sys/capabilities-self", Some(question), deadline)
            .await?;
        let fields: HashMap<String, serde_json::Value> = serde_json::from_slice(&body).unwrap_or_default();
        let capabilities = fields.get("capabilities").and_then(serde_json::Value::as_array);
        Ok(capabilities
            .map(|granted| granted.iter().any(|c| c.as_str().is_some_and(|c| c == "root" || required.contains(&c)))))
    }
}
