//! The line a finding is in, bounded, with what could be secret covered.

use super::source::Spot;
use crate::text::steers;

/// The longest line that is shown whole, in characters; of a longer one, as of JSON without line breaks, only the piece.
const LONGEST: usize = 200;

/// What stands for a covered value.
const COVER: &str = "***";

/// A line, and the piece of it that is meant.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Excerpt {
    /// The line; tabs, other controls and what else is not seen are spaces.
    pub text: String,
    /// How many characters stand before the piece.
    pub before: usize,
    /// How long the piece is, in characters; at least 1.
    pub length: usize,
}

impl Excerpt {
    pub(super) fn of(line: &str, spot: Spot, hidden: &[Spot]) -> Self {
        let (from, to) = (spot.at.column - 1, spot.end - 1);
        let whole = line.len() <= 4 * LONGEST && line.chars().count() <= LONGEST;
        let (start, length) = if whole { (0, LONGEST) } else { (from, to.saturating_sub(from).min(LONGEST)) };
        let letters = letters(line, start, length);
        let (from, to) = ((from - start).min(letters.len()), (to - start).min(letters.len()));
        let behind = start + letters.len();
        let hidden: Vec<_> = hidden
            .iter()
            .map(|spot| spot.at.column - 1..spot.end - 1)
            .filter(|range| range.start < behind && range.end > start)
            .map(|range| range.start.saturating_sub(start)..range.end - start)
            .collect();
        let mut text: Vec<char> = Vec::new();
        let mut cover: Option<usize> = None;
        let (mut before, mut end) = (None, None);
        text.extend((!whole).then_some('…'));
        for (at, letter) in letters.iter().enumerate() {
            let begins = if hidden.iter().any(|range| range.contains(&at)) {
                *cover.get_or_insert_with(|| {
                    text.extend(COVER.chars());
                    text.len() - COVER.len()
                })
            } else {
                cover = None;
                text.push(if steers(*letter) { ' ' } else { *letter });
                text.len() - 1
            };
            if at == from {
                before = Some(begins);
            }
            if at < to {
                end = Some(text.len());
            }
        }
        let before = before.unwrap_or(text.len());
        let length = end.unwrap_or_default().saturating_sub(before).max(1);
        text.extend((!whole).then_some('…'));
        Self { text: text.into_iter().collect::<String>().trim_end().to_owned(), before, length }
    }
}

/// Some characters of a line; of a long one, as JSON's, without counting if each is a byte.
fn letters(line: &str, start: usize, length: usize) -> Vec<char> {
    if line.is_ascii() {
        line.get(start..).unwrap_or_default().chars().take(length).collect()
    } else {
        line.chars().skip(start).take(length).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::yaml::At;

    fn spot(from: usize, to: usize) -> Spot {
        Spot { at: At { line: 1, column: from + 1 }, end: to + 1 }
    }

    fn excerpt(line: &str, piece: (usize, usize), hidden: &[(usize, usize)]) -> (String, usize, usize) {
        let hidden: Vec<_> = hidden.iter().map(|(from, to)| spot(*from, *to)).collect();
        let Excerpt { text, before, length } = Excerpt::of(line, spot(piece.0, piece.1), &hidden);
        (text, before, length)
    }

    #[test]
    fn what_is_covered_leaves_the_rest_in_place() {
        let line = "a: hunter2, b: x";
        assert_eq!(excerpt(line, (15, 16), &[(3, 10)]), ("a: ***, b: x".into(), 11, 1));
        assert_eq!(excerpt(line, (3, 10), &[(3, 10)]), ("a: ***, b: x".into(), 3, 3));
        assert_eq!(excerpt(line, (5, 8), &[(3, 10)]), ("a: ***, b: x".into(), 3, 3));
        assert_eq!(excerpt(line, (0, 1), &[(3, 8), (5, 10)]), ("a: ***, b: x".into(), 0, 1));
        assert_eq!(excerpt("ä\tö", (2, 3), &[]), ("ä ö".into(), 2, 1));
        assert_eq!(excerpt("", (0, 5), &[]), (String::new(), 0, 1));
    }

    #[test]
    fn of_a_long_line_only_the_piece_is_shown() {
        let line = format!("{}kind{}", "x".repeat(300), "y".repeat(300));
        assert_eq!(excerpt(&line, (300, 304), &[]), ("…kind…".into(), 1, 4));
        assert_eq!(excerpt(&format!("ä{line}"), (301, 305), &[(0, 3), (303, 400)]), ("…ki***…".into(), 1, 5));
        assert_eq!(excerpt(&line, (700, 701), &[]), ("……".into(), 1, 1));
    }
}
