//! vaultmount: a Secrets Store CSI driver provider for Vault and OpenBao.
//!
//! # Overview
//!
//! ```text
//! kubelet -> secrets-store driver -> MountRequest (gRPC, unix socket) -> vaultmount -> Vault or OpenBao
//!                                 <- MountResponse{files, versions}  <-
//! ```
//!
//! A request passes down this list of modules, and its response passes up again. A module may import only modules below it. A test
//! enforces this on the sources.
//!
//! | module | responsibility |
//! |---|---|
//! | [`cli`] | commands, one file each |
//! | [`app`] | composition root: builds everything from the configuration, runs it, and drains it |
//! | [`config`] | turns flags and environment into a [`config::Config`]; reports every error at once |
//! | [`install`] | the socket directory and links among the driver's providers on a node |
//! | [`provider`] | gRPC edge: only translates between the driver's messages and [`mount`]; the only user of tonic |
//! | [`admin`] | HTTP server for probes, metrics and status |
//! | [`check`] | performs a mount step by step, and reports each step |
//! | [`mount`] | the use case, which makes all decisions: `MountSpec` to session to cached secrets to files |
//! | [`hmac_keys`] | source of the object version key |
//! | [`validate`] | checks manifests against the rules of a mount, without a server |
//! | [`manifest`] | classes and pods in files, each key and value with its position |
//! | [`request`] | parses and validates a driver's request into a [`request::MountSpec`]; later modules see no JSON or YAML |
//! | [`trust`] | background tasks: reloads TLS and policy files, warns of expiring certificates, probes idle servers |
//! | [`policy`] | the operator's limits for tenants |
//! | [`reconcile`] | background work queue: renews, watches pods, and revokes |
//! | [`session`] | one login per pod or service account at one Vault, with its tokens and volumes |
//! | [`cache`] | the cached secrets of a session |
//! | [`render`] | pure functions from a response and an object to file contents |
//! | [`observe`] | audit log, pod events, metrics and status |
//! | [`vault`] | requests, responses and errors of Vault, circuit breaker and concurrency limits; the only user of vaultrs and rustify |
//! | [`kube`] | the required parts of the Kubernetes API |
//! | [`state`] | encrypted files that outlive the process |
//! | [`socket`] | unix sockets with handover between processes |
//! | [`error`], [`single_flight`], [`secret`], [`tls`], [`telemetry`], [`text`], [`yaml`], [`clock`], [`task`], [`lifetime`] | base modules |
//!
//! # Invariants
//!
//! - A mutating request is sent again only if Vault certainly did not act on it. It runs in its own task, and the session caches its
//!   response until it has been delivered to the pod ([`single_flight`], [`cache`]).
//! - With a state directory, vaultmount persists what a pod receives before it sends the response ([`state`]).
//! - The process that owns the socket paths also owns the sessions.
//! - No printable value contains a secret ([`secret`]). An [`error::Error`] consists of names, paths and Vault's messages, without
//!   argument values.
//! - A mount sends no request to the Kubernetes API, unless the driver passed no token and minting is enabled.

pub mod admin;
pub mod app;
pub mod cache;
pub mod check;
pub mod cli;
pub mod clock;
pub mod config;
pub mod error;
pub mod hmac_keys;
pub mod install;
pub mod kube;
mod label_enum;
pub mod lifetime;
pub mod manifest;
pub mod mount;
pub mod observe;
pub mod policy;
pub mod provider;
pub mod reconcile;
pub mod render;
pub mod request;
pub mod secret;
pub mod session;
pub mod single_flight;
pub mod socket;
pub mod state;
pub mod task;
pub mod telemetry;
pub mod text;
pub mod tls;
pub mod trust;
pub mod validate;
pub mod vault;
pub mod yaml;
