//! Certificates, of the server and ours.

use std::fs;

use serde_json::json;
use tempfile::TempDir;
use vaultmount::error::Cause;

use super::{SECRET, assert_says, only, reader, tenant};
use crate::support::{
    bao::Tenant,
    clock::{REFRESH, leap},
    daemon::Daemon,
    database::Database,
    faulty::{Fault, Faulty},
    pod::Pod,
    tls::{Authority, Leaf},
};

/// A server with a certificate, and a daemon that knows it by its address only.
struct Secured {
    tenant: Tenant,
    authority: Authority,
    vault: Faulty,
    daemon: Daemon,
    folder: TempDir,
}

impl Secured {
    async fn new(clients: Option<&Authority>) -> Self {
        let (tenant, authority) = (tenant().await, Authority::new());
        let vault = Faulty::tls(authority.server(clients)).await;
        let daemon = Daemon::at(&vault.address, &[]).await;
        Self { tenant, authority, vault, daemon, folder: tempfile::tempdir().unwrap() }
    }

    fn pod(&self) -> Pod {
        reader(&self.tenant)
    }

    fn trusting(&self) -> Pod {
        self.pod().with("vaultCACert", self.authority.pem())
    }

    fn file(&self, name: &str, text: &str) -> String {
        let path = self.folder.path().join(name);
        fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    }

    async fn secret_of(&self, pod: &Pod) -> String {
        only(&self.daemon.mount(pod.call()).await.unwrap()).to_owned()
    }

    async fn distrust(&self, pod: &Pod, cause: Cause, said: &[&str]) {
        let (got, text) = self.daemon.refusal(pod.call()).await;
        assert_eq!(got, cause, "{text}");
        assert_says(&text, said);
        assert_says(&text, &[&self.vault.address]);
    }
}

#[tokio::test]
async fn a_class_says_whom_to_trust() {
    let secured = Secured::new(None).await;
    let file = secured.file("ca.pem", &secured.authority.pem());
    let folder = secured.folder.path().to_str().unwrap();
    for (name, value) in [
        ("vaultCACertPath", file.as_str()),
        ("vaultCADirectory", folder),
        ("vaultCACert", &secured.authority.pem()),
        ("vaultSkipTLSVerify", "true"),
    ] {
        assert_eq!(secured.secret_of(&secured.pod().with(name, value)).await, SECRET, "{name}");
    }
    for (other, said) in [
        (Authority::named("another"), "was not issued by a trusted authority"),
        (Authority::new(), "names a trusted authority that did not sign it"),
    ] {
        secured
            .distrust(
                &secured.pod().with("vaultCACert", other.pem()),
                Cause::CertificateUntrusted,
                &[said, "set the CA"],
            )
            .await;
    }
    let name = secured.trusting().with("vaultTLSServerName", "vault.example");
    secured.distrust(&name, Cause::CertificateName, &["is not for vault.example but for 127.0.0.1"]).await;
    assert_eq!(secured.vault.count("POST", "auth/"), 4, "no login goes to whom we do not trust");
}

#[tokio::test]
async fn a_mended_ca_file_counts_at_the_next_mount() {
    let secured = Secured::new(None).await;
    let file = secured.file("ca.pem", &Authority::new().pem());
    let pod = secured.pod().with("vaultCACertPath", file);
    secured.distrust(&pod, Cause::CertificateUntrusted, &["a trusted authority that did not sign it"]).await;
    secured.file("ca.pem", "nothing");
    secured.distrust(&pod, Cause::Tls, &["ca.pem holds no certificate"]).await;
    secured.file("ca.pem", &secured.authority.pem());
    assert_eq!(secured.secret_of(&pod).await, SECRET);
}

#[tokio::test]
async fn a_ca_that_changes_under_a_living_pod_counts_at_its_next_mount() {
    let (tenant, old, new) = (tenant().await, Authority::new(), Authority::new());
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("ca.pem");
    fs::write(&file, old.pem()).unwrap();
    let mut vault = Faulty::tls(old.server(None)).await;
    let daemon = Daemon::at(&vault.address, &[&format!("--vault-tls-ca-cert={}", file.display())]).await;
    let pod = reader(&tenant);
    assert_eq!(only(&daemon.mount(pod.call()).await.unwrap()), SECRET);
    vault.down().await;
    vault.up(Some(new.server(None)));
    fs::write(&file, new.pem()).unwrap();
    tenant.put("db", json!({"pass": "new"})).await;
    leap(REFRESH).await;
    // The first mount may be the one that finds out; the pod keeps what it has.
    let found_out = only(&daemon.mount(pod.call()).await.unwrap()).to_owned();
    assert!([SECRET, "new"].contains(&found_out.as_str()));
    assert_eq!(only(&daemon.mount(pod.call()).await.unwrap()), "new");
    assert_eq!(vault.count("POST", "auth/"), 1, "the session outlives it");
}

#[tokio::test]
async fn a_server_may_demand_a_certificate_of_ours() {
    let clients = Authority::new();
    let secured = Secured::new(Some(&clients)).await;
    let showing = |pod: Pod, leaf: &Leaf| {
        pod.with("vaultTLSClientCertPath", secured.file("client.pem", &leaf.certificate))
            .with("vaultTLSClientKeyPath", secured.file("client.key", &leaf.key))
    };
    secured
        .distrust(
            &secured.trusting(),
            Cause::Tls,
            &["demands a client certificate", "set a client certificate and key"],
        )
        .await;
    let wrong = showing(secured.trusting(), &Authority::named("another").issue("node"));
    secured.distrust(&wrong, Cause::Tls, &["does not accept our client certificate"]).await;
    let right = showing(secured.trusting(), &clients.issue("node"));
    assert_eq!(secured.secret_of(&right).await, SECRET);
}

#[tokio::test]
async fn a_server_that_closes_during_the_handshake_is_tried_again() {
    let closing = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let daemon = Daemon::at(&format!("https://{}", closing.local_addr().unwrap()), &[]).await;
    let accepted = tokio::spawn(async move {
        for _ in 0..5 {
            drop(closing.accept().await.unwrap());
        }
    });
    let (cause, text) = daemon.refusal(reader(&tenant().await).call()).await;
    assert_eq!(cause, Cause::Unreachable, "{text}");
    assert_says(&text, &["closed the connection during the handshake"]);
    accepted.await.unwrap();
}

#[tokio::test]
async fn what_is_sent_again_over_http_2_is_the_same() {
    let secured = Secured::new(None).await;
    let database = Database::of(&secured.tenant).await;
    let user = format!("- {{objectName: user, secretPath: {}, secretKey: username}}", database.path);
    for fault in [Fault::LoseRequest, Fault::LoseAnswer] {
        secured.vault.next(1, "GET", "kv-", fault.clone());
        assert_eq!(secured.secret_of(&secured.trusting()).await, SECRET);
        secured.vault.next(1, "GET", &database.path, fault);
        let (cause, text) = secured.daemon.refusal(secured.trusting().objects(&user).call()).await;
        assert_eq!(cause, Cause::Unconfirmed, "{text}");
        assert_says(&text, &["not sent again"]);
    }
    assert_eq!((secured.vault.count("GET", "kv-"), secured.vault.count("GET", &database.path)), (4, 2));
    assert_eq!(database.users().await.len(), 1);
}
