//! Engines that issue something: certificates, ciphertexts, signatures.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use rcgen::{KeyPair, PublicKeyData};
use serde_json::{Value, json};
use vaultmount::error::Cause;

use super::{arranged, engine, one};
use crate::support::{
    bao::{Tenant, root},
    daemon::Daemon,
    faulty::Faulty,
    pod::Pod,
};

/// A PKI engine whose role `web` issues names below `shop.example`, for the tenant's role `app` to use.
async fn pki(tenant: &Tenant) -> String {
    let pki = engine("pki", Value::Null).await;
    root("POST", &format!("{pki}/root/generate/internal"), json!({"common_name": "Test CA", "key_type": "ec"})).await;
    let role = json!({"allowed_domains": "shop.example", "allow_subdomains": true, "key_type": "ec", "ttl": "1h"});
    root("POST", &format!("{pki}/roles/web"), role).await;
    tenant.allow(&format!("path \"{pki}/*\" {{ capabilities = [\"read\", \"update\"] }}")).await;
    pki
}

/// The class of a certificate and its key.
fn pair(pki: &str, name: &str) -> String {
    let object = |file, key| {
        format!(
            "- {{objectName: {file}, secretPath: {pki}/issue/web, secretKey: {key}, method: PUT, secretArgs: {{common_name: {name}, private_key_format: pkcs8}}}}\n"
        )
    };
    object("tls.crt", "certificate") + &object("tls.key", "private_key")
}

/// A daemon whose requests are counted.
async fn counted() -> (Faulty, Daemon) {
    let vault = Faulty::start().await;
    let daemon = Daemon::at(&vault.address, &[]).await;
    (vault, daemon)
}

#[tokio::test]
async fn a_certificate_and_its_key_are_of_one_request() {
    let (tenant, pod, _) = arranged().await;
    let ((vault, daemon), pki) = (counted().await, pki(&tenant).await);
    let files = daemon.files(&pod.objects(pair(&pki, "a.shop.example"))).await;
    let key = KeyPair::from_pem(&files["tls.key"]).unwrap();
    let body: String = files["tls.crt"].lines().filter(|line| !line.starts_with("-----")).collect();
    let certificate = STANDARD.decode(body).unwrap();
    let public = key.der_bytes();
    assert!(certificate.windows(public.len()).any(|part| part == public), "the certificate is of another key");
    assert_eq!(vault.count("PUT", &format!("{pki}/issue/web")), 1);
}

#[tokio::test]
async fn other_arguments_are_another_request() {
    let (tenant, pod, _) = arranged().await;
    let ((vault, daemon), pki) = (counted().await, pki(&tenant).await);
    let class = pair(&pki, "a.shop.example") + &pair(&pki, "b.shop.example").replace("tls.", "b.");
    let files = daemon.files(&pod.objects(class)).await;
    assert_ne!(files["tls.key"], files["b.key"]);
    assert_eq!(vault.count("PUT", &format!("{pki}/issue/web")), 2);
}

/// A transit engine with the keys `app`, to encrypt, and `sign`.
async fn transit(tenant: &Tenant) -> String {
    let transit = engine("transit", Value::Null).await;
    root("POST", &format!("{transit}/keys/app"), json!({})).await;
    root("POST", &format!("{transit}/keys/sign"), json!({"type": "ed25519"})).await;
    tenant.allow(&format!("path \"{transit}/*\" {{ capabilities = [\"update\"] }}")).await;
    transit
}

#[tokio::test]
async fn what_is_written_is_answered() {
    let (tenant, pod, daemon) = arranged().await;
    let transit = transit(&tenant).await;
    let class = format!(
        "{}\n- {{objectName: y, secretPath: {transit}/sign/sign, method: post, secretKey: signature, secretArgs: {{input: aGk=}}}}",
        one(&format!("{transit}/encrypt/app"), ", method: PUT, secretKey: ciphertext, secretArgs: {plaintext: aGk=}")
    );
    let files = daemon.files(&pod.objects(class)).await;
    let plain = root("POST", &format!("{transit}/decrypt/app"), json!({"ciphertext": files["x"]})).await;
    assert_eq!(plain["data"]["plaintext"], "aGk=");
    let verdict = json!({"input": "aGk=", "signature": files["y"]});
    assert_eq!(root("POST", &format!("{transit}/verify/sign"), verdict).await["data"]["valid"], true);
}

#[tokio::test]
async fn a_mount_that_failed_keeps_its_certificate_for_the_next() {
    let (tenant, pod, _) = arranged().await;
    let ((vault, daemon), pki) = (counted().await, pki(&tenant).await);
    let class = pair(&pki, "a.shop.example") + &one("cubbyhole/none", "");
    for _ in 0..2 {
        daemon
            .refuses(&pod.clone().objects(class.clone()), Cause::SecretMissing, &["object \"x\"", "cubbyhole/none"])
            .await;
    }
    let pod: Pod = pod.objects(pair(&pki, "a.shop.example"));
    daemon.files(&pod).await;
    assert_eq!(vault.count("PUT", &format!("{pki}/issue/web")), 1);
}
