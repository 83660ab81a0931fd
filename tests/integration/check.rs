//! `vaultmount check`: its requests, created credentials, clean-up and output. `error_causes` covers its output for
//! each cause.

use std::process::Stdio;

use jiff::{SignedDuration, Timestamp, tz::TimeZone};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, BufReader};

use crate::{
    kube_api::KubeApi,
    support::{
        bao::{Tenant, root_request},
        cli::{CliRun, Output},
        daemon::vaultmount_command,
        database::DatabaseEngine,
        fault_proxy::{Fault, FaultProxy, Gate, respond},
        http,
        kubernetes::KubernetesCluster,
        pod::Pod,
        required_env,
        tls::CertificateAuthority,
        unique_name,
    },
};

/// Creates a tenant with a secret, and a pod with one key of it.
async fn fixture() -> (Tenant, Pod) {
    let tenant = Tenant::new().await;
    tenant.write_secret("db", json!({"pass": "s3cret", "user": "shop"})).await;
    let object = format!("- {{objectName: pass, secretPath: {}/data/db, secretKey: pass}}", tenant.kv);
    let pod = Pod::for_tenant(&tenant).with_objects(object);
    (tenant, pod)
}

async fn run_check(pod: &Pod, flags: &[&str]) -> Output {
    let address = format!("--vault-addr={}", required_env("VAULTMOUNT_TEST_BAO_ADDR"));
    CliRun::for_pod(pod).run("check", &[&[address.as_str()], flags].concat()).await
}

/// Returns the number of valid tokens from logins at a tenant's auth mount.
async fn count_live_login_tokens(tenant: &Tenant) -> usize {
    let url = format!("{}/v1/sys/leases/lookup/auth/{}/login/", tenant.address, tenant.auth);
    let (_, found) = http::send("LIST", &url, Some(&required_env("VAULTMOUNT_TEST_BAO_TOKEN")), None, None).await;
    found["data"]["keys"].as_array().map_or(0, Vec::len)
}

/// Returns the output line of a step.
fn step_line<'a>(ran: &'a Output, step: &str) -> &'a str {
    ran.stdout.lines().find(|line| line.get(6..).is_some_and(|rest| rest.starts_with(step))).unwrap_or_default()
}

#[tokio::test]
async fn check_reports_every_step_and_revokes_its_token() {
    let (tenant, pod) = fixture().await;
    let ran = run_check(&pod, &[]).await;
    assert_eq!((ran.code, ran.stderr.as_str()), (Some(0), ""));
    for (step, part) in [
        ("class", "ok    class         \"test-class\": role \"app\", audience \"vault\""),
        ("address", &tenant.address),
        ("TLS", "warn  TLS           http"),
        ("health", "unsealed, active, version "),
        ("token", "of service account shop/app, for vault, valid for "),
        ("login", &format!("auth/{}, role \"app\": policies default, {}; token for 10m", tenant.auth, tenant.policy)),
        ("object", &format!("\"pass\": GET {}/data/db (KV version 2): 6 bytes, 0644", tenant.kv)),
        ("files", "1 file in all, 6 bytes"),
        ("clean-up", "1 token revoked"),
    ] {
        assert!(step_line(&ran, step).contains(part), "{step}: {part}");
    }
    assert!(ran.stdout.ends_with("A pod would get its files.\n"));
    assert!(!ran.stdout.contains("s3cret"));
    assert_eq!(count_live_login_tokens(&tenant).await, 0, "the login's token is revoked");
}

#[tokio::test]
async fn check_reports_failed_objects_beside_good_ones() {
    let (tenant, pod) = fixture().await;
    let object = |name, path, more| format!("- {{objectName: {name}, secretPath: {}/{path}{more}}}\n", tenant.kv);
    let class = [
        object("pass", "data/db", ", secretKey: pass"),
        object("none", "data/db", ", secretKey: none"),
        object("maybe", "data/missing", ", optional: true"),
        object("denied", "../other", "").replace(&format!("{}/../", tenant.kv), ""),
        object("all", "data/db", ", secretKey: '*'"),
    ];
    let ran = run_check(&pod.with_objects(class.concat()), &[]).await;
    assert_eq!(ran.code, Some(1));
    for part in [
        "ok    object        \"pass\": ",
        "FAIL  object        \"none\": key \"none\" is not in the secret, which has the keys \"pass\", \"user\" [VM0070]",
        "ok    object        \"maybe\": ",
        "which `optional: true` allows",
        "FAIL  object        \"denied\": role \"app\"",
        "is denied reading other at ",
        "add to a policy of the role: path \"other\" { capabilities = [\"read\"] }",
        "ok    object        \"all\": ",
        "2 files: \"all/pass\", \"all/user\"",
        "3 files in all, 16 bytes, without those of 2 objects",
        "2 problems",
    ] {
        assert!(ran.stdout.contains(part), "{part}");
    }
    assert_eq!(count_live_login_tokens(&tenant).await, 0);
}

#[tokio::test]
async fn check_create_sends_mutating_reads_and_revokes_leases() {
    let (tenant, pod) = fixture().await;
    let database = DatabaseEngine::for_tenant(&tenant).await;
    let object = |name, key| format!("- {{objectName: {name}, secretPath: {}, secretKey: {key}}}\n", database.path);
    let pod = pod.with_objects(object("user", "username") + &object("pass", "password"));
    let ran = run_check(&pod, &[]).await;
    assert_eq!(ran.code, Some(0));
    let part =
        format!("skip  object        \"user\": GET {} (database): not sent, because it would create", database.path);
    assert!(ran.stdout.contains(&part) && ran.stdout.contains("the policies allow it"));
    assert!(ran.stdout.contains("objects not tested: 2 (--create"));
    assert!(database.users().await.is_empty());

    let ran = run_check(&pod, &["--create"]).await;
    assert_eq!(ran.code, Some(0));
    assert!(ran.stdout.contains("2 files in all") && ran.stdout.contains("1 token revoked, with 1 lease"));
    assert!(!ran.stdout.contains("left behind"));
    database.wait_until_no_users().await;
    assert_eq!(count_live_login_tokens(&tenant).await, 0);
}

#[tokio::test]
async fn check_create_names_unleased_resources_left_behind() {
    let (tenant, pod) = fixture().await;
    let pki = unique_name("pki");
    root_request("POST", &format!("sys/mounts/{pki}"), json!({"type": "pki"})).await;
    root_request("POST", &format!("{pki}/root/generate/internal"), json!({"common_name": "CA", "key_type": "ec"}))
        .await;
    let role = json!({"allow_any_name": true, "key_type": "ec", "ttl": "1h"});
    root_request("POST", &format!("{pki}/roles/web"), role).await;
    let policy = format!(
        "path \"{pki}/issue/web\" {{ capabilities = [\"update\"] }}\npath \"{}/*\" {{ capabilities = [\"create\", \"update\"] }}",
        tenant.kv
    );
    tenant.set_policy(&policy).await;
    let class = format!(
        "- {{objectName: tls, secretPath: {pki}/issue/web, method: PUT, secretArgs: {{common_name: XMARKX}}}}\n\
         - {{objectName: note, secretPath: {}/data/note, method: PUT, secretArgs: {{data: {{x: XMARKX}}}}}}",
        tenant.kv
    );
    let pod = pod.with_objects(class);
    let ran = run_check(&pod, &[]).await;
    assert_eq!((ran.code, ran.stdout.matches("the policies allow it").count()), (Some(0), 2));
    let ran = run_check(&pod, &["--create"]).await;
    assert_eq!(ran.code, Some(0));
    let serials = root_request("LIST", &format!("{pki}/certs"), Value::Null).await["data"]["keys"].clone();
    let named =
        |serial: &Value| step_line(&ran, "left behind").contains(&format!("certificate {}", serial.as_str().unwrap()));
    assert!(serials.as_array().unwrap().iter().any(named), "{serials}");
    assert!(ran.stdout.contains(&format!("left behind   data or resources created by {}/data/note", tenant.kv)));
    assert!(!ran.stdout.contains("XMARKX"));
}

#[tokio::test]
async fn check_predicts_denial_of_unsent_write_with_policy_fix() {
    let (tenant, pod) = fixture().await;
    tenant.set_policy(&format!("path \"{}/data/*\" {{ capabilities = [\"read\"] }}", tenant.kv)).await;
    let path = format!("{}/data/new", tenant.kv);
    let pod = pod.with_objects(format!("- {{objectName: x, secretPath: {path}, method: PUT}}"));
    let ran = run_check(&pod, &[]).await;
    assert_eq!(ran.code, Some(1));
    let stanza = format!("path \"{path}\" {{ capabilities = [\"create\", \"update\"] }}");
    assert!(ran.stdout.contains("[VM0050]") && ran.stdout.contains(&stanza));
}

#[tokio::test]
async fn check_output_json_has_every_step() {
    let (tenant, pod) = fixture().await;
    let object = |name, key| format!("- {{objectName: {name}, secretPath: {}/data/db, secretKey: {key}}}\n", tenant.kv);
    let ran = run_check(&pod.with_objects(object("a", "pass") + &object("b", "none")), &["-o", "json"]).await;
    assert_eq!((ran.code, ran.stderr.as_str()), (Some(1), ""));
    let report: Value = serde_json::from_str(&ran.stdout).unwrap();
    let steps: Vec<(&str, &str)> = report["steps"]
        .as_array()
        .unwrap()
        .iter()
        .map(|step| (step["step"].as_str().unwrap(), step["status"].as_str().unwrap()))
        .collect();
    let expected = [
        ("class", "ok"),
        ("address", "ok"),
        ("TLS", "warning"),
        ("health", "ok"),
        ("token", "ok"),
        ("login", "ok"),
        ("object", "ok"),
        ("object", "failed"),
        ("files", "ok"),
        ("clean-up", "ok"),
    ];
    assert_eq!((report["ok"].as_bool(), steps.as_slice()), (Some(false), &expected[..]));
    let failed = &report["steps"][7];
    assert_eq!((failed["object"].as_str(), failed["id"].as_str()), (Some("b"), Some("VM0070")));
    assert_eq!(failed["code"], "NotFound");
    assert!(failed["fix"].as_str().unwrap().contains("optional: true") && failed["server_message"].is_null());
}

#[tokio::test]
async fn check_batch_token_is_reported_as_not_revocable() {
    let (tenant, pod) = fixture().await;
    tenant.write_role("app", json!({"token_type": "batch"})).await;
    let ran = run_check(&pod, &[]).await;
    assert_eq!(ran.code, Some(0));
    assert!(step_line(&ran, "login").contains("batch token for 10m"));
    assert!(step_line(&ran, "clean-up").contains("a batch token cannot be revoked; it expires within 10m"));
}

/// Returns the output of a check that is interrupted once the proxy has received a request and holds it, for a while or
/// forever.
async fn interrupt_check(
    pod: &Pod,
    flags: &[&str],
    vault: &FaultProxy,
    method: &str,
    path: &str,
    gate: Option<&Gate>,
) -> (Option<i32>, String) {
    let by_hand = CliRun::for_pod(pod);
    let address = format!("--vault-addr={}", vault.address);
    let mut command = vaultmount_command(&by_hand.arguments("check", &[&[address.as_str()], flags].concat()));
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    vault.wait_for(1, method, path).await;
    let pid = child.id().unwrap().to_string();
    let signal = if gate.is_some() { "-TERM" } else { "-INT" };
    assert!(std::process::Command::new("kill").args([signal, &pid]).status().unwrap().success());
    let mut stderr = BufReader::new(child.stderr.take().unwrap()).lines();
    assert!(stderr.next_line().await.unwrap().unwrap().contains("interrupted"));
    if let Some(gate) = gate {
        gate.open();
    }
    let output = child.wait_with_output().await.unwrap();
    (output.status.code(), String::from_utf8(output.stdout).unwrap())
}

#[tokio::test]
async fn check_interrupted_revokes_its_token() {
    let (tenant, pod) = fixture().await;
    let vault = FaultProxy::start().await;
    let (gate, path) = (Gate::new(), format!("{}/data/db", tenant.kv));
    vault.always("GET", &path, Fault::HoldRequest(gate.clone()));
    let (code, out) = interrupt_check(&pod, &[], &vault, "GET", &path, None).await;
    assert_eq!(code, Some(1), "{out}");
    assert!(out.contains("skip  the rest      interrupted") && out.contains("1 token revoked"), "{out}");
    assert_eq!(count_live_login_tokens(&tenant).await, 0);
    gate.open();
}

#[tokio::test]
async fn check_interrupted_during_login_revokes_new_token() {
    let (tenant, pod) = fixture().await;
    let vault = FaultProxy::start().await;
    let (gate, path) = (Gate::new(), format!("auth/{}/login", tenant.auth));
    vault.always("POST", &path, Fault::HoldResponse(gate.clone()));
    let (code, out) = interrupt_check(&pod, &[], &vault, "POST", &path, Some(&gate)).await;
    assert_eq!(code, Some(1), "{out}");
    assert!(out.contains("skip  the rest      interrupted") && out.contains("1 token revoked"), "{out}");
    assert_eq!(count_live_login_tokens(&tenant).await, 0);
}

#[tokio::test]
async fn check_token_num_uses_leaves_no_token() {
    for (uses, revoked) in [(2, "3 tokens revoked"), (1, "a token has no uses left and is no longer valid")] {
        let (tenant, pod) = fixture().await;
        tenant.write_role("app", json!({"token_num_uses": uses})).await;
        for name in ["b", "c"] {
            tenant.write_secret(name, json!({"pass": "s3cret"})).await;
        }
        let object =
            |name| format!("- {{objectName: {name}, secretPath: {}/data/{name}, secretKey: pass}}\n", tenant.kv);
        let ran = run_check(&pod.with_objects(["db", "b", "c"].map(object).concat()), &[]).await;
        assert_eq!(ran.code, Some(0));
        assert!(ran.stdout.contains(revoked) && ran.stdout.contains("3 files in all"));
        assert_eq!(count_live_login_tokens(&tenant).await, 0);
    }
}

#[tokio::test]
async fn check_create_names_write_without_file_left_behind() {
    let (tenant, pod) = fixture().await;
    let kv = unique_name("kv");
    root_request("POST", &format!("sys/mounts/{kv}"), json!({"type": "kv", "options": {"version": "1"}})).await;
    tenant.set_policy(&format!("path \"{kv}/*\" {{ capabilities = [\"create\", \"update\"] }}")).await;
    let class = format!("- {{objectName: x, secretPath: {kv}/new, method: PUT, secretArgs: {{a: b}}}}");
    let ran = run_check(&pod.with_objects(class), &["--create"]).await;
    assert_eq!(ran.code, Some(1));
    assert!(ran.stdout.contains("[VM0061]"));
    assert!(step_line(&ran, "left behind").contains(&format!("data or resources created by {kv}/new")));
}

#[tokio::test]
async fn check_blocked_health_request_is_only_a_warning() {
    let (_, pod) = fixture().await;
    let vault = FaultProxy::start().await;
    vault.always("GET", "sys/health", respond(403, &[("content-type", "text/html")], "<html>forbidden</html>"));
    let ran = CliRun::for_pod(&pod).run("check", &[&format!("--vault-addr={}", vault.address)]).await;
    assert_eq!(ran.code, Some(0));
    assert!(step_line(&ran, "health").starts_with("warn  health        sys/health is unavailable: "));
}

#[tokio::test]
async fn check_create_interrupted_names_request_in_flight() {
    let (tenant, pod) = fixture().await;
    let pki = unique_name("pki");
    tenant.set_policy(&format!("path \"{pki}/issue/web\" {{ capabilities = [\"update\"] }}")).await;
    root_request("POST", &format!("sys/mounts/{pki}"), json!({"type": "pki"})).await;
    let (vault, gate, path) = (FaultProxy::start().await, Gate::new(), format!("{pki}/issue/web"));
    vault.always("PUT", &path, Fault::HoldRequest(gate.clone()));
    let pod = pod.with_objects(format!("- {{objectName: x, secretPath: {path}, method: PUT}}"));
    let (code, out) = interrupt_check(&pod, &["--create"], &vault, "PUT", &path, None).await;
    assert_eq!(code, Some(1), "{out}");
    assert!(out.contains(&format!("left behind   resources that {path} may still create")), "{out}");
    gate.open();
}

#[tokio::test]
async fn check_revoke_self_denied_names_token_accessor() {
    let (tenant, pod) = fixture().await;
    // A token with limited uses is refused in the same way, and stays valid.
    for uses in [0, 9] {
        tenant.write_role("app", json!({"token_no_default_policy": true, "token_num_uses": uses})).await;
        let ran = run_check(&pod, &[]).await;
        assert_eq!(ran.code, Some(0));
        let report = step_line(&ran, "clean-up");
        assert!(report.contains("do not allow \"update\" on auth/token/revoke-self"), "{report}");
        let accessor = report.rsplit_once("vault token revoke -accessor ").unwrap().1;
        root_request("POST", "auth/token/revoke-accessor", json!({"accessor": accessor})).await;
        assert_eq!(count_live_login_tokens(&tenant).await, 0);
    }
}

#[tokio::test]
async fn check_counts_shared_failed_request_as_one_problem() {
    let (tenant, pod) = fixture().await;
    let object = |name| format!("- {{objectName: {name}, secretPath: {}/data/none, secretKey: a}}\n", tenant.kv);
    let ran = run_check(&pod.with_objects(object("a") + &object("b")), &[]).await;
    assert_eq!(ran.code, Some(1));
    assert!(ran.stdout.contains("skip  object        \"b\": the same request as that of \"a\""));
    assert!(ran.stdout.contains("\n1 problem."));
}

#[tokio::test]
async fn check_all_optional_missing_yields_one_empty_file() {
    let (tenant, pod) = fixture().await;
    let class = format!("- {{objectName: a, secretPath: {}/data/none, optional: true}}", tenant.kv);
    let ran = run_check(&pod.with_objects(class), &[]).await;
    assert_eq!(ran.code, Some(0));
    assert!(ran.stdout.contains("ok    files         1 file in all, 0 bytes"), "{}", ran.stdout);
}

#[tokio::test]
async fn check_token_file_without_token_is_reported() {
    let (_, pod) = fixture().await;
    for content in ["{\"kind\": \"TokenRequest\"}", "hunter2", "eyJh.eyJh.x y\nmore"] {
        let pod = pod.clone().with_tokens(&[("vault", content)]);
        let ran = run_check(&pod, &[]).await;
        assert_eq!(ran.code, Some(1));
        let report = step_line(&ran, "token");
        assert!(
            report.contains("does not contain a service account token [VM0030]") && !ran.stdout.contains("hunter2"),
            "{report}"
        );
    }
}

#[tokio::test]
async fn check_empty_audience_uses_the_default() {
    let (_, pod) = fixture().await;
    let ran = run_check(&pod.with_parameter("audience", ""), &[]).await;
    assert_eq!(ran.code, Some(0));
    assert!(step_line(&ran, "class").contains("audience \"vault\""));
}

#[tokio::test]
async fn check_escapes_control_characters_of_server() {
    let (tenant, pod) = fixture().await;
    let vault = FaultProxy::start().await;
    let health = json!({"initialized": true, "sealed": false, "standby": false, "version": "\u{1b}[2J\u{9b}31m"});
    vault.always("GET", "sys/health", respond(200, &[], health.to_string()));
    let wrong = json!({"errors": ["no \u{1b}]0;title\u{7}"]});
    vault.always("GET", &format!("{}/data/db", tenant.kv), respond(400, &[], wrong.to_string()));
    let ran = CliRun::for_pod(&pod).run("check", &[&format!("--vault-addr={}", vault.address)]).await;
    assert_eq!(ran.code, Some(1));
    assert!(!ran.stdout.chars().any(|c| c.is_control() && c != '\n'), "{:?}", ran.stdout);
}

#[tokio::test]
async fn check_predicts_policies_across_vault_namespaces() {
    let (tenant, pod) = fixture().await;
    let name = unique_name("ns");
    root_request("POST", &format!("sys/namespaces/{name}"), json!({})).await;
    root_request("POST", &format!("{name}/sys/mounts/kv"), json!({"type": "kv", "options": {"version": "1"}})).await;
    tenant.set_policy(&format!("path \"{name}/kv/*\" {{ capabilities = [\"update\"] }}")).await;
    let pod = pod.with_parameter("vaultNamespace", &name).with_parameter("vaultAuthNamespace", "/");
    let object = |path| format!("- {{objectName: x, secretPath: {path}, method: PUT}}");
    let ran = run_check(&pod.clone().with_objects(object("kv/x")), &[]).await;
    assert_eq!(ran.code, Some(0));
    assert!(
        step_line(&ran, "object").contains("PUT kv/x (KV version 1): not sent")
            && ran.stdout.contains("policies allow it")
    );
    let ran = run_check(&pod.with_objects(object("other/x")), &[]).await;
    assert_eq!(ran.code, Some(1));
    assert!(ran.stdout.contains(&format!("path \"{name}/other/x\" {{ capabilities = [\"create\", \"update\"] }}")));
}

#[tokio::test]
async fn check_invalid_file_flags_or_token_file_fails() {
    let (_, pod) = fixture().await;
    let ran = run_check(&pod, &["--file=nowhere.yaml"]).await;
    assert_eq!(ran.code, Some(1));
    assert!(step_line(&ran, "class").contains("nowhere.yaml") && ran.stdout.contains("[VM0085]"));
    let ran = run_check(&pod, &["--vault-addr=nowhere", "--mint-tokens=perhaps"]).await;
    assert_eq!((ran.code, ran.stderr.lines().count()), (Some(2), 2));
    assert!(ran.stderr.lines().all(|line| line.starts_with("vaultmount: ")), "{}", ran.stderr);
    let ran = run_check(&pod, &["--token-file=/nowhere/token"]).await;
    assert_eq!(ran.code, Some(1));
    assert!(
        ran.stdout.contains("FAIL  token") && ran.stdout.contains("[VM0030]"),
        "the way to Vault is checked all the same"
    );
}

#[tokio::test]
async fn check_kubeconfig_user_mints_the_token() {
    let (tenant, pod) = fixture().await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("kubeconfig");
    let flag = format!("--kubeconfig={}", path.display());

    let cluster = KubernetesCluster::for_tenant(&tenant).await;
    let mut pod = pod.with_parameter("vaultAuthMountPath", &cluster.auth);
    pod.tokens = None;
    std::fs::write(&path, cluster.api.kubeconfig("csi", "any")).unwrap();
    let ran = run_check(&pod, &[&flag]).await;
    assert_eq!(ran.code, Some(0));
    let minted = cluster.api.request_lines().into_iter().filter(|l| l.contains("/serviceaccounts/app/token")).count();
    assert_eq!(minted, 1, "{:?}", cluster.api.request_lines());

    let refusing =
        KubernetesCluster::with_api(&tenant, KubeApi::builder().deny("create", "serviceaccounts/token")).await;
    std::fs::write(&path, refusing.api.kubeconfig("csi", "any")).unwrap();
    let ran = run_check(&pod, &[&flag]).await;
    assert_eq!(ran.code, Some(1));
    assert!(step_line(&ran, "token").contains("shop/app") && ran.stdout.contains("[VM0092]"));
}

#[tokio::test]
async fn check_warns_of_certificate_expiring_soon() {
    let (_, pod) = fixture().await;
    let authority = CertificateAuthority::new();
    let pod = pod.with_parameter("vaultCACert", authority.pem());
    let soon = (Timestamp::now() + SignedDuration::from_hours(24)).to_zoned(TimeZone::UTC).date();
    let soon_day = (i32::from(soon.year()), u8::try_from(soon.month()).unwrap(), u8::try_from(soon.day()).unwrap());
    for ((year, month, day), part) in [
        (
            (2100, 1, 1),
            "ok    TLS           the certificate is trusted and valid for this name, until 2100-01-01T00:00:00Z",
        ),
        (soon_day, "warn  TLS           the certificate is trusted and valid for this name, but expires in"),
    ] {
        let vault = FaultProxy::start_tls(authority.server_config_with_expiry(year, month, day)).await;
        let ran = CliRun::for_pod(&pod).run("check", &[&format!("--vault-addr={}", vault.address)]).await;
        assert_eq!(ran.code, Some(0));
        assert!(step_line(&ran, "TLS").starts_with(part), "{part}");
        let ran = CliRun::for_pod(&pod.clone().with_parameter("vaultSkipTLSVerify", "true"));
        let ran = ran.run("check", &[&format!("--vault-addr={}", vault.address)]).await;
        assert!(step_line(&ran, "TLS").starts_with("warn  TLS           the certificate is not verified"));
    }
}
