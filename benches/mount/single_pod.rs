//! Mounts of one pod at a time, and resource usage of the process.

use std::{
    process::Stdio,
    time::{Duration, Instant},
};

use vaultmount::provider::client::Client;

use crate::{
    Measurement,
    baseline::BaselineClient,
    median,
    process::Process,
    secret_objects,
    state_dir::StateDir,
    support::{bao::Tenant, daemon, pod::Pod},
    time_ms,
};

const WARM_MOUNTS: usize = 1000;
const FIRST_MOUNTS: usize = 150;
/// Mounts that warm both connection pools and are not measured.
const WARMUP_MOUNTS: usize = 10;

pub async fn measure(tenant: &Tenant) -> Vec<Measurement> {
    let state = StateDir::new();
    let program = daemon::ProviderProcess::start(&["--refresh-interval=24h", &state.flag()]).await;
    let process = Process(program.child.id().unwrap());
    let idle = process.memory_mb();
    let mut driver = Client::connect(&program.socket).await.unwrap();
    let bare = BaselineClient::new(tenant);
    let mut readings = Vec::new();
    for (objects, measure) in [(1, "warm mount, 1 object, p50"), (4, "warm mount, 4 objects, p50")] {
        readings.push(
            measure_warm_mounts(
                &mut driver,
                &Pod::for_tenant(tenant).with_objects(secret_objects(tenant, objects)),
                measure,
            )
            .await,
        );
    }
    for (objects, measure, above) in [(1, "first mount, 1 object", 1.0), (10, "first mount, 10 objects", 2.0)] {
        readings.push(measure_first_mounts(&mut driver, &bare, tenant, objects, measure, above).await);
    }
    readings.push(Measurement {
        name: "memory, idle",
        value: format!("{idle:.1} MB"),
        baseline: format!("{:.1} MB after this run", process.memory_mb()),
        target: "at most 10 MB".into(),
        is_met: idle <= 10.0,
    });
    readings.push(measure_binary_size());
    readings.push(measure_startup().await);
    readings
}

/// Measures polls within the refresh interval, which send no request to Vault. The baseline is a Version call.
async fn measure_warm_mounts(driver: &mut Client, pod: &Pod, measure: &'static str) -> Measurement {
    let mount_call = pod.mount_call();
    let (mut versions, mut mounts) = (Vec::new(), Vec::new());
    for _ in 0..WARM_MOUNTS {
        versions.push(time_ms(async { drop(driver.version().await.unwrap()) }).await);
        mounts.push(
            time_ms(async { drop(driver.mount(mount_call.clone()).await.unwrap_or_else(|e| panic!("{e}"))) }).await,
        );
    }
    let (version, mount) = (median(versions), median(mounts));
    Measurement {
        name: measure,
        value: format!("{mount:.3} ms"),
        baseline: format!("{version:.3} ms (a Version call): {:.1}x", mount / version),
        target: "at most 3x".into(),
        is_met: mount <= 3.0 * version,
    }
}

async fn measure_first_mounts(
    driver: &mut Client,
    bare: &BaselineClient,
    tenant: &Tenant,
    objects: usize,
    measure: &'static str,
    above: f64,
) -> Measurement {
    let (mut ours, mut floor) = (Vec::new(), Vec::new());
    let fresh = || Pod::for_tenant(tenant).with_objects(secret_objects(tenant, objects));
    for i in 0..FIRST_MOUNTS + WARMUP_MOUNTS {
        let call = fresh().mount_call();
        let mount = time_ms(async { drop(driver.mount(call).await.unwrap_or_else(|e| panic!("{e}"))) }).await;
        let pod = fresh();
        let same = time_ms(async { bare.read_secrets(&bare.login(&pod).await, objects).await }).await;
        if i >= WARMUP_MOUNTS {
            ours.push(mount);
            floor.push(same);
        }
    }
    let (mount, floor) = (median(ours), median(floor));
    Measurement {
        name: measure,
        value: format!("{mount:.2} ms"),
        baseline: format!("{floor:.2} ms (login and the same reads): {:+.2} ms", mount - floor),
        target: format!("at most {above} ms above"),
        is_met: mount <= floor + above,
    }
}

fn measure_binary_size() -> Measurement {
    #[allow(clippy::cast_precision_loss)]
    let size = std::fs::metadata(env!("CARGO_BIN_EXE_vaultmount")).unwrap().len() as f64 / 1e6;
    Measurement {
        name: "binary, stripped",
        value: format!("{size:.1} MB"),
        baseline: String::new(),
        target: "at most 12 MB".into(),
        is_met: size <= 12.0,
    }
}

async fn measure_startup() -> Measurement {
    let mut times = Vec::new();
    for _ in 0..20 {
        let folder = tempfile::tempdir().unwrap();
        let (socket, key) = (folder.path().join("vault.sock"), daemon::write_hmac_key(folder.path()));
        let begin = Instant::now();
        let mut command = daemon::vaultmount_command(&[
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
    Measurement {
        name: "start to first answer",
        value: format!("{time:.1} ms"),
        baseline: String::new(),
        target: "at most 50 ms".into(),
        is_met: time <= 50.0,
    }
}
