//! What a mount costs, each figure beside its floor: what the wire or Vault itself costs in the same run.
//!
//! `make bench` runs it against a real OpenBao; `make bench ARGS=--json` prints JSON. Pairs are interleaved and medians
//! compared, so that what else the machine does falls on both.
#![allow(
    dead_code,
    unreachable_pub,
    clippy::format_collect,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a program for developers, with the tests' own support"
)]

#[path = "../tests/integration/support"]
mod support {
    pub mod bao;
    pub mod daemon;
    pub mod http;
    mod names;
    pub mod pod;

    pub use names::{setting, unique};
}

use std::{
    process::Stdio,
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Full};
use hyper_util::{
    client::legacy::{Client as Http, connect::HttpConnector},
    rt::TokioExecutor,
};
use serde_json::{Value, json};
use support::{bao::Tenant, daemon, pod::Pod, setting};
use vaultmount::provider::client::Client;

/// One measured thing: a name, what it came to, and the floor or bound it is held against.
struct Reading {
    measure: &'static str,
    value: String,
    beside: String,
    target: &'static str,
    holds: bool,
}

const WARM: usize = 400;
const FIRST: usize = 150;

#[tokio::main]
async fn main() {
    let tenant = Tenant::new().await;
    for i in 0..10 {
        tenant.put(&format!("s{i}"), json!({"value": format!("value {i}")})).await;
    }
    let program = daemon::Program::start(&[]).await;
    let idle = memory(program.child.id().unwrap());
    let mut driver = Client::connect(&program.socket).await.unwrap();
    let bare = Bare::new(&tenant);

    let mut readings = vec![warm(&mut driver, &bare, &tenant).await];
    readings.push(first(&mut driver, &bare, &tenant, 1, "at most 1 ms above", 1.0).await);
    readings.push(first(&mut driver, &bare, &tenant, 10, "at most 2 ms above", 2.0).await);
    readings.push(Reading {
        measure: "memory, idle",
        value: format!("{idle:.1} MB"),
        beside: format!("{:.1} MB after this run", memory(program.child.id().unwrap())),
        target: "at most 10 MB",
        holds: idle <= 10.0,
    });
    #[allow(clippy::cast_precision_loss)]
    let size = std::fs::metadata(env!("CARGO_BIN_EXE_vaultmount")).unwrap().len() as f64 / 1e6;
    readings.push(Reading {
        measure: "binary, stripped",
        value: format!("{size:.1} MB"),
        beside: String::new(),
        target: "at most 12 MB",
        holds: size <= 12.0,
    });
    readings.push(start().await);
    print(&readings, std::env::args().any(|a| a == "--json"));
}

/// A client that does the same requests on one warm pool and nothing else.
struct Bare {
    http: Http<HttpConnector, Full<Bytes>>,
    address: String,
    auth: String,
    kv: String,
}

impl Bare {
    fn new(tenant: &Tenant) -> Self {
        let mut tcp = HttpConnector::new();
        tcp.set_nodelay(true);
        Self {
            http: Http::builder(TokioExecutor::new()).build(tcp),
            address: tenant.address.clone(),
            auth: tenant.auth.clone(),
            kv: tenant.kv.clone(),
        }
    }

    async fn send(&self, method: &str, path: &str, token: &str, body: Value) -> Value {
        let body = if body.is_null() { Bytes::new() } else { body.to_string().into() };
        let request =
            Request::builder().method(method).uri(format!("{}/v1/{path}", self.address)).header("x-vault-token", token);
        let response = self.http.request(request.body(Full::new(body)).unwrap()).await.unwrap();
        assert!(response.status().is_success(), "{path}: {}", response.status());
        serde_json::from_slice(&response.into_body().collect().await.unwrap().to_bytes()).unwrap()
    }

    async fn login(&self, pod: &Pod) -> String {
        let body = json!({"role": "app", "jwt": pod.token("vault", 600)});
        let answer = self.send("POST", &format!("auth/{}/login", self.auth), "", body).await;
        answer["auth"]["client_token"].as_str().unwrap().to_owned()
    }

    async fn read(&self, token: &str, objects: usize) {
        let paths: Vec<String> = (0..objects).map(|i| format!("{}/data/s{i}", self.kv)).collect();
        futures_util::future::join_all(paths.iter().map(|path| self.send("GET", path, token, Value::Null))).await;
    }
}

fn pod(tenant: &Tenant, objects: usize) -> Pod {
    let list: String = (0..objects)
        .map(|i| format!("- {{objectName: o{i}, secretPath: {}/data/s{i}, secretKey: value}}\n", tenant.kv))
        .collect();
    Pod::of(tenant).objects(list)
}

async fn warm(driver: &mut Client, bare: &Bare, tenant: &Tenant) -> Reading {
    let pod = pod(tenant, 1);
    let call = pod.call();
    let token = bare.login(&pod).await;
    let (mut versions, mut reads, mut mounts) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..WARM {
        versions.push(timed(async { drop(driver.version().await.unwrap()) }).await);
        reads.push(timed(bare.read(&token, 1)).await);
        mounts.push(timed(async { drop(driver.mount(call.clone()).await.unwrap_or_else(|e| panic!("{e}"))) }).await);
    }
    let (version, read, mount) = (median(versions), median(reads), median(mounts));
    let bound = 3.0 * version + read;
    Reading {
        measure: "warm mount, 1 object, p50",
        value: format!("{mount:.3} ms"),
        beside: format!("3 x {version:.3} ms (Version) + {read:.3} ms (its read) = {bound:.3} ms"),
        target: "at most the sum",
        holds: mount <= bound,
    }
}

async fn first(
    driver: &mut Client,
    bare: &Bare,
    tenant: &Tenant,
    objects: usize,
    target: &'static str,
    above: f64,
) -> Reading {
    let (mut ours, mut floor) = (Vec::new(), Vec::new());
    for i in 0..FIRST + 10 {
        let fresh = pod(tenant, objects);
        let call = fresh.call();
        let mount = timed(async { drop(driver.mount(call).await.unwrap_or_else(|e| panic!("{e}"))) }).await;
        let fresh = pod(tenant, objects);
        let same = timed(async { bare.read(&bare.login(&fresh).await, objects).await }).await;
        // The first few warm both pools.
        if i >= 10 {
            ours.push(mount);
            floor.push(same);
        }
    }
    let (mount, floor) = (median(ours), median(floor));
    Reading {
        measure: if objects == 1 { "first mount, 1 object" } else { "first mount, 10 objects" },
        value: format!("{mount:.2} ms"),
        beside: format!("{floor:.2} ms (login and the same reads): {:+.2} ms", mount - floor),
        target,
        holds: mount <= floor + above,
    }
}

async fn start() -> Reading {
    let mut times = Vec::new();
    for _ in 0..20 {
        let folder = tempfile::tempdir().unwrap();
        let (socket, key) = (folder.path().join("vault.sock"), daemon::hmac_key(folder.path()));
        let begin = Instant::now();
        let mut command = daemon::program(&[
            "serve".to_owned(),
            "--health-addr=off".to_owned(),
            format!("--endpoint={}", socket.display()),
            format!("--hmac-key-file={}", key.display()),
        ]);
        let child = command.stderr(Stdio::null()).spawn().unwrap();
        let mut client = loop {
            match Client::connect(&socket).await {
                Ok(client) => break client,
                Err(_) => tokio::time::sleep(Duration::from_micros(200)).await,
            }
        };
        client.version().await.unwrap();
        times.push(begin.elapsed().as_secs_f64() * 1e3);
        drop(child);
    }
    let time = median(times);
    Reading {
        measure: "start to first answer",
        value: format!("{time:.1} ms"),
        beside: String::new(),
        target: "at most 50 ms",
        holds: time <= 50.0,
    }
}

async fn timed(work: impl Future<Output = ()>) -> f64 {
    let begin = Instant::now();
    work.await;
    begin.elapsed().as_secs_f64() * 1e3
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Resident memory of a process, in MB.
fn memory(pid: u32) -> f64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").trim().parse::<f64>().unwrap() * 1024.0 / 1e6
}

fn print(readings: &[Reading], as_json: bool) {
    if as_json {
        let all: Vec<Value> = readings.iter().map(|r| json!({"measure": r.measure, "value": r.value, "beside": r.beside, "target": r.target, "holds": r.holds})).collect();
        return println!("{}", Value::Array(all));
    }
    println!("{:28}{:12}{:8}{:22}beside", "measure", "value", "holds", "target");
    for r in readings {
        println!("{:28}{:12}{:8}{:22}{}", r.measure, r.value, if r.holds { "yes" } else { "NO" }, r.target, r.beside);
    }
    println!("OpenBao at {}", setting("VAULTMOUNT_TEST_BAO_ADDR"));
}
