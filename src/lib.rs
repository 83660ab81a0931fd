//! vaultmount

pub mod error;
pub mod kube;
pub mod policy;
pub mod render;
pub mod request;
pub mod secret;
pub mod text;
pub mod tls;
pub mod vault;
