//! One pod at a time, and the process that serves it.

use std::{
    process::Stdio,
    time::{Duration, Instant},
};

use vaultmount::provider::client::Client;

use crate::{
    Reading,
    bare::Bare,
    median,
    process::Process,
    secrets,
    state::State,
    support::{bao::Tenant, daemon, pod::Pod},
    timed,
};

const WARM: usize = 1000;
const FIRST: usize = 150;
/// The first few warm both pools.
const UNCOUNTED: usize = 10;

pub async fn readings(tenant: &Tenant) -> Vec<Reading> {
    let state = State::new();
    let program = daemon::Program::start(&["--refresh-interval=24h", &state.flag()]).await;
    let process = Process(program.child.id().unwrap());
    let idle = process.memory();
    let mut driver = Client::connect(&program.socket).await.unwrap();
    let bare = Bare::new(tenant);
    let mut readings = Vec::new();
    for (objects, measure) in [(1, "warm mount, 1 object, p50"), (4, "warm mount, 4 objects, p50")] {
        readings.push(warm(&mut driver, &Pod::of(tenant).objects(secrets(tenant, objects)), measure).await);
    }
    for (objects, measure, above) in [(1, "first mount, 1 object", 1.0), (10, "first mount, 10 objects", 2.0)] {
        readings.push(first(&mut driver, &bare, tenant, objects, measure, above).await);
    }
    readings.push(Reading {
        measure: "memory, idle",
        value: format!("{idle:.1} MB"),
        beside: format!("{:.1} MB after this run", process.memory()),
        target: "at most 10 MB".into(),
        holds: idle <= 10.0,
    });
    readings.push(binary());
    readings.push(start().await);
    readings
}

/// A poll within the refresh interval: Vault is asked for nothing, and the wire is all there is to wait for.
async fn warm(driver: &mut Client, pod: &Pod, measure: &'static str) -> Reading {
    let call = pod.call();
    let (mut versions, mut mounts) = (Vec::new(), Vec::new());
    for _ in 0..WARM {
        versions.push(timed(async { drop(driver.version().await.unwrap()) }).await);
        mounts.push(timed(async { drop(driver.mount(call.clone()).await.unwrap_or_else(|e| panic!("{e}"))) }).await);
    }
    let (version, mount) = (median(versions), median(mounts));
    Reading {
        measure,
        value: format!("{mount:.3} ms"),
        beside: format!("{version:.3} ms (a Version call): {:.1}x", mount / version),
        target: "at most 3x".into(),
        holds: mount <= 3.0 * version,
    }
}

async fn first(
    driver: &mut Client,
    bare: &Bare,
    tenant: &Tenant,
    objects: usize,
    measure: &'static str,
    above: f64,
) -> Reading {
    let (mut ours, mut floor) = (Vec::new(), Vec::new());
    let fresh = || Pod::of(tenant).objects(secrets(tenant, objects));
    for i in 0..FIRST + UNCOUNTED {
        let call = fresh().call();
        let mount = timed(async { drop(driver.mount(call).await.unwrap_or_else(|e| panic!("{e}"))) }).await;
        let pod = fresh();
        let same = timed(async { bare.secrets(&bare.login(&pod).await, objects).await }).await;
        if i >= UNCOUNTED {
            ours.push(mount);
            floor.push(same);
        }
    }
    let (mount, floor) = (median(ours), median(floor));
    Reading {
        measure,
        value: format!("{mount:.2} ms"),
        beside: format!("{floor:.2} ms (login and the same reads): {:+.2} ms", mount - floor),
        target: format!("at most {above} ms above"),
        holds: mount <= floor + above,
    }
}

fn binary() -> Reading {
    #[allow(clippy::cast_precision_loss)]
    let size = std::fs::metadata(env!("CARGO_BIN_EXE_vaultmount")).unwrap().len() as f64 / 1e6;
    Reading {
        measure: "binary, stripped",
        value: format!("{size:.1} MB"),
        beside: String::new(),
        target: "at most 12 MB".into(),
        holds: size <= 12.0,
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
        target: "at most 50 ms".into(),
        holds: time <= 50.0,
    }
}
