//! A healthy Vault with a backend that never responds: requests to this backend do not delay other requests.

use std::time::Duration;

use futures_util::future::join_all;
use tokio::time::Instant;
use vaultmount::error::Cause;

use super::{FailureFixture, SECRET, advance, call_with_timeout, single_file};
use crate::support::{
    clock::DEFAULT_REFRESH_INTERVAL,
    database::DatabaseEngine,
    fault_proxy::{Fault, Gate},
    pod::Pod,
};

/// Timeout of mounts that must not be delayed.
const PROMPT_TIMEOUT: Duration = Duration::from_secs(10);
/// Timeout of mounts that hang.
const HANGING_TIMEOUT: Duration = Duration::from_secs(40);

impl FailureFixture {
    /// A pod with credentials that never arrive: four from each of five engines.
    fn hanging_pod(&self) -> Pod {
        self.vault.always("GET", "hang", Fault::HoldRequest(Gate::new()));
        let object = |n| format!("- {{objectName: a{n}, secretPath: hang{}/creds/{n}, secretKey: pass}}\n", n / 4);
        Pod::for_tenant(&self.tenant).with_objects((0..20).map(object).collect::<String>())
    }

    /// Mounts within [`PROMPT_TIMEOUT`] and returns the only file.
    async fn mount_promptly(&self, pod: &Pod) -> String {
        let begun = Instant::now();
        let mounted = self.daemon.mount(call_with_timeout(PROMPT_TIMEOUT, pod)).await.unwrap();
        assert!(begun.elapsed() < PROMPT_TIMEOUT);
        single_file(&mounted).to_owned()
    }
}

#[tokio::test]
async fn hanging_mutating_requests_do_not_block_other_mounts() {
    let stage = FailureFixture::new().await;
    let database = DatabaseEngine::for_tenant(&stage.tenant).await;
    let user = || {
        let object = format!("- {{objectName: user, secretPath: {}, secretKey: username}}", database.path);
        Pod::for_tenant(&stage.tenant).with_objects(object)
    };
    let hanging = stage.hanging_pod();
    let others = async {
        stage.vault.wait_for(6, "GET", "hang").await;
        for _ in 0..5 {
            assert_eq!(stage.mount_promptly(&stage.pod()).await, SECRET);
        }
        advance(HANGING_TIMEOUT).await;
    };
    let ((cause, text), ()) =
        tokio::join!(stage.daemon.mount_error(call_with_timeout(HANGING_TIMEOUT, &hanging)), others);
    assert_eq!(cause, Cause::DeadlineExceeded, "{text}");
    // The hanging requests are awaited for one more minute. No other request waits for them, not even for another
    // engine's credentials.
    for pod in [user(), user()] {
        assert!(!stage.mount_promptly(&pod).await.is_empty());
    }
    assert_eq!(stage.vault.count("GET", "hang"), 6, "a request was sent after its caller had gone");
}

#[tokio::test]
async fn hanging_logins_do_not_block_other_logins_or_reads() {
    let stage = FailureFixture::new().await;
    let polled = stage.pod();
    stage.daemon.mount(polled.mount_call()).await.unwrap();
    // Before any request hangs: a health probe in flight would time out.
    advance(DEFAULT_REFRESH_INTERVAL / 10).await;
    let hang = |mount: &'static str| {
        stage.vault.always("POST", mount, Fault::HoldRequest(Gate::new()));
        let pods: Vec<_> = (0..12)
            .map(|_| stage.pod().with_parameter("vaultAuthMountPath", mount.trim_start_matches("auth/")))
            .collect();
        let daemon = &stage.daemon;
        join_all(pods.into_iter().map(async |pod| daemon.mount(call_with_timeout(HANGING_TIMEOUT, &pod)).await.err()))
    };
    let one = hang("auth/behind-one");
    let others = async {
        stage.vault.wait_for(6, "POST", "auth/behind-one").await;
        for _ in 0..5 {
            assert_eq!(stage.mount_promptly(&stage.pod()).await, SECRET);
        }
        // With a second cluster that hangs, only logins at this cluster wait. Pods with a session token are served.
        let second = hang("auth/behind-two");
        let read = async {
            stage.vault.wait_for(2, "POST", "auth/behind-two").await;
            let polled = polled.clone().with_parameter("refreshInterval", "10s");
            assert_eq!(stage.mount_promptly(&polled).await, SECRET);
            assert_eq!(stage.vault.count("GET", &stage.secret_path()), 7, "it was not read anew");
        };
        tokio::select! {
            ended = second => panic!("these logins hang: {ended:?}"),
            () = read => {}
        }
    };
    tokio::select! {
        ended = one => panic!("these logins hang: {ended:?}"),
        () = others => {}
    }
    assert_eq!(stage.vault.max_concurrent("auth/behind-one"), 6);
}
