//! What `vaultmount check` asks beyond a mount: what a token may do, and the token's end.

use std::{collections::HashMap, sync::Arc};

use tokio::time::Instant;

use super::{Client, Logical, Token};
use crate::{
    secret::SecretText,
    vault::{
        engine::Engine,
        failure::{self, Failure},
        transport::Call,
        wire::{Method, Read, without},
    },
};

/// What a request of a class would do.
#[derive(Clone, Debug)]
pub struct Prospect {
    /// The engine that answers, if Vault tells.
    pub engine: Option<Arc<Engine>>,
    /// Whether it may create something.
    pub creates: bool,
    /// Whether the token's policies allow it; none when Vault does not tell.
    pub allowed: Option<bool>,
    /// Whether it is known that no engine is there.
    pub is_nowhere: bool,
}

impl Client {
    /// Looks ahead at a read in `namespace` with a token of `home`, and creates nothing.
    pub async fn prospect(
        &self,
        token: &Token,
        home: Option<&str>,
        namespace: Option<&str>,
        read: &Read,
        deadline: Instant,
    ) -> Prospect {
        let engine = self.engine(token, namespace, read, deadline).await;
        let creates = super::creates(read, engine.as_deref());
        // The policies are those of the token's own namespace, and so is the right to ask about them.
        let allowed = match failure::below(home, namespace) {
            // Few uses are for the secrets themselves.
            Some(inner) if token.num_uses == 0 => self.may(token, home, &inner, read, deadline).await.ok().flatten(),
            _ => None,
        };
        let is_nowhere =
            engine.is_none() && allowed == Some(true) && self.is_nowhere(token, namespace, &read.path, deadline).await;
        Prospect { engine, creates, allowed, is_nowhere }
    }

    /// Whether Vault itself will not tell the engine at a path that the token may use: then there is none (measured against
    /// OpenBao 2.7).
    async fn is_nowhere(&self, token: &Token, namespace: Option<&str>, path: &str, deadline: Instant) -> bool {
        let path = format!("sys/internal/ui/mounts/{path}");
        match self.ask(Some(token), namespace, &path, None, None, deadline).await {
            Err(Failure::Refused(refusal)) => refusal.status == 403 && refusal.says(&["preflight capability check"]),
            _ => false,
        }
    }

    /// Whether the token's policies allow a read below `inner`; none when the answer does not say.
    async fn may(
        &self,
        token: &Token,
        home: Option<&str>,
        inner: &str,
        read: &Read,
        deadline: Instant,
    ) -> Result<Option<bool>, Failure> {
        let (end, wanted): (_, &[&str]) = match read.method {
            Method::Get => ("", &["read"]),
            Method::List => ("/", &["list"]),
            Method::Put | Method::Post => ("", &["create", "update"]),
        };
        let question = serde_json::json!({ "paths": [format!("{inner}{}{end}", read.path)] }).to_string();
        let body = self.ask(Some(token), home, "sys/capabilities-self", None, Some(question), deadline).await?;
        let told: HashMap<String, serde_json::Value> = serde_json::from_slice(&body).unwrap_or_default();
        let capabilities = told.get("capabilities").and_then(serde_json::Value::as_array);
        Ok(capabilities.map(|has| has.iter().any(|c| c.as_str().is_some_and(|c| c == "root" || wanted.contains(&c)))))
    }

    /// Ends a token, and with it what was leased under it.
    pub async fn revoke(&self, token: &Token, namespace: Option<&str>, deadline: Instant) -> Result<(), Failure> {
        self.ask(Some(token), namespace, "auth/token/revoke-self", None, Some("{}".to_owned()), deadline).await?;
        Ok(())
    }

    /// One request that may be repeated: a GET, or a POST when there is a body.
    pub(super) async fn ask(
        &self,
        token: Option<&Token>,
        namespace: Option<&str>,
        path: &str,
        query: Option<&str>,
        body: Option<String>,
        deadline: Instant,
    ) -> Result<Vec<u8>, Failure> {
        self.ask_by(token, namespace, path, query, body, Call::until(deadline)).await
    }

    /// The same of a call of any kind.
    pub(super) async fn ask_by(
        &self,
        token: Option<&Token>,
        namespace: Option<&str>,
        path: &str,
        query: Option<&str>,
        body: Option<String>,
        call: Call<'_>,
    ) -> Result<Vec<u8>, Failure> {
        let method = if body.is_some() { Method::Post } else { Method::Get };
        let (query, body) = (query.map(SecretText::from), body.map(SecretText::from));
        let read = Read { method, path: path.to_owned(), query, body };
        let request = self.build(&Logical(&read), token, namespace)?;
        let sent = self.send(request, call).await;
        let secrets: Vec<&str> = token.map(Token::text).into_iter().collect();
        sent.map(|received| received.body)
            .map_err(|failure| failure.covered(|words| without(words, &secrets, "[token]")))
    }
}
