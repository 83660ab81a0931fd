//! Redirects: allowed targets for the token, the login and the request.

use vaultmount::error::Cause;

use super::{SECRET, assert_contains, for_each_case, secret_pod, single_file, tenant_with_secret};
use crate::support::{
    daemon::Daemon,
    fault_proxy::{Fault, FaultProxy},
};

#[tokio::test]
async fn redirect_to_same_host_is_followed_once() {
    for_each_case([307, 308], async |stage, status| {
        stage.vault.next(1, "POST", &stage.login_path(), Fault::Redirect(status, stage.vault.address.clone()));
        stage.vault.next(1, "GET", &stage.secret_path(), Fault::Redirect(status, String::new()));
        assert_eq!(single_file(&stage.daemon.mount(stage.pod().mount_call()).await.unwrap()), SECRET);
        let logins = stage.vault.requests("POST", &stage.login_path());
        assert_eq!((logins.len(), stage.vault.count("GET", &stage.secret_path())), (2, 2));
        assert_eq!(logins[0].body, logins[1].body);
    })
    .await;
}

#[tokio::test]
async fn redirect_repeated_or_not_307_308_is_rejected() {
    let cases = [
        (307, "http", "redirected before", 2),
        (302, "http", "only 307 and 308", 1),
        (303, "http", "only 307 and 308", 1),
        (307, "ftp", "not the URL of a server", 1),
    ];
    for_each_case(cases, async |stage, (status, scheme, why, sent)| {
        let place = stage.vault.address.replace("http", scheme);
        stage.vault.always("GET", &stage.secret_path(), Fault::Redirect(status, place.clone()));
        let (cause, text) = stage.mount_error(&stage.pod()).await;
        assert_eq!((cause, stage.vault.count("GET", &stage.secret_path())), (Cause::Redirect, sent), "{text}");
        assert_contains(&text, &[why, &place]);
    })
    .await;
}

#[tokio::test]
async fn redirect_to_other_host_or_port_sends_nothing() {
    for_each_case(["127.0.0.1", "localhost"], async |stage, host| {
        let other = FaultProxy::start().await;
        let place = other.address.replace("127.0.0.1", host);
        for (method, path) in [("GET", stage.secret_path()), ("POST", stage.login_path())] {
            stage.vault.always(method, &path, Fault::Redirect(307, place.clone()));
            let (cause, text) = stage.mount_error(&stage.pod()).await;
            assert_eq!(cause, Cause::Redirect, "{text}");
            assert_contains(&text, &[&place, "another host", "--follow-redirects"]);
        }
        assert_eq!(other.connection_count(), 0);
    })
    .await;
}

#[tokio::test]
async fn follow_redirects_sends_token_and_login_to_allowed_host() {
    let (tenant, standby, active) = (tenant_with_secret().await, FaultProxy::start().await, FaultProxy::start().await);
    for method in ["GET", "POST"] {
        standby.always(method, "", Fault::Redirect(307, active.address.clone()));
    }
    let place = active.address.strip_prefix("http://").unwrap();
    for allowed in [place, "127.0.0.1"] {
        let daemon = Daemon::start_at(&standby.address, &[&format!("--follow-redirects={allowed}")]).await;
        assert_eq!(single_file(&daemon.mount(secret_pod(&tenant).mount_call()).await.unwrap()), SECRET);
    }
    for (method, path) in [("POST", "auth/"), ("GET", "kv-")] {
        assert_eq!((standby.count(method, path), active.count(method, path)), (2, 2));
    }
    assert!(active.requests("GET", "kv-").iter().all(|read| read.headers.contains_key("x-vault-token")));
}
