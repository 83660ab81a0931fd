//! Requests that create something: sent twice only when Vault surely did not act, and never lost once it did.

use std::{sync::Arc, time::Duration};

use futures_util::future::join_all;
use serde_json::json;
use tokio::time::sleep;
use vaultmount::error::Cause;

use super::{Stage, assert_says, each, leap, only, tenant, within};
use crate::support::{
    database::Database,
    faulty::{Fault, Gate, status},
    pod::Pod,
    unique,
};

/// A pod whose one file is the name of its own database user.
fn user(stage: &Stage, database: &Database) -> Pod {
    let object = format!("- {{objectName: user, secretPath: {}, secretKey: username}}", database.path);
    Pod::of(&stage.tenant).objects(object)
}

/// The class of [`Stage::pod`].
fn plain(stage: &Stage) -> String {
    format!("- {{objectName: pass, secretPath: {}, secretKey: pass}}", stage.secret())
}

#[tokio::test]
async fn a_credential_is_asked_for_again_after_a_rate_limit() {
    let stage = Stage::new().await;
    let database = Database::of(&stage.tenant).await;
    stage.vault.next(2, "GET", &database.path, status(429, "quota"));
    let mounted = stage.daemon.mount(user(&stage, &database).call()).await.unwrap();
    assert_eq!(stage.vault.count("GET", &database.path), 3);
    assert_eq!(database.users().await, [only(&mounted)]);
}

#[tokio::test]
async fn a_credential_is_asked_for_again_when_nobody_listened() {
    let mut stage = Stage::new().await;
    let database = Database::of(&stage.tenant).await;
    let (pod, other) = (user(&stage, &database), user(&stage, &database));
    let first = stage.daemon.mount(pod.call()).await.unwrap();
    // The other has a token already, so that the credential is the first that is asked for in vain.
    stage.daemon.mount(other.clone().objects(plain(&stage)).call()).await.unwrap();
    stage.vault.down().await;
    let Stage { vault, daemon, .. } = &mut stage;
    let again = daemon.mount(other.call());
    let back = async {
        // Nobody can see a refused connection; the first is long over by then.
        sleep(Duration::from_millis(120)).await;
        vault.up(None);
    };
    let (again, ()) = tokio::join!(again, back);
    let mut expected = [only(&first).to_owned(), only(&again.unwrap()).to_owned()];
    expected.sort();
    assert_eq!(database.users().await, expected);
    assert_eq!(stage.vault.count("GET", &database.path), 2);
}

#[tokio::test]
async fn a_credential_is_never_asked_for_again_when_vault_may_have_acted() {
    let tenant = Arc::new(tenant().await);
    let database = Database::of(&tenant).await;
    let answered = [(502, "bad gateway"), (503, "no backend"), (504, "timeout")].map(|(code, said)| status(code, said));
    let lost = [Fault::LoseRequest, Fault::LoseAnswer, Fault::CutAnswer];
    let cases =
        answered.map(|fault| (fault, "status 50")).into_iter().chain(lost.map(|fault| (fault, "not sent again")));
    join_all(cases.map(async |(fault, said)| {
        let stage = Stage::of(&tenant).await;
        stage.vault.next(1, "GET", &database.path, fault);
        let (cause, text) = stage.refusal(&user(&stage, &database)).await;
        // The driver repeats Unavailable at once, and this must not be.
        assert_eq!((cause, stage.vault.count("GET", &database.path)), (Cause::Unconfirmed, 1), "{text}");
        assert_says(&text, &[said]);
    }))
    .await;
    assert_eq!(database.users().await.len(), 2, "two requests reached OpenBao before their answers were lost");
}

#[tokio::test]
async fn a_write_is_sent_again_as_a_credential_is() {
    let faults = [(status(429, "quota"), 2), (status(503, "no backend"), 1), (Fault::LoseAnswer, 1)];
    each(faults, async |stage, (fault, sent)| {
        let kv = &stage.tenant.kv;
        stage.tenant.allow(&format!("path \"{kv}/*\" {{ capabilities = [\"create\", \"update\"] }}")).await;
        stage.vault.next(1, "PUT", kv, fault);
        let write = "method: PUT, secretArgs: {data: {a: b}}, secretKey: version";
        let pod = Pod::of(&stage.tenant)
            .objects(format!("- {{objectName: a, secretPath: {kv}/data/{}, {write}}}", unique("new")));
        let mounted = stage.daemon.mount(pod.call()).await;
        assert_eq!((stage.vault.count("PUT", kv), mounted.is_ok()), (sent, sent == 2));
        if let Ok(mounted) = mounted {
            assert_eq!(only(&mounted), "1");
        }
    })
    .await;
}

#[tokio::test]
async fn an_engine_that_vault_does_not_name_counts_as_creating() {
    let stage = Stage::new().await;
    stage.vault.every("GET", "sys/internal/ui/mounts/", status(403, "preflight capability check returned 403"));
    stage.vault.next(1, "GET", &stage.secret(), Fault::LoseRequest);
    let (cause, text) = stage.refusal(&stage.pod()).await;
    assert_eq!((cause, stage.vault.count("GET", &stage.secret())), (Cause::Unconfirmed, 1), "{text}");
    assert_says(&text, &["not sent again"]);
}

#[tokio::test]
async fn what_was_created_for_a_caller_that_gave_up_is_there_at_its_next_call() {
    let stage = Stage::new().await;
    let database = Database::of(&stage.tenant).await;
    let (gone, late) = (user(&stage, &database), user(&stage, &database));
    let (answered, gate) = (|n| stage.vault.saw(n, "GET", &database.path), Gate::new());
    stage.vault.every("GET", &database.path, Fault::HoldAnswer(gate.clone()));

    tokio::select! {
        _ = stage.daemon.mount(gone.call()) => panic!("the answer is held"),
        () = answered(1) => {}
    }
    let too_late = async {
        answered(2).await;
        leap(Duration::from_secs(10)).await;
    };
    let (refusal, ()) = tokio::join!(stage.daemon.refusal(within(Duration::from_secs(10), &late)), too_late);
    assert_eq!(refusal.0, Cause::Deadline);
    gate.open();

    let mut had = Vec::new();
    for pod in [&gone, &late] {
        had.push(only(&stage.daemon.mount(pod.call()).await.unwrap()).to_owned());
    }
    had.sort();
    assert_eq!(database.users().await, had);
    assert_eq!(stage.vault.count("GET", &database.path), 2);
}

#[tokio::test]
async fn what_was_created_beside_a_failure_is_there_at_the_next_call() {
    let stage = Stage::new().await;
    let database = Database::of(&stage.tenant).await;
    let both = format!(
        "- {{objectName: user, secretPath: {}, secretKey: username}}\n- {{objectName: new, secretPath: {}/data/new, secretKey: a}}",
        database.path, stage.tenant.kv
    );
    let pod = Pod::of(&stage.tenant).objects(both);
    assert_eq!(stage.refusal(&pod).await.0, Cause::SecretMissing);
    stage.tenant.put("new", json!({"a": "b"})).await;
    let mounted = stage.daemon.mount(pod.call()).await.unwrap();
    assert_eq!(database.users().await, [std::str::from_utf8(&mounted.files[0].contents).unwrap()]);
}
