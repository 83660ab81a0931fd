//! What is sent again, how often, and when.

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;
use vaultmount::error::Cause;

use super::{SECRET, Stage, assert_says, each, leap, only, tenant, within};
use crate::support::{
    clock::REFRESH,
    faulty::{Fault, answer, status},
};

/// What a standby says of a KV engine that the active node has not upgraded yet.
const UPGRADE: &str = "Waiting for the primary to upgrade from non-versioned to versioned data. This backend will be \
    unavailable for a brief period and will resume service when the primary is finished.";

#[tokio::test]
async fn plain_reads_and_logins_are_sent_again() {
    let passing = [412, 429, 472, 473, 502, 503, 504].map(|code| status(code, "for a moment"));
    let lost = [Fault::LoseRequest, Fault::LoseAnswer, Fault::CutAnswer];
    each(passing.into_iter().chain(lost), async |stage, fault| {
        stage.vault.next(1, "POST", &stage.login(), fault.clone());
        stage.vault.next(1, "GET", "sys/internal/ui/mounts/", fault.clone());
        stage.vault.next(1, "GET", &stage.secret(), fault);
        assert_eq!(only(&stage.daemon.mount(stage.pod().call()).await.unwrap()), SECRET);
        let sent =
            [("POST", "auth/"), ("GET", "sys/internal/"), ("GET", "kv-")].map(|(m, path)| stage.vault.count(m, path));
        assert_eq!(sent, [2, 2, 2]);
    })
    .await;
}

#[tokio::test]
async fn what_a_standby_says_that_reaches_no_leader_is_asked_again_on_another_connection() {
    let elsewhere = "http://127.0.0.1:1".to_owned();
    let standbys = [
        Fault::Redirect(307, elsewhere),
        status(500, "local node not active but active cluster node not found"),
        status(472, ""),
    ];
    let cases = standbys.map(|fault| (fault, true)).into_iter().chain([(status(429, "quota"), false)]);
    let tenant = Arc::new(tenant().await);
    // One after another, as time is everyone's.
    for (fault, anew) in cases {
        let stage = Stage::of(&tenant).await;
        let pod = stage.pod().with("refreshInterval", "10s");
        stage.daemon.mount(pod.call()).await.unwrap();
        let probes = || stage.vault.count("GET", "sys/health");
        let (before, asked) = (stage.vault.connections(), probes());
        // Not so long that idle connections are closed.
        leap(Duration::from_secs(11)).await;
        stage.vault.next(1, "GET", &stage.secret(), fault);
        assert_eq!(only(&stage.daemon.mount(pod.call()).await.unwrap()), SECRET);
        assert_eq!(stage.vault.count("GET", &stage.secret()), 3);
        // A server that fails is asked how it is on a connection of its own.
        let probes = probes() - asked;
        assert_eq!(stage.vault.connections() - before - probes, usize::from(anew), "{probes} probes");
    }
}

#[tokio::test]
async fn a_poll_that_is_sent_to_another_server_keeps_what_the_pod_has() {
    let stage = Stage::new().await;
    let (pod, other) = (stage.pod(), stage.pod());
    stage.daemon.mount(pod.call()).await.unwrap();
    leap(REFRESH).await;
    stage.vault.every("GET", &stage.secret(), Fault::Redirect(307, "http://127.0.0.1:1".to_owned()));
    assert_eq!(only(&stage.daemon.mount(pod.call()).await.unwrap()), SECRET);
    let (cause, text) = stage.refusal(&other).await;
    assert_eq!(cause, Cause::Redirect, "{text}");
}

#[tokio::test]
async fn nothing_is_sent_more_often_than_the_limit() {
    let faults = [
        (status(429, "quota"), Cause::Busy, "limits requests"),
        (status(503, "overload"), Cause::ServerFault, "status 503"),
        (status(412, "behind"), Cause::Busy, "behind its active node"),
        (status(400, UPGRADE), Cause::Busy, "being made KV version 2"),
        (status(472, ""), Cause::NoLeader, "knows no active node"),
        (Fault::LoseRequest, Cause::Unreachable, "was lost"),
        (Fault::CutAnswer, Cause::Unreachable, "was lost"),
    ];
    each(faults, async |stage, (fault, expected, said)| {
        stage.vault.every("GET", &stage.secret(), fault);
        let (cause, text) = stage.refusal(&stage.pod()).await;
        assert_eq!((cause, stage.vault.count("GET", &stage.secret())), (expected, 5), "{text}");
        assert_says(&text, &[said, &stage.vault.address, "\"pass\""]);
    })
    .await;
}

#[tokio::test]
async fn other_refusals_are_final() {
    let denied = "permission denied";
    each(
        [(400, "no"), (403, "no"), (403, denied), (404, "no"), (405, "no"), (500, "no")],
        async |stage, (code, words)| {
            stage.vault.every("POST", &stage.login(), status(code, words));
            stage.refusal(&stage.pod()).await;
            let logins = stage.vault.seen("POST", &stage.login());
            let proven = logins.iter().filter(|login| login.body.windows(3).any(|part| part == b"eyJ")).count();
            // After a denial without a reason one without proof asks what is mounted there.
            assert_eq!((proven, logins.len()), (1, if words == denied { 2 } else { 1 }), "{code} {words}");
        },
    )
    .await;
}

#[tokio::test]
async fn a_pause_that_vault_asks_for_is_kept() {
    let stage = Stage::new().await;
    stage.vault.next(1, "GET", &stage.secret(), answer(429, &[("retry-after", "1")], "{}"));
    assert_eq!(only(&stage.daemon.mount(stage.pod().call()).await.unwrap()), SECRET);
    let reads = stage.vault.seen("GET", &stage.secret());
    let pause = reads[1].at - reads[0].at;
    assert!(pause >= Duration::from_secs(1), "{pause:?}");
}

#[tokio::test]
async fn a_pause_beyond_the_deadline_is_not_waited_for() {
    let (stage, start) = (Stage::new().await, Instant::now());
    stage.vault.every("POST", &stage.login(), answer(429, &[("retry-after", "60")], r#"{"errors":["quota"]}"#));
    let (cause, text) = stage.daemon.refusal(within(Duration::from_secs(20), &stage.pod())).await;
    assert_eq!((cause, stage.vault.count("POST", &stage.login())), (Cause::Busy, 1), "{text}");
    assert!(start.elapsed() < Duration::from_secs(10));
}

#[tokio::test]
async fn a_poll_goes_on_with_what_the_pod_has_while_vault_is_sealed() {
    let stage = Stage::new().await;
    let more = format!(
        "- {{objectName: pass, secretPath: {}, secretKey: pass}}\n- {{objectName: none, secretPath: {}/data/none, optional: true}}",
        stage.secret(),
        stage.tenant.kv
    );
    let (pod, other) = (stage.pod().objects(&more), stage.pod().objects(&more));
    stage.daemon.mount(pod.call()).await.unwrap();
    for method in ["GET", "POST"] {
        stage.vault.every(method, "", status(503, "Vault is sealed"));
    }
    leap(REFRESH).await;
    // What was not there is not missed.
    assert_eq!(only(&stage.daemon.mount(pod.call()).await.unwrap()), SECRET);
    assert_eq!(stage.refusal(&other).await.0, Cause::Sealed);
}

#[tokio::test]
async fn a_sealed_vault_is_not_asked_twice() {
    let stage = Stage::new().await;
    stage.vault.every("POST", &stage.login(), status(503, "Vault is sealed"));
    let (cause, text) = stage.refusal(&stage.pod()).await;
    assert_eq!((cause, stage.vault.count("POST", &stage.login())), (Cause::Sealed, 1), "{text}");
    assert_says(&text, &["is sealed", "unseal", &stage.vault.address]);
}
