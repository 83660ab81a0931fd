//! `secretObjects`: which files the driver copies into Kubernetes Secrets.

use super::{
    class::unknown_fields,
    source::{Source, near},
};
use crate::{
    error::Cause,
    request::Made,
    text::quoted,
    yaml::node::{Node, Value},
};

/// Notes what the driver would refuse, and files that no object makes; nothing of the latter if `files` is empty, as then
/// nobody knows.
pub(super) fn check(list: &Node, files: &[Made], source: &mut Source<'_>) {
    if !matches!(list.value, Value::List(_) | Value::Null) {
        source.wrong(Cause::Manifest, list, format!("spec.secretObjects: is {}, not a list", list.kind()));
    }
    for (index, secret) in list.items().iter().enumerate() {
        let place = format!("secretObjects[{index}].");
        unknown_fields(secret, &place, &["secretName", "type", "labels", "annotations", "data"], source);
        source.required((secret, secret), &place, "secretName", "name the Secret");
        source.required((secret, secret), &place, "type", "write a Secret's type, such as Opaque");
        let data = secret.get("data").map(Node::items).unwrap_or_default();
        if data.is_empty() {
            let what = format!("{place}data: missing; list objectName and key of each file");
            source.wrong(Cause::Manifest, secret.entry("data").map_or(secret, |(key, _)| key), what);
        }
        for (number, entry) in data.iter().enumerate() {
            let place = format!("{place}data[{number}].");
            unknown_fields(entry, &place, &["objectName", "key"], source);
            source.required((entry, entry), &place, "objectName", "name a file of the class");
            source.required((entry, entry), &place, "key", "name the key in the Secret");
            check_file(entry, &place, files, source);
        }
    }
}

fn check_file(entry: &Node, place: &str, files: &[Made], source: &mut Source<'_>) {
    let Some((node, name)) = entry.get("objectName").and_then(|node| Some((node, node.text()?.trim()))) else { return };
    if name.is_empty() || files.is_empty() || files.iter().any(|file| makes(file, name)) {
        return;
    }
    let names = files.iter().filter(|file| !file.each_key).map(|file| file.name.as_str());
    let next = near(name, &names.collect::<Vec<_>>())
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
