//! Where a redirect may take the token, the login and the request.

use vaultmount::error::Cause;

use super::{SECRET, assert_says, each, only, reader, tenant};
use crate::support::{
    daemon::Daemon,
    faulty::{Fault, Faulty},
};

#[tokio::test]
async fn a_redirect_to_the_same_host_is_followed_once() {
    each([307, 308], async |stage, status| {
        stage.vault.next(1, "POST", &stage.login(), Fault::Redirect(status, stage.vault.address.clone()));
        stage.vault.next(1, "GET", &stage.secret(), Fault::Redirect(status, String::new()));
        assert_eq!(only(&stage.daemon.mount(stage.pod().call()).await.unwrap()), SECRET);
        let logins = stage.vault.seen("POST", &stage.login());
        assert_eq!((logins.len(), stage.vault.count("GET", &stage.secret())), (2, 2));
        assert_eq!(logins[0].body, logins[1].body);
    })
    .await;
}

#[tokio::test]
async fn what_is_redirected_otherwise_is_refused() {
    let cases = [
        (307, "http", "redirected before", 2),
        (302, "http", "only 307 and 308", 1),
        (303, "http", "only 307 and 308", 1),
        (307, "ftp", "no URL of a server", 1),
    ];
    each(cases, async |stage, (status, scheme, why, sent)| {
        let place = stage.vault.address.replace("http", scheme);
        stage.vault.every("GET", &stage.secret(), Fault::Redirect(status, place.clone()));
        let (cause, text) = stage.refusal(&stage.pod()).await;
        assert_eq!((cause, stage.vault.count("GET", &stage.secret())), (Cause::Redirect, sent), "{text}");
        assert_says(&text, &[why, &place]);
    })
    .await;
}

#[tokio::test]
async fn nothing_is_sent_to_another_host_or_port() {
    each(["127.0.0.1", "localhost"], async |stage, host| {
        let other = Faulty::start().await;
        let place = other.address.replace("127.0.0.1", host);
        for (method, path) in [("GET", stage.secret()), ("POST", stage.login())] {
            stage.vault.every(method, &path, Fault::Redirect(307, place.clone()));
            let (cause, text) = stage.refusal(&stage.pod()).await;
            assert_eq!(cause, Cause::Redirect, "{text}");
            assert_says(&text, &[&place, "another host", "--follow-redirects"]);
        }
        assert_eq!(other.connections(), 0);
    })
    .await;
}

#[tokio::test]
async fn a_redirect_that_is_allowed_takes_everything_along() {
    let (tenant, standby, active) = (tenant().await, Faulty::start().await, Faulty::start().await);
    for method in ["GET", "POST"] {
        standby.every(method, "", Fault::Redirect(307, active.address.clone()));
    }
    let place = active.address.strip_prefix("http://").unwrap();
    for allowed in [place, "127.0.0.1"] {
        let daemon = Daemon::at(&standby.address, &[&format!("--follow-redirects={allowed}")]).await;
        assert_eq!(only(&daemon.mount(reader(&tenant).call()).await.unwrap()), SECRET);
    }
    for (method, path) in [("POST", "auth/"), ("GET", "kv-")] {
        assert_eq!((standby.count(method, path), active.count(method, path)), (2, 2));
    }
    assert!(active.seen("GET", "kv-").iter().all(|read| read.headers.contains_key("x-vault-token")));
}
