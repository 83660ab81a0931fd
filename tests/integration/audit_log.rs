//! The audit log: which pod received which secret, from where, and the outcome.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use serde_json::{Value, json};
use tempfile::TempDir;
use vaultmount::{error::Cause, provider::client::MountCall};

use crate::{
    admin_endpoints::{free_address, get},
    support::{bao::Tenant, clock::advance, daemon::Daemon, pod::Pod},
};

/// A daemon with an audit log.
struct AuditFixture {
    tenant: Tenant,
    daemon: Daemon,
    folder: TempDir,
    log: PathBuf,
}

impl AuditFixture {
    async fn new(flags: &[&str]) -> Self {
        let tenant = Tenant::new().await;
        tenant.write_secret("db", json!({"pass": "s3cret"})).await;
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
        Pod::for_tenant(&self.tenant).with_objects(objects)
    }

    /// Returns the lines so far, once there are at least `count`.
    async fn records(&self, count: usize) -> Vec<Value> {
        wait_for_records(&self.log, count).await
    }
}

async fn wait_for_records(log: &Path, count: usize) -> Vec<Value> {
    let mut looks = 0;
    loop {
        let text = fs::read_to_string(log).unwrap_or_default();
        looks += 1;
        assert!(looks < 2000, "there are not {count} lines: {text}");
        if text.lines().count() >= count {
            return text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        }
        // A separate thread writes the audit log.
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn audit_log_records_each_secret_decision() {
    let audited = AuditFixture::new(&[]).await;
    let (daemon, pod) = (&audited.daemon, audited.pod());
    let files = daemon.mount_files(&pod).await;
    let lines = audited.records(2).await;
    let [login, read] = &lines[..] else { panic!("{lines:?}") };
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
    // Vault's request ID, which Vault's own audit log contains as well.
    let whole: Value = serde_json::from_str(&files["whole"]).unwrap();
    assert_eq!(read["request_id"], whole["request_id"]);

    // A poll served from the cache writes no line; a poll that sends requests to Vault does.
    daemon.mount_files(&pod).await;
    advance(Duration::from_secs(11)).await;
    daemon.mount_files(&pod).await;
    let same = &audited.records(3).await[2];
    assert_eq!((&same["version_before"], &same["version_after"]), (&read["version_after"], &read["version_after"]));
    assert_ne!(same["request_id"], read["request_id"]);
    audited.tenant.write_secret("db", json!({"pass": "another"})).await;
    advance(Duration::from_secs(11)).await;
    daemon.mount_files(&pod).await;
    let new = &audited.records(4).await[3];
    assert_eq!(new["version_before"], read["version_after"]);
    assert_ne!(new["version_after"], read["version_after"]);

    // A denial is logged with its reason, for the secret and for the mount.
    let denied = pod.clone().with_objects("- {objectName: x, secretPath: none/x, secretKey: x}");
    daemon.assert_mount_error(&denied, Cause::VaultPolicyDenied, &[]).await;
    let lines = audited.records(6).await;
    for (line, event) in [(&lines[4], "read"), (&lines[5], "mount")] {
        assert_eq!(
            (&line["event"], &line["outcome"], &line["error_id"]),
            (&json!(event), &json!("denied"), &json!("VM0050"))
        );
    }
    assert_eq!((&lines[4]["path"], lines[5].get("path")), (&json!("none/x"), None));
    let elsewhere = pod.clone().with_parameter("vaultAddress", "http://127.0.0.1:1");
    daemon.assert_mount_error(&elsewhere, Cause::AddressNotAllowed, &[]).await;
    let refused = &audited.records(7).await[6];
    assert_eq!((&refused["outcome"], &refused["error_id"]), (&json!("denied"), &json!("VM0013")));
    assert_eq!(refused["endpoint"], "http://127.0.0.1:1");
    assert_eq!((&refused["rule"], &refused["audience"]), (&json!("address"), &json!("vault")));
    let path = format!("{}/data/db", audited.tenant.kv);
    assert_eq!((&refused["paths"], &refused["objects"]), (&json!([path]), &json!(["pass", "whole"])));
    let unread = pod.clone().with_objects("nothing");
    daemon.assert_mount_error(&unread, Cause::InvalidRequest, &[]).await;
    let unread = &audited.records(8).await[7];
    assert_eq!((&unread["class"], &unread["pod"]), (&json!("test-class"), &json!(pod.name)), "{unread}");
    let unnamed = pod.clone().with_parameter("vaultEndpoint", "prod");
    daemon.assert_mount_error(&unnamed, Cause::EndpointUnknown, &[]).await;
    let unnamed = &audited.records(9).await[8];
    assert_eq!((&unnamed["rule"], &unnamed["endpoint_name"]), (&json!("endpoint"), &json!("prod")), "{unnamed}");
    let unknown_role = pod.with_parameter("roleName", "nobody");
    daemon.assert_mount_error(&unknown_role, Cause::RoleMissing, &[]).await;
    let lines = audited.records(10).await;
    assert_eq!((&lines[9]["event"], &lines[9]["outcome"]), (&json!("login"), &json!("failed")), "{lines:?}");
    let text = fs::read_to_string(&audited.log).unwrap();
    assert!(!text.contains("s3cret") && !text.contains("another\""), "{text}");
}

/// Checks a rule that detects the violation only after following the symbolic link.
#[tokio::test]
async fn tenant_tls_dir_symlink_denial_is_audited_with_rule() {
    let files = tempfile::tempdir().unwrap();
    std::os::unix::fs::symlink("/etc/passwd", files.path().join("ca.pem")).unwrap();
    let audited = AuditFixture::new(&[&format!("--tenant-tls-dir={}", files.path().display())]).await;
    let pod = audited.pod().with_parameter("vaultCACertPath", files.path().join("ca.pem").to_str().unwrap());
    audited.daemon.assert_mount_error(&pod, Cause::TenantPolicyViolation, &[]).await;
    let refused = &audited.records(1).await[0];
    assert_eq!((&refused["event"], &refused["rule"]), (&json!("mount"), &json!("certificate_file")), "{refused}");
}

#[tokio::test]
async fn audit_log_records_each_pod_of_a_shared_session() {
    let audited = AuditFixture::new(&[]).await;
    let pods = [(); 3].map(|()| audited.pod().with_parameter("tokenScope", "serviceAccount"));
    for pod in &pods {
        audited.daemon.mount_files(pod).await;
        audited.daemon.mount_files(pod).await;
    }
    let lines = audited.records(4).await;
    assert_eq!((lines.len(), &lines[0]["event"], &lines[0]["pod"]), (4, &json!("login"), &json!("*")));
    for ((line, pod), from) in lines[1..].iter().zip(&pods).zip(["vault", "cache", "cache"]) {
        assert_eq!((&line["pod"], &line["uid"], &line["source"]), (&json!(pod.name), &json!(pod.uid), &json!(from)));
        assert_eq!(line["request_id"], lines[1]["request_id"]);
    }
    // A secret that one pod fetched again counts as new for each of the other pods.
    audited.tenant.write_secret("db", json!({"pass": "another"})).await;
    advance(Duration::from_secs(11)).await;
    for pod in &pods {
        audited.daemon.mount_files(pod).await;
        audited.daemon.mount_files(pod).await;
    }
    let lines = audited.records(7).await;
    let new: Vec<_> =
        lines[4..].iter().map(|line| (line["uid"].as_str().unwrap(), line["source"].as_str().unwrap())).collect();
    let [a, b, c] = [0, 1, 2].map(|n: usize| pods[n].uid.as_str());
    assert_eq!(new, [(a, "vault"), (b, "cache"), (c, "cache")]);
    assert!(lines[4..].iter().all(|line| line["version_after"] == lines[4]["version_after"]), "{lines:?}");
}

#[tokio::test]
async fn audit_log_optional_missing_secret_is_not_found() {
    let audited = AuditFixture::new(&[]).await;
    let kv = &audited.tenant.kv;
    let object = format!("- {{objectName: x, secretPath: {kv}/data/none, secretKey: x, optional: true}}");
    audited.daemon.mount_files(&audited.pod().with_objects(object)).await;
    let read = &audited.records(2).await[1];
    assert_eq!((&read["outcome"], &read["error_id"]), (&json!("not_found"), &json!("VM0051")));
}

#[tokio::test]
async fn audit_log_records_second_volume_as_cache_read() {
    let audited = AuditFixture::new(&[]).await;
    let pod = audited.pod();
    audited.daemon.mount_files(&pod).await;
    for _ in 0..2 {
        let second =
            MountCall { target_path: format!("/var/lib/kubelet/pods/{}/volumes/second", pod.uid), ..pod.mount_call() };
        audited.daemon.mount(second).await.unwrap();
    }
    // The lines of a later mount prove that there were no others before.
    audited.daemon.mount_files(&audited.pod()).await;
    let lines = audited.records(5).await;
    let what: Vec<_> = lines.iter().map(|line| (line["event"].as_str().unwrap(), line["source"].as_str())).collect();
    let vault = Some("vault");
    assert_eq!(what, [("login", None), ("read", vault), ("read", Some("cache")), ("login", None), ("read", vault)]);
}

#[tokio::test]
async fn audit_log_reopens_after_rename_and_counts_dropped() {
    let metrics = free_address();
    let audited = AuditFixture::new(&[&format!("--metrics-addr={metrics}")]).await;
    audited.daemon.mount_files(&audited.pod()).await;
    audited.records(2).await;
    let old = audited.folder.path().join("audit.log.1");
    fs::rename(&audited.log, &old).unwrap();
    audited.daemon.mount_files(&audited.pod()).await;
    assert_eq!((audited.records(2).await.len(), wait_for_records(&old, 2).await.len()), (2, 2));
    fs::remove_dir_all(audited.folder.path()).unwrap();
    audited.daemon.mount_files(&audited.pod()).await;
    let counted = async |line: &str| {
        while !get(&format!("http://{metrics}/metrics")).await.1.lines().any(|l| l == line) {}
    };
    counted(r#"vaultmount_audit_records_total{outcome="dropped"} 2"#).await;
    counted(r#"vaultmount_audit_records_total{outcome="ok"} 4"#).await;
    fs::create_dir(audited.folder.path()).unwrap();
    audited.daemon.mount_files(&audited.pod()).await;
    assert_eq!(audited.records(2).await.len(), 2);
}
