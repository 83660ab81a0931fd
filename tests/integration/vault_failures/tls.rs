//! TLS: server certificates and client certificates.

use std::{fs, path::Path, time::Duration};

use jiff::{ToSpan, Zoned};
use rustls::pki_types::{CertificateDer, pem::PemObject};
use serde_json::json;
use tempfile::TempDir;
use vaultmount::error::Cause;

use super::{SECRET, assert_contains, secret_pod, single_file, tenant_with_secret};
use crate::admin_endpoints::{free_address, get, metric_value};
use crate::support::{
    bao::Tenant,
    clock::{DEFAULT_REFRESH_INTERVAL, advance},
    daemon::Daemon,
    database::DatabaseEngine,
    fault_proxy::{Fault, FaultProxy, Gate},
    log::{CapturedLog, let_background_run},
    pod::Pod,
    tls::{CertificateAuthority, Leaf},
    unique_name,
};

/// Maximum delay until changed TLS files are in use.
const TLS_RELOAD_INTERVAL: Duration = Duration::from_secs(11);
const CHANGED_MESSAGE: &str = "TLS files changed, using them for new connections";
const BROKEN_MESSAGE: &str = "TLS files changed but are invalid, still using the previous ones";
const RECOVERED_MESSAGE: &str = "TLS files are valid again";

/// A server with a certificate, and a daemon that knows only its address.
struct TlsFixture {
    tenant: Tenant,
    authority: CertificateAuthority,
    vault: FaultProxy,
    daemon: Daemon,
    folder: TempDir,
}

impl TlsFixture {
    async fn new(clients: Option<&CertificateAuthority>) -> Self {
        Self::with_flags(clients, |_, _| Vec::new()).await
    }

    /// Creates the fixture with flags that may name files in the folder.
    async fn with_flags(
        clients: Option<&CertificateAuthority>,
        flags: impl FnOnce(&CertificateAuthority, &Path) -> Vec<String>,
    ) -> Self {
        let (tenant, authority, folder) =
            (tenant_with_secret().await, CertificateAuthority::new(), tempfile::tempdir().unwrap());
        let vault = FaultProxy::start_tls(authority.server_config(clients)).await;
        let flags = flags(&authority, folder.path());
        let daemon = Daemon::start_at(&vault.address, &flags.iter().map(String::as_str).collect::<Vec<_>>()).await;
        Self { tenant, authority, vault, daemon, folder }
    }

    /// Creates the fixture with this CA in the operator's file; `None` is the server's CA.
    async fn with_ca_file(authority: Option<&CertificateAuthority>) -> Self {
        Self::with_flags(None, |own, folder| {
            let file = folder.join("ca.pem");
            fs::write(&file, authority.unwrap_or(own).pem()).unwrap();
            vec![format!("--vault-tls-ca-cert={}", file.display())]
        })
        .await
    }

    /// Returns a pod without a session.
    fn new_pod(&self) -> Pod {
        Pod { uid: unique_name("uid"), ..self.pod() }
    }

    /// Restarts the server with a certificate of another authority.
    async fn replace_certificate(&mut self, authority: &CertificateAuthority) {
        self.vault.stop_listening().await;
        self.vault.listen_again(Some(authority.server_config(None)));
    }

    fn pod(&self) -> Pod {
        secret_pod(&self.tenant)
    }

    fn pod_with_ca(&self) -> Pod {
        self.pod().with_parameter("vaultCACert", self.authority.pem())
    }

    fn write_file(&self, name: &str, text: &str) -> String {
        let path = self.folder.path().join(name);
        fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    }

    async fn mount_secret(&self, pod: &Pod) -> String {
        single_file(&self.daemon.mount(pod.mount_call()).await.unwrap()).to_owned()
    }

    async fn assert_tls_error(&self, pod: &Pod, cause: Cause, parts: &[&str]) {
        let (got, text) = self.daemon.mount_error(pod.mount_call()).await;
        assert_eq!(got, cause, "{text}");
        assert_contains(&text, parts);
        assert_contains(&text, &[&self.vault.address]);
    }
}

#[tokio::test]
async fn vault_ca_parameters_decide_which_server_is_trusted() {
    let secured = TlsFixture::new(None).await;
    let file = secured.write_file("ca.pem", &secured.authority.pem());
    let folder = secured.folder.path().to_str().unwrap();
    for (name, value) in [
        ("vaultCACertPath", file.as_str()),
        ("vaultCADirectory", folder),
        ("vaultCACert", &secured.authority.pem()),
        ("vaultSkipTLSVerify", "true"),
    ] {
        assert_eq!(secured.mount_secret(&secured.pod().with_parameter(name, value)).await, SECRET, "{name}");
    }
    for (other, parts) in [
        (CertificateAuthority::with_name("another"), "was not issued by a trusted authority"),
        (CertificateAuthority::new(), "names a trusted authority that did not sign it"),
    ] {
        secured
            .assert_tls_error(
                &secured.pod().with_parameter("vaultCACert", other.pem()),
                Cause::CertificateUntrusted,
                &[parts, "set the CA"],
            )
            .await;
    }
    let name = secured.pod_with_ca().with_parameter("vaultTLSServerName", "vault.example");
    secured.assert_tls_error(&name, Cause::CertificateName, &["is not for vault.example but for 127.0.0.1"]).await;
    assert_eq!(secured.vault.count("POST", "auth/"), 4, "no login goes to an untrusted server");
}

#[tokio::test]
async fn vault_ca_cert_path_fixed_file_applies_to_next_mount() {
    let secured = TlsFixture::new(None).await;
    let file = secured.write_file("ca.pem", &CertificateAuthority::new().pem());
    let pod = secured.pod().with_parameter("vaultCACertPath", file);
    secured.assert_tls_error(&pod, Cause::CertificateUntrusted, &["a trusted authority that did not sign it"]).await;
    secured.write_file("ca.pem", "nothing");
    secured.assert_tls_error(&pod, Cause::TlsSetup, &["ca.pem holds no certificate"]).await;
    secured.write_file("ca.pem", &secured.authority.pem());
    assert_eq!(secured.mount_secret(&pod).await, SECRET);
}

#[tokio::test]
async fn vault_tls_ca_cert_change_applies_to_existing_session() {
    let (tenant, old, new) = (tenant_with_secret().await, CertificateAuthority::new(), CertificateAuthority::new());
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("ca.pem");
    fs::write(&file, old.pem()).unwrap();
    let mut vault = FaultProxy::start_tls(old.server_config(None)).await;
    let daemon = Daemon::start_at(&vault.address, &[&format!("--vault-tls-ca-cert={}", file.display())]).await;
    let pod = secret_pod(&tenant);
    assert_eq!(single_file(&daemon.mount(pod.mount_call()).await.unwrap()), SECRET);
    vault.stop_listening().await;
    vault.listen_again(Some(new.server_config(None)));
    fs::write(&file, new.pem()).unwrap();
    tenant.write_secret("db", json!({"pass": "new"})).await;
    advance(DEFAULT_REFRESH_INTERVAL).await;
    // The first mount may be the one that detects the change; the pod then keeps its cached secrets.
    let found_out = single_file(&daemon.mount(pod.mount_call()).await.unwrap()).to_owned();
    assert!([SECRET, "new"].contains(&found_out.as_str()));
    assert_eq!(single_file(&daemon.mount(pod.mount_call()).await.unwrap()), "new");
    assert_eq!(vault.count("POST", "auth/"), 1, "the session outlives it");
}

#[tokio::test]
async fn client_certificate_required_by_server_comes_from_class() {
    let clients = CertificateAuthority::new();
    let secured = TlsFixture::new(Some(&clients)).await;
    let showing = |pod: Pod, leaf: &Leaf| {
        pod.with_parameter("vaultTLSClientCertPath", secured.write_file("client.pem", &leaf.certificate))
            .with_parameter("vaultTLSClientKeyPath", secured.write_file("client.key", &leaf.key))
    };
    secured
        .assert_tls_error(
            &secured.pod_with_ca(),
            Cause::TlsSetup,
            &["demands a client certificate", "set a client certificate and key"],
        )
        .await;
    let wrong = showing(secured.pod_with_ca(), &CertificateAuthority::with_name("another").issue("node"));
    secured.assert_tls_error(&wrong, Cause::TlsSetup, &["does not accept our client certificate"]).await;
    let right = showing(secured.pod_with_ca(), &clients.issue("node"));
    assert_eq!(secured.mount_secret(&right).await, SECRET);
}

#[tokio::test]
async fn connection_closed_in_tls_handshake_is_retried() {
    let closing = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let daemon = Daemon::start_at(&format!("https://{}", closing.local_addr().unwrap()), &[]).await;
    let accepted = tokio::spawn(async move {
        // One connection is the health probe at start.
        for _ in 0..6 {
            drop(closing.accept().await.unwrap());
        }
    });
    let (cause, text) = daemon.mount_error(secret_pod(&tenant_with_secret().await).mount_call()).await;
    assert_eq!(cause, Cause::Unreachable, "{text}");
    assert_contains(&text, &["closed the connection during the handshake"]);
    accepted.await.unwrap();
}

#[tokio::test]
async fn http2_retries_reads_but_not_mutating_requests() {
    let secured = TlsFixture::new(None).await;
    let database = DatabaseEngine::for_tenant(&secured.tenant).await;
    let user = format!("- {{objectName: user, secretPath: {}, secretKey: username}}", database.path);
    for fault in [Fault::DropRequest, Fault::DropResponse] {
        secured.vault.next(1, "GET", "kv-", fault.clone());
        assert_eq!(secured.mount_secret(&secured.pod_with_ca()).await, SECRET);
        secured.vault.next(1, "GET", &database.path, fault);
        let (cause, text) = secured.daemon.mount_error(secured.pod_with_ca().with_objects(&user).mount_call()).await;
        assert_eq!(cause, Cause::OutcomeUnknown, "{text}");
        assert_contains(&text, &["not retried at once"]);
    }
    assert_eq!((secured.vault.count("GET", "kv-"), secured.vault.count("GET", &database.path)), (4, 2));
    assert_eq!(database.users().await.len(), 1);
}

#[tokio::test]
async fn vault_tls_ca_cert_rotation_fails_no_mount() {
    let log = CapturedLog::new();
    let new = CertificateAuthority::new();
    let mut secured = TlsFixture::with_ca_file(None).await;
    assert_eq!(secured.mount_secret(&secured.pod()).await, SECRET);
    secured.replace_certificate(&new).await;
    secured.write_file("ca.pem", &new.pem());
    log.wait_for_lines(CHANGED_MESSAGE, 1, TLS_RELOAD_INTERVAL).await;
    assert_eq!(secured.mount_secret(&secured.new_pod()).await, SECRET);
    for _ in 0..3 {
        advance(TLS_RELOAD_INTERVAL).await;
        let_background_run().await;
    }
    assert_eq!(log.count_lines(CHANGED_MESSAGE), 1, "{}", log.text());
    assert!(log.count_lines("failed") == 0 && log.count_lines("BEGIN") == 0, "{}", log.text());
}

#[tokio::test]
async fn vault_tls_ca_directory_symlink_swap_is_reloaded() {
    use std::os::unix::fs::symlink;
    let log = CapturedLog::new();
    let new = CertificateAuthority::new();
    let mut secured = TlsFixture::with_flags(None, |authority, root| {
        fs::create_dir(root.join("..1")).unwrap();
        fs::write(root.join("..1/ca.pem"), authority.pem()).unwrap();
        symlink("..1", root.join("..data")).unwrap();
        symlink("..data/ca.pem", root.join("ca.pem")).unwrap();
        vec![format!("--vault-tls-ca-directory={}", root.display())]
    })
    .await;
    assert_eq!(secured.mount_secret(&secured.pod()).await, SECRET);
    secured.replace_certificate(&new).await;
    let root = secured.folder.path();
    fs::create_dir(root.join("..2")).unwrap();
    secured.write_file("..2/ca.pem", &new.pem());
    symlink("..2", root.join("..data_tmp")).unwrap();
    fs::rename(root.join("..data_tmp"), root.join("..data")).unwrap();
    log.wait_for_lines(CHANGED_MESSAGE, 1, TLS_RELOAD_INTERVAL).await;
    assert_eq!(secured.mount_secret(&secured.new_pod()).await, SECRET);
}

#[tokio::test]
async fn client_certificate_reload_waits_for_matching_key() {
    let log = CapturedLog::new();
    let clients = CertificateAuthority::with_name("clients");
    let secured = TlsFixture::new(Some(&clients)).await;
    let shown = |leaf: &Leaf| Some(CertificateDer::from_pem_slice(leaf.certificate.as_bytes()).unwrap());
    let (old, new) = (clients.issue("old"), clients.issue("new"));
    let (certificate, key) =
        (secured.write_file("client.pem", &old.certificate), secured.write_file("client.key", &old.key));
    let showing = |pod: Pod| {
        pod.with_parameter("vaultCACert", secured.authority.pem())
            .with_parameter("vaultTLSClientCertPath", certificate.clone())
            .with_parameter("vaultTLSClientKeyPath", key.clone())
    };
    assert_eq!(secured.mount_secret(&showing(secured.pod())).await, SECRET);
    assert_eq!(secured.vault.last_client_certificate(), shown(&old));
    secured.write_file("client.pem", &new.certificate);
    advance(TLS_RELOAD_INTERVAL).await;
    let_background_run().await;
    assert_eq!(secured.mount_secret(&showing(secured.new_pod())).await, SECRET);
    assert_eq!((secured.vault.last_client_certificate(), log.count_lines(BROKEN_MESSAGE)), (shown(&old), 0));
    secured.write_file("client.key", &new.key);
    log.wait_for_lines(CHANGED_MESSAGE, 1, TLS_RELOAD_INTERVAL).await;
    assert_eq!(secured.mount_secret(&showing(secured.new_pod())).await, SECRET);
    assert_eq!(secured.vault.last_client_certificate(), shown(&new));
}

#[tokio::test]
async fn tls_reload_finishes_in_flight_and_closes_idle_connections() {
    let log = CapturedLog::new();
    let secured = TlsFixture::with_ca_file(None).await;
    let gate = Gate::new();
    secured.vault.next(1, "GET", "kv-", Fault::HoldRequest(gate.clone()));
    let pod = secured.pod();
    // The clock must not advance during a request, which would then time out. The next check of the files is due soon.
    advance(TLS_RELOAD_INTERVAL).await;
    let_background_run().await;
    advance(Duration::from_millis(9500)).await;
    let mounting = secured.mount_secret(&pod);
    let changing = async {
        secured.vault.wait_for(1, "GET", "kv-").await;
        secured.write_file("ca.pem", &(secured.authority.pem() + &CertificateAuthority::with_name("another").pem()));
        log.wait_for_lines(CHANGED_MESSAGE, 1, Duration::ZERO).await;
        gate.open();
    };
    let (secret, ()) = tokio::join!(mounting, changing);
    assert_eq!((secret.as_str(), secured.vault.count("GET", "kv-")), (SECRET, 1));
    let before = secured.vault.connection_count();
    assert_eq!(secured.mount_secret(&secured.new_pod()).await, SECRET);
    assert!(secured.vault.connection_count() > before);
}

#[tokio::test]
async fn broken_tls_files_keep_old_settings_and_log_once() {
    let log = CapturedLog::new();
    let secured = TlsFixture::with_ca_file(None).await;
    assert_eq!(secured.mount_secret(&secured.pod()).await, SECRET);
    // The last bundle is truncated: its first authority is complete but is not the server's.
    let half = CertificateAuthority::with_name("another").pem() + &secured.authority.pem()[..300];
    for (times, broken) in ["s3cr3t nonsense", "other s3cr3t nonsense", &half].into_iter().enumerate() {
        secured.write_file("ca.pem", broken);
        log.wait_for_lines(BROKEN_MESSAGE, times + 1, TLS_RELOAD_INTERVAL).await;
        for _ in 0..3 {
            advance(TLS_RELOAD_INTERVAL).await;
            let_background_run().await;
        }
        assert_eq!(log.count_lines(BROKEN_MESSAGE), times + 1, "{}", log.text());
        assert_eq!(secured.mount_secret(&secured.new_pod()).await, SECRET);
    }
    let counts = (log.count_lines("ca.pem holds no certificate"), log.count_lines("ca.pem is incomplete"));
    assert_eq!(counts, (2, 1), "{}", log.text());
    secured.write_file("ca.pem", &secured.authority.pem());
    log.wait_for_lines(RECOVERED_MESSAGE, 1, TLS_RELOAD_INTERVAL).await;
    assert!(log.count_lines("s3cr3t") == 0 && log.count_lines(CHANGED_MESSAGE) == 0, "{}", log.text());
}

#[tokio::test]
async fn broken_ca_file_after_tls_failure_keeps_last_good_ca() {
    let mut secured = TlsFixture::with_ca_file(None).await;
    assert_eq!(secured.mount_secret(&secured.pod()).await, SECRET);
    secured.replace_certificate(&CertificateAuthority::new()).await;
    secured.write_file("ca.pem", "nothing");
    for _ in 0..2 {
        secured.assert_tls_error(&secured.new_pod(), Cause::CertificateUntrusted, &["a trusted authority"]).await;
    }
    let own = secured.authority.server_config(None);
    secured.vault.stop_listening().await;
    secured.vault.listen_again(Some(own));
    assert_eq!(secured.mount_secret(&secured.new_pod()).await, SECRET);
}

#[tokio::test]
async fn expiring_certificates_are_logged_once_a_day() {
    let end = |days: i32| {
        let day = Zoned::now().checked_add(days.days()).unwrap().date();
        CertificateAuthority::with_expiry(day.year().into(), day.month().unsigned_abs(), day.day().unsigned_abs())
    };
    let log = CapturedLog::new();
    let secured = TlsFixture::with_ca_file(Some(&end(10))).await;
    log.wait_for_lines("certificate expires soon", 1, Duration::ZERO).await;
    assert!(
        log.count_lines("ca.pem endpoint=\"https://") == 1 && log.count_lines("WARN vaultmount::trust") == 1,
        "{}",
        log.text()
    );
    for _ in 0..3 {
        advance(TLS_RELOAD_INTERVAL).await;
        let_background_run().await;
    }
    assert_eq!(log.count_lines("certificate expire"), 1, "{}", log.text());
    log.wait_for_lines("certificate expires soon", 2, Duration::from_secs(24 * 3600)).await;
    // One expired CA from a class, and one that expires late.
    for (file, authority) in [("late.pem", end(40)), ("over.pem", end(-10))] {
        let pod = secured.new_pod().with_parameter("vaultCACertPath", secured.write_file(file, &authority.pem()));
        secured.daemon.mount_error(pod.mount_call()).await;
    }
    log.wait_for_lines("certificate expired location=", 1, TLS_RELOAD_INTERVAL).await;
    assert_eq!(
        (log.count_lines("ERROR"), log.count_lines("over.pem"), log.count_lines("late.pem")),
        (1, 1, 0),
        "{}",
        log.text()
    );
}

#[tokio::test]
async fn certificate_metrics_describe_certificates_in_use() {
    let clients = CertificateAuthority::with_name("clients");
    let ending = |days: i32| {
        let end = Zoned::now().checked_add(days.days()).unwrap().date();
        let (month, day) = (end.month().unsigned_abs(), end.day().unsigned_abs());
        let second = end.to_zoned(jiff::tz::TimeZone::UTC).unwrap().timestamp().as_second();
        (clients.issue_with_expiry("node", end.year().into(), month, day), Some(second.to_string()))
    };
    let ((soon, in_20_days), (late, in_900_days)) = (ending(20), ending(900));
    let (log, metrics) = (CapturedLog::new(), free_address());
    let secured = TlsFixture::with_flags(Some(&clients), |authority, folder| {
        let file = |name: &str, text: &str| {
            fs::write(folder.join(name), text).unwrap();
            folder.join(name).display().to_string()
        };
        vec![
            format!("--vault-tls-ca-cert={}", file("ca.pem", &authority.pem())),
            format!("--vault-tls-client-cert={}", file("client.pem", &soon.certificate)),
            format!("--vault-tls-client-key={}", file("client.key", &soon.key)),
            format!("--metrics-addr={metrics}"),
        ]
    })
    .await;
    let end = async |what: &str| {
        metric_value(&metrics, &format!("vaultmount_certificate_expiry_timestamp_seconds{{certificate=\"{what}\"}}"))
            .await
    };
    let reloaded = format!("vaultmount_tls_last_reload_successful{{endpoint=\"{}\"}}", secured.vault.address);
    let reloaded = async || metric_value(&metrics, &reloaded).await;
    assert_eq!(secured.mount_secret(&secured.pod()).await, SECRET);
    let (ca, yes, no) = (end("ca").await, Some("1".to_owned()), Some("0".to_owned()));
    assert!(ca.is_some() && end("client").await == in_20_days && reloaded().await == yes);
    log.wait_for_lines("client.pem", 1, Duration::ZERO).await;

    secured.write_file("client.pem", &late.certificate);
    log.wait_for_lines(BROKEN_MESSAGE, 1, TLS_RELOAD_INTERVAL).await;
    assert_eq!((end("client").await, reloaded().await), (in_20_days, no.clone()));
    log.wait_for_lines("certificate expires soon", 2, Duration::from_secs(24 * 3600)).await;
    secured.write_file("client.key", &late.key);
    log.wait_for_lines(RECOVERED_MESSAGE, 1, TLS_RELOAD_INTERVAL).await;
    assert_eq!((end("client").await, reloaded().await), (in_900_days, yes.clone()));

    secured.write_file("ca.pem", "nonsense");
    log.wait_for_lines(BROKEN_MESSAGE, 2, TLS_RELOAD_INTERVAL).await;
    assert_eq!((end("ca").await, reloaded().await), (ca.clone(), no));
    secured.write_file("ca.pem", &secured.authority.pem());
    log.wait_for_lines(RECOVERED_MESSAGE, 2, TLS_RELOAD_INTERVAL).await;
    assert_eq!((end("ca").await, reloaded().await), (ca, yes));
}

#[tokio::test]
async fn tls_last_reload_metric_is_0_until_file_is_fixed() {
    let metrics = free_address();
    let secured = TlsFixture::with_flags(None, |_, folder| {
        fs::write(folder.join("ca.pem"), "nonsense").unwrap();
        let file = folder.join("ca.pem");
        vec![format!("--vault-tls-ca-cert={}", file.display()), format!("--metrics-addr={metrics}")]
    })
    .await;
    let reloaded = format!("vaultmount_tls_last_reload_successful{{endpoint=\"{}\"}}", secured.vault.address);
    secured.assert_tls_error(&secured.pod(), Cause::TlsSetup, &["ca.pem holds no certificate"]).await;
    assert_eq!(metric_value(&metrics, &reloaded).await.as_deref(), Some("0"));
    secured.write_file("ca.pem", &secured.authority.pem());
    assert_eq!(metric_value(&metrics, &reloaded).await.as_deref(), Some("1"));
    assert_eq!(secured.mount_secret(&secured.pod()).await, SECRET);
    assert_eq!(metric_value(&metrics, &reloaded).await.as_deref(), Some("1"));
}

#[tokio::test]
async fn tls_min_version_rejects_older_server() {
    let (tenant, authority) = (tenant_with_secret().await, CertificateAuthority::new());
    let vault = FaultProxy::start_tls(authority.tls12_server_config()).await;
    let pod = secret_pod(&tenant).with_parameter("vaultCACert", authority.pem());
    let lax = Daemon::start_at(&vault.address, &[]).await;
    assert_eq!(single_file(&lax.mount(pod.mount_call()).await.unwrap()), SECRET);
    let strict = Daemon::start_at(&vault.address, &["--tls-min-version=1.3"]).await;
    let expected = ["does not speak TLS 1.3", "--tls-min-version=1.3", "let the server speak TLS 1.3"];
    strict.assert_mount_error(&pod, Cause::TlsSetup, &expected).await;
    let modern = FaultProxy::start_tls(authority.server_config(None)).await;
    let strict = Daemon::start_at(&modern.address, &["--tls-min-version=1.3"]).await;
    assert_eq!(single_file(&strict.mount(pod.mount_call()).await.unwrap()), SECRET);
}

#[tokio::test]
async fn allow_skip_verify_false_denies_vault_skip_tls_verify() {
    let metrics = free_address();
    let secured = TlsFixture::with_flags(None, |_, _| {
        vec!["--allow-skip-verify=false".to_owned(), format!("--metrics-addr={metrics}")]
    })
    .await;
    let pod = secured.pod().with_parameter("vaultSkipTLSVerify", "true");
    secured
        .daemon
        .assert_mount_error(&pod, Cause::SkipVerifyNotAllowed, &["vaultSkipTLSVerify", "--allow-skip-verify"])
        .await;
    assert_eq!(secured.vault.count_except_health(), 0);
    let (_, text) = get(&format!("http://{metrics}/metrics")).await;
    assert!(text.contains("vaultmount_policy_denials_total{rule=\"skip_verify\"} 1\n"), "{text}");
    assert_eq!(secured.mount_secret(&secured.pod_with_ca()).await, SECRET);
}
