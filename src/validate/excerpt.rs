//! Excerpt of a finding: its line, bounded in length, with possible secrets redacted.

use super::span::Span;
use crate::text::is_terminal_control;

/// Limits the length of a line that an excerpt displays in full, in characters. From a longer line, such as JSON without line
/// breaks, the excerpt displays only the span.
const MAX_EXCERPT_CHARS: usize = 200;

/// Replaces a redacted value.
const REDACTED: &str = "***";

/// A line and the span of it that a finding concerns.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Excerpt {
    /// The line. Spaces replace tabs, other control characters and invisible characters.
    pub text: String,
    /// The number of characters before the span.
    pub offset: usize,
    /// The length of the span in characters, at least 1.
    pub length: usize,
}

impl Excerpt {
    pub(super) fn new(line: &str, span: Span, redacted: &[Span]) -> Self {
        let (from, to) = (span.start.column - 1, span.end_column - 1);
        let fits = line.len() <= 4 * MAX_EXCERPT_CHARS && line.chars().count() <= MAX_EXCERPT_CHARS;
        let (start, length) =
            if fits { (0, MAX_EXCERPT_CHARS) } else { (from, to.saturating_sub(from).min(MAX_EXCERPT_CHARS)) };
        let letters = line_chars(line, start, length);
        let (from, to) = ((from - start).min(letters.len()), (to - start).min(letters.len()));
        let shown_end = start + letters.len();
        let redacted_ranges: Vec<_> = redacted
            .iter()
            .map(|span| span.start.column - 1..span.end_column - 1)
            .filter(|range| range.start < shown_end && range.end > start)
            .map(|range| range.start.saturating_sub(start)..range.end - start)
            .collect();
        let mut text: Vec<char> = Vec::new();
        let mut redacted_at: Option<usize> = None;
        let (mut offset, mut end) = (None, None);
        text.extend((!fits).then_some('…'));
        for (at, letter) in letters.iter().enumerate() {
            let char_offset = if redacted_ranges.iter().any(|range| range.contains(&at)) {
                *redacted_at.get_or_insert_with(|| {
                    text.extend(REDACTED.chars());
                    text.len() - REDACTED.len()
                })
            } else {
                redacted_at = None;
                text.push(if is_terminal_control(*letter) { ' ' } else { *letter });
                text.len() - 1
            };
            if at == from {
                offset = Some(char_offset);
            }
            if at < to {
                end = Some(text.len());
            }
        }
        let offset = offset.unwrap_or(text.len());
        let length = end.unwrap_or_default().saturating_sub(offset).max(1);
        text.extend((!fits).then_some('…'));
        Self { text: text.into_iter().collect::<String>().trim_end().to_owned(), offset, length }
    }
}

/// Returns `length` characters of a line from `start`. In an ASCII line each character is a byte, so a long line such as JSON
/// needs no counting.
fn line_chars(line: &str, start: usize, length: usize) -> Vec<char> {
    if line.is_ascii() {
        line.get(start..).unwrap_or_default().chars().take(length).collect()
    } else {
        line.chars().skip(start).take(length).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::yaml::Position;

    fn span(from: usize, to: usize) -> Span {
        Span { start: Position { line: 1, column: from + 1 }, end_column: to + 1 }
    }

    fn excerpt(line: &str, piece: (usize, usize), hidden: &[(usize, usize)]) -> (String, usize, usize) {
        let hidden: Vec<_> = hidden.iter().map(|(from, to)| span(*from, *to)).collect();
        let Excerpt { text, offset, length } = Excerpt::new(line, span(piece.0, piece.1), &hidden);
        (text, offset, length)
    }

    #[test]
    fn excerpt_redacts_spans_and_adjusts_offset() {
        let line = "a: hunter2, b: x";
        assert_eq!(excerpt(line, (15, 16), &[(3, 10)]), ("a: ***, b: x".into(), 11, 1));
        assert_eq!(excerpt(line, (3, 10), &[(3, 10)]), ("a: ***, b: x".into(), 3, 3));
        assert_eq!(excerpt(line, (5, 8), &[(3, 10)]), ("a: ***, b: x".into(), 3, 3));
        assert_eq!(excerpt(line, (0, 1), &[(3, 8), (5, 10)]), ("a: ***, b: x".into(), 0, 1));
        assert_eq!(excerpt("ä\tö", (2, 3), &[]), ("ä ö".into(), 2, 1));
        assert_eq!(excerpt("", (0, 5), &[]), (String::new(), 0, 1));
    }

    #[test]
    fn excerpt_of_long_line_shows_only_the_span() {
        let line = format!("{}kind{}", "x".repeat(300), "y".repeat(300));
        assert_eq!(excerpt(&line, (300, 304), &[]), ("…kind…".into(), 1, 4));
        assert_eq!(excerpt(&format!("ä{line}"), (301, 305), &[(0, 3), (303, 400)]), ("…ki***…".into(), 1, 5));
        assert_eq!(excerpt(&line, (700, 701), &[]), ("……".into(), 1, 1));
    }
}
