//! `optional: true`: what is not there makes no file; what is refused is still an error.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use vaultmount::error::Cause;

use super::{arranged, one};
use crate::support::{bao::root, database::Database};

#[tokio::test]
async fn what_is_not_there_makes_no_file() {
    let (tenant, pod, daemon) = arranged().await;
    let kv = &tenant.kv;
    tenant.put("gone", json!({"pass": "x"})).await;
    tenant.put("burnt", json!({"pass": "x"})).await;
    root("DELETE", &format!("{kv}/data/gone"), Value::Null).await;
    root("PUT", &format!("{kv}/destroy/burnt"), json!({"versions": [1]})).await;
    for (path, more) in [
        ("data/none", ""),
        ("data/db?version=7", ""),
        ("data/gone", ", secretKey: pass"),
        ("data/burnt", ", secretKey: '*'"),
        ("data/db", ", secretKey: none"),
        ("data/db", ", secretPointer: /none"),
        ("metadata/none", ", method: LIST"),
    ] {
        let absent = one(&format!("{kv}/{path}"), &format!("{more}, optional: true"));
        let there = format!("{absent}\n- {{objectName: y, secretPath: {kv}/data/db, secretKey: user}}");
        let expected = BTreeMap::from([("y".to_owned(), "shop".to_owned())]);
        assert_eq!(daemon.files(&pod.clone().objects(there)).await, expected, "{path}{more}");
    }
}

#[tokio::test]
async fn what_is_wrong_is_still_an_error() {
    let (tenant, pod, daemon) = arranged().await;
    let (kv, mount) = (&tenant.kv, Database::of(&tenant).await.mount);
    let below = |path: &str| format!("path \"{path}/*\" {{ capabilities = [\"read\"] }}\n");
    tenant.allow(&(below(kv) + &below(&mount) + &below("nowhere"))).await;
    for (path, more, cause) in [
        ("other/data/db".to_owned(), "", Cause::Denied),
        (format!("{kv}/db"), "", Cause::Kv2Path),
        // `no handler for route`, and `unsupported path`.
        ("nowhere/db".to_owned(), "", Cause::EngineMissing),
        (format!("{mount}/nothing/there"), "", Cause::EngineMissing),
        (format!("{kv}/data/db"), ", secretKey: pass, encoding: base64", Cause::Render),
        (format!("{mount}/creds/none"), "", Cause::EngineRoleMissing),
    ] {
        let class = one(&path, &format!("{more}, optional: true"));
        daemon.refuses(&pod.clone().objects(class), cause, &["\"x\""]).await;
    }
}
