//! The sources keep to the order that `lib.rs` tells: imports go down, and each outside library has its place.

use std::{
    fs,
    path::{Path, PathBuf},
};

/// From the top down. A module may name those after it.
const LAYERS: &[&str] = &[
    "main",
    "cli",
    "app",
    "config",
    "install",
    "provider",
    "admin",
    "check",
    "mount",
    "validate",
    "manifest",
    "request",
    "trust",
    "policy",
    "renewal",
    "session",
    "lease",
    "render",
    "events",
    "audit",
    "vault",
    "kube",
    "state",
    "tls",
    "telemetry",
    "flight",
    "status",
    "metrics",
    "socket",
    "error",
];
/// At the bottom, in no order: may be named by all, and name each other.
const BASE_MODULES: [&str; 6] = ["secret", "text", "yaml", "clock", "task", "term"];
/// Outside libraries and the only modules that may name them.
const CONFINED_CRATES: [(&str, &[&str]); 8] = [
    ("tonic", &["provider"]),
    ("tonic_prost", &["provider"]),
    ("prost", &["provider"]),
    ("vaultrs", &["vault"]),
    ("rustify", &["vault"]),
    ("hyper_rustls", &["vault", "kube"]),
    ("hyper_util::client", &["vault", "kube"]),
    ("prometheus_client", &["metrics"]),
];

fn collect_sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect_sources(&path, found);
        } else if path.extension().is_some_and(|e| e == "rs") {
            found.push(path);
        }
    }
}

/// The modules of this crate that a file names: `crate::x`, `crate::{x, y::…}`, and `vaultmount::x` in the binary.
fn imported_modules(text: &str) -> Vec<String> {
    let mut names = Vec::new();
    let code: String = text.lines().filter(|l| !l.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n");
    for start in ["crate::", "vaultmount::"] {
        for (at, _) in code.match_indices(start) {
            let rest = &code[at + start.len()..];
            if let Some(group) = rest.strip_prefix('{') {
                let (mut depth, mut item) = (1, String::new());
                for c in group.chars() {
                    match c {
                        '{' => depth += 1,
                        '}' => depth -= 1,
                        _ => {}
                    }
                    if depth == 0 || (depth == 1 && c == ',') {
                        names.push(first_segment(&item));
                        item.clear();
                    } else {
                        item.push(c);
                    }
                    if depth == 0 {
                        break;
                    }
                }
            } else {
                names.push(first_segment(rest));
            }
        }
    }
    names.retain(|n| !n.is_empty());
    names
}

fn first_segment(path: &str) -> String {
    path.trim().chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect()
}

#[test]
fn modules_import_only_lower_layers_and_allowed_crates() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    collect_sources(&root, &mut files);
    let mut wrong = Vec::new();
    for path in files {
        let relative = path.strip_prefix(&root).unwrap().to_str().unwrap().to_owned();
        if relative == "lib.rs" {
            continue;
        }
        let module = relative.split('/').next().unwrap().trim_end_matches(".rs");
        let text = fs::read_to_string(&path).unwrap();
        let place = |name: &str| LAYERS.iter().position(|m| *m == name);
        assert!(place(module).is_some() || BASE_MODULES.contains(&module), "{relative}: not in the order of layers");
        for name in imported_modules(&text) {
            let down = match (place(module), place(&name)) {
                (Some(from), Some(to)) => to >= from,
                (None, Some(_)) => false,
                (_, None) => BASE_MODULES.contains(&name.as_str()),
            };
            if !down {
                wrong.push(format!("{relative} names {name}"));
            }
        }
        for (library, allowed) in CONFINED_CRATES {
            let names = text.lines().any(|l| {
                !l.trim_start().starts_with("//")
                    && l.contains(&format!("{library}::"))
                    && !l.contains(&format!("_{library}::"))
            });
            if names && !allowed.contains(&module) {
                wrong.push(format!("{relative} uses {library}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn imported_modules_parses_every_import_form() {
    let text = "use crate::{error::{Cause, Error}, kube};\nlet x = crate::vault::wire::Read;\n// crate::cli::no\nuse crate::lease;";
    assert_eq!(imported_modules(text), ["error", "kube", "vault", "lease"]);
}
