//! Access to parts of JSON text without parsing it into values. Every part borrows the text as the server wrote it.

use std::{collections::BTreeMap, fmt};

use serde::{
    Deserialize,
    de::{Deserializer, MapAccess, Visitor},
};
use serde_json::value::RawValue;
use zeroize::Zeroizing;

use crate::vault::response::compact_json;

/// Valid JSON text of one value. Has no `Debug` or `Display`, because it may be secret.
#[derive(Clone, Copy)]
pub(super) struct JsonText<'a>(&'a str);

/// The members of an object, sorted by key. The last of equal keys counts.
pub(super) type Fields<'a> = BTreeMap<String, JsonText<'a>>;

impl<'a> JsonText<'a> {
    /// Wraps `text`, which must be valid JSON. Invalid text behaves like a value without members.
    pub(super) fn new(text: &'a str) -> Self {
        Self(text.trim_ascii())
    }

    /// Returns the value's type for messages, with an article.
    pub(super) fn type_name(self) -> &'static str {
        match self.0.as_bytes().first() {
            Some(b'{') => "an object",
            Some(b'[') => "an array",
            Some(b'"') => "a string",
            Some(b'n') => "null",
            Some(b't' | b'f') => "a boolean",
            _ => "a number",
        }
    }

    pub(super) fn is_null(self) -> bool {
        self.0 == "null"
    }

    /// Returns the members, if the value is an object.
    pub(super) fn fields(self) -> Option<Fields<'a>> {
        if !self.0.starts_with('{') {
            return None;
        }
        serde_json::from_str::<ObjectFields<'a>>(self.0).ok().map(|object| object.0)
    }

    /// Returns the elements, if the value is an array.
    pub(super) fn elements(self) -> Option<Vec<Self>> {
        if !self.0.starts_with('[') {
            return None;
        }
        let elements = serde_json::from_str::<Vec<&RawValue>>(self.0).ok()?;
        Some(elements.into_iter().map(|element| Self(element.get())).collect())
    }

    /// Returns the decoded characters, if the value is a string.
    pub(super) fn decode_string(self) -> Option<Zeroizing<String>> {
        self.0.strip_prefix('"')?.strip_suffix('"').map(unescape)
    }

    /// Returns the text to write to a file: the characters of a string, or the JSON text of any other value.
    pub(super) fn to_file_text(self) -> Zeroizing<String> {
        self.decode_string().unwrap_or_else(|| compact_json(self.0))
    }

    /// Returns the text as the server wrote it; for numbers, booleans and null.
    pub(super) fn as_str(self) -> &'a str {
        self.0
    }
}

/// An object whose keys and values are borrowed text.
struct ObjectFields<'a>(Fields<'a>);

impl<'de: 'a, 'a> Deserialize<'de> for ObjectFields<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ObjectVisitor;

        impl<'de> Visitor<'de> for ObjectVisitor {
            type Value = ObjectFields<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut members = Fields::new();
                // Read keys as raw text too: unlike Go, serde_json rejects half of a surrogate pair in a String.
                while let Some((key, value)) = map.next_entry::<&'de RawValue, &'de RawValue>()? {
                    let key = JsonText(key.get())
                        .decode_string()
                        .map(|mut key| std::mem::take(&mut *key))
                        .unwrap_or_default();
                    members.insert(key, JsonText(value.get()));
                }
                Ok(ObjectFields(members))
            }
        }

        deserializer.deserialize_map(ObjectVisitor)
    }
}

/// Decodes the text between the quotes of a valid JSON string. Half of a surrogate pair becomes U+FFFD, as in Go.
fn unescape(quoted: &str) -> Zeroizing<String> {
    // Every escape is longer than the character it encodes, so the buffer never grows and leaves no copy in memory.
    let mut text = Zeroizing::new(String::with_capacity(quoted.len()));
    let mut rest = quoted;
    while let Some((plain, escape)) = rest.split_once('\\') {
        text.push_str(plain);
        let (c, after) = unescape_one(escape);
        text.push(c);
        rest = after;
    }
    text.push_str(rest);
    text
}

/// Decodes the escape at the start of `text`, after its backslash. Returns the character and the rest of the text.
fn unescape_one(text: &str) -> (char, &str) {
    let mut chars = text.chars();
    let c = match chars.next() {
        Some('b') => '\u{8}',
        Some('f') => '\u{c}',
        Some('n') => '\n',
        Some('r') => '\r',
        Some('t') => '\t',
        Some('u') => return unescape_utf16(chars.as_str()),
        other => other.unwrap_or(char::REPLACEMENT_CHARACTER),
    };
    (c, chars.as_str())
}

/// Decodes the hexadecimal UTF-16 unit at the start of `text`, or the surrogate pair that it begins. Returns the
/// character and the rest of the text.
fn unescape_utf16(text: &str) -> (char, &str) {
    let (Some(first), after) = parse_utf16_unit(text) else { return (char::REPLACEMENT_CHARACTER, text) };
    let (second, after_both) = after.strip_prefix("\\u").map_or((None, after), parse_utf16_unit);
    match char::decode_utf16([first].into_iter().chain(second)).next() {
        Some(Ok(c)) if c.len_utf16() == 2 => (c, after_both),
        Some(Ok(c)) => (c, after),
        _ => (char::REPLACEMENT_CHARACTER, after),
    }
}

fn parse_utf16_unit(text: &str) -> (Option<u16>, &str) {
    match text.split_at_checked(4) {
        Some((digits, after)) => (u16::from_str_radix(digits, 16).ok(), after),
        None => (None, text),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn json_text_strings_are_decoded_like_go() {
        for (json, text) in [
            (r#""""#, ""),
            (r#""plain é 😀""#, "plain é 😀"),
            (r#""\"\\\/\b\f\n\r\t""#, "\"\\/\u{8}\u{c}\n\r\t"),
            (r#""\u0041\u00e9\u2028\u003c""#, "Aé\u{2028}<"),
            (r#""\ud83d\ude00!""#, "😀!"),
            (r#""\uD83D\uDE00""#, "😀"),
            (r#""\ud800""#, "\u{fffd}"),
            (r#""\udc00\ud800x""#, "\u{fffd}\u{fffd}x"),
            (r#""\ud800\u0041""#, "\u{fffd}A"),
            (r#""\ud800\ud83d\ude00""#, "\u{fffd}😀"),
            (r#""\ud800\n""#, "\u{fffd}\n"),
            (r#""\\u0041""#, "\\u0041"),
        ] {
            assert_eq!(JsonText::new(json).decode_string().unwrap().as_str(), text, "{json}");
        }
    }

    #[test]
    fn json_text_fields_are_sorted_and_last_duplicate_wins() {
        let members =
            JsonText::new(r#" {"b" : 1.50, "a\u0062": {"x": [ ] }, "b": null, "\ud800": "\udfff"} "#).fields().unwrap();
        let texts: Vec<_> =
            members.iter().map(|(key, value)| (key.as_str(), value.to_file_text().to_string())).collect();
        let expected = [("ab", r#"{"x":[]}"#), ("b", "null"), ("\u{fffd}", "\u{fffd}")];
        assert_eq!(texts, expected.map(|(key, text)| (key, text.to_owned())));
    }

    #[test]
    fn json_text_fields_and_elements_match_type_name() {
        for (json, kind) in [
            ("{}", "an object"),
            ("[]", "an array"),
            (r#""{}""#, "a string"),
            ("null", "null"),
            ("true", "a boolean"),
            ("-1e9", "a number"),
        ] {
            let json = JsonText::new(json);
            assert_eq!(json.type_name(), kind);
            assert_eq!(json.fields().is_some(), kind == "an object");
            assert_eq!(json.elements().is_some(), kind == "an array");
            assert_eq!(json.decode_string().is_some(), kind == "a string");
        }
    }

    proptest! {
        #[test]
        fn json_text_string_round_trips(text: String) {
            let json = serde_json::Value::from(text.as_str()).to_string();
            prop_assert_eq!(&*JsonText::new(&json).decode_string().unwrap(), &text);
        }

        #[test]
        fn json_text_escaped_string_round_trips(text: String) {
            let json: Vec<String> = text.encode_utf16().map(|unit| format!("\\u{unit:04X}")).collect();
            prop_assert_eq!(&*JsonText::new(&format!("\"{}\"", json.concat())).decode_string().unwrap(), &text);
        }

        #[test]
        fn json_text_of_arbitrary_text_does_not_panic(text: String) {
            let json = JsonText::new(&text);
            let _ = (json.type_name(), json.fields().is_some(), json.elements().is_some(), json.to_file_text());
        }
    }
}
