//! Load of a fleet on Vault and the API server, simulated in virtual time. `make fleet` writes docs/fleet.md and its plots.
#![allow(
    missing_docs,
    unreachable_pub,
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    clippy::cast_sign_loss,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a program for developers"
)]

mod plot;
mod sim;

use std::{fmt::Write as _, fs, path::Path};

use plot::{Line, Plot};
use sim::{Fleet, INCIDENT_AT, Incident, MINUTE, Provider, SimulationResult};

const POD_SCOPE: Provider = Provider::Vaultmount { has_shared_tokens: false, has_state_dir: true };
const SERVICE_ACCOUNT_SCOPE: Provider = Provider::Vaultmount { has_shared_tokens: true, has_state_dir: true };
const WITHOUT_STATE_DIR: Provider = Provider::Vaultmount { has_shared_tokens: false, has_state_dir: false };

fn provider_label(rules: Provider) -> &'static str {
    match rules {
        Provider::Go => "Go provider",
        Provider::Vaultmount { has_state_dir: false, .. } => "without `--state-dir`",
        Provider::Vaultmount { has_shared_tokens: false, .. } => "vaultmount, scope `pod`",
        Provider::Vaultmount { has_shared_tokens: true, .. } => "vaultmount, scope `serviceAccount`",
    }
}

fn main() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let page = include_str!("page.md")
        .replace("{steady}", &steady_table(root))
        .replace("{outage}", &outage_table(root))
        .replace("{boot}", &boot_table(root))
        .replace("{update}", &update_table(root))
        .replace("{settings}", &settings_table());
    fs::write(root.join("docs/fleet.md"), &page).unwrap();
    println!("{page}");
}

fn steady_table(root: &Path) -> String {
    let mut table = "| provider | nodes | Vault, requests/s | new credentials/s (included) | API server, requests/s |\n|---|---|---|---|---|\n".to_owned();
    let mut lines = Vec::new();
    for rules in [POD_SCOPE, SERVICE_ACCOUNT_SCOPE, Provider::Go] {
        for nodes in [1000, 10_000] {
            let played = Fleet::with_nodes(rules, nodes).simulate();
            let mean = |series: &[u32]| SimulationResult::peak_and_mean(series, 3 * MINUTE, 14 * MINUTE).1;
            let (vault, new, api) = (mean(&played.vault), mean(&played.credentials), mean(&played.api));
            let _ = writeln!(table, "| {} | {nodes} | {vault:.0} | {new:.1} | {api:.0} |", provider_label(rules));
            if nodes == 1000 {
                lines.push(Line { name: provider_label(rules), series: played.vault });
            }
        }
    }
    write_plot(root, "steady", "Requests to Vault per second, 1,000 nodes, steady state", lines);
    table
}

fn outage_table(root: &Path) -> String {
    let lasts = 5 * MINUTE;
    let mut table = "| provider | nodes | during the outage, requests/s | peak afterwards, requests/s | mean of the 2 minutes afterwards | peak renewals/s | failed polls |\n|---|---|---|---|---|---|---|\n".to_owned();
    let mut lines = Vec::new();
    for rules in [POD_SCOPE, SERVICE_ACCOUNT_SCOPE, Provider::Go] {
        for nodes in [1000, 10_000] {
            let played = Fleet { incident: Incident::Outage(lasts), ..Fleet::with_nodes(rules, nodes) }.simulate();
            let back = INCIDENT_AT + lasts;
            let (_, away) = SimulationResult::peak_and_mean(&played.vault, INCIDENT_AT + MINUTE, back);
            let (peak, mean) = SimulationResult::peak_and_mean(&played.vault, back, back + 2 * MINUTE);
            let (renewals, _) = SimulationResult::peak_and_mean(&played.renewals, back, back + 2 * MINUTE);
            let _ = writeln!(
                table,
                "| {} | {nodes} | {away:.0} | {peak} | {mean:.0} | {renewals} | {} |",
                provider_label(rules),
                played.failed_polls
            );
            if nodes == 1000 {
                lines.push(Line { name: provider_label(rules), series: played.vault });
            }
        }
    }
    write_plot(root, "outage", "Requests to Vault per second, 1,000 nodes, Vault outage from 5:00 to 10:00", lines);
    table
}

/// Requests and new credentials per second that one active Vault node with its database can handle.
const VAULT_CAPACITY: (f64, f64) = (3000.0, 100.0);

fn boot_table(root: &Path) -> String {
    let mut table = "| provider | all pods had their files after | new credentials per pod | logins per pod | API server, peak requests/s |\n|---|---|---|---|---|\n".to_owned();
    let mut lines = Vec::new();
    for rules in [POD_SCOPE, SERVICE_ACCOUNT_SCOPE, Provider::Go] {
        let booted = Fleet {
            incident: Incident::Reboot(MINUTE),
            requests: VAULT_CAPACITY.0,
            credentials: VAULT_CAPACITY.1,
            duration: 40 * MINUTE,
            ..Fleet::with_nodes(rules, 1000)
        };
        let played = booted.simulate();
        let all = booted.nodes * booted.pods;
        let after = if played.running == all {
            format!("{} s", played.all_running.as_secs())
        } else {
            format!("not within 35 minutes: {} of {all} pods", played.running)
        };
        let since = |series: &[u32]| {
            series[INCIDENT_AT.as_secs() as usize..].iter().map(|n| u64::from(*n)).sum::<u64>() as f64 / all as f64
        };
        let (api, _) = SimulationResult::peak_and_mean(&played.api, INCIDENT_AT, INCIDENT_AT + 5 * MINUTE);
        let _ = writeln!(
            table,
            "| {} | {after} | {:.1} | {:.1} | {api} |",
            provider_label(rules),
            since(&played.credentials),
            since(&played.logins)
        );
        lines.push(Line { name: provider_label(rules), series: played.vault });
    }
    write_plot(root, "boot", "Requests to Vault per second, 1,000 nodes, all boot within the minute after 5:00", lines);
    table
}

fn update_table(root: &Path) -> String {
    let mut table = "| provider | nodes | Vault, peak requests/s | mean | logins | new credentials | API server, peak requests/s |\n|---|---|---|---|---|---|---|\n".to_owned();
    let mut lines = Vec::new();
    for rules in [POD_SCOPE, SERVICE_ACCOUNT_SCOPE, WITHOUT_STATE_DIR, Provider::Go] {
        for nodes in [1000, 10_000] {
            let played = Fleet { incident: Incident::Update(5 * MINUTE), ..Fleet::with_nodes(rules, nodes) }.simulate();
            let (from, to) = (INCIDENT_AT, INCIDENT_AT + 7 * MINUTE);
            let (peak, mean) = SimulationResult::peak_and_mean(&played.vault, from, to);
            let sum = |series: &[u32]| {
                series[from.as_secs() as usize..to.as_secs() as usize].iter().map(|n| u64::from(*n)).sum::<u64>()
            };
            let (api, _) = SimulationResult::peak_and_mean(&played.api, from, to);
            let _ = writeln!(
                table,
                "| {} | {nodes} | {peak} | {mean:.0} | {} | {} | {api} |",
                provider_label(rules),
                sum(&played.logins),
                sum(&played.credentials)
            );
            if nodes == 1000 {
                lines.push(Line { name: provider_label(rules), series: played.vault });
            }
        }
    }
    write_plot(
        root,
        "update",
        "Requests to Vault per second, 1,000 nodes, rolling update of the provider from 5:00 to 10:00",
        lines,
    );
    table
}

fn settings_table() -> String {
    let mut table = "| nodes | scope | refresh interval | Vault, requests/s |\n|---|---|---|---|\n".to_owned();
    for nodes in [1000, 10_000] {
        for rules in [POD_SCOPE, SERVICE_ACCOUNT_SCOPE] {
            for minutes in [2, 10, 30] {
                let fleet =
                    Fleet { refresh: minutes * MINUTE, duration: 45 * MINUTE, ..Fleet::with_nodes(rules, nodes / 10) };
                let played = fleet.simulate();
                let (_, mean) = SimulationResult::peak_and_mean(&played.vault, 10 * MINUTE, 44 * MINUTE);
                let scope = if rules == POD_SCOPE { "`pod`" } else { "`serviceAccount`" };
                let _ = writeln!(table, "| {nodes} | {scope} | {minutes}m | {:.0} |", mean * 10.0);
            }
        }
    }
    table
}

fn write_plot(root: &Path, file: &str, title: &str, lines: Vec<Line>) {
    fs::create_dir_all(root.join("docs/fleet")).unwrap();
    fs::write(root.join(format!("docs/fleet/{file}.svg")), Plot { title, lines }.to_svg()).unwrap();
}
