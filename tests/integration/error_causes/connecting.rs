//! Connection errors.

use std::{net::SocketAddr, time::Duration};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
    task::JoinSet,
};

use super::{MountCase, fixture, single_object};
use crate::support::{
    fault_proxy::{Fault, FaultProxy, respond},
    policy::PolicyFile,
    tls::{CertificateAuthority, self_signed_server_config},
};

/// Starts a server that sends the same bytes on every connection; returns its address and task.
async fn fixed_response_server(words: &'static [u8]) -> (SocketAddr, JoinSet<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (address, mut task) = (listener.local_addr().unwrap(), JoinSet::new());
    task.spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let _ = stream.read(&mut [0; 4096]).await;
            let _ = stream.write_all(words).await;
        }
    });
    (address, task)
}

/// Returns an address without a listener.
async fn unused_address() -> String {
    let port = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port();
    format!("http://127.0.0.1:{port}")
}

pub async fn connection_refused() -> [MountCase; 1] {
    let (_, pod) = fixture().await;
    [MountCase::for_pod(pod, &["connection refused by", "check the address and its port"])
        .with_address(&unused_address().await)]
}

pub async fn connect_timeout() -> [MountCase; 1] {
    let (_, pod) = fixture().await;
    // This listener accepts connections and stays silent, like a backend behind a broken load balancer.
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("https://{}", silent.local_addr().unwrap());
    let expected = ["timed out after 1.4s", "TLS handshake did not end", "check that a TLS server"];
    let scenario = MountCase::for_pod(pod, &expected).with_address(&address).with_fast_clock().mount_only("time");
    [scenario.with_timeout(Duration::from_secs(60)).keep_alive(silent)]
}

pub async fn name_not_found() -> [MountCase; 1] {
    let (_, pod) = fixture().await;
    let expected = ["vaultmount.invalid cannot be resolved", "check the host name"];
    [MountCase::for_pod(pod, &expected).with_address("http://vaultmount.invalid:1")]
}

pub async fn unreachable() -> [MountCase; 1] {
    let ((_, pod), folder) = (fixture().await, tempfile::tempdir().unwrap());
    let address = format!("unix://{}/agent.sock", folder.path().display());
    [MountCase::for_pod(pod, &["cannot connect to the unix socket", "check the socket's path"])
        .with_address(&address)
        .keep_alive(folder)]
}

pub async fn certificate_untrusted() -> [MountCase; 3] {
    let ((_, pod), authority) = (fixture().await, CertificateAuthority::new());
    let vault = FaultProxy::start_tls(authority.server_config(None)).await;
    let unknown = MountCase::for_pod(
        pod.clone(),
        &["was not issued by a trusted authority", "set the CA that issued it (vaultCACert"],
    );
    let same_name = pod.clone().with_parameter("vaultCACert", CertificateAuthority::new().pem());
    let expected = ["names a trusted authority that did not sign it", "set the CA that issued it (vaultCACert"];
    let same_name = MountCase::for_pod(same_name, &expected).with_address(&vault.address);
    let alone = FaultProxy::start_tls(self_signed_server_config()).await;
    let expected =
        ["is self-signed", "and not trusted", "set it as the CA (vaultCACert, vaultCACertPath, --vault-tls-ca"];
    [
        unknown.with_address(&vault.address),
        same_name.keep_alive(vault),
        MountCase::for_pod(pod, &expected).with_address(&alone.address).keep_alive(alone),
    ]
}

pub async fn certificate_name() -> [MountCase; 1] {
    let ((_, pod), authority) = (fixture().await, CertificateAuthority::new());
    let vault = FaultProxy::start_tls(authority.server_config(None)).await;
    let pod = pod.with_parameter("vaultCACert", authority.pem()).with_parameter("vaultTLSServerName", "vault.example");
    let expected = ["is not for vault.example but for 127.0.0.1", "vaultTLSServerName"];
    [MountCase::for_pod(pod, &expected).with_address(&vault.address).keep_alive(vault)]
}

pub async fn certificate_time() -> [MountCase; 1] {
    let ((_, pod), authority) = (fixture().await, CertificateAuthority::new());
    let vault = FaultProxy::start_tls(authority.expired_server_config()).await;
    let expected = ["expired", "2026-01-01", "renew"];
    [MountCase::for_pod(pod.with_parameter("vaultCACert", authority.pem()), &expected)
        .with_address(&vault.address)
        .keep_alive(vault)]
}

pub async fn plain_to_tls() -> [MountCase; 4] {
    let ((_, pod), vault) =
        (fixture().await, FaultProxy::start_tls(CertificateAuthority::new().server_config(None)).await);
    let address = vault.address.replace("https", "http");
    let direct =
        MountCase::for_pod(pod.clone(), &["expects TLS", "write https"]).with_address(&address).keep_alive(vault);
    let words = [
        "Client sent an HTTP request to an HTTPS server.\n",
        "<html><head><title>400 The plain HTTP request was sent to HTTPS port</title></head></html>",
    ];
    let [go, nginx] = words.map(|words| (words, pod.clone()));
    let case_for = async |(words, pod)| {
        let vault = FaultProxy::start().await;
        for method in ["GET", "POST"] {
            vault.always(method, "", respond(400, &[], words));
        }
        MountCase::for_pod(pod, &["speaks TLS", "write https"]).with_address(&vault.address).keep_alive(vault)
    };
    let vault = FaultProxy::start().await;
    let place = vault.address.replace("http", "https");
    for method in ["GET", "POST"] {
        vault.always(method, "", Fault::Redirect(301, place.clone()));
    }
    let expected = [format!("redirects to {place}: it speaks TLS"), format!("write {place} as the address")];
    let redirected = MountCase::for_pod(pod, &expected.each_ref().map(String::as_str))
        .with_address(&vault.address)
        .keep_alive(vault);
    [direct, case_for(go).await, case_for(nginx).await, redirected]
}

pub async fn tls_to_plain() -> [MountCase; 1] {
    let ((_, pod), vault) = (fixture().await, FaultProxy::start().await);
    let address = vault.address.replace("http", "https");
    [MountCase::for_pod(pod, &["does not speak TLS", "use http in the address"])
        .with_address(&address)
        .keep_alive(vault)]
}

pub async fn tls_setup() -> [MountCase; 2] {
    /// TLS alert of a server that supports other TLS versions only.
    const PROTOCOL_VERSION_ALERT: &[u8] = &[0x15, 3, 1, 0, 2, 2, 70];
    let ((_, pod), authority) = (fixture().await, CertificateAuthority::new());
    let (address, old) = fixed_response_server(PROTOCOL_VERSION_ALERT).await;
    let expected = ["it speaks neither TLS 1.2 nor 1.3", "let the server speak TLS 1.2 or 1.3"];
    let old = MountCase::for_pod(pod.clone(), &expected).with_address(&format!("https://{address}")).keep_alive(old);
    let vault = FaultProxy::start_tls(authority.server_config(Some(&CertificateAuthority::new()))).await;
    let expected = ["demands a client certificate", "set a client certificate and key"];
    [
        old,
        MountCase::for_pod(pod.with_parameter("vaultCACert", authority.pem()), &expected)
            .with_address(&vault.address)
            .keep_alive(vault),
    ]
}

pub async fn not_vault() -> [MountCase; 1] {
    let ((_, pod), vault) = (fixture().await, FaultProxy::start().await);
    for method in ["GET", "POST"] {
        vault.always(method, "", respond(404, &[("content-type", "text/html")], "<html>Welcome to the proxy</html>"));
    }
    let expected = ["did not respond like Vault", "Welcome to the proxy", "which ends before /v1"];
    [MountCase::for_pod(pod, &expected).with_address(&vault.address).keep_alive(vault)]
}

pub async fn redirect() -> [MountCase; 1] {
    let ((_, pod), standby, active) = (fixture().await, FaultProxy::start().await, FaultProxy::start().await);
    standby.always("POST", "auth/", Fault::Redirect(307, active.address.clone()));
    let expected = [&active.address, "another host", "--follow-redirects"];
    [MountCase::for_pod(pod, &expected).with_address(&standby.address).keep_alive((standby, active))]
}

pub async fn address_not_allowed() -> [MountCase; 3] {
    let (tenant, pod) = fixture().await;
    let pod = pod.with_objects(single_object(&format!("{}/data/db", tenant.kv), ""));
    let expected = ["--allow-address", "remove vaultAddress"];
    let local = MountCase::for_pod(pod.clone().with_parameter("vaultAddress", "http://127.0.0.1:1"), &expected);
    // A host name to vaultmount: only DNS resolution shows that it is a loopback address.
    let resolved =
        MountCase::for_pod(pod.clone().with_parameter("vaultAddress", "http://127.1:1"), &["--allow-address"]);
    let none = MountCase::for_pod(
        pod.with_parameter("vaultAddress", "https://vault.example"),
        &["--allow-address=none", expected[1]],
    );
    [local, resolved, none.with_flags(&["--allow-address=none"])]
}

pub async fn skip_verify_not_allowed() -> [MountCase; 1] {
    let (tenant, pod) = fixture().await;
    let pod = pod
        .with_objects(single_object(&format!("{}/data/db", tenant.kv), ""))
        .with_parameter("vaultSkipTLSVerify", "true");
    let expected = ["vaultSkipTLSVerify", "--allow-skip-verify=false", "set the CA"];
    [MountCase::for_pod(pod, &expected).with_flags(&["--allow-skip-verify=false"])]
}

pub async fn tenant_policy_violation() -> [MountCase; 3] {
    let (tenant, pod) = fixture().await;
    let pod = pod.with_objects(single_object(&format!("{}/data/db", tenant.kv), ""));
    let policy = PolicyFile::new("rules: [{namespaces: [shop], authMounts: [kubernetes]}]");
    let expected = [&tenant.auth, "may use kubernetes", "authMounts of rules[0] in the policy file", policy.path()];
    let refused = MountCase::for_pod(pod.clone(), &expected).with_flags(&[&policy.flag()]).keep_alive(policy);
    let policy = PolicyFile::new("rules: [{namespaces: [bank]}]");
    let expected = ["namespace \"shop\" may use only \"kubernetes\"", "add the namespace to namespaces", policy.path()];
    let unnamed = MountCase::for_pod(pod.clone(), &expected).with_flags(&[&policy.flag()]).keep_alive(policy);
    let folder = tempfile::tempdir().unwrap();
    let flag = format!("--tenant-tls-dir={}", folder.path().display());
    let expected = ["\"/etc/ssl/ca.pem\"", folder.path().to_str().unwrap(), "--tenant-tls-dir"];
    let outside = MountCase::for_pod(pod.with_parameter("vaultCACertPath", "/etc/ssl/ca.pem"), &expected)
        .with_flags(&[&flag])
        .keep_alive(folder);
    [refused, unnamed, outside]
}

pub async fn endpoint_unknown() -> [MountCase; 2] {
    let (tenant, pod) = fixture().await;
    let pod =
        pod.with_objects(single_object(&format!("{}/data/db", tenant.kv), "")).with_parameter("vaultEndpoint", "prd");
    let policy = PolicyFile::new(
        "endpoints: {prod: {address: \"https://vault\"}}\nrules: [{namespaces: [shop], endpoints: [prod]}]",
    );
    let expected = ["did you mean prod?", policy.path()];
    let slip = MountCase::for_pod(pod.clone(), &expected).with_flags(&[&policy.flag()]).keep_alive(policy);
    [slip, MountCase::for_pod(pod, &["vaultEndpoint \"prd\"", "--policy-file"])]
}
