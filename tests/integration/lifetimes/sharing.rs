//! `tokenScope: serviceAccount`: pods of one service account share one session and its leases.

use std::{collections::BTreeSet, time::Duration};

use futures_util::future::join_all;
use serde_json::json;
use tokio::time::{Instant, sleep};
use vaultmount::error::Cause;

use super::{LifetimeFixture, wait_until};
use crate::support::{
    clock::advance,
    database::log_in,
    fault_proxy::{Fault, Gate},
    pod::Pod,
};

impl LifetimeFixture {
    /// Returns a pod of a class with a shared session.
    fn sharing_pod(&self) -> Pod {
        self.pod().with_parameter("tokenScope", "serviceAccount")
    }
}

#[tokio::test]
async fn token_scope_service_account_shares_one_credential() {
    let stage = LifetimeFixture::new(&[]).await;
    let pods: Vec<Pod> = (0..100).map(|_| stage.sharing_pod()).collect();
    let users: BTreeSet<_> = join_all(pods.iter().map(|pod| stage.mount(pod))).await.into_iter().collect();
    assert_eq!((users.len(), stage.count_logins(), stage.count_credential_requests()), (1, 1, 1));
    let requests = stage.count_requests();
    for pod in &pods {
        stage.mount(pod).await;
    }
    assert_eq!(stage.count_requests(), requests);
    let (last, others) = pods.split_last().unwrap();
    for pod in others {
        stage.api.delete_pod(&pod.namespace, &pod.name);
    }
    advance(Duration::from_secs(40)).await;
    sleep(Duration::from_millis(500)).await;
    let (username, password) = stage.mount(last).await;
    log_in(&username, &password).await.unwrap();
    assert_eq!((stage.count_credential_requests(), stage.vault.count("POST", "auth/token/revoke-self")), (1, 0));
    stage.api.delete_pod(&last.namespace, &last.name);
    stage.database.wait_until_no_users().await;
    assert_eq!(stage.vault.count("POST", "auth/token/revoke-self"), 1);
    // The next pod starts a new session.
    let next = stage.sharing_pod();
    stage.mount(&next).await;
    assert_eq!((stage.count_logins(), stage.count_credential_requests()), (2, 2));
}

#[tokio::test]
async fn token_scope_sharing_needs_same_service_account_uid() {
    let stage = LifetimeFixture::new(&[]).await;
    let of = |uid: &str| {
        let mut pod = stage.sharing_pod();
        uid.clone_into(&mut pod.service_account_uid);
        let token = pod.sign_token("vault", 600);
        pod.with_tokens(&[("vault", &token)])
    };
    let mut other = stage.sharing_pod();
    other.service_account = "other".into();
    let token = other.sign_token("vault", 600);
    let other = other.with_tokens(&[("vault", &token)]);
    let pods = [of("1"), of("2"), of("1"), other, stage.pod(), stage.pod().with_parameter("tokenScope", "pod")];
    let mut users = Vec::new();
    for pod in &pods {
        users.push(stage.mount(pod).await.0);
    }
    assert_eq!(users[0], users[2]);
    assert_eq!(users.iter().collect::<BTreeSet<_>>().len(), 5);
    assert_eq!(stage.count_logins(), 5);
}

#[tokio::test]
async fn token_scope_sharing_rejects_foreign_token() {
    let stage = LifetimeFixture::new(&[]).await;
    stage.mount(&stage.sharing_pod()).await;
    // The author of the pod's volumeAttributes could pass such a token.
    let stolen = stage.sharing_pod().sign_token("vault", 600);
    let mut thief = stage.sharing_pod();
    thief.service_account = "thief".into();
    stage
        .daemon
        .assert_mount_error(&thief.clone().with_tokens(&[("vault", &stolen)]), Cause::TokenIdentity, &["\"shop/app\""])
        .await;
    // A token without any identity claims.
    let error = stage
        .daemon
        .assert_mount_error(&thief.with_tokens(&[("vault", "no.jwt")]), Cause::TokenIdentity, &["UID"])
        .await;
    assert!(!error.contains("no.jwt"), "{error}");
    let mut none = stage.sharing_pod();
    none.tokens = None;
    stage.daemon.assert_mount_error(&none, Cause::TokenMissing, &["\"vault\""]).await;
    assert_eq!(stage.count_logins(), 1);
}

#[tokio::test]
async fn allow_shared_token_gates_token_scoped_objects() {
    let stage = LifetimeFixture::new(&[]).await;
    for object in ["- {objectName: t, type: token}", "- {objectName: t, secretPath: cubbyhole/a, optional: true}"] {
        let pod = stage.sharing_pod().with_objects(object);
        stage.daemon.assert_mount_error(&pod, Cause::TokenSharingNotAllowed, &["\"t\"", "--allow-shared-token"]).await;
        stage.daemon.mount(pod.with_parameter("tokenScope", "pod").mount_call()).await.unwrap();
    }
    let logins = stage.count_logins();
    assert_eq!(logins, 2);
    for object in [
        "- {objectName: t, secretPath: auth/token/lookup-self, secretKey: id}",
        "- {objectName: t, secretPath: auth/token/revoke-self, method: PUT}",
        "- {objectName: t, secretPath: cubbyhole/, method: LIST}",
        "- {objectName: t, secretPath: team/cubbyhole/a}",
    ] {
        stage
            .daemon
            .assert_mount_error(&stage.sharing_pod().with_objects(object), Cause::TokenSharingNotAllowed, &["\"t\""])
            .await;
    }
    let allowed = LifetimeFixture::new(&["--allow-shared-token"]).await;
    let (one, two) = (allowed.sharing_pod(), allowed.sharing_pod());
    let object = "- {objectName: t, type: token}";
    assert_eq!(
        allowed.daemon.mount_files(&one.with_objects(object)).await["t"],
        allowed.daemon.mount_files(&two.with_objects(object)).await["t"]
    );
}

#[tokio::test]
async fn shared_session_rotates_once_for_all_pods() {
    let times = json!({"default_ttl": "5s", "max_ttl": "7s"});
    let stage = LifetimeFixture::with_ttls(&[], times, json!({"token_ttl": "1h"})).await;
    let pods = [stage.sharing_pod(), stage.sharing_pod(), stage.sharing_pod()];
    let (begun, mut users) = (Instant::now(), BTreeSet::new());
    while begun.elapsed() < Duration::from_secs(10) {
        for had in join_all(pods.iter().map(|pod| stage.mount(pod))).await {
            log_in(&had.0, &had.1).await.unwrap();
            users.insert(had);
        }
        sleep(Duration::from_millis(500)).await;
    }
    assert!(users.len() >= 2, "{}", users.len());
    assert_eq!((stage.count_logins(), stage.count_credential_requests()), (1, users.len()));
}

#[tokio::test]
async fn shared_session_has_one_status_entry() {
    let stage = LifetimeFixture::new(&[]).await;
    let pods = [stage.sharing_pod(), stage.sharing_pod()];
    for pod in &pods {
        stage.mount(pod).await;
    }
    let status = stage.status().await;
    let sessions = status["sessions"].as_array().unwrap();
    assert_eq!(sessions.len(), 1, "{status}");
    assert_eq!((&sessions[0]["pod"], &sessions[0]["pods"]), (&json!("*"), &json!(2)));
    stage.api.delete_pod(&pods[0].namespace, &pods[0].name);
    wait_until("one pod is left", async || stage.status().await["sessions"][0]["pods"] == json!(1)).await;
}

#[tokio::test]
async fn shared_session_drops_volume_of_pod_deleted_in_mount() {
    let stage = LifetimeFixture::new(&[]).await;
    stage.mount(&stage.sharing_pod()).await;
    let secret = format!("{}/data/db", stage.tenant.kv);
    let pod =
        stage.sharing_pod().with_objects(format!("- {{objectName: pass, secretPath: {secret}, secretKey: pass}}\n"));
    let gate = Gate::new();
    stage.vault.next(1, "GET", &secret, Fault::HoldRequest(gate.clone()));
    let (mounted, ()) = tokio::join!(stage.daemon.mount(pod.mount_call()), async {
        stage.vault.wait_for(1, "GET", &secret).await;
        stage.api.delete_pod(&pod.namespace, &pod.name);
        wait_until("one pod is left", async || stage.status().await["sessions"][0]["pods"] == json!(1)).await;
        gate.open();
    });
    mounted.unwrap();
    let report = stage.status().await;
    assert_eq!(report["sessions"][0]["volumes"].as_array().unwrap().len(), 1, "{report}");
}
