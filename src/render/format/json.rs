//! JSON, and the parts of YAML with the same syntax: nested values with sorted keys.

use super::{
    super::json::{Fields, JsonText},
    SecretTextBuffer,
};
use crate::error::{Cause, Error};

/// The maximum nesting of objects and arrays: the limit of `serde_json`, which most readers share.
const MAX_NESTING_DEPTH: usize = 127;

/// The separators between elements, and between key and value.
pub(super) struct Separators {
    pub(super) comma: &'static str,
    pub(super) colon: &'static str,
}

/// Writes the data on one line with a trailing newline, like jq and every JSON encoder that writes files.
pub(super) fn write_json(out: &mut SecretTextBuffer, fields: &Fields<'_>) -> Result<(), Error> {
    write_object(out, fields, &Separators { comma: ",", colon: ":" }, 0)?;
    out.push('\n');
    Ok(())
}

/// Writes a value with sorted keys. Strings have only the escapes that some reader needs, and everything else is as the
/// server wrote it. `depth` is the number of objects and arrays around the value.
pub(super) fn write_value(
    out: &mut SecretTextBuffer,
    value: JsonText<'_>,
    separators: &Separators,
    depth: usize,
) -> Result<(), Error> {
    if let Some(text) = value.decode_string() {
        write_string(out, &text);
    } else if let Some(members) = value.fields() {
        write_object(out, &members, separators, depth)?;
    } else if let Some(elements) = value.elements() {
        write_array(out, elements, separators, depth)?;
    } else {
        out.push_str(value.as_str());
    }
    Ok(())
}

fn write_object(
    out: &mut SecretTextBuffer,
    fields: &Fields<'_>,
    separators: &Separators,
    depth: usize,
) -> Result<(), Error> {
    let depth = increment_depth(depth)?;
    out.push('{');
    for (i, (key, member)) in fields.iter().enumerate() {
        out.push_str(if i == 0 { "" } else { separators.comma });
        write_string(out, key);
        out.push_str(separators.colon);
        write_value(out, *member, separators, depth)?;
    }
    out.push('}');
    Ok(())
}

fn write_array(
    out: &mut SecretTextBuffer,
    elements: Vec<JsonText<'_>>,
    separators: &Separators,
    depth: usize,
) -> Result<(), Error> {
    let depth = increment_depth(depth)?;
    out.push('[');
    for (i, element) in elements.into_iter().enumerate() {
        out.push_str(if i == 0 { "" } else { separators.comma });
        write_value(out, element, separators, depth)?;
    }
    out.push(']');
    Ok(())
}

fn increment_depth(depth: usize) -> Result<usize, Error> {
    if depth < MAX_NESTING_DEPTH {
        return Ok(depth + 1);
    }
    Err(Error::new(Cause::RenderFailed, format!("the data nests deeper than {MAX_NESTING_DEPTH} levels"))
        .with_fix("take the part that is needed with secretPointer"))
}

/// Writes a string in double quotes with the same meaning in JSON, YAML 1.1 and YAML 1.2.
pub(super) fn write_string(out: &mut SecretTextBuffer, text: &str) {
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            // Line breaks in YAML 1.1 and JavaScript, a byte order mark, and characters that YAML defines as not
            // printable.
            '\u{2028}' | '\u{2029}' | '\u{feff}' | '\u{fffe}' | '\u{ffff}' => write_utf16_escapes(out, c),
            c if c.is_control() => write_utf16_escapes(out, c),
            c => out.push(c),
        }
    }
    out.push('"');
}

fn write_utf16_escapes(out: &mut SecretTextBuffer, c: char) {
    for unit in c.encode_utf16(&mut [0; 2]) {
        out.push_utf16_escape(*unit);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn json_file(data: &str) -> Result<String, String> {
        let mut out = SecretTextBuffer::default();
        write_json(&mut out, &JsonText::new(data).fields().unwrap()).map_err(|error| error.to_string())?;
        Ok(String::from_utf8(out.finish().expose().to_vec()).unwrap())
    }

    #[test]
    fn json_format_is_compact_sorted_and_minimally_escaped() {
        for (data, expected) in [
            ("{}", "{}\n"),
            (
                r#"{"b": {"z": [ 1.50, null, true ], "y": {}}, "a": "\u003c\u0026é\/"}"#,
                "{\"a\":\"<&é/\",\"b\":{\"y\":{},\"z\":[1.50,null,true]}}\n",
            ),
            (r#"{"a":"\u0000\u007f\u0085\u2028\"\\\n"}"#, "{\"a\":\"\\u0000\\u007F\\u0085\\u2028\\\"\\\\\\n\"}\n"),
            (r#"{"n":12345678901234567890.0}"#, "{\"n\":12345678901234567890.0}\n"),
        ] {
            assert_eq!(json_file(data).as_deref(), Ok(expected));
        }
    }

    #[test]
    fn json_format_nesting_depth_is_bounded() {
        let nested = |levels: usize| format!(r#"{{"a":{}1{}}}"#, "[".repeat(levels - 1), "]".repeat(levels - 1));
        let deepest = json_file(&nested(MAX_NESTING_DEPTH)).unwrap();
        assert!(serde_json::from_str::<serde_json::Value>(&deepest).is_ok());
        for levels in [MAX_NESTING_DEPTH + 1, 100_000] {
            assert!(json_file(&nested(levels)).unwrap_err().contains("deeper than 127"));
        }
    }

    proptest! {
        #[test]
        fn json_format_round_trips(members in proptest::collection::btree_map(any::<String>(), any::<(String, i64)>(), 0..5)) {
            let data = serde_json::json!({ "members": members });
            let read: serde_json::Value = serde_json::from_str(&json_file(&data.to_string()).unwrap()).unwrap();
            prop_assert_eq!(read, data);
        }
    }
}
