//! `vaultmount check`: what it asks, creates, clears away and says. What it says of each cause is in `diagnoses`.

use std::process::Stdio;

use jiff::{SignedDuration, Timestamp, tz::TimeZone};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, BufReader};

use crate::{
    kube_api::KubeApi,
    support::{
        bao::{Tenant, root},
        by_hand::{ByHand, Ran},
        cluster::Cluster,
        daemon::program,
        database::Database,
        faulty::{Fault, Faulty, Gate, answer},
        http,
        pod::Pod,
        setting,
        tls::Authority,
        unique,
    },
};

/// A tenant with a secret, and the class that wants a key of it.
async fn arranged() -> (Tenant, Pod) {
    let tenant = Tenant::new().await;
    tenant.put("db", json!({"pass": "s3cret", "user": "shop"})).await;
    let object = format!("- {{objectName: pass, secretPath: {}/data/db, secretKey: pass}}", tenant.kv);
    let pod = Pod::of(&tenant).objects(object);
    (tenant, pod)
}

async fn check(pod: &Pod, flags: &[&str]) -> Ran {
    let address = format!("--vault-addr={}", setting("VAULTMOUNT_TEST_BAO_ADDR"));
    ByHand::of(pod).run("check", &[&[address.as_str()], flags].concat()).await
}

/// The tokens that logins at a tenant's auth mount brought and that still live.
async fn tokens(tenant: &Tenant) -> usize {
    let url = format!("{}/v1/sys/leases/lookup/auth/{}/login/", tenant.address, tenant.auth);
    let (_, found) = http::send("LIST", &url, Some(&setting("VAULTMOUNT_TEST_BAO_TOKEN")), None, None).await;
    found["data"]["keys"].as_array().map_or(0, Vec::len)
}

/// The line of a step.
fn line<'a>(ran: &'a Ran, step: &str) -> &'a str {
    ran.out.lines().find(|line| line.get(6..).is_some_and(|rest| rest.starts_with(step))).unwrap_or_default()
}

#[tokio::test]
async fn every_step_of_a_mount_is_told_and_nothing_stays() {
    let (tenant, pod) = arranged().await;
    let ran = check(&pod, &[]).await;
    assert_eq!((ran.code, ran.err.as_str()), (Some(0), ""));
    for (step, says) in [
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
        assert!(line(&ran, step).contains(says), "{step}: {says}");
    }
    assert!(ran.out.ends_with("A pod would get its files.\n"));
    assert!(!ran.out.contains("s3cret"));
    assert_eq!(tokens(&tenant).await, 0, "the login's token is revoked");
}

#[tokio::test]
async fn every_object_that_fails_is_told_beside_those_that_do_not() {
    let (tenant, pod) = arranged().await;
    let object = |name, path, more| format!("- {{objectName: {name}, secretPath: {}/{path}{more}}}\n", tenant.kv);
    let class = [
        object("pass", "data/db", ", secretKey: pass"),
        object("none", "data/db", ", secretKey: none"),
        object("maybe", "data/missing", ", optional: true"),
        object("denied", "../other", "").replace(&format!("{}/../", tenant.kv), ""),
        object("all", "data/db", ", secretKey: '*'"),
    ];
    let ran = check(&pod.objects(class.concat()), &[]).await;
    assert_eq!(ran.code, Some(1));
    for says in [
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
        assert!(ran.out.contains(says), "{says}");
    }
    assert_eq!(tokens(&tenant).await, 0);
}

#[tokio::test]
async fn what_creates_is_sent_only_when_asked_for_and_revoked_then() {
    let (tenant, pod) = arranged().await;
    let database = Database::of(&tenant).await;
    let object = |name, key| format!("- {{objectName: {name}, secretPath: {}, secretKey: {key}}}\n", database.path);
    let pod = pod.objects(object("user", "username") + &object("pass", "password"));
    let ran = check(&pod, &[]).await;
    assert_eq!(ran.code, Some(0));
    let says = format!("skip  object        \"user\": GET {} (database): not sent, as it would create", database.path);
    assert!(ran.out.contains(&says) && ran.out.contains("the policies allow it"));
    assert!(ran.out.contains("objects that were not tried: 2 (--create"));
    assert!(database.users().await.is_empty());

    let ran = check(&pod, &["--create"]).await;
    assert_eq!(ran.code, Some(0));
    assert!(ran.out.contains("2 files in all") && ran.out.contains("1 token revoked, and so 1 lease"));
    assert!(!ran.out.contains("left behind"));
    database.empties().await;
    assert_eq!(tokens(&tenant).await, 0);
}

#[tokio::test]
async fn what_has_no_lease_is_named_as_left_behind() {
    let (tenant, pod) = arranged().await;
    let pki = unique("pki");
    root("POST", &format!("sys/mounts/{pki}"), json!({"type": "pki"})).await;
    root("POST", &format!("{pki}/root/generate/internal"), json!({"common_name": "CA", "key_type": "ec"})).await;
    let role = json!({"allow_any_name": true, "key_type": "ec", "ttl": "1h"});
    root("POST", &format!("{pki}/roles/web"), role).await;
    let policy = format!(
        "path \"{pki}/issue/web\" {{ capabilities = [\"update\"] }}\npath \"{}/*\" {{ capabilities = [\"create\", \"update\"] }}",
        tenant.kv
    );
    tenant.allow(&policy).await;
    let class = format!(
        "- {{objectName: tls, secretPath: {pki}/issue/web, method: PUT, secretArgs: {{common_name: XMARKX}}}}\n\
         - {{objectName: note, secretPath: {}/data/note, method: PUT, secretArgs: {{data: {{x: XMARKX}}}}}}",
        tenant.kv
    );
    let pod = pod.objects(class);
    let ran = check(&pod, &[]).await;
    assert_eq!((ran.code, ran.out.matches("the policies allow it").count()), (Some(0), 2));
    let ran = check(&pod, &["--create"]).await;
    assert_eq!(ran.code, Some(0));
    let serials = root("LIST", &format!("{pki}/certs"), Value::Null).await["data"]["keys"].clone();
    let named =
        |serial: &Value| line(&ran, "left behind").contains(&format!("certificate {}", serial.as_str().unwrap()));
    assert!(serials.as_array().unwrap().iter().any(named), "{serials}");
    assert!(ran.out.contains(&format!("left behind   what {}/data/note wrote or made", tenant.kv)));
    assert!(!ran.out.contains("XMARKX"));
}

#[tokio::test]
async fn what_is_not_sent_and_would_be_denied_is_told_with_what_lacks() {
    let (tenant, pod) = arranged().await;
    tenant.allow(&format!("path \"{}/data/*\" {{ capabilities = [\"read\"] }}", tenant.kv)).await;
    let path = format!("{}/data/new", tenant.kv);
    let pod = pod.objects(format!("- {{objectName: x, secretPath: {path}, method: PUT}}"));
    let ran = check(&pod, &[]).await;
    assert_eq!(ran.code, Some(1));
    let stanza = format!("path \"{path}\" {{ capabilities = [\"create\", \"update\"] }}");
    assert!(ran.out.contains("[VM0050]") && ran.out.contains(&stanza));
}

#[tokio::test]
async fn json_has_every_step() {
    let (tenant, pod) = arranged().await;
    let object = |name, key| format!("- {{objectName: {name}, secretPath: {}/data/db, secretKey: {key}}}\n", tenant.kv);
    let ran = check(&pod.objects(object("a", "pass") + &object("b", "none")), &["-o", "json"]).await;
    assert_eq!((ran.code, ran.err.as_str()), (Some(1), ""));
    let told: Value = serde_json::from_str(&ran.out).unwrap();
    let steps: Vec<(&str, &str)> = told["steps"]
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
    assert_eq!((told["ok"].as_bool(), steps.as_slice()), (Some(false), &expected[..]));
    let failed = &told["steps"][7];
    assert_eq!((failed["object"].as_str(), failed["id"].as_str()), (Some("b"), Some("VM0070")));
    assert_eq!(failed["code"], "NotFound");
    assert!(failed["fix"].as_str().unwrap().contains("optional: true") && failed["server_message"].is_null());
}

#[tokio::test]
async fn a_batch_token_is_said_to_stay() {
    let (tenant, pod) = arranged().await;
    tenant.role("app", json!({"token_type": "batch"})).await;
    let ran = check(&pod, &[]).await;
    assert_eq!(ran.code, Some(0));
    assert!(line(&ran, "login").contains("batch token for 10m"));
    assert!(line(&ran, "clean-up").contains("a batch token cannot be revoked; it ends within 10m"));
}

/// What a check prints that is interrupted once the proxy has seen a request, and is held there for a while or for good.
async fn interrupted(
    pod: &Pod,
    flags: &[&str],
    vault: &Faulty,
    method: &str,
    path: &str,
    gate: Option<&Gate>,
) -> (Option<i32>, String) {
    let by_hand = ByHand::of(pod);
    let address = format!("--vault-addr={}", vault.address);
    let mut command = program(&by_hand.arguments("check", &[&[address.as_str()], flags].concat()));
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    vault.saw(1, method, path).await;
    let pid = child.id().unwrap().to_string();
    let signal = if gate.is_some() { "-TERM" } else { "-INT" };
    assert!(std::process::Command::new("kill").args([signal, &pid]).status().unwrap().success());
    let mut said = BufReader::new(child.stderr.take().unwrap()).lines();
    assert!(said.next_line().await.unwrap().unwrap().contains("interrupted"));
    if let Some(gate) = gate {
        gate.open();
    }
    let output = child.wait_with_output().await.unwrap();
    (output.status.code(), String::from_utf8(output.stdout).unwrap())
}

#[tokio::test]
async fn who_interrupts_leaves_no_token() {
    let (tenant, pod) = arranged().await;
    let vault = Faulty::start().await;
    let (gate, path) = (Gate::new(), format!("{}/data/db", tenant.kv));
    vault.every("GET", &path, Fault::Hold(gate.clone()));
    let (code, out) = interrupted(&pod, &[], &vault, "GET", &path, None).await;
    assert_eq!(code, Some(1), "{out}");
    assert!(out.contains("skip  the rest      interrupted") && out.contains("1 token revoked"), "{out}");
    assert_eq!(tokens(&tenant).await, 0);
    gate.open();
}

#[tokio::test]
async fn a_login_that_is_under_way_is_waited_for_and_cleared_away() {
    let (tenant, pod) = arranged().await;
    let vault = Faulty::start().await;
    let (gate, path) = (Gate::new(), format!("auth/{}/login", tenant.auth));
    vault.every("POST", &path, Fault::HoldAnswer(gate.clone()));
    let (code, out) = interrupted(&pod, &[], &vault, "POST", &path, Some(&gate)).await;
    assert_eq!(code, Some(1), "{out}");
    assert!(out.contains("skip  the rest      interrupted") && out.contains("1 token revoked"), "{out}");
    assert_eq!(tokens(&tenant).await, 0);
}

#[tokio::test]
async fn every_token_of_few_uses_is_cleared_away() {
    for (uses, revoked) in [(2, "3 tokens revoked"), (1, "a token is used up, and so over")] {
        let (tenant, pod) = arranged().await;
        tenant.role("app", json!({"token_num_uses": uses})).await;
        for name in ["b", "c"] {
            tenant.put(name, json!({"pass": "s3cret"})).await;
        }
        let object =
            |name| format!("- {{objectName: {name}, secretPath: {}/data/{name}, secretKey: pass}}\n", tenant.kv);
        let ran = check(&pod.objects(["db", "b", "c"].map(object).concat()), &[]).await;
        assert_eq!(ran.code, Some(0));
        assert!(ran.out.contains(revoked) && ran.out.contains("3 files in all"));
        assert_eq!(tokens(&tenant).await, 0);
    }
}

#[tokio::test]
async fn a_write_whose_answer_makes_no_file_is_named_as_left_behind() {
    let (tenant, pod) = arranged().await;
    let kv = unique("kv");
    root("POST", &format!("sys/mounts/{kv}"), json!({"type": "kv", "options": {"version": "1"}})).await;
    tenant.allow(&format!("path \"{kv}/*\" {{ capabilities = [\"create\", \"update\"] }}")).await;
    let class = format!("- {{objectName: x, secretPath: {kv}/new, method: PUT, secretArgs: {{a: b}}}}");
    let ran = check(&pod.objects(class), &["--create"]).await;
    assert_eq!(ran.code, Some(1));
    assert!(ran.out.contains("[VM0061]"));
    assert!(line(&ran, "left behind").contains(&format!("what {kv}/new wrote or made")));
}

#[tokio::test]
async fn a_proxy_that_lets_only_logins_and_secrets_pass_is_no_fault() {
    let (_, pod) = arranged().await;
    let vault = Faulty::start().await;
    vault.every("GET", "sys/health", answer(403, &[("content-type", "text/html")], "<html>forbidden</html>"));
    let ran = ByHand::of(&pod).run("check", &[&format!("--vault-addr={}", vault.address)]).await;
    assert_eq!(ran.code, Some(0));
    assert!(line(&ran, "health").starts_with("warn  health        sys/health does not tell: "));
}

#[tokio::test]
async fn what_may_be_made_while_nobody_waits_is_named() {
    let (tenant, pod) = arranged().await;
    let pki = unique("pki");
    tenant.allow(&format!("path \"{pki}/issue/web\" {{ capabilities = [\"update\"] }}")).await;
    root("POST", &format!("sys/mounts/{pki}"), json!({"type": "pki"})).await;
    let (vault, gate, path) = (Faulty::start().await, Gate::new(), format!("{pki}/issue/web"));
    vault.every("PUT", &path, Fault::Hold(gate.clone()));
    let pod = pod.objects(format!("- {{objectName: x, secretPath: {path}, method: PUT}}"));
    let (code, out) = interrupted(&pod, &["--create"], &vault, "PUT", &path, None).await;
    assert_eq!(code, Some(1), "{out}");
    assert!(out.contains(&format!("left behind   what {path} may be making still")), "{out}");
    gate.open();
}

#[tokio::test]
async fn a_token_that_may_not_end_itself_is_named_for_who_can() {
    let (tenant, pod) = arranged().await;
    // One of few uses is refused alike, and is not over.
    for uses in [0, 9] {
        tenant.role("app", json!({"token_no_default_policy": true, "token_num_uses": uses})).await;
        let ran = check(&pod, &[]).await;
        assert_eq!(ran.code, Some(0));
        let told = line(&ran, "clean-up");
        assert!(told.contains("lack \"update\" on auth/token/revoke-self"), "{told}");
        let accessor = told.rsplit_once("vault token revoke -accessor ").unwrap().1;
        root("POST", "auth/token/revoke-accessor", json!({"accessor": accessor})).await;
        assert_eq!(tokens(&tenant).await, 0);
    }
}

#[tokio::test]
async fn objects_of_one_failed_request_are_one_problem() {
    let (tenant, pod) = arranged().await;
    let object = |name| format!("- {{objectName: {name}, secretPath: {}/data/none, secretKey: a}}\n", tenant.kv);
    let ran = check(&pod.objects(object("a") + &object("b")), &[]).await;
    assert_eq!(ran.code, Some(1));
    assert!(ran.out.contains("skip  object        \"b\": the same request as that of \"a\""));
    assert!(ran.out.contains("\n1 problem;"));
}

#[tokio::test]
async fn a_class_whose_every_object_may_be_absent_makes_an_empty_file() {
    let (tenant, pod) = arranged().await;
    let class = format!("- {{objectName: a, secretPath: {}/data/none, optional: true}}", tenant.kv);
    let ran = check(&pod.objects(class), &[]).await;
    assert_eq!(ran.code, Some(0));
    assert!(ran.out.contains("ok    files         1 file in all, 0 bytes"), "{}", ran.out);
}

#[tokio::test]
async fn a_file_that_holds_no_token_is_told_as_such() {
    let (_, pod) = arranged().await;
    for content in ["{\"kind\": \"TokenRequest\"}", "hunter2", "eyJh.eyJh.x y\nmore"] {
        let pod = pod.clone().pass(&[("vault", content)]);
        let ran = check(&pod, &[]).await;
        assert_eq!(ran.code, Some(1));
        let told = line(&ran, "token");
        assert!(told.contains("holds no service account token [VM0030]") && !ran.out.contains("hunter2"), "{told}");
    }
}

#[tokio::test]
async fn an_empty_audience_is_none() {
    let (_, pod) = arranged().await;
    let ran = check(&pod.with("audience", ""), &[]).await;
    assert_eq!(ran.code, Some(0));
    assert!(line(&ran, "class").contains("audience \"vault\""));
}

#[tokio::test]
async fn what_a_server_says_cannot_steer_the_terminal() {
    let (tenant, pod) = arranged().await;
    let vault = Faulty::start().await;
    let health = json!({"initialized": true, "sealed": false, "standby": false, "version": "\u{1b}[2J\u{9b}31m"});
    vault.every("GET", "sys/health", answer(200, &[], health.to_string()));
    let wrong = json!({"errors": ["no \u{1b}]0;title\u{7}"]});
    vault.every("GET", &format!("{}/data/db", tenant.kv), answer(400, &[], wrong.to_string()));
    let ran = ByHand::of(&pod).run("check", &[&format!("--vault-addr={}", vault.address)]).await;
    assert_eq!(ran.code, Some(1));
    assert!(!ran.out.chars().any(|c| c.is_control() && c != '\n'), "{:?}", ran.out);
}

#[tokio::test]
async fn policies_of_another_vault_namespace_are_understood() {
    let (tenant, pod) = arranged().await;
    let name = unique("ns");
    root("POST", &format!("sys/namespaces/{name}"), json!({})).await;
    root("POST", &format!("{name}/sys/mounts/kv"), json!({"type": "kv", "options": {"version": "1"}})).await;
    tenant.allow(&format!("path \"{name}/kv/*\" {{ capabilities = [\"update\"] }}")).await;
    let pod = pod.with("vaultNamespace", &name).with("vaultAuthNamespace", "/");
    let object = |path| format!("- {{objectName: x, secretPath: {path}, method: PUT}}");
    let ran = check(&pod.clone().objects(object("kv/x")), &[]).await;
    assert_eq!(ran.code, Some(0));
    assert!(
        line(&ran, "object").contains("PUT kv/x (KV version 1): not sent") && ran.out.contains("policies allow it")
    );
    let ran = check(&pod.objects(object("other/x")), &[]).await;
    assert_eq!(ran.code, Some(1));
    assert!(ran.out.contains(&format!("path \"{name}/other/x\" {{ capabilities = [\"create\", \"update\"] }}")));
}

#[tokio::test]
async fn what_cannot_be_begun_is_told_and_fails() {
    let (_, pod) = arranged().await;
    let ran = check(&pod, &["--file=nowhere.yaml"]).await;
    assert_eq!(ran.code, Some(1));
    assert!(line(&ran, "class").contains("nowhere.yaml") && ran.out.contains("[VM0085]"));
    let ran = check(&pod, &["--vault-addr=nowhere", "--mint-tokens=perhaps"]).await;
    assert_eq!((ran.code, ran.err.lines().count()), (Some(2), 2));
    assert!(ran.err.lines().all(|line| line.starts_with("vaultmount: ")), "{}", ran.err);
    let ran = check(&pod, &["--token-file=/nowhere/token"]).await;
    assert_eq!(ran.code, Some(1));
    assert!(
        ran.out.contains("FAIL  token") && ran.out.contains("[VM0030]"),
        "the way to Vault is checked all the same"
    );
}

#[tokio::test]
async fn a_token_is_minted_as_the_user_of_a_kubeconfig() {
    let (tenant, pod) = arranged().await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("kubeconfig");
    let flag = format!("--kubeconfig={}", path.display());

    let cluster = Cluster::of(&tenant).await;
    let mut pod = pod.with("vaultAuthMountPath", &cluster.auth);
    pod.tokens = None;
    std::fs::write(&path, cluster.api.kubeconfig("csi", "any")).unwrap();
    let ran = check(&pod, &[&flag]).await;
    assert_eq!(ran.code, Some(0));
    let minted = cluster.api.lines().into_iter().filter(|l| l.contains("/serviceaccounts/app/token")).count();
    assert_eq!(minted, 1, "{:?}", cluster.api.lines());

    let refusing = Cluster::with(&tenant, KubeApi::builder().deny("create", "serviceaccounts/token")).await;
    std::fs::write(&path, refusing.api.kubeconfig("csi", "any")).unwrap();
    let ran = check(&pod, &[&flag]).await;
    assert_eq!(ran.code, Some(1));
    assert!(line(&ran, "token").contains("shop/app") && ran.out.contains("[VM0092]"));
}

#[tokio::test]
async fn the_end_of_the_certificate_is_told_and_a_near_one_warned_of() {
    let (_, pod) = arranged().await;
    let authority = Authority::new();
    let pod = pod.with("vaultCACert", authority.pem());
    let soon = (Timestamp::now() + SignedDuration::from_hours(24)).to_zoned(TimeZone::UTC).date();
    let soon_day = (i32::from(soon.year()), u8::try_from(soon.month()).unwrap(), u8::try_from(soon.day()).unwrap());
    for ((year, month, day), says) in [
        ((2100, 1, 1), "ok    TLS           the certificate is trusted, and for this name, until 2100-01-01T00:00:00Z"),
        (soon_day, "warn  TLS           the certificate is trusted, and for this name, but only until"),
    ] {
        let vault = Faulty::tls(authority.server_until(year, month, day)).await;
        let ran = ByHand::of(&pod).run("check", &[&format!("--vault-addr={}", vault.address)]).await;
        assert_eq!(ran.code, Some(0));
        assert!(line(&ran, "TLS").starts_with(says), "{says}");
        let ran = ByHand::of(&pod.clone().with("vaultSkipTLSVerify", "true"));
        let ran = ran.run("check", &[&format!("--vault-addr={}", vault.address)]).await;
        assert!(line(&ran, "TLS").starts_with("warn  TLS           the certificate is not verified"));
    }
}
