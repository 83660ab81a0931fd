//! Test support: a tenant of the real OpenBao, pods that mount, and daemons that serve them.

pub mod bao;
pub mod bao_server;
pub mod cli;
pub mod clock;
pub mod daemon;
pub mod database;
mod env;
pub mod fault_proxy;
pub mod http;
pub mod kubernetes;
pub mod log;
pub mod pod;
pub mod policy;
pub mod raft;
pub mod tls;
pub mod vault_health;

pub use env::{required_env, unique_name};
