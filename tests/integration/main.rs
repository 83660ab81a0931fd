//! Behaviour through the outermost interface that exposes it: the gRPC socket, the CLI, the HTTP endpoints,
//! against a real OpenBao and a real PostgreSQL (`make test` starts both).
#![allow(
    unreachable_pub,
    clippy::unwrap_used,
    reason = "a test that cannot go on has failed, and its support is public to it"
)]

mod admin_endpoints;
mod audit_log;
mod check;
mod commands;
mod docs;
mod error_causes;
mod events;
mod fleet;
mod install;
#[path = "../support/kube_api.rs"]
mod kube_api;
mod kubernetes_api;
mod lifetimes;
mod log_messages;
mod logins;
mod logs;
mod metrics;
mod module_layers;
mod mount_files;
mod policy;
mod reads;
mod restarts;
mod secret_leaks;
mod sockets;
mod support;
mod validate;
mod vault_failures;
mod vault_ha;
