//! KV: versions that are missing, deleted, destroyed; paths of the other engine version; arguments.

use serde_json::{Value, json};
use vaultmount::error::Cause;

use super::{arranged, engine, one};
use crate::support::{bao::root, daemon::Daemon, faulty::Faulty};

#[tokio::test]
async fn a_version_that_was_never_written() {
    let (tenant, pod, daemon) = arranged().await;
    let path = format!("{}/data/db", tenant.kv);
    for class in [one(&format!("{path}?version=7"), ""), one(&path, ", secretArgs: {version: 7}")] {
        daemon.refuses(&pod.clone().objects(class), Cause::SecretMissing, &["\"x\"", &path, "version 7"]).await;
    }
}

#[tokio::test]
async fn a_version_that_was_deleted_or_destroyed() {
    let (tenant, pod, daemon) = arranged().await;
    let kv = &tenant.kv;
    tenant.put("db", json!({"pass": "second"})).await;
    let pod = |query| pod.clone().objects(one(&format!("{kv}/data/db{query}"), ", secretKey: pass"));
    root("DELETE", &format!("{kv}/data/db"), Value::Null).await;
    for query in ["", "?version=2"] {
        let parts = ["\"x\"", &format!("version 2 of {kv}/data/db was deleted at 20"), "undelete", "?version=N"];
        daemon.refuses(&pod(query), Cause::VersionDeleted, &parts).await;
    }
    root("PUT", &format!("{kv}/destroy/db"), json!({"versions": [2]})).await;
    let parts = ["\"x\"", &format!("version 2 of {kv}/data/db was destroyed"), "write a new version"];
    let text = daemon.refuses(&pod(""), Cause::VersionDeleted, &parts).await;
    assert!(!text.contains("undelete"), "{text}");
    assert_eq!(daemon.files(&pod("?version=1")).await["x"], "s3cret");
}

#[tokio::test]
async fn a_path_of_version_2_without_data() {
    let (tenant, pod, daemon) = arranged().await;
    let kv = &tenant.kv;
    let pod = pod.objects(one(&format!("{kv}/db"), ""));
    let next = format!("did you mean secretPath: {kv}/data/db (the engine there is KV version 2)?");
    daemon.refuses(&pod, Cause::Kv2Path, &["\"x\"", &format!("{kv}/db"), &next]).await;
    // A policy for what is below `data/` denies it.
    tenant.allow(&format!("path \"{kv}/data/*\" {{ capabilities = [\"read\"] }}")).await;
    daemon.refuses(&pod, Cause::Denied, &["\"x\"", &format!("{kv}/db"), &next]).await;
}

#[tokio::test]
async fn arguments_of_a_get_are_its_query() {
    let (tenant, pod, daemon) = arranged().await;
    tenant.put("db", json!({"pass": "second"})).await;
    let path = format!("{}/data/db", tenant.kv);
    let class = format!(
        "{}\n- {{objectName: y, secretPath: {path}, secretKey: pass}}",
        one(&path, ", secretKey: pass, secretArgs: {version: 1}")
    );
    let files = daemon.files(&pod.objects(class)).await;
    assert_eq!((files["x"].as_str(), files["y"].as_str()), ("s3cret", "second"));
}

#[tokio::test]
async fn a_key_that_would_steer_a_terminal_becomes_no_file() {
    let (tenant, pod, daemon) = arranged().await;
    tenant.put("db", json!({"a\u{1b}[2J": "v"})).await;
    let pod = pod.objects(one(&format!("{}/data/db", tenant.kv), ", secretKey: '*'"));
    let text = daemon.refuses(&pod, Cause::UnsafeName, &["\"x\"", "it contains a control character"]).await;
    assert!(!text.contains('\u{1b}'), "{text:?}");
}

#[tokio::test]
async fn a_class_that_nests_as_deep_as_it_may_is_read_and_a_deeper_one_refused() {
    let (tenant, pod, daemon) = arranged().await;
    let nested = |depth: usize| {
        let value = format!("{}x{}", "{a: [".repeat(depth), "]}".repeat(depth));
        let more = format!(", secretKey: pass, other: {value}");
        pod.clone().objects(one(&format!("{}/data/db", tenant.kv), &more))
    };
    assert_eq!(daemon.files(&nested(15)).await["x"], "s3cret");
    daemon.refuses(&nested(16), Cause::ObjectsYaml, &["it nests too deep"]).await;
    daemon.refuses(&nested(10_000), Cause::ObjectsYaml, &[]).await;
}

#[tokio::test]
async fn a_list_is_of_names() {
    let (tenant, pod, daemon) = arranged().await;
    tenant.put("team/a", json!({"k": "v"})).await;
    let kv = &tenant.kv;
    let class = format!(
        "{}\n- {{objectName: y, secretPath: {kv}/metadata/team/, method: LIST, secretPointer: /keys/0}}",
        one(&format!("{kv}/metadata"), ", method: list, secretKey: keys")
    );
    let files = daemon.files(&pod.clone().objects(class)).await;
    assert_eq!((files["x"].as_str(), files["y"].as_str()), (r#"["db","team/"]"#, "a"));
    let empty = one(&format!("{kv}/metadata/none"), ", method: LIST");
    let parts = ["\"x\"", "nothing to list", &format!("{kv}/metadata/none")];
    daemon.refuses(&pod.clone().objects(empty), Cause::SecretMissing, &parts).await;
    let folder = one(&format!("{kv}/team"), ", method: LIST");
    daemon
        .refuses(&pod.objects(folder), Cause::Kv2Path, &[&format!("did you mean secretPath: {kv}/metadata/team ")])
        .await;
}

#[tokio::test]
async fn version_1_has_its_data_at_the_top() {
    let (tenant, pod, daemon) = arranged().await;
    let kv1 = engine("kv", json!({"version": "1"})).await;
    tenant.allow(&format!("path \"{kv1}/*\" {{ capabilities = [\"read\"] }}")).await;
    root("POST", &format!("{kv1}/db"), json!({"pass": "plain"})).await;
    root(
        "POST",
        &format!("{kv1}/odd"),
        json!({"data": {"in": "inside", "both": "inside"}, "both": "top", "out": "top"}),
    )
    .await;
    let odd = |key| format!("\n- {{objectName: {key}, secretPath: {kv1}/odd, secretKey: {key}}}");
    let class = one(&format!("{kv1}/db"), ", secretKey: pass") + &odd("in") + &odd("both") + &odd("out");
    let files = daemon.files(&pod.objects(class)).await;
    assert_eq!(files["x"], "plain");
    assert_eq!((files["in"].as_str(), files["both"].as_str(), files["out"].as_str()), ("inside", "inside", "top"));
}

#[tokio::test]
async fn objects_of_one_path_are_one_request() {
    let (tenant, pod, _) = arranged().await;
    let vault = Faulty::start().await;
    let daemon = Daemon::at(&vault.address, &[]).await;
    let path = format!("{}/data/db", tenant.kv);
    let class = format!(
        "{}\n- {{objectName: y, secretPath: /v1/{path}, method: GET, secretKey: user}}",
        one(&path, ", secretKey: pass")
    );
    assert_eq!(daemon.files(&pod.objects(class)).await.len(), 2);
    assert_eq!(vault.count("GET", &path), 1);
}
