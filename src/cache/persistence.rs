//! Saved form of cached secrets and their tokens across restarts.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{CacheEntry, CacheSlot, CachedSecret, ExpiryWarning, Lifecycle, SecretCache, SessionToken, SlotState};
use crate::{
    clock::Epoch,
    lifetime::{Lifetime, SavedLifetime},
    secret::{self, SecretText},
    vault::{request::SecretRequest, response::SecretResponse},
};

/// Cached secret in the encrypted state. Times are milliseconds relative to an [`Epoch`]. Tokens and volumes are
/// indices in the lists of the session.
#[derive(Serialize, Deserialize)]
pub struct SavedSecret {
    request: SecretRequest,
    /// Complete response.
    #[serde(serialize_with = "secret::serialize_exposed")]
    response: SecretText,
    lifecycle: SavedLifecycle,
    token_index: usize,
    read_at: i64,
    delivered: bool,
    volume_indices: Vec<usize>,
    /// Last expiry warning that was sent.
    #[serde(default)]
    expiry_warning: u8,
}

/// Saved form of a [`Lifecycle`].
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum SavedLifecycle {
    Leased(SavedLifetime),
    Certificate { refresh_at: i64, expires_at: i64, read_at: i64 },
    Static { rotates_at: i64, read_at: i64 },
    Token,
    Plain { read_at: i64, mutating: bool },
}

/// Session tokens by index.
#[derive(Default)]
pub struct TokenTable(Vec<Arc<SessionToken>>);

/// Size limit, in bytes, for saved responses that could be fetched again.
const MAX_REFETCHABLE_RESPONSE_BYTES: usize = 256 << 10;

impl TokenTable {
    /// Returns the index of a token, and appends the token if it is new.
    pub fn index_or_insert(&mut self, token: &Arc<SessionToken>) -> usize {
        let index = self.0.iter().position(|existing| Arc::ptr_eq(existing, token));
        index.unwrap_or_else(|| {
            self.0.push(Arc::clone(token));
            self.0.len() - 1
        })
    }

    /// Returns all tokens in index order.
    #[must_use]
    pub fn tokens(&self) -> &[Arc<SessionToken>] {
        &self.0
    }
}

impl SavedSecret {
    /// Request of the secret.
    #[must_use]
    pub fn request(&self) -> &SecretRequest {
        &self.request
    }

    /// Returns `true` if the secret has a lease.
    #[must_use]
    pub fn is_leased(&self) -> bool {
        matches!(self.lifecycle, SavedLifecycle::Leased(_))
    }
}

impl SecretCache {
    /// Returns the secrets to save. Without `has_capacity`, only secrets that cannot be fetched again are saved.
    /// `volume_index` maps a volume path to its index.
    pub fn to_saved(
        &self,
        epoch: Epoch,
        tokens: &mut TokenTable,
        volume_index: impl Fn(&Arc<str>) -> Option<usize>,
        has_capacity: bool,
    ) -> Vec<SavedSecret> {
        let slots = self.lock();
        let saved = slots.iter().filter_map(|(request, slot)| {
            let slot_state = slot.state();
            let entry = slot_state.entry.as_ref()?;
            let json = entry.secret.response.as_json().expose();
            let is_refetchable = matches!(entry.lifecycle, Lifecycle::Plain { mutating: false, .. });
            if entry.invalidated || (is_refetchable && !(has_capacity && json.len() <= MAX_REFETCHABLE_RESPONSE_BYTES))
            {
                return None;
            }
            Some(SavedSecret {
                request: SecretRequest::clone(request),
                response: std::str::from_utf8(json).ok()?.into(),
                lifecycle: SavedLifecycle::from_lifecycle(&entry.lifecycle, epoch),
                token_index: tokens.index_or_insert(&entry.token),
                read_at: epoch.to_millis(entry.read_at),
                delivered: entry.delivered,
                volume_indices: slot_state.referenced_by.iter().filter_map(&volume_index).collect(),
                expiry_warning: entry.expiry_warning as u8,
            })
        });
        saved.collect()
    }

    /// Restores secrets that an earlier process saved. Skips entries that cannot be parsed; the next mount fetches them
    /// again.
    pub fn restore(
        &self,
        saved: Vec<SavedSecret>,
        epoch: Epoch,
        tokens: &[Arc<SessionToken>],
        volumes: &[Arc<str>],
        mut intern_request: impl FnMut(SecretRequest) -> Arc<SecretRequest>,
    ) {
        let mut slots = self.lock();
        for secret in saved {
            let Some(token) = tokens.get(secret.token_index) else { continue };
            let Ok(response) = SecretResponse::parse(secret.response.expose().as_bytes().to_vec()) else { continue };
            let entry = CacheEntry {
                lifecycle: secret.lifecycle.restore(&response, epoch),
                secret: CachedSecret::new(response),
                token: Arc::clone(token),
                read_at: epoch.instant_at(secret.read_at),
                delivered: secret.delivered,
                invalidated: false,
                expiry_warning: ExpiryWarning::from_saved(secret.expiry_warning),
                last_error: None,
            };
            let referenced_by = secret.volume_indices.iter().filter_map(|index| volumes.get(*index).cloned()).collect();
            let slot_state = SlotState { entry: Some(entry), referenced_by, generation: 1 };
            slots.insert(
                intern_request(secret.request),
                Arc::new(CacheSlot { state: slot_state.into(), ..CacheSlot::default() }),
            );
        }
    }
}

impl SavedLifecycle {
    fn from_lifecycle(lifecycle: &Lifecycle, epoch: Epoch) -> Self {
        let to_millis = |moment: &_| epoch.to_millis(*moment);
        match lifecycle {
            Lifecycle::Leased { lifetime, .. } => Self::Leased(lifetime.to_saved(epoch)),
            Lifecycle::Certificate { refresh_at, expires_at, read_at } => Self::Certificate {
                refresh_at: to_millis(refresh_at),
                expires_at: to_millis(expires_at),
                read_at: to_millis(read_at),
            },
            Lifecycle::Static { rotates_at, read_at } => {
                Self::Static { rotates_at: to_millis(rotates_at), read_at: to_millis(read_at) }
            }
            Lifecycle::Token => Self::Token,
            Lifecycle::Plain { read_at, mutating } => Self::Plain { read_at: to_millis(read_at), mutating: *mutating },
        }
    }

    fn restore(&self, response: &SecretResponse, epoch: Epoch) -> Lifecycle {
        let from_millis = |millis: &i64| epoch.instant_at(*millis);
        match self {
            Self::Leased(saved) => {
                let lifetime: Lifetime = saved.restore(epoch);
                Lifecycle::Leased { lease_id: response.lease_id.clone(), lifetime: Box::new(lifetime) }
            }
            Self::Certificate { refresh_at, expires_at, read_at } => Lifecycle::Certificate {
                refresh_at: from_millis(refresh_at),
                expires_at: from_millis(expires_at),
                read_at: from_millis(read_at),
            },
            Self::Static { rotates_at, read_at } => {
                Lifecycle::Static { rotates_at: from_millis(rotates_at), read_at: from_millis(read_at) }
            }
            Self::Token => Lifecycle::Token,
            Self::Plain { read_at, mutating } => {
                Lifecycle::Plain { read_at: from_millis(read_at), mutating: *mutating }
            }
        }
    }
}

impl ExpiryWarning {
    fn from_saved(saved: u8) -> Self {
        [Self::NotSent, Self::Expiring].into_iter().find(|warned| *warned as u8 == saved).unwrap_or(Self::Expired)
    }
}
