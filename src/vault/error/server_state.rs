//! Errors of servers that respond but need an operator's action first.

use crate::error::{Cause, Error};

/// Returns the error of an uninitialized server.
pub(in crate::vault) fn uninitialized_error(address: &str) -> Error {
    Error::new(Cause::Uninitialized, format!("Vault at {address} is not initialized"))
        .with_fix("initialize it with `vault operator init`; if it should have data, look at its storage first")
}

/// Returns the error of a sealed server.
pub(in crate::vault) fn sealed_error(address: &str) -> Error {
    Error::new(Cause::Sealed, format!("Vault at {address} is sealed"))
        .with_fix("unseal it (`vault operator unseal`); the mount is tried again by itself")
}

/// Returns the error of a standby without a leader.
pub(in crate::vault) fn no_leader_error(address: &str) -> Error {
    Error::new(Cause::NoLeader, format!("Vault at {address} is a standby, and knows no active node")).with_fix(
        "see that enough of its nodes run, unsealed, and reach each other (`vault operator raft list-peers`); the mount is tried again by itself",
    )
}
