//! Reads: engine responses become files, and refusals become error texts.

mod database;
mod kv;
mod optional;
mod pki_and_transit;

use serde_json::{Value, json};
use vaultmount::error::Cause;

use crate::support::{
    bao::{Tenant, root_request},
    daemon::Daemon,
    pod::Pod,
    unique_name,
};

/// Creates a tenant with the secret `db`, a pod of it, and a daemon.
async fn fixture() -> (Tenant, Pod, Daemon) {
    let tenant = Tenant::new().await;
    tenant.write_secret("db", json!({"pass": "s3cret", "user": "shop"})).await;
    let pod = Pod::for_tenant(&tenant);
    (tenant, pod, Daemon::start(&[]).await)
}

/// Mounts an engine and returns its path.
async fn mount_engine(kind: &str, options: Value) -> String {
    let path = unique_name(kind);
    root_request("POST", &format!("sys/mounts/{path}"), json!({"type": kind, "options": options})).await;
    path
}

/// Returns the `objects` text with one object, `x`.
fn single_object(path: &str, more: &str) -> String {
    format!("- {{objectName: x, secretPath: '{path}'{more}}}")
}

#[tokio::test]
async fn denied_read_error_names_working_policy_line() {
    let (tenant, pod, daemon) = fixture().await;
    tenant.set_policy("path \"nothing\" { capabilities = [\"read\"] }").await;
    for class in [
        single_object(&format!("{}/data/db", tenant.kv), ""),
        single_object(&format!("{}/metadata", tenant.kv), ", method: LIST"),
    ] {
        let pod = pod.clone().with_objects(class);
        let text = daemon.assert_mount_error(&pod, Cause::VaultPolicyDenied, &[]).await;
        let line = &text[text.find("path \"").unwrap()..text.rfind(" [VM").unwrap()];
        tenant.set_policy(line).await;
        daemon.mount_files(&pod).await;
    }
}

#[tokio::test]
async fn denied_reads_share_one_error_with_all_policy_lines() {
    let (tenant, pod, daemon) = fixture().await;
    tenant.write_secret("b", json!({"pass": "b"})).await;
    tenant.set_policy("path \"nothing\" { capabilities = [\"read\"] }").await;
    let kv = &tenant.kv;
    let object = |name, path: &str, more| format!("- {{objectName: {name}, secretPath: {kv}/{path}{more}}}");
    let all = [object("x", "data/db", ""), object("y", "data/b", ""), object("z", "metadata", ", method: LIST")];
    let mixed = all.clone().join("\n") + "\n- {objectName: gone, secretPath: nowhere/db, secretKey: a}";
    let pod = pod.with_objects(all.join("\n"));
    let sentence = format!("is denied listing {kv}/metadata, reading {kv}/data/b, reading {kv}/data/db at ");
    let text = daemon
        .assert_mount_error(&pod, Cause::VaultPolicyDenied, &["objects \"z\", \"y\", \"x\": role \"app\"", &sentence])
        .await;
    assert_eq!(text.matches("permission denied").count(), 1, "{text}");
    // Vault denies a missing engine for the same reason.
    daemon
        .assert_mount_error(
            &pod.clone().with_objects(mixed),
            Cause::VaultPolicyDenied,
            &["\"gone\"", "path \"nowhere/db\" {"],
        )
        .await;
    tenant.set_policy(&text[text.find("path \"").unwrap()..text.rfind(" [VM").unwrap()]).await;
    daemon.mount_files(&pod).await;
}

#[tokio::test]
async fn denied_reads_error_is_truncated_with_count() {
    let (tenant, pod, daemon) = fixture().await;
    tenant.set_policy("path \"nothing\" { capabilities = [\"read\"] }").await;
    let object = |i| format!("- {{objectName: n{i}, secretPath: {}/data/n{i:02}}}", tenant.kv);
    let pod = pod.with_objects((0..20).map(object).collect::<Vec<_>>().join("\n"));
    let (cause, text) = daemon.mount_error(pod.mount_call()).await;
    assert!(text.contains("data/n07 and 12 more at ") && text.ends_with("} and 12 more [VM0050]"), "{text}");
    assert_eq!((cause, text.matches("path \"").count()), (Cause::VaultPolicyDenied, 8), "{text}");
}

#[tokio::test]
async fn error_of_many_objects_is_same_at_each_retry() {
    let (tenant, pod, daemon) = fixture().await;
    let object = |i| format!("- {{objectName: n{i}, secretPath: {}/data/n{i}}}", tenant.kv);
    let pod = pod.with_objects((0..6).map(object).collect::<Vec<_>>().join("\n"));
    let text = daemon.assert_mount_error(&pod, Cause::SecretMissing, &["6 of 6 objects failed"]).await;
    let looked = text.split(" | ").map(|part| part.contains("only \"db\" is in"));
    assert_eq!(looked.collect::<Vec<_>>(), [true, true, true, false, false, false], "{text}");
    assert_eq!(daemon.assert_mount_error(&pod, Cause::SecretMissing, &[]).await, text);
}

#[tokio::test]
async fn failed_object_fails_the_mount_and_is_named() {
    let (tenant, pod, daemon) = fixture().await;
    let kv = &tenant.kv;
    let pod = pod.with_objects(format!(
        "{}\n- {{objectName: y, secretPath: {kv}/data/none}}",
        single_object(&format!("{kv}/data/db"), "")
    ));
    let text =
        daemon.assert_mount_error(&pod, Cause::SecretMissing, &["object \"y\"", &format!("{kv}/data/none")]).await;
    assert!(!text.contains("\"x\""), "{text}");
}

#[tokio::test]
async fn write_with_empty_response_is_no_data_error() {
    let (tenant, pod, daemon) = fixture().await;
    tenant.set_policy("path \"cubbyhole/*\" { capabilities = [\"create\", \"update\", \"read\"] }").await;
    let pod = pod.with_objects(single_object("cubbyhole/note", ", method: PUT, secretArgs: {text: hunter2}"));
    let text = daemon.assert_mount_error(&pod, Cause::NoData, &["\"x\"", "writing cubbyhole/note", "no data"]).await;
    assert!(!text.contains("hunter2"), "{text}");
    let read = pod.with_objects(single_object("cubbyhole/note", ", secretKey: text"));
    assert_eq!(
        daemon.mount_files(&read).await["x"],
        "hunter2",
        "the write was made, in the cubbyhole of the pod's token"
    );
}
