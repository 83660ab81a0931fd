//! The policy file: permissions of the classes of each namespace, wherever a class sets a value.

mod threat_model;

use std::time::Duration;

use serde_json::json;
use vaultmount::error::Cause;

use crate::{
    admin_endpoints::{free_address, get},
    support::{
        bao::Tenant,
        cli::run_cli,
        daemon::{Daemon, ProviderProcess},
        fault_proxy::FaultProxy,
        log::CapturedLog,
        pod::Pod,
        policy::PolicyFile,
    },
};

/// Interval at which files are reloaded.
const RELOAD_INTERVAL: Duration = Duration::from_secs(10);

/// Creates a tenant with a secret, and a pod of namespace `shop` that mounts it.
async fn fixture() -> (Tenant, Pod) {
    let tenant = Tenant::new().await;
    tenant.write_secret("db", json!({"pass": "s3cret"})).await;
    let objects = format!("- {{objectName: pass, secretPath: {}/data/db, secretKey: pass}}", tenant.kv);
    let pod = Pod::for_tenant(&tenant).with_objects(objects);
    (tenant, pod)
}

/// Returns the pod without this parameter.
fn without_parameter(mut pod: Pod, name: &str) -> Pod {
    pod.parameters.retain(|(parameter, _)| parameter != name);
    pod
}

#[tokio::test]
async fn policy_endpoint_name_selects_server_and_auth_mount() {
    let (tenant, pod) = fixture().await;
    let policy = PolicyFile::new(&format!(
        "endpoints: {{prod: {{address: \"{}/\", authMount: {}}}}}\nrules: [{{namespaces: [shop], endpoints: [prod]}}]",
        tenant.address, tenant.auth
    ));
    let pages = free_address();
    let flags = [policy.flag(), format!("--metrics-addr={pages}")];
    let daemon = Daemon::start_at("http://127.0.0.1:1", &flags.each_ref().map(String::as_str)).await;
    let pod = without_parameter(pod, "vaultAuthMountPath");
    for name in ["vaultEndpoint", "baoEndpoint", "openbaoEndpoint"] {
        let files = daemon.mount_files(&pod.clone().with_parameter(name, "prod")).await;
        assert_eq!(files["pass"], "s3cret", "{name}");
    }
    let parts = [
        "the default of a class without vaultEndpoint or vaultAddress",
        "endpoint default",
        "may use prod;",
        policy.path(),
    ];
    daemon.assert_mount_error(&pod, Cause::TenantPolicyViolation, &parts).await;
    let both = pod.with_parameter("vaultEndpoint", "prod").with_parameter("vaultAddress", &tenant.address);
    daemon.assert_mount_error(&both, Cause::InvalidRequest, &["vaultEndpoint", "vaultAddress", "remove one"]).await;
    let (_, metrics) = get(&format!("http://{pages}/metrics")).await;
    let up = format!("vaultmount_endpoint_up{{endpoint=\"{}\"}} 1", tenant.address);
    for line in [
        up.as_str(),
        "vaultmount_policy_denials_total{rule=\"endpoint\"} 1",
        "vaultmount_policy_last_reload_successful 1",
    ] {
        assert!(metrics.lines().any(|l| l == line), "{line}: {metrics}");
    }
}

#[tokio::test]
async fn policy_rule_denials_are_counted_by_rule() {
    let (tenant, pod) = fixture().await;
    let (auth, folder) = (&tenant.auth, tempfile::tempdir().unwrap());
    let policy = PolicyFile::new(&format!("rules: [{{namespaces: [shop], authMounts: [{auth}], audiences: [vault]}}]"));
    let pages = free_address();
    let (flag, metrics_flag) = (policy.flag(), format!("--metrics-addr={pages}"));
    let tls_dir = format!("--tenant-tls-dir={}", folder.path().display());
    let daemon = Daemon::start(&[&flag, &metrics_flag, &tls_dir]).await;
    assert_eq!(daemon.mount_files(&pod).await["pass"], "s3cret");
    let mine = pod.clone().with_parameter("vaultAddress", &tenant.address);
    assert_eq!(daemon.mount_files(&mine).await["pass"], "s3cret", "the operator's own address may be written out");
    for (name, value, rule, cause) in [
        ("vaultAddress", "https://vault.example", "address", Cause::AddressNotAllowed),
        ("vaultSkipTLSVerify", "true", "skip_verify", Cause::SkipVerifyNotAllowed),
        ("vaultNamespace", "other", "vault_namespace", Cause::TenantPolicyViolation),
        ("vaultAuthNamespace", "other", "vault_namespace", Cause::TenantPolicyViolation),
        ("vaultAuthMountPath", "kubernetes", "auth_mount", Cause::TenantPolicyViolation),
        ("audience", "https://kubernetes.default.svc", "audience", Cause::TenantPolicyViolation),
        ("vaultCACertPath", "/etc/ssl/ca.pem", "certificate_file", Cause::TenantPolicyViolation),
        ("vaultCADirectory", "/etc/ssl", "certificate_file", Cause::TenantPolicyViolation),
    ] {
        let line = format!("vaultmount_policy_denials_total{{rule=\"{rule}\"}} ");
        let count = async || {
            let (_, metrics) = get(&format!("http://{pages}/metrics")).await;
            let number = metrics.lines().find_map(|l| l.strip_prefix(&line)).unwrap_or_else(|| panic!("{line}"));
            number.parse::<u32>().unwrap()
        };
        let before = count().await;
        let text = daemon.assert_mount_error(&pod.clone().with_parameter(name, value), cause, &[]).await;
        assert!(text.contains(policy.path()) || text.contains("--tenant-tls-dir"), "{name}: {text}");
        assert_eq!(count().await, before + 1, "{name}");
    }
    // The pod of another namespace.
    let other = Pod { namespace: "bank".into(), ..pod.clone() };
    daemon.assert_mount_error(&other, Cause::TenantPolicyViolation, &["namespace \"bank\"", "add the namespace"]).await;
}

#[tokio::test]
async fn tenant_tls_dir_denies_symlink_leading_outside() {
    let (_tenant, pod) = fixture().await;
    let folder = tempfile::tempdir().unwrap();
    let inside = folder.path().join("tls");
    std::fs::create_dir(&inside).unwrap();
    std::fs::write(folder.path().join("key.pem"), "").unwrap();
    std::os::unix::fs::symlink("../key.pem", inside.join("ca.pem")).unwrap();
    let daemon = Daemon::start(&[&format!("--tenant-tls-dir={}", inside.display())]).await;
    let pod = pod.with_parameter("vaultCACertPath", inside.join("ca.pem").display().to_string());
    daemon
        .assert_mount_error(
            &pod,
            Cause::TenantPolicyViolation,
            &["is a symlink to a file that is not below", "--tenant-tls-dir"],
        )
        .await;
}

#[tokio::test]
async fn policy_file_reload_applies_valid_and_keeps_last_good() {
    let (tenant, pod) = fixture().await;
    let allowing = format!("rules: [{{namespaces: [shop], authMounts: [{}]}}]", tenant.auth);
    let (log, policy, pages) = (CapturedLog::new(), PolicyFile::new(&allowing), free_address());
    let daemon = Daemon::start(&[&policy.flag(), &format!("--metrics-addr={pages}")]).await;
    daemon.mount_files(&pod).await;
    policy.write("rules: []");
    log.wait_for_lines("policy file applied", 1, RELOAD_INTERVAL).await;
    // A pod with cached secrets is affected too: its poll is rejected, and its files stay.
    daemon.assert_mount_error(&pod, Cause::TenantPolicyViolation, &["add the namespace"]).await;
    policy.write("rule: []");
    log.wait_for_lines("policy file is invalid; the previous policy stays in force", 1, RELOAD_INTERVAL).await;
    assert!(log.text().contains("policy.yaml:3:1: rule: is unknown; did you mean rules?"), "{}", log.text());
    daemon.assert_mount_error(&pod, Cause::TenantPolicyViolation, &["add the namespace"]).await;
    let (_, metrics) = get(&format!("http://{pages}/metrics")).await;
    assert!(metrics.contains("vaultmount_policy_last_reload_successful 0\n"), "{metrics}");
    policy.write(&allowing);
    log.wait_for_lines("policy file applied", 2, RELOAD_INTERVAL).await;
    assert_eq!(daemon.mount_files(&pod).await["pass"], "s3cret");
    assert_eq!(log.count_lines("policy file is invalid"), 1, "{}", log.text());
}

#[tokio::test]
async fn policy_endpoint_missing_tls_files_warns_at_each_load() {
    let prod = "prod: {address: \"https://prod\", tls: {caCertPath: /nowhere/ca.pem}}";
    let (log, policy) = (CapturedLog::new(), PolicyFile::new(&format!("endpoints: {{{prod}}}")));
    let _daemon = Daemon::start(&[&policy.flag()]).await;
    let expected =
        "policy file endpoint is unusable endpoint=prod error=cannot read the CA file /nowhere/ca.pem: No such file";
    log.wait_for_lines(expected, 1, Duration::ZERO).await;
    let lab = "lab: {address: \"https://lab\", tls: {clientCertPath: /nowhere/c.pem, clientKeyPath: /nowhere/k.pem}}";
    policy.write(&format!("endpoints: {{{prod}, {lab}}}"));
    log.wait_for_lines(expected, 2, RELOAD_INTERVAL).await;
    log.wait_for_lines("policy file endpoint is unusable endpoint=lab error=", 1, RELOAD_INTERVAL).await;
    assert!(log.text().contains("/nowhere/c.pem: No such file"), "{}", log.text());
    assert_eq!(log.count_lines("policy file endpoint is unusable"), 3, "{}", log.text());
}

#[tokio::test]
async fn allow_address_tenant_choice_is_warned_once_and_counted() {
    let ((_tenant, pod), vault, pages) = (fixture().await, FaultProxy::start().await, free_address());
    let program =
        ProviderProcess::start(&["--allow-address=http://127.0.0.1:*", &format!("--metrics-addr={pages}")]).await;
    let mut client = vaultmount::provider::client::Client::connect(&program.socket).await.unwrap();
    let own = pod.clone().with_parameter("vaultAddress", &vault.address);
    for call in
        [own.mount_call(), own.mount_call(), own.with_parameter("vaultNamespace", "/").mount_call(), pod.mount_call()]
    {
        client.mount(call).await.unwrap();
    }
    let (_, metrics) = get(&format!("http://{pages}/metrics")).await;
    assert!(metrics.contains("vaultmount_tenant_address_mounts_total 3\n"), "{metrics}");
    program.terminate();
    let log = program.wait_for_log().await;
    let warned: Vec<&str> = log.lines().filter(|line| line.contains("class chose the address")).collect();
    assert!(warned.len() == 1 && warned[0].contains(&vault.address) && warned[0].contains("--policy-file"), "{log}");
    assert!(warned[0].contains("namespace=\"shop\"") || warned[0].contains("namespace=shop"), "{log}");
}

#[tokio::test]
async fn policy_file_invalid_prevents_start() {
    let policy = PolicyFile::new("endpoints: {prod: {}}\nrules: [{namespaces: shop}]");
    let serve = async |flags: &[&str]| run_cli(&[&["serve", "--endpoint=/nowhere/x.sock"], flags].concat()).await;
    let run = serve(&[&policy.flag()]).await;
    let file = policy.path();
    for line in [
        format!("{file}:3:13: endpoints.prod.address: missing"),
        format!("{file}:4:22: rules[0].namespaces: is text; write a list"),
    ] {
        assert!(run.stderr.contains(&line) && run.code == Some(2), "{line}");
    }
    let policy = PolicyFile::new("endpoints: {lab: {address: \"https://lab\", tls: {skipVerify: true}}}");
    let run = serve(&[&policy.flag(), "--allow-skip-verify=false", "--allow-address=https://lab"]).await;
    assert!(run.stderr.contains("endpoints.lab.tls.skipVerify: conflicts with --allow-skip-verify=false"));
    assert!(run.stderr.contains("--allow-address conflicts with --policy-file"));
    let run = serve(&["--policy-file=/nowhere/policy.yaml"]).await;
    assert!(run.stderr.contains("/nowhere/policy.yaml cannot be read: No such file"));
    let run = serve(&["--policy-file=", "--allow-skip-verify="]).await;
    for line in ["--policy-file is empty; write a file, or omit the flag", "--allow-skip-verify is empty"] {
        assert!(run.stderr.contains(line) && run.code == Some(2), "{line}");
    }
}

/// A class and a pod with it, in namespace `shop`.
const MANIFESTS: &str = "apiVersion: secrets-store.csi.x-k8s.io/v1
kind: SecretProviderClass
metadata: {name: web, namespace: shop}
spec:
  provider: vault
  parameters:
    roleName: web
    vaultEndpoint: prd
    vaultAuthMountPath: ldap
    objects: '[{objectName: a, secretPath: secret/data/a}]'
---
apiVersion: secrets-store.csi.x-k8s.io/v1
kind: SecretProviderClass
metadata: {name: good, namespace: shop}
spec:
  provider: vault
  parameters:
    roleName: web
    vaultEndpoint: prod
    objects: '[{objectName: a, secretPath: secret/data/a}]'
---
apiVersion: v1
kind: Pod
metadata: {name: web, namespace: shop}
spec:
  volumes:
  - name: s
    csi:
      driver: secrets-store.csi.k8s.io
      readOnly: true
      volumeAttributes: {secretProviderClass: good, vaultNamespace: other}
";

#[tokio::test]
async fn validate_policy_file_reports_denied_classes() {
    let rest = "endpoints: {prod: {address: \"https://prod\"}}\nrules: [{namespaces: [shop], endpoints: [prod], authMounts: [kubernetes]}]";
    let (policy, folder) = (PolicyFile::new(rest), tempfile::tempdir().unwrap());
    let path = folder.path().join("shop.yaml");
    std::fs::write(&path, MANIFESTS).unwrap();
    let path = path.to_str().unwrap();
    let run = run_cli(&["validate", "--policy-file", policy.path(), path]).await;
    for part in [
        "shop.yaml:8:20: error: vaultEndpoint \"prd\" is not in the operator's policy file (did you mean prod?)",
        "shop.yaml:9:25: error: the class may not use the auth mount \"ldap\": namespace \"shop\" may use kubernetes;",
        "volumeAttributes, or have the operator change vaultNamespaces of rules[0]",
        "2 classes, 1 pod, 1 policy",
    ] {
        assert!(run.stdout.contains(part), "{part}");
    }
    assert_eq!(run.stdout.matches(": error: ").count(), 3, "{}", run.stdout);
    // The endpoint's address as a literal is still the endpoint's address.
    let rule = "namespaces: [shop], endpoints: [prod], authMounts: [kubernetes], addresses: [\"https://*:*\"]";
    let open = PolicyFile::new(&format!("endpoints: {{prod: {{address: \"https://prod\"}}}}\nrules: [{{{rule}}}]"));
    for (address, is_warned_of) in [("https://prod/x", true), ("https://other", false)] {
        let by_address = format!("vaultAddress: {address}\n    vaultTLSServerName: other");
        let theirs = MANIFESTS.split("---\n").nth(1).unwrap().replace("vaultEndpoint: prod", &by_address);
        let path = folder.path().join("theirs.yaml");
        std::fs::write(&path, theirs).unwrap();
        let run = run_cli(&["validate", "--policy-file", open.path(), path.to_str().unwrap()]).await;
        let expected = "warning: the class may not override the trusted CA or server name for the operator's address (vaultTLSServerName)";
        assert_eq!(
            run.stdout.contains(&format!("theirs.yaml:9:25: {expected}")),
            is_warned_of,
            "{address}: {}",
            run.stdout
        );
    }
    // The file on its own, and in a ConfigMap.
    let inside = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: policy}\ndata:\n  policy.yaml: |\n    apiVersion: vaultmount/v1\n    kind: Policy\n    rule: []\n";
    for (text, expected) in [
        (
            "apiVersion: vaultmount/v1\nkind: Policy\nrule: []\n",
            "x.yaml:3:1: error: rule: is unknown; did you mean rules?",
        ),
        (inside, "x.yaml:5:3: error: policy.yaml: line 3: rule: is unknown; did you mean rules?"),
        (
            "apiVersion: vaultmount/v1\nkind: Policy\nrules: [{namespaces: [a], skipVerify: yes}]\n",
            "x.yaml:3:39: error: rules[0].skipVerify: is text; write true or false",
        ),
        (
            &inside.replace("rule: []", "rules: [{namespaces: [a], skipVerify: on}]"),
            "policy.yaml: line 3: rules[0].skipVerify: is text; write true or false",
        ),
    ] {
        let path = folder.path().join("x.yaml");
        std::fs::write(&path, text).unwrap();
        let run = run_cli(&["validate", path.to_str().unwrap()]).await;
        assert!(run.stdout.contains(expected) && run.code == Some(1), "{expected}");
    }
    let alone = run_cli(&["validate", "--policy-file", policy.path()]).await;
    assert!(alone.stdout.contains("all good") && alone.stdout.contains("1 policy") && alone.code == Some(0));
    for broken in
        ["apiVersion: vaultmount/v1\nkind: Policy\nendpoints: {a: {}, a: {}}\n", "kind: Policy\nendpoints: {}\n"]
    {
        let path = folder.path().join("y.yaml");
        std::fs::write(&path, broken).unwrap();
        let run = run_cli(&["validate", path.to_str().unwrap()]).await;
        assert!(run.code == Some(1) && run.stdout.contains("y.yaml:"), "{broken}");
    }
    let run = run_cli(&["validate", "--policy-file", path, policy.path()]).await;
    assert!(run.stdout.contains("the policy file holds more than one document") && run.code == Some(1));
}
