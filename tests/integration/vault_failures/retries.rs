//! Retries: which requests are repeated, how often, and with which backoff.

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;
use vaultmount::error::Cause;

use super::{
    FailureFixture, SECRET, advance, assert_contains, call_with_timeout, for_each_case, single_file, tenant_with_secret,
};
use crate::support::{
    clock::DEFAULT_REFRESH_INTERVAL,
    fault_proxy::{Fault, respond, vault_error},
};

/// Error of a standby for a KV engine that the active node has not upgraded yet.
const KV_UPGRADE_ERROR: &str = "Waiting for the primary to upgrade from non-versioned to versioned data. This backend will be \
    unavailable for a brief period and will resume service when the primary is finished.";

#[tokio::test]
async fn reads_and_logins_are_retried_after_transient_errors() {
    let passing = [412, 429, 472, 473, 502, 503, 504].map(|code| vault_error(code, "for a moment"));
    let lost = [Fault::DropRequest, Fault::DropResponse, Fault::TruncateResponse];
    for_each_case(passing.into_iter().chain(lost), async |stage, fault| {
        stage.vault.next(1, "POST", &stage.login_path(), fault.clone());
        stage.vault.next(1, "GET", "sys/internal/ui/mounts/", fault.clone());
        stage.vault.next(1, "GET", &stage.secret_path(), fault);
        assert_eq!(single_file(&stage.daemon.mount(stage.pod().mount_call()).await.unwrap()), SECRET);
        let sent =
            [("POST", "auth/"), ("GET", "sys/internal/"), ("GET", "kv-")].map(|(m, path)| stage.vault.count(m, path));
        assert_eq!(sent, [2, 2, 2]);
    })
    .await;
}

#[tokio::test]
async fn standby_error_is_retried_on_new_connection() {
    let elsewhere = "http://127.0.0.1:1".to_owned();
    let standbys = [
        Fault::Redirect(307, elsewhere),
        vault_error(500, "local node not active but active cluster node not found"),
        vault_error(472, ""),
    ];
    let cases = standbys.map(|fault| (fault, true)).into_iter().chain([(vault_error(429, "quota"), false)]);
    let tenant = Arc::new(tenant_with_secret().await);
    // The cases run one after another, because they share the clock.
    for (fault, anew) in cases {
        let stage = FailureFixture::for_tenant(&tenant).await;
        let pod = stage.pod().with_parameter("refreshInterval", "10s");
        stage.daemon.mount(pod.mount_call()).await.unwrap();
        let probes = || stage.vault.count("GET", "sys/health");
        let (before, probes_before) = (stage.vault.connection_count(), probes());
        // The advance is short enough that idle connections stay open.
        advance(Duration::from_secs(11)).await;
        stage.vault.next(1, "GET", &stage.secret_path(), fault);
        assert_eq!(single_file(&stage.daemon.mount(pod.mount_call()).await.unwrap()), SECRET);
        assert_eq!(stage.vault.count("GET", &stage.secret_path()), 3);
        // The health probe of a failing server uses its own connection.
        let probes = probes() - probes_before;
        assert_eq!(stage.vault.connection_count() - before - probes, usize::from(anew), "{probes} probes");
    }
}

#[tokio::test]
async fn redirected_poll_serves_stale_secret() {
    let stage = FailureFixture::new().await;
    let (pod, other) = (stage.pod(), stage.pod());
    stage.daemon.mount(pod.mount_call()).await.unwrap();
    advance(DEFAULT_REFRESH_INTERVAL).await;
    stage.vault.always("GET", &stage.secret_path(), Fault::Redirect(307, "http://127.0.0.1:1".to_owned()));
    assert_eq!(single_file(&stage.daemon.mount(pod.mount_call()).await.unwrap()), SECRET);
    let (cause, text) = stage.mount_error(&other).await;
    assert_eq!(cause, Cause::Redirect, "{text}");
}

#[tokio::test]
async fn max_retries_default_stops_after_5_attempts() {
    let faults = [
        (vault_error(429, "quota"), Cause::Throttled, "limits requests"),
        (vault_error(503, "overload"), Cause::ServerError, "status 503"),
        (vault_error(412, "behind"), Cause::Throttled, "behind its active node"),
        (vault_error(400, KV_UPGRADE_ERROR), Cause::Throttled, "being upgraded to KV version 2"),
        (vault_error(472, ""), Cause::NoLeader, "knows no active node"),
        (Fault::DropRequest, Cause::Unreachable, "was lost"),
        (Fault::TruncateResponse, Cause::Unreachable, "was lost"),
    ];
    for_each_case(faults, async |stage, (fault, expected, message)| {
        stage.vault.always("GET", &stage.secret_path(), fault);
        let (cause, text) = stage.mount_error(&stage.pod()).await;
        assert_eq!((cause, stage.vault.count("GET", &stage.secret_path())), (expected, 5), "{text}");
        assert_contains(&text, &[message, &stage.vault.address, "\"pass\""]);
    })
    .await;
}

#[tokio::test]
async fn permanent_login_errors_are_not_retried() {
    let denied = "permission denied";
    for_each_case(
        [(400, "no"), (403, "no"), (403, denied), (404, "no"), (405, "no"), (500, "no")],
        async |stage, (code, words)| {
            stage.vault.always("POST", &stage.login_path(), vault_error(code, words));
            stage.mount_error(&stage.pod()).await;
            let logins = stage.vault.requests("POST", &stage.login_path());
            let proven = logins.iter().filter(|login| login.body.windows(3).any(|part| part == b"eyJ")).count();
            // After a denial without a reason, an unauthenticated request looks up the mount at that path.
            assert_eq!((proven, logins.len()), (1, if words == denied { 2 } else { 1 }), "{code} {words}");
        },
    )
    .await;
}

#[tokio::test]
async fn retry_after_header_is_obeyed() {
    let stage = FailureFixture::new().await;
    stage.vault.next(1, "GET", &stage.secret_path(), respond(429, &[("retry-after", "1")], "{}"));
    assert_eq!(single_file(&stage.daemon.mount(stage.pod().mount_call()).await.unwrap()), SECRET);
    let reads = stage.vault.requests("GET", &stage.secret_path());
    let pause = reads[1].received_at - reads[0].received_at;
    assert!(pause >= Duration::from_secs(1), "{pause:?}");
}

#[tokio::test]
async fn retry_after_beyond_deadline_fails_without_waiting() {
    let (stage, start) = (FailureFixture::new().await, Instant::now());
    stage.vault.always("POST", &stage.login_path(), respond(429, &[("retry-after", "60")], r#"{"errors":["quota"]}"#));
    let (cause, text) = stage.daemon.mount_error(call_with_timeout(Duration::from_secs(20), &stage.pod())).await;
    assert_eq!((cause, stage.vault.count("POST", &stage.login_path())), (Cause::Throttled, 1), "{text}");
    assert!(start.elapsed() < Duration::from_secs(10));
}

#[tokio::test]
async fn sealed_vault_serves_stale_poll() {
    let stage = FailureFixture::new().await;
    let more = format!(
        "- {{objectName: pass, secretPath: {}, secretKey: pass}}\n- {{objectName: none, secretPath: {}/data/none, optional: true}}",
        stage.secret_path(),
        stage.tenant.kv
    );
    let (pod, other) = (stage.pod().with_objects(&more), stage.pod().with_objects(&more));
    stage.daemon.mount(pod.mount_call()).await.unwrap();
    for method in ["GET", "POST"] {
        stage.vault.always(method, "", vault_error(503, "Vault is sealed"));
    }
    advance(DEFAULT_REFRESH_INTERVAL).await;
    // An optional secret that was missing before the outage does not fail the poll.
    assert_eq!(single_file(&stage.daemon.mount(pod.mount_call()).await.unwrap()), SECRET);
    assert_eq!(stage.mount_error(&other).await.0, Cause::Sealed);
}

#[tokio::test]
async fn sealed_error_is_not_retried() {
    let stage = FailureFixture::new().await;
    stage.vault.always("POST", &stage.login_path(), vault_error(503, "Vault is sealed"));
    let (cause, text) = stage.mount_error(&stage.pod()).await;
    assert_eq!((cause, stage.vault.count("POST", &stage.login_path())), (Cause::Sealed, 1), "{text}");
    assert_contains(&text, &["is sealed", "unseal", &stage.vault.address]);
}
