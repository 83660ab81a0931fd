//! Database credentials: one user per pod and request, however often the driver polls.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::timeout;
use vaultmount::error::Cause;

use super::{fixture, single_object};
use crate::support::{
    bao::{Tenant, root_request},
    clock::{DEFAULT_REFRESH_INTERVAL, advance},
    database::{DatabaseEngine, log_in},
    pod::Pod,
};

/// Returns the objects of one credential in two files.
fn credential_objects(mount: &str) -> String {
    let object = |name| format!("- {{objectName: {name}, secretPath: {mount}/creds/app, secretKey: {name}}}\n");
    object("username") + &object("password")
}

/// Returns the number of leases of the engine.
async fn lease_count(database: &DatabaseEngine) -> usize {
    let listed = root_request("LIST", &format!("sys/leases/lookup/{}/creds/app", database.mount), Value::Null).await;
    listed["data"]["keys"].as_array().unwrap().len()
}

#[tokio::test]
async fn database_username_and_password_match() {
    let (tenant, pod, daemon) = fixture().await;
    let database = DatabaseEngine::for_tenant(&tenant).await;
    let files = daemon.mount_files(&pod.with_objects(credential_objects(&database.mount))).await;
    assert_eq!(log_in(&files["username"], &files["password"]).await.as_ref(), Ok(&files["username"]));
    assert!(log_in(&files["username"], "wrong").await.is_err(), "any password logs in");
    assert_eq!((database.users().await.len(), lease_count(&database).await), (1, 1));
}

#[tokio::test]
async fn database_credential_of_failed_mount_is_reused() {
    let (tenant, pod, daemon) = fixture().await;
    let database = DatabaseEngine::for_tenant(&tenant).await;
    let key = |name| {
        format!(
            "{}- {{objectName: z, secretPath: {}/data/db, secretKey: {name}}}",
            credential_objects(&database.mount),
            tenant.kv
        )
    };
    let broken = pod.clone().with_objects(key("none"));
    for _ in 0..3 {
        daemon.assert_mount_error(&broken, Cause::KeyMissing, &["object \"z\"", "key \"none\""]).await;
        assert_eq!((database.users().await.len(), lease_count(&database).await), (1, 1));
    }
    let mended = pod.with_objects(key("pass"));
    let files = daemon.mount_files(&mended).await;
    assert_eq!((database.users().await.len(), lease_count(&database).await), (1, 1));
    log_in(&files["username"], &files["password"]).await.unwrap();
}

#[tokio::test]
async fn revoked_credential_of_failed_mount_is_not_served() {
    let (tenant, pod, daemon) = fixture().await;
    let database = DatabaseEngine::for_tenant(&tenant).await;
    let broken = credential_objects(&database.mount) + &single_object(&format!("{}/data/none", tenant.kv), "");
    daemon.assert_mount_error(&pod.clone().with_objects(broken), Cause::SecretMissing, &["object \"x\""]).await;
    tenant.revoke_logins().await;
    timeout(Duration::from_secs(20), async { while !database.users().await.is_empty() {} }).await.unwrap();
    let files = daemon.mount_files(&pod.with_objects(credential_objects(&database.mount))).await;
    log_in(&files["username"], &files["password"]).await.unwrap();
}

#[tokio::test]
async fn credential_of_revoked_token_is_not_served() {
    let (tenant, pod, daemon) = fixture().await;
    let database = DatabaseEngine::for_tenant(&tenant).await;
    daemon.mount_files(&pod.clone().with_objects(credential_objects(&database.mount))).await;
    tenant.revoke_logins().await;
    timeout(Duration::from_secs(20), async { while !database.users().await.is_empty() {} }).await.unwrap();
    // No secret of the pod is due. The new object is the first request with the revoked token.
    let more = credential_objects(&database.mount) + &single_object(&format!("{}/data/db", tenant.kv), "");
    let files = daemon.mount_files(&pod.with_objects(more)).await;
    assert_eq!(files.len(), 3);
    log_in(&files["username"], &files["password"]).await.unwrap();
    assert_eq!(database.users().await, [files["username"].as_str()]);
}

#[tokio::test]
async fn token_num_uses_exhausted_keeps_credential_valid() {
    for uses in [2, 3] {
        let (tenant, pod, daemon) = fixture().await;
        let database = DatabaseEngine::for_tenant(&tenant).await;
        tenant.write_role("app", json!({"token_num_uses": uses})).await;
        let more = format!(
            "{}\n- {{objectName: y, secretPath: {}/config}}",
            single_object(&format!("{}/data/db", tenant.kv), ""),
            tenant.kv
        );
        let pod = pod.with_objects(credential_objects(&database.mount) + &more);
        let mut credentials = Vec::new();
        for _ in 0..3 {
            credentials.push(daemon.mount_files(&pod).await);
            // The KV secrets are fetched again, which uses up another token.
            advance(DEFAULT_REFRESH_INTERVAL).await;
        }
        for files in credentials {
            log_in(&files["username"], &files["password"]).await.unwrap();
        }
    }
}

#[tokio::test]
async fn each_pod_gets_its_own_database_user() {
    let (tenant, _, daemon) = fixture().await;
    let database = DatabaseEngine::for_tenant(&tenant).await;
    let (a, b) = (Pod::for_tenant(&tenant), Pod::for_tenant(&tenant));
    let (a, b) = tokio::join!(
        daemon.mount(a.with_objects(credential_objects(&database.mount)).mount_call()),
        daemon.mount(b.with_objects(credential_objects(&database.mount)).mount_call())
    );
    assert_ne!(a.unwrap().files[0].contents, b.unwrap().files[0].contents);
    assert_eq!(database.users().await.len(), 2);
}

/// Returns the path of credentials with an unavailable database.
async fn path_of_database_down(tenant: &Tenant) -> String {
    let DatabaseEngine { mount, path, .. } = DatabaseEngine::for_tenant(tenant).await;
    let config = json!({
        "plugin_name": "postgresql-database-plugin", "allowed_roles": ["*"], "verify_connection": false,
        "connection_url": "postgresql://{{username}}:{{password}}@127.0.0.1:1/postgres?sslmode=disable",
        "username": "vault", "password": "hunter2",
    });
    root_request("POST", &format!("{mount}/config/pg"), config).await;
    path
}

#[tokio::test]
async fn database_down_does_not_hide_permanent_errors() {
    let (tenant, pod, daemon) = fixture().await;
    let path = path_of_database_down(&tenant).await;
    let class = format!("{}\n- {{objectName: y, secretPath: {}/data/none}}", single_object(&path, ""), tenant.kv);
    daemon
        .assert_mount_error(
            &pod.with_objects(class),
            Cause::SecretMissing,
            &["2 of 2 objects", "\"x\"", &path, "\"y\"", "no secret at"],
        )
        .await;
}
