//! No secret leaves the process but in a file of the pod it is for.

use serde_json::json;
use vaultmount::provider::client::Client;

use crate::{
    operating::{free, get},
    support::{
        bao::{Tenant, root},
        by_hand::ByHand,
        daemon::Program,
        pod::Pod,
    },
};

/// Marks every secret of this test, so that one search finds them all.
const MARK: &str = "XMARKEDX";

#[tokio::test]
async fn nothing_the_process_writes_holds_a_secret() {
    let tenant = Tenant::new().await;
    let kv = tenant.kv.clone();
    tenant.put("db", json!({"pass": format!("{MARK}-value"), "b64": format!("{MARK}=not base64")})).await;
    root("POST", &format!("sys/mounts/pki-{kv}"), json!({"type": "pki"})).await;
    tenant
        .allow(&format!(
            "path \"{kv}/*\" {{ capabilities = [\"read\"] }}\npath \"pki-{kv}/*\" {{ capabilities = [\"update\"] }}"
        ))
        .await;
    let pages = free();
    let folder = tempfile::tempdir().unwrap();
    let audit = folder.path().join("audit.log");
    let flags = [format!("--metrics-addr={pages}"), format!("--audit-log={}", audit.display())];
    let program = Program::start(&["--log-level=trace", &flags[0], &flags[1]]).await;
    let mut client = Client::connect(&program.socket).await.unwrap();

    let object = |more: &str| format!("- {{objectName: a, secretPath: {kv}/data/db, {more}}}");
    let good = Pod::of(&tenant);
    let jwt = good.token("vault", 600);
    let classes = [
        object("secretKey: pass"),
        object("secretKey: none"),
        object("secretKey: b64, encoding: base64"),
        object("format: env"),
        object(&format!("secretArgs: {{x: {MARK}-argument}}")),
        format!(
            "- {{objectName: a, secretPath: pki-{kv}/issue/none, method: PUT, secretArgs: {{x: {MARK}-argument}}}}"
        ),
        format!("- {{objectName: a, secretPath: {kv}/data/db, secretArgs: {{x: {MARK}-argument}}, encoding: bad}}"),
        format!("- {{objectName: a, secretPath: {kv}/data/db, secretArgs: [{MARK}-argument]}}"),
        format!("objectName: [{MARK}-argument: {{"),
        format!("- {{objectName: a, secretPath: none/{kv}, secretArgs: {{x: {MARK}-argument}}}}"),
    ];
    let mut said = String::new();
    let mut mounted = 0;
    for class in &classes {
        match client.mount(good.clone().objects(class).call()).await {
            Ok(_) => mounted += 1,
            Err(status) => said.push_str(status.message()),
        }
    }
    let mut bad = good.clone().objects(object("secretKey: pass"));
    bad.tokens = Some(json!({"vault": {"token": format!("{MARK}.token.{MARK}")}}));
    bad.uid = "another".into();
    said.push_str(client.mount(bad.call()).await.err().unwrap().message());
    let mut malformed = good.call();
    malformed.attributes = format!("{{\"x\": \"{MARK}\"");
    said.push_str(client.mount(malformed).await.err().unwrap().message());

    // Who looks for the fault by hand sees as little.
    let address = format!("--vault-addr={}", tenant.address);
    for class in &classes {
        let by_hand = ByHand::of(&good.clone().objects(class));
        for flags in [&["--create", "--log-level=trace"][..], &["--output=json"]] {
            let ran = by_hand.run("check", &[&[address.as_str()], flags].concat()).await;
            said.push_str(&ran.out);
            said.push_str(&ran.err);
        }
        for format in ["text", "json", "sarif", "github"] {
            let ran = by_hand.validate(&["--output", format]).await;
            said.push_str(&ran.out);
            said.push_str(&ran.err);
        }
    }

    for page in ["metrics", "statusz"] {
        let (status, text) = get(&format!("http://{pages}/{page}")).await;
        assert_eq!(status, 200, "{page}");
        said.push_str(&text);
    }
    program.terminate();
    let log = program.log().await;
    let decided = std::fs::read_to_string(&audit).unwrap();
    assert!(decided.lines().count() > 10, "{decided}");
    said.push_str(&decided);
    assert!(
        mounted >= 2 && said.len() > 20_000 && log.len() > 1000,
        "the test must have something to search: {mounted} {said} {log}"
    );
    for written in [&said, &log] {
        for secret in [MARK, &jwt, jwt.rsplit('.').next().unwrap(), "hvs.", "s."] {
            let found = written.match_indices(secret).find(|(at, _)| secret != "s." || is_token(&written[*at..]));
            assert!(found.is_none(), "{secret} in: {written}");
        }
    }
}

/// Whether a text begins with what looks like a token: `s.` and two dozen letters and digits.
fn is_token(text: &str) -> bool {
    text[2..].chars().take_while(char::is_ascii_alphanumeric).count() >= 24
}
