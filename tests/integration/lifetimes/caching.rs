//! Caching: polls send no request to Vault while the pod's secrets are fresh.

use std::time::Duration;

use futures_util::future::join_all;
use serde_json::json;
use tokio::time::sleep;
use vaultmount::error::Cause;

use super::{LifetimeFixture, credential_objects, wait_until};
use crate::{
    kube_api::KubeApi,
    support::{
        bao::root_request,
        clock::advance,
        daemon::Daemon,
        fault_proxy::{Fault, vault_error},
        pod::Pod,
        vault_health,
    },
};

/// Creates an engine that issues certificates of ten days, and returns the objects for one.
pub(super) async fn certificate_objects(stage: &LifetimeFixture) -> String {
    let mount = format!("pki-{}", stage.tenant.policy);
    root_request("POST", &format!("sys/mounts/{mount}"), json!({"type": "pki", "config": {"max_lease_ttl": "8760h"}}))
        .await;
    root_request("POST", &format!("{mount}/root/generate/internal"), json!({"common_name": "ca", "key_type": "ec"}))
        .await;
    let role = json!({"allow_any_name": true, "key_type": "ec", "ttl": "240h", "no_store": false});
    root_request("POST", &format!("{mount}/roles/web"), role).await;
    let policy = format!(
        "path \"{}/*\" {{ capabilities = [\"read\"] }}\npath \"{}\" {{ capabilities = [\"read\"] }}\npath \"{mount}/issue/web\" {{ capabilities = [\"update\"] }}",
        stage.tenant.kv, stage.database.path
    );
    stage.tenant.set_policy(&policy).await;
    let object = |name: &str, key: &str| {
        format!(
            "- {{objectName: {name}, secretPath: {mount}/issue/web, method: PUT, secretArgs: {{common_name: web.example}}, secretKey: {key}}}\n"
        )
    };
    object("tls.crt", "certificate") + &object("tls.key", "private_key")
}

#[tokio::test]
async fn cached_polls_send_no_request_and_pods_end_revoked() {
    let stage = LifetimeFixture::new(&[]).await;
    let class = credential_objects(&stage.database)
        + &certificate_objects(&stage).await
        + &format!("- {{objectName: kv, secretPath: {}/data/db, secretKey: pass}}\n", stage.tenant.kv);
    let pods: Vec<Pod> = (0..10).map(|_| stage.pod().with_objects(&class)).collect();
    let first = join_all(pods.iter().map(|pod| stage.daemon.mount_files(pod))).await;
    let before = stage.count_requests();
    for _ in 0..9 {
        let again = join_all(pods.iter().map(|pod| stage.daemon.mount_files(pod))).await;
        assert_eq!(again, first);
    }
    assert_eq!(stage.count_requests(), before, "polls sent requests to Vault");
    let issued = stage.vault.count("PUT", "pki-");
    assert_eq!(
        (stage.count_logins(), issued, stage.count_credential_requests(), stage.database.users().await.len()),
        (10, 10, 10, 10)
    );
    for pod in &pods {
        stage.api.delete_pod(&pod.namespace, &pod.name);
    }
    stage.database.wait_until_no_users().await;
    wait_until("ten tokens are revoked", async || stage.vault.count("POST", "auth/token/revoke-self") == 10).await;
}

#[tokio::test]
async fn certificate_is_cached_beyond_token_ttl_without_pod_watch() {
    let api = KubeApi::builder().deny("list", "pods");
    let stage = LifetimeFixture::build(&[], json!({}), json!({"token_ttl": "20m"}), api, false).await;
    let pod = stage.pod().with_objects(certificate_objects(&stage).await);
    let first = stage.daemon.mount_files(&pod).await;
    for hours in [1, 1, 7] {
        for _ in 0..hours * 4 {
            advance(Duration::from_secs(15 * 60)).await;
            sleep(Duration::from_millis(5)).await;
        }
        assert_eq!(stage.daemon.mount_files(&pod).await, first, "after {hours} hours");
    }
    assert_eq!((stage.vault.count("PUT", "pki-"), stage.count_logins()), (1, 1));
    // A pod without a poll for longer is forgotten.
    for _ in 0..25 * 4 {
        advance(Duration::from_secs(15 * 60)).await;
        sleep(Duration::from_millis(5)).await;
    }
    stage.daemon.mount_files(&pod).await;
    assert_eq!((stage.vault.count("PUT", "pki-"), stage.count_logins()), (2, 2));
}

#[tokio::test]
async fn max_sessions_evicts_most_idle_pod_with_expired_token() {
    let api = KubeApi::builder().deny("list", "pods");
    let stage = LifetimeFixture::build(&["--max-sessions=4"], json!({}), json!({"token_ttl": "50m"}), api, false).await;
    let certificates = certificate_objects(&stage).await;
    let [first, second] = [(); 2].map(|()| stage.pod().with_objects(certificates.as_str()));
    for pod in [&first, &second] {
        stage.daemon.mount_files(pod).await;
        advance(Duration::from_secs(60)).await;
    }
    let other = stage.pod();
    for _ in 0..2 {
        // An idle pod is evicted only once its token has expired and cannot be revoked any more.
        stage.daemon.assert_mount_error(&other, Cause::ProviderAtCapacity, &["--max-sessions"]).await;
        advance(Duration::from_secs(40 * 60)).await;
        sleep(Duration::from_millis(5)).await;
    }
    stage.daemon.mount_files(&other).await;
    stage.daemon.mount_files(&second).await;
    assert_eq!(stage.vault.count("PUT", "pki-"), 2);
}

#[tokio::test]
async fn refresh_interval_of_flag_or_class_triggers_reread() {
    let stage = LifetimeFixture::new(&["--refresh-interval=1m"]).await;
    let secret = |interval: Option<&str>| {
        let pod = stage.pod();
        let pod = pod
            .with_objects(format!("- {{objectName: kv, secretPath: {}/data/db, secretKey: pass}}\n", stage.tenant.kv));
        match interval {
            Some(interval) => pod.with_parameter("refreshInterval", interval),
            None => pod,
        }
    };
    let reads = || stage.vault.count("GET", &format!("{}/data/db", stage.tenant.kv));
    let pods = [(secret(None), 60), (secret(Some("30s")), 30), (secret(Some("1s")), 10)];
    let never = secret(Some("never"));
    for (pod, _) in &pods {
        stage.daemon.mount_files(pod).await;
    }
    stage.daemon.mount_files(&never).await;
    stage.tenant.write_secret("db", json!({"pass": "new"})).await;
    for (pod, interval) in &pods {
        let before = reads();
        // The clock advances for all pods; this pod's interval began with the previous mount.
        stage.daemon.mount_files(pod).await;
        let fresh = reads() > before;
        if !fresh {
            advance(Duration::from_secs(interval - 2)).await;
            stage.daemon.mount_files(pod).await;
            assert_eq!(reads(), before, "{interval}");
        }
        advance(Duration::from_secs(2)).await;
        assert_eq!(stage.daemon.mount_files(pod).await["kv"], "new", "{interval}");
    }
    advance(Duration::from_secs(100_000)).await;
    assert_eq!(stage.daemon.mount_files(&never).await["kv"], "s3cret");
}

#[tokio::test]
async fn refresh_interval_parameter_invalid_is_rejected() {
    let stage = LifetimeFixture::new(&[]).await;
    let text = stage
        .daemon
        .assert_mount_error(
            &stage.pod().with_parameter("refreshInterval", "soon"),
            Cause::InvalidRequest,
            &["refreshInterval"],
        )
        .await;
    assert!(text.contains("neither a time like 30s, 5m or 1h nor never"), "{text}");
}

#[tokio::test]
async fn outage_serves_stale_poll_and_denial_does_not() {
    let stage = LifetimeFixture::new(&[]).await;
    let class = credential_objects(&stage.database)
        + &format!("- {{objectName: kv, secretPath: {}/data/db, secretKey: pass}}\n", stage.tenant.kv);
    let pod = stage.pod().with_objects(class);
    let first = stage.daemon.mount_files(&pod).await;
    advance(Duration::from_secs(130)).await;
    for fault in [vault_error(503, "no backend"), vault_error(500, "internal error"), Fault::DropRequest] {
        stage.vault.always("GET", "", fault);
        assert_eq!(stage.daemon.mount_files(&pod).await, first);
        vault_health::wait_until_down(&stage.daemon).await;
        stage.vault.clear_rules();
        vault_health::wait_until_up(&stage.daemon).await;
        // A server that has just passed a health probe is not probed again immediately.
        advance(Duration::from_secs(2)).await;
    }
    // A denial is not an outage.
    stage.tenant.set_policy("path \"nothing\" { capabilities = [\"read\"] }").await;
    stage.daemon.assert_mount_error(&pod, Cause::VaultPolicyDenied, &["kv"]).await;
}

#[tokio::test]
async fn key_missing_in_fresh_cached_secret_triggers_reread() {
    let stage = LifetimeFixture::new(&[]).await;
    let object =
        |key: &str| format!("- {{objectName: kv, secretPath: {}/data/db, secretKey: {key}}}\n", stage.tenant.kv);
    let pod = stage.pod().with_objects(object("pass"));
    stage.daemon.mount_files(&pod).await;
    stage.tenant.write_secret("db", json!({"pass": "s3cret", "new": "n3w"})).await;
    let edited = pod.clone().with_objects(object("new"));
    assert_eq!(stage.daemon.mount_files(&edited).await["kv"], "n3w");
}

#[tokio::test]
async fn static_credential_is_reread_at_its_rotation() {
    let stage = LifetimeFixture::new(&[]).await;
    let (mount, path) = (&stage.database.mount, format!("{}/static-creds/fixed", stage.database.mount));
    stage.database.create_static_role("fixed", "5s").await;
    let policy = format!("path \"{path}\" {{ capabilities = [\"read\"] }}");
    stage.tenant.set_policy(&policy).await;
    let object = |name| format!("- {{objectName: {name}, secretPath: {path}, secretKey: {name}}}\n");
    let pod =
        stage.pod().with_objects(object("username") + &object("password")).with_parameter("refreshInterval", "never");
    let reads = || stage.vault.count("GET", &path);
    let first = stage.daemon.mount_files(&pod).await;
    let mut last = first.clone();
    let mut passwords = 1;
    let begun = tokio::time::Instant::now();
    while passwords < 3 {
        assert!(begun.elapsed() < Duration::from_secs(25), "{mount} does not rotate");
        let files = stage.daemon.mount_files(&pod).await;
        if files != last {
            // The database accepts the credentials that a poll returns.
            crate::support::database::log_in(&files["username"], &files["password"]).await.unwrap();
            (last, passwords) = (files, passwords + 1);
            let before = reads();
            assert_eq!(stage.daemon.mount_files(&pod).await, last);
            assert_eq!(reads(), before, "read again though it was just rotated");
        }
        sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn polls_are_cached_without_kubernetes_api() {
    let stage = LifetimeFixture::new(&[]).await;
    let daemon = Daemon::start_at(&stage.vault.address, &[]).await;
    let pod = stage.pod();
    let first = daemon.mount_files(&pod).await;
    assert_eq!((daemon.mount_files(&pod).await, stage.count_credential_requests()), (first, 1));
}
