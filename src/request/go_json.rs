//! Values as Go's decoder produces them, written as Go's `encoding/json` writes them. Object versions are computed from
//! these bytes.

use std::{collections::BTreeMap, fmt::Write as _};

use zeroize::Zeroizing;

use crate::secret::SecretText;

/// A value of `secretArgs`. It may be secret, so it has no `Debug`.
#[derive(PartialEq)]
pub(super) enum GoValue {
    Null,
    Bool(bool),
    /// A value of Go's `int`, `int64` or `uint64`.
    Int(i128),
    /// A finite number, because JSON has no others.
    Float(f64),
    Text(SecretText),
    List(Vec<GoValue>),
    /// A map sorted bytewise, as Go sorts keys.
    Map(GoMap),
}

/// Values by name.
pub(super) type GoMap = BTreeMap<String, GoValue>;

/// Builder of JSON for a [`SecretText`]. Zeroes its buffer, including the old one when it grows.
#[derive(Default)]
pub(super) struct JsonWriter(Zeroizing<String>);

impl From<JsonWriter> for SecretText {
    /// Copies the text into a buffer of exact size, because the result is long-lived.
    fn from(json: JsonWriter) -> Self {
        json.0.as_str().into()
    }
}

impl JsonWriter {
    /// Appends text that needs no escaping.
    pub(super) fn push_raw(&mut self, text: &str) {
        let needed = self.0.len() + text.len();
        if needed > self.0.capacity() {
            let mut larger = Zeroizing::new(String::with_capacity(needed.next_power_of_two().max(128)));
            larger.push_str(&self.0);
            self.0 = larger;
        }
        self.0.push_str(text);
    }

    /// Appends a string, with the same characters escaped as in Go, including `<`, `>` and `&`.
    pub(super) fn push_string(&mut self, text: &str) {
        self.push_raw("\"");
        let mut unescaped_from = 0;
        for (at, c) in text.char_indices() {
            let mut unicode = String::new();
            let escaped = match c {
                '"' => "\\\"",
                '\\' => "\\\\",
                '\u{8}' => "\\b",
                '\u{c}' => "\\f",
                '\n' => "\\n",
                '\r' => "\\r",
                '\t' => "\\t",
                '<' | '>' | '&' | '\u{2028}' | '\u{2029}' | '\0'..='\u{1f}' => {
                    // Writing to a string cannot fail.
                    let _ = write!(unicode, "\\u{:04x}", u32::from(c));
                    unicode.as_str()
                }
                _ => continue,
            };
            self.push_raw(&text[unescaped_from..at]);
            self.push_raw(escaped);
            unescaped_from = at + c.len_utf8();
        }
        self.push_raw(&text[unescaped_from..]);
        self.push_raw("\"");
    }

    /// Appends a map's entries between braces.
    pub(super) fn push_map(&mut self, map: &GoMap) {
        self.push_sequence("{}", map, |json, (name, value)| {
            json.push_string(name);
            json.push_raw(":");
            json.push_value(value);
        });
    }

    fn push_value(&mut self, value: &GoValue) {
        match value {
            GoValue::Null => self.push_raw("null"),
            GoValue::Bool(word) => self.push_raw(if *word { "true" } else { "false" }),
            GoValue::Int(number) => self.push_raw(&Zeroizing::new(number.to_string())),
            GoValue::Float(number) => self.push_raw(&Zeroizing::new(format_float(*number))),
            GoValue::Text(text) => self.push_string(text.expose()),
            GoValue::List(list) => self.push_sequence("[]", list, Self::push_value),
            GoValue::Map(map) => self.push_map(map),
        }
    }

    fn push_sequence<T>(
        &mut self,
        brackets: &str,
        items: impl IntoIterator<Item = T>,
        mut write: impl FnMut(&mut Self, T),
    ) {
        self.push_raw(&brackets[..1]);
        for (i, item) in items.into_iter().enumerate() {
            if i > 0 {
                self.push_raw(",");
            }
            write(self, item);
        }
        self.push_raw(&brackets[1..]);
    }
}

/// Formats a float as Go's encoder does: the fewest digits that round-trip, with an exponent below 1e-6 and from 1e21.
pub(super) fn format_float(number: f64) -> String {
    let sign = if number.is_sign_negative() { "-" } else { "" };
    let size = number.abs();
    let count = format!("{size:e}").split('e').next().map_or(1, |mantissa| mantissa.replace('.', "").len());
    // Among the shortest numbers that round-trip, Go chooses the nearest, and the even one of two. Rust chooses the
    // upper.
    let scientific = format!("{size:.*e}", count - 1);
    let (mantissa, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or_default();
    if size != 0.0 && !(1e-6..1e21).contains(&size) {
        return format!("{sign}{mantissa}e{exponent:+}");
    }
    let mut digits = mantissa.replace('.', "");
    let Ok(whole) = usize::try_from(exponent) else {
        let zeros = "0".repeat(usize::try_from(-1 - exponent).unwrap_or_default());
        return format!("{sign}0.{zeros}{digits}");
    };
    if digits.len() <= whole + 1 {
        digits.push_str(&"0".repeat(whole + 1 - digits.len()));
    } else {
        digits.insert(whole + 1, '.');
    }
    format!("{sign}{digits}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn to_json(value: &GoValue) -> String {
        let mut json = JsonWriter::default();
        json.push_value(value);
        SecretText::from(json).expose().to_owned()
    }

    /// Values checked against Go 1.26.
    #[test]
    fn go_json_strings_are_escaped_like_go() {
        for (text, want) in [
            ("", r#""""#),
            ("a/b é 🔑 \u{7f}\u{80}", "\"a/b é 🔑 \u{7f}\u{80}\""),
            (r#"a"b\c"#, r#""a\"b\\c""#),
            ("<a>&", r#""\u003ca\u003e\u0026""#),
            ("\u{8}\u{c}\n\r\t", r#""\b\f\n\r\t""#),
            ("\0\u{1}\u{b}\u{1f}", r#""\u0000\u0001\u000b\u001f""#),
            ("\u{2028}x\u{2029}", r#""\u2028x\u2029""#),
        ] {
            assert_eq!(to_json(&GoValue::Text(text.into())), want);
        }
    }

    /// Values checked against Go 1.26.
    #[test]
    fn go_json_numbers_are_formatted_like_go() {
        for (number, want) in [
            (0.0, "0"),
            (-0.0, "-0"),
            (1.0, "1"),
            (-1.5, "-1.5"),
            (0.1, "0.1"),
            (0.000_012_5, "0.0000125"),
            (611_577_661_195_324.2, "611577661195324.2"),
            (716_737_034_894_836.2, "716737034894836.2"),
            (9_007_199_254_740_993.0, "9007199254740992"),
            (1e20, "100000000000000000000"),
            (123_456_789_012_345_680_000.0, "123456789012345680000"),
            (1e21, "1e+21"),
            (-1.5e300, "-1.5e+300"),
            (1e-6, "0.000001"),
            (1e-7, "1e-7"),
            (-2.5e-9, "-2.5e-9"),
            (1e-10, "1e-10"),
            (5e-324, "5e-324"),
            (f64::MAX, "1.7976931348623157e+308"),
        ] {
            assert_eq!(to_json(&GoValue::Float(number)), want);
        }
        assert_eq!(to_json(&GoValue::Int(u64::MAX.into())), "18446744073709551615");
        assert_eq!(to_json(&GoValue::Int(i64::MIN.into())), "-9223372036854775808");
    }

    #[test]
    fn go_json_maps_are_sorted_bytewise_and_nest() {
        let map =
            |entries: Vec<(&str, GoValue)>| GoValue::Map(entries.into_iter().map(|(k, v)| (k.to_owned(), v)).collect());
        let value = map(vec![
            ("é", GoValue::Null),
            ("b", GoValue::List(vec![GoValue::Bool(true), GoValue::List(vec![]), map(vec![])])),
            ("B", GoValue::Bool(false)),
            ("a<", map(vec![("z", GoValue::Int(1))])),
        ]);
        assert_eq!(to_json(&value), r#"{"B":false,"a\u003c":{"z":1},"b":[true,[],{}],"é":null}"#);
    }
}
