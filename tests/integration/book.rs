//! The documentation, held to the program: each command in it is run, each manifest validated and each class mounted, what
//! it shows is what is printed, and its links lead somewhere. A block that nobody knows how to test fails.

mod cluster;
mod manifests;
mod page;
mod sessions;
mod world;

use std::{collections::BTreeSet, fs, path::Path};

use clap::error::ErrorKind;
use serde_json::Value;
use vaultmount::{cli::Command, error::Cause};

use page::{Block, Page, root};
use world::{Furniture, World};

use crate::support::setting;

/// A test for each page that has something to run.
macro_rules! pages {
    ($($test:ident $path:literal $furniture:expr,)*) => {
        const PAGES: &[&str] = &[$($path),*];

        $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $test() {
            walk(&Page::read($path), $furniture).await;
        })*
    };
}

pages! {
    all_keys_are_files "docs/howto/all-keys.md" world::ALL,
    audiences "docs/howto/audiences.md" world::ALL,
    auth_methods "docs/howto/auth.md" world::ALL,
    certificates "docs/howto/certificates.md" &[Furniture::Login, Furniture::Kv],
    checking "docs/howto/checking.md" world::ALL,
    commands "docs/reference/commands.md" world::ALL,
    comparison "docs/comparison.md" &[],
    contributing "docs/contributing.md" &[],
    database "docs/howto/database.md" &[Furniture::Login, Furniture::Kv],
    disasters "docs/operations/disasters.md" world::ALL,
    errors "docs/errors.md" &[],
    files "docs/howto/files.md" world::ALL,
    formats "docs/howto/formats.md" world::ALL,
    installing "docs/install.md" &[],
    introduction "docs/README.md" &[],
    kv "docs/howto/kv.md" world::ALL,
    policy "docs/policy.md" world::ALL,
    prometheus "docs/howto/prometheus.md" world::ALL,
    readme "README.md" world::ALL,
    rotation "docs/howto/rotation.md" world::ALL,
    secret_objects "docs/howto/secret-objects.md" world::ALL,
    servers "docs/howto/servers.md" world::ALL,
    sharing "docs/howto/sharing.md" world::ALL,
    the_audit_log "docs/howto/audit.md" world::ALL,
    the_first_secret "docs/first-secret.md" &[],
    tls "docs/howto/tls.md" world::ALL,
    tokens "docs/howto/token.md" world::ALL,
    troubleshooting "docs/troubleshooting.md" &[],
    upgrades "docs/operations/upgrade.md" world::ALL,
    what_is_logged "docs/howto/logs.md" world::ALL,
    what_is_served "docs/reference/logs.md" world::ALL,
    what_pods_are_told "docs/howto/events.md" world::ALL,
    what_takes_room "docs/operations/capacity.md" world::ALL,
}

/// Treats each block of a page, in order and in one place, as a reader would.
async fn walk(page: &Page, furniture: &[Furniture]) {
    let world = World::with(furniture).await;
    let mut lines = Vec::new();
    for block in page.blocks() {
        let place = format!("{}:{}", page.path, block.line);
        match block.language.as_str() {
            "sh" => {
                let ran = world.run(&block.text).await;
                assert!(ran.ok, "{place}: the commands fail\n{}\n{}{}", block.text, ran.out, ran.err);
            }
            "yaml" => manifests::validate(&world, &place, &block).await,
            "text" if block.text.starts_with("$ ") => sessions::hold(&world, &place, &block).await,
            "text" => text(&place, &block),
            "json" => lines.extend(block.text.lines().map(|line| (place.clone(), line.to_owned()))),
            "promql" => promql(&place, &block.text),
            other => panic!("{place}: nobody knows how to test a block of {other:?}; teach tests/integration/book.rs"),
        }
    }
    cluster::runs(&page.path, &world.asked_of_the_cluster());
    if !lines.is_empty() {
        written(&lines, &world.told().await);
    }
}

/// What is neither typed nor printed by a command that can be run here.
const PICTURES: &[(&str, &str)] = &[
    // integration::installing makes it.
    ("docs/install.md", "/var/run/secrets-store-csi-providers"),
    // What stands between kubelet and Vault.
    ("docs/README.md", "kubelet -> "),
];

/// An event, whose words the scenarios of tests/e2e hold where it is in troubleshooting.md; here its id and code. Or what is in it of
/// ours.
fn text(place: &str, block: &Block) {
    let of = |(page, start): &(&str, &str)| place.starts_with(page) && block.text.starts_with(start);
    if PICTURES.iter().any(of) {
        return;
    }
    let text = block.text.split_whitespace().collect::<Vec<_>>().join(" ");
    let ids: Vec<_> = text.split('[').filter_map(|rest| Cause::of_id(rest.split(']').next()?)).collect();
    let event = text.starts_with("MountVolume.SetUp failed");
    assert!(
        event || !ids.is_empty(),
        "{place}: what is this? It is neither `$ …`, nor an event, nor a message with an id"
    );
    for cause in ids.iter().filter(|_| event) {
        assert!(text.contains(&format!("code = {} desc", cause.code())), "{place}: {} has another code", cause.id());
    }
    assert!(!ids.is_empty() || text.contains("provider not found"), "{place}: an event without an id");
}

/// Lines of the log and of the audit log are such as are written for a pod: the same fields, for the same event or with the same
/// message.
fn written(shown: &[(String, String)], told: &str) {
    let told: Vec<Value> = told.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    for (place, line) in shown {
        let line: Value = serde_json::from_str(line).unwrap_or_else(|e| panic!("{place}: {e}"));
        let of_same = |other: &&Value| ["event", "message"].iter().all(|what| other[*what] == line[*what]);
        let same: Vec<_> = told.iter().filter(of_same).collect();
        let is_written = same.iter().any(|other| fields(other) == fields(&line));
        assert!(is_written, "{place}: no such line is written, but\n{same:#?}");
    }
}

/// The names in a line, those in its span too; but for the Vault namespace, which only tests have.
fn fields(line: &Value) -> BTreeSet<String> {
    let names = |value: &Value| -> Vec<String> {
        value.as_object().into_iter().flatten().map(|(name, _)| name.clone()).collect()
    };
    let span = names(&line["span"]).into_iter().map(|name| format!("span.{name}"));
    names(line).into_iter().filter(|name| name != "vault_namespace").chain(span).collect()
}

/// Queries of metrics that there are, by labels and words that they have; `make prometheus` has a Prometheus read them.
fn promql(place: &str, text: &str) {
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
            // Those of gRPC are not listed.
            for value in words.filter(|_| label != "code") {
                assert!(known.contains(&format!("`{value}`")), "{place}: {label} of {word} is never {value}");
            }
        }
    }
}

/// Queries in the documentation, each expression with its place: blocks of it, and rules.
pub fn queries() -> Vec<(String, String)> {
    let mut all = Vec::new();
    for page in page::all() {
        for block in page.blocks() {
            let place = format!("{}:{}", page.path, block.line);
            let found = match block.language.as_str() {
                "promql" => block.text.split("\n\n").map(str::to_owned).collect(),
                "yaml" => manifests::expressions(&block.text),
                _ => Vec::new(),
            };
            all.extend(found.into_iter().map(|query| (place.clone(), query)));
        }
    }
    all
}

/// Files of Prometheus in the documentation, each with its place and what promtool calls it.
pub fn of_prometheus() -> Vec<(String, &'static str, String)> {
    let mut all = Vec::new();
    for page in page::all() {
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
fn each_page_with_something_to_run_is_walked() {
    for page in page::all() {
        let walked = PAGES.contains(&page.path.as_str());
        assert!(walked || page.blocks().is_empty(), "{} has blocks: add it to tests/integration/book.rs", page.path);
    }
}

#[test]
fn the_summary_lists_each_page_once() {
    let summary = Page::read("docs/SUMMARY.md");
    let listed: Vec<_> = summary.links().iter().map(|link| format!("docs/{link}")).collect();
    let once: BTreeSet<_> = listed.iter().cloned().collect();
    assert_eq!(listed.len(), once.len(), "a page is listed twice: {listed:?}");
    let pages: BTreeSet<_> = page::all().into_iter().map(|page| page.path).filter(|path| path != "README.md").collect();
    assert_eq!(pages, once);
}

#[test]
fn links_lead_to_files_and_anchors() {
    let mut dead = Vec::new();
    for page in page::all() {
        for link in page.links().iter().filter(|link| !link.contains("://")) {
            let (path, anchor) = link.split_once('#').unwrap_or((link, ""));
            let leads = match path {
                "" => root().join(&page.path),
                path => root().join(&page.path).parent().unwrap().join(path),
            };
            if !leads.exists() || !anchor.is_empty() && !anchors(&leads).contains(anchor) {
                dead.push(format!("{}: {link}", page.path));
            }
        }
    }
    assert!(dead.is_empty(), "dead links:\n{}", dead.join("\n"));
}

fn anchors(path: &Path) -> BTreeSet<String> {
    let path = fs::canonicalize(path).unwrap();
    Page::read(path.strip_prefix(root()).unwrap().to_str().unwrap()).anchors()
}

#[test]
fn each_cause_has_an_anchor_that_its_message_can_point_to() {
    let anchors = Page::read("docs/errors.md").anchors();
    for cause in Cause::all() {
        assert!(anchors.contains(&cause.id().to_lowercase()), "{} has none", cause.id());
    }
}

#[test]
fn the_reference_tells_of_every_flag_of_every_command() {
    let reference = Page::read("docs/reference/commands.md").text + &Page::read("docs/reference/flags.md").text;
    for command in COMMANDS {
        let arguments = ["vaultmount"].iter().chain(*command).chain(&["--help"]).map(Into::into);
        let help = Command::parse(arguments).unwrap_err().to_string();
        let flags = help.split(|c: char| !c.is_alphanumeric() && c != '-').filter(|word| word.starts_with("--"));
        for flag in flags.filter(|flag| *flag != "--help") {
            assert!(reference.contains(&format!("`{flag}")), "{command:?}: the reference does not tell of {flag}");
        }
    }
}

#[test]
fn the_reference_tells_of_every_parameter_field_and_variable() {
    let class = Page::read("docs/reference/class.md").text;
    for (file, constant, prefix) in [
        ("src/request/parameters.rs", "PREFIXED", "<prefix>"),
        ("src/request/warnings.rs", "PLAIN", ""),
        ("src/request/objects/written.rs", "FIELDS", ""),
    ] {
        let source = fs::read_to_string(root().join(file)).unwrap();
        let list = source.split_once(&format!("const {constant}: [&str;")).unwrap().1.split(';').next().unwrap();
        let names: Vec<_> = quoted(list).collect();
        assert!(names.len() > 4, "{file}");
        // Of the driver itself.
        for name in names.into_iter().filter(|name| *name != "secretProviderClass") {
            assert!(class.contains(&format!("`{prefix}{name}`")), "the reference does not tell of {prefix}{name}");
        }
    }
    let flags = Page::read("docs/reference/flags.md").text;
    for entry in fs::read_dir(root().join("src/config")).unwrap() {
        let source = fs::read_to_string(entry.unwrap().path()).unwrap();
        let source = source.split("mod tests").next().unwrap();
        let is_variable = |name: &&str| name.starts_with("VAULT_") || name.starts_with("VAULTMOUNT_");
        for name in quoted(source).filter(is_variable).filter(|name| name.len() > "VAULT_".len()) {
            assert!(flags.contains(&format!("`{name}`")), "the reference does not tell of {name}");
        }
    }
}

/// Words in quotes.
fn quoted(source: &str) -> impl Iterator<Item = &str> {
    let is_word = |text: &&str| !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    source.split('"').filter(is_word)
}

/// `make fleet` writes a page, and others quote it.
#[test]
fn what_is_quoted_of_the_fleet_is_what_it_says() {
    let fleet = Page::read("docs/fleet.md").text;
    let cell = |section: &str, row: &str, column: usize| {
        let section = fleet.split("\n## ").find(|text| text.starts_with(section)).unwrap();
        let row = section.lines().find(|line| line.starts_with(row)).unwrap_or_else(|| panic!("no {row}"));
        let number: f64 = row.split('|').map(str::trim).nth(column).unwrap().parse().unwrap();
        let digits = format!("{number:.0}");
        let (thousands, rest) = digits.split_at(digits.len().saturating_sub(3));
        if thousands.is_empty() { rest.to_owned() } else { format!("{thousands},{rest}") }
    };
    let (nothing, update) = ("Nothing happens", "The provider is replaced");
    let (pod, account) = ("| vaultmount, scope `pod` | 1000 |", "| vaultmount, scope `serviceAccount` | 1000 |");
    for (page, said) in [
        ("docs/howto/sharing.md", vec![cell(nothing, pod, 3), cell(nothing, account, 3)]),
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
        for number in said {
            let quoted =
                text.split(|c: char| !c.is_ascii_digit() && c != ',').any(|word| word.trim_matches(',') == number);
            assert!(quoted, "{page}: {number} is what fleet.md says");
        }
    }
    let capacity = Page::read("docs/operations/capacity.md").text;
    let rows: Vec<_> = capacity.lines().filter(|line| line.contains("0 | `")).collect();
    assert!(rows.len() > 3 && rows.iter().all(|row| fleet.contains(row)), "fleet.md says otherwise than {rows:#?}");
}

/// Commands and flags that are named in a sentence.
#[test]
fn what_is_named_in_prose_is_there() {
    let mut unknown = Vec::new();
    for page in page::all() {
        for code in page.code() {
            let known = match code.split_whitespace().collect::<Vec<_>>()[..] {
                ["vaultmount", ref arguments @ ..] => can_be_typed(arguments),
                ["make", target, ..] => is_target(target),
                // In vaultmount's container; the rest is for tests/e2e, which has a kubectl.
                ["kubectl", "exec", ref rest @ ..] => match rest.iter().position(|word| *word == "vaultmount") {
                    Some(at) if rest[at - 1] == "--" => can_be_typed(&rest[at + 1..]),
                    _ => true,
                },
                ["vault" | "bao", ref words @ ..] => bao_knows(words),
                [flag, ..] if flag.starts_with("--") => is_flag(flag),
                _ => true,
            };
            if !known {
                unknown.push(format!("{}: {code}", page.path));
            }
        }
    }
    assert!(unknown.is_empty(), "nobody knows:\n{}", unknown.join("\n"));
}

fn can_be_typed(arguments: &[&str]) -> bool {
    // A sentence that names a flag may leave out its value.
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

/// Tests that are named to say what holds a page.
#[test]
fn tests_that_are_named_are_there() {
    let mut tests = String::new();
    let mut folders = vec![root().join("tests")];
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
    for page in page::all() {
        let is_test =
            |code: &String| code.matches('_').count() > 4 && !code.contains(|c: char| !c.is_alphanumeric() && c != '_');
        for name in page.code().iter().filter(|code| is_test(code) && !code.starts_with("vaultmount_")) {
            let there = tests.contains(&format!("fn {name}(")) || tests.contains(&format!("def {name}("));
            assert!(there, "{}: there is no test {name}", page.path);
        }
    }
}

/// Whether there is such a command of Vault's and OpenBao's program.
fn bao_knows(words: &[&str]) -> bool {
    let command = words
        .iter()
        .take_while(|word| word.chars().all(|c| c.is_ascii_lowercase() || c == '-') && !word.starts_with('-'));
    let command: Vec<_> = command.take(2).collect();
    let mut bao = std::process::Command::new(setting("VAULTMOUNT_TEST_BAO_BIN"));
    bao.args(command).arg("-h").output().unwrap().status.success()
}

fn is_target(name: &str) -> bool {
    fs::read_to_string(root().join("Makefile")).unwrap().lines().any(|line| line.starts_with(&format!("{name}:")))
}

/// Every command that takes flags.
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
const FOREIGN: &[&str] = &["--rotation-poll-interval", "--set"];

/// Whether some command takes a flag, whatever its value should be.
pub fn is_flag(flag: &str) -> bool {
    let name = flag.split('=').next().unwrap().trim_end_matches(['…', ',']);
    // A family: `--vault-…`.
    let family = flag.contains('…') && ["--vault-", "--openbao-"].contains(&name);
    let takes = |command: &[&str]| {
        let arguments = ["vaultmount"].iter().chain(command).chain([&name]).map(Into::into);
        !matches!(Command::parse(arguments), Err(error) if error.kind() == ErrorKind::UnknownArgument)
    };
    family || FOREIGN.contains(&name) || COMMANDS.iter().copied().any(takes)
}
