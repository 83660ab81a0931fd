//! Kinds and states of cached secrets.

use serde::{Deserialize, Serialize};

use crate::label_enum::label_enum;

label_enum! {
    /// Kind of a cached secret, which decides how it is replaced.
    SecretKind {
        /// Secret with a lease: dynamic credentials of any engine.
        Leased = "leased",
        /// X.509 certificate without a lease.
        Certificate = "certificate",
        /// Static credential that Vault rotates.
        Static = "static",
        /// Vault token.
        Token = "token",
        /// Everything else: KV, configuration, signatures.
        Plain = "plain",
    }
}

label_enum! {
    /// Reason to fetch a secret again.
    RotationReason {
        /// Expiry is near, and the max TTL prevents a renewal.
        MaxTtl = "max_ttl",
        /// Expiry of the token is near, and the max TTL prevents a renewal.
        Token = "token",
        /// Refresh is due: an old plain secret, a certificate past two thirds of its lifetime, or a static credential
        /// at its rotation.
        RefreshDue = "refresh_due",
        /// Secret or its token was revoked.
        Revoked = "revoked",
    }
}

label_enum! {
    /// State of a token or secret.
    SecretState {
        /// In use, and renewed when due.
        Active = "active",
        /// In use, and the last renewal failed.
        Failing = "failing",
        /// In use, and cannot be renewed any more.
        Expiring = "expiring",
        /// Replaced, and valid until no pod can use it any more.
        Superseded = "superseded",
    }
}

label_enum! {
    /// Source of a secret for a mount.
    ReadSource {
        /// Fresh cached secret.
        Cache = "cache",
        /// Request to Vault.
        Vault = "vault",
        /// Request to Vault started by another mount (single-flight).
        Coalesced = "coalesced",
        /// Stale cached secret, because Vault was unavailable.
        Stale = "stale",
    }
}
