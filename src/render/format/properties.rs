//! Java properties, as `java.util.Properties.store` writes them.

use super::{super::json::Fields, SecretTextBuffer};

/// Writes the members. Values that are not strings are written as JSON text. The output is ASCII, so it reads the same
/// as Latin-1 (as a stream) and as UTF-8 (as a reader).
pub(super) fn write_properties(out: &mut SecretTextBuffer, fields: &Fields<'_>) {
    for (key, member) in fields {
        for c in key.chars() {
            write_escaped(out, c, c == ' ');
        }
        out.push('=');
        for (i, c) in member.to_file_text().chars().enumerate() {
            write_escaped(out, c, c == ' ' && i == 0);
        }
        out.push('\n');
    }
}

fn write_escaped(out: &mut SecretTextBuffer, c: char, escape_space: bool) {
    match c {
        '\t' => out.push_str("\\t"),
        '\n' => out.push_str("\\n"),
        '\r' => out.push_str("\\r"),
        '\u{c}' => out.push_str("\\f"),
        ' '..='~' => {
            if escape_space || matches!(c, '\\' | '=' | ':' | '#' | '!') {
                out.push('\\');
            }
            out.push(c);
        }
        c => c.encode_utf16(&mut [0; 2]).iter().for_each(|unit| out.push_utf16_escape(*unit)),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::{super::super::json::JsonText, *};

    fn properties_file(data: &str) -> String {
        let mut out = SecretTextBuffer::default();
        write_properties(&mut out, &JsonText::new(data).fields().unwrap());
        String::from_utf8(out.finish().expose().to_vec()).unwrap()
    }

    /// The part of `Properties.load` needed for a file without comments and continued lines.
    fn load(file: &str) -> BTreeMap<String, String> {
        file.lines()
            .map(|line| {
                let line = line.trim_start_matches([' ', '\t', '\u{c}']);
                let mut escaped = false;
                let end = line.find(|c| {
                    let separates = !escaped && matches!(c, '=' | ':' | ' ' | '\t' | '\u{c}');
                    escaped = !escaped && c == '\\';
                    separates
                });
                let (key, rest) = line.split_at(end.unwrap());
                let rest = rest.trim_start_matches([' ', '\t', '\u{c}']);
                let rest = rest.strip_prefix(['=', ':']).unwrap_or(rest);
                (unescape(key), unescape(rest.trim_start_matches([' ', '\t', '\u{c}'])))
            })
            .collect()
    }

    fn unescape(text: &str) -> String {
        let mut units: Vec<u16> = Vec::new();
        let mut chars = text.chars();
        while let Some(c) = chars.next() {
            let c = if c == '\\' {
                chars.next().unwrap()
            } else {
                units.extend(c.encode_utf16(&mut [0; 2]).iter());
                continue;
            };
            match c {
                'u' => units.push(u16::from_str_radix(&chars.by_ref().take(4).collect::<String>(), 16).unwrap()),
                't' => units.push(9),
                'n' => units.push(10),
                'r' => units.push(13),
                'f' => units.push(12),
                c => units.extend(c.encode_utf16(&mut [0; 2]).iter()),
            }
        }
        String::from_utf16(&units).unwrap()
    }

    #[test]
    fn properties_format_matches_java_store() {
        for (data, expected) in [
            ("{}", ""),
            (r#"{"b":1.50,"a":{"x": "y"}}"#, "a={\"x\"\\:\"y\"}\nb=1.50\n"),
            (r#"{" a b ":"  c d "}"#, "\\ a\\ b\\ =\\  c d \n"),
            (r##"{"a:b=c#d!e\\":"#!=:\\"}"##, "a\\:b\\=c\\#d\\!e\\\\=\\#\\!\\=\\:\\\\\n"),
            (r#"{"é":"ü😀\u007f\u0000"}"#, "\\u00E9=\\u00FC\\uD83D\\uDE00\\u007F\\u0000\n"),
            (r#"{"a\tb":"c\nd\re\f"}"#, "a\\tb=c\\nd\\re\\f\n"),
            (r#"{"":""}"#, "=\n"),
        ] {
            assert_eq!(properties_file(data), expected);
        }
    }

    proptest! {
        #[test]
        fn properties_format_round_trips(members in proptest::collection::btree_map("[ -~\t\n\r\u{c}é😀]{0,8}|\\PC{0,5}", "[ =:#!\\\\\t\n\r\u{c}a]{0,8}|.{0,8}", 0..5)) {
            let file = properties_file(&serde_json::json!(members).to_string());
            prop_assert!(file.is_ascii());
            prop_assert_eq!(load(&file), members);
        }
    }
}
