//! Reads: what engines answer becomes files, and what an event says when they refuse.

mod database;
mod issuing;
mod kv;
mod optional;

use serde_json::{Value, json};
use tonic::Code;

use crate::support::{
    bao::{Tenant, root},
    daemon::Daemon,
    pod::Pod,
    unique,
};

/// A tenant with the secret `db`, a pod of it, and a daemon.
async fn arranged() -> (Tenant, Pod, Daemon) {
    let tenant = Tenant::new().await;
    tenant.put("db", json!({"pass": "s3cret", "user": "shop"})).await;
    let pod = Pod::of(&tenant);
    (tenant, pod, Daemon::start(&[]).await)
}

/// Mounts an engine and brings its path.
async fn engine(kind: &str, options: Value) -> String {
    let path = unique(kind);
    root("POST", &format!("sys/mounts/{path}"), json!({"type": kind, "options": options})).await;
    path
}

/// The class of one object, `x`.
fn one(path: &str, more: &str) -> String {
    format!("- {{objectName: x, secretPath: '{path}'{more}}}")
}

#[tokio::test]
async fn what_a_policy_denies_is_told_with_the_line_that_lacks() {
    let (tenant, pod, daemon) = arranged().await;
    let Tenant { policy, kv, address, .. } = &tenant;
    tenant.allow(&format!("path \"{kv}/data/db\" {{ capabilities = [\"read\"] }}")).await;
    for (more, verb, path, capabilities) in [
        ("", "reading", "data/other", "\"read\""),
        (", method: PUT, secretArgs: {data: {x: hunter2}}", "writing", "data/db", "\"create\", \"update\""),
    ] {
        let line = format!("path \"{kv}/{path}\" {{ capabilities = [{capabilities}] }}");
        let whose = format!("role \"app\" (policies default, {policy})");
        let parts =
            ["object \"x\"", &whose, &format!("denied {verb} {kv}/{path}"), address, "permission denied", &line];
        let text = daemon
            .refuses(&pod.clone().objects(one(&format!("{kv}/{path}"), more)), Code::PermissionDenied, &parts)
            .await;
        assert!(!text.contains("hunter2"), "{text}");
    }
}

#[tokio::test]
async fn the_line_that_lacks_mends_it() {
    let (tenant, pod, daemon) = arranged().await;
    tenant.allow("path \"nothing\" { capabilities = [\"read\"] }").await;
    for class in [one(&format!("{}/data/db", tenant.kv), ""), one(&format!("{}/metadata", tenant.kv), ", method: LIST")]
    {
        let pod = pod.clone().objects(class);
        let text = daemon.refuses(&pod, Code::PermissionDenied, &[]).await;
        let line = &text[text.find("path \"").unwrap()..text.rfind(" [VM").unwrap()];
        tenant.allow(line).await;
        daemon.files(&pod).await;
    }
}

#[tokio::test]
async fn an_engine_that_is_not_mounted() {
    let (tenant, pod, daemon) = arranged().await;
    tenant.allow("path \"nowhere/*\" { capabilities = [\"read\"] }").await;
    let parts = ["\"x\"", "no secrets engine answers at nowhere/db", "no handler for route", "engine's mount path"];
    daemon.refuses(&pod.objects(one("nowhere/db", "")), Code::NotFound, &parts).await;
}

#[tokio::test]
async fn an_object_that_fails_stops_the_volume_and_names_itself() {
    let (tenant, pod, daemon) = arranged().await;
    let kv = &tenant.kv;
    let pod =
        pod.objects(format!("{}\n- {{objectName: y, secretPath: {kv}/data/none}}", one(&format!("{kv}/data/db"), "")));
    let text = daemon.refuses(&pod, Code::NotFound, &["object \"y\"", &format!("{kv}/data/none")]).await;
    assert!(!text.contains("\"x\""), "{text}");
}

#[tokio::test]
async fn a_key_that_is_missing_is_told_with_those_that_are_there() {
    let (tenant, pod, daemon) = arranged().await;
    let pod = pod.objects(one(&format!("{}/data/db", tenant.kv), ", secretKey: passs"));
    let parts = ["\"x\"", "key \"passs\"", "\"pass\", \"user\"", "did you mean \"pass\"?"];
    let text = daemon.refuses(&pod, Code::NotFound, &parts).await;
    assert!(!text.contains("s3cret"), "{text}");
}

#[tokio::test]
async fn an_answer_without_a_body() {
    let (tenant, pod, daemon) = arranged().await;
    tenant.allow("path \"cubbyhole/*\" { capabilities = [\"create\", \"update\", \"read\"] }").await;
    let pod = pod.objects(one("cubbyhole/note", ", method: PUT, secretArgs: {text: hunter2}"));
    let text = daemon.refuses(&pod, Code::NotFound, &["\"x\"", "writing cubbyhole/note", "no data"]).await;
    assert!(!text.contains("hunter2"), "{text}");
    let read = pod.objects(one("cubbyhole/note", ", secretKey: text"));
    assert_eq!(daemon.files(&read).await["x"], "hunter2", "the write was made, in the cubbyhole of the pod's token");
}

#[tokio::test]
async fn files_that_are_too_large_for_the_driver() {
    let (tenant, pod, daemon) = arranged().await;
    let kv = &tenant.kv;
    let mut objects = vec![one(&format!("{kv}/data/db"), "")];
    for (name, size) in [("small", 900), ("large", 2_000_000), ("larger", 2_400_000)] {
        tenant.put(name, json!({"k": "z".repeat(size)})).await;
        objects.push(format!("- {{objectName: {name}, secretPath: {kv}/data/{name}, secretKey: k}}"));
    }
    let parts = ["the 4194304 the driver takes", "larger (2400000 bytes), large (2000000 bytes), small", "secretKey"];
    let text = daemon.refuses(&pod.objects(objects.join("\n")), Code::ResourceExhausted, &parts).await;
    assert!(!text.contains("zz"), "{text}");
}

#[tokio::test]
async fn a_rate_limit_that_stays() {
    let (tenant, pod, daemon) = arranged().await;
    let kv = &tenant.kv;
    let quota = json!({"path": format!("{kv}/"), "rate": 1, "interval": "1h"});
    root("POST", &format!("sys/quotas/rate-limit/{}", tenant.policy), quota).await;
    let class = format!("{}\n- {{objectName: y, secretPath: {kv}/metadata/db}}", one(&format!("{kv}/data/db"), ""));
    let parts = ["reading", kv, &tenant.address, "limits requests", "429", "quota exceeded", "raise the quota"];
    daemon.refuses(&pod.objects(class), Code::Unavailable, &parts).await;
}
