//! A Vault token, and how often it may be used.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use http::HeaderValue;
use serde::{Deserialize, Serialize, de::IgnoredAny};

use super::ReadResult;
use crate::{
    secret::{self, SecretBytes, SecretText},
    text::one_line,
    vault::{
        auth_method::AuthMethod,
        error::RequestError,
        memory_budget::{BudgetScope, MemoryBudget},
        response::SecretResponse,
    },
};

/// The most of an accessor that is kept, in bytes.
const MAX_ACCESSOR_BYTES: usize = 64;

/// The most of a policy's name that is kept, in bytes: it is for messages.
const MAX_POLICY_NAME_BYTES: usize = 60;

/// A Vault token.
pub struct VaultToken {
    pub(super) header: HeaderValue,
    /// Policies, those of the identity included.
    pub policies: Vec<String>,
    /// How long it lives; zero: for ever.
    pub ttl: Duration,
    /// What an operator names it by; not a secret. A batch token has none.
    pub accessor: String,
    /// Whether it can be renewed.
    pub renewable: bool,
    /// Whether it is one that Vault keeps no record of, which nobody can renew or revoke.
    pub is_batch: bool,
    /// How many requests Vault lets it make; zero: any number.
    pub num_uses: u64,
    use_count: AtomicU64,
    /// Room for the answers to it.
    pub(super) budget: Arc<MemoryBudget>,
}

/// What a login brought, and from where.
pub struct LoginResult {
    /// The token.
    pub token: VaultToken,
    /// What vouched for the pod.
    pub auth_method: AuthMethod,
    /// Vault's id of its answer; empty when it gave none.
    pub request_id: String,
}

/// A token as it is kept, sealed, across restarts.
#[derive(Serialize, Deserialize)]
pub struct SavedToken {
    #[serde(serialize_with = "secret::serialize_exposed")]
    token: SecretText,
    policies: Vec<String>,
    /// In seconds.
    ttl: u64,
    accessor: String,
    renewable: bool,
    is_batch: bool,
    num_uses: u64,
}

impl SavedToken {
    /// What an operator names it by.
    #[must_use]
    pub fn accessor(&self) -> &str {
        &self.accessor
    }

    /// The token. One of few uses counts as used up: what was not kept of its last moments may have been a use, and Vault
    /// revokes what was leased under one together with the last. None when it is no token.
    #[must_use]
    pub fn restore(self) -> Option<VaultToken> {
        let mut header = HeaderValue::from_str(self.token.expose()).ok()?;
        header.set_sensitive(true);
        Some(VaultToken {
            header,
            policies: self.policies,
            ttl: Duration::from_secs(self.ttl),
            accessor: self.accessor,
            renewable: self.renewable,
            is_batch: self.is_batch,
            num_uses: self.num_uses,
            use_count: AtomicU64::new(self.num_uses),
            budget: MemoryBudget::new(BudgetScope::Token),
        })
    }
}

impl VaultToken {
    /// What is kept of it across restarts.
    #[must_use]
    pub fn save(&self) -> SavedToken {
        SavedToken {
            token: self.expose().into(),
            policies: self.policies.clone(),
            ttl: self.ttl.as_secs(),
            accessor: self.accessor.clone(),
            renewable: self.renewable,
            is_batch: self.is_batch,
            num_uses: self.num_uses,
        }
    }

    /// Reads a login's answer. Lenient: only the token itself must be there.
    pub(super) fn parse_login(body: Vec<u8>) -> Result<LoginResult, RequestError> {
        #[derive(Deserialize)]
        struct Body {
            auth: Auth,
        }
        #[derive(Deserialize)]
        struct Auth {
            client_token: SecretText,
            accessor: Option<String>,
            policies: Option<Vec<String>>,
            #[serde(default)]
            lease_duration: u64,
            #[serde(default)]
            renewable: bool,
            #[serde(default)]
            num_uses: u64,
            token_type: Option<String>,
        }
        /// What is told beside, which must not fail a login.
        #[derive(Default, Deserialize)]
        struct OptionalFields {
            request_id: Option<String>,
            auth: OptionalAuth,
        }
        #[derive(Default, Deserialize)]
        struct OptionalAuth {
            metadata: Option<Metadata>,
        }
        /// Only the method that asks the Kubernetes API knows it from there.
        #[derive(Deserialize)]
        struct Metadata {
            service_account_uid: Option<IgnoredAny>,
        }
        let body = SecretBytes::from(body);
        let Body { auth } = serde_json::from_slice(body.expose())
            .map_err(|_| RequestError::NotVault("its login answer holds no token".to_owned()))?;
        let mut header = HeaderValue::from_str(auth.client_token.expose())
            .map_err(|_| RequestError::NotVault("its token has characters no header takes".to_owned()))?;
        header.set_sensitive(true);
        let OptionalFields { request_id, auth: OptionalAuth { metadata } } =
            serde_json::from_slice(body.expose()).unwrap_or_default();
        let auth_method = match metadata {
            Some(Metadata { service_account_uid: Some(_) }) => AuthMethod::Kubernetes,
            Some(_) => AuthMethod::Jwt,
            None => AuthMethod::Unknown,
        };
        let token = Self {
            header,
            accessor: one_line(&auth.accessor.unwrap_or_default(), MAX_ACCESSOR_BYTES),
            policies: auth
                .policies
                .unwrap_or_default()
                .iter()
                .map(|name| one_line(name, MAX_POLICY_NAME_BYTES))
                .collect(),
            // No server's number makes our arithmetic overflow.
            ttl: Duration::from_secs(auth.lease_duration.min(u64::from(u32::MAX))),
            renewable: auth.renewable,
            is_batch: auth.token_type.as_deref() == Some("batch"),
            num_uses: auth.num_uses,
            use_count: AtomicU64::new(0),
            budget: MemoryBudget::new(BudgetScope::Token),
        };
        Ok(LoginResult {
            token,
            auth_method: auth_method,
            request_id: one_line(&request_id.unwrap_or_default(), MAX_ACCESSOR_BYTES),
        })
    }

    /// A token for tests of what keeps one.
    #[cfg(test)]
    pub(crate) fn fake(ttl: Duration, renewable: bool) -> Self {
        let body = format!(
            r#"{{"auth":{{"client_token":"hunter2","lease_duration":{},"renewable":{renewable}}}}}"#,
            ttl.as_secs()
        );
        Self::parse_login(body.into_bytes()).unwrap_or_else(|_| panic!("a login's answer")).token
    }

    /// The token itself.
    pub(super) fn expose(&self) -> &str {
        self.header.to_str().unwrap_or_default()
    }

    /// What is handed out of it where a class wants the token itself.
    #[must_use]
    pub fn as_secret(&self) -> ReadResult {
        ReadResult { response: SecretResponse::from_token(self.expose()), mutating: false }
    }

    /// Whether it has made as many requests as it may.
    #[must_use]
    pub fn is_exhausted(&self) -> bool {
        self.max_requests().is_some_and(|max| self.use_count.load(Relaxed) >= max)
    }

    /// Counts one request; an error when it may not be made.
    pub(super) fn consume_use(&self) -> Result<(), RequestError> {
        let used_before = self.use_count.fetch_add(1, Relaxed);
        if self.max_requests().is_some_and(|max| used_before >= max) {
            Err(RequestError::TokenUsesExhausted)
        } else {
            Ok(())
        }
    }

    /// How many requests it may make: of several not the last, as Vault revokes what was leased together with a token that
    /// is used up.
    fn max_requests(&self) -> Option<u64> {
        match self.num_uses {
            0 => None,
            1 => Some(1),
            uses => Some(uses - 1),
        }
    }
}

impl fmt::Debug for VaultToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VaultToken").field("policies", &self.policies).field("ttl", &self.ttl).finish_non_exhaustive()
    }
}
