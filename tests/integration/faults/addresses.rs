//! Where Vault is, who says so, and what is said when it is not there.

use vaultmount::error::Cause;

use super::{SECRET, assert_says, only, reader, tenant};
use crate::support::{daemon::Daemon, faulty::Faulty};

/// An address nobody listens at.
async fn nowhere() -> String {
    let port = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port();
    format!("http://127.0.0.1:{port}")
}

#[tokio::test]
async fn the_operators_server_may_be_a_unix_socket() {
    let (tenant, folder) = (tenant().await, tempfile::tempdir().unwrap());
    let agent = Faulty::unix(&folder.path().join("agent.sock"));
    let daemon = Daemon::at(&agent.address, &[]).await;
    assert_eq!(only(&daemon.mount(reader(&tenant).call()).await.unwrap()), SECRET);
    assert!(agent.connections() > 0);
}

#[tokio::test]
async fn a_class_may_not_lead_to_the_node_itself() {
    let (tenant, vault, folder) = (tenant().await, Faulty::start().await, tempfile::tempdir().unwrap());
    let agent = Faulty::unix(&folder.path().join("agent.sock"));
    let daemon = Daemon::start(&[]).await;
    let port = vault.address.rsplit_once(':').unwrap().1;
    // The last ones are names to us: only their resolution shows that they are loopback.
    let hosts =
        ["127.0.0.1", "localhost", "LOCALHOST", "[::1]", "[::ffff:127.0.0.1]", "0.0.0.0", "127.1", "2130706433"];
    let addresses = hosts.iter().map(|host| format!("http://{host}:{port}")).chain([agent.address.clone()]);
    for address in addresses {
        let pod = reader(&tenant).with("vaultAddress", &address);
        let (cause, text) = daemon.refusal(pod.call()).await;
        assert_eq!(cause, Cause::NotAllowed, "{address}: {text}");
        assert_says(&text, &["--allow-address"]);
    }
    assert_eq!((vault.connections(), agent.connections()), (0, 0));
}

#[tokio::test]
async fn an_operator_may_allow_a_class_an_address_of_the_node() {
    let (tenant, vault, folder) = (tenant().await, Faulty::start().await, tempfile::tempdir().unwrap());
    let agent = Faulty::unix(&folder.path().join("agent.sock"));
    let flags = ["--allow-address=http://127.0.0.1:*", &format!("--allow-address={}", agent.address)];
    let daemon = Daemon::at(&nowhere().await, &flags).await;
    for address in [&vault.address, &agent.address] {
        let pod = reader(&tenant).with("vaultAddress", address);
        assert_eq!(only(&daemon.mount(pod.call()).await.unwrap()), SECRET, "{address}");
    }
    let (cause, _) = daemon.refusal(reader(&tenant).with("vaultAddress", "http://localhost:1").call()).await;
    assert_eq!(cause, Cause::NotAllowed);
}

#[tokio::test]
async fn an_operator_may_allow_its_own_address_only() {
    let (tenant, vault) = (tenant().await, Faulty::start().await);
    let daemon = Daemon::at(&vault.address, &["--allow-address=none"]).await;
    let own = reader(&tenant).with("vaultAddress", vault.address.clone() + "/");
    assert_eq!(only(&daemon.mount(own.call()).await.unwrap()), SECRET);
    for other in ["https://vault.example", "http://127.0.0.1:1"] {
        let (cause, text) = daemon.refusal(reader(&tenant).with("vaultAddress", other).call()).await;
        assert_eq!(cause, Cause::NotAllowed, "{text}");
        assert_says(&text, &["--allow-address=none", other]);
    }
}
