//! Responses that do not come from Vault.

use serde_json::json;
use vaultmount::error::Cause;

use super::{FailureFixture, SECRET, assert_contains, for_each_case, secret_pod, single_file, tenant_with_secret};
use crate::support::{
    cli::CliRun,
    fault_proxy::{Fault, FaultProxy, Gate, respond, vault_error},
    pod::Pod,
    vault_health,
};

const HTML: &str = "<html><head><title>Welcome to the proxy</title></head></html>";

fn html_response(status: u16) -> Fault {
    respond(status, &[("content-type", "text/html")], HTML)
}

#[tokio::test]
async fn response_over_8_mib_is_rejected() {
    let announced = respond(200, &[], vec![b' '; (8 << 20) + 1]);
    for_each_case([announced, Fault::LargeBody(9 << 20)], async |stage, fault| {
        stage.vault.always("GET", &stage.secret_path(), fault);
        let (cause, text) = stage.mount_error(&stage.pod()).await;
        assert_eq!((cause, stage.vault.count("GET", &stage.secret_path())), (Cause::ResponseTooLarge, 1), "{text}");
        assert_contains(&text, &["larger than 8 MiB", &stage.secret_path()]);
    })
    .await;
}

#[tokio::test]
async fn html_response_is_reported_as_not_vault() {
    for_each_case([200, 400, 403, 404, 405], async |stage, status| {
        for (method, path) in [("GET", stage.secret_path()), ("POST", stage.login_path())] {
            stage.vault.always(method, &path, html_response(status));
            let (cause, text) = stage.mount_error(&stage.pod()).await;
            assert_eq!(cause, Cause::NotVault, "{status}: {text}");
            assert_contains(&text, &["did not respond like Vault", "check the address", &stage.vault.address]);
        }
        let sent =
            [("GET", stage.secret_path()), ("POST", stage.login_path())].map(|(m, path)| stage.vault.count(m, &path));
        assert_eq!(sent, [1, 2], "{status}: a web page is not a denial of the token");
    })
    .await;
}

#[tokio::test]
async fn echoed_request_in_error_page_is_redacted() {
    for_each_case([400, 404, 500, 502], async |stage, status| {
        let pod = stage.pod();
        let args = format!("secretArgs: {{pin: 'a {SECRET} c', key: \"{SECRET}\\nnext\", number: 271828}}");
        let path = stage.secret_path();
        for method in ["GET", "PUT"] {
            stage.vault.always(method, &path, Fault::EchoRequest(status));
            let class = format!("- {{objectName: x, secretPath: {path}, method: {method}, {args}}}");
            let (_, text) = stage.mount_error(&pod.clone().with_objects(class)).await;
            assert_contains(&text, &["no route for [token] ", "[argument]"]);
            assert!(!text.contains(SECRET) && !text.contains("271828"), "{text}");
        }
        stage.vault.always("POST", "auth/", Fault::EchoRequest(status));
        let other = Pod { uid: "another".into(), ..pod };
        let (_, text) = stage.mount_error(&other).await;
        assert_contains(&text, &["no route for", "[token]"]);
        for part in other.first_token().iter().flat_map(|token| token.split('.').skip(1)) {
            assert!(!text.contains(&part[..16]), "{text}");
        }
    })
    .await;
}

#[tokio::test]
async fn server_text_in_errors_is_single_line_and_bounded() {
    let stage = FailureFixture::new().await;
    let odd = format!("\u{1b}[2J\n{}", "x".repeat(5000));
    let auth = json!({"client_token": "any", "policies": vec![odd.clone(); 20], "lease_duration": 600});
    stage.vault.always("POST", "auth/", respond(200, &[], json!({"auth": auth}).to_string()));
    let denied = vault_error(403, "1 error occurred:\n\t* permission denied\n\n");
    let gone = json!({"data": {"data": null, "metadata": {"deletion_time": odd, "version": 1}}}).to_string();
    for (fault, cause) in [(denied, Cause::VaultPolicyDenied), (respond(404, &[], gone), Cause::VersionDeleted)] {
        stage.vault.next(1, "GET", &stage.secret_path(), fault);
        let (got, text) = stage.mount_error(&stage.pod()).await;
        assert_eq!(got, cause, "{text}");
        assert!(text.len() < 1200 && !text.contains(char::is_control), "{text}");
    }
}

#[tokio::test]
async fn engine_not_initialized_error_is_no_outage() {
    let stage = FailureFixture::new().await;
    for code in [400, 500] {
        stage.vault.next(1, "GET", &stage.secret_path(), vault_error(code, "the plugin is not initialized"));
        let (cause, text) = stage.mount_error(&stage.pod()).await;
        assert_eq!(cause, if code == 400 { Cause::RequestRejected } else { Cause::ServerError }, "{text}");
        assert!(!text.contains("operator init"), "{text}");
    }
    assert!(!vault_health::has_outage(&stage.daemon).await);
}

#[tokio::test]
async fn sealed_read_does_not_wait_for_health_probe() {
    let stage = FailureFixture::new().await;
    stage.vault.always("GET", &stage.secret_path(), vault_error(503, "Vault is sealed"));
    stage.vault.always("GET", "sys/health", Fault::HoldRequest(Gate::new()));
    let (cause, text) = stage.mount_error(&stage.pod()).await;
    assert_eq!(cause, Cause::Sealed, "{text}");
    stage.vault.wait_for(2, "GET", "sys/health").await;
}

#[tokio::test]
async fn foreign_404_is_not_a_missing_optional_secret() {
    for_each_case([HTML, r#"{"message":"no Route matched with those values"}"#, ""], async |stage, body| {
        stage.vault.always("GET", &stage.secret_path(), respond(404, &[], body));
        let class =
            format!("- {{objectName: pass, secretPath: {}, secretKey: pass, optional: true}}", stage.secret_path());
        let (cause, text) = stage.mount_error(&stage.pod().with_objects(class)).await;
        assert_eq!(cause, Cause::NotVault, "{body}: {text}");
    })
    .await;
}

#[tokio::test]
async fn content_type_of_response_is_ignored() {
    let stage = FailureFixture::new().await;
    let body = json!({"data": {"data": {"pass": SECRET}, "metadata": {}}}).to_string();
    stage.vault.always("GET", &stage.secret_path(), respond(200, &[("content-type", "text/html")], body));
    assert_eq!(single_file(&stage.daemon.mount(stage.pod().mount_call()).await.unwrap()), SECRET);
}

#[tokio::test]
async fn vault_proxy_addr_407_error_names_the_proxy() {
    let (tenant, proxy) = (tenant_with_secret().await, FaultProxy::start().await);
    for method in ["GET", "POST"] {
        proxy.always(method, "", html_response(407));
    }
    let variables = [("VAULT_PROXY_ADDR", proxy.address.as_str())];
    let flags = ["--vault-addr=http://vault.example:8200"];
    let stderr = CliRun::for_pod(&secret_pod(&tenant)).run_with(&variables, "mount", &flags).await.stderr;
    let place = proxy.address.strip_prefix("http://").unwrap();
    assert_contains(&stderr, &[place, "vault.example:8200", "user name and password", "proxy's URL", "[VM0004]"]);
}
