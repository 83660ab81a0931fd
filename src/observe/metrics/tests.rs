use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use super::*;
use crate::{cache::kind::SecretState, kube::watch_state::WatchState};

fn gauges_fixture() -> GaugeSnapshot {
    GaugeSnapshot {
        cached_secrets: [((SecretState::Active, SecretKind::Leased), 3)].into(),
        earliest_secret_expiry: Some(1_800_000_000),
        expired_secrets: 2,
        tokens: [(SecretState::Failing, 2)].into(),
        earliest_token_expiry: Some(1_700_000_000),
        oldest_refresh_success: None,
        sessions: 5,
        sessions_limit: 2048,
        mounts_limit: 256,
        pending_revocations: 1,
        pods_watched: 7,
        pod_watch_state: WatchState::Denied,
        endpoints_down: 4,
        policy_reloaded: Some(false),
        tls_reloaded: [("https://vault:8200".to_owned(), false)].into(),
        endpoints: [("https://vault:8200".to_owned(), EndpointHealth { is_up: false, is_sealed: true })].into(),
        certificate_expiries: [(CertificateRole::Ca, 1_900_000_000)].into(),
    }
}

#[tokio::test(start_paused = true)]
async fn metrics_encode_counters_and_gauges() {
    let metrics = Metrics::new();
    for (outcome, took) in [(Ok(()), Duration::from_millis(3)), (Err(Code::NotFound), Duration::from_secs(90))] {
        let call = metrics.start_grpc_call(GrpcMethod::Mount);
        tokio::time::advance(took).await;
        call.finish(outcome);
    }
    drop(metrics.start_grpc_call(GrpcMethod::Mount));
    metrics.start_grpc_call(GrpcMethod::Version).finish(Ok(()));
    metrics.start_vault_request(VaultOperation::Read).finish(503);
    drop(metrics.start_vault_request(VaultOperation::Login));
    metrics.count_kubernetes_request(KubeOperation::Pods, StatusClass::from_http_status(403));
    metrics.count_login(AuthMethod::Jwt, LoginOutcome::Denied);
    metrics.count_secret_reads(ReadSource::Cache, 4);
    metrics.count_stale_poll(Cause::Uninitialized);
    metrics.count_renewal(RenewalTarget::Lease, RenewalOutcome::Capped);
    metrics.count_rotation(SecretKind::Certificate, RotationReason::RefreshDue);
    metrics.count_revocation(RevocationOutcome::AlreadyExpired);
    metrics.count_policy_denial(RuleKind::Address);
    metrics.count_tenant_address_mount();
    metrics.count_endpoint_transition(EndpointState::Down);
    let under_way = (
        metrics.start_grpc_call(GrpcMethod::Mount),
        metrics.start_vault_request(VaultOperation::List),
        metrics.start_vault_queue_wait(),
    );
    let text = metrics.encode(&gauges_fixture(), TextFormat::OpenMetrics);
    drop(under_way);
    let version = env!("CARGO_PKG_VERSION");
    for line in [
        r#"vaultmount_grpc_requests_total{method="Mount",code="OK"} 1"#,
        r#"vaultmount_grpc_requests_total{method="Mount",code="NotFound"} 1"#,
        r#"vaultmount_grpc_requests_total{method="Mount",code="Cancelled"} 1"#,
        r#"vaultmount_grpc_requests_total{method="Mount",code="Internal"} 0"#,
        r#"vaultmount_grpc_requests_total{method="Version",code="OK"} 1"#,
        r#"vaultmount_grpc_request_duration_seconds_bucket{le="0.0025",method="Mount"} 1"#,
        r#"vaultmount_grpc_request_duration_seconds_bucket{le="0.005",method="Mount"} 2"#,
        r#"vaultmount_grpc_request_duration_seconds_bucket{le="30.0",method="Mount"} 2"#,
        r#"vaultmount_grpc_request_duration_seconds_sum{method="Mount"} 90.003"#,
        r#"vaultmount_grpc_requests_in_flight{method="Mount"} 1"#,
        r#"vaultmount_vault_requests_total{operation="read",status="5xx"} 1"#,
        r#"vaultmount_vault_requests_total{operation="login",status="none"} 1"#,
        r#"vaultmount_vault_request_duration_seconds_count{operation="read"} 1"#,
        "vaultmount_vault_requests_in_flight 1",
        "vaultmount_vault_requests_queued 1",
        r#"vaultmount_kubernetes_requests_total{operation="pods",status="4xx"} 1"#,
        r#"vaultmount_logins_total{method="jwt",outcome="denied"} 1"#,
        r#"vaultmount_secret_reads_total{source="cache"} 4"#,
        r#"vaultmount_stale_polls_total{reason="sealed"} 1"#,
        r#"vaultmount_renewals_total{target="lease",outcome="capped"} 1"#,
        r#"vaultmount_rotations_total{kind="certificate",reason="refresh_due"} 1"#,
        r#"vaultmount_revocations_total{outcome="already_expired"} 1"#,
        r#"vaultmount_policy_denials_total{rule="address"} 1"#,
        "vaultmount_tenant_address_mounts_total 1",
        "vaultmount_policy_last_reload_successful 0",
        r#"vaultmount_tls_last_reload_successful{endpoint="https://vault:8200"} 0"#,
        r#"vaultmount_endpoint_transitions_total{state="down"} 1"#,
        r#"vaultmount_endpoint_transitions_total{state="up"} 0"#,
        "vaultmount_endpoints_down 4",
        r#"vaultmount_endpoint_up{endpoint="https://vault:8200"} 0"#,
        r#"vaultmount_endpoint_sealed{endpoint="https://vault:8200"} 1"#,
        r#"vaultmount_certificate_expiry_timestamp_seconds{certificate="ca"} 1900000000"#,
        &format!(r#"vaultmount_build_info{{version="{version}"}} 1"#),
        r#"vaultmount_cached_secrets{state="active",kind="leased"} 3"#,
        r#"vaultmount_cached_secrets{state="expiring",kind="plain"} 0"#,
        "vaultmount_expired_secrets 2",
        "vaultmount_earliest_secret_expiry_timestamp_seconds 1800000000",
        r#"vaultmount_tokens{state="failing"} 2"#,
        "vaultmount_earliest_token_expiry_timestamp_seconds 1700000000",
        "vaultmount_sessions 5",
        "vaultmount_sessions_limit 2048",
        "vaultmount_mounts_limit 256",
        "vaultmount_pending_revocations 1",
        "vaultmount_pods_watched 7",
        r#"vaultmount_pod_watch_state{state="denied"} 1"#,
        r#"vaultmount_pod_watch_state{state="synced"} 0"#,
    ] {
        assert!(text.lines().any(|l| l == line), "{line} is not in:\n{text}");
    }
    assert!(!text.contains("vaultmount_oldest_refresh_success_timestamp_seconds "), "{text}");
    assert!(text.ends_with("# EOF\n") && text.matches("# EOF").count() == 1, "{text}");
}

#[test]
fn metrics_include_process_usage() {
    let text = Metrics::new().encode(&gauges_fixture(), TextFormat::OpenMetrics);
    let value = |name: &str| {
        let found = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        found.unwrap_or_else(|| panic!("{name} is not in:\n{text}"))
    };
    let level = |name: &str| -> f64 { value(name).parse().unwrap() };
    assert!(level("process_cpu_seconds_total") > 0.0);
    assert!((1e6..1e9).contains(&level("process_resident_memory_bytes")));
    assert!(level("process_virtual_memory_bytes") > level("process_resident_memory_bytes"));
    assert!(level("process_open_fds") >= 3.0 && level("process_max_fds") > level("process_open_fds"));
    assert!(level("process_threads") >= 1.0);
    let (now, started) = (Timestamp::now().as_second(), value("process_start_time_seconds"));
    assert!((now - 60..=now).contains(&started.parse().unwrap()));
}

#[test]
fn metrics_series_exist_from_start_and_are_bounded() {
    let metrics = Metrics::new();
    let series = |metrics: &Metrics| {
        metrics.encode(&gauges_fixture(), TextFormat::OpenMetrics).lines().filter(|l| !l.starts_with('#')).count()
    };
    let before = series(&metrics);
    for code in Code::ALL {
        metrics.start_grpc_call(GrpcMethod::Mount).finish(Err(code));
    }
    drop(metrics.start_grpc_call(GrpcMethod::Mount));
    metrics.start_grpc_call(GrpcMethod::Version).finish(Ok(()));
    for (kind, reason) in SecretKind::ALL.iter().flat_map(|k| RotationReason::ALL.iter().map(move |r| (*k, *r))) {
        metrics.count_rotation(kind, reason);
    }
    for status in [0, 100, 204, 307, 404, 502, 999] {
        for operation in VaultOperation::ALL {
            metrics.start_vault_request(*operation).finish(status);
        }
        for operation in KubeOperation::ALL {
            metrics.count_kubernetes_request(*operation, StatusClass::from_http_status(status));
        }
    }
    for (method, outcome) in AuthMethod::ALL.iter().flat_map(|m| LoginOutcome::ALL.iter().map(move |o| (*m, *o))) {
        metrics.count_login(method, outcome);
    }
    for cause in crate::error::cause::SECTIONS.iter().flat_map(|section| section.causes) {
        metrics.count_stale_poll(*cause);
    }
    assert_eq!(series(&metrics), before);
    assert!(before < 500, "{before} series");
}

/// Returns the families of a scrape with their labels and values.
fn parse_families(text: &str) -> BTreeMap<String, BTreeSet<(String, String)>> {
    let mut families: BTreeMap<String, BTreeSet<(String, String)>> = BTreeMap::new();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let (series, _) = line.rsplit_once(' ').unwrap();
        let (name, labels) = series.split_once('{').unwrap_or((series, ""));
        let name = ["_bucket", "_sum", "_count"].iter().find_map(|part| name.strip_suffix(part)).unwrap_or(name);
        let labels = labels.trim_end_matches('}').split_terminator(',').map(|label| label.split_once('=').unwrap());
        let labels = labels.filter(|(name, _)| *name != "le");
        let labels = labels.map(|(name, value)| (name.to_owned(), value.trim_matches('"').to_owned()));
        families.entry(name.to_owned()).or_default().extend(labels);
    }
    families
}

#[tokio::test]
async fn metrics_reference_lists_every_metric_and_label() {
    let all = GaugeSnapshot { oldest_refresh_success: Some(1), ..gauges_fixture() };
    let all =
        GaugeSnapshot { certificate_expiries: CertificateRole::ALL.iter().map(|role| (*role, 1)).collect(), ..all };
    let mut families = parse_families(&Metrics::new().encode(&all, TextFormat::OpenMetrics));
    let page = include_str!("../../../docs/reference/metrics.md");
    for row in page.lines().filter(|line| line.starts_with("| `")) {
        let [_, name, labels, help, _] = row.split('|').map(str::trim).collect::<Vec<_>>()[..] else { panic!("{row}") };
        let found =
            families.remove(name.trim_matches('`')).unwrap_or_else(|| panic!("{name} is documented but not exported"));
        assert!(!help.is_empty(), "{row}");
        let mut names = BTreeSet::new();
        for (label, value) in &found {
            names.insert(label);
            let is_open = matches!(label.as_str(), "code" | "version" | "endpoint");
            assert!(labels.contains(&format!("`{label}`: ")), "{label} is missing: {row}");
            assert!(is_open || labels.contains(&format!("`{value}`")), "{value} is missing: {row}");
        }
        assert_eq!(labels.matches("`: ").count(), names.len(), "documented labels that no series has: {row}");
        let values =
            found.iter().filter(|(label, _)| !matches!(label.as_str(), "code" | "version" | "endpoint")).count();
        let written = labels.matches('`').count() / 2 - names.len();
        assert!(labels.contains("`code`") || written == values, "documented values that no series has: {row}");
    }
    assert!(families.is_empty(), "not in docs/reference/metrics.md: {families:?}");
}
