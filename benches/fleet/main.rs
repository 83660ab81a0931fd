//! What a fleet asks of Vault and of the API server, in virtual time: `make fleet` writes docs/fleet.md and its plots.
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
use sim::{Fleet, HAPPENS_AT, Happens, MINUTE, Played, Rules};

const POD: Rules = Rules::Vaultmount { shares: false, keeps: true };
const ACCOUNT: Rules = Rules::Vaultmount { shares: true, keeps: true };
const FORGETS: Rules = Rules::Vaultmount { shares: false, keeps: false };

fn name(rules: Rules) -> &'static str {
    match rules {
        Rules::Go => "Go provider",
        Rules::Vaultmount { keeps: false, .. } => "without `--state-dir`",
        Rules::Vaultmount { shares: false, .. } => "vaultmount, scope `pod`",
        Rules::Vaultmount { shares: true, .. } => "vaultmount, scope `serviceAccount`",
    }
}

fn main() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let page = include_str!("page.md")
        .replace("{steady}", &steady(root))
        .replace("{outage}", &outage(root))
        .replace("{boot}", &boot(root))
        .replace("{update}", &update(root))
        .replace("{settings}", &settings());
    fs::write(root.join("docs/fleet.md"), &page).unwrap();
    println!("{page}");
}

fn steady(root: &Path) -> String {
    let mut table = "| rules | nodes | Vault, requests/s | of these, new credentials/s | API server, requests/s |\n|---|---|---|---|---|\n".to_owned();
    let mut lines = Vec::new();
    for rules in [POD, ACCOUNT, Rules::Go] {
        for nodes in [1000, 10_000] {
            let played = Fleet::usual(rules, nodes).play();
            let mean = |series: &[u32]| Played::peak_and_mean(series, 3 * MINUTE, 14 * MINUTE).1;
            let (vault, new, api) = (mean(&played.vault), mean(&played.credentials), mean(&played.api));
            let _ = writeln!(table, "| {} | {nodes} | {vault:.0} | {new:.1} | {api:.0} |", name(rules));
            if nodes == 1000 {
                lines.push(Line { name: name(rules), series: played.vault });
            }
        }
    }
    draw(root, "steady", "Requests to Vault in a second, 1,000 nodes, nothing happens", lines);
    table
}

fn outage(root: &Path) -> String {
    let lasts = 5 * MINUTE;
    let mut table = "| rules | nodes | while it is away, requests/s | most in a second afterwards | mean of the 2 minutes afterwards | most renewals in a second | polls that failed |\n|---|---|---|---|---|---|---|\n".to_owned();
    let mut lines = Vec::new();
    for rules in [POD, ACCOUNT, Rules::Go] {
        for nodes in [1000, 10_000] {
            let played = Fleet { happens: Happens::Outage(lasts), ..Fleet::usual(rules, nodes) }.play();
            let back = HAPPENS_AT + lasts;
            let (_, away) = Played::peak_and_mean(&played.vault, HAPPENS_AT + MINUTE, back);
            let (peak, mean) = Played::peak_and_mean(&played.vault, back, back + 2 * MINUTE);
            let (renewals, _) = Played::peak_and_mean(&played.renewals, back, back + 2 * MINUTE);
            let _ = writeln!(
                table,
                "| {} | {nodes} | {away:.0} | {peak} | {mean:.0} | {renewals} | {} |",
                name(rules),
                played.failed_polls
            );
            if nodes == 1000 {
                lines.push(Line { name: name(rules), series: played.vault });
            }
        }
    }
    draw(root, "outage", "Requests to Vault in a second, 1,000 nodes, Vault is away from 5:00 to 10:00", lines);
    table
}

/// A Vault of so much: what one active node does beside its database.
const STRENGTH: (f64, f64) = (3000.0, 100.0);

fn boot(root: &Path) -> String {
    let mut table = "| rules | all pods had their files after | new credentials in all, per pod | logins, per pod | most to the API server in a second |\n|---|---|---|---|---|\n".to_owned();
    let mut lines = Vec::new();
    for rules in [POD, ACCOUNT, Rules::Go] {
        let booted = Fleet {
            happens: Happens::Reboot(MINUTE),
            requests: STRENGTH.0,
            credentials: STRENGTH.1,
            lasts: 40 * MINUTE,
            ..Fleet::usual(rules, 1000)
        };
        let played = booted.play();
        let all = booted.nodes * booted.pods;
        let after = if played.running == all {
            format!("{} s", played.all_running.as_secs())
        } else {
            format!("not within 35 minutes: {} of {all} pods", played.running)
        };
        let since = |series: &[u32]| {
            series[HAPPENS_AT.as_secs() as usize..].iter().map(|n| u64::from(*n)).sum::<u64>() as f64 / all as f64
        };
        let (api, _) = Played::peak_and_mean(&played.api, HAPPENS_AT, HAPPENS_AT + 5 * MINUTE);
        let _ = writeln!(
            table,
            "| {} | {after} | {:.1} | {:.1} | {api} |",
            name(rules),
            since(&played.credentials),
            since(&played.logins)
        );
        lines.push(Line { name: name(rules), series: played.vault });
    }
    draw(root, "boot", "Requests to Vault in a second, 1,000 nodes, all boot within the minute after 5:00", lines);
    table
}

fn update(root: &Path) -> String {
    let mut table = "| rules | nodes | most to Vault in a second | mean | logins | new credentials | most to the API server in a second |\n|---|---|---|---|---|---|---|\n".to_owned();
    let mut lines = Vec::new();
    for rules in [POD, ACCOUNT, FORGETS, Rules::Go] {
        for nodes in [1000, 10_000] {
            let played = Fleet { happens: Happens::Update(5 * MINUTE), ..Fleet::usual(rules, nodes) }.play();
            let (from, to) = (HAPPENS_AT, HAPPENS_AT + 7 * MINUTE);
            let (peak, mean) = Played::peak_and_mean(&played.vault, from, to);
            let sum = |series: &[u32]| {
                series[from.as_secs() as usize..to.as_secs() as usize].iter().map(|n| u64::from(*n)).sum::<u64>()
            };
            let (api, _) = Played::peak_and_mean(&played.api, from, to);
            let _ = writeln!(
                table,
                "| {} | {nodes} | {peak} | {mean:.0} | {} | {} | {api} |",
                name(rules),
                sum(&played.logins),
                sum(&played.credentials)
            );
            if nodes == 1000 {
                lines.push(Line { name: name(rules), series: played.vault });
            }
        }
    }
    draw(
        root,
        "update",
        "Requests to Vault in a second, 1,000 nodes, the provider is replaced everywhere from 5:00 to 10:00",
        lines,
    );
    table
}

fn settings() -> String {
    let mut table = "| nodes | scope | refresh interval | Vault, requests/s |\n|---|---|---|---|\n".to_owned();
    for nodes in [1000, 10_000] {
        for rules in [POD, ACCOUNT] {
            for minutes in [2, 10, 30] {
                let fleet = Fleet { refresh: minutes * MINUTE, lasts: 45 * MINUTE, ..Fleet::usual(rules, nodes / 10) };
                let played = fleet.play();
                let (_, mean) = Played::peak_and_mean(&played.vault, 10 * MINUTE, 44 * MINUTE);
                let scope = if rules == POD { "`pod`" } else { "`serviceAccount`" };
                let _ = writeln!(table, "| {nodes} | {scope} | {minutes}m | {:.0} |", mean * 10.0);
            }
        }
    }
    table
}

fn draw(root: &Path, file: &str, title: &str, lines: Vec<Line>) {
    fs::create_dir_all(root.join("docs/fleet")).unwrap();
    fs::write(root.join(format!("docs/fleet/{file}.svg")), Plot { title, lines }.svg()).unwrap();
}
