//! Engines that issue values: certificates, ciphertexts, signatures.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use rcgen::{KeyPair, PublicKeyData};
use serde_json::{Value, json};
use vaultmount::error::Cause;

use super::{fixture, mount_engine, single_object};
use crate::support::{
    bao::{Tenant, root_request},
    daemon::Daemon,
    fault_proxy::FaultProxy,
    pod::Pod,
};

/// Creates a PKI engine for the tenant's role `app`, with a role `web` that issues names below `shop.example`.
async fn pki_engine(tenant: &Tenant) -> String {
    let pki = mount_engine("pki", Value::Null).await;
    root_request("POST", &format!("{pki}/root/generate/internal"), json!({"common_name": "Test CA", "key_type": "ec"}))
        .await;
    let role = json!({"allowed_domains": "shop.example", "allow_subdomains": true, "key_type": "ec", "ttl": "1h"});
    root_request("POST", &format!("{pki}/roles/web"), role).await;
    tenant.set_policy(&format!("path \"{pki}/*\" {{ capabilities = [\"read\", \"update\"] }}")).await;
    pki
}

/// Returns the objects of a certificate and its key.
fn certificate_objects(pki: &str, name: &str) -> String {
    let object = |file, key| {
        format!(
            "- {{objectName: {file}, secretPath: {pki}/issue/web, secretKey: {key}, method: PUT, secretArgs: {{common_name: {name}, private_key_format: pkcs8}}}}\n"
        )
    };
    object("tls.crt", "certificate") + &object("tls.key", "private_key")
}

/// Starts a daemon behind a proxy that counts requests.
async fn counting_daemon() -> (FaultProxy, Daemon) {
    let vault = FaultProxy::start().await;
    let daemon = Daemon::start_at(&vault.address, &[]).await;
    (vault, daemon)
}

#[tokio::test]
async fn certificate_and_key_come_from_one_request() {
    let (tenant, pod, _) = fixture().await;
    let ((vault, daemon), pki) = (counting_daemon().await, pki_engine(&tenant).await);
    let files = daemon.mount_files(&pod.with_objects(certificate_objects(&pki, "a.shop.example"))).await;
    let key = KeyPair::from_pem(&files["tls.key"]).unwrap();
    let body: String = files["tls.crt"].lines().filter(|line| !line.starts_with("-----")).collect();
    let certificate = STANDARD.decode(body).unwrap();
    let public = key.der_bytes();
    assert!(certificate.windows(public.len()).any(|part| part == public), "the certificate is of another key");
    assert_eq!(vault.count("PUT", &format!("{pki}/issue/web")), 1);
}

#[tokio::test]
async fn secret_args_that_differ_are_separate_requests() {
    let (tenant, pod, _) = fixture().await;
    let ((vault, daemon), pki) = (counting_daemon().await, pki_engine(&tenant).await);
    let class = certificate_objects(&pki, "a.shop.example")
        + &certificate_objects(&pki, "b.shop.example").replace("tls.", "b.");
    let files = daemon.mount_files(&pod.with_objects(class)).await;
    assert_ne!(files["tls.key"], files["b.key"]);
    assert_eq!(vault.count("PUT", &format!("{pki}/issue/web")), 2);
}

/// Creates a transit engine with the keys `app` (for encryption) and `sign`.
async fn transit_engine(tenant: &Tenant) -> String {
    let transit = mount_engine("transit", Value::Null).await;
    root_request("POST", &format!("{transit}/keys/app"), json!({})).await;
    root_request("POST", &format!("{transit}/keys/sign"), json!({"type": "ed25519"})).await;
    tenant.set_policy(&format!("path \"{transit}/*\" {{ capabilities = [\"update\"] }}")).await;
    transit
}

#[tokio::test]
async fn transit_put_response_becomes_files() {
    let (tenant, pod, daemon) = fixture().await;
    let transit = transit_engine(&tenant).await;
    let class = format!(
        "{}\n- {{objectName: y, secretPath: {transit}/sign/sign, method: post, secretKey: signature, secretArgs: {{input: aGk=}}}}",
        single_object(
            &format!("{transit}/encrypt/app"),
            ", method: PUT, secretKey: ciphertext, secretArgs: {plaintext: aGk=}"
        )
    );
    let files = daemon.mount_files(&pod.with_objects(class)).await;
    let plain = root_request("POST", &format!("{transit}/decrypt/app"), json!({"ciphertext": files["x"]})).await;
    assert_eq!(plain["data"]["plaintext"], "aGk=");
    let verdict = json!({"input": "aGk=", "signature": files["y"]});
    assert_eq!(root_request("POST", &format!("{transit}/verify/sign"), verdict).await["data"]["valid"], true);
}

#[tokio::test]
async fn certificate_of_failed_mount_is_reused() {
    let (tenant, pod, _) = fixture().await;
    let ((vault, daemon), pki) = (counting_daemon().await, pki_engine(&tenant).await);
    let class = certificate_objects(&pki, "a.shop.example") + &single_object("cubbyhole/none", "");
    for _ in 0..2 {
        daemon
            .assert_mount_error(
                &pod.clone().with_objects(class.clone()),
                Cause::SecretMissing,
                &["object \"x\"", "cubbyhole/none"],
            )
            .await;
    }
    let pod: Pod = pod.with_objects(certificate_objects(&pki, "a.shop.example"));
    daemon.mount_files(&pod).await;
    assert_eq!(vault.count("PUT", &format!("{pki}/issue/web")), 1);
}
