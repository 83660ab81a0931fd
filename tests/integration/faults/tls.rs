//! Certificates, of the server and ours.

use std::{fs, path::Path, time::Duration};

use jiff::{ToSpan, Zoned};
use rustls::pki_types::{CertificateDer, pem::PemObject};
use serde_json::json;
use tempfile::TempDir;
use vaultmount::error::Cause;

use super::{SECRET, assert_says, only, reader, tenant};
use crate::operating::{free, get, told};
use crate::support::{
    bao::Tenant,
    clock::{REFRESH, leap},
    daemon::Daemon,
    database::Database,
    faulty::{Fault, Faulty, Gate},
    log::{Log, settle},
    pod::Pod,
    tls::{Authority, Leaf},
    unique,
};

/// After so long at most, files that changed are in use.
const REREAD: Duration = Duration::from_secs(11);
const CHANGED: &str = "TLS files have changed, and are used for new connections";
const BROKEN: &str = "TLS files have changed and cannot be used, those read before still are";
const MENDED: &str = "TLS files that could not be used are mended";

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
        Self::with(clients, |_, _| Vec::new()).await
    }

    /// With flags, whose files may be in the folder.
    async fn with(clients: Option<&Authority>, flags: impl FnOnce(&Authority, &Path) -> Vec<String>) -> Self {
        let (tenant, authority, folder) = (tenant().await, Authority::new(), tempfile::tempdir().unwrap());
        let vault = Faulty::tls(authority.server(clients)).await;
        let flags = flags(&authority, folder.path());
        let daemon = Daemon::at(&vault.address, &flags.iter().map(String::as_str).collect::<Vec<_>>()).await;
        Self { tenant, authority, vault, daemon, folder }
    }

    /// With this CA in a file of the operator's, or else the server's.
    async fn by_file(authority: Option<&Authority>) -> Self {
        Self::with(None, |own, folder| {
            let file = folder.join("ca.pem");
            fs::write(&file, authority.unwrap_or(own).pem()).unwrap();
            vec![format!("--vault-tls-ca-cert={}", file.display())]
        })
        .await
    }

    /// A pod that never was there.
    fn new_pod(&self) -> Pod {
        Pod { uid: unique("uid"), ..self.pod() }
    }

    /// The server comes back with a certificate of another authority.
    async fn move_to(&mut self, authority: &Authority) {
        self.vault.down().await;
        self.vault.up(Some(authority.server(None)));
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
        // One asks how it is, at the start.
        for _ in 0..6 {
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

#[tokio::test]
async fn a_rotated_ca_counts_without_a_failing_mount_in_between() {
    let log = Log::new();
    let new = Authority::new();
    let mut secured = Secured::by_file(None).await;
    assert_eq!(secured.secret_of(&secured.pod()).await, SECRET);
    secured.move_to(&new).await;
    secured.file("ca.pem", &new.pem());
    log.says(CHANGED, 1, REREAD).await;
    assert_eq!(secured.secret_of(&secured.new_pod()).await, SECRET);
    for _ in 0..3 {
        leap(REREAD).await;
        settle().await;
    }
    assert_eq!(log.count(CHANGED), 1, "{}", log.text());
    assert!(log.count("failed") == 0 && log.count("BEGIN") == 0, "{}", log.text());
}

#[tokio::test]
async fn a_directory_of_cas_may_be_swapped_as_kubernetes_does() {
    use std::os::unix::fs::symlink;
    let log = Log::new();
    let new = Authority::new();
    let mut secured = Secured::with(None, |authority, root| {
        fs::create_dir(root.join("..1")).unwrap();
        fs::write(root.join("..1/ca.pem"), authority.pem()).unwrap();
        symlink("..1", root.join("..data")).unwrap();
        symlink("..data/ca.pem", root.join("ca.pem")).unwrap();
        vec![format!("--vault-tls-ca-directory={}", root.display())]
    })
    .await;
    assert_eq!(secured.secret_of(&secured.pod()).await, SECRET);
    secured.move_to(&new).await;
    let root = secured.folder.path();
    fs::create_dir(root.join("..2")).unwrap();
    secured.file("..2/ca.pem", &new.pem());
    symlink("..2", root.join("..data_tmp")).unwrap();
    fs::rename(root.join("..data_tmp"), root.join("..data")).unwrap();
    log.says(CHANGED, 1, REREAD).await;
    assert_eq!(secured.secret_of(&secured.new_pod()).await, SECRET);
}

#[tokio::test]
async fn a_rotated_client_certificate_is_shown_at_once_and_a_key_that_comes_later_is_waited_for() {
    let log = Log::new();
    let clients = Authority::named("clients");
    let secured = Secured::new(Some(&clients)).await;
    let shown = |leaf: &Leaf| Some(CertificateDer::from_pem_slice(leaf.certificate.as_bytes()).unwrap());
    let (old, new) = (clients.issue("old"), clients.issue("new"));
    let (certificate, key) = (secured.file("client.pem", &old.certificate), secured.file("client.key", &old.key));
    let showing = |pod: Pod| {
        pod.with("vaultCACert", secured.authority.pem())
            .with("vaultTLSClientCertPath", certificate.clone())
            .with("vaultTLSClientKeyPath", key.clone())
    };
    assert_eq!(secured.secret_of(&showing(secured.pod())).await, SECRET);
    assert_eq!(secured.vault.shown(), shown(&old));
    secured.file("client.pem", &new.certificate);
    leap(REREAD).await;
    settle().await;
    assert_eq!(secured.secret_of(&showing(secured.new_pod())).await, SECRET);
    assert_eq!((secured.vault.shown(), log.count(BROKEN)), (shown(&old), 0));
    secured.file("client.key", &new.key);
    log.says(CHANGED, 1, REREAD).await;
    assert_eq!(secured.secret_of(&showing(secured.new_pod())).await, SECRET);
    assert_eq!(secured.vault.shown(), shown(&new));
}

#[tokio::test]
async fn a_request_in_flight_at_a_change_is_answered_and_no_idle_connection_outlives_it() {
    let log = Log::new();
    let secured = Secured::by_file(None).await;
    let gate = Gate::new();
    secured.vault.next(1, "GET", "kv-", Fault::Hold(gate.clone()));
    let pod = secured.pod();
    // No time leaps while a request is under way: it would be late. The next look at the files is near now.
    leap(REREAD).await;
    settle().await;
    leap(Duration::from_millis(9500)).await;
    let mounting = secured.secret_of(&pod);
    let changing = async {
        secured.vault.saw(1, "GET", "kv-").await;
        secured.file("ca.pem", &(secured.authority.pem() + &Authority::named("another").pem()));
        log.says(CHANGED, 1, Duration::ZERO).await;
        gate.open();
    };
    let (secret, ()) = tokio::join!(mounting, changing);
    assert_eq!((secret.as_str(), secured.vault.count("GET", "kv-")), (SECRET, 1));
    let before = secured.vault.connections();
    assert_eq!(secured.secret_of(&secured.new_pod()).await, SECRET);
    assert!(secured.vault.connections() > before);
}

#[tokio::test]
async fn broken_files_change_nothing_and_are_told_once_until_they_are_mended() {
    let log = Log::new();
    let secured = Secured::by_file(None).await;
    assert_eq!(secured.secret_of(&secured.pod()).await, SECRET);
    // The last is written in part: the first authority of a bundle is whole, and is not the server's.
    let half = Authority::named("another").pem() + &secured.authority.pem()[..300];
    for (times, broken) in ["s3cr3t nonsense", "other s3cr3t nonsense", &half].into_iter().enumerate() {
        secured.file("ca.pem", broken);
        log.says(BROKEN, times + 1, REREAD).await;
        for _ in 0..3 {
            leap(REREAD).await;
            settle().await;
        }
        assert_eq!(log.count(BROKEN), times + 1, "{}", log.text());
        assert_eq!(secured.secret_of(&secured.new_pod()).await, SECRET);
    }
    let counts = (log.count("ca.pem holds no certificate"), log.count("ca.pem is in pieces"));
    assert_eq!(counts, (2, 1), "{}", log.text());
    secured.file("ca.pem", &secured.authority.pem());
    log.says(MENDED, 1, REREAD).await;
    assert!(log.count("s3cr3t") == 0 && log.count(CHANGED) == 0, "{}", log.text());
}

#[tokio::test]
async fn what_worked_is_kept_when_a_failure_of_tls_meets_a_broken_file() {
    let mut secured = Secured::by_file(None).await;
    assert_eq!(secured.secret_of(&secured.pod()).await, SECRET);
    secured.move_to(&Authority::new()).await;
    secured.file("ca.pem", "nothing");
    for _ in 0..2 {
        secured.distrust(&secured.new_pod(), Cause::CertificateUntrusted, &["a trusted authority"]).await;
    }
    let own = secured.authority.server(None);
    secured.vault.down().await;
    secured.vault.up(Some(own));
    assert_eq!(secured.secret_of(&secured.new_pod()).await, SECRET);
}

#[tokio::test]
async fn certificates_that_end_are_warned_of_once_a_day() {
    let end = |days: i32| {
        let day = Zoned::now().checked_add(days.days()).unwrap().date();
        Authority::until(day.year().into(), day.month().unsigned_abs(), day.day().unsigned_abs())
    };
    let log = Log::new();
    let secured = Secured::by_file(Some(&end(10))).await;
    log.says("a certificate ends at", 1, Duration::ZERO).await;
    assert!(log.count("ca.pem endpoint=\"https://") == 1 && log.count("WARN vaultmount::trust") == 1, "{}", log.text());
    for _ in 0..3 {
        leap(REREAD).await;
        settle().await;
    }
    assert_eq!(log.count("a certificate"), 1, "{}", log.text());
    log.says("a certificate ends at", 2, Duration::from_secs(24 * 3600)).await;
    // A class's own, which is over; and one that ends late.
    for (file, authority) in [("late.pem", end(40)), ("over.pem", end(-10))] {
        let pod = secured.new_pod().with("vaultCACertPath", secured.file(file, &authority.pem()));
        secured.daemon.refusal(pod.call()).await;
    }
    log.says("a certificate is over since", 1, REREAD).await;
    assert_eq!((log.count("ERROR"), log.count("over.pem"), log.count("late.pem")), (1, 1, 0), "{}", log.text());
}

#[tokio::test]
async fn what_is_told_of_certificates_is_of_those_in_use_and_broken_files_are_told_beside_it() {
    let clients = Authority::named("clients");
    let ending = |days: i32| {
        let end = Zoned::now().checked_add(days.days()).unwrap().date();
        let (month, day) = (end.month().unsigned_abs(), end.day().unsigned_abs());
        let second = end.to_zoned(jiff::tz::TimeZone::UTC).unwrap().timestamp().as_second();
        (clients.issue_until("node", end.year().into(), month, day), Some(second.to_string()))
    };
    let ((soon, in_20_days), (late, in_900_days)) = (ending(20), ending(900));
    let (log, metrics) = (Log::new(), free());
    let secured = Secured::with(Some(&clients), |authority, folder| {
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
        told(&metrics, &format!("vaultmount_certificate_expiry_timestamp_seconds{{certificate=\"{what}\"}}")).await
    };
    let reloaded = format!("vaultmount_tls_last_reload_successful{{endpoint=\"{}\"}}", secured.vault.address);
    let reloaded = async || told(&metrics, &reloaded).await;
    assert_eq!(secured.secret_of(&secured.pod()).await, SECRET);
    let (ca, yes, no) = (end("ca").await, Some("1".to_owned()), Some("0".to_owned()));
    assert!(ca.is_some() && end("client").await == in_20_days && reloaded().await == yes);
    log.says("client.pem", 1, Duration::ZERO).await;

    secured.file("client.pem", &late.certificate);
    log.says(BROKEN, 1, REREAD).await;
    assert_eq!((end("client").await, reloaded().await), (in_20_days, no.clone()));
    log.says("a certificate ends at", 2, Duration::from_secs(24 * 3600)).await;
    secured.file("client.key", &late.key);
    log.says(MENDED, 1, REREAD).await;
    assert_eq!((end("client").await, reloaded().await), (in_900_days, yes.clone()));

    secured.file("ca.pem", "nonsense");
    log.says(BROKEN, 2, REREAD).await;
    assert_eq!((end("ca").await, reloaded().await), (ca.clone(), no));
    secured.file("ca.pem", &secured.authority.pem());
    log.says(MENDED, 2, REREAD).await;
    assert_eq!((end("ca").await, reloaded().await), (ca, yes));
}

#[tokio::test]
async fn files_that_are_broken_from_the_start_are_told_until_they_are_mended() {
    let metrics = free();
    let secured = Secured::with(None, |_, folder| {
        fs::write(folder.join("ca.pem"), "nonsense").unwrap();
        let file = folder.join("ca.pem");
        vec![format!("--vault-tls-ca-cert={}", file.display()), format!("--metrics-addr={metrics}")]
    })
    .await;
    let reloaded = format!("vaultmount_tls_last_reload_successful{{endpoint=\"{}\"}}", secured.vault.address);
    secured.distrust(&secured.pod(), Cause::Tls, &["ca.pem holds no certificate"]).await;
    assert_eq!(told(&metrics, &reloaded).await.as_deref(), Some("0"));
    secured.file("ca.pem", &secured.authority.pem());
    assert_eq!(told(&metrics, &reloaded).await.as_deref(), Some("1"));
    assert_eq!(secured.secret_of(&secured.pod()).await, SECRET);
    assert_eq!(told(&metrics, &reloaded).await.as_deref(), Some("1"));
}

#[tokio::test]
async fn an_older_version_of_tls_is_spoken_unless_the_operator_forbids_it() {
    let (tenant, authority) = (tenant().await, Authority::new());
    let vault = Faulty::tls(authority.old_server()).await;
    let pod = reader(&tenant).with("vaultCACert", authority.pem());
    let lax = Daemon::at(&vault.address, &[]).await;
    assert_eq!(only(&lax.mount(pod.call()).await.unwrap()), SECRET);
    let strict = Daemon::at(&vault.address, &["--tls-min-version=1.3"]).await;
    let says = ["does not speak TLS 1.3", "--tls-min-version=1.3", "let the server speak TLS 1.3"];
    strict.refuses(&pod, Cause::Tls, &says).await;
    let modern = Faulty::tls(authority.server(None)).await;
    let strict = Daemon::at(&modern.address, &["--tls-min-version=1.3"]).await;
    assert_eq!(only(&strict.mount(pod.call()).await.unwrap()), SECRET);
}

#[tokio::test]
async fn an_operator_may_forbid_that_certificates_are_not_verified() {
    let metrics = free();
    let secured =
        Secured::with(None, |_, _| vec!["--allow-skip-verify=false".to_owned(), format!("--metrics-addr={metrics}")])
            .await;
    let pod = secured.pod().with("vaultSkipTLSVerify", "true");
    secured.daemon.refuses(&pod, Cause::MustVerify, &["vaultSkipTLSVerify", "--allow-skip-verify"]).await;
    assert_eq!(secured.vault.asked(), 0);
    let (_, text) = get(&format!("http://{metrics}/metrics")).await;
    assert!(text.contains("vaultmount_policy_denials_total{rule=\"skip_verify\"} 1\n"), "{text}");
    assert_eq!(secured.secret_of(&secured.trusting()).await, SECRET);
}
