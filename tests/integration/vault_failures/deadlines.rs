//! Caller deadlines, and their effect on requests to Vault.

use std::{pin::pin, sync::Arc, time::Duration};

use tokio::net::TcpListener;
use tonic::Code;
use vaultmount::{
    error::Cause,
    provider::client::{Client, MountCall},
};

use super::{
    FailureFixture, SECRET, advance, assert_contains, call_with_timeout, for_each_case, secret_pod, single_file,
    tenant_with_secret,
};
use crate::support::{
    cli::CliRun,
    daemon::Daemon,
    fault_proxy::{Fault, FaultProxy, Gate, vault_error},
    tls::CertificateAuthority,
};

/// Holds a request at a gate that never opens.
fn hold_forever() -> Fault {
    Fault::HoldRequest(Gate::new())
}

#[tokio::test]
async fn hanging_request_ends_at_caller_deadline() {
    let (own, none) = (Some(10), None);
    let cases = [
        ("POST", "auth/", hold_forever(), own),
        ("GET", "sys/internal/", hold_forever(), own),
        ("GET", "kv-", hold_forever(), own),
        ("GET", "kv-", Fault::SlowResponse(Duration::from_secs(6)), own),
        ("GET", "kv-", hold_forever(), none),
    ];
    let tenant = Arc::new(tenant_with_secret().await);
    for (method, path, fault, own) in cases {
        let stage = FailureFixture::for_tenant(&tenant).await;
        stage.vault.always(method, path, fault);
        let mut client = Client::connect(&stage.daemon.socket).await.unwrap();
        let timeout = own.map(Duration::from_secs);
        let mut mount = pin!(client.mount(MountCall { timeout, ..stage.pod().mount_call() }));
        tokio::select! {
            _ = &mut mount => panic!("{path} hangs"),
            () = stage.vault.wait_for(1, method, path) => {}
        }
        advance(Duration::from_secs(own.unwrap_or(30) - 2)).await;
        tokio::select! {
            _ = &mut mount => panic!("{path}: there is time left"),
            () = stage.let_daemon_run() => {}
        }
        advance(Duration::from_secs(2)).await;
        let status = tokio::time::timeout(Duration::from_secs(5), mount).await.unwrap().err().unwrap();
        assert_eq!(status.code(), Code::DeadlineExceeded, "{status}");
        assert_contains(status.message(), &["deadline exceeded while", &stage.vault.address]);
    }
}

#[tokio::test]
async fn login_denial_diagnosis_waits_only_briefly() {
    let stage = FailureFixture::new().await;
    stage.vault.next(1, "POST", &stage.login_path(), vault_error(403, "permission denied"));
    stage.vault.always("POST", &stage.login_path(), hold_forever());
    let pod = stage.pod();
    let waited = async {
        stage.vault.wait_for(2, "POST", &stage.login_path()).await;
        advance(Duration::from_secs(2)).await;
    };
    let ((cause, text), ()) = tokio::join!(stage.mount_error(&pod), waited);
    assert_eq!(cause, Cause::LoginDenied, "{text}");
}

#[tokio::test]
async fn deadline_after_request_sent_keeps_earlier_error() {
    let (tenant, authority) = (tenant_with_secret().await, CertificateAuthority::new());
    let vault = FaultProxy::start_tls(authority.server_config(None)).await;
    vault.always("POST", "auth/", hold_forever());
    // The listener closes the first connections during the handshake, like a load balancer without a backend: the
    // health probe at start and the mount's first connection.
    let before = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("https://{}", before.local_addr().unwrap());
    let behind = vault.address.strip_prefix("https://").unwrap().to_owned();
    let (asks, probed) = tokio::sync::oneshot::channel();
    let balancer = tokio::spawn(async move {
        drop(before.accept().await.unwrap());
        asks.send(()).unwrap();
        drop(before.accept().await.unwrap());
        let (mut front, mut back) =
            (before.accept().await.unwrap().0, tokio::net::TcpStream::connect(behind).await.unwrap());
        tokio::io::copy_bidirectional(&mut front, &mut back).await
    });
    let daemon = Daemon::start_at(&address, &[]).await;
    probed.await.unwrap();
    let pod = secret_pod(&tenant).with_parameter("vaultCACert", authority.pem());
    let late = async {
        vault.wait_for(1, "POST", "auth/").await;
        advance(Duration::from_secs(10)).await;
    };
    let ((cause, text), ()) = tokio::join!(daemon.mount_error(call_with_timeout(Duration::from_secs(10), &pod)), late);
    balancer.abort();
    assert_eq!(cause, Cause::DeadlineExceeded, "{text}");
    assert_contains(
        &text,
        &[
            "waiting for Vault's response",
            "an earlier attempt could not connect",
            "closed the connection during the handshake",
        ],
    );
}

#[tokio::test]
async fn slow_response_within_deadline_succeeds() {
    let stage = FailureFixture::new().await;
    stage.vault.always("GET", &stage.secret_path(), Fault::SlowResponse(Duration::from_millis(5)));
    assert_eq!(single_file(&stage.daemon.mount(stage.pod().mount_call()).await.unwrap()), SECRET);
}

#[tokio::test]
async fn hanging_request_does_not_block_other_pods() {
    let other = tenant_with_secret().await;
    for_each_case(["login", "engine", "read"], async |stage, hanging| {
        let (method, path) = match hanging {
            "login" => ("POST", stage.login_path()),
            "engine" => ("GET", format!("sys/internal/ui/mounts/{}", stage.tenant.kv)),
            _ => ("GET", stage.secret_path()),
        };
        stage.vault.always(method, &path, hold_forever());
        let others = async {
            stage.vault.wait_for(1, method, &path).await;
            stage.daemon.mount(secret_pod(&other).mount_call()).await.unwrap()
        };
        tokio::select! {
            _ = stage.daemon.mount(stage.pod().mount_call()) => panic!("{path} hangs, and others had to wait for it"),
            mounted = others => assert_eq!(single_file(&mounted), SECRET),
        }
    })
    .await;
}

#[tokio::test]
async fn vault_client_timeout_is_named_in_error() {
    let (tenant, vault) = (tenant_with_secret().await, FaultProxy::start().await);
    vault.always("POST", "auth/", hold_forever());
    let variables = [("VAULT_CLIENT_TIMEOUT", "20ms"), ("VAULT_MAX_RETRIES", "0")];
    let address = format!("--vault-addr={}", vault.address);
    let stderr = CliRun::for_pod(&secret_pod(&tenant)).run_with(&variables, "mount", &[&address]).await.stderr;
    assert_contains(
        &stderr,
        &["did not answer within 20ms (VAULT_CLIENT_TIMEOUT)", "raise VAULT_CLIENT_TIMEOUT", "[VM0004]"],
    );
}
