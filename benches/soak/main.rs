//! Soak test of a node: hundreds of pods come and go while a proxy in front of Vault and the Kubernetes API inject faults.
//!
//! Run it with `make soak MINUTES=n`. No poll of a running pod may fail, and no running pod may have an expired credential.
//! After the last fault the database has users only for running pods, and Vault has one token per pod. The provider uses no
//! more memory and descriptors than after a third of the time.
#![allow(
    dead_code,
    unreachable_pub,
    missing_docs,
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    clippy::cast_sign_loss,
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::unwrap_used,
    reason = "developer tool that shares the tests' support modules"
)]

mod faults;
#[path = "../../tests/support/kube_api.rs"]
mod kube_api;
#[path = "../support/metrics.rs"]
mod metrics;
mod pods;
#[path = "../support/process.rs"]
mod process;
#[path = "../support/state_dir.rs"]
mod state_dir;
#[path = "../../tests/integration/support"]
mod support {
    pub mod bao;
    pub mod daemon;
    pub mod database;
    mod env;
    pub mod fault_proxy;
    pub mod http;
    pub mod pod;

    pub use env::{required_env, unique_name};
}

use std::{
    collections::BTreeSet,
    net::SocketAddr,
    process::ExitCode,
    sync::Arc,
    time::{Duration, Instant},
};

use kube_api::KubeApi;
use metrics::Metrics;
use pods::{Node, PODS};
use process::Process;
use serde_json::json;
use state_dir::StateDir;
use support::{
    bao::Tenant, daemon::ProviderProcess, database::DatabaseEngine, fault_proxy::FaultProxy, http, required_env,
};
use tokio::time::sleep;
use vaultmount::provider::client::Client;

/// Name of the node.
const NODE: &str = "node-1";
/// TTL of tokens and credentials.
const TTL: &str = "60s";
/// Timeout after the last fault until nothing is left of deleted pods, lost login responses and replaced credentials: twice
/// their TTL.
const SETTLE_TIMEOUT: Duration = Duration::from_secs(120);
/// Maximum number of errors shown at the end.
const MAX_SHOWN_ERRORS: usize = 20;
/// Allowed growth of memory (factor) and descriptors (count) between a third of the time and the end.
const MAX_MEMORY_GROWTH: f64 = 1.1;
const MAX_DESCRIPTOR_GROWTH: usize = 10;

/// Resource usage of the provider's process.
#[derive(Clone, Copy)]
struct Sample {
    elapsed: Duration,
    memory: f64,
    descriptors: usize,
}

#[tokio::main]
async fn main() -> ExitCode {
    let minutes = std::env::args().skip(1).find_map(|arg| arg.parse::<f64>().ok()).unwrap_or(10.0);
    let lasts = Duration::from_secs_f64(minutes * 60.0);

    let tenant = Arc::new(Tenant::new().await);
    tenant.write_role("app", json!({"token_ttl": TTL, "token_max_ttl": "24h"})).await;
    let database = DatabaseEngine::for_tenant(&tenant).await;
    database.allow_many_users(json!({"default_ttl": TTL, "max_ttl": "24h"})).await;
    for name in ["a", "b"] {
        tenant.write_secret(name, json!({"value": pods::SECRET_VALUE})).await;
    }
    let vault = FaultProxy::start().await;
    let api = KubeApi::builder().start().await;
    let folder = tempfile::tempdir().unwrap();
    let kubeconfig = folder.path().join("kubeconfig");
    std::fs::write(&kubeconfig, api.kubeconfig("csi", "t0ken")).unwrap();
    let (address, state) = (metrics::free_address(), StateDir::new());
    let flags = [
        state.flag(),
        format!("--kubeconfig={}", kubeconfig.display()),
        format!("--node-name={NODE}"),
        format!("--metrics-addr={address}"),
        "--refresh-interval=30s".to_owned(),
    ];
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    let program = ProviderProcess::start_at(&vault.address, &flags).await;
    let process = Process(program.child.id().unwrap());
    let driver = Client::connect(&program.socket).await.unwrap();
    let node = Arc::new(Node::new(tenant, database, api, driver));

    println!("{PODS} pods for {minutes} minutes; tokens and credentials of {TTL}");
    let begun = Instant::now();
    let slots: Vec<_> = (0..PODS).map(|slot| tokio::spawn(Arc::clone(&node).run_slot(slot))).collect();
    let visits = tokio::spawn(Arc::clone(&node).verify_credentials());
    let at_vault = tokio::spawn(faults::inject_vault_faults(Arc::clone(&node), vault, begun + lasts));
    let at_kubernetes = tokio::spawn(faults::inject_kubernetes_faults(Arc::clone(&node), begun + lasts));
    let mut samples = Vec::new();
    let mut reported = 0;
    while begun.elapsed() < lasts {
        sleep(Duration::from_secs(5)).await;
        let sample =
            Sample { elapsed: begun.elapsed(), memory: process.memory_mb(), descriptors: process.open_descriptors() };
        samples.push(sample);
        if sample.elapsed.as_secs() / 60 > reported {
            reported = sample.elapsed.as_secs() / 60;
            println!(
                "{reported:3} min: {}, {:.1} MB, {} descriptors",
                node.progress(),
                sample.memory,
                sample.descriptors
            );
        }
    }
    node.stop_churn();
    let _vault = at_vault.await.unwrap();
    at_kubernetes.await.unwrap();

    let mut wrong: Vec<String> = wait_until_settled(&node, address).await.into_iter().collect();
    let (metrics, cpu_seconds) = (Metrics::scrape(address).await, process.cpu_seconds());
    let lasted = begun.elapsed();
    for task in slots.iter().chain([&visits]) {
        assert!(!task.is_finished(), "a task of the soak test panicked");
    }
    wrong.extend(find_growth(&samples, lasts));
    wrong.extend(node.take_errors());
    print_report(&node, &metrics, &samples, cpu_seconds, lasted);

    for task in slots.into_iter().chain([visits]) {
        task.abort();
        let _ = task.await;
    }
    node.delete_all_pods();
    wrong.extend(wait_until_empty(&node, address).await);
    println!("{:36}{:.1} MB, {} descriptors", "without pods", process.memory_mb(), process.open_descriptors());
    program.terminate();
    let log = std::env::current_dir().unwrap().join("target/soak.log");
    std::fs::write(&log, program.wait_for_log().await).unwrap();
    for what in wrong.iter().take(MAX_SHOWN_ERRORS) {
        println!("ERROR: {what}");
    }
    if wrong.len() > MAX_SHOWN_ERRORS {
        println!("and {} more", wrong.len() - MAX_SHOWN_ERRORS);
    }
    println!("{}; provider log: {}", if wrong.is_empty() { "passed" } else { "FAILED" }, log.display());
    if wrong.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Compares the leases, tokens, users and sessions with the running pods. The error lists the numbers.
async fn check_leftovers(node: &Node, address: SocketAddr) -> Result<(), String> {
    let living: BTreeSet<String> = node.mounted_pods().into_iter().map(|files| files.username).collect();
    let users: BTreeSet<String> = node.database.users().await.into_iter().collect();
    let tokens = lease_count(&format!("auth/{}/login", node.tenant.auth)).await;
    let credentials = lease_count(&node.database.path).await;
    let metrics = Metrics::scrape(address).await;
    let (sessions, waiting) = (metrics.sum("sessions", &[]), metrics.sum("pending_revocations", &[]));
    let is_right = users == living
        && [tokens, credentials, sessions as usize].iter().all(|n| *n == living.len())
        && waiting == 0.0;
    let (dead, spare) = (living.difference(&users).count(), users.difference(&living).count());
    let summary = format!(
        "{} running pods: {} database users ({dead} missing, {spare} left over), {credentials} leases, \
         {tokens} tokens, {sessions} sessions, {waiting} pending revocations",
        living.len(),
        users.len()
    );
    if is_right { Ok(()) } else { Err(summary) }
}

/// Returns the number of leases below a path. For a login path, each lease is a token.
async fn lease_count(path: &str) -> usize {
    let url = format!("{}/v1/sys/leases/lookup/{path}", required_env("VAULTMOUNT_TEST_BAO_ADDR"));
    let (_, listed) = http::send("LIST", &url, Some(&required_env("VAULTMOUNT_TEST_BAO_TOKEN")), None, None).await;
    listed["data"]["keys"].as_array().map_or(0, Vec::len)
}

/// Waits until every pod is mounted and nothing is left of earlier pods.
async fn wait_until_settled(node: &Node, address: SocketAddr) -> Option<String> {
    let begun = Instant::now();
    loop {
        let outcome = match node.mounted_pods().len() {
            PODS => check_leftovers(node, address).await,
            some => Err(format!("{some} of {PODS} pods are mounted")),
        };
        match outcome {
            Ok(()) => {
                println!(
                    "settled after {:.0} s: as many users, leases, tokens and sessions as pods",
                    begun.elapsed().as_secs_f64()
                );
                return None;
            }
            Err(summary) if begun.elapsed() > SETTLE_TIMEOUT => {
                return Some(format!("{SETTLE_TIMEOUT:?} after the last fault: {summary}"));
            }
            Err(_) => sleep(Duration::from_secs(1)).await,
        }
    }
}

async fn wait_until_empty(node: &Node, address: SocketAddr) -> Option<String> {
    let begun = Instant::now();
    while let Err(summary) = check_leftovers(node, address).await {
        if begun.elapsed() > SETTLE_TIMEOUT {
            return Some(format!("{SETTLE_TIMEOUT:?} after the last pod: {summary}"));
        }
        sleep(Duration::from_millis(200)).await;
    }
    println!("{:36}{:.1} s after {PODS} pods were deleted at once", "cleanup complete", begun.elapsed().as_secs_f64());
    None
}

/// Returns median memory and descriptors over a sixth of the time: after a third, and at the end.
fn median_usage(samples: &[Sample], lasts: Duration) -> [(f64, usize); 2] {
    [(lasts / 3, lasts / 2), (lasts * 5 / 6, lasts * 2)].map(|(from, to)| {
        let mut some: Vec<&Sample> =
            samples.iter().filter(|sample| sample.elapsed >= from && sample.elapsed < to).collect();
        let middle = some.len() / 2;
        some.sort_by(|a, b| a.memory.total_cmp(&b.memory));
        let memory = some[middle].memory;
        some.sort_by_key(|sample| sample.descriptors);
        (memory, some[middle].descriptors)
    })
}

fn find_growth(samples: &[Sample], lasts: Duration) -> Vec<String> {
    let [(memory, descriptors), (memory_later, descriptors_later)] = median_usage(samples, lasts);
    let mut wrong = Vec::new();
    if memory_later > memory * MAX_MEMORY_GROWTH {
        wrong.push(format!("memory grew from {memory:.1} MB to {memory_later:.1} MB"));
    }
    if descriptors_later > descriptors + MAX_DESCRIPTOR_GROWTH {
        wrong.push(format!("descriptors grew from {descriptors} to {descriptors_later}"));
    }
    wrong
}

fn print_report(node: &Node, metrics: &Metrics, samples: &[Sample], cpu: f64, lasted: Duration) {
    let lasts = samples.last().unwrap().elapsed;
    let [(memory, descriptors), (memory_later, descriptors_later)] = median_usage(samples, lasts);
    let line = |what: &str, value: String| println!("{what:36}{value}");
    let by = |name: &str, label: &str, words: &[&str]| {
        let counted = words.iter().map(|word| (word, metrics.sum(name, &[(label, word)])));
        counted.filter(|(_, n)| *n > 0.0).map(|(word, n)| format!("{n} {word}")).collect::<Vec<_>>().join(", ")
    };
    node.print_report(line);
    line("faults", node.fault_summary());
    line("logins", by("logins_total", "outcome", &["ok", "denied", "failed"]));
    for target in ["token", "lease"] {
        let outcomes = ["renewed", "capped", "denied", "not_found", "failed"];
        let counted = outcomes.map(|o| (o, metrics.sum("renewals_total", &[("target", target), ("outcome", o)])));
        let counts: Vec<String> = counted.iter().filter(|(_, n)| *n > 0.0).map(|(o, n)| format!("{n} {o}")).collect();
        line(&format!("{target} renewals"), counts.join(", "));
    }
    line("credential rotations", by("rotations_total", "reason", &["max_ttl", "token", "refresh_due", "revoked"]));
    line("revocations", by("revocations_total", "outcome", &["revoked", "already_expired", "denied", "failed"]));
    line("requests to Vault", by("vault_requests_total", "status", &["2xx", "3xx", "4xx", "5xx", "none"]));
    line("stale polls", metrics.sum("stale_polls_total", &[]).to_string());
    line(
        "memory",
        format!("{memory:.1} MB after a third, {memory_later:.1} MB at the end (allowed: {MAX_MEMORY_GROWTH}x)"),
    );
    line(
        "descriptors",
        format!("{descriptors} after a third, {descriptors_later} at the end (allowed: +{MAX_DESCRIPTOR_GROWTH})"),
    );
    let share = cpu / lasted.as_secs_f64() * 100.0;
    line("CPU", format!("{cpu:.1} s, {share:.1} % of a core"));
}
