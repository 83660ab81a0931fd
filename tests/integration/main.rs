//! Behaviour through the outermost interface that shows it: the gRPC socket, the CLI, the HTTP endpoints,
//! against a real OpenBao and a real PostgreSQL (`make test` starts both).
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod commands;
mod layering;
mod mounts;
mod secrecy;
mod sockets;
mod support;
