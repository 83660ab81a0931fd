//! The audit log: who got which secret from where, and what came of it.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use serde_json::{Value, json};
use tempfile::TempDir;
use vaultmount::{error::Cause, provider::client::Call};

use crate::{
    operating::{free, get},
    support::{bao::Tenant, clock::leap, daemon::Daemon, pod::Pod},
};

/// A daemon with an audit log.
struct Audited {
    tenant: Tenant,
    daemon: Daemon,
    folder: TempDir,
    log: PathBuf,
}

impl Audited {
    async fn new(flags: &[&str]) -> Self {
        let tenant = Tenant::new().await;
        tenant.put("db", json!({"pass": "s3cret"})).await;
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("audit.log");
        let flag = format!("--audit-log={}", log.display());
        let daemon = Daemon::start(&[flags, &[&flag, "--refresh-interval=10s"]].concat()).await;
        Self { tenant, daemon, folder, log }
    }

    fn pod(&self) -> Pod {
        let kv = &self.tenant.kv;
        let objects = format!(
            "- {{objectName: pass, secretPath: {kv}/data/db, secretKey: pass}}\n- {{objectName: whole, secretPath: {kv}/data/db}}"
        );
        Pod::of(&self.tenant).objects(objects)
    }

    /// The lines so far, when there are as many as that.
    async fn lines(&self, count: usize) -> Vec<Value> {
        lines(&self.log, count).await
    }
}

async fn lines(log: &Path, count: usize) -> Vec<Value> {
    let mut looks = 0;
    loop {
        let text = fs::read_to_string(log).unwrap_or_default();
        looks += 1;
        assert!(looks < 2000, "there are not {count} lines: {text}");
        if text.lines().count() >= count {
            return text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        }
        // It is written by a thread of its own.
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn each_decision_about_a_secret_is_a_line() {
    let audited = Audited::new(&[]).await;
    let (daemon, pod) = (&audited.daemon, audited.pod());
    let files = daemon.files(&pod).await;
    let told = audited.lines(2).await;
    let [login, read] = &told[..] else { panic!("{told:?}") };
    for line in [login, read] {
        for (field, value) in [
            ("namespace", pod.namespace.as_str()),
            ("service_account", &pod.service_account),
            ("pod", &pod.name),
            ("uid", &pod.uid),
            ("endpoint", &audited.tenant.address),
            ("auth_mount", &audited.tenant.auth),
            ("role", "app"),
            ("outcome", "ok"),
        ] {
            assert_eq!(line[field], value, "{field}: {line}");
        }
        assert!(line["time"].as_str().unwrap().parse::<jiff::Timestamp>().is_ok(), "{line}");
    }
    assert_eq!((&login["event"], login.get("path")), (&json!("login"), None));
    assert!(!login["accessor"].as_str().unwrap().is_empty() && login["request_id"].as_str().unwrap().len() > 30);
    assert_eq!(
        (&read["event"], &read["class"], &read["source"]),
        (&json!("read"), &json!("test-class"), &json!("vault"))
    );
    assert_eq!(read["path"], format!("{}/data/db", audited.tenant.kv));
    assert_eq!((&read["method"], &read["objects"]), (&json!("GET"), &json!(["pass", "whole"])));
    assert!(read["version_before"].is_null() && read["version_after"].as_str().unwrap().len() == 44, "{read}");
    // The id of Vault's own answer, which its audit log has, too.
    let whole: Value = serde_json::from_str(&files["whole"]).unwrap();
    assert_eq!(read["request_id"], whole["request_id"]);

    // A poll that changes nothing decides nothing; one that asks Vault does.
    daemon.files(&pod).await;
    leap(Duration::from_secs(11)).await;
    daemon.files(&pod).await;
    let same = &audited.lines(3).await[2];
    assert_eq!((&same["version_before"], &same["version_after"]), (&read["version_after"], &read["version_after"]));
    assert_ne!(same["request_id"], read["request_id"]);
    audited.tenant.put("db", json!({"pass": "another"})).await;
    leap(Duration::from_secs(11)).await;
    daemon.files(&pod).await;
    let new = &audited.lines(4).await[3];
    assert_eq!(new["version_before"], read["version_after"]);
    assert_ne!(new["version_after"], read["version_after"]);

    // What is refused is told with why: the secret, and the mount.
    let denied = pod.clone().objects("- {objectName: x, secretPath: none/x, secretKey: x}");
    daemon.refuses(&denied, Cause::Denied, &[]).await;
    let told = audited.lines(6).await;
    for (line, event) in [(&told[4], "read"), (&told[5], "mount")] {
        assert_eq!(
            (&line["event"], &line["outcome"], &line["error_id"]),
            (&json!(event), &json!("denied"), &json!("VM0050"))
        );
    }
    assert_eq!((&told[4]["path"], told[5].get("path")), (&json!("none/x"), None));
    let elsewhere = pod.clone().with("vaultAddress", "http://127.0.0.1:1");
    daemon.refuses(&elsewhere, Cause::NotAllowed, &[]).await;
    let refused = &audited.lines(7).await[6];
    assert_eq!((&refused["outcome"], &refused["error_id"]), (&json!("denied"), &json!("VM0013")));
    assert_eq!(refused["endpoint"], "http://127.0.0.1:1");
    assert_eq!((&refused["rule"], &refused["audience"]), (&json!("address"), &json!("vault")));
    let path = format!("{}/data/db", audited.tenant.kv);
    assert_eq!((&refused["paths"], &refused["objects"]), (&json!([path]), &json!(["pass", "whole"])));
    let unread = pod.clone().objects("nothing");
    daemon.refuses(&unread, Cause::InvalidRequest, &[]).await;
    let unread = &audited.lines(8).await[7];
    assert_eq!((&unread["class"], &unread["pod"]), (&json!("test-class"), &json!(pod.name)), "{unread}");
    let unnamed = pod.clone().with("vaultEndpoint", "prod");
    daemon.refuses(&unnamed, Cause::EndpointUnknown, &[]).await;
    let unnamed = &audited.lines(9).await[8];
    assert_eq!((&unnamed["rule"], &unnamed["endpoint_name"]), (&json!("endpoint"), &json!("prod")), "{unnamed}");
    let nobody = pod.with("roleName", "nobody");
    daemon.refuses(&nobody, Cause::RoleMissing, &[]).await;
    let told = audited.lines(10).await;
    assert_eq!((&told[9]["event"], &told[9]["outcome"]), (&json!("login"), &json!("failed")), "{told:?}");
    let text = fs::read_to_string(&audited.log).unwrap();
    assert!(!text.contains("s3cret") && !text.contains("another\""), "{text}");
}

/// What the rule sees only when it follows the link.
#[tokio::test]
async fn a_link_that_leads_out_is_told_with_its_rule() {
    let files = tempfile::tempdir().unwrap();
    std::os::unix::fs::symlink("/etc/passwd", files.path().join("ca.pem")).unwrap();
    let audited = Audited::new(&[&format!("--tls-dir={}", files.path().display())]).await;
    let pod = audited.pod().with("vaultCACertPath", files.path().join("ca.pem").to_str().unwrap());
    audited.daemon.refuses(&pod, Cause::NotPermitted, &[]).await;
    let refused = &audited.lines(1).await[0];
    assert_eq!((&refused["event"], &refused["rule"]), (&json!("mount"), &json!("certificate_file")), "{refused}");
}

#[tokio::test]
async fn pods_that_share_are_told_each() {
    let audited = Audited::new(&[]).await;
    let pods = [(); 3].map(|()| audited.pod().with("tokenScope", "serviceAccount"));
    for pod in &pods {
        audited.daemon.files(pod).await;
        audited.daemon.files(pod).await;
    }
    let told = audited.lines(4).await;
    assert_eq!((told.len(), &told[0]["event"], &told[0]["pod"]), (4, &json!("login"), &json!("*")));
    for ((line, pod), from) in told[1..].iter().zip(&pods).zip(["vault", "cache", "cache"]) {
        assert_eq!((&line["pod"], &line["uid"], &line["source"]), (&json!(pod.name), &json!(pod.uid), &json!(from)));
        assert_eq!(line["request_id"], told[1]["request_id"]);
    }
    // What one of them has read anew is new to each of the others.
    audited.tenant.put("db", json!({"pass": "another"})).await;
    leap(Duration::from_secs(11)).await;
    for pod in &pods {
        audited.daemon.files(pod).await;
        audited.daemon.files(pod).await;
    }
    let told = audited.lines(7).await;
    let new: Vec<_> =
        told[4..].iter().map(|line| (line["uid"].as_str().unwrap(), line["source"].as_str().unwrap())).collect();
    let [a, b, c] = [0, 1, 2].map(|n: usize| pods[n].uid.as_str());
    assert_eq!(new, [(a, "vault"), (b, "cache"), (c, "cache")]);
    assert!(told[4..].iter().all(|line| line["version_after"] == told[4]["version_after"]), "{told:?}");
}

#[tokio::test]
async fn what_is_optional_and_absent_has_not_failed() {
    let audited = Audited::new(&[]).await;
    let kv = &audited.tenant.kv;
    let object = format!("- {{objectName: x, secretPath: {kv}/data/none, secretKey: x, optional: true}}");
    audited.daemon.files(&audited.pod().objects(object)).await;
    let read = &audited.lines(2).await[1];
    assert_eq!((&read["outcome"], &read["error_id"]), (&json!("not_found"), &json!("VM0051")));
}

#[tokio::test]
async fn a_pods_second_volume_is_told_though_nobody_is_asked() {
    let audited = Audited::new(&[]).await;
    let pod = audited.pod();
    audited.daemon.files(&pod).await;
    for _ in 0..2 {
        let second = Call { target_path: format!("/var/lib/kubelet/pods/{}/volumes/second", pod.uid), ..pod.call() };
        audited.daemon.mount(second).await.unwrap();
    }
    // What comes after shows that there was no more.
    audited.daemon.files(&audited.pod()).await;
    let told = audited.lines(5).await;
    let what: Vec<_> = told.iter().map(|line| (line["event"].as_str().unwrap(), line["source"].as_str())).collect();
    let vault = Some("vault");
    assert_eq!(what, [("login", None), ("read", vault), ("read", Some("cache")), ("login", None), ("read", vault)]);
}

#[tokio::test]
async fn a_log_that_is_renamed_goes_on_and_one_that_cannot_be_written_is_counted() {
    let metrics = free();
    let audited = Audited::new(&[&format!("--metrics-addr={metrics}")]).await;
    audited.daemon.files(&audited.pod()).await;
    audited.lines(2).await;
    let old = audited.folder.path().join("audit.log.1");
    fs::rename(&audited.log, &old).unwrap();
    audited.daemon.files(&audited.pod()).await;
    assert_eq!((audited.lines(2).await.len(), lines(&old, 2).await.len()), (2, 2));
    fs::remove_dir_all(audited.folder.path()).unwrap();
    audited.daemon.files(&audited.pod()).await;
    let counted = async |line: &str| {
        while !get(&format!("http://{metrics}/metrics")).await.1.lines().any(|l| l == line) {}
    };
    counted(r#"vaultmount_audit_records_total{outcome="dropped"} 2"#).await;
    counted(r#"vaultmount_audit_records_total{outcome="ok"} 4"#).await;
    fs::create_dir(audited.folder.path()).unwrap();
    audited.daemon.files(&audited.pod()).await;
    assert_eq!(audited.lines(2).await.len(), 2);
}
