//! Text helpers: single bounded lines, quoting, terminal control characters, Go's booleans, suggestions for mistyped names.

/// Returns `text` as one line of at most `max` bytes. Runs of white space and of [terminal control](is_terminal_control)
/// characters become one space.
#[must_use]
pub fn one_line(text: &str, max: usize) -> String {
    let mut line = String::with_capacity(text.len().min(max));
    for word in text.split(|c: char| c.is_whitespace() || is_terminal_control(c)).filter(|w| !w.is_empty()) {
        if !line.is_empty() {
            line.push(' ');
        }
        line.push_str(word);
        if line.len() > max {
            let mut cut = max.saturating_sub('…'.len_utf8());
            while !line.is_char_boundary(cut) {
                cut -= 1;
            }
            line.truncate(cut);
            line.push('…');
            break;
        }
    }
    line
}

/// Maximum length in bytes of a tenant's name or word in a message.
pub const MAX_QUOTED_BYTES: usize = 80;
/// Maximum length of a message of the system or of a library that an error repeats.
pub const MAX_MESSAGE_BYTES: usize = 200;

/// Returns a tenant's name or word in quotes, with limited length and escaped control characters. Leading and trailing blanks
/// become one space each, because they may be the only mistake.
#[must_use]
pub fn quote(text: &str) -> String {
    let is_blank = |c: char| c.is_whitespace() || is_terminal_control(c);
    let line = one_line(text, MAX_QUOTED_BYTES);
    let leading = if text.starts_with(is_blank) { " " } else { "" };
    let trailing = if text.ends_with(is_blank) && !line.is_empty() { " " } else { "" };
    format!("{:?}", format!("{leading}{line}{trailing}"))
}

/// Returns true for an invisible character that changes the visible text: it moves the cursor, sets colors, reverses the writing
/// direction, or joins and separates other characters. These are the characters without a glyph in Unicode's categories Cc, Cf,
/// Zl and Zp.
#[must_use]
pub fn is_terminal_control(c: char) -> bool {
    let format = matches!(c,
        '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}'
        | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{1d173}'..='\u{1d17a}' | '\u{e0000}'..='\u{e007f}');
    format || c.is_control()
}

/// Returns `text` for a terminal, with [terminal control](is_terminal_control) characters replaced by U+FFFD.
#[must_use]
pub fn replace_control_chars(text: &str) -> String {
    text.chars().map(|c| if is_terminal_control(c) { char::REPLACEMENT_CHARACTER } else { c }).collect()
}

/// Parses the values that Go's `strconv.ParseBool` accepts.
#[must_use]
pub fn parse_go_bool(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

/// Maximum length in bytes of a compared name, and maximum number of candidates. Tenants may control both.
const COMPARISON_LIMITS: (usize, usize) = (128, 500);

/// Returns the suggestion for a mistyped name, if a candidate is close enough: one letter in three may differ.
///
/// `None` for names longer than 128 bytes. Only the first 500 candidates are compared.
#[must_use]
pub fn closest_match<'a>(name: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let (max_bytes, max_names) = COMPARISON_LIMITS;
    if name.len() > max_bytes {
        return None;
    }
    let lower = name.to_lowercase();
    let candidates = candidates.into_iter().take(max_names).filter(|k| k.len() <= max_bytes);
    candidates
        .map(|k| (strsim::damerau_levenshtein(&lower, &k.to_lowercase()), k))
        .min_by_key(|(distance, _)| *distance)
        .filter(|(distance, k)| *distance * 3 <= k.len())
        .map(|(_, k)| k)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_joins_lines_and_truncates() {
        assert_eq!(
            one_line("1 error occurred:\n\t* permission denied\n\n", 300),
            "1 error occurred: * permission denied"
        );
        assert_eq!(one_line("äääää", 7), "ää…");
        assert_eq!(one_line(" \n", 7), "");
    }

    #[test]
    fn quote_is_bounded_and_on_one_line() {
        assert_eq!(quote("a\n\"b\""), r#""a \"b\"""#);
        assert!(quote(&"x".repeat(5000)).len() < 100);
        for (text, shown) in [("vault ", "vault "), ("\t ldap", " ldap"), (" \n", " "), ("a\u{200b}", "a "), ("", "")] {
            assert_eq!(quote(text), format!("\"{shown}\""), "{text:?}");
        }
    }

    #[test]
    fn terminal_control_chars_are_replaced() {
        assert_eq!(replace_control_chars("a\u{1b}[31mb\u{9b}1m\nc ä"), "a�[31mb�1m�c ä");
        assert_eq!(replace_control_chars("a\u{202e}b\u{2066}c\u{200b}d\u{feff}é-中"), "a�b�c�d�é-中");
        assert_eq!(one_line("a\u{202e}b\u{2066}\u{200b}c", 80), "a b c");
    }

    #[test]
    fn parse_go_bool_accepts_only_go_spellings() {
        for (text, value) in [("1", Some(true)), ("T", Some(true)), ("False", Some(false)), ("yes", None), ("", None)] {
            assert_eq!(parse_go_bool(text), value, "{text}");
        }
    }

    #[test]
    fn closest_match_allows_one_typo_in_three_letters() {
        assert_eq!(closest_match("secretkey", ["secretKey", "secretPath"]), Some("secretKey"));
        assert_eq!(closest_match("vaultAdress", ["vaultAddress", "roleName"]), Some("vaultAddress"));
        assert_eq!(closest_match("zzz", ["vaultAddress", "roleName"]), None);
        assert_eq!(
            (closest_match("a", ["b"]), closest_match("A", ["a"]), closest_match("ab", ["abc"])),
            (None, Some("a"), Some("abc"))
        );
    }

    #[test]
    fn closest_match_limits_name_length_and_count() {
        let long = "x".repeat(129);
        assert_eq!((closest_match(&long, [long.as_str()]), closest_match(&long[2..], [long.as_str()])), (None, None));
        assert_eq!(closest_match(&long[2..], [&long[1..]]), Some(&long[1..]));
        let compared = std::cell::Cell::new(0);
        let crowd = ["other"; 600].into_iter().inspect(|_| compared.set(compared.get() + 1));
        assert_eq!((closest_match("name", crowd.chain(["name"])), compared.get()), (None, 500));
    }
}
