//! `optional: true`: a missing secret produces no file; a denied one is still an error.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use vaultmount::error::Cause;

use super::{fixture, single_object};
use crate::support::{bao::root_request, database::DatabaseEngine};

#[tokio::test]
async fn optional_missing_secret_or_key_makes_no_file() {
    let (tenant, pod, daemon) = fixture().await;
    let kv = &tenant.kv;
    tenant.write_secret("gone", json!({"pass": "x"})).await;
    tenant.write_secret("burnt", json!({"pass": "x"})).await;
    root_request("DELETE", &format!("{kv}/data/gone"), Value::Null).await;
    root_request("PUT", &format!("{kv}/destroy/burnt"), json!({"versions": [1]})).await;
    for (path, more) in [
        ("data/none", ""),
        ("data/db?version=7", ""),
        ("data/gone", ", secretKey: pass"),
        ("data/burnt", ", secretKey: '*'"),
        ("data/db", ", secretKey: none"),
        ("data/db", ", secretPointer: /none"),
        ("metadata/none", ", method: LIST"),
    ] {
        let absent = single_object(&format!("{kv}/{path}"), &format!("{more}, optional: true"));
        let there = format!("{absent}\n- {{objectName: y, secretPath: {kv}/data/db, secretKey: user}}");
        let expected = BTreeMap::from([("y".to_owned(), "shop".to_owned())]);
        assert_eq!(daemon.mount_files(&pod.clone().with_objects(there)).await, expected, "{path}{more}");
    }
}

#[tokio::test]
async fn optional_does_not_hide_other_errors() {
    let (tenant, pod, daemon) = fixture().await;
    let (kv, mount) = (&tenant.kv, DatabaseEngine::for_tenant(&tenant).await.mount);
    let below = |path: &str| format!("path \"{path}/*\" {{ capabilities = [\"read\"] }}\n");
    tenant.set_policy(&(below(kv) + &below(&mount) + &below("nowhere"))).await;
    for (path, more, cause) in [
        ("other/data/db".to_owned(), "", Cause::VaultPolicyDenied),
        (format!("{kv}/db"), "", Cause::Kv2Path),
        // Two Vault errors: `no handler for route` and `unsupported path`.
        ("nowhere/db".to_owned(), "", Cause::EngineMissing),
        (format!("{mount}/nothing/there"), "", Cause::EngineMissing),
        (format!("{kv}/data/db"), ", secretKey: pass, encoding: base64", Cause::RenderFailed),
        (format!("{mount}/creds/none"), "", Cause::EngineRoleMissing),
    ] {
        let class = single_object(&path, &format!("{more}, optional: true"));
        daemon.assert_mount_error(&pod.clone().with_objects(class), cause, &["\"x\""]).await;
    }
}
