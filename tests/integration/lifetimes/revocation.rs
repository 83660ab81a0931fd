//! Revocation: a pod's tokens and leases are revoked when the pod ends, and never those of a living pod.

use std::time::Duration;

use futures_util::future::join_all;
use serde_json::json;
use tokio::time::{sleep, timeout};
use vaultmount::error::Cause;

use super::{LifetimeFixture, NODE, caching::certificate_objects, wait_until};
use crate::{
    kube_api::{KubeApi, pods::ExpirySignal},
    support::{
        bao::root_request,
        clock::advance,
        database::log_in,
        fault_proxy::{Fault, Gate, vault_error},
        pod::Pod,
    },
};

impl LifetimeFixture {
    /// Advances the clock, and waits for the requests that are due then. A slow one would exceed its deadline at the next
    /// advance.
    async fn advance_and_maintain(&self, duration: Duration) {
        advance(duration).await;
        sleep(Duration::from_millis(300)).await;
        self.vault.wait_until_idle("").await;
    }

    /// Waits longer than a check for ended pods takes, and checks that these users still exist.
    async fn assert_users_stay(&self, users: usize) {
        let before = self.api.request_lines().len();
        advance(Duration::from_secs(40)).await;
        sleep(Duration::from_millis(500)).await;
        let request_count = self.api.request_lines().len() - before;
        assert_eq!(self.database.users().await.len(), users, "after {request_count} requests");
        assert_eq!(self.vault.count("POST", "auth/token/revoke-self"), 0);
    }
}

#[tokio::test]
async fn pod_deleted_or_finished_is_revoked_and_others_stay() {
    let stage = LifetimeFixture::new(&[]).await;
    let (deleted, finished, failed, lives) = (stage.pod(), stage.pod(), stage.pod(), stage.pod());
    for pod in [&deleted, &finished, &failed, &lives] {
        stage.mount(pod).await;
    }
    stage.api.delete_pod(&deleted.namespace, &deleted.name);
    stage.api.set_pod_phase(&finished.namespace, &finished.name, "Succeeded");
    stage.api.set_pod_phase(&failed.namespace, &failed.name, "Failed");
    wait_until("one user is left", async || stage.database.users().await.len() == 1).await;
    let (username, password) = stage.mount(&lives).await;
    log_in(&username, &password).await.unwrap();
    assert_eq!(stage.count_logins(), 4);
}

#[tokio::test]
async fn leased_certificate_is_revoked_with_its_pod() {
    let stage = LifetimeFixture::new(&[]).await;
    let class = certificate_objects(&stage).await;
    let mount = format!("pki-{}", stage.tenant.policy);
    let role = json!({"allow_any_name": true, "key_type": "ec", "ttl": "240h", "generate_lease": true});
    root_request("POST", &format!("{mount}/roles/web"), role).await;
    let pod = stage.pod().with_objects(class);
    let first = stage.daemon.mount_files(&pod).await;
    assert_eq!(stage.daemon.mount_files(&pod).await, first);
    let listed = root_request("LIST", &format!("{mount}/certs"), json!(null)).await;
    let serials: Vec<&str> = listed["data"]["keys"].as_array().unwrap().iter().map(|s| s.as_str().unwrap()).collect();
    let revoked = async || {
        let ends = join_all(serials.iter().map(async |serial| {
            root_request("GET", &format!("{mount}/cert/{serial}"), json!(null)).await["data"]["revocation_time"]
                .as_i64()
        }));
        ends.await.into_iter().filter(|end| *end > Some(0)).count()
    };
    // The engine's own certificate, and one for two files and two mounts.
    assert_eq!((serials.len(), revoked().await), (2, 0));
    stage.api.delete_pod(&pod.namespace, &pod.name);
    wait_until("it is revoked", async || revoked().await == 1).await;
}

#[tokio::test]
async fn deletion_timestamp_alone_revokes_nothing() {
    let stage = LifetimeFixture::new(&[]).await;
    let pod = stage.pod();
    stage.mount(&pod).await;
    stage.api.begin_pod_deletion(&pod.namespace, &pod.name);
    stage.assert_users_stay(1).await;
    stage.api.delete_pod(&pod.namespace, &pod.name);
    stage.database.wait_until_no_users().await;
}

#[tokio::test]
async fn pod_deleted_during_first_mount_is_revoked() {
    // The pending calls fail with `PodEnded`.
    let stage = LifetimeFixture::new(&[]).await;
    let (in_login, in_read) = (stage.pod(), stage.pod());
    let gate = Gate::new();
    stage.vault.next(1, "POST", "auth/", Fault::HoldResponse(gate.clone()));
    let login = format!("auth/{}/login", stage.tenant.auth);
    let ends = async |pod: &Pod, seen: (usize, &str, &str), gate: &Gate| {
        stage.vault.wait_for(seen.0, seen.1, seen.2).await;
        let request_count = stage.api.request_lines().len();
        stage.api.delete_pod(&pod.namespace, &pod.name);
        stage.api.wait_until(|api| api.request_lines().len() > request_count).await;
        sleep(Duration::from_millis(200)).await;
        gate.open();
    };
    let (refusal, ()) =
        tokio::join!(stage.daemon.mount_error(in_login.mount_call()), ends(&in_login, (1, "POST", &login), &gate));
    assert_eq!(refusal.0, Cause::PodEnded, "{}", refusal.1);

    let gate = Gate::new();
    stage.vault.next(1, "GET", &stage.database.path, Fault::HoldResponse(gate.clone()));
    let (_, ()) =
        tokio::join!(stage.daemon.mount(in_read.mount_call()), ends(&in_read, (1, "GET", &stage.database.path), &gate));
    stage.database.wait_until_no_users().await;
    wait_until("both tokens are revoked", async || stage.vault.count("POST", "auth/token/revoke-self") == 2).await;
}

#[tokio::test]
async fn poll_after_pod_deletion_is_revoked_too() {
    let stage = LifetimeFixture::new(&[]).await;
    let pod = stage.pod();
    stage.mount(&pod).await;
    stage.api.delete_pod(&pod.namespace, &pod.name);
    stage.database.wait_until_no_users().await;
    stage.mount(&pod).await;
    advance(Duration::from_secs(40)).await;
    stage.database.wait_until_no_users().await;
}

#[tokio::test]
async fn pod_recreated_with_same_name_gets_new_session() {
    let stage = LifetimeFixture::new(&[]).await;
    let old = stage.pod();
    let (user, _) = stage.mount(&old).await;
    let mut new = old.clone();
    new.uid += "-2";
    let token = new.sign_token("vault", 600);
    new = new.with_tokens(&[("vault", &token)]);
    stage.api.replace_pod(&new.namespace, &new.name, &new.uid);
    let (fresh, password) = stage.mount(&new).await;
    assert_ne!(user, fresh);
    wait_until("the old user is dropped", async || stage.database.users().await == [fresh.clone()]).await;
    log_in(&fresh, &password).await.unwrap();
}

#[tokio::test]
async fn expired_watch_or_stale_list_revokes_no_living_pod() {
    let stage = LifetimeFixture::new(&[]).await;
    // Lists stay as they are now, without the pods.
    stage.api.serve_stale_lists(None);
    let (lives, dies) = (stage.pod(), stage.pod());
    stage.mount(&lives).await;
    stage.mount(&dies).await;
    for expiry in [ExpirySignal::Response, ExpirySignal::Event] {
        let lists = stage.count_pod_lists();
        stage.api.compact_history(expiry);
        stage.api.expire_watches();
        wait_until("the pods are listed again", async || stage.count_pod_lists() > lists).await;
        stage.assert_users_stay(2).await;
    }
    // The list reveals pods that ended while there was no watch.
    stage.api.pause();
    stage.api.delete_pod(&dies.namespace, &dies.name);
    stage.api.compact_history(ExpirySignal::Event);
    stage.api.serve_fresh_lists();
    stage.api.resume();
    stage.api.expire_watches();
    advance(Duration::from_secs(40)).await;
    wait_until("one user is left", async || stage.database.users().await.len() == 1).await;
    let (username, password) = stage.mount(&lives).await;
    log_in(&username, &password).await.unwrap();
}

impl LifetimeFixture {
    /// Returns the number of pod lists.
    fn count_pod_lists(&self) -> usize {
        self.api.requests().iter().filter(|seen| seen.path == "/api/v1/pods" && !seen.query.contains("watch=")).count()
    }
}

#[tokio::test]
async fn api_server_outage_revokes_nothing() {
    let stage = LifetimeFixture::new(&[]).await;
    let pod = stage.pod();
    stage.mount(&pod).await;
    stage.api.pause();
    stage.api.drop_connections();
    stage.api.delete_pod(&pod.namespace, &pod.name);
    stage.assert_users_stay(1).await;
    stage.api.resume();
    advance(Duration::from_secs(40)).await;
    stage.database.wait_until_no_users().await;
}

#[tokio::test]
async fn denied_pod_list_or_watch_revokes_nothing() {
    for verb in ["list", "watch"] {
        let stage = LifetimeFixture::with_denied_verb(verb).await;
        let pod = stage.pod();
        stage.mount(&pod).await;
        stage.api.delete_pod(&pod.namespace, &pod.name);
        // Repeated until vaultmount lists the pods again.
        for _ in 0..6 {
            stage.assert_users_stay(1).await;
        }
    }
}

#[tokio::test]
async fn orphan_after_stops_renewal_if_pod_get_is_denied() {
    let api = KubeApi::builder().deny("get", "pods");
    let stage = LifetimeFixture::build(&[], json!({}), json!({"token_ttl": "1h"}), api, true).await;
    let (lives, gone) = (stage.pod(), stage.pod());
    for _ in 0..3 {
        stage.mount(&lives).await;
        stage.mount(&gone).await;
    }
    stage.api.delete_pod(&gone.namespace, &gone.name);
    wait_until("the API server receives a read of the pod", async || {
        stage.api.requests().iter().any(|seen| seen.path.ends_with(&gone.name))
    })
    .await;
    for _ in 0..9 {
        stage.advance_and_maintain(Duration::from_secs(20 * 60)).await;
    }
    // The ended pod's lease is renewed once in the hour of `--orphan-after`, the living pod's lease every 40 minutes.
    let renewals = stage.count_lease_renewals();
    assert!((4..=7).contains(&renewals), "{renewals}");
    assert_eq!(stage.vault.count("POST", "auth/token/revoke-self"), 0);
}

#[tokio::test]
async fn listed_pod_with_denied_get_is_renewed() {
    let api = KubeApi::builder().deny("get", "pods");
    let stage =
        LifetimeFixture::build(&[], json!({"default_ttl": "10h"}), json!({"token_ttl": "10h"}), api, true).await;
    let pod = Pod::for_tenant(&stage.tenant).with_objects(super::credential_objects(&stage.database));
    stage.mount(&pod).await;
    advance(Duration::from_secs(20)).await;
    wait_until("the API server receives a read of the pod", async || {
        stage.api.requests().iter().any(|seen| seen.path.ends_with(&pod.name))
    })
    .await;
    let lists = stage.count_pod_lists();
    // No event reports the pod.
    stage.api.pause();
    stage.api.expire_watches();
    stage.api.add_pod(NODE, &pod.namespace, &pod.name, &pod.uid);
    stage.api.resume();
    wait_until("the pods are listed again", async || stage.count_pod_lists() > lists).await;
    // The client knows the listed pods when it watches from that version.
    stage.api.wait_until(|api| api.open_watches() > 0).await;
    for _ in 0..12 {
        stage.advance_and_maintain(Duration::from_secs(3 * 3600)).await;
    }
    assert!(stage.count_lease_renewals() >= 3, "{}", stage.count_lease_renewals());
}

#[tokio::test]
async fn token_num_uses_last_use_creating_lease_keeps_token() {
    let stage = LifetimeFixture::with_ttls(&[], json!({}), json!({"token_num_uses": 3})).await;
    let kv = format!("- {{objectName: kv, secretPath: {}/data/db, secretKey: pass}}\n", stage.tenant.kv);
    let pod = stage.pod().with_objects(kv.as_str());
    stage.daemon.mount_files(&pod).await;
    advance(Duration::from_secs(200)).await;
    // The token's last use creates a credential, slowly, while another volume of the pod logs in again.
    let gate = Gate::new();
    stage.vault.next(1, "GET", &stage.database.path, Fault::HoldResponse(gate.clone()));
    let other = pod.clone().with_objects(super::credential_objects(&stage.database));
    let call = |pod: &Pod, volume: &str| {
        let mut call = pod.mount_call();
        call.target_path = format!("/pods/{}/{volume}", pod.uid);
        call
    };
    let version = |n: u8| {
        let objects = kv.replace("secretKey", &format!("secretArgs: {{version: {n}}}, secretKey"));
        pod.clone().with_objects(objects)
    };
    let slow = stage.daemon.mount(call(&other, "b"));
    let meanwhile = async {
        stage.vault.wait_for(1, "GET", &stage.database.path).await;
        stage.daemon.mount_files(&pod).await;
        // Another mount that needs a request to Vault.
        stage.daemon.mount(call(&version(1), "c")).await.unwrap();
        sleep(Duration::from_millis(200)).await;
        gate.open();
    };
    let (files, ()) = tokio::join!(slow, meanwhile);
    assert_eq!(stage.count_logins(), 2);
    let files = files.unwrap().files;
    let [username, password] = ["username", "password"].map(|name| {
        let file = files.iter().find(|file| file.path == name).unwrap();
        String::from_utf8(file.contents.to_vec()).unwrap()
    });
    // The credential of that use is not revoked when the next mount looks for unused tokens.
    stage.daemon.mount(call(&version(0), "d")).await.unwrap();
    stage.vault.wait_for(1, "POST", "auth/token/revoke-self").await;
    sleep(Duration::from_millis(500)).await;
    log_in(&username, &password).await.unwrap();
    assert_eq!(stage.vault.count("POST", "auth/token/revoke-self"), 1, "the second, under which nothing was leased");
}

#[tokio::test]
async fn token_num_uses_exhausted_tokens_are_revoked() {
    let stage = LifetimeFixture::with_ttls(&["--refresh-interval=10s"], json!({}), json!({"token_num_uses": 2})).await;
    // A static role: the engine generates the password, and no lease ends with the token.
    stage.database.create_static_role("fixed", "10h").await;
    let path = format!("{}/static-creds/fixed", stage.database.mount);
    stage.tenant.set_policy(&format!("path \"{path}\" {{ capabilities = [\"read\"] }}")).await;
    let secret = format!("- {{objectName: fixed, secretPath: {path}}}\n");
    let pod = stage.pod().with_objects(secret.as_str());
    let tokens = async || {
        let listed =
            root_request("LIST", &format!("sys/leases/lookup/auth/{}/login", stage.tenant.auth), json!(null)).await;
        listed["data"]["keys"].as_array().map_or(0, Vec::len)
    };
    stage.daemon.mount_files(&stage.pod().with_objects(secret.as_str())).await;
    for _ in 0..4 {
        stage.daemon.mount_files(&pod).await;
        // A revocation under way would count the advance as its own duration.
        sleep(Duration::from_millis(300)).await;
        advance(Duration::from_secs(20)).await;
    }
    // Each mount revokes the used-up tokens that it finds: all but the last.
    stage.vault.wait_for(3, "POST", "auth/token/revoke-self").await;
    wait_until("one of each pod is left", async || tokens().await == 2).await;
    // The same when mounts fail.
    stage.tenant.set_policy("path \"nothing\" { capabilities = [\"read\"] }").await;
    for _ in 0..4 {
        assert!(stage.daemon.mount(pod.mount_call()).await.is_err());
        sleep(Duration::from_millis(300)).await;
    }
    wait_until("hardly more are left", async || tokens().await <= 3).await;
    stage.api.delete_pod(&pod.namespace, &pod.name);
    wait_until("the other pod's is left", async || tokens().await == 1).await;
}

#[tokio::test]
async fn unreferenced_secret_is_neither_renewed_nor_revoked() {
    let stage = LifetimeFixture::with_ttls(&[], json!({}), json!({"token_ttl": "20m"})).await;
    let secret = format!("- {{objectName: kv, secretPath: {}/data/db, secretKey: pass}}\n", stage.tenant.kv);
    let (edited, moved) = (stage.pod(), stage.pod());
    stage.tenant.write_role("second", json!({"token_ttl": "20m"})).await;
    for pod in [&edited, &moved] {
        stage.mount(pod).await;
    }
    stage.daemon.mount_files(&edited.with_objects(&secret)).await;
    stage.daemon.mount_files(&moved.with_parameter("roleName", "second").with_objects(&secret)).await;
    let minutes = async |minutes| {
        for _ in 0..minutes / 7 {
            stage.advance_and_maintain(Duration::from_secs(7 * 60)).await;
        }
    };
    minutes(56).await;
    // The first pod's token is renewed as long as its credential lives without renewals. No volume uses the session of
    // the other pod's first role.
    let of_token = stage.vault.count("POST", "auth/token/renew-self");
    assert!((3..=5).contains(&of_token), "{of_token}");
    assert_eq!((stage.count_lease_renewals(), stage.database.users().await.len()), (0, 2));
    minutes(7).await;
    let after = stage.vault.count("POST", "auth/token/renew-self");
    minutes(56).await;
    assert_eq!(stage.vault.count("POST", "auth/token/renew-self"), after);
}

#[tokio::test]
async fn failed_revocation_is_retried() {
    let stage = LifetimeFixture::new(&[]).await;
    let pod = stage.pod();
    stage.mount(&pod).await;
    stage.vault.next(5, "POST", "auth/token/revoke-self", vault_error(500, "internal error"));
    stage.vault.next(1, "POST", "auth/token/revoke-self", Fault::DropRequest);
    stage.api.delete_pod(&pod.namespace, &pod.name);
    stage.vault.wait_for(1, "POST", "auth/token/revoke-self").await;
    wait_until("the revocation is retried", async || {
        // The clock advances only in pauses: a request under way would count the advance as its own duration.
        sleep(Duration::from_millis(100)).await;
        advance(Duration::from_secs(5)).await;
        stage.vault.count("POST", "auth/token/revoke-self") >= 7
    })
    .await;
    stage.database.wait_until_no_users().await;
}

#[tokio::test]
async fn tokens_of_previous_roles_are_revoked_with_the_pod() {
    let stage = LifetimeFixture::new(&[]).await;
    let pod = stage.pod();
    stage.mount(&pod).await;
    // Another volume of the pod, with another role.
    stage.tenant.write_role("second", json!({})).await;
    let mut other = pod.clone().with_parameter("roleName", "second");
    let call = |pod: &Pod, volume: &str| {
        let mut call = pod.mount_call();
        call.target_path = format!("/pods/{}/{volume}", pod.uid);
        call
    };
    stage.daemon.mount(call(&other, "b")).await.unwrap();
    assert_eq!((stage.count_logins(), stage.database.users().await.len()), (2, 2));
    // The class of that volume was edited: it logs in with the first role again, and the secrets of the second role
    // stay valid.
    other = other.with_parameter("roleName", "app");
    stage.daemon.mount(call(&other, "b")).await.unwrap();
    assert_eq!((stage.count_logins(), stage.database.users().await.len()), (2, 2));
    stage.api.delete_pod(&pod.namespace, &pod.name);
    stage.database.wait_until_no_users().await;
}

#[tokio::test]
async fn replaced_token_is_revoked_with_the_pod() {
    let stage =
        LifetimeFixture::with_ttls(&[], json!({}), json!({"token_ttl": "30s", "token_explicit_max_ttl": "36s"})).await;
    let pod = stage.pod();
    let (old, _) = stage.mount(&pod).await;
    // Renewals at this process's clock show the maximum TTL; hardly any time passes at Vault.
    wait_until("the pod has another user", async || {
        advance(Duration::from_secs(2)).await;
        sleep(Duration::from_millis(100)).await;
        stage.mount(&pod).await.0 != old
    })
    .await;
    assert_eq!((stage.count_logins(), stage.database.users().await.len()), (2, 2));
    stage.api.delete_pod(&pod.namespace, &pod.name);
    wait_until("both tokens are revoked", async || stage.vault.count("POST", "auth/token/revoke-self") == 2).await;
    stage.database.wait_until_no_users().await;
}

#[tokio::test]
async fn denied_pod_get_and_stale_list_revoke_nothing() {
    let stage = LifetimeFixture::with_api_server(KubeApi::builder().deny("get", "pods")).await;
    stage.api.serve_stale_lists(None);
    let (lives, gone) = (stage.pod(), stage.pod());
    stage.mount(&lives).await;
    stage.mount(&gone).await;
    stage.api.delete_pod(&gone.namespace, &gone.name);
    stage.assert_users_stay(2).await;
}

#[tokio::test]
async fn revoke_all_revokes_everything_and_disables_mounts() {
    let stage = LifetimeFixture::new(&[]).await;
    let pods: Vec<Pod> = (0..20).map(|_| stage.pod()).collect();
    join_all(pods.iter().map(|pod| stage.mount(pod))).await;
    let status = stage.daemon.socket.with_extension("status");
    let args = ["revoke", "--all", "--socket", status.to_str().unwrap(), "-ojson"];
    let output = crate::support::daemon::vaultmount_command(&args).output().await.unwrap();
    let printed = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{printed} {}", String::from_utf8_lossy(&output.stderr));
    let printed: serde_json::Value = serde_json::from_str(&printed).unwrap();
    assert_eq!((&printed["tokens"], &printed["failed"]), (&json!(20), &json!([])));
    stage.database.wait_until_no_users().await;
    stage.daemon.assert_mount_error(&pods[0], Cause::AllRevoked, &["restart it"]).await;
    assert_eq!(stage.count_logins(), 20);
}

#[tokio::test]
async fn shutdown_revokes_nothing() {
    let LifetimeFixture { tenant: _tenant, database, vault: _vault, api, daemon, _folder } = {
        let stage = LifetimeFixture::new(&[]).await;
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
async fn thousand_pods_are_mounted_and_revoked() {
    let stage = LifetimeFixture::new(&["--max-mutating=16"]).await;
    let secret = format!("- {{objectName: kv, secretPath: {}/data/db, secretKey: pass}}\n", stage.tenant.kv);
    let pods: Vec<Pod> = (0..1000).map(|_| stage.pod().with_objects(&secret)).collect();
    for some in pods.chunks(50) {
        join_all(some.iter().map(|pod| stage.daemon.mount_files(pod))).await;
    }
    assert_eq!(stage.count_logins(), 1000);
    let tokens = async || {
        let listed =
            root_request("LIST", &format!("sys/leases/lookup/auth/{}/login", stage.tenant.auth), json!(null)).await;
        listed["data"]["keys"].as_array().map_or(0, Vec::len)
    };
    assert_eq!(tokens().await, 1000);
    for pod in &pods[1..] {
        stage.api.delete_pod(&pod.namespace, &pod.name);
    }
    wait_until("one token is left", async || stage.vault.count("POST", "auth/token/revoke-self") == 999).await;
    wait_until("one token is left", async || tokens().await == 1).await;
    assert_eq!(stage.daemon.mount_files(&pods[0]).await["kv"], "s3cret");
    assert_eq!(stage.count_logins(), 1000);
}
