//! Module layering: imports go down the list of layers, files form no circles, and each confined crate has its place.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

/// Layers from the top down. A module may import from its own layer and from those below it. A path names a part of a module
/// that is a layer of its own.
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
    "observe/mounts",
    "validate",
    "manifest",
    "request",
    "trust",
    "policy",
    "reconcile",
    "session",
    "cache",
    "hmac_keys",
    "render",
    "observe",
    "observe/events",
    "observe/audit",
    "vault",
    "kube",
    "state",
    "tls",
    "telemetry",
    "single_flight",
    "observe/status",
    "observe/metrics",
    "socket",
    "error",
];
/// Modules below all layers, in no order: every module may import them, and they import only each other.
const BASE_MODULES: [&str; 7] = ["secret", "text", "yaml", "clock", "task", "lifetime", "label_enum"];
/// Words of a domain that metrics and the status show, too. They import nothing but base modules.
const DOMAIN_WORDS: [&str; 4] = ["cache/kind", "kube/watch_state", "policy/rule_kind", "vault/auth_method"];
/// Crates, and the only modules that may name them.
const CONFINED_CRATES: [(&str, &[&str]); 8] = [
    ("tonic", &["provider"]),
    ("tonic_prost", &["provider"]),
    ("prost", &["provider"]),
    ("vaultrs", &["vault"]),
    ("rustify", &["vault"]),
    ("hyper_rustls", &["kube"]),
    ("hyper_util::client", &["vault", "kube"]),
    ("prometheus_client", &["observe"]),
];

/// The code of each module, by its path such as `vault/client`, without comments and tests.
fn modules() -> BTreeMap<String, String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    collect_sources(&root, &mut files);
    let mut modules = BTreeMap::new();
    for file in files {
        let path = file.strip_prefix(&root).unwrap().with_extension("").to_str().unwrap().to_owned();
        if path == "lib" || path.split('/').any(|part| part == "tests") {
            continue;
        }
        let text = fs::read_to_string(&file).unwrap();
        let code = text.lines().filter(|line| !line.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n");
        let end = code.find("\n#[cfg(test)]\n").filter(|at| code[*at..].contains("mod tests")).unwrap_or(code.len());
        modules.insert(path, code[..end].to_owned());
    }
    modules
}

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

/// The paths that code imports or names in full: of each `use`, and of each `crate::…`, `super::…` or `vaultmount::…`.
fn named_paths(code: &str) -> Vec<String> {
    let mut paths = Vec::new();
    for (at, _) in code.match_indices("use ") {
        let is_statement = code[..at].rsplit('\n').next().is_some_and(|before| {
            let before = before.trim_start();
            before.is_empty() || before.starts_with("pub")
        });
        if is_statement && let Some((tree, _)) = code[at + 4..].split_once(';') {
            expand("", tree.trim(), &mut paths);
        }
    }
    for start in ["crate::", "super::", "vaultmount::"] {
        for (at, _) in code.match_indices(start) {
            let path: String =
                code[at..].chars().take_while(|c| c.is_alphanumeric() || matches!(c, '_' | ':')).collect();
            if !path.ends_with("::") {
                paths.push(path);
            }
        }
    }
    paths
}

/// Expands `a::{b, c::{d, e}}` to `a::b`, `a::c::d` and `a::c::e`.
fn expand(prefix: &str, tree: &str, paths: &mut Vec<String>) {
    let Some((head, rest)) = tree.split_once('{') else {
        let path = tree.split(" as ").next().unwrap_or(tree).trim();
        return paths.push(format!("{prefix}{path}"));
    };
    let prefix = format!("{prefix}{}", head.trim());
    let (mut depth, mut item) = (0, String::new());
    for c in rest.trim_end().strip_suffix('}').unwrap_or(rest).chars() {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => {
                expand(&prefix, item.trim(), paths);
                item.clear();
                continue;
            }
            _ => {}
        }
        item.push(c);
    }
    if !item.trim().is_empty() {
        expand(&prefix, item.trim(), paths);
    }
}

/// The module that a path in `module` leads to: the longest beginning of it that is one.
fn resolve(module: &str, path: &str, modules: &BTreeMap<String, String>) -> Option<String> {
    let mut base: Vec<&str> = module.split('/').collect();
    let mut parts = path.split("::").peekable();
    match *parts.peek()? {
        "crate" | "vaultmount" => {
            base.clear();
            parts.next();
        }
        "self" => drop(parts.next()),
        "super" => {
            while parts.next_if_eq(&"super").is_some() {
                base.pop();
            }
        }
        child if !modules.contains_key(&format!("{module}/{child}")) => return None,
        _ => {}
    }
    base.extend(parts);
    while !base.is_empty() {
        let target = base.join("/");
        if modules.contains_key(&target) {
            return (target != module).then_some(target);
        }
        base.pop();
    }
    None
}

/// The modules that each module imports.
fn imports(modules: &BTreeMap<String, String>) -> BTreeMap<&str, BTreeSet<String>> {
    let imported = |module: &str, code: &str| {
        named_paths(code).iter().filter_map(|path| resolve(module, path, modules)).collect::<BTreeSet<_>>()
    };
    modules.iter().map(|(module, code)| (module.as_str(), imported(module, code))).collect()
}

/// True if `module` is `part` or below it.
fn is_within(module: &str, part: &str) -> bool {
    module.strip_prefix(part).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// A module's layer: the most specific that it belongs to. Base modules and domain words are below all.
fn layer(module: &str) -> Option<usize> {
    if BASE_MODULES.iter().chain(&DOMAIN_WORDS).any(|base| is_within(module, base)) {
        return Some(usize::MAX);
    }
    let layers = LAYERS.iter().enumerate().filter(|(_, layer)| is_within(module, layer));
    layers.max_by_key(|(_, layer)| layer.len()).map(|(index, _)| index)
}

#[test]
fn modules_import_only_lower_layers_and_allowed_crates() {
    let modules = modules();
    let mut wrong = Vec::new();
    for (module, imported) in imports(&modules) {
        let from = layer(module).unwrap_or_else(|| panic!("{module}: not in the list of layers"));
        // A parent declares its children and re-exports them, whatever their layer.
        for target in imported.iter().filter(|target| !is_within(target, module) && !is_within(module, target)) {
            if layer(target).is_none_or(|to| to < from) {
                wrong.push(format!("{module} imports {target}"));
            }
        }
        for (name, allowed) in CONFINED_CRATES {
            let code = &modules[module];
            let names = code.contains(&format!("{name}::")) && !code.contains(&format!("_{name}::"));
            if names && !allowed.iter().any(|allowed| is_within(module, allowed)) {
                wrong.push(format!("{module} uses the crate {name}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn module_files_form_no_import_circles() {
    let modules = modules();
    let mut graph = imports(&modules);
    // A module and its children are one unit.
    for (module, imported) in &mut graph {
        imported.retain(|target| !is_within(target, module) && !is_within(module, target));
    }
    // Removing every module that imports none of the others leaves the circles.
    loop {
        let leaves: Vec<&str> =
            graph.iter().filter(|(_, imported)| imported.is_empty()).map(|(module, _)| *module).collect();
        if leaves.is_empty() {
            break;
        }
        graph.retain(|module, _| !leaves.contains(module));
        for imported in graph.values_mut() {
            imported.retain(|target| !leaves.contains(&target.as_str()));
        }
    }
    // A module that imports a circle from outside is not imported by the rest.
    loop {
        let imported: BTreeSet<String> = graph.values().flatten().cloned().collect();
        let before = graph.len();
        graph.retain(|module, _| imported.contains(*module));
        if graph.len() == before {
            break;
        }
    }
    assert!(graph.is_empty(), "{graph:#?}");
}

#[test]
fn named_paths_covers_every_form_of_import() {
    let code = "use crate::{error::{Cause, Error}, kube};\npub(crate) use super::a as b;\nlet x = crate::vault::wire::Read;\nuse self::c;";
    let paths = named_paths(code);
    for path in
        ["crate::error::Cause", "crate::error::Error", "crate::kube", "super::a", "crate::vault::wire::Read", "self::c"]
    {
        assert!(paths.iter().any(|named| named == path), "{path}: {paths:?}");
    }
}
