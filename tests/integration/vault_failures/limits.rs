//! Request counts and concurrency limits.

use std::{pin::pin, time::Duration};

use futures_util::future::join_all;
use serde_json::json;
use vaultmount::{error::Cause, provider::client::Client};

use super::{FailureFixture, SECRET, advance, for_each_case, secret_pod, single_file, tenant_with_secret};
use crate::admin_endpoints::{free_address, get};
use crate::support::{
    bao::Tenant,
    clock::DEFAULT_REFRESH_INTERVAL,
    daemon::Daemon,
    database::DatabaseEngine,
    fault_proxy::{Fault, FaultProxy, Gate, respond, vault_error},
    pod::Pod,
};

/// Returns `count` objects as YAML, each with the path from `path`.
fn objects_yaml(count: usize, path: impl Fn(usize) -> String) -> String {
    let object = |i| format!("- {{objectName: o{i}, secretPath: {}, secretKey: pass}}", path(i));
    (0..count).map(object).collect::<Vec<_>>().join("\n")
}

/// The pod of [`secret_pod`] in another Kubernetes namespace.
fn secret_pod_in(tenant: &Tenant, namespace: &str) -> Pod {
    let mut pod = secret_pod(tenant);
    namespace.clone_into(&mut pod.namespace);
    let token = pod.sign_token("vault", 600);
    pod.with_tokens(&[("vault", &token)])
}

#[tokio::test]
async fn equal_requests_are_coalesced_and_cached() {
    let stage = FailureFixture::new().await;
    let pod = stage.pod().with_objects(objects_yaml(10, |_| stage.secret_path()));
    assert_eq!(stage.daemon.mount(pod.mount_call()).await.unwrap().files.len(), 10);
    assert_eq!(
        (stage.vault.count("POST", &stage.login_path()), stage.vault.count("GET", &stage.secret_path())),
        (1, 1)
    );
    // Concurrent calls of one pod share the login and the fetch of stale secrets.
    advance(DEFAULT_REFRESH_INTERVAL).await;
    let calls = join_all((0..3).map(|_| stage.daemon.mount(pod.mount_call()))).await;
    assert!(calls.into_iter().all(|m| m.unwrap().files.len() == 10));
    assert_eq!(
        (stage.vault.count("POST", &stage.login_path()), stage.vault.count("GET", &stage.secret_path())),
        (1, 2)
    );
    // Fresh secrets are not fetched at all.
    advance(DEFAULT_REFRESH_INTERVAL / 2).await;
    assert_eq!(stage.daemon.mount(pod.mount_call()).await.unwrap().files.len(), 10);
    assert_eq!(stage.vault.count("GET", &stage.secret_path()), 2);
}

#[tokio::test]
async fn missing_secret_or_key_is_requested_once_per_mount() {
    let stage = FailureFixture::new().await;
    let kv = &stage.tenant.kv;
    let pod = stage.pod();
    stage.daemon.mount(pod.mount_call()).await.unwrap();
    // The other secret is valid and is not fetched again.
    let more = objects_yaml(2, |i| format!("{kv}/data/{}", ["db", "none"][i]));
    assert_eq!(stage.mount_error(&pod.clone().with_objects(more)).await.0, Cause::SecretMissing);
    let request_count = |name| stage.vault.count("GET", &format!("{kv}/data/{name}"));
    assert_eq!((request_count("none"), request_count("db")), (1, 1));
    // A missing key triggers one fetch, in case Vault has the key by now.
    let more = objects_yaml(2, |_| stage.secret_path()).replacen("pass", "new", 1);
    assert_eq!(stage.mount_error(&pod.clone().with_objects(more.clone())).await.0, Cause::KeyMissing);
    assert_eq!(request_count("db"), 2);
    stage.tenant.write_secret("db", json!({"pass": SECRET, "new": "n"})).await;
    assert_eq!(stage.daemon.mount(pod.with_objects(more).mount_call()).await.unwrap().files.len(), 2);
    assert_eq!(request_count("db"), 3);
}

#[tokio::test]
async fn max_in_flight_limits_concurrent_reads_per_endpoint() {
    let stage = FailureFixture::new().await;
    let kv = stage.tenant.kv.clone();
    for i in 0..30 {
        stage.tenant.write_secret(&format!("side/{i}"), json!({"pass": i.to_string()})).await;
    }
    let gate = Gate::new();
    stage.vault.always("GET", &format!("{kv}/data/side/"), Fault::HoldRequest(gate.clone()));
    let pod = stage.pod().with_objects(objects_yaml(30, |i| format!("{kv}/data/side/{i}")));
    let held = async {
        stage.vault.wait_for(16, "GET", &kv).await;
        stage.let_daemon_run().await;
        gate.open();
    };
    let (mounted, ()) = tokio::join!(stage.daemon.mount(pod.mount_call()), held);
    let contents: Vec<_> =
        mounted.unwrap().files.into_iter().map(|f| String::from_utf8(f.contents.to_vec()).unwrap()).collect();
    assert_eq!(contents, (0..30).map(|i| i.to_string()).collect::<Vec<_>>());
    assert_eq!((stage.vault.count("GET", &kv), stage.vault.max_concurrent(&kv)), (30, 16));
}

#[tokio::test]
async fn max_mutating_limits_requests_per_mount_path() {
    let stage = FailureFixture::new().await;
    let database = DatabaseEngine::for_tenant(&stage.tenant).await;
    let object = format!("- {{objectName: user, secretPath: {}, secretKey: username}}", database.path);
    let gate = Gate::new();
    stage.vault.always("GET", &database.path, Fault::HoldRequest(gate.clone()));
    let calls = join_all(
        (0..12).map(|_| stage.daemon.mount(Pod::for_tenant(&stage.tenant).with_objects(&object).mount_call())),
    );
    let held = async {
        stage.vault.wait_for(4, "GET", &database.path).await;
        assert_eq!(single_file(&stage.daemon.mount(stage.pod().mount_call()).await.unwrap()), SECRET);
        stage.let_daemon_run().await;
        gate.open();
    };
    let (mounted, ()) = tokio::join!(calls, held);
    let mut users: Vec<_> = mounted.into_iter().map(|m| single_file(&m.unwrap()).to_owned()).collect();
    users.sort();
    assert_eq!(database.users().await, users);
    assert_eq!((users.len(), stage.vault.max_concurrent(&database.path)), (12, 4));
}

#[tokio::test]
async fn path_suggestions_list_only_near_missing_required_paths() {
    let stage = FailureFixture::new().await;
    let kv = &stage.tenant.kv;
    let missing = objects_yaml(6, |i| format!("{kv}/data/none/{i}"));
    let optional = missing.replace('}', ", optional: true}");
    let lists = || stage.vault.count("LIST", "");
    for class in [stage.pod(), stage.pod().with_objects(optional)] {
        stage.daemon.mount(class.mount_call()).await.unwrap();
        assert_eq!(lists(), 0);
    }
    let (cause, text) = stage.mount_error(&stage.pod().with_objects(missing)).await;
    // Suggestions cover three of the paths, each with one list of the missing folder and one of its parent.
    assert_eq!((cause, lists(), text.matches("no folder").count()), (Cause::SecretMissing, 6, 3), "{text}");
}

#[tokio::test]
async fn engine_lookup_is_cached_for_10_minutes() {
    let stage = FailureFixture::new().await;
    let request_count = || stage.vault.count("GET", &format!("sys/internal/ui/mounts/{}", stage.tenant.kv));
    let mounted = join_all((0..12).map(|_| stage.daemon.mount(stage.pod().mount_call()))).await;
    assert!(mounted.iter().all(Result::is_ok));
    assert_eq!((request_count(), stage.vault.count("GET", &stage.secret_path())), (1, 12));
    advance(Duration::from_secs(590)).await;
    stage.daemon.mount(stage.pod().mount_call()).await.unwrap();
    assert_eq!(request_count(), 1);
    advance(Duration::from_secs(20)).await;
    stage.daemon.mount(stage.pod().mount_call()).await.unwrap();
    assert_eq!(request_count(), 2);
}

#[tokio::test]
async fn failed_engine_lookup_is_not_repeated_per_read() {
    let refusals = [
        vault_error(403, "permission denied"),
        respond(403, &[], "<html>not from here</html>"),
        respond(200, &[], "{}"),
    ];
    for_each_case(refusals, async |stage, refusal| {
        stage.vault.always("GET", "sys/", refusal);
        for _ in 0..3 {
            assert_eq!(single_file(&stage.daemon.mount(stage.pod().mount_call()).await.unwrap()), SECRET);
        }
        assert_eq!(stage.vault.count("GET", "sys/internal/"), 1);
    })
    .await;
}

#[tokio::test]
async fn max_mounts_rejects_excess_and_half_per_namespace() {
    let (tenant, vault) = (tenant_with_secret().await, FaultProxy::start().await);
    let daemon = Daemon::start_at(&vault.address, &["--max-mounts=4"]).await;
    let polled = secret_pod(&tenant);
    daemon.mount(polled.mount_call()).await.unwrap();
    let gate = Gate::new();
    vault.always("POST", "auth/", Fault::HoldRequest(gate.clone()));
    let of = |namespace: &str| secret_pod_in(&tenant, namespace);
    let mount = async |namespace: &str| {
        assert_eq!(single_file(&daemon.mount(of(namespace).mount_call()).await.unwrap()), SECRET, "{namespace}");
    };
    let full = async {
        vault.wait_for(1 + 4, "POST", "auth/").await;
        daemon
            .assert_mount_error(&of("fourth"), Cause::ProviderAtCapacity, &["4 mounts are under way on this node"])
            .await;
        // Requests that do not need the held path succeed.
        assert_eq!(single_file(&daemon.mount(polled.mount_call()).await.unwrap()), SECRET);
        Client::connect(&daemon.socket).await.unwrap().version().await.unwrap();
        gate.open();
    };
    let others = async {
        vault.wait_for(1 + 2, "POST", "auth/").await;
        daemon
            .assert_mount_error(&of("shop"), Cause::ProviderAtCapacity, &["2 mounts of namespace shop", "--max-mounts"])
            .await;
        tokio::join!(mount("other"), mount("third"), full);
    };
    tokio::join!(mount("shop"), mount("shop"), others);
    mount("shop").await;
}

/// A pod with ever-changing settings or roles in its classes does not use up other namespaces' limits.
#[tokio::test]
async fn max_sessions_rejects_excess_and_half_per_namespace() {
    let tenant = tenant_with_secret().await;
    let daemon = Daemon::start(&["--max-sessions=6"]).await;
    let of = |namespace: &str| secret_pod_in(&tenant, namespace);
    let shop = of("shop");
    let choosing = |n: usize| shop.clone().with_parameter("vaultTLSServerName", format!("vault-{n}"));
    // Failed logins release their places soon.
    for n in 0..300 {
        daemon.assert_mount_error(&choosing(n).with_parameter("roleName", "nobody"), Cause::RoleMissing, &[]).await;
    }
    for n in 0..3 {
        daemon.mount(choosing(n).mount_call()).await.unwrap();
    }
    daemon
        .assert_mount_error(&shop, Cause::ProviderAtCapacity, &["3 sessions of namespace shop", "--max-sessions"])
        .await;
    for namespace in ["other", "third", "fourth"] {
        daemon.mount(of(namespace).mount_call()).await.unwrap();
    }
    daemon.assert_mount_error(&of("fifth"), Cause::ProviderAtCapacity, &["6 sessions are open"]).await;
    daemon.mount(choosing(0).mount_call()).await.unwrap();
}

/// An endpoint in use is evicted only together with its sessions.
#[tokio::test]
async fn tenant_endpoints_are_limited_to_128_per_namespace() {
    let (tenant, metrics) = (tenant_with_secret().await, free_address());
    let daemon = Daemon::start(&[&format!("--metrics-addr={metrics}")]).await;
    let is_known = async || get(&format!("http://{metrics}/metrics")).await.1.contains("\nvaultmount_endpoint_up{");
    // The operator's own endpoint has had its health probe and has no sessions.
    while !is_known().await {
        tokio::task::yield_now().await;
    }
    let of = |namespace: &str| secret_pod_in(&tenant, namespace);
    let shop = of("shop");
    let choosing = |pod: &Pod, n: usize| pod.clone().with_parameter("vaultTLSServerName", format!("vault-{n}"));
    for n in 0..128 {
        daemon.mount(choosing(&shop, n).mount_call()).await.unwrap();
    }
    daemon
        .assert_mount_error(
            &choosing(&shop, 128),
            Cause::ProviderAtCapacity,
            &["128 different Vault endpoints", "namespace shop"],
        )
        .await;
    assert!(is_known().await, "the endpoint in use was evicted");
    for pod in [&shop, &of("other"), &choosing(&of("third"), 129), &choosing(&of("fourth"), 3)] {
        daemon.mount(pod.mount_call()).await.unwrap();
    }
}

#[tokio::test]
async fn max_mounts_permit_is_held_after_caller_cancels() {
    let (tenant, vault) = (tenant_with_secret().await, FaultProxy::start().await);
    let daemon = Daemon::start_at(&vault.address, &["--max-mounts=1"]).await;
    let gate = Gate::new();
    vault.always("POST", "auth/", Fault::HoldRequest(gate.clone()));
    {
        let mut given_up = pin!(daemon.mount(secret_pod(&tenant).mount_call()));
        tokio::select! {
            _ = &mut given_up => panic!("it is held"),
            () = vault.wait_for(1, "POST", "auth/") => {}
        }
    }
    daemon.assert_mount_error(&secret_pod(&tenant), Cause::ProviderAtCapacity, &["1 mounts are under way"]).await;
    gate.open();
    while daemon.mount(secret_pod(&tenant).mount_call()).await.is_err() {
        tokio::task::yield_now().await;
    }
}
