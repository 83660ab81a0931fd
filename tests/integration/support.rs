//! What tests stand on: a tenant of the real OpenBao, pods that ask, and daemons that answer.

pub mod bao;
pub mod by_hand;
pub mod clock;
pub mod cluster;
pub mod daemon;
pub mod database;
pub mod faulty;
pub mod http;
pub mod log;
mod names;
pub mod pod;
pub mod policy;
pub mod raft;
pub mod server;
pub mod standing;
pub mod tls;

pub use names::{required_env, unique_name};
