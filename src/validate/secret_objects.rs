//! Checks of `secretObjects`, the files that the driver copies into Kubernetes Secrets.

use std::collections::{BTreeMap, BTreeSet};

use super::{source::SourceFile, typos::report_unknown_fields};
use crate::{
    error::Cause,
    request::OutputFile,
    text::{closest_match, quote},
    yaml::node::{Node, Value},
};

/// Reports entries that the driver would reject, and files that no object writes. If `files` is empty, the files are unknown and
/// are not checked.
pub(super) fn check_secret_objects(list: &Node, files: &[OutputFile], source: &mut SourceFile<'_>) {
    if !matches!(list.value, Value::List(_) | Value::Null) {
        source.report_error(Cause::Manifest, list, format!("spec.secretObjects: is {}, not a list", list.type_name()));
    }
    let mut names = BTreeMap::new();
    for (index, secret) in list.items().iter().enumerate() {
        let prefix = format!("secretObjects[{index}].");
        report_unknown_fields(secret, &prefix, &["secretName", "type", "labels", "annotations", "data"], source);
        if let Some(name) = source.require_text((secret, secret), &prefix, "secretName", "name the Secret") {
            check_name(name.trim(), secret, index, &mut names, source);
        }
        source.require_text((secret, secret), &prefix, "type", "write a Secret's type, such as Opaque");
        let data = secret.get("data").map(Node::items).unwrap_or_default();
        if data.is_empty() {
            let problem = format!("{prefix}data: missing; list objectName and key of each file");
            source.report_error(Cause::Manifest, secret.entry("data").map_or(secret, |(key, _)| key), problem);
        }
        let mut keys = BTreeSet::new();
        for (number, entry) in data.iter().enumerate() {
            let prefix = format!("{prefix}data[{number}].");
            report_unknown_fields(entry, &prefix, &["objectName", "key"], source);
            source.require_text((entry, entry), &prefix, "objectName", "name a file of the class");
            if let Some(key) = source.require_text((entry, entry), &prefix, "key", "name the key in the Secret") {
                check_key(key.trim(), entry, &prefix, &mut keys, source);
            }
            check_file(entry, &prefix, files, source);
        }
        check_type(secret, &prefix, &keys, source);
    }
}

/// Secret types with their required keys. The API server rejects a Secret of the type without them.
const REQUIRED_KEYS: [(&str, &[&str]); 4] = [
    ("kubernetes.io/tls", &["tls.crt", "tls.key"]),
    ("kubernetes.io/ssh-auth", &["ssh-privatekey"]),
    ("kubernetes.io/dockerconfigjson", &[".dockerconfigjson"]),
    ("kubernetes.io/dockercfg", &[".dockercfg"]),
];

/// Limits the length of a name or key, in bytes.
const MAX_NAME_BYTES: usize = 253;

/// Reports a name that the API server rejects, and a name that another Secret has already. Of two Secrets with one name the driver
/// creates only one.
fn check_name<'n>(
    name: &'n str,
    secret: &Node,
    index: usize,
    names: &mut BTreeMap<&'n str, usize>,
    source: &mut SourceFile<'_>,
) {
    let problem = if !is_dns_subdomain(name) {
        format!("{} is not a valid Secret name; write lower-case letters, digits, `-` and `.`", quote(name))
    } else if let Some(first) = names.get(name) {
        format!("is also the name of secretObjects[{first}], and the driver creates only one of them; merge them")
    } else {
        names.insert(name, index);
        return;
    };
    let node = secret.get("secretName").unwrap_or(secret);
    source.report_error(Cause::Manifest, node, format!("secretObjects[{index}].secretName: {problem}"));
}

/// Reports a key that the API server rejects, and a key that appears twice. The last file with the key would replace the others.
fn check_key<'n>(key: &'n str, entry: &Node, prefix: &str, keys: &mut BTreeSet<&'n str>, source: &mut SourceFile<'_>) {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-._".contains(&b);
    let problem = if key.len() > MAX_NAME_BYTES || key == "." || key.starts_with("..") || !key.bytes().all(plain) {
        format!("{} is not a valid Secret key; write letters, digits, `-`, `_` and `.`", quote(key))
    } else if keys.insert(key) {
        return;
    } else {
        "appears twice, and one file would replace the other; choose another".to_owned()
    };
    source.report_error(Cause::Manifest, entry.get("key").unwrap_or(entry), format!("{prefix}key: {problem}"));
}

/// Reports keys that the type of a Secret requires and the Secret lacks.
fn check_type(secret: &Node, prefix: &str, keys: &BTreeSet<&str>, source: &mut SourceFile<'_>) {
    let Some((node, kind)) = secret.get("type").and_then(|node| Some((node, node.as_text()?.trim()))) else { return };
    let required = REQUIRED_KEYS.iter().find(|(known, _)| *known == kind).map_or(&[][..], |(_, keys)| keys);
    let missing: Vec<&str> = required.iter().copied().filter(|key| !keys.contains(key)).collect();
    if !missing.is_empty() && !keys.is_empty() {
        let problem = format!("{prefix}type: {kind} needs the key {}; add it to data", missing.join(" and the key "));
        source.report_error(Cause::Manifest, node, problem);
    }
}

/// Returns true if a name is a DNS subdomain by the rules of Kubernetes.
fn is_dns_subdomain(name: &str) -> bool {
    let ends = |label: &str| {
        let edge = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
        label.starts_with(edge) && label.ends_with(edge)
    };
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'.';
    name.len() <= MAX_NAME_BYTES && name.bytes().all(plain) && name.split('.').all(ends)
}

fn check_file(entry: &Node, prefix: &str, files: &[OutputFile], source: &mut SourceFile<'_>) {
    let Some((node, name)) = entry.get("objectName").and_then(|node| Some((node, node.as_text()?.trim()))) else {
        return;
    };
    if name.is_empty() || files.is_empty() || files.iter().any(|file| produces(file, name)) {
        return;
    }
    let names = files.iter().filter(|file| !file.is_directory).map(|file| file.name.as_str());
    let fix = match closest_match(name, names) {
        Some(suggestion) => format!("did you mean {}?", quote(suggestion)),
        None => "add one, or remove this".to_owned(),
    };
    let problem = format!("{prefix}objectName: no object writes the file {}; {fix}", quote(name));
    source.report_error(Cause::SecretObject, node, problem);
}

/// Returns true if an object may write a file of this name.
fn produces(file: &OutputFile, name: &str) -> bool {
    if !file.is_directory {
        return file.name == name;
    }
    file.name == "."
        || name.strip_prefix(&file.name).and_then(|rest| rest.strip_prefix('/')).is_some_and(|key| !key.is_empty())
}
