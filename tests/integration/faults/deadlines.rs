//! When the caller's time runs out, and at whose cost.

use std::{pin::pin, sync::Arc, time::Duration};

use tokio::net::TcpListener;
use tonic::Code;
use vaultmount::{
    error::Cause,
    provider::client::{Call, Client},
};

use super::{SECRET, Stage, assert_says, each, leap, only, reader, tenant, within};
use crate::support::{
    by_hand::ByHand,
    daemon::Daemon,
    faulty::{Fault, Faulty, Gate, status},
    tls::Authority,
};

/// A gate that stays shut.
fn never() -> Fault {
    Fault::Hold(Gate::new())
}

#[tokio::test]
async fn a_caller_gets_its_answer_by_its_deadline_whatever_hangs() {
    let (own, none) = (Some(10), None);
    let cases = [
        ("POST", "auth/", never(), own),
        ("GET", "sys/internal/", never(), own),
        ("GET", "kv-", never(), own),
        ("GET", "kv-", Fault::Slow(Duration::from_secs(6)), own),
        ("GET", "kv-", never(), none),
    ];
    let tenant = Arc::new(tenant().await);
    for (method, path, fault, own) in cases {
        let stage = Stage::of(&tenant).await;
        stage.vault.every(method, path, fault);
        let mut client = Client::connect(&stage.daemon.socket).await.unwrap();
        let timeout = own.map(Duration::from_secs);
        let mut mount = pin!(client.mount(Call { timeout, ..stage.pod().call() }));
        tokio::select! {
            _ = &mut mount => panic!("{path} hangs"),
            () = stage.vault.saw(1, method, path) => {}
        }
        leap(Duration::from_secs(own.unwrap_or(30) - 2)).await;
        tokio::select! {
            _ = &mut mount => panic!("{path}: there is time left"),
            () = stage.settle() => {}
        }
        leap(Duration::from_secs(2)).await;
        let status = tokio::time::timeout(Duration::from_secs(5), mount).await.unwrap().err().unwrap();
        assert_eq!(status.code(), Code::DeadlineExceeded, "{status}");
        assert_says(status.message(), &["time ran out", &stage.vault.address]);
    }
}

#[tokio::test]
async fn what_would_make_a_failure_clearer_is_waited_for_briefly() {
    let stage = Stage::new().await;
    stage.vault.next(1, "POST", &stage.login(), status(403, "permission denied"));
    stage.vault.every("POST", &stage.login(), never());
    let pod = stage.pod();
    let waited = async {
        stage.vault.saw(2, "POST", &stage.login()).await;
        leap(Duration::from_secs(2)).await;
    };
    let ((cause, text), ()) = tokio::join!(stage.refusal(&pod), waited);
    assert_eq!(cause, Cause::LoginDenied, "{text}");
}

#[tokio::test]
async fn a_deadline_after_the_request_went_out_is_one_whatever_failed_before() {
    let (tenant, authority) = (tenant().await, Authority::new());
    let vault = Faulty::tls(authority.server(None)).await;
    vault.every("POST", "auth/", never());
    // It closes the first connections during the handshake, as a load balancer does whose server is about to come: that of the
    // question how it is, at the start, and the mount's first.
    let before = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("https://{}", before.local_addr().unwrap());
    let behind = vault.address.strip_prefix("https://").unwrap().to_owned();
    let (asks, asked) = tokio::sync::oneshot::channel();
    let balancer = tokio::spawn(async move {
        drop(before.accept().await.unwrap());
        asks.send(()).unwrap();
        drop(before.accept().await.unwrap());
        let (mut front, mut back) =
            (before.accept().await.unwrap().0, tokio::net::TcpStream::connect(behind).await.unwrap());
        tokio::io::copy_bidirectional(&mut front, &mut back).await
    });
    let daemon = Daemon::at(&address, &[]).await;
    asked.await.unwrap();
    let pod = reader(&tenant).with("vaultCACert", authority.pem());
    let late = async {
        vault.saw(1, "POST", "auth/").await;
        leap(Duration::from_secs(10)).await;
    };
    let ((cause, text), ()) = tokio::join!(daemon.refusal(within(Duration::from_secs(10), &pod)), late);
    balancer.abort();
    assert_eq!(cause, Cause::Deadline, "{text}");
    assert_says(
        &text,
        &[
            "waiting for the answer of Vault",
            "could not be reached before",
            "closed the connection during the handshake",
        ],
    );
}

#[tokio::test]
async fn a_slow_answer_is_an_answer() {
    let stage = Stage::new().await;
    stage.vault.every("GET", &stage.secret(), Fault::Slow(Duration::from_millis(5)));
    assert_eq!(only(&stage.daemon.mount(stage.pod().call()).await.unwrap()), SECRET);
}

#[tokio::test]
async fn what_hangs_holds_up_nobody_else() {
    let other = tenant().await;
    each(["login", "engine", "read"], async |stage, hanging| {
        let (method, path) = match hanging {
            "login" => ("POST", stage.login()),
            "engine" => ("GET", format!("sys/internal/ui/mounts/{}", stage.tenant.kv)),
            _ => ("GET", stage.secret()),
        };
        stage.vault.every(method, &path, never());
        let others = async {
            stage.vault.saw(1, method, &path).await;
            stage.daemon.mount(reader(&other).call()).await.unwrap()
        };
        tokio::select! {
            _ = stage.daemon.mount(stage.pod().call()) => panic!("{path} hangs, and others had to wait for it"),
            mounted = others => assert_eq!(only(&mounted), SECRET),
        }
    })
    .await;
}

#[tokio::test]
async fn the_time_that_one_request_may_take_is_named() {
    let (tenant, vault) = (tenant().await, Faulty::start().await);
    vault.every("POST", "auth/", never());
    let variables = [("VAULT_CLIENT_TIMEOUT", "20ms"), ("VAULT_MAX_RETRIES", "0")];
    let address = format!("--vault-addr={}", vault.address);
    let said = ByHand::of(&reader(&tenant)).run_with(&variables, "mount", &[&address]).await.err;
    assert_says(
        &said,
        &["did not answer within 20ms (VAULT_CLIENT_TIMEOUT)", "raise VAULT_CLIENT_TIMEOUT", "[VM0004]"],
    );
}
