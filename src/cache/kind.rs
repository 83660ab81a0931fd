//! Kinds and states of cached secrets.

use serde::{Deserialize, Serialize};

use crate::label_enum::label_enum;

label_enum! {
    /// What an answer of Vault is, for its replacement.
    SecretKind {
        /// It has a lease that Vault ends: dynamic credentials of any engine.
        Leased = "leased",
        /// An X.509 certificate that was issued without a lease.
        Certificate = "certificate",
        /// A password that Vault rotates by itself.
        Static = "static",
        /// The Vault token itself.
        Token = "token",
        /// Everything else: KV, configuration, signatures.
        Plain = "plain",
    }
}

label_enum! {
    /// Why what was read is read anew.
    RotationReason {
        /// Its own end is near, and no renewal moves it.
        MaxTtl = "max_ttl",
        /// Its token's is.
        Token = "token",
        /// It was plain and old, a certificate past two thirds of its life, or a static credential at its rotation.
        RefreshDue = "refresh_due",
        /// It or its token is no more.
        Revoked = "revoked",
    }
}

label_enum! {
    /// How a token or a lease stands.
    SecretState {
        /// It counts, and is renewed when its time comes.
        Active = "active",
        /// It counts, and its last renewal failed.
        Failing = "failing",
        /// It counts, and cannot be renewed any more.
        Expiring = "expiring",
        /// Another took its place; it ends when nobody can have it in use.
        Superseded = "superseded",
    }
}

label_enum! {
    /// Where the answer to what a mount asked for came from.
    ReadSource {
        /// It was there, and good.
        Cache = "cache",
        /// Vault was asked.
        Vault = "vault",
        /// Vault was being asked by another mount.
        Coalesced = "coalesced",
        /// It was there, and old; Vault could not be asked.
        Stale = "stale",
    }
}
