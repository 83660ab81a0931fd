//! What pods' owners are told by events: what nobody else tells, once, and never too much at once.

use std::time::Duration;

use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::time::sleep;
use vaultmount::{
    error::Cause,
    provider::client::{Call, Client},
};

use crate::{
    kube_api::{Fault, KubeApi},
    support::{
        bao::Tenant,
        clock::leap,
        daemon::{Daemon, Program},
        faulty::{Faulty, answer, status},
        pod::Pod,
    },
};

struct Stage {
    tenant: Tenant,
    vault: Faulty,
    api: KubeApi,
    daemon: Daemon,
    folder: TempDir,
}

impl Stage {
    async fn new(flags: &[&str]) -> Self {
        let tenant = Tenant::new().await;
        tenant.put("db", json!({"pass": "s3cret"})).await;
        let (vault, api, folder) =
            (Faulty::start().await, KubeApi::builder().start().await, tempfile::tempdir().unwrap());
        std::fs::write(folder.path().join("kubeconfig"), api.kubeconfig("vaultmount", "t")).unwrap();
        let daemon = serve(&vault, &folder, flags).await;
        Self { tenant, vault, api, daemon, folder }
    }

    /// Another process takes the place of this one, once it has ended.
    async fn restart(self) -> Self {
        let Self { tenant, vault, api, daemon, folder } = self;
        daemon.stop().await;
        let daemon = serve(&vault, &folder, &[]).await;
        Self { tenant, vault, api, daemon, folder }
    }

    fn pod(&self) -> Pod {
        let kv = &self.tenant.kv;
        let object = format!("- {{objectName: pass, secretPath: {kv}/data/db, secretKey: pass}}");
        let pod = Pod::of(&self.tenant).objects(object);
        self.api.add_pod("node-1", &pod.namespace, &pod.name, &pod.uid);
        pod
    }

    /// The events when there are so many.
    async fn events(&self, count: usize) -> Vec<Value> {
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

    /// How often one was sent to be written for the first time.
    fn attempts(&self) -> usize {
        self.api.lines().iter().filter(|line| line.ends_with("/events")).count()
    }

    /// Lets the pauses between attempts pass, until there were so many.
    async fn attempted(&self, count: usize) {
        for _ in 0..50 {
            if self.attempts() >= count {
                break;
            }
            leap(Duration::from_secs(11)).await;
            sleep(Duration::from_millis(20)).await;
        }
        assert_eq!(self.attempts(), count);
    }

    /// That nothing more comes.
    async fn no_more_than(&self, count: usize) -> Vec<Value> {
        sleep(Duration::from_millis(200)).await;
        self.events(count).await
    }
}

/// A process that keeps in the folder what its successor needs.
async fn serve(vault: &Faulty, folder: &TempDir, flags: &[&str]) -> Daemon {
    let place = |flag: &str, name: &str| format!("--{flag}={}", folder.path().join(name).display());
    let (kubeconfig, state) = (place("kubeconfig", "kubeconfig"), place("state-dir", "state"));
    let own = [kubeconfig.as_str(), state.as_str(), "--node-name=node-1", "--refresh-interval=10s"];
    Daemon::at(&vault.address, &[&own, flags].concat()).await
}

fn denied(pod: &Pod) -> Pod {
    pod.clone().objects("- {objectName: x, secretPath: none/x, secretKey: x}")
}

fn reasons(events: &[Value]) -> Vec<&str> {
    events.iter().map(|event| event["reason"].as_str().unwrap()).collect()
}

#[tokio::test]
async fn a_pod_is_told_why_it_does_not_start_and_each_cause_once() {
    let stage = Stage::new(&[]).await;
    let pod = stage.pod().with("roleName", "nobody");
    for _ in 0..5 {
        stage.daemon.refuses(&pod, Cause::RoleMissing, &[]).await;
    }
    let event = &stage.no_more_than(1).await[0];
    assert_eq!((&event["reason"], &event["type"]), (&json!("VaultMountFailed"), &json!("Warning")));
    assert!(
        event["message"].as_str().unwrap().contains("[VM0041]")
            || event["message"].as_str().unwrap().contains("nobody")
    );
    let of = &event["involvedObject"];
    assert_eq!((&of["kind"], &of["name"], &of["uid"]), (&json!("Pod"), &json!(pod.name), &json!(pod.uid)));
    assert_eq!((&event["source"], &event["count"]), (&json!({"component": "vaultmount", "host": "node-1"}), &json!(1)));
    // What goes on is counted up in the event that stands.
    leap(Duration::from_secs(301)).await;
    stage.daemon.refuses(&pod, Cause::RoleMissing, &[]).await;
    while stage.api.events()[0]["count"] != 6 {
        sleep(Duration::from_millis(5)).await;
    }
    stage.no_more_than(1).await;
    // Nothing of it is asked for by a mount that goes well.
    let before = stage.api.lines().len();
    stage.daemon.files(&stage.pod()).await;
    stage.no_more_than(1).await;
    assert_eq!(stage.api.lines().len(), before);
}

#[tokio::test]
async fn polls_that_fail_are_told_with_their_end_unless_the_driver_does_it() {
    let stage = Stage::new(&[]).await;
    let pod = stage.pod();
    stage.daemon.files(&pod).await;
    // A driver up to 1.5.6 sends the versions that the pod has, and tells itself.
    let denied = denied(&pod);
    let versions = vec![("pass".to_owned(), "v".to_owned())];
    assert!(stage.daemon.mount(Call { versions, ..denied.call() }).await.is_err());
    stage.no_more_than(0).await;
    stage.daemon.refuses(&denied, Cause::Denied, &[]).await;
    let invalid = pod.clone().objects("[");
    stage.daemon.refuses(&invalid, Cause::ObjectsYaml, &[]).await;
    stage.daemon.files(&pod).await;
    let events = stage.no_more_than(3).await;
    assert_eq!(reasons(&events), ["VaultRefreshFailed", "VaultClassInvalid", "VaultRefreshRecovered"]);
    assert_eq!(events[2]["type"], "Normal");
    // Soon again: the last event is how things are.
    stage.daemon.refuses(&denied, Cause::Denied, &[]).await;
    stage.daemon.files(&pod).await;
    assert_eq!(reasons(&stage.no_more_than(5).await)[3..], ["VaultRefreshFailed", "VaultRefreshRecovered"]);
}

#[tokio::test]
async fn what_could_not_be_written_is_written_later() {
    let stage = Stage::new(&[]).await;
    let pod = stage.pod();
    stage.daemon.files(&pod).await;
    stage.daemon.refuses(&denied(&pod), Cause::Denied, &[]).await;
    stage.events(1).await;
    // The end of it, too, and nothing is forgotten before that is told.
    for fault in [Fault::Answer(500, String::new()), Fault::Answer(429, String::new())] {
        stage.api.fail_next(fault);
    }
    stage.daemon.files(&pod).await;
    stage.attempted(4).await;
    assert_eq!(reasons(&stage.no_more_than(2).await), ["VaultRefreshFailed", "VaultRefreshRecovered"]);
    // An answer was lost: what is there under its name is this one.
    stage.api.fail_next(Fault::Answer(503, String::new()));
    stage.api.fail_next(Fault::Answer(409, json!({"reason": "AlreadyExists"}).to_string()));
    stage.daemon.refuses(&denied(&pod), Cause::Denied, &[]).await;
    stage.attempted(6).await;
    let sent = stage.api.seen();
    let names: Vec<_> =
        sent.iter().filter(|s| s.path.ends_with("/events")).map(|s| &s.body["metadata"]["name"]).collect();
    assert_eq!(names[4], names[5]);
    stage.daemon.files(&pod).await;
    assert_eq!(reasons(&stage.no_more_than(3).await)[2..], ["VaultRefreshRecovered"]);
    // What will not pass is not tried again.
    stage.api.fail_next(Fault::Answer(422, String::new()));
    stage.daemon.refuses(&denied(&pod), Cause::Denied, &[]).await;
    for _ in 0..5 {
        leap(Duration::from_secs(60)).await;
        sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(stage.attempts(), 8);
}

#[tokio::test]
async fn a_pod_that_keeps_what_it_has_after_a_failure_is_not_told_of_its_end() {
    let stage = Stage::new(&[]).await;
    let pod = stage.pod();
    stage.daemon.files(&pod).await;
    stage.daemon.refuses(&denied(&pod), Cause::Denied, &[]).await;
    stage.vault.every("GET", &stage.tenant.kv, status(503, "it is tired"));
    leap(Duration::from_secs(11)).await;
    stage.daemon.files(&pod).await;
    stage.no_more_than(1).await;
}

#[tokio::test]
async fn an_end_is_told_also_by_the_next_process() {
    let stage = Stage::new(&[]).await;
    let (failed, kept, well) = (stage.pod(), stage.pod(), stage.pod());
    for pod in [&failed, &kept, &well] {
        stage.daemon.files(pod).await;
    }
    stage.daemon.refuses(&denied(&failed), Cause::Denied, &[]).await;
    stage.vault.every("GET", &stage.tenant.kv, status(503, "it is tired"));
    leap(Duration::from_secs(11)).await;
    stage.daemon.files(&kept).await;
    stage.events(2).await;
    let stage = stage.restart().await;
    stage.vault.heal();
    for pod in [&failed, &kept, &well] {
        stage.daemon.files(pod).await;
    }
    let events = stage.no_more_than(4).await;
    assert_eq!(reasons(&events)[2..], ["VaultRefreshRecovered", "VaultRefreshRecovered"]);
    let names: Vec<&Value> = events.iter().map(|event| &event["involvedObject"]["name"]).collect();
    assert_eq!(names, [&failed.name, &kept.name, &failed.name, &kept.name]);
    // And not again by the one after it.
    let stage = stage.restart().await;
    stage.daemon.files(&failed).await;
    stage.no_more_than(4).await;
}

#[tokio::test]
async fn a_class_that_the_operator_refuses_is_invalid() {
    let stage = Stage::new(&["--allow-skip-verify=false"]).await;
    let pod = stage.pod();
    stage.daemon.files(&pod).await;
    stage.daemon.refuses(&pod.clone().with("vaultEndpoint", "none"), Cause::EndpointUnknown, &[]).await;
    stage.daemon.files(&pod).await;
    stage.daemon.refuses(&pod.clone().with("vaultSkipTLSVerify", "true"), Cause::MustVerify, &[]).await;
    // A pod that does not run yet is told of its mount.
    stage.daemon.refuses(&stage.pod().with("vaultEndpoint", "none"), Cause::EndpointUnknown, &[]).await;
    let told = ["VaultClassInvalid", "VaultRefreshRecovered", "VaultClassInvalid", "VaultMountFailed"];
    assert_eq!(reasons(&stage.no_more_than(4).await), told);
}

#[tokio::test]
async fn each_end_of_a_credential_is_told_and_that_it_has_come() {
    let stage = Stage::new(&[]).await;
    let data = json!({"password": "p", "ttl": 30, "rotation_period": 3600});
    let body = json!({"request_id": "r", "lease_id": "", "lease_duration": 0, "renewable": false, "data": data});
    stage.vault.every("GET", "db/static-creds", answer(200, &[], body.to_string()));
    let object =
        |name: &str| format!("- {{objectName: {name}, secretPath: db/static-creds/{name}, secretKey: password}}");
    stage.daemon.files(&stage.pod().objects([object("a"), object("b")].join("\n"))).await;
    leap(Duration::from_secs(21)).await;
    stage.events(2).await;
    leap(Duration::from_secs(10)).await;
    let events = stage.no_more_than(4).await;
    assert!(reasons(&events).iter().all(|reason| *reason == "VaultCredentialExpiring"));
    let says = |event: &Value, what: &str| event["message"].as_str().unwrap().contains(what);
    for name in ["a", "b"] {
        let of: Vec<&Value> = events.iter().filter(|event| says(event, &format!("db/static-creds/{name} "))).collect();
        assert!(of.len() == 2 && says(of[0], "ends at") && says(of[1], "is over since"), "{of:#?}");
    }
}

#[tokio::test]
async fn a_pod_that_keeps_what_it_has_is_told_why() {
    let stage = Stage::new(&[]).await;
    let pod = stage.pod();
    stage.daemon.files(&pod).await;
    stage.vault.every("GET", &stage.tenant.kv, status(503, "it is tired"));
    for _ in 0..3 {
        leap(Duration::from_secs(11)).await;
        stage.daemon.files(&pod).await;
    }
    let event = stage.no_more_than(1).await[0].clone();
    assert_eq!(event["reason"], "VaultRefreshFailed");
    assert!(event["message"].as_str().unwrap().starts_with("the pod keeps what it has: "), "{event}");
    stage.vault.heal();
    // A server that was found down is asked by polls once a probe has found it up.
    for _ in 0..20 {
        leap(Duration::from_secs(11)).await;
        stage.daemon.files(&pod).await;
        sleep(Duration::from_millis(50)).await;
        if stage.api.events().len() > 1 {
            break;
        }
    }
    assert_eq!(reasons(&stage.no_more_than(2).await), ["VaultRefreshFailed", "VaultRefreshRecovered"]);
}

#[tokio::test]
async fn an_outage_of_many_pods_is_no_storm() {
    let stage = Stage::new(&[]).await;
    let pods: Vec<Pod> = (0..30).map(|_| stage.pod().with("roleName", "nobody")).collect();
    for pod in &pods {
        stage.daemon.refuses(pod, Cause::RoleMissing, &[]).await;
    }
    stage.no_more_than(10).await;
    leap(Duration::from_secs(101)).await;
    stage.no_more_than(20).await;
}

#[tokio::test]
async fn one_namespace_keeps_no_other_from_its_turn() {
    let stage = Stage::new(&[]).await;
    for _ in 0..30 {
        stage.daemon.refuses(&stage.pod().with("roleName", "nobody"), Cause::RoleMissing, &[]).await;
    }
    stage.no_more_than(10).await;
    let mut quiet = stage.pod().with("roleName", "nobody");
    quiet.namespace = "quiet".to_owned();
    let token = quiet.token("vault", 600);
    stage.daemon.refuses(&quiet.pass(&[("vault", &token)]), Cause::RoleMissing, &[]).await;
    leap(Duration::from_secs(101)).await;
    let events = stage.no_more_than(20).await;
    let told: Vec<_> = events[10..].iter().map(|event| event["metadata"]["namespace"].as_str().unwrap()).collect();
    assert_eq!(told.iter().filter(|namespace| **namespace == "quiet").count(), 1, "{told:?}");
    assert_eq!(told[..2].iter().filter(|namespace| **namespace == "quiet").count(), 1, "{told:?}");
}

#[tokio::test]
async fn what_was_told_in_a_long_outage_stands_in_the_way_of_nothing_after_it() {
    let stage = Stage::new(&[]).await;
    let refused = async |count: usize| {
        for _ in 0..count {
            stage.daemon.refuses(&stage.pod().with("roleName", "nobody"), Cause::RoleMissing, &[]).await;
        }
    };
    refused(200).await;
    stage.no_more_than(10).await;
    // Those that wait are too late when their turn comes, and take no turn for that.
    leap(Duration::from_secs(700)).await;
    sleep(Duration::from_millis(200)).await;
    let before = stage.api.events().len();
    refused(1).await;
    leap(Duration::from_secs(101)).await;
    stage.no_more_than(before + 1).await;
}

#[tokio::test]
async fn a_pod_whose_failures_alternate_has_one_event() {
    let stage = Stage::new(&[]).await;
    let pod = stage.pod();
    for _ in 0..3 {
        stage.daemon.refuses(&pod.clone().with("roleName", "nobody"), Cause::RoleMissing, &[]).await;
        stage.daemon.refuses(&denied(&pod), Cause::Denied, &[]).await;
    }
    let first = stage.no_more_than(1).await[0]["message"].clone();
    leap(Duration::from_secs(31)).await;
    stage.daemon.refuses(&denied(&pod), Cause::Denied, &[]).await;
    while stage.api.events()[0]["count"] != 7 {
        sleep(Duration::from_millis(5)).await;
    }
    assert_ne!(stage.no_more_than(1).await[0]["message"], first);
}

#[tokio::test]
async fn who_may_not_write_events_is_told_so_once() {
    let api = KubeApi::builder().deny("create", "events").start().await;
    let (tenant, folder) = (Tenant::new().await, tempfile::tempdir().unwrap());
    let kubeconfig = folder.path().join("kubeconfig");
    std::fs::write(&kubeconfig, api.kubeconfig("vaultmount", "t")).unwrap();
    let program = Program::start(&[&format!("--kubeconfig={}", kubeconfig.display())]).await;
    let mut client = Client::connect(&program.socket).await.unwrap();
    for _ in 0..3 {
        let pod = Pod::of(&tenant).with("roleName", "nobody").objects("- {objectName: x, secretPath: x/x}");
        assert!(client.mount(pod.call()).await.is_err());
    }
    let asked = || api.lines().iter().filter(|line| line.ends_with("/events")).count();
    while asked() == 0 {
        sleep(Duration::from_millis(5)).await;
    }
    sleep(Duration::from_millis(200)).await;
    program.terminate();
    let log = program.log().await;
    let id = Cause::EventsForbidden.diagnosis().id;
    assert_eq!((asked(), log.matches(id).count()), (1, 1), "{log}");
    assert!(log.contains("verbs: [create, patch]") && log.contains("--events=false"), "{log}");
}

#[tokio::test]
async fn losses_are_said_ever_more_seldom() {
    let (tenant, folder, api) = (Tenant::new().await, tempfile::tempdir().unwrap(), KubeApi::builder().start().await);
    let kubeconfig = folder.path().join("kubeconfig");
    std::fs::write(&kubeconfig, api.kubeconfig("vaultmount", "t")).unwrap();
    let program = Program::start(&[&format!("--kubeconfig={}", kubeconfig.display())]).await;
    let mut client = Client::connect(&program.socket).await.unwrap();
    for count in 1..=400 {
        assert!(client.mount(Pod::of(&tenant).objects("[").call()).await.is_err());
        // The first are written, and then there is room for 256.
        if count == 10 {
            api.until(|api| api.lines().iter().filter(|line| line.ends_with("/events")).count() == 10).await;
        }
    }
    program.terminate();
    let log = program.log().await;
    assert_eq!(log.matches("an event of a pod is lost").count(), 8, "{log}");
    assert!(log.contains("lost=128"), "{log}");
}

#[tokio::test]
async fn events_are_off_with_one_flag() {
    let stage = Stage::new(&["--events=false"]).await;
    stage.daemon.refuses(&stage.pod().with("roleName", "nobody"), Cause::RoleMissing, &[]).await;
    stage.no_more_than(0).await;
    assert!(!stage.api.lines().iter().any(|line| line.ends_with("/events")));
}
