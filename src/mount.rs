//! The use case: the objects of a pod's class become files.
//!
//! `MountSpec -> VaultTarget -> Session -> CachedSecret per distinct request -> RenderedFile per object -> VolumeContents`

mod admission;
mod aggregate_error;
mod cache_hit;
mod context;
mod fetch;
mod serve;
mod volume;

use std::sync::Arc;

use crate::{
    cache::Refresh, hmac_keys::HmacKeys, kube::Kube, observe::mounts::MountObserver, policy::OperatorPolicy,
    reconcile::Reconciler, request::ClassCache, session::SessionRegistry, state::Gate, vault::Vault,
};
pub use admission::{MountLimiter, MountPermit};
pub(crate) use context::MountContext;
pub(crate) use fetch::RequestResult;
pub use serve::{AcceptedMount, MountCall, PendingMount};
pub use volume::{MAX_RESPONSE_BYTES, VolumeContents};

/// Mounts volumes. One per process.
pub struct MountService {
    /// The operator's settings, and what they allow tenants.
    pub operator: Arc<OperatorPolicy>,
    /// The Vault clients of all endpoints.
    pub vault: Arc<Vault>,
    /// The sessions of all pods.
    pub sessions: Arc<SessionRegistry>,
    /// Renews and revokes in the background.
    pub reconciler: Arc<Reconciler>,
    /// How long plain secrets are fresh if the class does not set `refreshInterval`.
    pub default_refresh: Refresh,
    /// Mints service account tokens that the driver did not pass; `None` with `--mint-tokens=off` or outside a cluster.
    pub token_minter: Option<Arc<Kube>>,
    /// The keys of object versions.
    pub hmac_keys: HmacKeys,
    /// Holds mounts back until the sessions of earlier processes are restored.
    pub gate: Arc<Gate>,
    /// Limits concurrent mounts (`--max-mounts`).
    pub limiter: Arc<MountLimiter>,
    /// Reports mounts.
    pub observer: Arc<MountObserver>,
    /// The parsed classes.
    pub classes: ClassCache,
}
