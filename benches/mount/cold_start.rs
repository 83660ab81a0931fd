//! Start of a node: a hundred concurrent mounts, each with two secrets and a database credential.

use std::time::Instant;

use futures_util::future::{join, join_all};
use serde_json::json;
use tokio::sync::Semaphore;
use vaultmount::provider::client::Client;

use crate::{
    Measurement,
    baseline::BaselineClient,
    median, secret_objects,
    state_dir::StateDir,
    support::{bao::Tenant, daemon::ProviderProcess, database::DatabaseEngine, pod::Pod},
};

const PODS: usize = 100;
const ROUNDS: usize = 5;
/// Default of `--max-mutating`.
const MAX_MUTATING: usize = 4;

pub async fn measure() -> Measurement {
    let tenant = Tenant::new().await;
    let database = DatabaseEngine::for_tenant(&tenant).await;
    database.allow_many_users(json!({})).await;
    for i in 0..2 {
        tenant.write_secret(&format!("s{i}"), json!({"value": format!("value {i}")})).await;
    }
    let state = StateDir::new();
    let program = ProviderProcess::start(&[&state.flag()]).await;
    let driver = Client::connect(&program.socket).await.unwrap();
    let bare = BaselineClient::new(&tenant);
    let credential = format!("- {{objectName: database, secretPath: {}}}\n", database.path);
    let pods = || -> Vec<Pod> {
        (0..PODS).map(|_| Pod::for_tenant(&tenant).with_objects(secret_objects(&tenant, 2) + &credential)).collect()
    };
    let (mut ours, mut floor) = (Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        let (mounted, read) = (pods(), pods());
        let mount = async || {
            let calls: Vec<_> = mounted.iter().map(Pod::mount_call).collect();
            let begun = Instant::now();
            join_all(calls.into_iter().map(async |call| {
                let mut driver = driver.clone();
                drop(driver.mount(call).await.unwrap_or_else(|e| panic!("{e}")));
            }))
            .await;
            begun.elapsed().as_secs_f64()
        };
        let same = async || {
            let creating = Semaphore::new(MAX_MUTATING);
            let begun = Instant::now();
            join_all(read.iter().map(async |pod| {
                let token = bare.login(pod).await;
                let create = async {
                    let _turn = creating.acquire().await.unwrap();
                    bare.read(&token, &database.path).await;
                };
                join(bare.read_secrets(&token, 2), create).await;
            }))
            .await;
            begun.elapsed().as_secs_f64()
        };
        // Alternate the order, so that neither side always runs first.
        if round % 2 == 0 {
            ours.push(mount().await);
            floor.push(same().await);
        } else {
            floor.push(same().await);
            ours.push(mount().await);
        }
    }
    let (worst, floor) = (median(ours), median(floor));
    Measurement {
        name: "100 pods at once, the last",
        value: format!("{worst:.2} s"),
        baseline: format!(
            "{floor:.2} s (the same logins and reads, {MAX_MUTATING} mutating at once): {:.2}x",
            worst / floor
        ),
        target: "at most 1.2x, below 2 s".into(),
        is_met: worst <= floor * 1.2 && worst < 2.0,
    }
}
