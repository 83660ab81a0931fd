//! KV: missing, deleted and destroyed versions, paths of the other engine version, and arguments.

use serde_json::{Value, json};
use vaultmount::error::Cause;

use super::{fixture, mount_engine, single_object};
use crate::support::{bao::root_request, daemon::Daemon, fault_proxy::FaultProxy};

#[tokio::test]
async fn kv_version_never_written_is_secret_missing() {
    let (tenant, pod, daemon) = fixture().await;
    let path = format!("{}/data/db", tenant.kv);
    for class in [single_object(&format!("{path}?version=7"), ""), single_object(&path, ", secretArgs: {version: 7}")] {
        daemon
            .assert_mount_error(&pod.clone().with_objects(class), Cause::SecretMissing, &["\"x\"", &path, "version 7"])
            .await;
    }
}

#[tokio::test]
async fn kv_version_deleted_or_destroyed_is_explained() {
    let (tenant, pod, daemon) = fixture().await;
    let kv = &tenant.kv;
    tenant.write_secret("db", json!({"pass": "second"})).await;
    let pod = |query| pod.clone().with_objects(single_object(&format!("{kv}/data/db{query}"), ", secretKey: pass"));
    root_request("DELETE", &format!("{kv}/data/db"), Value::Null).await;
    for query in ["", "?version=2"] {
        let parts = ["\"x\"", &format!("version 2 of {kv}/data/db was deleted at 20"), "undelete", "?version=N"];
        daemon.assert_mount_error(&pod(query), Cause::VersionDeleted, &parts).await;
    }
    root_request("PUT", &format!("{kv}/destroy/db"), json!({"versions": [2]})).await;
    let parts = ["\"x\"", &format!("version 2 of {kv}/data/db was destroyed"), "write a new version"];
    let text = daemon.assert_mount_error(&pod(""), Cause::VersionDeleted, &parts).await;
    assert!(!text.contains("undelete"), "{text}");
    assert_eq!(daemon.mount_files(&pod("?version=1")).await["x"], "s3cret");
}

#[tokio::test]
async fn kv2_path_without_data_gets_suggestion() {
    let (tenant, pod, daemon) = fixture().await;
    let kv = &tenant.kv;
    let pod = pod.with_objects(single_object(&format!("{kv}/db"), ""));
    let next = format!("did you mean secretPath: {kv}/data/db (the engine there is KV version 2)?");
    daemon.assert_mount_error(&pod, Cause::Kv2Path, &["\"x\"", &format!("{kv}/db"), &next]).await;
    // A policy for the paths below `data/` denies this path.
    tenant.set_policy(&format!("path \"{kv}/data/*\" {{ capabilities = [\"read\"] }}")).await;
    daemon.assert_mount_error(&pod, Cause::VaultPolicyDenied, &["\"x\"", &format!("{kv}/db"), &next]).await;
}

#[tokio::test]
async fn secret_args_of_get_become_query() {
    let (tenant, pod, daemon) = fixture().await;
    tenant.write_secret("db", json!({"pass": "second"})).await;
    let path = format!("{}/data/db", tenant.kv);
    let class = format!(
        "{}\n- {{objectName: y, secretPath: {path}, secretKey: pass}}",
        single_object(&path, ", secretKey: pass, secretArgs: {version: 1}")
    );
    let files = daemon.mount_files(&pod.with_objects(class)).await;
    assert_eq!((files["x"].as_str(), files["y"].as_str()), ("s3cret", "second"));
}

#[tokio::test]
async fn key_with_control_character_is_rejected_as_file() {
    let (tenant, pod, daemon) = fixture().await;
    tenant.write_secret("db", json!({"a\u{1b}[2J": "v"})).await;
    let pod = pod.with_objects(single_object(&format!("{}/data/db", tenant.kv), ", secretKey: '*'"));
    let text = daemon.assert_mount_error(&pod, Cause::UnsafeName, &["\"x\"", "it contains a control character"]).await;
    assert!(!text.contains('\u{1b}'), "{text:?}");
}

#[tokio::test]
async fn objects_yaml_nesting_depth_is_limited() {
    let (tenant, pod, daemon) = fixture().await;
    let nested = |depth: usize| {
        let value = format!("{}x{}", "{a: [".repeat(depth), "]}".repeat(depth));
        let more = format!(", secretKey: pass, other: {value}");
        pod.clone().with_objects(single_object(&format!("{}/data/db", tenant.kv), &more))
    };
    assert_eq!(daemon.mount_files(&nested(15)).await["x"], "s3cret");
    daemon.assert_mount_error(&nested(16), Cause::ObjectsYaml, &["it nests too deep"]).await;
    daemon.assert_mount_error(&nested(10_000), Cause::ObjectsYaml, &[]).await;
}

#[tokio::test]
async fn list_method_returns_names() {
    let (tenant, pod, daemon) = fixture().await;
    tenant.write_secret("team/a", json!({"k": "v"})).await;
    let kv = &tenant.kv;
    let class = format!(
        "{}\n- {{objectName: y, secretPath: {kv}/metadata/team/, method: LIST, secretPointer: /keys/0}}",
        single_object(&format!("{kv}/metadata"), ", method: list, secretKey: keys")
    );
    let files = daemon.mount_files(&pod.clone().with_objects(class)).await;
    assert_eq!((files["x"].as_str(), files["y"].as_str()), (r#"["db","team/"]"#, "a"));
    let empty = single_object(&format!("{kv}/metadata/none"), ", method: LIST");
    let parts = ["\"x\"", "nothing to list", &format!("{kv}/metadata/none")];
    daemon.assert_mount_error(&pod.clone().with_objects(empty), Cause::SecretMissing, &parts).await;
    let folder = single_object(&format!("{kv}/team"), ", method: LIST");
    daemon
        .assert_mount_error(
            &pod.with_objects(folder),
            Cause::Kv2Path,
            &[&format!("did you mean secretPath: {kv}/metadata/team ")],
        )
        .await;
}

#[tokio::test]
async fn kv1_secret_data_is_at_top_level() {
    let (tenant, pod, daemon) = fixture().await;
    let kv1 = mount_engine("kv", json!({"version": "1"})).await;
    tenant.set_policy(&format!("path \"{kv1}/*\" {{ capabilities = [\"read\"] }}")).await;
    root_request("POST", &format!("{kv1}/db"), json!({"pass": "plain"})).await;
    root_request(
        "POST",
        &format!("{kv1}/odd"),
        json!({"data": {"in": "inside", "both": "inside"}, "both": "top", "out": "top"}),
    )
    .await;
    let odd = |key| format!("\n- {{objectName: {key}, secretPath: {kv1}/odd, secretKey: {key}}}");
    let class = single_object(&format!("{kv1}/db"), ", secretKey: pass") + &odd("in") + &odd("both") + &odd("out");
    let files = daemon.mount_files(&pod.with_objects(class)).await;
    assert_eq!(files["x"], "plain");
    assert_eq!((files["in"].as_str(), files["both"].as_str(), files["out"].as_str()), ("inside", "inside", "top"));
}

#[tokio::test]
async fn objects_of_one_path_share_one_request() {
    let (tenant, pod, _) = fixture().await;
    let vault = FaultProxy::start().await;
    let daemon = Daemon::start_at(&vault.address, &[]).await;
    let path = format!("{}/data/db", tenant.kv);
    let class = format!(
        "{}\n- {{objectName: y, secretPath: /v1/{path}, method: GET, secretKey: user}}",
        single_object(&path, ", secretKey: pass")
    );
    assert_eq!(daemon.mount_files(&pod.with_objects(class)).await.len(), 2);
    assert_eq!(vault.count("GET", &path), 1);
}
