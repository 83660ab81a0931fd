//! Reaching the server.

use std::{net::SocketAddr, time::Duration};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
    task::JoinSet,
};

use super::{Scenario, arranged, one};
use crate::support::{
    faulty::{Fault, Faulty, answer},
    policy::Policy,
    tls::{Authority, self_signed},
};

/// Something that says the same to everyone who comes, and where it is.
async fn saying(words: &'static [u8]) -> (SocketAddr, JoinSet<()>) {
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

/// An address nobody listens at.
async fn nowhere() -> String {
    let port = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port();
    format!("http://127.0.0.1:{port}")
}

pub async fn refused() -> [Scenario; 1] {
    let (_, pod) = arranged().await;
    [Scenario::of(pod, &["refuses connections", "check the address and its port"]).at(&nowhere().await)]
}

pub async fn connect_timeout() -> [Scenario; 1] {
    let (_, pod) = arranged().await;
    // It takes connections and says nothing, as what is behind a bad load balancer does.
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("https://{}", silent.local_addr().unwrap());
    let says = ["no connection", "within 1.4s", "TLS handshake did not end", "check that a TLS server"];
    let scenario = Scenario::of(pod, &says).at(&address).leaping().mount_only("time");
    [scenario.within(Duration::from_secs(60)).keeping(silent)]
}

pub async fn name_not_found() -> [Scenario; 1] {
    let (_, pod) = arranged().await;
    let says = ["vaultmount.invalid cannot be resolved", "check the host name"];
    [Scenario::of(pod, &says).at("http://vaultmount.invalid:1")]
}

pub async fn unreachable() -> [Scenario; 1] {
    let ((_, pod), folder) = (arranged().await, tempfile::tempdir().unwrap());
    let address = format!("unix://{}/agent.sock", folder.path().display());
    [Scenario::of(pod, &["cannot connect to the unix socket", "check the socket's path"]).at(&address).keeping(folder)]
}

pub async fn certificate_untrusted() -> [Scenario; 3] {
    let ((_, pod), authority) = (arranged().await, Authority::new());
    let vault = Faulty::tls(authority.server(None)).await;
    let unknown =
        Scenario::of(pod.clone(), &["was not issued by a trusted authority", "set the CA that issued it (vaultCACert"]);
    let same_name = pod.clone().with("vaultCACert", Authority::new().pem());
    let says = ["names a trusted authority that did not sign it", "set the CA that issued it (vaultCACert"];
    let same_name = Scenario::of(same_name, &says).at(&vault.address);
    let alone = Faulty::tls(self_signed()).await;
    let says = ["is self-signed", "and not trusted", "set it as the CA (vaultCACert, vaultCACertPath, --vault-tls-ca"];
    [unknown.at(&vault.address), same_name.keeping(vault), Scenario::of(pod, &says).at(&alone.address).keeping(alone)]
}

pub async fn certificate_name() -> [Scenario; 1] {
    let ((_, pod), authority) = (arranged().await, Authority::new());
    let vault = Faulty::tls(authority.server(None)).await;
    let pod = pod.with("vaultCACert", authority.pem()).with("vaultTLSServerName", "vault.example");
    let says = ["is not for vault.example but for 127.0.0.1", "vaultTLSServerName"];
    [Scenario::of(pod, &says).at(&vault.address).keeping(vault)]
}

pub async fn certificate_time() -> [Scenario; 1] {
    let ((_, pod), authority) = (arranged().await, Authority::new());
    let vault = Faulty::tls(authority.expired_server()).await;
    let says = ["expired", "2026-01-01", "renew"];
    [Scenario::of(pod.with("vaultCACert", authority.pem()), &says).at(&vault.address).keeping(vault)]
}

pub async fn plain_to_tls() -> [Scenario; 4] {
    let ((_, pod), vault) = (arranged().await, Faulty::tls(Authority::new().server(None)).await);
    let address = vault.address.replace("https", "http");
    let direct = Scenario::of(pod.clone(), &["speaks TLS", "write https"]).at(&address).keeping(vault);
    let words = [
        "Client sent an HTTP request to an HTTPS server.\n",
        "<html><head><title>400 The plain HTTP request was sent to HTTPS port</title></head></html>",
    ];
    let [go, nginx] = words.map(|words| (words, pod.clone()));
    let told = async |(words, pod)| {
        let vault = Faulty::start().await;
        for method in ["GET", "POST"] {
            vault.every(method, "", answer(400, &[], words));
        }
        Scenario::of(pod, &["speaks TLS", "write https"]).at(&vault.address).keeping(vault)
    };
    let vault = Faulty::start().await;
    let place = vault.address.replace("http", "https");
    for method in ["GET", "POST"] {
        vault.every(method, "", Fault::Redirect(301, place.clone()));
    }
    let says = [format!("redirects to {place}: it speaks TLS"), format!("write {place} as the address")];
    let redirected = Scenario::of(pod, &says.each_ref().map(String::as_str)).at(&vault.address).keeping(vault);
    [direct, told(go).await, told(nginx).await, redirected]
}

pub async fn tls_to_plain() -> [Scenario; 1] {
    let ((_, pod), vault) = (arranged().await, Faulty::start().await);
    let address = vault.address.replace("http", "https");
    [Scenario::of(pod, &["does not speak TLS", "use http in the address"]).at(&address).keeping(vault)]
}

pub async fn tls() -> [Scenario; 2] {
    /// Of a server that takes other versions of TLS only.
    const PROTOCOL_VERSION_ALERT: &[u8] = &[0x15, 3, 1, 0, 2, 2, 70];
    let ((_, pod), authority) = (arranged().await, Authority::new());
    let (address, old) = saying(PROTOCOL_VERSION_ALERT).await;
    let says = ["it speaks neither TLS 1.2 nor 1.3", "let the server speak TLS 1.2 or 1.3"];
    let old = Scenario::of(pod.clone(), &says).at(&format!("https://{address}")).keeping(old);
    let vault = Faulty::tls(authority.server(Some(&Authority::new()))).await;
    let says = ["demands a client certificate", "set a client certificate and key"];
    [old, Scenario::of(pod.with("vaultCACert", authority.pem()), &says).at(&vault.address).keeping(vault)]
}

pub async fn not_vault() -> [Scenario; 1] {
    let ((_, pod), vault) = (arranged().await, Faulty::start().await);
    for method in ["GET", "POST"] {
        vault.every(method, "", answer(404, &[("content-type", "text/html")], "<html>Welcome to the proxy</html>"));
    }
    let says = ["does not answer as Vault does", "Welcome to the proxy", "which ends before /v1"];
    [Scenario::of(pod, &says).at(&vault.address).keeping(vault)]
}

pub async fn redirect() -> [Scenario; 1] {
    let ((_, pod), standby, active) = (arranged().await, Faulty::start().await, Faulty::start().await);
    standby.every("POST", "auth/", Fault::Redirect(307, active.address.clone()));
    let says = [&active.address, "another host", "--follow-redirects"];
    [Scenario::of(pod, &says).at(&standby.address).keeping((standby, active))]
}

pub async fn not_allowed() -> [Scenario; 3] {
    let (tenant, pod) = arranged().await;
    let pod = pod.objects(one(&format!("{}/data/db", tenant.kv), ""));
    let says = ["--allow-address", "remove vaultAddress"];
    let local = Scenario::of(pod.clone().with("vaultAddress", "http://127.0.0.1:1"), &says);
    // A name to us: only its resolution shows that it is loopback.
    let resolved = Scenario::of(pod.clone().with("vaultAddress", "http://127.1:1"), &["--allow-address"]);
    let none = Scenario::of(pod.with("vaultAddress", "https://vault.example"), &["--allow-address=none", says[1]]);
    [local, resolved, none.flags(&["--allow-address=none"])]
}

pub async fn must_verify() -> [Scenario; 1] {
    let (tenant, pod) = arranged().await;
    let pod = pod.objects(one(&format!("{}/data/db", tenant.kv), "")).with("vaultSkipTLSVerify", "true");
    let says = ["vaultSkipTLSVerify", "--allow-skip-verify=false", "set the CA"];
    [Scenario::of(pod, &says).flags(&["--allow-skip-verify=false"])]
}

pub async fn not_permitted() -> [Scenario; 3] {
    let (tenant, pod) = arranged().await;
    let pod = pod.objects(one(&format!("{}/data/db", tenant.kv), ""));
    let policy = Policy::new("rules: [{namespaces: [shop], authMounts: [kubernetes]}]");
    let says = [&tenant.auth, "may use kubernetes", "authMounts of rules[0] in the policy file", policy.path()];
    let refused = Scenario::of(pod.clone(), &says).flags(&[&policy.flag()]).keeping(policy);
    let policy = Policy::new("rules: [{namespaces: [bank]}]");
    let says = ["namespace \"shop\" may use \"kubernetes\" alone", "add the namespace to namespaces", policy.path()];
    let unnamed = Scenario::of(pod.clone(), &says).flags(&[&policy.flag()]).keeping(policy);
    let folder = tempfile::tempdir().unwrap();
    let flag = format!("--tls-dir={}", folder.path().display());
    let says = ["\"/etc/ssl/ca.pem\"", folder.path().to_str().unwrap(), "--tls-dir"];
    let outside = Scenario::of(pod.with("vaultCACertPath", "/etc/ssl/ca.pem"), &says).flags(&[&flag]).keeping(folder);
    [refused, unnamed, outside]
}

pub async fn endpoint_unknown() -> [Scenario; 2] {
    let (tenant, pod) = arranged().await;
    let pod = pod.objects(one(&format!("{}/data/db", tenant.kv), "")).with("vaultEndpoint", "prd");
    let policy = Policy::new(
        "endpoints: {prod: {address: \"https://vault\"}}\nrules: [{namespaces: [shop], endpoints: [prod]}]",
    );
    let says = ["did you mean prod?", policy.path()];
    let slip = Scenario::of(pod.clone(), &says).flags(&[&policy.flag()]).keeping(policy);
    [slip, Scenario::of(pod, &["vaultEndpoint \"prd\"", "--policy-file"])]
}
