//! Claims of docs/fleet.md, simulated with fewer nodes.

use std::time::Duration;

#[path = "../../benches/fleet/sim.rs"]
#[allow(dead_code, clippy::cast_possible_truncation, clippy::cast_precision_loss, clippy::cast_sign_loss)]
mod sim;

use sim::{Fleet, INCIDENT_AT, Incident, MINUTE, Provider, SimulationResult};

const DEFAULT_PROVIDER: Provider = Provider::Vaultmount { has_shared_tokens: false, has_state_dir: true };

fn fleet_with_incident(happens: Incident) -> Fleet {
    Fleet { incident: happens, ..Fleet::with_nodes(DEFAULT_PROVIDER, 100) }
}

fn sum_from(series: &[u32], from: Duration) -> u32 {
    series[usize::try_from(from.as_secs()).unwrap()..].iter().sum()
}

#[test]
fn fleet_outage_recovery_causes_no_request_storm() {
    let played = Fleet { nodes: 1000, ..fleet_with_incident(Incident::Outage(5 * MINUTE)) }.simulate();
    let back = INCIDENT_AT + 5 * MINUTE;
    let (usual, _) = SimulationResult::peak_and_mean(&played.vault, MINUTE, INCIDENT_AT);
    let (peak, _) = SimulationResult::peak_and_mean(&played.vault, back, back + 4 * MINUTE);
    let (_, probes) = SimulationResult::peak_and_mean(&played.vault, INCIDENT_AT + MINUTE, back);
    assert!(peak <= usual * 5 / 2, "{peak} requests in a second, where {usual} are the most in others");
    // A thousand nodes, each with about one probe in 25 seconds.
    assert!(probes > 20.0 && probes < 80.0, "{probes} probes in a second");
    assert_eq!(
        (played.failed_polls, sum_from(&played.logins, INCIDENT_AT), sum_from(&played.credentials, INCIDENT_AT)),
        (0, 0, 0)
    );
    let (renewals, _) = SimulationResult::peak_and_mean(&played.renewals, back, back + 4 * MINUTE);
    assert!(renewals > 0 && renewals <= 600, "{renewals} renewals in a second");
}

#[test]
fn fleet_long_outage_costs_one_credential_per_pod() {
    let brief = Fleet { ttl: 3 * MINUTE, ..fleet_with_incident(Incident::Outage(5 * MINUTE)) };
    let played = brief.simulate();
    let (logins, credentials) = (sum_from(&played.logins, INCIDENT_AT), sum_from(&played.credentials, INCIDENT_AT));
    assert_eq!((logins, credentials), (5000, 5000));
}

#[test]
fn fleet_update_costs_nothing_and_reboot_one_credential() {
    let played = fleet_with_incident(Incident::Update(5 * MINUTE)).simulate();
    assert_eq!((sum_from(&played.logins, INCIDENT_AT), sum_from(&played.credentials, INCIDENT_AT)), (0, 0));
    assert_eq!(sum_from(&played.api, Duration::ZERO), 300, "the key, the list and the watch, for each node");
    let busy = Fleet { requests: 3000.0, credentials: 20.0, ..fleet_with_incident(Incident::Reboot(MINUTE)) };
    let played = busy.simulate();
    assert_eq!((played.running, sum_from(&played.credentials, INCIDENT_AT)), (5000, 5000));
    let sharing = Fleet { provider: Provider::Vaultmount { has_shared_tokens: true, has_state_dir: true }, ..busy };
    let played = sharing.simulate();
    assert_eq!((played.running, sum_from(&played.credentials, INCIDENT_AT)), (5000, 1000));
}
