//! The main function: files contain the objects of the class.

use std::collections::BTreeMap;

use serde_json::json;
use vaultmount::error::Cause;
use vaultmount::provider::{client::Client, pb::MountResponse};

use crate::support::{
    bao::{Tenant, root_request},
    clock::{DEFAULT_REFRESH_INTERVAL, advance},
    daemon::{Daemon, ProviderProcess},
    pod::Pod,
};

/// Returns the file contents by path.
fn files_by_path(response: &MountResponse) -> BTreeMap<&str, &str> {
    response.files.iter().map(|f| (f.path.as_str(), std::str::from_utf8(&f.contents).unwrap())).collect()
}

/// Returns the versions by object.
fn versions_by_object(response: &MountResponse) -> BTreeMap<&str, &str> {
    response.object_version.iter().map(|v| (v.id.as_str(), v.version.as_str())).collect()
}

#[tokio::test]
async fn mount_writes_files_of_every_object_option() {
    let (tenant, daemon) = (Tenant::new().await, Daemon::start(&[]).await);
    tenant
        .write_secret(
            "db",
            json!({"user": "shop", "pass": "s3cret", "port": 5432, "more": {"a": "<x>"}, "b64": "aGk="}),
        )
        .await;
    let kv = &tenant.kv;
    let pod = Pod::for_tenant(&tenant).with_objects(format!(
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
    let response = daemon.mount(pod.mount_call()).await.unwrap();
    let files = files_by_path(&response);
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
    assert_eq!(versions_by_object(&response).len(), 8);
}

#[tokio::test]
async fn object_versions_match_the_go_provider() {
    let (tenant, daemon) = (Tenant::new().await, Daemon::start(&[]).await);
    root_request("POST", &format!("sys/mounts/{}-v1", tenant.kv), json!({"type": "kv", "options": {"version": "1"}}))
        .await;
    // The test vector's path contains the mount `secret`, which the dev server has and other tests do not use.
    root_request("POST", "secret/data/db", json!({"data": {"pass": "s3cret"}})).await;
    tenant.set_policy("path \"secret/data/db\" { capabilities = [\"read\"] }").await;
    let pod =
        Pod::for_tenant(&tenant).with_objects("- {objectName: db-pass, secretPath: secret/data/db, secretKey: pass}");
    let response = daemon.mount(pod.mount_call()).await.unwrap();
    assert_eq!(versions_by_object(&response)["db-pass"], "Clkdg4BFjyu6Oxd5vOpGVTwEjWrkMITwyOOwl1k0AZU=");
}

#[tokio::test]
async fn full_response_file_is_stable_across_rereads() {
    let (tenant, daemon) = (Tenant::new().await, Daemon::start(&[]).await);
    tenant.write_secret("db", json!({"pass": "one"})).await;
    let pod =
        Pod::for_tenant(&tenant).with_objects(format!("- {{objectName: all, secretPath: {}/data/db}}", tenant.kv));
    let first = daemon.mount(pod.mount_call()).await.unwrap();
    // The secret is fetched again, with another request ID.
    advance(DEFAULT_REFRESH_INTERVAL).await;
    let second = daemon.mount(pod.mount_call()).await.unwrap();
    assert!(files_by_path(&first)["all"].starts_with(r#"{"request_id":""#));
    assert_eq!(
        (files_by_path(&first), versions_by_object(&first)),
        (files_by_path(&second), versions_by_object(&second))
    );
    tenant.write_secret("db", json!({"pass": "two"})).await;
    advance(DEFAULT_REFRESH_INTERVAL).await;
    let third = daemon.mount(pod.mount_call()).await.unwrap();
    assert_ne!(versions_by_object(&first), versions_by_object(&third));
}

#[tokio::test]
async fn all_optional_missing_writes_empty_marker_file() {
    let (tenant, daemon) = (Tenant::new().await, Daemon::start(&[]).await);
    let pod = Pod::for_tenant(&tenant).with_objects(format!(
        "- {{objectName: x, secretPath: {}/data/none, secretKey: x, optional: true}}",
        tenant.kv
    ));
    let response = daemon.mount(pod.mount_call()).await.unwrap();
    assert_eq!(files_by_path(&response), BTreeMap::from([(".vaultmount-empty", "")]));
    assert_eq!(response.object_version.len(), 1);
}

#[tokio::test]
async fn aggregate_error_lists_every_failed_object() {
    let (tenant, daemon) = (Tenant::new().await, Daemon::start(&[]).await);
    tenant.write_secret("db", json!({"pass": "s3cret"})).await;
    let kv = &tenant.kv;
    let pod = Pod::for_tenant(&tenant).with_objects(format!(
        "- {{objectName: a, secretPath: {kv}/data/db, secretKey: passs}}\n- {{objectName: b, secretPath: {kv}/data/none, secretKey: x}}\n- {{objectName: c, secretPath: {kv}/data/none, secretKey: y}}"
    ));
    let (cause, text) = daemon.mount_error(pod.mount_call()).await;
    assert_eq!(cause, Cause::SecretMissing);
    assert!(
        text.contains("3 of 3 objects failed") && text.contains("\"a\"") && text.contains("objects \"b\", \"c\""),
        "{text}"
    );
    assert!(!text.contains("s3cret"), "{text}");
}

#[tokio::test]
async fn unknown_parameter_is_logged_on_cached_mount() {
    let tenant = Tenant::new().await;
    tenant.write_secret("db", json!({"pass": "s3cret"})).await;
    let program = ProviderProcess::start(&[]).await;
    let mut driver = Client::connect(&program.socket).await.unwrap();
    let pod = Pod::for_tenant(&tenant).with_objects(format!("- {{objectName: a, secretPath: {}/data/db}}", tenant.kv));
    for pod in [pod.clone(), pod.with_parameter("vaultAdress", "x")] {
        driver.mount(pod.mount_call()).await.unwrap();
    }
    drop(driver);
    program.terminate();
    let log = program.wait_for_log().await;
    assert!(log.contains("unknown and ignored: parameter") && log.contains("vaultAdress"), "{log}");
}
