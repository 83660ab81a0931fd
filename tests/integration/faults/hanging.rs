//! A Vault that is well, and something behind it that never answers: who waits for that holds up nobody else.

use std::time::Duration;

use futures_util::future::join_all;
use tokio::time::Instant;
use vaultmount::error::Cause;

use super::{SECRET, Stage, leap, only, within};
use crate::support::{
    clock::REFRESH,
    database::Database,
    faulty::{Fault, Gate},
    pod::Pod,
};

/// What others must be done with.
const PROMPTLY: Duration = Duration::from_secs(10);
/// What those have that never end.
const LONG: Duration = Duration::from_secs(40);

impl Stage {
    /// A pod whose credentials never come: four from each of five engines.
    fn hanging(&self) -> Pod {
        self.vault.every("GET", "hang", Fault::Hold(Gate::new()));
        let object = |n| format!("- {{objectName: a{n}, secretPath: hang{}/creds/{n}, secretKey: pass}}\n", n / 4);
        Pod::of(&self.tenant).objects((0..20).map(object).collect::<String>())
    }

    /// Mounts promptly, and brings the one file.
    async fn promptly(&self, pod: &Pod) -> String {
        let begun = Instant::now();
        let mounted = self.daemon.mount(within(PROMPTLY, pod)).await.unwrap();
        assert!(begun.elapsed() < PROMPTLY);
        only(&mounted).to_owned()
    }
}

#[tokio::test]
async fn credentials_that_never_come_hold_up_no_other() {
    let stage = Stage::new().await;
    let database = Database::of(&stage.tenant).await;
    let user = || {
        let object = format!("- {{objectName: user, secretPath: {}, secretKey: username}}", database.path);
        Pod::of(&stage.tenant).objects(object)
    };
    let hanging = stage.hanging();
    let others = async {
        stage.vault.saw(6, "GET", "hang").await;
        for _ in 0..5 {
            assert_eq!(stage.promptly(&stage.pod()).await, SECRET);
        }
        leap(LONG).await;
    };
    let ((cause, text), ()) = tokio::join!(stage.daemon.refusal(within(LONG, &hanging)), others);
    assert_eq!(cause, Cause::Deadline, "{text}");
    // They are awaited for a minute more, and nobody waits for that: not for another engine's credentials either.
    for pod in [user(), user()] {
        assert!(!stage.promptly(&pod).await.is_empty());
    }
    assert_eq!(stage.vault.count("GET", "hang"), 6, "something was asked for when nobody waited for it any more");
}

#[tokio::test]
async fn logins_that_never_end_hold_up_no_other() {
    let stage = Stage::new().await;
    let polled = stage.pod();
    stage.daemon.mount(polled.call()).await.unwrap();
    let hang = |mount: &'static str| {
        stage.vault.every("POST", mount, Fault::Hold(Gate::new()));
        let pods: Vec<_> =
            (0..12).map(|_| stage.pod().with("vaultAuthMountPath", mount.trim_start_matches("auth/"))).collect();
        join_all(pods.into_iter().map(|pod| stage.daemon.mount(within(LONG, &pod))))
    };
    let one = hang("auth/behind-one");
    let others = async {
        stage.vault.saw(6, "POST", "auth/behind-one").await;
        for _ in 0..5 {
            assert_eq!(stage.promptly(&stage.pod()).await, SECRET);
        }
        // Of a second such cluster, those logins wait that want it; who has a token is served.
        let second = hang("auth/behind-two");
        let read = async {
            stage.vault.saw(2, "POST", "auth/behind-two").await;
            leap(REFRESH / 10).await;
            let polled = polled.clone().with("refreshInterval", "10s");
            assert_eq!(stage.promptly(&polled).await, SECRET);
            assert_eq!(stage.vault.count("GET", &stage.secret()), 7, "it was not read anew");
        };
        tokio::select! {
            _ = second => panic!("these logins never end"),
            () = read => {}
        }
    };
    tokio::select! {
        _ = one => panic!("these logins never end"),
        () = others => {}
    }
    assert_eq!(stage.vault.peak("auth/behind-one"), 6);
}
