//! YAML as a block mapping with one line per key. Nested values are written on the same line, like JSON.

use super::{
    super::json::{Fields, JsonText},
    SecretTextBuffer,
    json::{Separators, write_string, write_value},
};
use crate::error::Error;

/// The maximum length of a key in the form `key: value`, in characters and without its quotes. YAML's limit is 1024.
const MAX_SIMPLE_KEY_CHARS: usize = 1000;

/// Words that YAML 1.1 or 1.2 does not read as text, in upper or lower case.
const RESERVED_WORDS: [&str; 11] = ["y", "n", "yes", "no", "on", "off", "true", "false", "null", "nan", "inf"];

/// Writes the members. Strings are quoted unless every parser reads them as text. Numbers are written as in JSON.
pub(super) fn write_yaml(out: &mut SecretTextBuffer, fields: &Fields<'_>) -> Result<(), Error> {
    if fields.is_empty() {
        out.push_str("{}\n");
    }
    for (key, member) in fields {
        // An escape has at most six characters.
        let is_simple_key = key.chars().count() * 6 < MAX_SIMPLE_KEY_CHARS;
        out.push_str(if is_simple_key { "" } else { "? " });
        write_scalar(out, key);
        out.push_str(if is_simple_key { ": " } else { "\n: " });
        write_entry(out, *member)?;
        out.push('\n');
    }
    Ok(())
}

fn write_entry(out: &mut SecretTextBuffer, member: JsonText<'_>) -> Result<(), Error> {
    match member.decode_string() {
        Some(text) => write_scalar(out, &text),
        None => write_value(out, member, &Separators { comma: ", ", colon: ": " }, 1)?,
    }
    Ok(())
}

fn write_scalar(out: &mut SecretTextBuffer, text: &str) {
    if is_plain_scalar(text) { out.push_str(text) } else { write_string(out, text) }
}

/// Returns true if a string needs no quotes: it begins with a letter, contains no special character, and is not a
/// reserved word.
fn is_plain_scalar(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphabetic())
        && text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.' | '/'))
        && !RESERVED_WORDS.iter().any(|word| text.eq_ignore_ascii_case(word))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn yaml_file(data: &str) -> String {
        let mut out = SecretTextBuffer::default();
        write_yaml(&mut out, &JsonText::new(data).fields().unwrap()).unwrap();
        String::from_utf8(out.finish().expose().to_vec()).unwrap()
    }

    #[test]
    fn yaml_format_quotes_ambiguous_text() {
        for (data, expected) in [
            ("{}", "{}\n"),
            (r#"{"b":"plain","a":"two words"}"#, "a: \"two words\"\nb: plain\n"),
            (r#"{"a.b-c/d":"x","1":"2024-01-01","n":"No"}"#, "\"1\": \"2024-01-01\"\na.b-c/d: x\n\"n\": \"No\"\n"),
            (
                r#"{"a":"","b":"~","c":"0x1f","d":"1:30","e":".inf","f":"<<","g":"=","h":"- x"}"#,
                "a: \"\"\nb: \"~\"\nc: \"0x1f\"\nd: \"1:30\"\ne: \".inf\"\nf: \"<<\"\ng: \"=\"\nh: \"- x\"\n",
            ),
            (
                r#"{"a":1.50,"b":null,"c":true,"d":{"y":[1,"x"],"x":{}}}"#,
                "a: 1.50\nb: null\nc: true\nd: {\"x\": {}, \"y\": [1, \"x\"]}\n",
            ),
            (r#"{"a":"line\nline\u0085\ufeff"}"#, "a: \"line\\nline\\u0085\\uFEFF\"\n"),
        ] {
            assert_eq!(yaml_file(data), expected);
        }
    }

    #[test]
    fn yaml_format_long_keys_round_trip() {
        let members = BTreeMap::from([("k".repeat(2000), "v".to_owned()), ("é ".repeat(600), "w".to_owned())]);
        let text = yaml_file(&serde_json::json!(members).to_string());
        assert_eq!(serde_saphyr::from_str::<BTreeMap<String, String>>(&text).unwrap(), members);
    }

    fn tricky_text() -> impl Strategy<Value = String> {
        prop_oneof![
            any::<String>(),
            "[ -~]{0,6}",
            "[yntfoYNTFO.~0-9xe_+:-]{1,5}",
            "[ \n\r\t\u{85}\u{2028}\u{feff}\u{7f}\u{0}'\"#:\\\\-]{0,8}",
            proptest::sample::select(vec![
                "null", "Null", "~", "yes", "ON", "true", ".NaN", "1e5", "0o17", "1_000", "---", "...", "? a", "!!str",
                "&a", "*a", "%TAG", "@", "`"
            ])
            .prop_map(str::to_owned),
        ]
    }

    proptest! {
        #[test]
        fn yaml_format_strings_round_trip(members in proptest::collection::btree_map(tricky_text(), tricky_text(), 0..6)) {
            let text = yaml_file(&serde_json::json!(members).to_string());
            let read: BTreeMap<String, String> = serde_saphyr::from_str(&text).unwrap();
            prop_assert_eq!(&read, &members, "{}", text);
        }

        #[test]
        fn yaml_format_nested_strings_round_trip(members in proptest::collection::btree_map(tricky_text(), proptest::collection::vec(tricky_text(), 0..3), 1..4)) {
            let data = serde_json::json!({"a": members});
            let read: serde_json::Value = serde_saphyr::from_str(&yaml_file(&data.to_string())).unwrap();
            prop_assert_eq!(read, data);
        }
    }
}
