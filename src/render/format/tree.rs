//! JSON, and the parts of YAML that are written like it: nested values with sorted keys.

use super::{
    super::json::{Json, Members},
    Buffer,
};
use crate::error::{Cause, Error};

/// The levels of objects and arrays that may stand in each other: what `serde_json`, and with it most readers, accept.
const MAX_DEPTH: usize = 127;

/// What stands between elements, and between key and value.
pub(super) struct Separators {
    pub(super) comma: &'static str,
    pub(super) colon: &'static str,
}

/// The data on one line, with a newline at the end as jq and every JSON encoder that writes files have it.
pub(super) fn json(out: &mut Buffer, members: &Members<'_>) -> Result<(), Error> {
    object(out, members, &Separators { comma: ",", colon: ":" }, 0)?;
    out.push('\n');
    Ok(())
}

/// A value: strings with as few escapes as any reader needs, keys sorted, everything else as the server wrote it.
/// `depth` is how many objects and arrays it stands in.
pub(super) fn value(out: &mut Buffer, value: Json<'_>, separators: &Separators, depth: usize) -> Result<(), Error> {
    if let Some(text) = value.string() {
        string(out, &text);
    } else if let Some(members) = value.members() {
        object(out, &members, separators, depth)?;
    } else if let Some(elements) = value.elements() {
        array(out, elements, separators, depth)?;
    } else {
        out.push_str(value.raw());
    }
    Ok(())
}

fn object(out: &mut Buffer, members: &Members<'_>, separators: &Separators, depth: usize) -> Result<(), Error> {
    let depth = deeper(depth)?;
    out.push('{');
    for (i, (key, member)) in members.iter().enumerate() {
        out.push_str(if i == 0 { "" } else { separators.comma });
        string(out, key);
        out.push_str(separators.colon);
        value(out, *member, separators, depth)?;
    }
    out.push('}');
    Ok(())
}

fn array(out: &mut Buffer, elements: Vec<Json<'_>>, separators: &Separators, depth: usize) -> Result<(), Error> {
    let depth = deeper(depth)?;
    out.push('[');
    for (i, element) in elements.into_iter().enumerate() {
        out.push_str(if i == 0 { "" } else { separators.comma });
        value(out, element, separators, depth)?;
    }
    out.push(']');
    Ok(())
}

fn deeper(depth: usize) -> Result<usize, Error> {
    if depth < MAX_DEPTH {
        return Ok(depth + 1);
    }
    Err(Error::new(Cause::Render, format!("the data nests deeper than {MAX_DEPTH} levels"))
        .advice("take the part that is needed with secretPointer"))
}

/// A string in double quotes that JSON, YAML 1.1 and YAML 1.2 read alike.
pub(super) fn string(out: &mut Buffer, text: &str) {
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            // Line breaks to YAML 1.1 and JavaScript, a byte order mark, and what YAML calls not printable.
            '\u{2028}' | '\u{2029}' | '\u{feff}' | '\u{fffe}' | '\u{ffff}' => unit(out, c),
            c if c.is_control() => unit(out, c),
            c => out.push(c),
        }
    }
    out.push('"');
}

fn unit(out: &mut Buffer, c: char) {
    for unit in c.encode_utf16(&mut [0; 2]) {
        out.push_unit(*unit);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn written(data: &str) -> Result<String, String> {
        let mut out = Buffer::default();
        json(&mut out, &Json::new(data).members().unwrap()).map_err(|error| error.to_string())?;
        Ok(String::from_utf8(out.finish().expose().to_vec()).unwrap())
    }

    #[test]
    fn json_is_compact_sorted_and_escaped_no_more_than_needed() {
        for (data, expected) in [
            ("{}", "{}\n"),
            (
                r#"{"b": {"z": [ 1.50, null, true ], "y": {}}, "a": "\u003c\u0026é\/"}"#,
                "{\"a\":\"<&é/\",\"b\":{\"y\":{},\"z\":[1.50,null,true]}}\n",
            ),
            (r#"{"a":"\u0000\u007f\u0085\u2028\"\\\n"}"#, "{\"a\":\"\\u0000\\u007F\\u0085\\u2028\\\"\\\\\\n\"}\n"),
            (r#"{"n":12345678901234567890.0}"#, "{\"n\":12345678901234567890.0}\n"),
        ] {
            assert_eq!(written(data).as_deref(), Ok(expected));
        }
    }

    #[test]
    fn depth_is_bounded() {
        let nested = |levels: usize| format!(r#"{{"a":{}1{}}}"#, "[".repeat(levels - 1), "]".repeat(levels - 1));
        let deepest = written(&nested(MAX_DEPTH)).unwrap();
        assert!(serde_json::from_str::<serde_json::Value>(&deepest).is_ok());
        for levels in [MAX_DEPTH + 1, 100_000] {
            assert!(written(&nested(levels)).unwrap_err().contains("deeper than 127"));
        }
    }

    proptest! {
        #[test]
        fn json_comes_back(members in proptest::collection::btree_map(any::<String>(), any::<(String, i64)>(), 0..5)) {
            let data = serde_json::json!({ "members": members });
            let read: serde_json::Value = serde_json::from_str(&written(&data.to_string()).unwrap()).unwrap();
            prop_assert_eq!(read, data);
        }
    }
}
