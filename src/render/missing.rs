//! Errors about keys that are not there: which ones are, and which one was meant. Names only, never values.

use super::json::{Json, Members};
use crate::{
    error::{Cause, Error},
    text::nearest,
};

/// The most characters of a name that a message shows.
const MAX_NAME: usize = 64;
/// The most names that a message shows.
const MAX_NAMES: usize = 12;
/// How deep in the data a key is looked for that is not where it was asked for.
const MAX_DEPTH: usize = 4;

/// A name as messages show it: quoted, escaped, bounded.
pub(super) fn shown(name: &str) -> String {
    match name.char_indices().nth(MAX_NAME) {
        Some((cut, _)) => format!("{:?}…", name.get(..cut).unwrap_or_default()),
        None => format!("{name:?}"),
    }
}

/// `key "name"`, quoted, escaped, bounded.
pub(super) fn shown_key(name: &str) -> String {
    format!("key {}", shown(name))
}

/// Several names as messages show them.
pub(super) fn shown_all<'a>(names: impl ExactSizeIterator<Item = &'a str>) -> String {
    let more = names.len().saturating_sub(MAX_NAMES);
    let list = names.take(MAX_NAMES).map(shown).collect::<Vec<_>>().join(", ");
    if more > 0 { format!("{list} and {more} more") } else { list }
}

/// What an object has instead: `the keys "a", "b"`, or `no keys`.
pub(super) fn keys(members: &Members<'_>) -> String {
    if members.is_empty() {
        "no keys".to_owned()
    } else {
        format!("the keys {}", shown_all(members.keys().map(String::as_str)))
    }
}

/// The error of a `secretKey` that is not among `members`. `data` is where a `secretPointer` would begin.
pub(super) fn key(wanted: &str, members: &Members<'_>, data: &Members<'_>) -> Error {
    let (cause, advice) = if let Some(pointer) = nested(wanted, data).or_else(|| spelled(wanted, data)) {
        (Cause::KeyNested, format!("it is further inside: use `secretPointer: {pointer}` instead of secretKey"))
    } else if ["current_version", "custom_metadata", "versions"].iter().all(|name| members.contains_key(*name)) {
        (Cause::KeyMissing, "this is a secret's metadata: write data/ instead of metadata/ in secretPath".to_owned())
    } else if let Some(meant) = meant(wanted, members) {
        (Cause::KeyMissing, format!("did you mean {}?", shown(meant)))
    } else {
        (Cause::KeyMissing, "correct secretKey, or set `optional: true` if it may be absent".to_owned())
    };
    Error::new(cause, format!("{} is not in the secret, which has {}", shown_key(wanted), keys(members))).advice(advice)
}

/// The key that was most likely meant.
pub(super) fn meant<'a>(wanted: &str, members: &'a Members<'_>) -> Option<&'a str> {
    nearest(wanted, members.keys().map(String::as_str))
}

/// The shortest pointer to a member of this name in one of the objects inside `data`.
fn nested(wanted: &str, data: &Members<'_>) -> Option<String> {
    let mut level: Vec<(String, Json<'_>)> = data.iter().map(|(key, value)| (step(key), *value)).collect();
    for _ in 0..MAX_DEPTH {
        let objects: Vec<_> = level.iter().filter_map(|(at, value)| Some((at, value.members()?))).collect();
        if let Some((at, _)) = objects.iter().find(|(_, members)| members.contains_key(wanted)) {
            let pointer = format!("{at}{}", step(wanted));
            return (pointer.len() <= MAX_DEPTH * MAX_NAME && !pointer.contains(char::is_control)).then_some(pointer);
        }
        level = objects
            .iter()
            .flat_map(|(at, members)| members.iter().map(move |(key, value)| (format!("{at}{}", step(key)), *value)))
            .collect();
    }
    None
}

/// The pointer to a member inside `data` that `wanted` names by its way there: `o.deep`, `o/deep`, `/o/deep`, `$.o.deep`.
fn spelled(wanted: &str, data: &Members<'_>) -> Option<String> {
    let way = Some(wanted).filter(|way| way.len() <= MAX_DEPTH * MAX_NAME)?.trim_start_matches('$');
    ['/', '.'].into_iter().find_map(|separator| {
        let mut keys = way.trim_start_matches(separator).split(separator);
        let first = keys.next()?;
        let (mut value, mut pointer) = (*data.get(first)?, step(first));
        for key in keys {
            value = *value.members()?.get(key)?;
            pointer.push_str(&step(key));
        }
        (pointer.len() > step(first).len() && !pointer.contains(char::is_control)).then_some(pointer)
    })
}

/// A key as a step of a pointer.
fn step(key: &str) -> String {
    format!("/{}", key.replace('~', "~0").replace('/', "~1"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(wanted: &str, data: &str) -> String {
        let members = Json::new(data).members().unwrap();
        let error = key(wanted, &members, &members);
        assert_eq!(error.cause() == Cause::KeyNested, error.to_string().contains("further inside"));
        error.to_string().rsplit_once(" [VM").unwrap().0.to_owned()
    }

    #[test]
    fn a_missing_key_is_told_with_what_was_meant() {
        let generic = "correct secretKey, or set `optional: true` if it may be absent";
        for (wanted, data, expected) in [
            ("x", "{}", format!(r#"key "x" is not in the secret, which has no keys; {generic}"#)),
            ("xyz", r#"{"a":1,"b":2}"#, format!(r#"key "xyz" is not in the secret, which has the keys "a", "b"; {generic}"#)),
            ("pasword", r#"{"password":1}"#, r#"key "pasword" is not in the secret, which has the keys "password"; did you mean "password"?"#.into()),
            (
                "port",
                r#"{"porto":1,"d/b":[],"x":{"a~b":{"port":5}}}"#,
                r#"key "port" is not in the secret, which has the keys "d/b", "porto", "x"; it is further inside: use `secretPointer: /x/a~0b/port` instead of secretKey"#.into(),
            ),
        ] {
            assert_eq!(message(wanted, data), expected);
        }
    }

    #[test]
    fn a_way_to_a_key_is_read_in_other_notations() {
        let data = r#"{"o":{"deep":{"er":1}},"p":1,"a~b":{"c":2}}"#;
        for (wanted, pointer) in [
            ("o.deep", "/o/deep"),
            ("o/deep", "/o/deep"),
            ("/o/deep/er", "/o/deep/er"),
            ("$.o.deep.er", "/o/deep/er"),
            ("a~b.c", "/a~0b/c"),
        ] {
            assert!(message(wanted, data).contains(&format!("use `secretPointer: {pointer}`")), "{wanted}");
        }
        for wanted in ["/p", "o.none", "p.x", "o..deep", "."] {
            assert!(!message(wanted, data).contains("secretPointer"), "{wanted}");
        }
    }

    #[test]
    fn metadata_is_no_secret() {
        let data = r#"{"cas_required":false,"current_version":1,"custom_metadata":null,"versions":{}}"#;
        assert!(message("pass", data).contains("; this is a secret's metadata: write data/ instead of metadata/"));
    }

    #[test]
    fn messages_are_bounded_and_on_one_line() {
        let many: Vec<String> = (0..500).map(|i| format!(r#""{i:0>1000}\n":{{}}"#)).collect();
        let message = message(&"é\n".repeat(5000), &format!("{{{}}}", many.join(",")));
        assert!(message.contains("and 488 more"), "{message}");
        assert!(message.len() < 1500 && !message.contains('\n'), "{message}");
    }
}
