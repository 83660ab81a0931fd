//! What polls ask of Vault: nothing, while what the pod has is good.

use std::time::Duration;

use futures_util::future::join_all;
use serde_json::json;
use tokio::time::sleep;
use vaultmount::error::Cause;

use super::{Stage, credential, until};
use crate::{
    kube_api::KubeApi,
    support::{
        bao::root,
        clock::leap,
        daemon::Daemon,
        faulty::{Fault, status},
        pod::Pod,
        standing,
    },
};

/// An engine that issues certificates of ten days, and what a class says to get one.
pub(super) async fn certificates(stage: &Stage) -> String {
    let mount = format!("pki-{}", stage.tenant.policy);
    root("POST", &format!("sys/mounts/{mount}"), json!({"type": "pki", "config": {"max_lease_ttl": "8760h"}})).await;
    root("POST", &format!("{mount}/root/generate/internal"), json!({"common_name": "ca", "key_type": "ec"})).await;
    let role = json!({"allow_any_name": true, "key_type": "ec", "ttl": "240h", "no_store": false});
    root("POST", &format!("{mount}/roles/web"), role).await;
    let policy = format!(
        "path \"{}/*\" {{ capabilities = [\"read\"] }}\npath \"{}\" {{ capabilities = [\"read\"] }}\npath \"{mount}/issue/web\" {{ capabilities = [\"update\"] }}",
        stage.tenant.kv, stage.database.path
    );
    stage.tenant.allow(&policy).await;
    let object = |name: &str, key: &str| {
        format!(
            "- {{objectName: {name}, secretPath: {mount}/issue/web, method: PUT, secretArgs: {{common_name: web.example}}, secretKey: {key}}}\n"
        )
    };
    object("tls.crt", "certificate") + &object("tls.key", "private_key")
}

#[tokio::test]
async fn ten_pods_and_ten_polls_make_ten_of_everything_and_none_is_left() {
    let stage = Stage::new(&[]).await;
    let class = credential(&stage.database)
        + &certificates(&stage).await
        + &format!("- {{objectName: kv, secretPath: {}/data/db, secretKey: pass}}\n", stage.tenant.kv);
    let pods: Vec<Pod> = (0..10).map(|_| stage.pod().objects(&class)).collect();
    let first = join_all(pods.iter().map(|pod| stage.daemon.files(pod))).await;
    let before = stage.requests();
    for _ in 0..9 {
        let again = join_all(pods.iter().map(|pod| stage.daemon.files(pod))).await;
        assert_eq!(again, first);
    }
    assert_eq!(stage.requests(), before, "polls asked Vault");
    let issued = stage.vault.count("PUT", "pki-");
    assert_eq!((stage.logins(), issued, stage.created(), stage.database.users().await.len()), (10, 10, 10, 10));
    for pod in &pods {
        stage.api.delete_pod(&pod.namespace, &pod.name);
    }
    stage.database.empties().await;
    until("ten tokens are revoked", async || stage.vault.count("POST", "auth/token/revoke-self") == 10).await;
}

#[tokio::test]
async fn a_certificate_lasts_longer_than_its_token_though_nothing_tells_of_the_pod() {
    let api = KubeApi::builder().deny("list", "pods");
    let stage = Stage::with(&[], json!({}), json!({"token_ttl": "20m"}), api, false).await;
    let pod = stage.pod().objects(certificates(&stage).await);
    let first = stage.daemon.files(&pod).await;
    for hours in [1, 1, 7] {
        for _ in 0..hours * 4 {
            leap(Duration::from_secs(15 * 60)).await;
            sleep(Duration::from_millis(5)).await;
        }
        assert_eq!(stage.daemon.files(&pod).await, first, "after {hours} hours");
    }
    assert_eq!((stage.vault.count("PUT", "pki-"), stage.logins()), (1, 1));
    // A pod of which nobody hears for longer is forgotten.
    for _ in 0..25 * 4 {
        leap(Duration::from_secs(15 * 60)).await;
        sleep(Duration::from_millis(5)).await;
    }
    stage.daemon.files(&pod).await;
    assert_eq!((stage.vault.count("PUT", "pki-"), stage.logins()), (2, 2));
}

#[tokio::test]
async fn a_new_pod_has_the_place_of_the_most_silent_whose_tokens_are_over() {
    let api = KubeApi::builder().deny("list", "pods");
    let stage = Stage::with(&["--max-sessions=4"], json!({}), json!({"token_ttl": "50m"}), api, false).await;
    let certificates = certificates(&stage).await;
    let [first, second] = [(); 2].map(|()| stage.pod().objects(certificates.as_str()));
    for pod in [&first, &second] {
        stage.daemon.files(pod).await;
        leap(Duration::from_secs(60)).await;
    }
    let other = stage.pod();
    for _ in 0..2 {
        // Silent for long, but its token can be revoked; and then it cannot.
        stage.daemon.refuses(&other, Cause::Overloaded, &["--max-sessions"]).await;
        leap(Duration::from_secs(40 * 60)).await;
        sleep(Duration::from_millis(5)).await;
    }
    stage.daemon.files(&other).await;
    stage.daemon.files(&second).await;
    assert_eq!(stage.vault.count("PUT", "pki-"), 2);
}

#[tokio::test]
async fn plain_secrets_are_read_again_when_the_class_says() {
    let stage = Stage::new(&["--refresh-interval=1m"]).await;
    let secret = |interval: Option<&str>| {
        let pod = stage.pod();
        let pod =
            pod.objects(format!("- {{objectName: kv, secretPath: {}/data/db, secretKey: pass}}\n", stage.tenant.kv));
        match interval {
            Some(interval) => pod.with("refreshInterval", interval),
            None => pod,
        }
    };
    let reads = || stage.vault.count("GET", &format!("{}/data/db", stage.tenant.kv));
    let pods = [(secret(None), 60), (secret(Some("30s")), 30), (secret(Some("1s")), 10)];
    let never = secret(Some("never"));
    for (pod, _) in &pods {
        stage.daemon.files(pod).await;
    }
    stage.daemon.files(&never).await;
    stage.tenant.put("db", json!({"pass": "new"})).await;
    for (pod, interval) in &pods {
        let before = reads();
        // Time goes on for all pods; the mount before began this one's.
        stage.daemon.files(pod).await;
        let fresh = reads() > before;
        if !fresh {
            leap(Duration::from_secs(interval - 2)).await;
            stage.daemon.files(pod).await;
            assert_eq!(reads(), before, "{interval}");
        }
        leap(Duration::from_secs(2)).await;
        assert_eq!(stage.daemon.files(pod).await["kv"], "new", "{interval}");
    }
    leap(Duration::from_secs(100_000)).await;
    assert_eq!(stage.daemon.files(&never).await["kv"], "s3cret");
}

#[tokio::test]
async fn an_interval_that_is_none_is_refused() {
    let stage = Stage::new(&[]).await;
    let text = stage
        .daemon
        .refuses(&stage.pod().with("refreshInterval", "soon"), Cause::InvalidRequest, &["refreshInterval"])
        .await;
    assert!(text.contains("neither a time like 30s, 5m or 1h nor never"), "{text}");
}

#[tokio::test]
async fn a_poll_while_vault_cannot_be_asked_keeps_what_the_pod_has() {
    let stage = Stage::new(&[]).await;
    let class = credential(&stage.database)
        + &format!("- {{objectName: kv, secretPath: {}/data/db, secretKey: pass}}\n", stage.tenant.kv);
    let pod = stage.pod().objects(class);
    let first = stage.daemon.files(&pod).await;
    leap(Duration::from_secs(130)).await;
    for fault in [status(503, "no backend"), status(500, "internal error"), Fault::LoseRequest] {
        stage.vault.every("GET", "", fault);
        assert_eq!(stage.daemon.files(&pod).await, first);
        standing::until_down(&stage.daemon).await;
        stage.vault.heal();
        standing::until_up(&stage.daemon).await;
        // A server that was just found well is not asked at once.
        leap(Duration::from_secs(2)).await;
    }
    // A verdict is no outage.
    stage.tenant.allow("path \"nothing\" { capabilities = [\"read\"] }").await;
    stage.daemon.refuses(&pod, Cause::Denied, &["kv"]).await;
}

#[tokio::test]
async fn what_was_mended_in_vault_is_seen_by_the_next_poll_though_the_answer_is_fresh() {
    let stage = Stage::new(&[]).await;
    let object =
        |key: &str| format!("- {{objectName: kv, secretPath: {}/data/db, secretKey: {key}}}\n", stage.tenant.kv);
    let pod = stage.pod().objects(object("pass"));
    stage.daemon.files(&pod).await;
    stage.tenant.put("db", json!({"pass": "s3cret", "new": "n3w"})).await;
    let edited = pod.clone().objects(object("new"));
    assert_eq!(stage.daemon.files(&edited).await["kv"], "n3w");
}

#[tokio::test]
async fn a_static_credential_is_read_again_at_its_rotation() {
    let stage = Stage::new(&[]).await;
    let (mount, path) = (&stage.database.mount, format!("{}/static-creds/fixed", stage.database.mount));
    stage.database.fixed("fixed", "5s").await;
    let policy = format!("path \"{path}\" {{ capabilities = [\"read\"] }}");
    stage.tenant.allow(&policy).await;
    let object = |name| format!("- {{objectName: {name}, secretPath: {path}, secretKey: {name}}}\n");
    let pod = stage.pod().objects(object("username") + &object("password")).with("refreshInterval", "never");
    let reads = || stage.vault.count("GET", &path);
    let first = stage.daemon.files(&pod).await;
    let mut last = first.clone();
    let mut passwords = 1;
    let begun = tokio::time::Instant::now();
    while passwords < 3 {
        assert!(begun.elapsed() < Duration::from_secs(25), "{mount} does not rotate");
        let files = stage.daemon.files(&pod).await;
        if files != last {
            // What a poll brings is what the database takes.
            crate::support::database::log_in(&files["username"], &files["password"]).await.unwrap();
            (last, passwords) = (files, passwords + 1);
            let before = reads();
            assert_eq!(stage.daemon.files(&pod).await, last);
            assert_eq!(reads(), before, "read again though it was just rotated");
        }
        sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn a_daemon_without_a_cluster_serves_from_what_it_has_too() {
    let stage = Stage::new(&[]).await;
    let daemon = Daemon::at(&stage.vault.address, &[]).await;
    let pod = stage.pod();
    let first = daemon.files(&pod).await;
    assert_eq!((daemon.files(&pod).await, stage.created()), (first, 1));
}
