//! The end of a pod: what it had is revoked, and nothing of a living pod is.

use std::time::Duration;

use futures_util::future::join_all;
use serde_json::json;
use tokio::time::{sleep, timeout};
use vaultmount::error::Cause;

use super::{NODE, Stage, polls::certificates, until};
use crate::{
    kube_api::{KubeApi, pods::Expiry},
    support::{
        bao::root,
        clock::leap,
        database::log_in,
        faulty::{Fault, Gate, status},
        pod::Pod,
    },
};

impl Stage {
    /// Waits until a suspicion would have been looked into, and checks that these users are still there.
    async fn stays(&self, users: usize) {
        let before = self.api.lines().len();
        leap(Duration::from_secs(40)).await;
        sleep(Duration::from_millis(500)).await;
        let asked = self.api.lines().len() - before;
        assert_eq!(self.database.users().await.len(), users, "after {asked} requests");
        assert_eq!(self.vault.count("POST", "auth/token/revoke-self"), 0);
    }
}

#[tokio::test]
async fn a_pod_that_is_deleted_or_finished_leaves_nothing_and_others_stay() {
    let stage = Stage::new(&[]).await;
    let (deleted, finished, failed, lives) = (stage.pod(), stage.pod(), stage.pod(), stage.pod());
    for pod in [&deleted, &finished, &failed, &lives] {
        stage.mount(pod).await;
    }
    stage.api.delete_pod(&deleted.namespace, &deleted.name);
    stage.api.set_pod_phase(&finished.namespace, &finished.name, "Succeeded");
    stage.api.set_pod_phase(&failed.namespace, &failed.name, "Failed");
    until("one user is left", async || stage.database.users().await.len() == 1).await;
    let (username, password) = stage.mount(&lives).await;
    log_in(&username, &password).await.unwrap();
    assert_eq!(stage.logins(), 4);
}

#[tokio::test]
async fn a_certificate_that_is_leased_is_revoked_with_its_pod() {
    let stage = Stage::new(&[]).await;
    let class = certificates(&stage).await;
    let mount = format!("pki-{}", stage.tenant.policy);
    let role = json!({"allow_any_name": true, "key_type": "ec", "ttl": "240h", "generate_lease": true});
    root("POST", &format!("{mount}/roles/web"), role).await;
    let pod = stage.pod().objects(class);
    let first = stage.daemon.files(&pod).await;
    assert_eq!(stage.daemon.files(&pod).await, first);
    let listed = root("LIST", &format!("{mount}/certs"), json!(null)).await;
    let serials: Vec<&str> = listed["data"]["keys"].as_array().unwrap().iter().map(|s| s.as_str().unwrap()).collect();
    let revoked = async || {
        let ends = join_all(serials.iter().map(async |serial| {
            root("GET", &format!("{mount}/cert/{serial}"), json!(null)).await["data"]["revocation_time"].as_i64()
        }));
        ends.await.into_iter().filter(|end| *end > Some(0)).count()
    };
    // The engine's own, and one for two files and two mounts.
    assert_eq!((serials.len(), revoked().await), (2, 0));
    stage.api.delete_pod(&pod.namespace, &pod.name);
    until("it is revoked", async || revoked().await == 1).await;
}

#[tokio::test]
async fn a_deletion_timestamp_alone_is_no_end() {
    let stage = Stage::new(&[]).await;
    let pod = stage.pod();
    stage.mount(&pod).await;
    stage.api.begin_pod_deletion(&pod.namespace, &pod.name);
    stage.stays(1).await;
    stage.api.delete_pod(&pod.namespace, &pod.name);
    stage.database.empties().await;
}

#[tokio::test]
async fn a_pod_that_ends_during_its_first_mount_leaves_nothing_behind() {
    // PodEnded: whoever asked is told so.
    let stage = Stage::new(&[]).await;
    let (in_login, in_read) = (stage.pod(), stage.pod());
    let gate = Gate::new();
    stage.vault.next(1, "POST", "auth/", Fault::HoldAnswer(gate.clone()));
    let login = format!("auth/{}/login", stage.tenant.auth);
    let ends = async |pod: &Pod, seen: (usize, &str, &str), gate: &Gate| {
        stage.vault.saw(seen.0, seen.1, seen.2).await;
        let asked = stage.api.lines().len();
        stage.api.delete_pod(&pod.namespace, &pod.name);
        stage.api.until(|api| api.lines().len() > asked).await;
        sleep(Duration::from_millis(200)).await;
        gate.open();
    };
    let (refusal, ()) =
        tokio::join!(stage.daemon.refusal(in_login.call()), ends(&in_login, (1, "POST", &login), &gate));
    assert_eq!(refusal.0, Cause::PodEnded, "{}", refusal.1);

    let gate = Gate::new();
    stage.vault.next(1, "GET", &stage.database.path, Fault::HoldAnswer(gate.clone()));
    let (_, ()) =
        tokio::join!(stage.daemon.mount(in_read.call()), ends(&in_read, (1, "GET", &stage.database.path), &gate));
    stage.database.empties().await;
    until("both tokens are revoked", async || stage.vault.count("POST", "auth/token/revoke-self") == 2).await;
}

#[tokio::test]
async fn a_poll_that_comes_after_the_pods_end_is_cleared_away_too() {
    let stage = Stage::new(&[]).await;
    let pod = stage.pod();
    stage.mount(&pod).await;
    stage.api.delete_pod(&pod.namespace, &pod.name);
    stage.database.empties().await;
    stage.mount(&pod).await;
    leap(Duration::from_secs(40)).await;
    stage.database.empties().await;
}

#[tokio::test]
async fn a_pod_recreated_under_the_same_name_is_another_pod() {
    let stage = Stage::new(&[]).await;
    let old = stage.pod();
    let (user, _) = stage.mount(&old).await;
    let mut new = old.clone();
    new.uid += "-2";
    let token = new.token("vault", 600);
    new = new.pass(&[("vault", &token)]);
    stage.api.replace_pod(&new.namespace, &new.name, &new.uid);
    let (fresh, password) = stage.mount(&new).await;
    assert_ne!(user, fresh);
    until("the old user is gone", async || stage.database.users().await == [fresh.clone()]).await;
    log_in(&fresh, &password).await.unwrap();
}

#[tokio::test]
async fn a_watch_that_loses_its_history_or_lists_a_stale_state_revokes_no_living_pod() {
    let stage = Stage::new(&[]).await;
    // The list stays as it is now, without the pods.
    stage.api.stale_lists(None);
    let (lives, dies) = (stage.pod(), stage.pod());
    stage.mount(&lives).await;
    stage.mount(&dies).await;
    for expiry in [Expiry::Answer, Expiry::Event] {
        let lists = stage.lists();
        stage.api.forget_history(expiry);
        stage.api.expire_watches();
        until("it lists again", async || stage.lists() > lists).await;
        stage.stays(2).await;
    }
    // What went while nobody watched is found by the list.
    stage.api.hold();
    stage.api.delete_pod(&dies.namespace, &dies.name);
    stage.api.forget_history(Expiry::Event);
    stage.api.fresh_lists();
    stage.api.release();
    stage.api.expire_watches();
    leap(Duration::from_secs(40)).await;
    until("one user is left", async || stage.database.users().await.len() == 1).await;
    let (username, password) = stage.mount(&lives).await;
    log_in(&username, &password).await.unwrap();
}

impl Stage {
    /// How often the pods were listed.
    fn lists(&self) -> usize {
        self.api.seen().iter().filter(|seen| seen.path == "/api/v1/pods" && !seen.query.contains("watch=")).count()
    }
}

#[tokio::test]
async fn an_api_server_that_is_away_or_says_no_ends_nothing() {
    let stage = Stage::new(&[]).await;
    let pod = stage.pod();
    stage.mount(&pod).await;
    stage.api.hold();
    stage.api.drop_connections();
    stage.api.delete_pod(&pod.namespace, &pod.name);
    stage.stays(1).await;
    stage.api.release();
    leap(Duration::from_secs(40)).await;
    stage.database.empties().await;
}

#[tokio::test]
async fn without_the_right_to_watch_nothing_is_revoked() {
    for verb in ["list", "watch"] {
        let stage = Stage::without_right_to(verb).await;
        let pod = stage.pod();
        stage.mount(&pod).await;
        stage.api.delete_pod(&pod.namespace, &pod.name);
        // Also when it has asked so often that it lists again.
        for _ in 0..6 {
            stage.stays(1).await;
        }
    }
}

#[tokio::test]
async fn a_pod_of_whose_end_nobody_is_sure_is_not_renewed_for_ever() {
    let api = KubeApi::builder().deny("get", "pods");
    let stage = Stage::with(&[], json!({}), json!({"token_ttl": "1h"}), api, true).await;
    let (lives, gone) = (stage.pod(), stage.pod());
    for _ in 0..3 {
        stage.mount(&lives).await;
        stage.mount(&gone).await;
    }
    stage.api.delete_pod(&gone.namespace, &gone.name);
    until("it is asked for", async || stage.api.seen().iter().any(|seen| seen.path.ends_with(&gone.name))).await;
    for _ in 0..9 {
        leap(Duration::from_secs(20 * 60)).await;
        sleep(Duration::from_millis(300)).await;
    }
    // Once in the hour of --orphan-after, and every 40 minutes.
    let renewals = stage.renewals();
    assert!((4..=7).contains(&renewals), "{renewals}");
    assert_eq!(stage.vault.count("POST", "auth/token/revoke-self"), 0);
}

#[tokio::test]
async fn a_pod_that_could_not_be_read_and_is_listed_is_renewed_like_any() {
    let api = KubeApi::builder().deny("get", "pods");
    let stage = Stage::with(&[], json!({"default_ttl": "10h"}), json!({"token_ttl": "10h"}), api, true).await;
    let pod = Pod::of(&stage.tenant).objects(super::credential(&stage.database));
    stage.mount(&pod).await;
    leap(Duration::from_secs(20)).await;
    until("it is asked for", async || stage.api.seen().iter().any(|seen| seen.path.ends_with(&pod.name))).await;
    let lists = stage.lists();
    // No event tells of it.
    stage.api.hold();
    stage.api.expire_watches();
    stage.api.add_pod(NODE, &pod.namespace, &pod.name, &pod.uid);
    stage.api.release();
    until("it lists again", async || stage.lists() > lists).await;
    // What it listed is known when it watches from there.
    stage.api.until(|api| api.watches() > 0).await;
    for _ in 0..12 {
        leap(Duration::from_secs(3 * 3600)).await;
        sleep(Duration::from_millis(200)).await;
    }
    assert!(stage.renewals() >= 3, "{}", stage.renewals());
}

#[tokio::test]
async fn a_token_of_few_uses_is_not_revoked_while_its_last_use_makes_a_credential() {
    let stage = Stage::of(&[], json!({}), json!({"token_num_uses": 3})).await;
    let kv = format!("- {{objectName: kv, secretPath: {}/data/db, secretKey: pass}}\n", stage.tenant.kv);
    let pod = stage.pod().objects(kv.as_str());
    stage.daemon.files(&pod).await;
    leap(Duration::from_secs(200)).await;
    // Its last use makes a credential, slowly, while another volume of the pod logs in anew.
    let gate = Gate::new();
    stage.vault.next(1, "GET", &stage.database.path, Fault::HoldAnswer(gate.clone()));
    let other = pod.clone().objects(super::credential(&stage.database));
    let call = |pod: &Pod, volume: &str| {
        let mut call = pod.call();
        call.target_path = format!("/pods/{}/{volume}", pod.uid);
        call
    };
    let version = |n: u8| {
        let objects = kv.replace("secretKey", &format!("secretArgs: {{version: {n}}}, secretKey"));
        pod.clone().objects(objects)
    };
    let slow = stage.daemon.mount(call(&other, "b"));
    let meanwhile = async {
        stage.vault.saw(1, "GET", &stage.database.path).await;
        stage.daemon.files(&pod).await;
        // Another mount that asks Vault for something.
        stage.daemon.mount(call(&version(1), "c")).await.unwrap();
        sleep(Duration::from_millis(200)).await;
        gate.open();
    };
    let (files, ()) = tokio::join!(slow, meanwhile);
    assert_eq!(stage.logins(), 2);
    let files = files.unwrap().files;
    let [username, password] = ["username", "password"].map(|name| {
        let file = files.iter().find(|file| file.path == name).unwrap();
        String::from_utf8(file.contents.to_vec()).unwrap()
    });
    // And what it made is kept when the next mount looks for tokens without a use.
    stage.daemon.mount(call(&version(0), "d")).await.unwrap();
    stage.vault.saw(1, "POST", "auth/token/revoke-self").await;
    sleep(Duration::from_millis(500)).await;
    log_in(&username, &password).await.unwrap();
    assert_eq!(stage.vault.count("POST", "auth/token/revoke-self"), 1, "the second, under which nothing was leased");
}

#[tokio::test]
async fn tokens_of_few_uses_are_revoked_when_they_are_used_up_and_at_the_pods_end() {
    let stage = Stage::of(&["--refresh-interval=10s"], json!({}), json!({"token_num_uses": 2})).await;
    // One whose engine makes what it gives, and nothing that ends with a token.
    stage.database.fixed("fixed", "10h").await;
    let path = format!("{}/static-creds/fixed", stage.database.mount);
    stage.tenant.allow(&format!("path \"{path}\" {{ capabilities = [\"read\"] }}")).await;
    let secret = format!("- {{objectName: fixed, secretPath: {path}}}\n");
    let pod = stage.pod().objects(secret.as_str());
    let tokens = async || {
        let listed = root("LIST", &format!("sys/leases/lookup/auth/{}/login", stage.tenant.auth), json!(null)).await;
        listed["data"]["keys"].as_array().map_or(0, Vec::len)
    };
    stage.daemon.files(&stage.pod().objects(secret.as_str())).await;
    for _ in 0..4 {
        stage.daemon.files(&pod).await;
        // A revocation under way would seem to take as long.
        sleep(Duration::from_millis(300)).await;
        leap(Duration::from_secs(20)).await;
    }
    // Each mount clears away what it found used up: all but the last.
    stage.vault.saw(3, "POST", "auth/token/revoke-self").await;
    until("one of each pod is left", async || tokens().await == 2).await;
    // Also when mounts fail.
    stage.tenant.allow("path \"nothing\" { capabilities = [\"read\"] }").await;
    for _ in 0..4 {
        assert!(stage.daemon.mount(pod.call()).await.is_err());
        sleep(Duration::from_millis(300)).await;
    }
    until("hardly more are left", async || tokens().await <= 3).await;
    stage.api.delete_pod(&pod.namespace, &pod.name);
    until("the other pod's is left", async || tokens().await == 1).await;
}

#[tokio::test]
async fn what_a_class_names_no_more_lives_to_its_own_end_and_is_not_renewed() {
    let stage = Stage::of(&[], json!({}), json!({"token_ttl": "20m"})).await;
    let secret = format!("- {{objectName: kv, secretPath: {}/data/db, secretKey: pass}}\n", stage.tenant.kv);
    let (edited, moved) = (stage.pod(), stage.pod());
    stage.tenant.role("second", json!({"token_ttl": "20m"})).await;
    for pod in [&edited, &moved] {
        stage.mount(pod).await;
    }
    stage.daemon.files(&edited.objects(&secret)).await;
    stage.daemon.files(&moved.with("roleName", "second").objects(&secret)).await;
    let minutes = async |minutes| {
        for _ in 0..minutes / 7 {
            leap(Duration::from_secs(7 * 60)).await;
            sleep(Duration::from_millis(300)).await;
        }
    };
    minutes(56).await;
    // The first pod's token keeps its credential alive as long as that lives by itself; of the other's session nothing is used.
    let of_token = stage.vault.count("POST", "auth/token/renew-self");
    assert!((3..=5).contains(&of_token), "{of_token}");
    assert_eq!((stage.renewals(), stage.database.users().await.len()), (0, 2));
    minutes(7).await;
    let after = stage.vault.count("POST", "auth/token/renew-self");
    minutes(56).await;
    assert_eq!(stage.vault.count("POST", "auth/token/renew-self"), after);
}

#[tokio::test]
async fn a_revocation_that_fails_is_tried_again() {
    let stage = Stage::new(&[]).await;
    let pod = stage.pod();
    stage.mount(&pod).await;
    stage.vault.next(5, "POST", "auth/token/revoke-self", status(500, "internal error"));
    stage.vault.next(1, "POST", "auth/token/revoke-self", Fault::LoseRequest);
    stage.api.delete_pod(&pod.namespace, &pod.name);
    stage.vault.saw(1, "POST", "auth/token/revoke-self").await;
    until("it is tried again", async || {
        // Only the pauses are leapt over: a request under way would seem to take as long.
        sleep(Duration::from_millis(100)).await;
        leap(Duration::from_secs(5)).await;
        stage.vault.count("POST", "auth/token/revoke-self") >= 7
    })
    .await;
    stage.database.empties().await;
}

#[tokio::test]
async fn tokens_of_earlier_logins_are_revoked_with_the_pod() {
    let stage = Stage::new(&[]).await;
    let pod = stage.pod();
    stage.mount(&pod).await;
    // Another volume of the pod, under another role.
    stage.tenant.role("second", json!({})).await;
    let mut other = pod.clone().with("roleName", "second");
    let call = |pod: &Pod, volume: &str| {
        let mut call = pod.call();
        call.target_path = format!("/pods/{}/{volume}", pod.uid);
        call
    };
    stage.daemon.mount(call(&other, "b")).await.unwrap();
    assert_eq!((stage.logins(), stage.database.users().await.len()), (2, 2));
    // The class of that volume was edited: it logs in as the first role again, and what it had lives on.
    other = other.with("roleName", "app");
    stage.daemon.mount(call(&other, "b")).await.unwrap();
    assert_eq!((stage.logins(), stage.database.users().await.len()), (2, 2));
    stage.api.delete_pod(&pod.namespace, &pod.name);
    stage.database.empties().await;
}

#[tokio::test]
async fn a_token_whose_place_another_took_is_revoked_with_the_pod() {
    let stage = Stage::of(&[], json!({}), json!({"token_ttl": "30s", "token_explicit_max_ttl": "36s"})).await;
    let pod = stage.pod();
    let (old, _) = stage.mount(&pod).await;
    // Renewals of this process's time show the maximum to it; at Vault's side hardly any time passes.
    until("the pod has another user", async || {
        leap(Duration::from_secs(2)).await;
        sleep(Duration::from_millis(100)).await;
        stage.mount(&pod).await.0 != old
    })
    .await;
    assert_eq!((stage.logins(), stage.database.users().await.len()), (2, 2));
    stage.api.delete_pod(&pod.namespace, &pod.name);
    until("both tokens are revoked", async || stage.vault.count("POST", "auth/token/revoke-self") == 2).await;
    stage.database.empties().await;
}

#[tokio::test]
async fn a_pod_of_which_nothing_can_be_read_keeps_what_it_has() {
    let stage = Stage::reading(KubeApi::builder().deny("get", "pods")).await;
    stage.api.stale_lists(None);
    let (lives, gone) = (stage.pod(), stage.pod());
    stage.mount(&lives).await;
    stage.mount(&gone).await;
    stage.api.delete_pod(&gone.namespace, &gone.name);
    stage.stays(2).await;
}

#[tokio::test]
async fn revoking_all_leaves_nothing_and_refuses_mounts() {
    let stage = Stage::new(&[]).await;
    let pods: Vec<Pod> = (0..20).map(|_| stage.pod()).collect();
    join_all(pods.iter().map(|pod| stage.mount(pod))).await;
    let status = stage.daemon.socket.with_extension("status");
    let args = ["revoke", "--all", "--socket", status.to_str().unwrap(), "-ojson"];
    let output = crate::support::daemon::program(&args).output().await.unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{said} {}", String::from_utf8_lossy(&output.stderr));
    let said: serde_json::Value = serde_json::from_str(&said).unwrap();
    assert_eq!((&said["tokens"], &said["failed"]), (&json!(20), &json!([])));
    stage.database.empties().await;
    stage.daemon.refuses(&pods[0], Cause::Closed, &["restart it"]).await;
    assert_eq!(stage.logins(), 20);
}

#[tokio::test]
async fn stopping_revokes_nothing() {
    let Stage { tenant: _tenant, database, vault: _vault, api, daemon, _folder } = {
        let stage = Stage::new(&[]).await;
        let pod = stage.pod();
        stage.mount(&pod).await;
        stage
    };
    timeout(Duration::from_secs(10), daemon.stop()).await.unwrap();
    drop(api);
    assert_eq!(database.users().await.len(), 1);
}

#[tokio::test]
#[ignore = "takes half a minute of both cores: make soak"]
async fn a_thousand_pods_come_and_go() {
    let stage = Stage::new(&["--max-creating=16"]).await;
    let secret = format!("- {{objectName: kv, secretPath: {}/data/db, secretKey: pass}}\n", stage.tenant.kv);
    let pods: Vec<Pod> = (0..1000).map(|_| stage.pod().objects(&secret)).collect();
    for some in pods.chunks(50) {
        join_all(some.iter().map(|pod| stage.daemon.files(pod))).await;
    }
    assert_eq!(stage.logins(), 1000);
    let tokens = async || {
        let listed = root("LIST", &format!("sys/leases/lookup/auth/{}/login", stage.tenant.auth), json!(null)).await;
        listed["data"]["keys"].as_array().map_or(0, Vec::len)
    };
    assert_eq!(tokens().await, 1000);
    for pod in &pods[1..] {
        stage.api.delete_pod(&pod.namespace, &pod.name);
    }
    until("one token is left", async || stage.vault.count("POST", "auth/token/revoke-self") == 999).await;
    until("one token is left", async || tokens().await == 1).await;
    assert_eq!(stage.daemon.files(&pods[0]).await["kv"], "s3cret");
    assert_eq!(stage.logins(), 1000);
}
