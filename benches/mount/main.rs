//! Cost of a mount, each figure with its baseline: the cost of gRPC or Vault itself in the same run.
//!
//! `make bench` runs it against a real OpenBao. `make bench ARGS=--json` prints JSON. The arguments `one`, `rush` and `crowd`
//! select parts. Measurements and baselines are interleaved and compared by median, so that other load on the machine affects
//! both.
#![allow(
    dead_code,
    unreachable_pub,
    missing_docs,
    clippy::cast_precision_loss,
    clippy::format_collect,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "developer tool that shares the tests' support modules"
)]

mod baseline;
mod cold_start;
#[path = "../support/metrics.rs"]
mod metrics;
#[path = "../support/process.rs"]
mod process;
mod single_pod;
#[path = "../support/state_dir.rs"]
mod state_dir;
mod thousand_pods;
#[path = "../../tests/integration/support"]
mod support {
    pub mod bao;
    pub mod daemon;
    pub mod database;
    mod env;
    pub mod http;
    pub mod pod;

    pub use env::{required_env, unique_name};
}

use std::time::Instant;

use serde_json::{Value, json};
use support::{bao::Tenant, required_env};

/// Measurement with its baseline and target.
struct Measurement {
    name: &'static str,
    value: String,
    baseline: String,
    target: String,
    is_met: bool,
}

#[tokio::main]
async fn main() {
    let tenant = Tenant::new().await;
    for i in 0..10 {
        tenant.write_secret(&format!("s{i}"), json!({"value": format!("value {i}")})).await;
    }
    let (words, flags): (Vec<String>, Vec<String>) = std::env::args().skip(1).partition(|a| !a.starts_with('-'));
    let chosen = |part: &str| words.is_empty() || words.iter().any(|word| word == part);
    let mut readings = Vec::new();
    if chosen("one") {
        readings.extend(single_pod::measure(&tenant).await);
    }
    if chosen("rush") {
        readings.push(cold_start::measure().await);
    }
    if chosen("crowd") {
        readings.extend(thousand_pods::measure().await);
    }
    print_measurements(&readings, flags.iter().any(|flag| flag == "--json"));
}

/// Returns objects for the tenant's first `count` secrets, each a file with one value.
fn secret_objects(tenant: &Tenant, count: usize) -> String {
    (0..count)
        .map(|i| format!("- {{objectName: o{i}, secretPath: {}/data/s{i}, secretKey: value}}\n", tenant.kv))
        .collect()
}

async fn time_ms(work: impl Future<Output = ()>) -> f64 {
    let begin = Instant::now();
    work.await;
    begin.elapsed().as_secs_f64() * 1e3
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn print_measurements(readings: &[Measurement], as_json: bool) {
    if as_json {
        let all: Vec<Value> = readings.iter().map(|r| json!({"measure": r.name, "value": r.value, "beside": r.baseline, "target": r.target, "holds": r.is_met})).collect();
        return println!("{}", Value::Array(all));
    }
    println!("{:32}{:14}{:8}{:26}baseline", "measurement", "value", "met", "target");
    for r in readings {
        println!("{:32}{:14}{:8}{:26}{}", r.name, r.value, if r.is_met { "yes" } else { "NO" }, r.target, r.baseline);
    }
    println!("OpenBao at {}", required_env("VAULTMOUNT_TEST_BAO_ADDR"));
}
