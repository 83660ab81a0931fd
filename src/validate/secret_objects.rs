//! `secretObjects`: which files the driver copies into Kubernetes Secrets.

use std::collections::{BTreeMap, BTreeSet};

use super::{class::unknown_fields, source::Source};
use crate::{
    error::Cause,
    request::Made,
    text::{nearest, quoted},
    yaml::node::{Node, Value},
};

/// Notes what the driver would refuse, and files that no object makes; nothing of the latter if `files` is empty, as then
/// nobody knows.
pub(super) fn check(list: &Node, files: &[Made], source: &mut Source<'_>) {
    if !matches!(list.value, Value::List(_) | Value::Null) {
        source.wrong(Cause::Manifest, list, format!("spec.secretObjects: is {}, not a list", list.kind()));
    }
    let mut names = BTreeMap::new();
    for (index, secret) in list.items().iter().enumerate() {
        let place = format!("secretObjects[{index}].");
        unknown_fields(secret, &place, &["secretName", "type", "labels", "annotations", "data"], source);
        if let Some(name) = source.required((secret, secret), &place, "secretName", "name the Secret") {
            check_name(name.trim(), secret, index, &mut names, source);
        }
        source.required((secret, secret), &place, "type", "write a Secret's type, such as Opaque");
        let data = secret.get("data").map(Node::items).unwrap_or_default();
        if data.is_empty() {
            let what = format!("{place}data: missing; list objectName and key of each file");
            source.wrong(Cause::Manifest, secret.entry("data").map_or(secret, |(key, _)| key), what);
        }
        let mut keys = BTreeSet::new();
        for (number, entry) in data.iter().enumerate() {
            let place = format!("{place}data[{number}].");
            unknown_fields(entry, &place, &["objectName", "key"], source);
            source.required((entry, entry), &place, "objectName", "name a file of the class");
            if let Some(key) = source.required((entry, entry), &place, "key", "name the key in the Secret") {
                check_key(key.trim(), entry, &place, &mut keys, source);
            }
            check_file(entry, &place, files, source);
        }
        check_type(secret, &place, &keys, source);
    }
}

/// Types whose Secrets the API server refuses without these keys.
const KEYS: [(&str, &[&str]); 4] = [
    ("kubernetes.io/tls", &["tls.crt", "tls.key"]),
    ("kubernetes.io/ssh-auth", &["ssh-privatekey"]),
    ("kubernetes.io/dockerconfigjson", &[".dockerconfigjson"]),
    ("kubernetes.io/dockercfg", &[".dockercfg"]),
];

/// The most a name or key may have, in bytes.
const LONGEST: usize = 253;

/// Notes a name that the API server refuses, and one that another Secret has, of which the driver makes one.
fn check_name<'n>(
    name: &'n str,
    secret: &Node,
    index: usize,
    names: &mut BTreeMap<&'n str, usize>,
    source: &mut Source<'_>,
) {
    let wrong = if !is_dns(name) {
        format!("{} is no name of a Secret; write small letters, digits, `-` and `.`", quoted(name))
    } else if let Some(first) = names.get(name) {
        format!("is that of secretObjects[{first}], and the driver makes one of them; write both into one")
    } else {
        names.insert(name, index);
        return;
    };
    let node = secret.get("secretName").unwrap_or(secret);
    source.wrong(Cause::Manifest, node, format!("secretObjects[{index}].secretName: {wrong}"));
}

/// Notes a key that the API server refuses, and one that is there twice, of which the last one stays.
fn check_key<'n>(key: &'n str, entry: &Node, place: &str, keys: &mut BTreeSet<&'n str>, source: &mut Source<'_>) {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-._".contains(&b);
    let wrong = if key.len() > LONGEST || key == "." || key.starts_with("..") || !key.bytes().all(plain) {
        format!("{} is no key of a Secret; write letters, digits, `-`, `_` and `.`", quoted(key))
    } else if keys.insert(key) {
        return;
    } else {
        "is there twice, and one file would replace the other; choose another".to_owned()
    };
    source.wrong(Cause::Manifest, entry.get("key").unwrap_or(entry), format!("{place}key: {wrong}"));
}

/// Notes the keys that a Secret of its type lacks.
fn check_type(secret: &Node, place: &str, keys: &BTreeSet<&str>, source: &mut Source<'_>) {
    let Some((node, kind)) = secret.get("type").and_then(|node| Some((node, node.text()?.trim()))) else { return };
    let wanted = KEYS.iter().find(|(known, _)| *known == kind).map_or(&[][..], |(_, wanted)| wanted);
    let missing: Vec<&str> = wanted.iter().copied().filter(|key| !keys.contains(key)).collect();
    if !missing.is_empty() && !keys.is_empty() {
        let what = format!("{place}type: {kind} needs the key {}; add it to data", missing.join(" and the key "));
        source.wrong(Cause::Manifest, node, what);
    }
}

/// Whether it is a DNS subdomain as Kubernetes wants it.
fn is_dns(name: &str) -> bool {
    let ends = |label: &str| {
        let edge = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
        label.starts_with(edge) && label.ends_with(edge)
    };
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'.';
    name.len() <= LONGEST && name.bytes().all(plain) && name.split('.').all(ends)
}

fn check_file(entry: &Node, place: &str, files: &[Made], source: &mut Source<'_>) {
    let Some((node, name)) = entry.get("objectName").and_then(|node| Some((node, node.text()?.trim()))) else { return };
    if name.is_empty() || files.is_empty() || files.iter().any(|file| makes(file, name)) {
        return;
    }
    let names = files.iter().filter(|file| !file.each_key).map(|file| file.name.as_str());
    let next = nearest(name, names)
        .map_or_else(|| "add one, or remove this".to_owned(), |meant| format!("did you mean {}?", quoted(meant)));
    let what = format!("{place}objectName: no object makes the file {}; {next}", quoted(name));
    source.wrong(Cause::SecretObject, node, what);
}

/// Whether an object may make a file of that name.
fn makes(file: &Made, name: &str) -> bool {
    if !file.each_key {
        return file.name == name;
    }
    file.name == "."
        || name.strip_prefix(&file.name).and_then(|rest| rest.strip_prefix('/')).is_some_and(|key| !key.is_empty())
}
