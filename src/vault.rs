//! Vault over HTTP; the only user of vaultrs and rustify.

pub mod wire;
