//! The policy file: what classes of each namespace may use, wherever they say so.

mod thefts;

use std::time::Duration;

use serde_json::json;
use vaultmount::error::Cause;

use crate::{
    operating::{free, get},
    support::{
        bao::Tenant,
        by_hand::ran,
        daemon::{Daemon, Program},
        faulty::Faulty,
        log::Log,
        pod::Pod,
        policy::Policy,
    },
};

/// How often files are read anew.
const EVERY: Duration = Duration::from_secs(10);

/// A tenant with a secret, and a pod of namespace `shop` that wants it.
async fn arranged() -> (Tenant, Pod) {
    let tenant = Tenant::new().await;
    tenant.put("db", json!({"pass": "s3cret"})).await;
    let objects = format!("- {{objectName: pass, secretPath: {}/data/db, secretKey: pass}}", tenant.kv);
    let pod = Pod::of(&tenant).objects(objects);
    (tenant, pod)
}

/// A pod without a parameter.
fn without(mut pod: Pod, name: &str) -> Pod {
    pod.parameters.retain(|(parameter, _)| parameter != name);
    pod
}

#[tokio::test]
async fn an_endpoint_is_a_server_and_a_login_by_name() {
    let (tenant, pod) = arranged().await;
    let policy = Policy::new(&format!(
        "endpoints: {{prod: {{address: \"{}/\", authMount: {}}}}}\nrules: [{{namespaces: [shop], endpoints: [prod]}}]",
        tenant.address, tenant.auth
    ));
    let pages = free();
    let flags = [policy.flag(), format!("--metrics-addr={pages}")];
    let daemon = Daemon::at("http://127.0.0.1:1", &flags.each_ref().map(String::as_str)).await;
    let pod = without(pod, "vaultAuthMountPath");
    for name in ["vaultEndpoint", "baoEndpoint", "openbaoEndpoint"] {
        let files = daemon.files(&pod.clone().with(name, "prod")).await;
        assert_eq!(files["pass"], "s3cret", "{name}");
    }
    let parts = ["a class that names no other", "endpoint default", "may use prod;", policy.path()];
    daemon.refuses(&pod, Cause::NotPermitted, &parts).await;
    let both = pod.with("vaultEndpoint", "prod").with("vaultAddress", &tenant.address);
    daemon.refuses(&both, Cause::InvalidRequest, &["vaultEndpoint", "vaultAddress", "remove one"]).await;
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
async fn what_a_rule_does_not_allow_is_refused_and_counted() {
    let (tenant, pod) = arranged().await;
    let (auth, folder) = (&tenant.auth, tempfile::tempdir().unwrap());
    let policy = Policy::new(&format!("rules: [{{namespaces: [shop], authMounts: [{auth}], audiences: [vault]}}]"));
    let pages = free();
    let (flag, metrics_flag) = (policy.flag(), format!("--metrics-addr={pages}"));
    let tls_dir = format!("--tls-dir={}", folder.path().display());
    let daemon = Daemon::start(&[&flag, &metrics_flag, &tls_dir]).await;
    assert_eq!(daemon.files(&pod).await["pass"], "s3cret");
    let mine = pod.clone().with("vaultAddress", &tenant.address);
    assert_eq!(daemon.files(&mine).await["pass"], "s3cret", "the operator's own address may be written out");
    for (name, value, rule, cause) in [
        ("vaultAddress", "https://vault.example", "address", Cause::NotAllowed),
        ("vaultSkipTLSVerify", "true", "skip_verify", Cause::MustVerify),
        ("vaultNamespace", "other", "vault_namespace", Cause::NotPermitted),
        ("vaultAuthNamespace", "other", "vault_namespace", Cause::NotPermitted),
        ("vaultAuthMountPath", "kubernetes", "auth_mount", Cause::NotPermitted),
        ("audience", "https://kubernetes.default.svc", "audience", Cause::NotPermitted),
        ("vaultCACertPath", "/etc/ssl/ca.pem", "certificate_file", Cause::NotPermitted),
        ("vaultCADirectory", "/etc/ssl", "certificate_file", Cause::NotPermitted),
    ] {
        let line = format!("vaultmount_policy_denials_total{{rule=\"{rule}\"}} ");
        let count = async || {
            let (_, metrics) = get(&format!("http://{pages}/metrics")).await;
            let number = metrics.lines().find_map(|l| l.strip_prefix(&line)).unwrap_or_else(|| panic!("{line}"));
            number.parse::<u32>().unwrap()
        };
        let before = count().await;
        let text = daemon.refuses(&pod.clone().with(name, value), cause, &[]).await;
        assert!(text.contains(policy.path()) || text.contains("--tls-dir"), "{name}: {text}");
        assert_eq!(count().await, before + 1, "{name}");
    }
    // Of another namespace.
    let other = Pod { namespace: "bank".into(), ..pod.clone() };
    daemon.refuses(&other, Cause::NotPermitted, &["namespace \"bank\"", "add the namespace"]).await;
}

#[tokio::test]
async fn a_link_out_of_the_folder_of_certificate_files_is_refused() {
    let (_tenant, pod) = arranged().await;
    let folder = tempfile::tempdir().unwrap();
    let inside = folder.path().join("tls");
    std::fs::create_dir(&inside).unwrap();
    std::fs::write(folder.path().join("key.pem"), "").unwrap();
    std::os::unix::fs::symlink("../key.pem", inside.join("ca.pem")).unwrap();
    let daemon = Daemon::start(&[&format!("--tls-dir={}", inside.display())]).await;
    let pod = pod.with("vaultCACertPath", inside.join("ca.pem").display().to_string());
    daemon.refuses(&pod, Cause::NotPermitted, &["is a link to something that is not below", "--tls-dir"]).await;
}

#[tokio::test]
async fn a_policy_that_changes_is_in_force_and_one_that_breaks_is_not() {
    let (tenant, pod) = arranged().await;
    let allowing = format!("rules: [{{namespaces: [shop], authMounts: [{}]}}]", tenant.auth);
    let (log, policy, pages) = (Log::new(), Policy::new(&allowing), free());
    let daemon = Daemon::start(&[&policy.flag(), &format!("--metrics-addr={pages}")]).await;
    daemon.files(&pod).await;
    policy.says("rules: []");
    log.says("the policy file has changed, and is in force", 1, EVERY).await;
    // Also for a pod that has its secrets: a poll is refused, and what the pod has stays.
    daemon.refuses(&pod, Cause::NotPermitted, &["add the namespace"]).await;
    policy.says("rule: []");
    log.says("cannot be used, what it said before is in force", 1, EVERY).await;
    assert!(log.text().contains("policy.yaml:3:1: rule: is unknown; did you mean rules?"), "{}", log.text());
    daemon.refuses(&pod, Cause::NotPermitted, &["add the namespace"]).await;
    let (_, metrics) = get(&format!("http://{pages}/metrics")).await;
    assert!(metrics.contains("vaultmount_policy_last_reload_successful 0\n"), "{metrics}");
    policy.says(&allowing);
    log.says("the policy file has changed, and is in force", 2, EVERY).await;
    assert_eq!(daemon.files(&pod).await["pass"], "s3cret");
    assert_eq!(log.count("cannot be used"), 1, "{}", log.text());
}

#[tokio::test]
async fn an_endpoint_without_its_files_is_warned_of_at_start_and_at_each_change() {
    let prod = "prod: {address: \"https://prod\", tls: {caCertPath: /nowhere/ca.pem}}";
    let (log, policy) = (Log::new(), Policy::new(&format!("endpoints: {{{prod}}}")));
    let _daemon = Daemon::start(&[&policy.flag()]).await;
    let says = "endpoint prod of the policy file cannot be used as it is: cannot read the CA file /nowhere/ca.pem: No such file";
    log.says(says, 1, Duration::ZERO).await;
    let lab = "lab: {address: \"https://lab\", tls: {clientCertPath: /nowhere/c.pem, clientKeyPath: /nowhere/k.pem}}";
    policy.says(&format!("endpoints: {{{prod}, {lab}}}"));
    log.says(says, 2, EVERY).await;
    log.says("endpoint lab of the policy file cannot be used as it is", 1, EVERY).await;
    assert!(log.text().contains("/nowhere/c.pem: No such file"), "{}", log.text());
    assert_eq!(log.count("cannot be used as it is"), 3, "{}", log.text());
}

#[tokio::test]
async fn an_address_of_a_class_is_warned_of_once_and_counted_where_there_is_no_policy() {
    let ((_tenant, pod), vault, pages) = (arranged().await, Faulty::start().await, free());
    let program = Program::start(&["--allow-address=http://127.0.0.1:*", &format!("--metrics-addr={pages}")]).await;
    let mut client = vaultmount::provider::client::Client::connect(&program.socket).await.unwrap();
    let own = pod.clone().with("vaultAddress", &vault.address);
    for call in [own.call(), own.call(), own.with("vaultNamespace", "/").call(), pod.call()] {
        client.mount(call).await.unwrap();
    }
    let (_, metrics) = get(&format!("http://{pages}/metrics")).await;
    assert!(metrics.contains("vaultmount_tenant_address_mounts_total 3\n"), "{metrics}");
    program.terminate();
    let log = program.log().await;
    let warned: Vec<&str> = log.lines().filter(|line| line.contains("a class chose the address")).collect();
    assert!(warned.len() == 1 && warned[0].contains(&vault.address) && warned[0].contains("--policy-file"), "{log}");
    assert!(warned[0].contains("namespace=\"shop\"") || warned[0].contains("namespace=shop"), "{log}");
}

#[tokio::test]
async fn a_server_does_not_start_with_a_policy_that_is_wrong() {
    let policy = Policy::new("endpoints: {prod: {}}\nrules: [{namespaces: shop}]");
    let serve = async |flags: &[&str]| ran(&[&["serve", "--endpoint=/nowhere/x.sock"], flags].concat()).await;
    let run = serve(&[&policy.flag()]).await;
    let file = policy.path();
    for line in [
        format!("{file}:3:13: endpoints.prod.address: missing"),
        format!("{file}:4:22: rules[0].namespaces: is text; write a list"),
    ] {
        assert!(run.err.contains(&line) && run.code == Some(2), "{line}");
    }
    let policy = Policy::new("endpoints: {lab: {address: \"https://lab\", tls: {skipVerify: true}}}");
    let run = serve(&[&policy.flag(), "--allow-skip-verify=false", "--allow-address=https://lab"]).await;
    assert!(run.err.contains("endpoints.lab.tls.skipVerify: is what --allow-skip-verify=false forbids"));
    assert!(run.err.contains("--allow-address has no place beside --policy-file"));
    let run = serve(&["--policy-file=/nowhere/policy.yaml"]).await;
    assert!(run.err.contains("/nowhere/policy.yaml cannot be read: No such file"));
    let run = serve(&["--policy-file=", "--allow-skip-verify="]).await;
    for line in ["--policy-file is empty; write a file, or leave the flag out", "--allow-skip-verify is empty"] {
        assert!(run.err.contains(line) && run.code == Some(2), "{line}");
    }
}

/// A class and a pod over it, of namespace `shop`.
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
async fn validate_judges_classes_by_the_policy_before_there_is_a_pod() {
    let rest = "endpoints: {prod: {address: \"https://prod\"}}\nrules: [{namespaces: [shop], endpoints: [prod], authMounts: [kubernetes]}]";
    let (policy, folder) = (Policy::new(rest), tempfile::tempdir().unwrap());
    let path = folder.path().join("shop.yaml");
    std::fs::write(&path, MANIFESTS).unwrap();
    let path = path.to_str().unwrap();
    let run = ran(&["validate", "--policy-file", policy.path(), path]).await;
    for part in [
        "shop.yaml:8:20: error: vaultEndpoint \"prd\" is not in the operator's policy file (did you mean prod?)",
        "shop.yaml:9:25: error: the class may not use the auth mount \"ldap\": namespace \"shop\" may use kubernetes;",
        "volumeAttributes, or have the operator change vaultNamespaces of rules[0]",
        "2 classes, 1 pod, 1 policy",
    ] {
        assert!(run.out.contains(part), "{part}");
    }
    assert_eq!(run.out.matches(": error: ").count(), 3, "{}", run.out);
    // An endpoint's address, written out, is the endpoint's.
    let rule = "namespaces: [shop], endpoints: [prod], authMounts: [kubernetes], addresses: [\"https://*:*\"]";
    let open = Policy::new(&format!("endpoints: {{prod: {{address: \"https://prod\"}}}}\nrules: [{{{rule}}}]"));
    for (address, is_warned_of) in [("https://prod/x", true), ("https://other", false)] {
        let by_address = format!("vaultAddress: {address}\n    vaultTLSServerName: other");
        let theirs = MANIFESTS.split("---\n").nth(1).unwrap().replace("vaultEndpoint: prod", &by_address);
        let path = folder.path().join("theirs.yaml");
        std::fs::write(&path, theirs).unwrap();
        let run = ran(&["validate", "--policy-file", open.path(), path.to_str().unwrap()]).await;
        let says = "warning: the class may not choose whose certificate is believed at the operator's address (vaultTLSServerName)";
        assert_eq!(run.out.contains(&format!("theirs.yaml:9:25: {says}")), is_warned_of, "{address}: {}", run.out);
    }
    // On its own, and in a ConfigMap.
    let inside = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: policy}\ndata:\n  policy.yaml: |\n    apiVersion: vaultmount/v1\n    kind: Policy\n    rule: []\n";
    for (text, says) in [
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
        let run = ran(&["validate", path.to_str().unwrap()]).await;
        assert!(run.out.contains(says) && run.code == Some(1), "{says}");
    }
    let alone = ran(&["validate", "--policy-file", policy.path()]).await;
    assert!(alone.out.contains("all good") && alone.out.contains("1 policy") && alone.code == Some(0));
    for broken in
        ["apiVersion: vaultmount/v1\nkind: Policy\nendpoints: {a: {}, a: {}}\n", "kind: Policy\nendpoints: {}\n"]
    {
        let path = folder.path().join("y.yaml");
        std::fs::write(&path, broken).unwrap();
        let run = ran(&["validate", path.to_str().unwrap()]).await;
        assert!(run.code == Some(1) && run.out.contains("y.yaml:"), "{broken}");
    }
    let run = ran(&["validate", "--policy-file", path, policy.path()]).await;
    assert!(run.out.contains("the policy file holds more than one document") && run.code == Some(1));
}
