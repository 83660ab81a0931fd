//! Documentation tests: each command is run, each manifest validated, each class mounted, each shown output compared,
//! and each link followed. A block of an unknown kind fails the test.

mod cluster_commands;
mod manifests;
mod markdown;
mod sandbox;
mod transcripts;

use std::{collections::BTreeSet, fs, path::Path};

use clap::error::ErrorKind;
use serde_json::Value;
use vaultmount::{cli::Command, error::Cause};

use markdown::{Block, Page, project_root};
use sandbox::{Fixture, Sandbox};

use crate::support::required_env;

/// Generates a test for each page with runnable blocks.
macro_rules! pages {
    ($($test:ident $path:literal $fixtures:expr,)*) => {
        const PAGES: &[&str] = &[$($path),*];

        $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $test() {
            run_page(&Page::read($path), $fixtures).await;
        })*
    };
}

pages! {
    docs_howto_all_keys_page_runs "docs/howto/all-keys.md" sandbox::ALL_FIXTURES,
    docs_howto_audiences_page_runs "docs/howto/audiences.md" sandbox::ALL_FIXTURES,
    docs_howto_auth_page_runs "docs/howto/auth.md" sandbox::ALL_FIXTURES,
    docs_howto_certificates_page_runs "docs/howto/certificates.md" &[Fixture::Login, Fixture::Kv],
    docs_howto_validate_and_check_page_runs "docs/howto/validate-and-check.md" sandbox::ALL_FIXTURES,
    docs_reference_commands_page_runs "docs/reference/commands.md" sandbox::ALL_FIXTURES,
    docs_comparison_page_runs "docs/comparison.md" &[],
    contributing_page_runs "CONTRIBUTING.md" &[],
    docs_howto_database_page_runs "docs/howto/database.md" &[Fixture::Login, Fixture::Kv],
    docs_operations_incidents_page_runs "docs/operations/incidents.md" sandbox::ALL_FIXTURES,
    docs_errors_page_runs "docs/errors.md" &[],
    docs_howto_files_page_runs "docs/howto/files.md" sandbox::ALL_FIXTURES,
    docs_howto_formats_page_runs "docs/howto/formats.md" sandbox::ALL_FIXTURES,
    docs_install_page_runs "docs/install.md" &[],
    docs_introduction_page_runs "docs/README.md" &[],
    docs_howto_kv_page_runs "docs/howto/kv.md" sandbox::ALL_FIXTURES,
    docs_policy_page_runs "docs/policy.md" sandbox::ALL_FIXTURES,
    docs_howto_prometheus_page_runs "docs/howto/prometheus.md" sandbox::ALL_FIXTURES,
    readme_page_runs "README.md" sandbox::ALL_FIXTURES,
    docs_howto_rotation_page_runs "docs/howto/rotation.md" sandbox::ALL_FIXTURES,
    docs_howto_secret_objects_page_runs "docs/howto/secret-objects.md" sandbox::ALL_FIXTURES,
    docs_howto_servers_page_runs "docs/howto/servers.md" sandbox::ALL_FIXTURES,
    docs_howto_token_scope_page_runs "docs/howto/token-scope.md" sandbox::ALL_FIXTURES,
    docs_howto_audit_page_runs "docs/howto/audit.md" sandbox::ALL_FIXTURES,
    docs_first_secret_page_runs "docs/first-secret.md" &[],
    docs_howto_tls_page_runs "docs/howto/tls.md" sandbox::ALL_FIXTURES,
    docs_howto_token_page_runs "docs/howto/token.md" sandbox::ALL_FIXTURES,
    docs_troubleshooting_page_runs "docs/troubleshooting.md" &[],
    docs_operations_upgrade_page_runs "docs/operations/upgrade.md" sandbox::ALL_FIXTURES,
    docs_howto_logs_page_runs "docs/howto/logs.md" sandbox::ALL_FIXTURES,
    docs_reference_logs_page_runs "docs/reference/logs.md" sandbox::ALL_FIXTURES,
    docs_howto_events_page_runs "docs/howto/events.md" sandbox::ALL_FIXTURES,
    docs_operations_capacity_page_runs "docs/operations/capacity.md" sandbox::ALL_FIXTURES,
}

/// Processes every block of a page in order and in one sandbox, as a reader would.
async fn run_page(page: &Page, fixtures: &[Fixture]) {
    let world = Sandbox::with_fixtures(fixtures).await;
    let mut lines = Vec::new();
    for block in page.blocks() {
        let place = format!("{}:{}", page.path, block.line);
        match block.language.as_str() {
            "sh" => {
                let ran = world.run(&block.text).await;
                assert!(ran.success, "{place}: the commands fail\n{}\n{}{}", block.text, ran.stdout, ran.stderr);
            }
            "yaml" => manifests::check_yaml_block(&world, &place, &block).await,
            "text" if block.text.starts_with("$ ") => transcripts::check_transcript(&world, &place, &block).await,
            "text" => check_text_block(&place, &block),
            "json" => lines.extend(block.text.lines().map(|line| (place.clone(), line.to_owned()))),
            "promql" => check_promql(&place, &block.text),
            other => panic!("{place}: no test for a block of language {other:?}; add one in tests/integration/docs.rs"),
        }
    }
    cluster_commands::assert_scenario_runs(&page.path, &world.kubectl_calls());
    if !lines.is_empty() {
        assert_log_lines_exist(&lines, &world.collect_logs().await);
    }
}

/// Text blocks that are neither commands nor output of a command that can run here.
const UNTESTED_TEXT_BLOCKS: &[(&str, &str)] = &[
    // integration::install creates this directory.
    ("docs/install.md", "/var/run/secrets-store-csi-providers"),
    // The diagram between kubelet and Vault.
    ("docs/README.md", "kubelet -> "),
];

/// Checks the ID and code of an event, or the IDs in another message. The scenarios of tests/e2e check the text of the
/// events in troubleshooting.md.
fn check_text_block(place: &str, block: &Block) {
    let of = |(page, start): &(&str, &str)| place.starts_with(page) && block.text.starts_with(start);
    if UNTESTED_TEXT_BLOCKS.iter().any(of) {
        return;
    }
    let text = block.text.split_whitespace().collect::<Vec<_>>().join(" ");
    let ids: Vec<_> = text.split('[').filter_map(|rest| Cause::from_id(rest.split(']').next()?)).collect();
    let event = text.starts_with("MountVolume.SetUp failed");
    assert!(
        event || !ids.is_empty(),
        "{place}: unknown text block: neither `$ …`, nor an event, nor a message with an ID"
    );
    for cause in ids.iter().filter(|_| event) {
        assert!(text.contains(&format!("code = {} desc", cause.code())), "{place}: {} has another code", cause.id());
    }
    assert!(!ids.is_empty() || text.contains("provider not found"), "{place}: an event without an id");
}

/// Checks that each shown line of the log or audit log was really written for a pod: the same fields, for the same
/// event or with the same message.
fn assert_log_lines_exist(shown: &[(String, String)], log: &str) {
    let log: Vec<Value> = log.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    for (place, line) in shown {
        let line: Value = serde_json::from_str(line).unwrap_or_else(|e| panic!("{place}: {e}"));
        let of_same = |other: &&Value| ["event", "message"].iter().all(|what| other[*what] == line[*what]);
        let same: Vec<_> = log.iter().filter(of_same).collect();
        let is_written = same.iter().any(|other| field_names(other) == field_names(&line));
        assert!(is_written, "{place}: no such line is written, but\n{same:#?}");
    }
}

/// Returns the field names of a line and its span, without the Vault namespace, which only tests have.
fn field_names(line: &Value) -> BTreeSet<String> {
    let names = |value: &Value| -> Vec<String> {
        value.as_object().into_iter().flatten().map(|(name, _)| name.clone()).collect()
    };
    let span = names(&line["span"]).into_iter().map(|name| format!("span.{name}"));
    names(line).into_iter().filter(|name| name != "vault_namespace").chain(span).collect()
}

/// Checks that the metrics of a query exist, with its labels and words; `make prometheus` has Prometheus parse it.
fn check_promql(place: &str, text: &str) {
    let page = Page::read("docs/reference/metrics.md");
    let row = |name: &str| page.text.lines().find(|line| line.starts_with(&format!("| `{name}`")));
    let is_name = |c: char| c.is_alphanumeric() || c == '_';
    for (at, _) in text.match_indices("vaultmount_").chain(text.match_indices("process_")) {
        if text[..at].ends_with(is_name) {
            continue;
        }
        let word: &str = &text[at..at + text[at..].find(|c| !is_name(c)).unwrap_or(text.len() - at)];
        let family = ["_bucket", "_count", "_sum"].iter().find_map(|end| word.strip_suffix(end));
        let known = row(word).or_else(|| row(family?));
        let known = known.unwrap_or_else(|| panic!("{place}: there is no metric {word}"));
        let matchers = text[at + word.len()..].strip_prefix('{').and_then(|rest| rest.split('}').next());
        for matcher in matchers.into_iter().flat_map(|all| all.split(", ")) {
            let (label, value) = matcher.split_once(['=', '!']).unwrap_or_else(|| panic!("{place}: {matcher}"));
            assert!(known.contains(&format!("`{label}`")), "{place}: {word} has no label {label}");
            let words = value.trim_start_matches(['=', '~']).trim_matches('"').split('|');
            // Status codes of gRPC are not listed.
            for value in words.filter(|_| label != "code") {
                assert!(known.contains(&format!("`{value}`")), "{place}: {label} of {word} is never {value}");
            }
        }
    }
}

/// Returns the queries in the documentation, from blocks and rules, each expression with its place.
pub fn promql_queries() -> Vec<(String, String)> {
    let mut all = Vec::new();
    for page in markdown::all_pages() {
        for block in page.blocks() {
            let place = format!("{}:{}", page.path, block.line);
            let found = match block.language.as_str() {
                "promql" => block.text.split("\n\n").map(str::to_owned).collect(),
                "yaml" => manifests::expressions_in(&block.text),
                _ => Vec::new(),
            };
            all.extend(found.into_iter().map(|query| (place.clone(), query)));
        }
    }
    all
}

/// Returns the Prometheus files in the documentation, each with its place and promtool's name for its kind.
pub fn prometheus_files() -> Vec<(String, &'static str, String)> {
    let mut all = Vec::new();
    for page in markdown::all_pages() {
        for block in page.blocks().into_iter().filter(|block| block.language == "yaml") {
            let has = |key: &str| block.text.lines().any(|line| line == key);
            let kind = [("scrape_configs:", "config"), ("groups:", "rules")].into_iter().find(|(key, _)| has(key));
            if let Some((_, kind)) = kind {
                all.push((format!("{}:{}", page.path, block.line), kind, block.text));
            }
        }
    }
    all
}

#[test]
fn every_docs_page_with_code_blocks_is_tested() {
    for page in markdown::all_pages() {
        let walked = PAGES.contains(&page.path.as_str());
        assert!(walked || page.blocks().is_empty(), "{} has blocks: add it to tests/integration/docs.rs", page.path);
    }
}

#[test]
fn docs_summary_lists_every_page_once() {
    let summary = Page::read("docs/SUMMARY.md");
    let listed: Vec<_> = summary.links().iter().map(|link| format!("docs/{link}")).collect();
    let once: BTreeSet<_> = listed.iter().cloned().collect();
    assert_eq!(listed.len(), once.len(), "a page is listed twice: {listed:?}");
    let pages: BTreeSet<_> =
        markdown::all_pages().into_iter().map(|page| page.path).filter(|path| path.starts_with("docs/")).collect();
    assert_eq!(pages, once);
}

#[test]
fn docs_links_resolve_to_files_and_anchors() {
    let mut dead = Vec::new();
    for page in markdown::all_pages() {
        for link in page.links().iter().filter(|link| !link.contains("://")) {
            let (path, anchor) = link.split_once('#').unwrap_or((link, ""));
            let leads = match path {
                "" => project_root().join(&page.path),
                path => project_root().join(&page.path).parent().unwrap().join(path),
            };
            if !leads.exists() || !anchor.is_empty() && !page_anchors(&leads).contains(anchor) {
                dead.push(format!("{}: {link}", page.path));
            }
        }
    }
    assert!(dead.is_empty(), "dead links:\n{}", dead.join("\n"));
}

fn page_anchors(path: &Path) -> BTreeSet<String> {
    let path = fs::canonicalize(path).unwrap();
    Page::read(path.strip_prefix(project_root()).unwrap().to_str().unwrap()).anchors()
}

#[test]
fn every_error_cause_has_an_anchor_in_docs() {
    let anchors = Page::read("docs/errors.md").anchors();
    for cause in Cause::all() {
        assert!(anchors.contains(&cause.id().to_lowercase()), "{} has none", cause.id());
    }
}

#[test]
fn docs_reference_covers_every_flag_of_every_command() {
    let reference = Page::read("docs/reference/commands.md").text + &Page::read("docs/reference/flags.md").text;
    for command in COMMANDS {
        let arguments = ["vaultmount"].iter().chain(*command).chain(&["--help"]).map(Into::into);
        let help = Command::parse(arguments).unwrap_err().to_string();
        let flags = help.split(|c: char| !c.is_alphanumeric() && c != '-').filter(|word| word.starts_with("--"));
        for flag in flags.filter(|flag| *flag != "--help") {
            assert!(reference.contains(&format!("`{flag}")), "{command:?}: {flag} is missing in the reference");
        }
    }
}

#[test]
fn docs_reference_covers_every_parameter_and_variable() {
    let class = Page::read("docs/reference/class.md").text;
    for (file, constant, prefix) in [
        ("src/request/known_names.rs", "PREFIXED_PARAMETERS", "<prefix>"),
        ("src/request/known_names.rs", "UNPREFIXED_PARAMETERS", ""),
        ("src/request/objects/raw.rs", "OBJECT_FIELDS", ""),
    ] {
        let source = fs::read_to_string(project_root().join(file)).unwrap();
        let list = source.split_once(&format!("const {constant}: [&str;")).unwrap().1.split(';').next().unwrap();
        let names: Vec<_> = quoted_words(list).collect();
        assert!(names.len() > 4, "{file}");
        // Attributes of the driver itself.
        for name in names.into_iter().filter(|name| *name != "secretProviderClass") {
            assert!(class.contains(&format!("`{prefix}{name}`")), "{prefix}{name} is missing in the reference");
        }
    }
    let flags = Page::read("docs/reference/flags.md").text;
    for entry in fs::read_dir(project_root().join("src/config")).unwrap() {
        let source = fs::read_to_string(entry.unwrap().path()).unwrap();
        let source = source.split("mod tests").next().unwrap();
        let is_variable = |name: &&str| name.starts_with("VAULT_") || name.starts_with("VAULTMOUNT_");
        for name in quoted_words(source).filter(is_variable).filter(|name| name.len() > "VAULT_".len()) {
            assert!(flags.contains(&format!("`{name}`")), "{name} is missing in the reference");
        }
    }
}

/// Returns the words in quotes.
fn quoted_words(source: &str) -> impl Iterator<Item = &str> {
    let is_word = |text: &&str| !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    source.split('"').filter(is_word)
}

/// `make fleet` generates a page, and other pages quote its numbers.
#[test]
fn docs_quote_only_numbers_of_the_fleet_page() {
    let fleet = Page::read("docs/fleet.md").text;
    let cell = |section: &str, row: &str, column: usize| {
        let section = fleet.split("\n## ").find(|text| text.starts_with(section)).unwrap();
        let row = section.lines().find(|line| line.starts_with(row)).unwrap_or_else(|| panic!("no {row}"));
        let number: f64 = row.split('|').map(str::trim).nth(column).unwrap().parse().unwrap();
        let digits = format!("{number:.0}");
        let (thousands, rest) = digits.split_at(digits.len().saturating_sub(3));
        if thousands.is_empty() { rest.to_owned() } else { format!("{thousands},{rest}") }
    };
    let (nothing, update) = ("Steady state", "Rolling update");
    let (pod, account) = ("| vaultmount, scope `pod` | 1000 |", "| vaultmount, scope `serviceAccount` | 1000 |");
    for (page, numbers) in [
        ("docs/howto/token-scope.md", vec![cell(nothing, pod, 3), cell(nothing, account, 3)]),
        (
            "docs/comparison.md",
            vec![
                cell(nothing, pod, 3),
                cell(nothing, account, 3),
                cell(nothing, "| Go provider | 1000 |", 3),
                cell(nothing, "| Go provider | 1000 |", 4),
            ],
        ),
        (
            "docs/operations/upgrade.md",
            vec![
                cell(update, pod, 3),
                cell(update, "| without `--state-dir` | 1000 |", 3),
                cell(update, "| without `--state-dir` | 1000 |", 5),
            ],
        ),
    ] {
        let text = Page::read(page).text;
        for number in numbers {
            let quoted =
                text.split(|c: char| !c.is_ascii_digit() && c != ',').any(|word| word.trim_matches(',') == number);
            assert!(quoted, "{page}: fleet.md has {number}");
        }
    }
    let capacity = Page::read("docs/operations/capacity.md").text;
    let rows: Vec<_> = capacity.lines().filter(|line| line.contains("0 | `")).collect();
    assert!(rows.len() > 3 && rows.iter().all(|row| fleet.contains(row)), "fleet.md differs from {rows:#?}");
}

/// Checks commands and flags in prose.
#[test]
fn docs_name_only_existing_commands_and_flags() {
    let mut unknown = Vec::new();
    for page in markdown::all_pages() {
        for code in page.code_spans() {
            let known = match code.split_whitespace().collect::<Vec<_>>()[..] {
                ["vaultmount", ref arguments @ ..] => command_parses(arguments),
                ["make", target, ..] => is_make_target(target),
                // The command runs in vaultmount's container; tests/e2e, which has a kubectl, runs the others.
                ["kubectl", "exec", ref rest @ ..] => match rest.iter().position(|word| *word == "vaultmount") {
                    Some(at) if rest[at - 1] == "--" => command_parses(&rest[at + 1..]),
                    _ => true,
                },
                ["vault" | "bao", ref words @ ..] => bao_has_command(words),
                [flag, ..] if flag.starts_with("--") => is_flag(flag),
                _ => true,
            };
            if !known {
                unknown.push(format!("{}: {code}", page.path));
            }
        }
    }
    assert!(unknown.is_empty(), "unknown commands or flags:\n{}", unknown.join("\n"));
}

fn command_parses(arguments: &[&str]) -> bool {
    // A sentence with a flag may omit the flag's value.
    let unfinished = arguments.last().is_some_and(|last| last.starts_with("--"));
    let arguments = arguments.iter().take_while(|a| **a != "|" && **a != "…").map(|a| a.trim_matches('\''));
    match Command::parse(["vaultmount"].into_iter().chain(arguments).map(Into::into)) {
        Ok(_) => true,
        Err(error) => match error.kind() {
            ErrorKind::InvalidValue => unfinished,
            ErrorKind::DisplayHelp
            | ErrorKind::MissingRequiredArgument
            | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => true,
            _ => false,
        },
    }
}

/// Checks that tests named on a page exist.
#[test]
fn docs_name_only_tests_that_exist() {
    let mut tests = String::new();
    let mut folders = vec![project_root().join("tests")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|e| e == "rs" || e == "py") {
                tests.push_str(&fs::read_to_string(path).unwrap());
            }
        }
    }
    for page in markdown::all_pages() {
        let is_test =
            |code: &String| code.matches('_').count() > 4 && !code.contains(|c: char| !c.is_alphanumeric() && c != '_');
        for name in page.code_spans().iter().filter(|code| is_test(code) && !code.starts_with("vaultmount_")) {
            let there = tests.contains(&format!("fn {name}(")) || tests.contains(&format!("def {name}("));
            assert!(there, "{}: there is no test {name}", page.path);
        }
    }
}

/// Returns true if Vault's and OpenBao's program has this command.
fn bao_has_command(words: &[&str]) -> bool {
    let command = words
        .iter()
        .take_while(|word| word.chars().all(|c| c.is_ascii_lowercase() || c == '-') && !word.starts_with('-'));
    let command: Vec<_> = command.take(2).collect();
    let mut bao = std::process::Command::new(required_env("VAULTMOUNT_TEST_BAO_BIN"));
    bao.args(command).arg("-h").output().unwrap().status.success()
}

fn is_make_target(name: &str) -> bool {
    fs::read_to_string(project_root().join("Makefile"))
        .unwrap()
        .lines()
        .any(|line| line.starts_with(&format!("{name}:")))
}

/// Every command with flags.
const COMMANDS: &[&[&str]] = &[
    &["serve"],
    &["install"],
    &["uninstall"],
    &["status"],
    &["revoke"],
    &["state", "ls"],
    &["state", "verify"],
    &["mount"],
    &["check"],
    &["validate"],
    &["explain"],
    &["version"],
    &["completions"],
];

/// Flags of other programs.
const FOREIGN_FLAGS: &[&str] = &["--rotation-poll-interval", "--set"];

/// Returns true if any command accepts the flag, regardless of its value.
pub fn is_flag(flag: &str) -> bool {
    let name = flag.split('=').next().unwrap().trim_end_matches(['…', ',']);
    // A family of flags: `--vault-…`.
    let family = flag.contains('…') && ["--vault-", "--openbao-"].contains(&name);
    let takes = |command: &[&str]| {
        let arguments = ["vaultmount"].iter().chain(command).chain([&name]).map(Into::into);
        !matches!(Command::parse(arguments), Err(error) if error.kind() == ErrorKind::UnknownArgument)
    };
    family || FOREIGN_FLAGS.contains(&name) || COMMANDS.iter().copied().any(takes)
}
