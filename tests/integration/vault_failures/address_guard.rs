//! The Vault address: which sources may set it, which addresses are refused, and the errors for unreachable ones.

use vaultmount::error::Cause;

use super::{SECRET, assert_contains, secret_pod, single_file, tenant_with_secret};
use crate::support::{daemon::Daemon, fault_proxy::FaultProxy};

/// Returns an address without a listener.
async fn unused_address() -> String {
    let port = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port();
    format!("http://127.0.0.1:{port}")
}

#[tokio::test]
async fn vault_addr_may_be_a_unix_socket() {
    let (tenant, folder) = (tenant_with_secret().await, tempfile::tempdir().unwrap());
    let agent = FaultProxy::start_unix(&folder.path().join("agent.sock"));
    let daemon = Daemon::start_at(&agent.address, &[]).await;
    assert_eq!(single_file(&daemon.mount(secret_pod(&tenant).mount_call()).await.unwrap()), SECRET);
    assert!(agent.connection_count() > 0);
}

#[tokio::test]
async fn vault_address_to_loopback_or_unix_socket_is_denied() {
    let (tenant, vault, folder) = (tenant_with_secret().await, FaultProxy::start().await, tempfile::tempdir().unwrap());
    let agent = FaultProxy::start_unix(&folder.path().join("agent.sock"));
    let daemon = Daemon::start(&[]).await;
    let port = vault.address.rsplit_once(':').unwrap().1;
    // The last hosts are names to vaultmount: only DNS resolution shows that they are loopback addresses.
    let hosts =
        ["127.0.0.1", "localhost", "LOCALHOST", "[::1]", "[::ffff:127.0.0.1]", "0.0.0.0", "127.1", "2130706433"];
    let addresses = hosts.iter().map(|host| format!("http://{host}:{port}")).chain([agent.address.clone()]);
    for address in addresses {
        let pod = secret_pod(&tenant).with_parameter("vaultAddress", &address);
        let (cause, text) = daemon.mount_error(pod.mount_call()).await;
        assert_eq!(cause, Cause::AddressNotAllowed, "{address}: {text}");
        assert_contains(&text, &["--allow-address"]);
    }
    assert_eq!((vault.connection_count(), agent.connection_count()), (0, 0));
}

#[tokio::test]
async fn allow_address_permits_loopback_and_unix_socket() {
    let (tenant, vault, folder) = (tenant_with_secret().await, FaultProxy::start().await, tempfile::tempdir().unwrap());
    let agent = FaultProxy::start_unix(&folder.path().join("agent.sock"));
    let flags = ["--allow-address=http://127.0.0.1:*", &format!("--allow-address={}", agent.address)];
    let daemon = Daemon::start_at(&unused_address().await, &flags).await;
    for address in [&vault.address, &agent.address] {
        let pod = secret_pod(&tenant).with_parameter("vaultAddress", address);
        assert_eq!(single_file(&daemon.mount(pod.mount_call()).await.unwrap()), SECRET, "{address}");
    }
    let (cause, _) =
        daemon.mount_error(secret_pod(&tenant).with_parameter("vaultAddress", "http://localhost:1").mount_call()).await;
    assert_eq!(cause, Cause::AddressNotAllowed);
}

#[tokio::test]
async fn allow_address_none_permits_only_vault_addr() {
    let (tenant, vault) = (tenant_with_secret().await, FaultProxy::start().await);
    let daemon = Daemon::start_at(&vault.address, &["--allow-address=none"]).await;
    let own = secret_pod(&tenant).with_parameter("vaultAddress", vault.address.clone() + "/");
    assert_eq!(single_file(&daemon.mount(own.mount_call()).await.unwrap()), SECRET);
    for other in ["https://vault.example", "http://127.0.0.1:1"] {
        let (cause, text) =
            daemon.mount_error(secret_pod(&tenant).with_parameter("vaultAddress", other).mount_call()).await;
        assert_eq!(cause, Cause::AddressNotAllowed, "{text}");
        assert_contains(&text, &["--allow-address=none", other]);
    }
}
