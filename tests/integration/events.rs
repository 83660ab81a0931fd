//! Pod events: failures that Kubernetes does not report, each reported once and rate-limited.

use std::time::Duration;

use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::time::sleep;
use vaultmount::{
    error::Cause,
    provider::client::{Client, MountCall},
};

use crate::{
    kube_api::{Fault, KubeApi},
    support::{
        bao::Tenant,
        clock::advance,
        daemon::{Daemon, ProviderProcess},
        fault_proxy::{FaultProxy, respond, vault_error},
        pod::Pod,
    },
};

struct EventsFixture {
    tenant: Tenant,
    vault: FaultProxy,
    api: KubeApi,
    daemon: Daemon,
    folder: TempDir,
}

impl EventsFixture {
    async fn new(flags: &[&str]) -> Self {
        let tenant = Tenant::new().await;
        tenant.write_secret("db", json!({"pass": "s3cret"})).await;
        let (vault, api, folder) =
            (FaultProxy::start().await, KubeApi::builder().start().await, tempfile::tempdir().unwrap());
        std::fs::write(folder.path().join("kubeconfig"), api.kubeconfig("vaultmount", "t")).unwrap();
        let daemon = start_daemon(&vault, &folder, flags).await;
        Self { tenant, vault, api, daemon, folder }
    }

    /// Stops this process and starts another with the same state.
    async fn restart(self) -> Self {
        let Self { tenant, vault, api, daemon, folder } = self;
        daemon.stop().await;
        let daemon = start_daemon(&vault, &folder, &[]).await;
        Self { tenant, vault, api, daemon, folder }
    }

    fn pod(&self) -> Pod {
        let kv = &self.tenant.kv;
        let object = format!("- {{objectName: pass, secretPath: {kv}/data/db, secretKey: pass}}");
        let pod = Pod::for_tenant(&self.tenant).with_objects(object);
        self.api.add_pod("node-1", &pod.namespace, &pod.name, &pod.uid);
        pod
    }

    /// Waits until there are `count` events, and returns them.
    async fn wait_for_events(&self, count: usize) -> Vec<Value> {
        let looked = async {
            while self.api.events().len() < count {
                sleep(Duration::from_millis(5)).await;
            }
        };
        let _ = tokio::time::timeout(Duration::from_secs(5), looked).await;
        let events = self.api.events();
        assert_eq!(events.len(), count, "{events:#?}");
        events
    }

    /// Returns the number of event POSTs, without retries.
    fn count_event_posts(&self) -> usize {
        self.api.request_lines().iter().filter(|line| line.ends_with("/events")).count()
    }

    /// Advances past the pauses between attempts until there were `count` POSTs.
    async fn advance_until_posts(&self, count: usize) {
        for _ in 0..50 {
            if self.count_event_posts() >= count {
                break;
            }
            advance(Duration::from_secs(11)).await;
            sleep(Duration::from_millis(20)).await;
        }
        assert_eq!(self.count_event_posts(), count);
    }

    /// Checks that no more events follow.
    async fn assert_event_count(&self, count: usize) -> Vec<Value> {
        sleep(Duration::from_millis(200)).await;
        self.wait_for_events(count).await
    }
}

/// Starts a process that persists its state in the folder for its successor.
async fn start_daemon(vault: &FaultProxy, folder: &TempDir, flags: &[&str]) -> Daemon {
    let place = |flag: &str, name: &str| format!("--{flag}={}", folder.path().join(name).display());
    let (kubeconfig, state) = (place("kubeconfig", "kubeconfig"), place("state-dir", "state"));
    let own = [kubeconfig.as_str(), state.as_str(), "--node-name=node-1", "--refresh-interval=10s"];
    Daemon::start_at(&vault.address, &[&own, flags].concat()).await
}

fn pod_with_denied_secret(pod: &Pod) -> Pod {
    pod.clone().with_objects("- {objectName: x, secretPath: none/x, secretKey: x}")
}

fn reasons(events: &[Value]) -> Vec<&str> {
    events.iter().map(|event| event["reason"].as_str().unwrap()).collect()
}

#[tokio::test]
async fn repeated_mount_failure_bumps_count_of_one_event() {
    let stage = EventsFixture::new(&[]).await;
    let pod = stage.pod().with_parameter("roleName", "nobody");
    for _ in 0..5 {
        stage.daemon.assert_mount_error(&pod, Cause::RoleMissing, &[]).await;
    }
    let event = &stage.assert_event_count(1).await[0];
    assert_eq!((&event["reason"], &event["type"]), (&json!("VaultMountFailed"), &json!("Warning")));
    assert!(
        event["message"].as_str().unwrap().contains("[VM0041]")
            || event["message"].as_str().unwrap().contains("nobody")
    );
    let of = &event["involvedObject"];
    assert_eq!((&of["kind"], &of["name"], &of["uid"]), (&json!("Pod"), &json!(pod.name), &json!(pod.uid)));
    assert_eq!((&event["source"], &event["count"]), (&json!({"component": "vaultmount", "host": "node-1"}), &json!(1)));
    // A continuing failure increments the count of the existing event.
    advance(Duration::from_secs(301)).await;
    stage.daemon.assert_mount_error(&pod, Cause::RoleMissing, &[]).await;
    while stage.api.events()[0]["count"] != 6 {
        sleep(Duration::from_millis(5)).await;
    }
    stage.assert_event_count(1).await;
    // A successful mount sends no event requests.
    let before = stage.api.request_lines().len();
    stage.daemon.mount_files(&stage.pod()).await;
    stage.assert_event_count(1).await;
    assert_eq!(stage.api.request_lines().len(), before);
}

#[tokio::test]
async fn poll_failure_emits_events_unless_driver_reports() {
    let stage = EventsFixture::new(&[]).await;
    let pod = stage.pod();
    stage.daemon.mount_files(&pod).await;
    // Drivers up to 1.5.6 send the pod's object versions and report the failure themselves.
    let denied = pod_with_denied_secret(&pod);
    let versions = vec![("pass".to_owned(), "v".to_owned())];
    assert!(stage.daemon.mount(MountCall { versions, ..denied.mount_call() }).await.is_err());
    stage.assert_event_count(0).await;
    stage.daemon.assert_mount_error(&denied, Cause::VaultPolicyDenied, &[]).await;
    let invalid = pod.clone().with_objects("[");
    stage.daemon.assert_mount_error(&invalid, Cause::ObjectsYaml, &[]).await;
    stage.daemon.mount_files(&pod).await;
    let events = stage.assert_event_count(3).await;
    assert_eq!(reasons(&events), ["VaultRefreshFailed", "VaultClassInvalid", "VaultRefreshRecovered"]);
    assert_eq!(events[2]["type"], "Normal");
    // Failure and recovery soon after: the last event shows the current state.
    stage.daemon.assert_mount_error(&denied, Cause::VaultPolicyDenied, &[]).await;
    stage.daemon.mount_files(&pod).await;
    assert_eq!(reasons(&stage.assert_event_count(5).await)[3..], ["VaultRefreshFailed", "VaultRefreshRecovered"]);
}

#[tokio::test]
async fn event_write_is_retried_unless_permanent() {
    let stage = EventsFixture::new(&[]).await;
    let pod = stage.pod();
    stage.daemon.mount_files(&pod).await;
    stage.daemon.assert_mount_error(&pod_with_denied_secret(&pod), Cause::VaultPolicyDenied, &[]).await;
    stage.wait_for_events(1).await;
    // The recovery is reported as well, and no failure is forgotten before that.
    for fault in [Fault::Respond(500, String::new()), Fault::Respond(429, String::new())] {
        stage.api.fail_next(fault);
    }
    stage.daemon.mount_files(&pod).await;
    stage.advance_until_posts(4).await;
    assert_eq!(reasons(&stage.assert_event_count(2).await), ["VaultRefreshFailed", "VaultRefreshRecovered"]);
    // A response was lost: the existing event with this name is the same event.
    stage.api.fail_next(Fault::Respond(503, String::new()));
    stage.api.fail_next(Fault::Respond(409, json!({"reason": "AlreadyExists"}).to_string()));
    stage.daemon.assert_mount_error(&pod_with_denied_secret(&pod), Cause::VaultPolicyDenied, &[]).await;
    stage.advance_until_posts(6).await;
    let sent = stage.api.requests();
    let names: Vec<_> =
        sent.iter().filter(|s| s.path.ends_with("/events")).map(|s| &s.body["metadata"]["name"]).collect();
    assert_eq!(names[4], names[5]);
    stage.daemon.mount_files(&pod).await;
    assert_eq!(reasons(&stage.assert_event_count(3).await)[2..], ["VaultRefreshRecovered"]);
    // Permanent errors are not retried.
    stage.api.fail_next(Fault::Respond(422, String::new()));
    stage.daemon.assert_mount_error(&pod_with_denied_secret(&pod), Cause::VaultPolicyDenied, &[]).await;
    for _ in 0..5 {
        advance(Duration::from_secs(60)).await;
        sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(stage.count_event_posts(), 8);
}

#[tokio::test]
async fn stale_poll_after_failure_emits_no_recovery_event() {
    let stage = EventsFixture::new(&[]).await;
    let pod = stage.pod();
    stage.daemon.mount_files(&pod).await;
    stage.daemon.assert_mount_error(&pod_with_denied_secret(&pod), Cause::VaultPolicyDenied, &[]).await;
    stage.vault.always("GET", &stage.tenant.kv, vault_error(503, "it is tired"));
    advance(Duration::from_secs(11)).await;
    stage.daemon.mount_files(&pod).await;
    stage.assert_event_count(1).await;
}

#[tokio::test]
async fn recovery_event_is_emitted_once_after_restart() {
    let stage = EventsFixture::new(&[]).await;
    let (failed, kept, well) = (stage.pod(), stage.pod(), stage.pod());
    for pod in [&failed, &kept, &well] {
        stage.daemon.mount_files(pod).await;
    }
    stage.daemon.assert_mount_error(&pod_with_denied_secret(&failed), Cause::VaultPolicyDenied, &[]).await;
    stage.vault.always("GET", &stage.tenant.kv, vault_error(503, "it is tired"));
    advance(Duration::from_secs(11)).await;
    stage.daemon.mount_files(&kept).await;
    stage.wait_for_events(2).await;
    let stage = stage.restart().await;
    stage.vault.clear_rules();
    for pod in [&failed, &kept, &well] {
        stage.daemon.mount_files(pod).await;
    }
    let events = stage.assert_event_count(4).await;
    assert_eq!(reasons(&events)[2..], ["VaultRefreshRecovered", "VaultRefreshRecovered"]);
    let names: Vec<&Value> = events.iter().map(|event| &event["involvedObject"]["name"]).collect();
    assert_eq!(names, [&failed.name, &kept.name, &failed.name, &kept.name]);
    // The successor does not repeat it either.
    let stage = stage.restart().await;
    stage.daemon.mount_files(&failed).await;
    stage.assert_event_count(4).await;
}

#[tokio::test]
async fn allow_skip_verify_false_emits_vault_class_invalid() {
    let stage = EventsFixture::new(&["--allow-skip-verify=false"]).await;
    let pod = stage.pod();
    stage.daemon.mount_files(&pod).await;
    stage
        .daemon
        .assert_mount_error(&pod.clone().with_parameter("vaultEndpoint", "none"), Cause::EndpointUnknown, &[])
        .await;
    stage.daemon.mount_files(&pod).await;
    stage
        .daemon
        .assert_mount_error(&pod.clone().with_parameter("vaultSkipTLSVerify", "true"), Cause::SkipVerifyNotAllowed, &[])
        .await;
    // A pod that does not run yet gets events about its mount.
    stage
        .daemon
        .assert_mount_error(&stage.pod().with_parameter("vaultEndpoint", "none"), Cause::EndpointUnknown, &[])
        .await;
    let written = ["VaultClassInvalid", "VaultRefreshRecovered", "VaultClassInvalid", "VaultMountFailed"];
    assert_eq!(reasons(&stage.assert_event_count(4).await), written);
}

#[tokio::test]
async fn each_credential_emits_expiring_and_expired_events() {
    let stage = EventsFixture::new(&[]).await;
    let data = json!({"password": "p", "ttl": 30, "rotation_period": 3600});
    let body = json!({"request_id": "r", "lease_id": "", "lease_duration": 0, "renewable": false, "data": data});
    stage.vault.always("GET", "db/static-creds", respond(200, &[], body.to_string()));
    let object =
        |name: &str| format!("- {{objectName: {name}, secretPath: db/static-creds/{name}, secretKey: password}}");
    stage.daemon.mount_files(&stage.pod().with_objects([object("a"), object("b")].join("\n"))).await;
    advance(Duration::from_secs(21)).await;
    stage.wait_for_events(2).await;
    advance(Duration::from_secs(10)).await;
    let events = stage.assert_event_count(4).await;
    assert!(reasons(&events).iter().all(|reason| *reason == "VaultCredentialExpiring"));
    let message_contains = |event: &Value, what: &str| event["message"].as_str().unwrap().contains(what);
    for name in ["a", "b"] {
        let of: Vec<&Value> =
            events.iter().filter(|event| message_contains(event, &format!("db/static-creds/{name} "))).collect();
        assert!(
            of.len() == 2 && message_contains(of[0], "expires at") && message_contains(of[1], "expired at"),
            "{of:#?}"
        );
    }
}

#[tokio::test]
async fn stale_polls_emit_one_failed_and_one_recovered_event() {
    let stage = EventsFixture::new(&[]).await;
    let pod = stage.pod();
    stage.daemon.mount_files(&pod).await;
    stage.vault.always("GET", &stage.tenant.kv, vault_error(503, "it is tired"));
    for _ in 0..3 {
        advance(Duration::from_secs(11)).await;
        stage.daemon.mount_files(&pod).await;
    }
    let event = stage.assert_event_count(1).await[0].clone();
    assert_eq!(event["reason"], "VaultRefreshFailed");
    assert!(
        event["message"].as_str().unwrap().starts_with("Vault is unavailable, the pod keeps its current files: "),
        "{event}"
    );
    stage.vault.clear_rules();
    // Polls send requests to the server again once a probe has found it up.
    for _ in 0..20 {
        advance(Duration::from_secs(11)).await;
        stage.daemon.mount_files(&pod).await;
        sleep(Duration::from_millis(50)).await;
        if stage.api.events().len() > 1 {
            break;
        }
    }
    assert_eq!(reasons(&stage.assert_event_count(2).await), ["VaultRefreshFailed", "VaultRefreshRecovered"]);
}

/// The log deduplicator forgets everything at 4,096 volumes. Whether a recovery is reported must not depend on it.
#[tokio::test]
async fn recovery_event_survives_flood_of_log_deduplicator() {
    let stage = EventsFixture::new(&[]).await;
    let pod = stage.pod();
    stage.daemon.mount_files(&pod).await;
    stage.daemon.assert_mount_error(&pod_with_denied_secret(&pod), Cause::VaultPolicyDenied, &[]).await;
    assert_eq!(reasons(&stage.wait_for_events(1).await), ["VaultRefreshFailed"]);
    // Malformed requests name no pod: each is a failure of a volume of its own in the log, and none is an event.
    let flood = |n: usize| MountCall {
        attributes: "{}".into(),
        target_path: format!("/var/lib/kubelet/pods/{n}/volumes/kubernetes.io~csi/s/mount"),
        ..pod.mount_call()
    };
    for n in 0..4200 {
        assert!(stage.daemon.mount(flood(n)).await.is_err());
    }
    stage.daemon.mount_files(&pod).await;
    stage.daemon.mount_files(&pod).await;
    assert_eq!(reasons(&stage.assert_event_count(2).await), ["VaultRefreshFailed", "VaultRefreshRecovered"]);
}

#[tokio::test]
async fn events_of_many_pods_are_rate_limited() {
    let stage = EventsFixture::new(&[]).await;
    let pods: Vec<Pod> = (0..30).map(|_| stage.pod().with_parameter("roleName", "nobody")).collect();
    for pod in &pods {
        stage.daemon.assert_mount_error(pod, Cause::RoleMissing, &[]).await;
    }
    stage.assert_event_count(10).await;
    advance(Duration::from_secs(101)).await;
    stage.assert_event_count(20).await;
}

#[tokio::test]
async fn event_queue_is_fair_between_namespaces() {
    let stage = EventsFixture::new(&[]).await;
    for _ in 0..30 {
        stage
            .daemon
            .assert_mount_error(&stage.pod().with_parameter("roleName", "nobody"), Cause::RoleMissing, &[])
            .await;
    }
    stage.assert_event_count(10).await;
    let mut quiet = stage.pod().with_parameter("roleName", "nobody");
    quiet.namespace = "quiet".to_owned();
    let token = quiet.sign_token("vault", 600);
    stage.daemon.assert_mount_error(&quiet.with_tokens(&[("vault", &token)]), Cause::RoleMissing, &[]).await;
    advance(Duration::from_secs(101)).await;
    let events = stage.assert_event_count(20).await;
    let written: Vec<_> = events[10..].iter().map(|event| event["metadata"]["namespace"].as_str().unwrap()).collect();
    assert_eq!(written.iter().filter(|namespace| **namespace == "quiet").count(), 1, "{written:?}");
    assert_eq!(written[..2].iter().filter(|namespace| **namespace == "quiet").count(), 1, "{written:?}");
}

#[tokio::test]
async fn expired_queued_events_do_not_delay_new_ones() {
    let stage = EventsFixture::new(&[]).await;
    let refused = async |count: usize| {
        for _ in 0..count {
            stage
                .daemon
                .assert_mount_error(&stage.pod().with_parameter("roleName", "nobody"), Cause::RoleMissing, &[])
                .await;
        }
    };
    refused(200).await;
    stage.assert_event_count(10).await;
    // Waiting events are too old when the rate limit admits them. They are dropped and use up no permit.
    advance(Duration::from_secs(700)).await;
    sleep(Duration::from_millis(200)).await;
    let before = stage.api.events().len();
    refused(1).await;
    advance(Duration::from_secs(101)).await;
    stage.assert_event_count(before + 1).await;
}

#[tokio::test]
async fn alternating_failures_update_one_event() {
    let stage = EventsFixture::new(&[]).await;
    let pod = stage.pod();
    for _ in 0..3 {
        stage
            .daemon
            .assert_mount_error(&pod.clone().with_parameter("roleName", "nobody"), Cause::RoleMissing, &[])
            .await;
        stage.daemon.assert_mount_error(&pod_with_denied_secret(&pod), Cause::VaultPolicyDenied, &[]).await;
    }
    let first = stage.assert_event_count(1).await[0]["message"].clone();
    advance(Duration::from_secs(31)).await;
    stage.daemon.assert_mount_error(&pod_with_denied_secret(&pod), Cause::VaultPolicyDenied, &[]).await;
    while stage.api.events()[0]["count"] != 7 {
        sleep(Duration::from_millis(5)).await;
    }
    assert_ne!(stage.assert_event_count(1).await[0]["message"], first);
}

#[tokio::test]
async fn events_forbidden_is_logged_once_and_not_retried() {
    let api = KubeApi::builder().deny("create", "events").start().await;
    let (tenant, folder) = (Tenant::new().await, tempfile::tempdir().unwrap());
    let kubeconfig = folder.path().join("kubeconfig");
    std::fs::write(&kubeconfig, api.kubeconfig("vaultmount", "t")).unwrap();
    let program = ProviderProcess::start(&[&format!("--kubeconfig={}", kubeconfig.display())]).await;
    let mut client = Client::connect(&program.socket).await.unwrap();
    for _ in 0..3 {
        let pod = Pod::for_tenant(&tenant)
            .with_parameter("roleName", "nobody")
            .with_objects("- {objectName: x, secretPath: x/x}");
        assert!(client.mount(pod.mount_call()).await.is_err());
    }
    let post_count = || api.request_lines().iter().filter(|line| line.ends_with("/events")).count();
    while post_count() == 0 {
        sleep(Duration::from_millis(5)).await;
    }
    sleep(Duration::from_millis(200)).await;
    program.terminate();
    let log = program.wait_for_log().await;
    let id = Cause::EventsForbidden.info().id;
    assert_eq!((post_count(), log.matches(id).count()), (1, 1), "{log}");
    assert!(log.contains("verbs: [create, patch]") && log.contains("--events=false"), "{log}");
}

#[tokio::test]
async fn dropped_events_are_logged_at_powers_of_two() {
    let (tenant, folder, api) = (Tenant::new().await, tempfile::tempdir().unwrap(), KubeApi::builder().start().await);
    let kubeconfig = folder.path().join("kubeconfig");
    std::fs::write(&kubeconfig, api.kubeconfig("vaultmount", "t")).unwrap();
    let program = ProviderProcess::start(&[&format!("--kubeconfig={}", kubeconfig.display())]).await;
    let mut client = Client::connect(&program.socket).await.unwrap();
    for count in 1..=400 {
        assert!(client.mount(Pod::for_tenant(&tenant).with_objects("[").mount_call()).await.is_err());
        // The first ten are written; the queue then has room for 256.
        if count == 10 {
            api.wait_until(|api| api.request_lines().iter().filter(|line| line.ends_with("/events")).count() == 10)
                .await;
        }
    }
    program.terminate();
    let log = program.wait_for_log().await;
    assert_eq!(log.matches("pod event dropped").count(), 8, "{log}");
    assert!(log.contains("lost=128"), "{log}");
}

#[tokio::test]
async fn events_false_writes_no_events() {
    let stage = EventsFixture::new(&["--events=false"]).await;
    stage.daemon.assert_mount_error(&stage.pod().with_parameter("roleName", "nobody"), Cause::RoleMissing, &[]).await;
    stage.assert_event_count(0).await;
    assert!(!stage.api.request_lines().iter().any(|line| line.ends_with("/events")));
}
