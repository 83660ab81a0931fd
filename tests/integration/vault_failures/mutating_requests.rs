//! Mutating requests: repeated only if Vault certainly did not act, and never lost once Vault acted.

use std::{sync::Arc, time::Duration};

use futures_util::future::join_all;
use serde_json::json;
use tokio::time::sleep;
use vaultmount::error::Cause;

use super::{
    FailureFixture, advance, assert_contains, call_with_timeout, for_each_case, single_file, tenant_with_secret,
};
use crate::support::{
    database::DatabaseEngine,
    fault_proxy::{Fault, Gate, vault_error},
    pod::Pod,
    unique_name,
};

/// A pod with one file: the name of its own database user.
fn user_pod(stage: &FailureFixture, database: &DatabaseEngine) -> Pod {
    let object = format!("- {{objectName: user, secretPath: {}, secretKey: username}}", database.path);
    Pod::for_tenant(&stage.tenant).with_objects(object)
}

/// The objects of [`FailureFixture::pod`].
fn plain_objects(stage: &FailureFixture) -> String {
    format!("- {{objectName: pass, secretPath: {}, secretKey: pass}}", stage.secret_path())
}

#[tokio::test]
async fn mutating_request_is_retried_after_429() {
    let stage = FailureFixture::new().await;
    let database = DatabaseEngine::for_tenant(&stage.tenant).await;
    stage.vault.next(2, "GET", &database.path, vault_error(429, "quota"));
    let mounted = stage.daemon.mount(user_pod(&stage, &database).mount_call()).await.unwrap();
    assert_eq!(stage.vault.count("GET", &database.path), 3);
    assert_eq!(database.users().await, [single_file(&mounted)]);
}

#[tokio::test]
async fn mutating_request_is_retried_after_connection_refused() {
    let mut stage = FailureFixture::new().await;
    let database = DatabaseEngine::for_tenant(&stage.tenant).await;
    let (pod, other) = (user_pod(&stage, &database), user_pod(&stage, &database));
    let first = stage.daemon.mount(pod.mount_call()).await.unwrap();
    // The other pod has a session token already, so that the credential request is the first to fail.
    stage.daemon.mount(other.clone().with_objects(plain_objects(&stage)).mount_call()).await.unwrap();
    stage.vault.stop_listening().await;
    let FailureFixture { vault, daemon, .. } = &mut stage;
    let again = daemon.mount(other.mount_call());
    let back = async {
        // A refused connection cannot be observed. The first attempt has finished long before this delay ends.
        sleep(Duration::from_millis(120)).await;
        vault.listen_again(None);
    };
    let (again, ()) = tokio::join!(again, back);
    let mut expected = [single_file(&first).to_owned(), single_file(&again.unwrap()).to_owned()];
    expected.sort();
    assert_eq!(database.users().await, expected);
    assert_eq!(stage.vault.count("GET", &database.path), 2);
}

#[tokio::test]
async fn mutating_request_is_not_retried_when_outcome_unknown() {
    let tenant = Arc::new(tenant_with_secret().await);
    let database = DatabaseEngine::for_tenant(&tenant).await;
    let answered =
        [(502, "bad gateway"), (503, "no backend"), (504, "timeout")].map(|(code, message)| vault_error(code, message));
    let lost = [Fault::DropRequest, Fault::DropResponse, Fault::TruncateResponse];
    let cases =
        answered.map(|fault| (fault, "status 50")).into_iter().chain(lost.map(|fault| (fault, "not retried at once")));
    join_all(cases.map(async |(fault, message)| {
        let stage = FailureFixture::for_tenant(&tenant).await;
        stage.vault.next(1, "GET", &database.path, fault);
        let (cause, text) = stage.mount_error(&user_pod(&stage, &database)).await;
        // The driver retries `Unavailable` immediately, so this error must have another code.
        assert_eq!((cause, stage.vault.count("GET", &database.path)), (Cause::OutcomeUnknown, 1), "{text}");
        assert_contains(&text, &[message]);
    }))
    .await;
    assert_eq!(database.users().await.len(), 2, "two requests reached OpenBao before their answers were lost");
}

#[tokio::test]
async fn mutating_put_is_retried_after_429_only() {
    let faults = [(vault_error(429, "quota"), 2), (vault_error(503, "no backend"), 1), (Fault::DropResponse, 1)];
    for_each_case(faults, async |stage, (fault, sent)| {
        let kv = &stage.tenant.kv;
        stage.tenant.set_policy(&format!("path \"{kv}/*\" {{ capabilities = [\"create\", \"update\"] }}")).await;
        stage.vault.next(1, "PUT", kv, fault);
        let write = "method: PUT, secretArgs: {data: {a: b}}, secretKey: version";
        let pod = Pod::for_tenant(&stage.tenant)
            .with_objects(format!("- {{objectName: a, secretPath: {kv}/data/{}, {write}}}", unique_name("new")));
        let mounted = stage.daemon.mount(pod.mount_call()).await;
        assert_eq!((stage.vault.count("PUT", kv), mounted.is_ok()), (sent, sent == 2));
        if let Ok(mounted) = mounted {
            assert_eq!(single_file(&mounted), "1");
        }
    })
    .await;
}

#[tokio::test]
async fn engine_of_unknown_type_counts_as_mutating() {
    let stage = FailureFixture::new().await;
    stage.vault.always("GET", "sys/internal/ui/mounts/", vault_error(403, "preflight capability check returned 403"));
    stage.vault.next(1, "GET", &stage.secret_path(), Fault::DropRequest);
    let (cause, text) = stage.mount_error(&stage.pod()).await;
    assert_eq!((cause, stage.vault.count("GET", &stage.secret_path())), (Cause::OutcomeUnknown, 1), "{text}");
    assert_contains(&text, &["not retried at once"]);
}

#[tokio::test]
async fn credential_of_cancelled_mount_is_reused_by_next_call() {
    let stage = FailureFixture::new().await;
    let database = DatabaseEngine::for_tenant(&stage.tenant).await;
    let (gone, late) = (user_pod(&stage, &database), user_pod(&stage, &database));
    let (answered, gate) = (|n| stage.vault.wait_for(n, "GET", &database.path), Gate::new());
    stage.vault.always("GET", &database.path, Fault::HoldResponse(gate.clone()));

    tokio::select! {
        _ = stage.daemon.mount(gone.mount_call()) => panic!("the answer is held"),
        () = answered(1) => {}
    }
    let too_late = async {
        answered(2).await;
        advance(Duration::from_secs(10)).await;
    };
    let (refusal, ()) =
        tokio::join!(stage.daemon.mount_error(call_with_timeout(Duration::from_secs(10), &late)), too_late);
    assert_eq!(refusal.0, Cause::DeadlineExceeded);
    gate.open();

    let mut had = Vec::new();
    for pod in [&gone, &late] {
        had.push(single_file(&stage.daemon.mount(pod.mount_call()).await.unwrap()).to_owned());
    }
    had.sort();
    assert_eq!(database.users().await, had);
    assert_eq!(stage.vault.count("GET", &database.path), 2);
}

#[tokio::test]
async fn credential_of_partly_failed_mount_is_reused() {
    let stage = FailureFixture::new().await;
    let database = DatabaseEngine::for_tenant(&stage.tenant).await;
    let both = format!(
        "- {{objectName: user, secretPath: {}, secretKey: username}}\n- {{objectName: new, secretPath: {}/data/new, secretKey: a}}",
        database.path, stage.tenant.kv
    );
    let pod = Pod::for_tenant(&stage.tenant).with_objects(both);
    assert_eq!(stage.mount_error(&pod).await.0, Cause::SecretMissing);
    stage.tenant.write_secret("new", json!({"a": "b"})).await;
    let mounted = stage.daemon.mount(pod.mount_call()).await.unwrap();
    assert_eq!(database.users().await, [std::str::from_utf8(&mounted.files[0].contents).unwrap()]);
}
