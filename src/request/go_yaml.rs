//! Plain YAML scalars as Go's yaml.v3 resolves them. Its rules follow neither YAML 1.1 nor 1.2, and the meaning of a
//! class depends on them: `0440` and `0o440` are octal, `1_000` is a number, `yes` is text, and `2030-01-01` is a time.

mod timestamp;

use super::go_json::GoValue;

/// Returns the value of a plain, untagged scalar, or `None` for `.inf` and `.nan`, which JSON cannot represent.
pub(super) fn resolve_scalar(text: &str) -> Option<GoValue> {
    Some(match text {
        "" | "~" | "null" | "Null" | "NULL" => GoValue::Null,
        "true" | "True" | "TRUE" => GoValue::Bool(true),
        "false" | "False" | "FALSE" => GoValue::Bool(false),
        ".nan" | ".NaN" | ".NAN" | ".inf" | ".Inf" | ".INF" | "+.inf" | "+.Inf" | "+.INF" | "-.inf" | "-.Inf"
        | "-.INF" => return None,
        _ => resolve_number_or_time(text).unwrap_or_else(|| GoValue::Text(text.into())),
    })
}

/// Returns the integer value of a plain scalar, or `None` if the scalar is not an integer.
pub(super) fn parse_integer(text: &str) -> Option<i128> {
    match resolve_number_or_time(text) {
        Some(GoValue::Int(number)) => Some(number),
        _ => None,
    }
}

fn resolve_number_or_time(text: &str) -> Option<GoValue> {
    match text.bytes().next()? {
        b'.' if underscores_separate_digits(text) => parse_float(&text.replace('_', "")).map(GoValue::Float),
        b'0'..=b'9' | b'+' | b'-' => {
            if let Some(time) = timestamp::parse(text) {
                return Some(GoValue::Text(time.into()));
            }
            let digits = text.replace('_', "");
            let number = parse_int(&digits).map(GoValue::Int);
            number
                .or_else(|| parse_float(&digits).map(GoValue::Float))
                .or_else(|| parse_int_with_inner_sign(&digits).map(GoValue::Int))
        }
        _ => None,
    }
}

/// Go's `ParseInt` and `ParseUint` with base 0: the prefix sets the base, and a bare leading 0 means octal.
fn parse_int(text: &str) -> Option<i128> {
    let (negative, digits) = match text.as_bytes() {
        [b'-', ..] => (true, &text[1..]),
        [b'+', ..] => (false, &text[1..]),
        _ => (false, text),
    };
    let magnitude = match digits.as_bytes() {
        [b'0', b'x' | b'X', ..] => parse_unsigned(&digits[2..], 16),
        [b'0', b'o' | b'O', ..] => parse_unsigned(&digits[2..], 8),
        [b'0', b'b' | b'B', ..] => parse_unsigned(&digits[2..], 2),
        [b'0', _, ..] => parse_unsigned(&digits[1..], 8),
        _ => parse_unsigned(digits, 10),
    }?;
    let signed = digits.len() < text.len();
    check_range(if negative { -magnitude } else { magnitude }, !signed)
}

/// Parses a sign after the prefix, as in `0b-1`, which yaml.v3 accepts after `ParseInt` has rejected it.
fn parse_int_with_inner_sign(text: &str) -> Option<i128> {
    let (minus, rest) = text.strip_prefix('-').map_or(("", text), |rest| ("-", rest));
    let (radix, digits) = match rest.get(..2)? {
        "0b" => (2, &rest[2..]),
        "0o" => (8, &rest[2..]),
        _ => return None,
    };
    let text = format!("{minus}{digits}");
    let (negative, digits) = match text.as_bytes() {
        [b'-', ..] => (true, &text[1..]),
        [b'+', ..] => (false, &text[1..]),
        _ => (false, text.as_str()),
    };
    let magnitude = parse_unsigned(digits, radix)?;
    check_range(if negative { -magnitude } else { magnitude }, false)
}

fn parse_unsigned(digits: &str, radix: u32) -> Option<i128> {
    // Reject signs here, because Rust's parser accepts them.
    digits.chars().all(|c| c.is_digit(radix)).then(|| i128::from_str_radix(digits, radix).ok())?
}

/// Limits a number to the range of `int64`, or up to that of `uint64` if it has no sign.
fn check_range(number: i128, allow_unsigned: bool) -> Option<i128> {
    let max = if allow_unsigned { i128::from(u64::MAX) } else { i128::from(i64::MAX) };
    (i128::from(i64::MIN)..=max).contains(&number).then_some(number)
}

/// Returns true if every underscore is between two digits, Go's rule for floats. In scalars that start with a digit or
/// sign, yaml.v3 drops underscores at any position.
fn underscores_separate_digits(text: &str) -> bool {
    let digit = |at: Option<usize>| at.and_then(|at| text.as_bytes().get(at)).is_some_and(u8::is_ascii_digit);
    text.match_indices('_').all(|(at, _)| digit(at.checked_sub(1)) && digit(at.checked_add(1)))
}

/// Parses a decimal with optional fraction and exponent. A number that overflows stays text, as in yaml.v3.
fn parse_float(text: &str) -> Option<f64> {
    let body = text.strip_prefix(['-', '+']).unwrap_or(text);
    let (mantissa, exponent) = body.split_once(['e', 'E']).unwrap_or((body, "0"));
    let (before, after) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let digits = |text: &str| text.bytes().all(|b| b.is_ascii_digit());
    let exponent = exponent.strip_prefix(['-', '+']).unwrap_or(exponent);
    let is_well_formed = digits(before) && digits(after) && !(before.is_empty() && after.is_empty());
    if !is_well_formed || exponent.is_empty() || !digits(exponent) {
        return None;
    }
    text.parse().ok().filter(|number: &f64| number.is_finite())
}

#[cfg(test)]
mod tests;
