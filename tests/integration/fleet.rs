//! What docs/fleet.md claims, played with fewer nodes.

use std::time::Duration;

#[path = "../../benches/fleet/sim.rs"]
#[allow(dead_code, clippy::cast_possible_truncation, clippy::cast_precision_loss, clippy::cast_sign_loss)]
mod sim;

use sim::{Fleet, HAPPENS_AT, Happens, MINUTE, Played, Rules};

const OURS: Rules = Rules::Vaultmount { shares: false, keeps: true };

fn fleet(happens: Happens) -> Fleet {
    Fleet { happens, ..Fleet::usual(OURS, 100) }
}

fn sum(series: &[u32], from: Duration) -> u32 {
    series[usize::try_from(from.as_secs()).unwrap()..].iter().sum()
}

#[test]
fn an_outage_is_followed_by_no_stampede() {
    let played = Fleet { nodes: 1000, ..fleet(Happens::Outage(5 * MINUTE)) }.play();
    let back = HAPPENS_AT + 5 * MINUTE;
    let (usual, _) = Played::peak_and_mean(&played.vault, MINUTE, HAPPENS_AT);
    let (peak, _) = Played::peak_and_mean(&played.vault, back, back + 4 * MINUTE);
    let (_, probes) = Played::peak_and_mean(&played.vault, HAPPENS_AT + MINUTE, back);
    assert!(peak <= usual * 5 / 2, "{peak} requests in a second, where {usual} are the most in others");
    // A thousand nodes, each about once in 25 seconds.
    assert!(probes > 20.0 && probes < 80.0, "{probes} probes in a second");
    assert_eq!((played.failed_polls, sum(&played.logins, HAPPENS_AT), sum(&played.credentials, HAPPENS_AT)), (0, 0, 0));
    let (renewals, _) = Played::peak_and_mean(&played.renewals, back, back + 4 * MINUTE);
    assert!(renewals > 0 && renewals <= 600, "{renewals} renewals in a second");
}

#[test]
fn an_outage_longer_than_everything_lives_is_one_credential_for_each_pod() {
    let brief = Fleet { ttl: 3 * MINUTE, ..fleet(Happens::Outage(5 * MINUTE)) };
    let played = brief.play();
    let (logins, credentials) = (sum(&played.logins, HAPPENS_AT), sum(&played.credentials, HAPPENS_AT));
    assert_eq!((logins, credentials), (5000, 5000));
}

#[test]
fn an_update_asks_vault_for_nothing_and_a_boot_for_one_credential_each() {
    let played = fleet(Happens::Update(5 * MINUTE)).play();
    assert_eq!((sum(&played.logins, HAPPENS_AT), sum(&played.credentials, HAPPENS_AT)), (0, 0));
    assert_eq!(sum(&played.api, Duration::ZERO), 300, "the key, the list and the watch, for each node");
    let busy = Fleet { requests: 3000.0, credentials: 20.0, ..fleet(Happens::Reboot(MINUTE)) };
    let played = busy.play();
    assert_eq!((played.running, sum(&played.credentials, HAPPENS_AT)), (5000, 5000));
    let sharing = Fleet { rules: Rules::Vaultmount { shares: true, keeps: true }, ..busy };
    let played = sharing.play();
    assert_eq!((played.running, sum(&played.credentials, HAPPENS_AT)), (5000, 1000));
}
