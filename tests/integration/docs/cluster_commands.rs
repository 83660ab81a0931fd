//! Commands of the documentation that need a cluster, and the scenarios of tests/e2e that run them there.

use std::fs;

use super::markdown::project_root;

/// Pages with `kubectl` commands, and the scenario that runs these commands verbatim. `make e2e` runs the scenarios;
/// here a stand-in for kubectl records its arguments.
const PAGE_SCENARIOS: &[(&str, &str)] = &[
    ("docs/first-secret.md", "test_the_first_secret"),
    ("docs/howto/validate-and-check.md", "test_the_first_secret"),
    ("docs/howto/audit.md", "test_commands_of_a_cluster"),
    ("docs/howto/events.md", "test_commands_of_a_cluster"),
    ("docs/howto/tls.md", "test_commands_of_a_cluster"),
    ("docs/install.md", "test_it_is_installed_and_taken_away_as_the_page_says"),
    ("docs/operations/capacity.md", "test_commands_of_a_cluster"),
    ("docs/operations/incidents.md", "test_commands_of_a_cluster"),
    ("docs/operations/upgrade.md", "test_commands_of_a_cluster"),
    ("docs/policy.md", "test_what_is_in_force_is_judged_wherever_it_was_said"),
    ("docs/reference/commands.md", "test_commands_of_a_cluster"),
    ("docs/reference/logs.md", "test_commands_of_a_cluster"),
    ("README.md", "test_commands_of_a_cluster"),
];

/// Checks that a scenario runs the cluster commands of a page.
pub fn assert_scenario_runs(page: &str, commands: &[String]) {
    if commands.is_empty() {
        return;
    }
    let scenario = PAGE_SCENARIOS.iter().find(|(typed, _)| *typed == page);
    let (_, scenario) = scenario.unwrap_or_else(|| {
        panic!("{page}: no scenario of tests/e2e types {commands:?}; see tests/integration/docs/cluster_commands.rs")
    });
    let scenarios = scenario_source();
    let body = scenarios.split("\ndef ").find(|text| text.starts_with(&format!("{scenario}(")));
    let body = body.unwrap_or_else(|| panic!("{page}: tests/e2e has no {scenario}"));
    let name = page.strip_prefix("docs/").unwrap_or(page);
    assert!(body.contains(&format!("\"{name}\"")), "{scenario} of tests/e2e does not read {name}");
}

/// Returns the source text of the scenarios.
fn scenario_source() -> String {
    let files = fs::read_dir(project_root().join("tests/e2e")).unwrap().map(|entry| entry.unwrap().path());
    let python = files.filter(|path| path.extension().is_some_and(|e| e == "py"));
    python.map(|path| fs::read_to_string(path).unwrap()).collect()
}
