//! Database credentials: one user per pod and request, however often the driver asks.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::timeout;
use vaultmount::error::Cause;

use super::{arranged, one};
use crate::support::{
    bao::{Tenant, root},
    clock::{REFRESH, leap},
    database::{Database, log_in},
    pod::Pod,
};

/// The class of one credential in two files.
fn credential(mount: &str) -> String {
    let object = |name| format!("- {{objectName: {name}, secretPath: {mount}/creds/app, secretKey: {name}}}\n");
    object("username") + &object("password")
}

/// How many leases there are of the engine.
async fn leases(database: &Database) -> usize {
    let listed = root("LIST", &format!("sys/leases/lookup/{}/creds/app", database.mount), Value::Null).await;
    listed["data"]["keys"].as_array().unwrap().len()
}

#[tokio::test]
async fn both_halves_of_a_credential_log_in() {
    let (tenant, pod, daemon) = arranged().await;
    let database = Database::of(&tenant).await;
    let files = daemon.files(&pod.objects(credential(&database.mount))).await;
    assert_eq!(log_in(&files["username"], &files["password"]).await.as_ref(), Ok(&files["username"]));
    assert!(log_in(&files["username"], "wrong").await.is_err(), "any password logs in");
    assert_eq!((database.users().await.len(), leases(&database).await), (1, 1));
}

#[tokio::test]
async fn a_mount_that_failed_keeps_its_credential_for_the_next() {
    let (tenant, pod, daemon) = arranged().await;
    let database = Database::of(&tenant).await;
    let key = |name| {
        format!(
            "{}- {{objectName: z, secretPath: {}/data/db, secretKey: {name}}}",
            credential(&database.mount),
            tenant.kv
        )
    };
    let broken = pod.clone().objects(key("none"));
    for _ in 0..3 {
        daemon.refuses(&broken, Cause::KeyMissing, &["object \"z\"", "key \"none\""]).await;
        assert_eq!((database.users().await.len(), leases(&database).await), (1, 1));
    }
    let mended = pod.objects(key("pass"));
    let files = daemon.files(&mended).await;
    assert_eq!((database.users().await.len(), leases(&database).await), (1, 1));
    log_in(&files["username"], &files["password"]).await.unwrap();
}

#[tokio::test]
async fn a_credential_that_was_revoked_while_it_waited_is_not_handed_out() {
    let (tenant, pod, daemon) = arranged().await;
    let database = Database::of(&tenant).await;
    let broken = credential(&database.mount) + &one(&format!("{}/data/none", tenant.kv), "");
    daemon.refuses(&pod.clone().objects(broken), Cause::SecretMissing, &["object \"x\""]).await;
    tenant.revoke_logins().await;
    timeout(Duration::from_secs(20), async { while !database.users().await.is_empty() {} }).await.unwrap();
    let files = daemon.files(&pod.objects(credential(&database.mount))).await;
    log_in(&files["username"], &files["password"]).await.unwrap();
}

#[tokio::test]
async fn a_credential_whose_token_another_read_shows_to_be_gone_is_not_handed_out() {
    let (tenant, pod, daemon) = arranged().await;
    let database = Database::of(&tenant).await;
    daemon.files(&pod.clone().objects(credential(&database.mount))).await;
    tenant.revoke_logins().await;
    timeout(Duration::from_secs(20), async { while !database.users().await.is_empty() {} }).await.unwrap();
    // Nothing that the pod has is due; the new object is read under the token that is gone.
    let more = credential(&database.mount) + &one(&format!("{}/data/db", tenant.kv), "");
    let files = daemon.files(&pod.objects(more)).await;
    assert_eq!(files.len(), 3);
    log_in(&files["username"], &files["password"]).await.unwrap();
    assert_eq!(database.users().await, [files["username"].as_str()]);
}

#[tokio::test]
async fn a_credential_outlives_the_uses_of_its_token() {
    for uses in [2, 3] {
        let (tenant, pod, daemon) = arranged().await;
        let database = Database::of(&tenant).await;
        tenant.role("app", json!({"token_num_uses": uses})).await;
        let more = format!(
            "{}\n- {{objectName: y, secretPath: {}/config}}",
            one(&format!("{}/data/db", tenant.kv), ""),
            tenant.kv
        );
        let pod = pod.objects(credential(&database.mount) + &more);
        let mut credentials = Vec::new();
        for _ in 0..3 {
            credentials.push(daemon.files(&pod).await);
            // The plain ones are read again, and use up another token.
            leap(REFRESH).await;
        }
        for files in credentials {
            log_in(&files["username"], &files["password"]).await.unwrap();
        }
    }
}

#[tokio::test]
async fn each_pod_has_a_user_of_its_own() {
    let (tenant, _, daemon) = arranged().await;
    let database = Database::of(&tenant).await;
    let (a, b) = (Pod::of(&tenant), Pod::of(&tenant));
    let (a, b) = tokio::join!(
        daemon.mount(a.objects(credential(&database.mount)).call()),
        daemon.mount(b.objects(credential(&database.mount)).call())
    );
    assert_ne!(a.unwrap().files[0].contents, b.unwrap().files[0].contents);
    assert_eq!(database.users().await.len(), 2);
}

/// The path of credentials whose database is down.
async fn broken(tenant: &Tenant) -> String {
    let Database { mount, path, .. } = Database::of(tenant).await;
    let config = json!({
        "plugin_name": "postgresql-database-plugin", "allowed_roles": ["*"], "verify_connection": false,
        "connection_url": "postgresql://{{username}}:{{password}}@127.0.0.1:1/postgres?sslmode=disable",
        "username": "vault", "password": "hunter2",
    });
    root("POST", &format!("{mount}/config/pg"), config).await;
    path
}

#[tokio::test]
async fn a_database_that_is_down_does_not_hide_what_no_retry_mends() {
    let (tenant, pod, daemon) = arranged().await;
    let path = broken(&tenant).await;
    let class = format!("{}\n- {{objectName: y, secretPath: {}/data/none}}", one(&path, ""), tenant.kv);
    daemon
        .refuses(
            &pod.objects(class),
            Cause::SecretMissing,
            &["2 of 2 objects", "\"x\"", &path, "\"y\"", "no secret at"],
        )
        .await;
}
