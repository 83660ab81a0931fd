//! Behaviour through the outermost interface that shows it: the gRPC socket, the CLI, the HTTP endpoints,
//! against a real OpenBao and a real PostgreSQL (`make test` starts both).

mod commands;
mod layering;
mod mounts;
mod secrecy;
mod sockets;
mod support;
