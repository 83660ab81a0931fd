//! Errors about missing keys, with the existing keys and a suggestion. They contain names, never values.

use super::json::{Fields, JsonText};
use crate::{
    error::{Cause, Error},
    text::closest_match,
};

/// The maximum number of characters of a name in a message.
const MAX_QUOTED_NAME_CHARS: usize = 64;
/// The maximum number of names in a message.
const MAX_QUOTED_NAMES: usize = 12;
/// The maximum depth of the search for a key that is not at the requested place.
const MAX_KEY_SEARCH_DEPTH: usize = 4;

/// Formats a name for messages: quoted, escaped and truncated.
pub(super) fn quote_name(name: &str) -> String {
    match name.char_indices().nth(MAX_QUOTED_NAME_CHARS) {
        Some((cut, _)) => format!("{:?}…", name.get(..cut).unwrap_or_default()),
        None => format!("{name:?}"),
    }
}

/// Formats a name as `key "name"`: quoted, escaped and truncated.
pub(super) fn quote_key(name: &str) -> String {
    format!("key {}", quote_name(name))
}

/// Formats several names for messages, limited to [`MAX_QUOTED_NAMES`].
pub(super) fn quote_names<'a>(names: impl ExactSizeIterator<Item = &'a str>) -> String {
    let more = names.len().saturating_sub(MAX_QUOTED_NAMES);
    let list = names.take(MAX_QUOTED_NAMES).map(quote_name).collect::<Vec<_>>().join(", ");
    if more > 0 { format!("{list} and {more} more") } else { list }
}

/// Lists the existing keys of an object: `the keys "a", "b"`, or `no keys`.
pub(super) fn describe_keys(fields: &Fields<'_>) -> String {
    if fields.is_empty() {
        "no keys".to_owned()
    } else {
        format!("the keys {}", quote_names(fields.keys().map(String::as_str)))
    }
}

/// Builds the error of a `secretKey` that is not among `fields`. A `secretPointer` would start at `data`.
pub(super) fn missing_key_error(requested: &str, fields: &Fields<'_>, data: &Fields<'_>) -> Error {
    let (cause, advice) = if let Some(pointer) =
        find_nested(requested, data).or_else(|| parse_other_notation(requested, data))
    {
        (Cause::KeyNested, format!("it is further inside: use `secretPointer: {pointer}` instead of secretKey"))
    } else if ["current_version", "custom_metadata", "versions"].iter().all(|name| fields.contains_key(*name)) {
        (Cause::KeyMissing, "this is a secret's metadata: write data/ instead of metadata/ in secretPath".to_owned())
    } else if let Some(meant) = closest_key(requested, fields) {
        (Cause::KeyMissing, format!("did you mean {}?", quote_name(meant)))
    } else {
        (Cause::KeyMissing, "correct secretKey, or set `optional: true` if it may be absent".to_owned())
    };
    Error::new(cause, format!("{} is not in the secret, which has {}", quote_key(requested), describe_keys(fields)))
        .with_fix(advice)
}

/// Returns the key that was most likely intended.
pub(super) fn closest_key<'a>(requested: &str, fields: &'a Fields<'_>) -> Option<&'a str> {
    closest_match(requested, fields.keys().map(String::as_str))
}

/// Returns the shortest pointer to a member of this name in an object inside `data`.
fn find_nested(requested: &str, data: &Fields<'_>) -> Option<String> {
    let mut level: Vec<(String, JsonText<'_>)> =
        data.iter().map(|(key, value)| (pointer_segment(key), *value)).collect();
    for _ in 0..MAX_KEY_SEARCH_DEPTH {
        let objects: Vec<_> = level.iter().filter_map(|(at, value)| Some((at, value.fields()?))).collect();
        if let Some((at, _)) = objects.iter().find(|(_, members)| members.contains_key(requested)) {
            let pointer = format!("{at}{}", pointer_segment(requested));
            return (pointer.len() <= MAX_KEY_SEARCH_DEPTH * MAX_QUOTED_NAME_CHARS
                && !pointer.contains(char::is_control))
            .then_some(pointer);
        }
        level = objects
            .iter()
            .flat_map(|(at, members)| {
                members.iter().map(move |(key, value)| (format!("{at}{}", pointer_segment(key)), *value))
            })
            .collect();
    }
    None
}

/// Returns the pointer to a member inside `data` that `requested` names by its path: `o.deep`, `o/deep`, `/o/deep`,
/// `$.o.deep`.
fn parse_other_notation(requested: &str, data: &Fields<'_>) -> Option<String> {
    let notation = Some(requested)
        .filter(|name| name.len() <= MAX_KEY_SEARCH_DEPTH * MAX_QUOTED_NAME_CHARS)?
        .trim_start_matches('$');
    ['/', '.'].into_iter().find_map(|separator| {
        let mut keys = notation.trim_start_matches(separator).split(separator);
        let first = keys.next()?;
        let (mut value, mut pointer) = (*data.get(first)?, pointer_segment(first));
        for key in keys {
            value = *value.fields()?.get(key)?;
            pointer.push_str(&pointer_segment(key));
        }
        (pointer.len() > pointer_segment(first).len() && !pointer.contains(char::is_control)).then_some(pointer)
    })
}

/// Returns a key as one step of a pointer, escaped.
fn pointer_segment(key: &str) -> String {
    format!("/{}", key.replace('~', "~0").replace('/', "~1"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(requested: &str, data: &str) -> String {
        let members = JsonText::new(data).fields().unwrap();
        let error = missing_key_error(requested, &members, &members);
        assert_eq!(error.cause() == Cause::KeyNested, error.to_string().contains("further inside"));
        error.to_string().rsplit_once(" [VM").unwrap().0.to_owned()
    }

    #[test]
    fn missing_key_error_suggests_similar_or_nested_key() {
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
    fn missing_key_error_suggests_pointer_for_other_notations() {
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
    fn missing_key_error_for_kv2_metadata_suggests_data_path() {
        let data = r#"{"cas_required":false,"current_version":1,"custom_metadata":null,"versions":{}}"#;
        assert!(message("pass", data).contains("; this is a secret's metadata: write data/ instead of metadata/"));
    }

    #[test]
    fn missing_key_error_is_bounded_and_on_one_line() {
        let many: Vec<String> = (0..500).map(|i| format!(r#""{i:0>1000}\n":{{}}"#)).collect();
        let message = message(&"é\n".repeat(5000), &format!("{{{}}}", many.join(",")));
        assert!(message.contains("and 488 more"), "{message}");
        assert!(message.len() < 1500 && !message.contains('\n'), "{message}");
    }
}
