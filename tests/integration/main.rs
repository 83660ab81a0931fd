//! Behaviour through the outermost interface that shows it: the gRPC socket, the CLI, the HTTP endpoints,
//! against a real OpenBao and a real PostgreSQL (`make test` starts both).
#![allow(
    unreachable_pub,
    clippy::unwrap_used,
    reason = "a test that cannot go on has failed, and its support is public to it"
)]

mod auditing;
mod book;
mod check;
mod cluster;
mod clusters;
mod commands;
mod diagnoses;
mod events;
mod faults;
mod fleet;
mod installing;
#[path = "../support/kube_api.rs"]
mod kube_api;
mod layering;
mod lifetimes;
mod logging;
mod logins;
mod metrics;
mod mounts;
mod operating;
mod policy;
mod reads;
mod restarts;
mod secrecy;
mod sockets;
mod support;
mod validate;
