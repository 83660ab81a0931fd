//! YAML in the documentation: Kubernetes manifests of known kinds, and files of some other programs.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use serde_json::Value;

use super::{
    check_promql, is_flag,
    markdown::{Block, project_root},
    sandbox::Sandbox,
};

/// Allowed kinds of manifests, besides those in deploy/.
const KNOWN_KINDS: &[(&str, &str)] = &[
    ("kustomize.config.k8s.io/v1beta1", "Kustomization"),
    ("secrets-store.csi.x-k8s.io/v1", "SecretProviderClass"),
    ("storage.k8s.io/v1", "CSIDriver"),
    ("monitoring.coreos.com/v1", "PodMonitor"),
    ("vaultmount/v1", "Policy"),
    ("v1", "Pod"),
    ("apps/v1", "Deployment"),
];

/// Classes that this sandbox cannot serve, with the reason; they are validated nevertheless.
const NOT_MOUNTED: &[(&str, &str)] =
    &[("elsewhere", "its server is one of its own"), ("mistyped", "a key of it is wrong, as the page shows")];

/// Validates a block, writes it under the name in its first line, if any, and mounts its classes.
pub async fn check_yaml_block(world: &Sandbox, place: &str, block: &Block) {
    let text = world.with_sandbox_addresses(&block.text);
    let file = write_block(world, &text);
    let documents = parse_documents(&text).unwrap_or_else(|e| panic!("{place}: {e}"));
    for document in &documents {
        check_flags(place, document);
        match (document["apiVersion"].as_str(), document["kind"].as_str()) {
            (Some(version), Some(kind)) => check_manifest(world, place, &file, document, version, kind).await,
            _ => check_other_yaml(place, document),
        }
    }
}

/// Writes the block to a file, named by a first line such as `# overlay/kustomization.yaml`.
fn write_block(world: &Sandbox, text: &str) -> PathBuf {
    let named = text.lines().next().and_then(|line| line.strip_prefix("# ")?.strip_suffix(".yaml"));
    let file = world.folder.path().join(format!("page/{}.yaml", named.unwrap_or("unnamed")));
    fs::create_dir_all(file.parent().unwrap()).unwrap();
    fs::write(&file, text).unwrap();
    file
}

async fn check_manifest(world: &Sandbox, place: &str, file: &Path, document: &Value, version: &str, kind: &str) {
    let known =
        KNOWN_KINDS.contains(&(version, kind)) || deployed_kinds().contains(&(version.to_owned(), kind.to_owned()));
    assert!(
        known,
        "{place}: unknown kind {kind} of {version}; if it is correct, add it to tests/integration/docs/manifests.rs"
    );
    let ran = world.run(&format!("vaultmount validate --strict '{}'", file.display())).await;
    assert!(ran.success, "{place}: {}{}", ran.stdout, ran.stderr);
    let name = document["metadata"]["name"].as_str().unwrap_or_default();
    match kind {
        "SecretProviderClass" if !NOT_MOUNTED.iter().any(|(class, _)| *class == name) => {
            let ran = world.mount(file, document).await;
            assert!(ran.success, "{place}: {name} is not mounted: {}{}", ran.stdout, ran.stderr);
        }
        "Kustomization" => {
            for resource in document["resources"].as_array().into_iter().flatten() {
                let path = file.parent().unwrap().join(resource.as_str().unwrap());
                assert!(path.exists(), "{place}: there is no {resource}");
            }
            for patch in document["patches"].as_array().into_iter().flatten() {
                let text = patch["patch"].as_str().unwrap();
                parse_documents(text)
                    .unwrap_or_else(|e| panic!("{place}: {e}"))
                    .iter()
                    .for_each(|patch| check_flags(place, patch));
            }
        }
        _ => {}
    }
}

/// Returns the kinds in deploy/.
fn deployed_kinds() -> BTreeSet<(String, String)> {
    let read = |name| fs::read_to_string(project_root().join("deploy").join(name)).unwrap();
    let all = [read("vaultmount.yaml"), read("uninstall.yaml"), read("kustomization.yaml")];
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let documents = all.iter().flat_map(|file| parse_documents(file).unwrap());
    documents.map(|document| (text(&document["apiVersion"]), text(&document["kind"]))).collect()
}

/// Checks a file that is not a Kubernetes manifest; its keys identify its kind.
fn check_other_yaml(place: &str, document: &Value) {
    if let Some(steps) = document.as_array() {
        // The steps of a workflow.
        for step in steps {
            let run = step["run"].as_str().unwrap_or_else(|| panic!("{place}: a step without run"));
            let ours = run.split('|').map(str::trim).filter_map(|command| command.strip_prefix("vaultmount "));
            for arguments in ours {
                let arguments: Vec<_> = arguments.split_whitespace().collect();
                assert!(super::command_parses(&arguments), "{place}: vaultmount {arguments:?}");
            }
        }
        return;
    }
    let names: Vec<_> = document.as_object().into_iter().flatten().map(|(name, _)| name.as_str()).collect();
    match names[..] {
        // The block contains only a comment for an editor.
        [] if document.is_null() => {}
        ["groups"] => rule_expressions(document).iter().for_each(|rule| check_promql(place, rule)),
        // Configuration of Prometheus, which `make prometheus` parses, and values of the driver's chart.
        ["scrape_configs"] | ["enableSecretRotation", "rotationPollInterval"] => {}
        _ => panic!(
            "{place}: unknown file with keys {names:?}; if it is correct, add it to tests/integration/docs/manifests.rs"
        ),
    }
}

/// Returns the expressions of rules.
fn rule_expressions(document: &Value) -> Vec<String> {
    let groups = document["groups"].as_array().into_iter().flatten();
    let rules = groups.flat_map(|group| group["rules"].as_array().into_iter().flatten());
    rules.map(|rule| rule["expr"].as_str().unwrap().to_owned()).collect()
}

/// Returns the expressions of a block, if it contains rules.
pub fn expressions_in(text: &str) -> Vec<String> {
    parse_documents(text).unwrap_or_default().iter().flat_map(rule_expressions).collect()
}

/// Checks that flags among the values exist.
fn check_flags(place: &str, value: &Value) {
    match value {
        Value::String(text) if text.starts_with("--") && !text.starts_with("---") => {
            assert!(is_flag(text), "{place}: {text} is no flag");
        }
        Value::Array(values) => values.iter().for_each(|value| check_flags(place, value)),
        Value::Object(fields) => fields.values().for_each(|value| check_flags(place, value)),
        _ => {}
    }
}

/// Returns the documents of a file.
pub fn parse_documents(text: &str) -> Result<Vec<Value>, String> {
    text.split("\n---\n").map(|one| serde_saphyr::from_str(one).map_err(|e| e.to_string())).collect()
}
