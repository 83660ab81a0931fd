//! Tests of every threat in docs/security.md: ways to another tenant's or the operator's token or secret.

use std::os::unix::fs::PermissionsExt as _;

use serde_json::json;
use vaultmount::{error::Cause, provider::client::Client};

use super::fixture;
use crate::{
    admin_endpoints::{free_address, get},
    support::{
        bao::root_request,
        cli::run_cli,
        daemon::{Daemon, ProviderProcess},
        fault_proxy::{Fault, FaultProxy},
        kubernetes::KubernetesCluster,
        pod::Pod,
        policy::PolicyFile,
        tls::{CertificateAuthority, self_signed_server_config},
        unique_name,
    },
};

#[test]
fn security_page_lists_every_threat_model_test() {
    let (page, here) = (include_str!("../../../docs/security.md"), include_str!("threat_model.rs"));
    let listed: Vec<&str> = page.split('`').filter_map(|word| word.strip_prefix("threat_model::")).collect();
    let tried: Vec<&str> =
        here.split("async fn ").skip(1).filter_map(|rest| rest.split_once('(')).map(|(name, _)| name).collect();
    assert!(listed.len() >= 12, "{listed:?}");
    for name in &listed {
        assert!(tried.contains(name), "docs/security.md names threat_model::{name}");
    }
    for name in tried.iter().filter(|name| here.contains(&format!("#[tokio::test]\nasync fn {name}("))) {
        assert!(listed.contains(name), "docs/security.md does not name threat_model::{name}");
    }
}

/// A policy that lets pods of `shop` log in at their tenant's mount, and permits no other choice.
fn strict_policy(auth: &str) -> PolicyFile {
    PolicyFile::new(&format!("rules: [{{namespaces: [shop], authMounts: [{auth}]}}]"))
}

#[tokio::test]
async fn tenant_address_denied_is_never_contacted() {
    let ((tenant, pod), thief) = (fixture().await, FaultProxy::start().await);
    let policy = strict_policy(&tenant.auth);
    // With a policy, with a flag, and with neither, because the address leads to the node.
    for flags in [&[policy.flag().as_str()][..], &["--allow-address=none"], &[]] {
        let daemon = Daemon::start(flags).await;
        for name in ["vaultAddress", "openbaoAddress", "baoAddress"] {
            daemon
                .assert_mount_error(&pod.clone().with_parameter(name, &thief.address), Cause::AddressNotAllowed, &[])
                .await;
        }
    }
    assert_eq!(thief.connection_count(), 0);
}

#[tokio::test]
async fn redirect_to_another_server_is_not_followed() {
    let ((tenant, pod), vault, thief) = (fixture().await, FaultProxy::start().await, FaultProxy::start().await);
    let daemon = Daemon::start_at(&vault.address, &[]).await;
    let paths = [("POST", format!("auth/{}/login", tenant.auth)), ("GET", format!("{}/data/db", tenant.kv))];
    for (method, path) in paths {
        for status in [301, 302, 307, 308] {
            vault.clear_rules();
            vault.always(method, &path, Fault::Redirect(status, thief.address.clone()));
            daemon.assert_mount_error(&pod, Cause::Redirect, &[]).await;
        }
    }
    assert_eq!(thief.connection_count(), 0);
}

#[tokio::test]
async fn dns_name_resolving_to_node_is_denied() {
    let ((_tenant, pod), thief) = (fixture().await, FaultProxy::start().await);
    let port = thief.address.rsplit_once(':').unwrap().1;
    // Host names that a pattern allows: only DNS resolution shows that they are loopback addresses.
    let policy = PolicyFile::new("rules: [{namespaces: [shop], authMounts: [\"*\"], addresses: [\"http://*:*\"]}]");
    let daemon = Daemon::start(&[&policy.flag()]).await;
    for host in ["localhost", "127.1", "2130706433", "0x7f000001"] {
        let pod = pod.clone().with_parameter("vaultAddress", format!("http://{host}:{port}"));
        daemon.assert_mount_error(&pod, Cause::AddressNotAllowed, &["node itself"]).await;
    }
    assert_eq!(thief.connection_count(), 0);
}

#[tokio::test]
async fn spoofed_server_gets_no_request() {
    let (tenant, pod) = fixture().await;
    let thief = FaultProxy::start_tls(self_signed_server_config()).await;
    let daemon = Daemon::start_at(&thief.address, &[]).await;
    let (cause, text) = daemon.mount_error(pod.mount_call()).await;
    assert!(cause.is_tls(), "{text}");
    // A CA or server name from the class does not help either.
    let theirs = CertificateAuthority::new();
    let thief = FaultProxy::start_tls(theirs.server_config(None)).await;
    let policy = strict_policy(&tenant.auth);
    let daemon = Daemon::start_at(&thief.address, &[&policy.flag()]).await;
    for (name, value) in [("vaultCACert", theirs.pem()), ("baoTLSServerName", "theirs".into())] {
        daemon
            .assert_mount_error(&pod.clone().with_parameter(name, value), Cause::TenantPolicyViolation, &["skipVerify"])
            .await;
    }
    assert_eq!(thief.all_requests().len(), 0);
}

#[tokio::test]
async fn endpoint_address_with_tenant_ca_is_denied() {
    let (tenant, pod) = fixture().await;
    let (ours, theirs) = (CertificateAuthority::new(), CertificateAuthority::new());
    // The tenant also controls the server that responds under the endpoint's name.
    let thief = FaultProxy::start_tls(theirs.server_config(None)).await;
    let policy = PolicyFile::new(&format!(
        "endpoints: {{prod: {{address: \"{0}\", authMount: {1}, tls: {{caCert: {2:?}}}}}}}
rules: [{{namespaces: [shop], endpoints: [default, prod], addresses: [\"{0}\"], authMounts: [{1}]}}]",
        thief.address,
        tenant.auth,
        ours.pem()
    ));
    let daemon = Daemon::start(&[&policy.flag()]).await;
    let by_name = pod.clone().with_parameter("vaultEndpoint", "prod");
    let (cause, text) = daemon.mount_error(by_name.mount_call()).await;
    assert!(cause.is_tls(), "{text}");
    let written = [thief.address.clone(), format!("{}/x", thief.address.replace("https", "HTTPS"))];
    let by_address = written.map(|address| pod.clone().with_parameter("vaultAddress", address));
    for pod in [by_name].into_iter().chain(by_address) {
        for (name, value) in [("vaultCACert", theirs.pem()), ("vaultTLSServerName", "127.0.0.1".into())] {
            daemon
                .assert_mount_error(
                    &pod.clone().with_parameter(name, value),
                    Cause::TenantPolicyViolation,
                    &["skipVerify"],
                )
                .await;
        }
    }
    assert_eq!(thief.all_requests().len(), 0);
}

#[tokio::test]
async fn proxy_variables_in_parameters_are_ignored() {
    let ((_tenant, mut pod), thief) = (fixture().await, FaultProxy::start().await);
    for name in [
        "HTTPS_PROXY",
        "HTTP_PROXY",
        "http_proxy",
        "VAULT_HTTP_PROXY",
        "VAULT_PROXY_ADDR",
        "vaultProxyAddress",
        "ALL_PROXY",
    ] {
        pod = pod.with_parameter(name, &thief.address);
    }
    for name in ["VAULT_ADDR", "BAO_ADDR", "VAULT_AGENT_ADDR"] {
        pod = pod.with_parameter(name, &thief.address);
    }
    // These names are unknown, so Vault itself receives the requests.
    assert_eq!(Daemon::start(&[]).await.mount_files(&pod).await["pass"], "s3cret");
    assert_eq!(thief.connection_count(), 0);
}

/// A pod without a driver token, a cluster that could mint one, and flags of a server that may request it.
async fn fixture_without_driver_token() -> (KubernetesCluster, Pod, tempfile::TempDir, String) {
    let (tenant, _) = fixture().await;
    let cluster = KubernetesCluster::for_tenant(&tenant).await;
    let objects = format!("- {{objectName: pass, secretPath: {}/data/db, secretKey: pass}}", tenant.kv);
    let mut pod = cluster.pod(&tenant).with_objects(objects);
    pod.tokens = None;
    let folder = tempfile::tempdir().unwrap();
    let kubeconfig = folder.path().join("kubeconfig");
    std::fs::write(&kubeconfig, cluster.api.kubeconfig("csi", "any")).unwrap();
    let flag = format!("--kubeconfig={}", kubeconfig.display());
    (cluster, pod, folder, flag)
}

fn count_minted_tokens(cluster: &KubernetesCluster) -> usize {
    cluster.api.request_lines().iter().filter(|line| line.contains("/token")).count()
}

#[tokio::test]
async fn audience_outside_policy_is_denied_and_not_minted() {
    let (cluster, pod, _folder, kubeconfig) = fixture_without_driver_token().await;
    let policy = strict_policy(&cluster.auth);
    let daemon = Daemon::start(&[&kubeconfig, &policy.flag()]).await;
    for audience in ["https://kubernetes.default.svc", "sts.amazonaws.com", "openbao"] {
        daemon
            .assert_mount_error(
                &pod.clone().with_parameter("audience", audience),
                Cause::TenantPolicyViolation,
                &["audiences", audience],
            )
            .await;
    }
    assert_eq!(count_minted_tokens(&cluster), 0);
}

#[tokio::test]
async fn mint_tokens_never_requests_token_without_audience() {
    let ((cluster, pod, _folder, kubeconfig), thief) =
        (fixture_without_driver_token().await, FaultProxy::start().await);
    let elsewhere = pod.clone().with_parameter("vaultAddress", &thief.address);
    // The address is allowed but is not the operator's. A token that the API server accepts never goes there.
    let daemon = Daemon::start(&[&kubeconfig, &format!("--allow-address={}", thief.address)]).await;
    daemon.assert_mount_error(&elsewhere, Cause::TokenMissing, &["tokenRequests"]).await;
    assert_eq!((count_minted_tokens(&cluster), thief.requests("POST", "auth/").len()), (0, 0));
    // With a policy, vaultmount requests a token for both pods, only for the audience that the policy checked.
    let rule = format!("namespaces: [shop], authMounts: [{}], addresses: [\"{}\"]", cluster.auth, thief.address);
    let policy = PolicyFile::new(&format!("rules: [{{{rule}}}]"));
    let daemon = Daemon::start(&[&kubeconfig, &policy.flag()]).await;
    for pod in [pod, elsewhere] {
        daemon.mount_files(&pod).await;
    }
    let requests: Vec<_> = cluster.api.requests().into_iter().filter(|seen| seen.path.ends_with("/token")).collect();
    assert_eq!(requests.len(), 2);
    for request in requests {
        assert_eq!(request.body["spec"]["audiences"], json!(["vault"]), "{}", request.body);
    }
}

#[tokio::test]
async fn auth_mount_outside_policy_is_denied() {
    let (tenant, pod) = fixture().await;
    let vault = FaultProxy::start().await;
    // An auth mount with an owner that sees the tokens of every login, like a plugin.
    let theirs = unique_name("theirs");
    root_request("POST", &format!("sys/auth/{theirs}"), json!({"type": "jwt"})).await;
    let policy = strict_policy(&tenant.auth);
    let daemon = Daemon::start_at(&vault.address, &[&policy.flag()]).await;
    for name in ["vaultAuthMountPath", "baoAuthMountPath", "vaultKubernetesMountPath"] {
        let mut pod = pod.clone();
        pod.parameters.retain(|(name, _)| name != "vaultAuthMountPath");
        daemon
            .assert_mount_error(&pod.with_parameter(name, &theirs), Cause::TenantPolicyViolation, &["authMounts"])
            .await;
    }
    assert_eq!(vault.requests("POST", "auth/").len(), 0);
}

#[tokio::test]
async fn path_traversal_is_rejected_or_escaped() {
    let (tenant, pod) = fixture().await;
    let vault = FaultProxy::start().await;
    let policy = PolicyFile::new(&format!(
        "rules: [{{namespaces: [shop], authMounts: [\"{0}\", \"{0}/**\"], vaultNamespaces: [root, \"team/**\"], certificateFiles: [\"/tls/**\"]}}]",
        tenant.auth
    ));
    let daemon = Daemon::start_at(&vault.address, &[&policy.flag()]).await;
    let object =
        |name: &str, path: &str| format!("- {{objectName: \"{name}\", secretPath: \"{path}\", secretKey: pass}}");
    let secret = format!("{}/data/db", tenant.kv);
    for (name, value, cause) in [
        ("vaultAuthMountPath", format!("{}/../token", tenant.auth), Cause::InvalidRequest),
        ("vaultNamespace", "team/../other".into(), Cause::InvalidRequest),
        ("vaultAuthNamespace", "../root".into(), Cause::InvalidRequest),
        ("vaultNamespace", "team/ ".into(), Cause::TenantPolicyViolation),
        ("vaultNamespace", "team//other".into(), Cause::InvalidRequest),
        ("vaultAddress", "https://vault.example/x/%2e%2E/y".into(), Cause::InvalidRequest),
        (
            "vaultCACertPath",
            "/tls/../var/run/secrets/kubernetes.io/serviceaccount/token".into(),
            Cause::TenantPolicyViolation,
        ),
        ("vaultAddress", "unix:///tls/../run/agent.sock".into(), Cause::InvalidRequest),
        ("objects", object("pass", &format!("{}/data/../../sys/seal", tenant.kv)), Cause::InvalidRequest),
        ("objects", object("pass", &format!("{}/data/..%2f..%2fsys/mounts", tenant.kv)), Cause::SecretMissing),
        ("objects", object("../../pass", &secret), Cause::UnsafeName),
        ("objects", object("/etc/pass", &secret), Cause::UnsafeName),
        ("roleName", "../../sys/policy/root".into(), Cause::LoginClaims),
    ] {
        daemon.assert_mount_error(&pod.clone().with_parameter(name, value), cause, &[]).await;
    }
    let reached = vault.all_requests();
    assert!(!reached.is_empty());
    assert!(reached.iter().all(|seen| !seen.path.starts_with("sys/seal") && !seen.path.starts_with("sys/policy")));
    assert!(
        reached.iter().all(|seen| !seen.path.contains("..") || seen.path.contains("%252f")),
        "as one name, escaped"
    );
}

#[tokio::test]
async fn tls_file_error_shows_no_file_content() {
    let (_tenant, pod) = fixture().await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("token");
    std::fs::write(&file, "XMARKEDX").unwrap();
    let daemon = Daemon::start(&[]).await;
    let mut pods: Vec<Pod> = [("vaultCACertPath", file.as_path()), ("vaultCADirectory", folder.path())]
        .map(|(name, place)| pod.clone().with_parameter(name, place.display().to_string()))
        .into();
    let path = file.display().to_string();
    pods.push(pod.with_parameter("vaultTLSClientCertPath", &path).with_parameter("vaultTLSClientKeyPath", &path));
    for pod in pods {
        let (cause, text) =
            daemon.mount_error(pod.with_parameter("vaultAddress", "https://vault.example").mount_call()).await;
        assert!(cause == Cause::TlsSetup && !text.contains("XMARKEDX"), "{text}");
    }
}

#[tokio::test]
async fn logs_metrics_and_status_hold_no_secret() {
    let (tenant, pod) = fixture().await;
    let (pages, folder) = (free_address(), tempfile::tempdir().unwrap());
    let audit = folder.path().join("audit.log");
    let policy = strict_policy(&tenant.auth);
    let status = folder.path().join("status.sock");
    let flags = [
        policy.flag(),
        format!("--metrics-addr={pages}"),
        format!("--audit-log={}", audit.display()),
        format!("--status-socket={}", status.display()),
        "--log-level=trace".to_owned(),
    ];
    let program = ProviderProcess::start(&flags.each_ref().map(String::as_str)).await;
    let mut client = Client::connect(&program.socket).await.unwrap();
    let objects = pod.parameters.iter().find(|(name, _)| name == "objects").unwrap().1.clone();
    let pod = pod.with_objects(objects + "\n- {objectName: token, type: token}");
    let files = client.mount(pod.mount_call()).await.unwrap().files;
    let vault_token = files.iter().find(|file| file.path == "token").unwrap();
    let vault_token = String::from_utf8(vault_token.contents.to_vec()).unwrap();
    let mut output =
        client.mount(pod.clone().with_parameter("audience", "other").mount_call()).await.err().unwrap().to_string();
    for page in ["metrics", "statusz", "readyz", "livez"] {
        output += &get(&format!("http://{pages}/{page}")).await.1;
    }
    output += &run_cli(&["status", "-o", "json", "--socket", status.to_str().unwrap()]).await.stdout;
    program.terminate();
    output += &program.wait_for_log().await;
    output += &std::fs::read_to_string(&audit).unwrap();
    assert!(output.len() > 10_000, "the test must have something to search: {output}");
    let token = pod.first_token().unwrap();
    let signature = token.rsplit('.').next().unwrap();
    for secret in ["s3cret", &token, signature, &vault_token, "client_token"] {
        assert!(!output.contains(secret), "{secret} is in: {output}");
    }
}

#[tokio::test]
async fn metric_labels_hold_no_tenant_values() {
    let (_tenant, pod) = fixture().await;
    let pages = free_address();
    let daemon = Daemon::start(&[&format!("--metrics-addr={pages}")]).await;
    let mark = "xmarkedx";
    let odd = Pod { name: mark.into(), namespace: mark.into(), service_account: mark.into(), ..pod };
    let token = odd.sign_token("vault", 600);
    let odd = odd.with_tokens(&[("vault", &token)]);
    daemon.mount_files(&odd).await;
    for (name, value) in [
        ("roleName", mark),
        ("vaultAuthMountPath", mark),
        ("vaultNamespace", mark),
        ("audience", mark),
        ("vaultEndpoint", mark),
    ] {
        let (cause, text) = daemon.mount_error(odd.clone().with_parameter(name, value).mount_call()).await;
        assert!(cause != Cause::TokenIdentity, "it must get so far: {text}");
    }
    let elsewhere = odd.with_parameter("vaultAddress", format!("https://{mark}.invalid"));
    daemon.assert_mount_error(&elsewhere, Cause::NameNotFound, &[]).await;
    let (_, metrics) = get(&format!("http://{pages}/metrics")).await;
    assert!(metrics.len() > 1000 && !metrics.contains(mark), "{metrics}");
}

#[tokio::test]
async fn unix_address_is_denied_and_own_socket_is_0600() {
    let ((tenant, pod), folder) = (fixture().await, tempfile::tempdir().unwrap());
    // An agent's socket in another pod's volume: the request would log in as that pod.
    let agent = FaultProxy::start_unix(&folder.path().join("agent.sock"));
    let policy = strict_policy(&tenant.auth);
    for flags in [&[policy.flag().as_str()][..], &["--allow-address=https://*"], &[]] {
        let daemon = Daemon::start(flags).await;
        daemon
            .assert_mount_error(
                &pod.clone().with_parameter("vaultAddress", &agent.address),
                Cause::AddressNotAllowed,
                &[],
            )
            .await;
        // Only root may connect to vaultmount's own socket.
        let mode = std::fs::metadata(&daemon.socket).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }
    assert_eq!(agent.connection_count(), 0);
}

#[tokio::test]
async fn token_of_another_pod_is_rejected() {
    let ((_tenant, pod), vault) = (fixture().await, FaultProxy::start().await);
    let daemon = Daemon::start_at(&vault.address, &[]).await;
    let other =
        Pod { name: unique_name("other"), uid: unique_name("uid"), service_account: "admin".into(), ..pod.clone() };
    let stolen = other.sign_token("vault", 600);
    daemon.assert_mount_error(&pod.with_tokens(&[("vault", &stolen)]), Cause::TokenIdentity, &["admin"]).await;
    assert_eq!(vault.requests("POST", "auth/").len(), 0);
}

#[tokio::test]
async fn session_of_another_pod_is_not_reused() {
    let ((_tenant, pod), vault) = (fixture().await, FaultProxy::start().await);
    let daemon = Daemon::start_at(&vault.address, &[]).await;
    daemon.mount_files(&pod).await;
    // Another pod with the same name and service account must log in itself, or its mount fails.
    let mut other = Pod { uid: unique_name("uid"), ..pod.clone() };
    other.tokens = None;
    daemon.assert_mount_error(&other, Cause::TokenMissing, &[]).await;
    let own = other.sign_token("vault", 600);
    daemon.mount_files(&other.with_tokens(&[("vault", &own)])).await;
    assert_eq!(vault.requests("POST", "auth/").len(), 2);
}
