//! Secret values never leave the process except in a file of their pod.

use serde_json::json;
use vaultmount::provider::client::Client;

use crate::{
    admin_endpoints::{free_address, get},
    support::{
        bao::{Tenant, root_request},
        cli::CliRun,
        daemon::ProviderProcess,
        pod::Pod,
    },
};

/// Part of every secret value in this test, so that one search finds all of them.
const SECRET_MARKER: &str = "XMARKEDX";

#[tokio::test]
async fn no_output_log_or_page_contains_a_secret() {
    let tenant = Tenant::new().await;
    let kv = tenant.kv.clone();
    tenant
        .write_secret(
            "db",
            json!({"pass": format!("{SECRET_MARKER}-value"), "b64": format!("{SECRET_MARKER}=not base64")}),
        )
        .await;
    root_request("POST", &format!("sys/mounts/pki-{kv}"), json!({"type": "pki"})).await;
    tenant
        .set_policy(&format!(
            "path \"{kv}/*\" {{ capabilities = [\"read\"] }}\npath \"pki-{kv}/*\" {{ capabilities = [\"update\"] }}"
        ))
        .await;
    let pages = free_address();
    let folder = tempfile::tempdir().unwrap();
    let audit = folder.path().join("audit.log");
    let flags = [format!("--metrics-addr={pages}"), format!("--audit-log={}", audit.display())];
    let program = ProviderProcess::start(&["--log-level=trace", &flags[0], &flags[1]]).await;
    let mut client = Client::connect(&program.socket).await.unwrap();

    let object = |more: &str| format!("- {{objectName: a, secretPath: {kv}/data/db, {more}}}");
    let good = Pod::for_tenant(&tenant);
    let jwt = good.sign_token("vault", 600);
    let classes = [
        object("secretKey: pass"),
        object("secretKey: none"),
        object("secretKey: b64, encoding: base64"),
        object("format: env"),
        object(&format!("secretArgs: {{x: {SECRET_MARKER}-argument}}")),
        format!(
            "- {{objectName: a, secretPath: pki-{kv}/issue/none, method: PUT, secretArgs: {{x: {SECRET_MARKER}-argument}}}}"
        ),
        format!(
            "- {{objectName: a, secretPath: {kv}/data/db, secretArgs: {{x: {SECRET_MARKER}-argument}}, encoding: bad}}"
        ),
        format!("- {{objectName: a, secretPath: {kv}/data/db, secretArgs: [{SECRET_MARKER}-argument]}}"),
        format!("objectName: [{SECRET_MARKER}-argument: {{"),
        format!("- {{objectName: a, secretPath: none/{kv}, secretArgs: {{x: {SECRET_MARKER}-argument}}}}"),
    ];
    let mut shown = String::new();
    let mut mounted = 0;
    for class in &classes {
        match client.mount(good.clone().with_objects(class).mount_call()).await {
            Ok(_) => mounted += 1,
            Err(status) => shown.push_str(status.message()),
        }
    }
    let mut bad = good.clone().with_objects(object("secretKey: pass"));
    bad.tokens = Some(json!({"vault": {"token": format!("{SECRET_MARKER}.token.{SECRET_MARKER}")}}));
    bad.uid = "another".into();
    shown.push_str(client.mount(bad.mount_call()).await.err().unwrap().message());
    let mut malformed = good.mount_call();
    malformed.attributes = format!("{{\"x\": \"{SECRET_MARKER}\"");
    shown.push_str(client.mount(malformed).await.err().unwrap().message());

    // A manual check reveals no secret either.
    let address = format!("--vault-addr={}", tenant.address);
    for class in &classes {
        let by_hand = CliRun::for_pod(&good.clone().with_objects(class));
        for flags in [&["--create", "--log-level=trace"][..], &["--output=json"]] {
            let ran = by_hand.run("check", &[&[address.as_str()], flags].concat()).await;
            shown.push_str(&ran.stdout);
            shown.push_str(&ran.stderr);
        }
        for format in ["text", "json", "sarif", "github"] {
            let ran = by_hand.validate(&["--output", format]).await;
            shown.push_str(&ran.stdout);
            shown.push_str(&ran.stderr);
        }
    }

    for page in ["metrics", "statusz"] {
        let (status, text) = get(&format!("http://{pages}/{page}")).await;
        assert_eq!(status, 200, "{page}");
        shown.push_str(&text);
    }
    program.terminate();
    let log = program.wait_for_log().await;
    let decided = std::fs::read_to_string(&audit).unwrap();
    assert!(decided.lines().count() > 10, "{decided}");
    shown.push_str(&decided);
    assert!(
        mounted >= 2 && shown.len() > 20_000 && log.len() > 1000,
        "the test must have something to search: {mounted} {shown} {log}"
    );
    for written in [&shown, &log] {
        for secret in [SECRET_MARKER, &jwt, jwt.rsplit('.').next().unwrap(), "hvs.", "s."] {
            let found =
                written.match_indices(secret).find(|(at, _)| secret != "s." || looks_like_token(&written[*at..]));
            assert!(found.is_none(), "{secret} in: {written}");
        }
    }
}

/// Returns true if a text begins like a token: `s.` and two dozen letters and digits.
fn looks_like_token(text: &str) -> bool {
    text[2..].chars().take_while(char::is_ascii_alphanumeric).count() >= 24
}
