//! Tests of the text format.

use super::*;
use crate::cache::kind::SecretKind;

fn timestamp(text: &str) -> Timestamp {
    format!("2026-03-01T{text}Z").parse().unwrap()
}

fn secret(path: &str, kind: SecretKind, state: SecretState) -> SecretStatus {
    SecretStatus {
        path: path.into(),
        method: "GET".into(),
        kind,
        state,
        expires_at: None,
        max_expires_at: None,
        renew_at: None,
        read_at: timestamp("13:00:00"),
        last_error: None,
        volumes: 1,
    }
}

fn status() -> Status {
    let failed = LastErrorStatus {
        at: timestamp("13:58:00"),
        operation: "reading kv/data/db".into(),
        error: format!("Vault at https://vault:8200 refuses {} [VM0050]", "one word after the other ".repeat(9)),
    };
    let session = SessionStatus {
        pod: "web-0".into(),
        namespace: "shop".into(),
        uid: "6e0f3a6e-0c5d-4a51-9a3c-0d8f7c1f0c11".into(),
        pods: 1,
        service_account: "web".into(),
        address: "https://vault:8200".into(),
        vault_namespace: Some("team".into()),
        auth_mount: "kubernetes".into(),
        role: "web".into(),
        token: Some(TokenStatus {
            accessor: "abc".into(),
            state: SecretState::Active,
            expires_at: Some(timestamp("14:47:00")),
            renew_at: Some(timestamp("14:23:12")),
            max_expires_at: Some("2026-03-04T02:00:00Z".parse().unwrap()),
        }),
        superseded_tokens: 2,
        volumes: vec![VolumeStatus {
            target_path: "/var/lib/kubelet/pods/6e0f3a6e/volumes/kubernetes.io~csi/secrets/mount".into(),
            class: "shop".into(),
            last_mount_at: timestamp("13:59:30"),
            mounts: 12,
            poll_interval_seconds: Some(120),
        }],
        secrets: vec![
            SecretStatus {
                expires_at: Some(timestamp("14:30:00")),
                max_expires_at: Some(timestamp("15:00:00")),
                ..secret("database/creds/web", SecretKind::Leased, SecretState::Active)
            },
            SecretStatus {
                last_error: Some("it cannot be asked [VM0010]".into()),
                ..secret("kv/data/db", SecretKind::Plain, SecretState::Failing)
            },
        ],
        last_success_at: Some(timestamp("13:59:30")),
        last_error: Some(failed),
        renewal_active: false,
        renewal_paused_reason: Some("the token is a batch token".into()),
    };
    Status {
        version: "0.1.0".into(),
        pid: 7,
        started_at: timestamp("10:48:00"),
        now: timestamp("14:00:00"),
        watch: WatchStatus {
            state: WatchState::Synced,
            node: Some("node-1".into()),
            since: Some(timestamp("10:48:01")),
            last_error: None,
        },
        mounts_disabled: false,
        outages: vec![OutageStatus {
            address: "https://vault:8200".into(),
            since: timestamp("13:57:00"),
            error: "Vault at https://vault:8200 is sealed [VM0020]".into(),
        }],
        servers: Vec::new(),
        sessions: vec![session],
        revocations: vec![PendingRevocationStatus {
            pod: "old-0".into(),
            namespace: "shop".into(),
            uid: "u".into(),
            address: "https://vault:8200".into(),
            since: timestamp("13:00:00"),
            attempts: 3,
            expires_at: Some(timestamp("15:00:00")),
            last_error: "sealed [VM0020]".into(),
        }],
        failures: vec![MountFailure {
            at: timestamp("13:50:00"),
            count: 3,
            pod: "web-1".into(),
            namespace: "shop".into(),
            uid: "v".into(),
            target_path: "/mount".into(),
            error: "not allowed [VM0013]".into(),
        }],
    }
}

fn plain(status: &Status) -> String {
    anstream::adapter::strip_str(&render(status)).to_string()
}

#[test]
fn status_text_shows_pods_expiry_and_errors() {
    let text = plain(&status());
    for line in [
        "vaultmount 0.1.0, process 7, up 3h 12m (since 2026-03-01 10:48:00Z)",
        "pods of node-1: watched, since 10:48:01Z",
        "https://vault:8200: down since 13:57:00Z, retried automatically",
        "            Vault at https://vault:8200 is sealed [VM0020]",
        "shop/web-0 (6e0f3a6e-0c5d-4a51-9a3c-0d8f7c1f0c11)",
        "  at        https://vault:8200, namespace team, auth/kubernetes, role web, as web",
        "  token     active, renewal in 23m (14:23:12Z), expires in 47m (14:47:00Z), at the latest in 2d 12h",
        "            (2026-03-04 02:00:00Z), accessor abc; superseded tokens: 2",
        "  renewal   off: the token is a batch token",
        "  success   30s ago (13:59:30Z)",
        "  KIND         STATE       EXPIRES             PATH",
        "  leased       active      in 30m (14:30:00Z)  GET database/creds/web",
        "            at the latest in 1h 0m (15:00:00Z)",
        "  plain        failing     -                   GET kv/data/db",
        "            it cannot be asked [VM0010]",
        "  shop/old-0 (u)",
        "  at        https://vault:8200, since 13:00:00Z, attempts: 3, expires in 1h 0m (15:00:00Z)",
        "  error     sealed [VM0020]",
        "Recent mount failures",
        "  shop/web-1 (v)",
        "  error     10m ago (13:50:00Z), 3 times: not allowed [VM0013]",
    ] {
        assert!(text.lines().any(|l| l == line), "{line:?} is not in:\n{text}");
    }
    assert!(text.contains("  error     2m ago (13:58:00Z), reading kv/data/db: Vault at"), "{text}");
    assert!(text.lines().all(|line| line.chars().count() <= 100), "{text}");
}

#[test]
fn status_text_shows_disabled_mounts_and_no_sessions() {
    let watch = WatchStatus { state: WatchState::Off, node: None, since: None, last_error: None };
    let text = plain(&Status {
        watch,
        mounts_disabled: true,
        sessions: Vec::new(),
        revocations: Vec::new(),
        failures: Vec::new(),
        ..status()
    });
    assert!(text.contains("pods: not watched: no --node-name") && text.contains("mounts are rejected"), "{text}");
    assert!(text.ends_with("no sessions\n"), "{text}");
}
