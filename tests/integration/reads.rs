//! Reads: what engines answer becomes files, and what an event says when they refuse.

mod database;
mod issuing;
mod kv;
mod optional;

use serde_json::{Value, json};
use vaultmount::error::Cause;

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
async fn the_line_that_lacks_mends_it() {
    let (tenant, pod, daemon) = arranged().await;
    tenant.allow("path \"nothing\" { capabilities = [\"read\"] }").await;
    for class in [one(&format!("{}/data/db", tenant.kv), ""), one(&format!("{}/metadata", tenant.kv), ", method: LIST")]
    {
        let pod = pod.clone().objects(class);
        let text = daemon.refuses(&pod, Cause::Denied, &[]).await;
        let line = &text[text.find("path \"").unwrap()..text.rfind(" [VM").unwrap()];
        tenant.allow(line).await;
        daemon.files(&pod).await;
    }
}

#[tokio::test]
async fn what_is_denied_for_one_reason_is_told_once_with_all_that_mends_it() {
    let (tenant, pod, daemon) = arranged().await;
    tenant.put("b", json!({"pass": "b"})).await;
    tenant.allow("path \"nothing\" { capabilities = [\"read\"] }").await;
    let kv = &tenant.kv;
    let object = |name, path: &str, more| format!("- {{objectName: {name}, secretPath: {kv}/{path}{more}}}");
    let all = [object("x", "data/db", ""), object("y", "data/b", ""), object("z", "metadata", ", method: LIST")];
    let mixed = all.clone().join("\n") + "\n- {objectName: gone, secretPath: nowhere/db, secretKey: a}";
    let pod = pod.objects(all.join("\n"));
    let sentence = format!("is denied listing {kv}/metadata, reading {kv}/data/b, reading {kv}/data/db at ");
    let text = daemon.refuses(&pod, Cause::Denied, &["objects \"z\", \"y\", \"x\": role \"app\"", &sentence]).await;
    assert_eq!(text.matches("permission denied").count(), 1, "{text}");
    // An engine that is not there is denied for the same reason.
    daemon.refuses(&pod.clone().objects(mixed), Cause::Denied, &["\"gone\"", "path \"nowhere/db\" {"]).await;
    tenant.allow(&text[text.find("path \"").unwrap()..text.rfind(" [VM").unwrap()]).await;
    daemon.files(&pod).await;
}

#[tokio::test]
async fn of_many_that_are_denied_the_rest_is_counted() {
    let (tenant, pod, daemon) = arranged().await;
    tenant.allow("path \"nothing\" { capabilities = [\"read\"] }").await;
    let object = |i| format!("- {{objectName: n{i}, secretPath: {}/data/n{i:02}}}", tenant.kv);
    let pod = pod.objects((0..20).map(object).collect::<Vec<_>>().join("\n"));
    let (cause, text) = daemon.refusal(pod.call()).await;
    assert!(text.contains("data/n07 and 12 more at ") && text.ends_with("} and 12 more [VM0050]"), "{text}");
    assert_eq!((cause, text.matches("path \"").count()), (Cause::Denied, 8), "{text}");
}

#[tokio::test]
async fn a_failure_of_many_objects_reads_the_same_at_each_attempt() {
    let (tenant, pod, daemon) = arranged().await;
    let object = |i| format!("- {{objectName: n{i}, secretPath: {}/data/n{i}}}", tenant.kv);
    let pod = pod.objects((0..6).map(object).collect::<Vec<_>>().join("\n"));
    let text = daemon.refuses(&pod, Cause::SecretMissing, &["6 of 6 objects failed"]).await;
    let looked = text.split(" | ").map(|part| part.contains("only \"db\" is in"));
    assert_eq!(looked.collect::<Vec<_>>(), [true, true, true, false, false, false], "{text}");
    assert_eq!(daemon.refuses(&pod, Cause::SecretMissing, &[]).await, text);
}

#[tokio::test]
async fn an_object_that_fails_stops_the_volume_and_names_itself() {
    let (tenant, pod, daemon) = arranged().await;
    let kv = &tenant.kv;
    let pod =
        pod.objects(format!("{}\n- {{objectName: y, secretPath: {kv}/data/none}}", one(&format!("{kv}/data/db"), "")));
    let text = daemon.refuses(&pod, Cause::SecretMissing, &["object \"y\"", &format!("{kv}/data/none")]).await;
    assert!(!text.contains("\"x\""), "{text}");
}

#[tokio::test]
async fn an_answer_without_a_body() {
    let (tenant, pod, daemon) = arranged().await;
    tenant.allow("path \"cubbyhole/*\" { capabilities = [\"create\", \"update\", \"read\"] }").await;
    let pod = pod.objects(one("cubbyhole/note", ", method: PUT, secretArgs: {text: hunter2}"));
    let text = daemon.refuses(&pod, Cause::NoData, &["\"x\"", "writing cubbyhole/note", "no data"]).await;
    assert!(!text.contains("hunter2"), "{text}");
    let read = pod.objects(one("cubbyhole/note", ", secretKey: text"));
    assert_eq!(daemon.files(&read).await["x"], "hunter2", "the write was made, in the cubbyhole of the pod's token");
}
