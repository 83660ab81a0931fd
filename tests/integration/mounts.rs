//! The main job: what a class asks for is what the files hold.

use std::collections::BTreeMap;

use serde_json::json;
use vaultmount::error::Cause;
use vaultmount::provider::{client::Client, pb::MountResponse};

use crate::support::{
    bao::{Tenant, root},
    clock::{REFRESH, leap},
    daemon::{Daemon, Program},
    pod::Pod,
};

/// Contents by path.
fn files(response: &MountResponse) -> BTreeMap<&str, &str> {
    response.files.iter().map(|f| (f.path.as_str(), std::str::from_utf8(&f.contents).unwrap())).collect()
}

/// Versions by object.
fn versions(response: &MountResponse) -> BTreeMap<&str, &str> {
    response.object_version.iter().map(|v| (v.id.as_str(), v.version.as_str())).collect()
}

#[tokio::test]
async fn a_class_becomes_files() {
    let (tenant, daemon) = (Tenant::new().await, Daemon::start(&[]).await);
    tenant
        .put("db", json!({"user": "shop", "pass": "s3cret", "port": 5432, "more": {"a": "<x>"}, "b64": "aGk="}))
        .await;
    let kv = &tenant.kv;
    let pod = Pod::of(&tenant).objects(format!(
        r#"
- objectName: db-user
  secretPath: {kv}/data/db
  secretKey: user
- objectName: deep/er/port
  secretPath: /v1/{kv}/data/db
  secretKey: port
  filePermission: 0440
- objectName: more
  secretPath: {kv}/data/db
  secretKey: more
- objectName: nested
  secretPath: {kv}/data/db
  secretPointer: /more/a
- objectName: greeting
  secretPath: {kv}/data/db?version=1
  secretKey: b64
  encoding: base64
- objectName: all
  secretPath: {kv}/data/db
  secretKey: "*"
- objectName: db.env
  secretPath: {kv}/data/db
  format: env
- objectName: names
  secretPath: {kv}/metadata
  method: LIST
  format: json
- objectName: absent
  secretPath: {kv}/data/none
  secretKey: x
  optional: true
"#
    ));
    let response = daemon.mount(pod.call()).await.unwrap();
    let files = files(&response);
    assert_eq!(files["db-user"], "shop");
    assert_eq!(files["deep/er/port"], "5432");
    assert_eq!(files["more"], r#"{"a":"\u003cx\u003e"}"#);
    assert_eq!(files["nested"], "<x>");
    assert_eq!(files["greeting"], "hi");
    assert_eq!((files["all/user"], files["all/port"]), ("shop", "5432"));
    assert!(files["db.env"].contains("user='shop'"), "{}", files["db.env"]);
    assert_eq!(files["names"].trim_end(), r#"{"keys":["db"]}"#);
    assert!(!files.contains_key("absent"));
    let mode = |path| response.files.iter().find(|f| f.path == path).unwrap().mode;
    assert_eq!((mode("deep/er/port"), mode("db-user")), (0o440, 0o644));
    assert_eq!(versions(&response).len(), 8);
}

#[tokio::test]
async fn versions_are_the_go_providers() {
    let (tenant, daemon) = (Tenant::new().await, Daemon::start(&[]).await);
    root("POST", &format!("sys/mounts/{}-v1", tenant.kv), json!({"type": "kv", "options": {"version": "1"}})).await;
    // The vector's path names the mount `secret`, which the dev server has and other tests leave alone.
    root("POST", "secret/data/db", json!({"data": {"pass": "s3cret"}})).await;
    tenant.allow("path \"secret/data/db\" { capabilities = [\"read\"] }").await;
    let pod = Pod::of(&tenant).objects("- {objectName: db-pass, secretPath: secret/data/db, secretKey: pass}");
    let response = daemon.mount(pod.call()).await.unwrap();
    assert_eq!(versions(&response)["db-pass"], "Clkdg4BFjyu6Oxd5vOpGVTwEjWrkMITwyOOwl1k0AZU=");
}

#[tokio::test]
async fn whole_responses_stay_the_same_while_the_secret_does() {
    let (tenant, daemon) = (Tenant::new().await, Daemon::start(&[]).await);
    tenant.put("db", json!({"pass": "one"})).await;
    let pod = Pod::of(&tenant).objects(format!("- {{objectName: all, secretPath: {}/data/db}}", tenant.kv));
    let first = daemon.mount(pod.call()).await.unwrap();
    // Read again, which brings another request id.
    leap(REFRESH).await;
    let second = daemon.mount(pod.call()).await.unwrap();
    assert!(files(&first)["all"].starts_with(r#"{"request_id":""#));
    assert_eq!((files(&first), versions(&first)), (files(&second), versions(&second)));
    tenant.put("db", json!({"pass": "two"})).await;
    leap(REFRESH).await;
    let third = daemon.mount(pod.call()).await.unwrap();
    assert_ne!(versions(&first), versions(&third));
}

#[tokio::test]
async fn nothing_left_is_one_empty_file() {
    let (tenant, daemon) = (Tenant::new().await, Daemon::start(&[]).await);
    let pod = Pod::of(&tenant)
        .objects(format!("- {{objectName: x, secretPath: {}/data/none, secretKey: x, optional: true}}", tenant.kv));
    let response = daemon.mount(pod.call()).await.unwrap();
    assert_eq!(files(&response), BTreeMap::from([(".vaultmount-empty", "")]));
    assert_eq!(response.object_version.len(), 1);
}

#[tokio::test]
async fn what_all_objects_lack_is_told_for_each() {
    let (tenant, daemon) = (Tenant::new().await, Daemon::start(&[]).await);
    tenant.put("db", json!({"pass": "s3cret"})).await;
    let kv = &tenant.kv;
    let pod = Pod::of(&tenant).objects(format!(
        "- {{objectName: a, secretPath: {kv}/data/db, secretKey: passs}}\n- {{objectName: b, secretPath: {kv}/data/none, secretKey: x}}\n- {{objectName: c, secretPath: {kv}/data/none, secretKey: y}}"
    ));
    let (cause, text) = daemon.refusal(pod.call()).await;
    assert_eq!(cause, Cause::SecretMissing);
    assert!(
        text.contains("3 of 3 objects failed") && text.contains("\"a\"") && text.contains("objects \"b\", \"c\""),
        "{text}"
    );
    assert!(!text.contains("s3cret"), "{text}");
}

#[tokio::test]
async fn a_slip_in_a_class_is_told_also_when_nothing_has_to_be_read() {
    let tenant = Tenant::new().await;
    tenant.put("db", json!({"pass": "s3cret"})).await;
    let program = Program::start(&[]).await;
    let mut driver = Client::connect(&program.socket).await.unwrap();
    let pod = Pod::of(&tenant).objects(format!("- {{objectName: a, secretPath: {}/data/db}}", tenant.kv));
    for pod in [pod.clone(), pod.with("vaultAdress", "x")] {
        driver.mount(pod.call()).await.unwrap();
    }
    drop(driver);
    program.terminate();
    let log = program.log().await;
    assert!(log.contains("unknown and ignored: parameter") && log.contains("vaultAdress"), "{log}");
}
