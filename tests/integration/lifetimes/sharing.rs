//! `tokenScope: serviceAccount`: pods of one service account have one session, and what is leased under it.

use std::{collections::BTreeSet, time::Duration};

use futures_util::future::join_all;
use serde_json::json;
use tokio::time::{Instant, sleep};
use vaultmount::error::Cause;

use super::{Stage, until};
use crate::support::{
    clock::leap,
    database::log_in,
    faulty::{Fault, Gate},
    pod::Pod,
};

impl Stage {
    /// A pod of a class whose pods share.
    fn sharing(&self) -> Pod {
        self.pod().with("tokenScope", "serviceAccount")
    }
}

#[tokio::test]
async fn a_hundred_pods_of_one_service_account_have_one_user_until_the_last_ends() {
    let stage = Stage::new(&[]).await;
    let pods: Vec<Pod> = (0..100).map(|_| stage.sharing()).collect();
    let users: BTreeSet<_> = join_all(pods.iter().map(|pod| stage.mount(pod))).await.into_iter().collect();
    assert_eq!((users.len(), stage.logins(), stage.created()), (1, 1, 1));
    let requests = stage.requests();
    for pod in &pods {
        stage.mount(pod).await;
    }
    assert_eq!(stage.requests(), requests);
    let (last, others) = pods.split_last().unwrap();
    for pod in others {
        stage.api.delete_pod(&pod.namespace, &pod.name);
    }
    leap(Duration::from_secs(40)).await;
    sleep(Duration::from_millis(500)).await;
    let (username, password) = stage.mount(last).await;
    log_in(&username, &password).await.unwrap();
    assert_eq!((stage.created(), stage.vault.count("POST", "auth/token/revoke-self")), (1, 0));
    stage.api.delete_pod(&last.namespace, &last.name);
    stage.database.empties().await;
    assert_eq!(stage.vault.count("POST", "auth/token/revoke-self"), 1);
    // The next begins anew.
    let next = stage.sharing();
    stage.mount(&next).await;
    assert_eq!((stage.logins(), stage.created()), (2, 2));
}

#[tokio::test]
async fn nobody_shares_who_is_not_of_the_same_service_account_or_did_not_ask_to() {
    let stage = Stage::new(&[]).await;
    let of = |uid: &str| {
        let mut pod = stage.sharing();
        uid.clone_into(&mut pod.service_account_uid);
        let token = pod.token("vault", 600);
        pod.pass(&[("vault", &token)])
    };
    let mut other = stage.sharing();
    other.service_account = "other".into();
    let token = other.token("vault", 600);
    let other = other.pass(&[("vault", &token)]);
    let pods = [of("1"), of("2"), of("1"), other, stage.pod(), stage.pod().with("tokenScope", "pod")];
    let mut users = Vec::new();
    for pod in &pods {
        users.push(stage.mount(pod).await.0);
    }
    assert_eq!(users[0], users[2]);
    assert_eq!(users.iter().collect::<BTreeSet<_>>().len(), 5);
    assert_eq!(stage.logins(), 5);
}

#[tokio::test]
async fn a_token_that_is_not_the_pods_own_opens_no_session() {
    let stage = Stage::new(&[]).await;
    stage.mount(&stage.sharing()).await;
    // As whoever writes the pod's volumeAttributes could pass it.
    let stolen = stage.sharing().token("vault", 600);
    let mut thief = stage.sharing();
    thief.service_account = "thief".into();
    stage.daemon.refuses(&thief.clone().pass(&[("vault", &stolen)]), Cause::TokenIdentity, &["\"shop/app\""]).await;
    // And one that says nothing of itself.
    let error = stage.daemon.refuses(&thief.pass(&[("vault", "no.jwt")]), Cause::TokenIdentity, &["UID"]).await;
    assert!(!error.contains("no.jwt"), "{error}");
    let mut none = stage.sharing();
    none.tokens = None;
    stage.daemon.refuses(&none, Cause::TokenMissing, &["\"vault\""]).await;
    assert_eq!(stage.logins(), 1);
}

#[tokio::test]
async fn what_is_a_tokens_own_is_not_shared_unless_the_operator_allows() {
    let stage = Stage::new(&[]).await;
    for object in ["- {objectName: t, type: token}", "- {objectName: t, secretPath: cubbyhole/a, optional: true}"] {
        let pod = stage.sharing().objects(object);
        stage.daemon.refuses(&pod, Cause::TokenShared, &["\"t\"", "--allow-shared-token"]).await;
        stage.daemon.mount(pod.with("tokenScope", "pod").call()).await.unwrap();
    }
    let logins = stage.logins();
    assert_eq!(logins, 2);
    for object in [
        "- {objectName: t, secretPath: auth/token/lookup-self, secretKey: id}",
        "- {objectName: t, secretPath: auth/token/revoke-self, method: PUT}",
        "- {objectName: t, secretPath: cubbyhole/, method: LIST}",
        "- {objectName: t, secretPath: team/cubbyhole/a}",
    ] {
        stage.daemon.refuses(&stage.sharing().objects(object), Cause::TokenShared, &["\"t\""]).await;
    }
    let allowed = Stage::new(&["--allow-shared-token"]).await;
    let (one, two) = (allowed.sharing(), allowed.sharing());
    let object = "- {objectName: t, type: token}";
    assert_eq!(
        allowed.daemon.files(&one.objects(object)).await["t"],
        allowed.daemon.files(&two.objects(object)).await["t"]
    );
}

#[tokio::test]
async fn a_rotation_is_one_for_all() {
    let times = json!({"default_ttl": "5s", "max_ttl": "7s"});
    let stage = Stage::of(&[], times, json!({"token_ttl": "1h"})).await;
    let pods = [stage.sharing(), stage.sharing(), stage.sharing()];
    let (begun, mut users) = (Instant::now(), BTreeSet::new());
    while begun.elapsed() < Duration::from_secs(10) {
        for had in join_all(pods.iter().map(|pod| stage.mount(pod))).await {
            log_in(&had.0, &had.1).await.unwrap();
            users.insert(had);
        }
        sleep(Duration::from_millis(500)).await;
    }
    assert!(users.len() >= 2, "{}", users.len());
    assert_eq!((stage.logins(), stage.created()), (1, users.len()));
}

#[tokio::test]
async fn a_shared_session_is_told_as_one() {
    let stage = Stage::new(&[]).await;
    let pods = [stage.sharing(), stage.sharing()];
    for pod in &pods {
        stage.mount(pod).await;
    }
    let status = stage.told().await;
    let sessions = status["sessions"].as_array().unwrap();
    assert_eq!(sessions.len(), 1, "{status}");
    assert_eq!((&sessions[0]["pod"], &sessions[0]["pods"]), (&json!("*"), &json!(2)));
    stage.api.delete_pod(&pods[0].namespace, &pods[0].name);
    until("one pod is left", async || stage.told().await["sessions"][0]["pods"] == json!(1)).await;
}

#[tokio::test]
async fn a_pod_that_ends_while_it_is_mounted_leaves_no_volume_to_those_it_shared_with() {
    let stage = Stage::new(&[]).await;
    stage.mount(&stage.sharing()).await;
    let secret = format!("{}/data/db", stage.tenant.kv);
    let pod = stage.sharing().objects(format!("- {{objectName: pass, secretPath: {secret}, secretKey: pass}}\n"));
    let gate = Gate::new();
    stage.vault.next(1, "GET", &secret, Fault::Hold(gate.clone()));
    let (mounted, ()) = tokio::join!(stage.daemon.mount(pod.call()), async {
        stage.vault.saw(1, "GET", &secret).await;
        stage.api.delete_pod(&pod.namespace, &pod.name);
        until("one pod is left", async || stage.told().await["sessions"][0]["pods"] == json!(1)).await;
        gate.open();
    });
    mounted.unwrap();
    let told = stage.told().await;
    assert_eq!(told["sessions"][0]["volumes"].as_array().unwrap().len(), 1, "{told}");
}
