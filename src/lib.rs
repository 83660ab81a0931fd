//! vaultmount: a Secrets Store CSI driver provider for Vault and OpenBao.
//!
//! # What a mount is
//!
//! ```text
//! kubelet -> secrets-store driver -> MountRequest (gRPC, unix socket) -> vaultmount -> Vault or OpenBao
//!                                 <- MountResponse{files, versions}  <-
//! ```
//!
//! A request flows down this list of modules and its answer up again; a module uses what stands below it, never what
//! stands above. A test reads the sources and holds that.
//!
//! | module | what it knows |
//! |---|---|
//! | [`cli`] | one file per command |
//! | [`app`] | the composition root: everything is built from the configuration, run, and drained |
//! | [`config`] | flags and environment become [`config::Config`]; every error is reported at once |
//! | [`install`] | our place among the driver's providers on a node |
//! | [`provider`] | the gRPC edge; the only user of tonic |
//! | [`admin`] | HTTP for probes, metrics and status |
//! | [`check`] | a mount's way walked step by step, each step told |
//! | [`mount`] | the use case: `MountSpec` to session to leases to files |
//! | [`validate`] | manifests against the rules of a mount, without a server |
//! | [`manifest`] | classes and pods in files, each key and value with its place |
//! | [`request`] | a driver's request, parsed and checked into a [`request::MountSpec`]; after it nobody sees JSON or YAML |
//! | [`trust`] | TLS files and servers in the background: what changed, which certificates end, how servers are that nobody asks |
//! | [`policy`] | what an operator lets a tenant choose |
//! | [`renewal`] | the background: what is due, when a pod ends, what is revoked |
//! | [`session`] | one Vault token per pod identity |
//! | [`lease`] | what was read under it |
//! | [`render`] | lease and object in, file bytes out; pure |
//! | [`events`] | what pods' owners are told by the Kubernetes API |
//! | [`audit`] | a line for each decision about a secret |
//! | [`vault`] | requests, answers and failures of Vault; the only user of vaultrs and rustify |
//! | [`kube`] | the Kubernetes API, as little of it as is needed |
//! | [`state`] | sealed files that outlive the process |
//! | [`status`] | what a process tells of what it holds |
//! | [`metrics`] | what is counted |
//! | [`socket`] | unix sockets that are handed from process to process |
//! | [`error`], [`flight`], [`secret`], [`tls`], [`telemetry`], [`text`], [`yaml`], [`clock`], [`task`], [`term`] | what everything stands on |
//!
//! # What always holds
//!
//! - A request that may have created something at Vault is sent again only when Vault surely did not act on it, runs in a
//!   task of its own, and its answer waits in the session until it has gone out to the pod ([`flight`], [`lease`]).
//! - What a pod is given is written for the next process before it goes out, where there is a place for that ([`state`]); whoever
//!   has the sockets' names has the sessions.
//! - Nothing that can be printed holds a secret ([`secret`]); an [`error::Error`] is made of names, paths and
//!   Vault's words without argument values.
//! - A mount makes no request to the Kubernetes API, unless the driver passed no token and minting is on.

pub mod admin;
pub mod app;
pub mod cache;
pub mod check;
pub mod cli;
pub mod clock;
pub mod config;
pub mod error;
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
