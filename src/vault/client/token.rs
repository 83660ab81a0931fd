//! A Vault token and its use count.

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

/// Maximum kept length of an accessor, in bytes.
const MAX_ACCESSOR_BYTES: usize = 64;

/// Maximum kept length of a policy name, in bytes. Only messages use the name.
const MAX_POLICY_NAME_BYTES: usize = 60;

/// A Vault token.
pub struct VaultToken {
    pub(super) header: HeaderValue,
    /// Policies, those of the identity included.
    pub policies: Vec<String>,
    /// Lifetime; zero: unlimited.
    pub ttl: Duration,
    /// The accessor, by which an operator identifies the token; not a secret. A batch token has none.
    pub accessor: String,
    /// Set when the token can be renewed.
    pub renewable: bool,
    /// Set for a batch token: Vault keeps no record of it, so it can be neither renewed nor revoked.
    pub is_batch: bool,
    /// Maximum number of requests that Vault accepts with it; zero: unlimited.
    pub num_uses: u64,
    use_count: AtomicU64,
    /// Memory budget for the responses to it.
    pub(super) budget: Arc<MemoryBudget>,
}

/// The result of a login.
pub struct LoginResult {
    /// The token.
    pub token: VaultToken,
    /// The auth method that verified the pod.
    pub auth_method: AuthMethod,
    /// Vault's request ID of the response; empty when Vault sent none.
    pub request_id: String,
}

/// A token as persisted, sealed, across restarts.
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
    /// Returns the accessor, by which an operator identifies the token.
    #[must_use]
    pub fn accessor(&self) -> &str {
        &self.accessor
    }

    /// Restores the token. A token with limited uses counts as exhausted: uses since the last save are unknown, and Vault revokes
    /// the leases under a token with its last use. `None` when the text is not a valid token.
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
    /// Returns the form to persist across restarts.
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

    /// Parses a login response. Lenient: only the token itself is required.
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
        /// Optional fields, which must not fail a login.
        #[derive(Default, Deserialize)]
        struct OptionalFields {
            request_id: Option<String>,
            auth: OptionalAuth,
        }
        #[derive(Default, Deserialize)]
        struct OptionalAuth {
            metadata: Option<Metadata>,
        }
        /// Only the `kubernetes` method returns it here.
        #[derive(Deserialize)]
        struct Metadata {
            service_account_uid: Option<IgnoredAny>,
        }
        let body = SecretBytes::from(body);
        let Body { auth } = serde_json::from_slice(body.expose())
            .map_err(|_| RequestError::NotVault("its login response contains no token".to_owned()))?;
        let mut header = HeaderValue::from_str(auth.client_token.expose())
            .map_err(|_| RequestError::NotVault("its token has invalid header characters".to_owned()))?;
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
            auth_method,
            request_id: one_line(&request_id.unwrap_or_default(), MAX_ACCESSOR_BYTES),
        })
    }

    /// Returns a token for tests.
    #[cfg(test)]
    pub(crate) fn fake(ttl: Duration, renewable: bool) -> Self {
        let body = format!(
            r#"{{"auth":{{"client_token":"hunter2","lease_duration":{},"renewable":{renewable}}}}}"#,
            ttl.as_secs()
        );
        Self::parse_login(body.into_bytes()).unwrap_or_else(|_| panic!("valid login response")).token
    }

    /// Returns the token itself.
    pub(super) fn expose(&self) -> &str {
        self.header.to_str().unwrap_or_default()
    }

    /// Returns the response for a class that requests the token itself.
    #[must_use]
    pub fn as_secret(&self) -> ReadResult {
        ReadResult { response: SecretResponse::from_token(self.expose()), mutating: false }
    }

    /// Returns true when the token has no remaining uses.
    #[must_use]
    pub fn is_exhausted(&self) -> bool {
        self.max_requests().is_some_and(|max| self.use_count.load(Relaxed) >= max)
    }

    /// Counts one request; fails when no use remains.
    pub(super) fn consume_use(&self) -> Result<(), RequestError> {
        let used_before = self.use_count.fetch_add(1, Relaxed);
        if self.max_requests().is_some_and(|max| used_before >= max) {
            Err(RequestError::TokenUsesExhausted)
        } else {
            Ok(())
        }
    }

    /// Returns the maximum number of requests. Of several uses the last stays unused, as Vault revokes an exhausted token
    /// together with its leases.
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
