//! Answers that are none of Vault's.

use serde_json::json;
use vaultmount::error::Cause;

use super::{SECRET, Stage, assert_says, each, only, reader, tenant};
use crate::support::{
    by_hand::ByHand,
    faulty::{Fault, Faulty, Gate, answer, status},
    pod::Pod,
    standing,
};

const HTML: &str = "<html><head><title>Welcome to the proxy</title></head></html>";

fn html(status: u16) -> Fault {
    answer(status, &[("content-type", "text/html")], HTML)
}

#[tokio::test]
async fn an_answer_over_eight_mebibytes_is_refused() {
    let announced = answer(200, &[], vec![b' '; (8 << 20) + 1]);
    each([announced, Fault::Endless(9 << 20)], async |stage, fault| {
        stage.vault.every("GET", &stage.secret(), fault);
        let (cause, text) = stage.refusal(&stage.pod()).await;
        assert_eq!((cause, stage.vault.count("GET", &stage.secret())), (Cause::AnswerTooLarge, 1), "{text}");
        assert_says(&text, &["larger than 8 MiB", &stage.secret()]);
    })
    .await;
}

#[tokio::test]
async fn a_web_page_is_no_answer_of_vault() {
    each([200, 400, 403, 404, 405], async |stage, status| {
        for (method, path) in [("GET", stage.secret()), ("POST", stage.login())] {
            stage.vault.every(method, &path, html(status));
            let (cause, text) = stage.refusal(&stage.pod()).await;
            assert_eq!(cause, Cause::NotVault, "{status}: {text}");
            assert_says(&text, &["does not answer as Vault does", "check the address", &stage.vault.address]);
        }
        let sent = [("GET", stage.secret()), ("POST", stage.login())].map(|(m, path)| stage.vault.count(m, &path));
        assert_eq!(sent, [1, 2], "{status}: a web page says nothing of the token");
    })
    .await;
}

#[tokio::test]
async fn a_page_that_repeats_the_request_shows_nothing_secret() {
    each([400, 404, 500, 502], async |stage, status| {
        let pod = stage.pod();
        let args = format!("secretArgs: {{pin: 'a {SECRET} c', key: \"{SECRET}\\nnext\", number: 271828}}");
        let path = stage.secret();
        for method in ["GET", "PUT"] {
            stage.vault.every(method, &path, Fault::Echo(status));
            let class = format!("- {{objectName: x, secretPath: {path}, method: {method}, {args}}}");
            let (_, text) = stage.refusal(&pod.clone().objects(class)).await;
            assert_says(&text, &["no route for [token] ", "[argument]"]);
            assert!(!text.contains(SECRET) && !text.contains("271828"), "{text}");
        }
        stage.vault.every("POST", "auth/", Fault::Echo(status));
        let other = Pod { uid: "another".into(), ..pod };
        let (_, text) = stage.refusal(&other).await;
        assert_says(&text, &["no route for", "[token]"]);
        for part in other.passed().iter().flat_map(|token| token.split('.').skip(1)) {
            assert!(!text.contains(&part[..16]), "{text}");
        }
    })
    .await;
}

#[tokio::test]
async fn what_a_server_says_of_itself_is_shown_on_one_line_and_bounded() {
    let stage = Stage::new().await;
    let odd = format!("\u{1b}[2J\n{}", "x".repeat(5000));
    let auth = json!({"client_token": "any", "policies": vec![odd.clone(); 20], "lease_duration": 600});
    stage.vault.every("POST", "auth/", answer(200, &[], json!({"auth": auth}).to_string()));
    let denied = status(403, "1 error occurred:\n\t* permission denied\n\n");
    let gone = json!({"data": {"data": null, "metadata": {"deletion_time": odd, "version": 1}}}).to_string();
    for (fault, cause) in [(denied, Cause::Denied), (answer(404, &[], gone), Cause::VersionDeleted)] {
        stage.vault.next(1, "GET", &stage.secret(), fault);
        let (got, text) = stage.refusal(&stage.pod()).await;
        assert_eq!(got, cause, "{text}");
        assert!(text.len() < 1200 && !text.contains(char::is_control), "{text}");
    }
}

#[tokio::test]
async fn what_an_engine_has_not_initialized_is_its_own_affair() {
    let stage = Stage::new().await;
    for code in [400, 500] {
        stage.vault.next(1, "GET", &stage.secret(), status(code, "the plugin is not initialized"));
        let (cause, text) = stage.refusal(&stage.pod()).await;
        assert_eq!(cause, if code == 400 { Cause::ReadRefused } else { Cause::ServerFault }, "{text}");
        assert!(!text.contains("operator init"), "{text}");
    }
    assert!(!standing::is_down(&stage.daemon).await);
}

#[tokio::test]
async fn reads_of_a_sealed_server_do_not_wait_for_how_it_is() {
    let stage = Stage::new().await;
    stage.vault.every("GET", &stage.secret(), status(503, "Vault is sealed"));
    stage.vault.every("GET", "sys/health", Fault::Hold(Gate::new()));
    let (cause, text) = stage.refusal(&stage.pod()).await;
    assert_eq!(cause, Cause::Sealed, "{text}");
    stage.vault.saw(2, "GET", "sys/health").await;
}

#[tokio::test]
async fn a_page_not_found_is_no_absent_secret() {
    each([HTML, r#"{"message":"no Route matched with those values"}"#, ""], async |stage, body| {
        stage.vault.every("GET", &stage.secret(), answer(404, &[], body));
        let class = format!("- {{objectName: pass, secretPath: {}, secretKey: pass, optional: true}}", stage.secret());
        let (cause, text) = stage.refusal(&stage.pod().objects(class)).await;
        assert_eq!(cause, Cause::NotVault, "{body}: {text}");
    })
    .await;
}

#[tokio::test]
async fn the_content_type_does_not_count() {
    let stage = Stage::new().await;
    let body = json!({"data": {"data": {"pass": SECRET}, "metadata": {}}}).to_string();
    stage.vault.every("GET", &stage.secret(), answer(200, &[("content-type", "text/html")], body));
    assert_eq!(only(&stage.daemon.mount(stage.pod().call()).await.unwrap()), SECRET);
}

#[tokio::test]
async fn a_proxy_that_forwards_and_wants_a_password_is_named() {
    let (tenant, proxy) = (tenant().await, Faulty::start().await);
    for method in ["GET", "POST"] {
        proxy.every(method, "", html(407));
    }
    let variables = [("VAULT_PROXY_ADDR", proxy.address.as_str())];
    let flags = ["--vault-addr=http://vault.example:8200"];
    let said = ByHand::of(&reader(&tenant)).run_with(&variables, "mount", &flags).await.err;
    let place = proxy.address.strip_prefix("http://").unwrap();
    assert_says(&said, &[place, "vault.example:8200", "user name and password", "proxy's URL", "[VM0004]"]);
}
