//! Styles of human-readable output on a terminal. Elsewhere the output is plain.
//!
//! Text is always painted, and written through [`stdout`] or [`stderr`], which remove the colour unless the stream is a
//! terminal with colours, as clap does for its help. `NO_COLOR`, `CLICOLOR_FORCE` and `CLICOLOR` override this, in this order.

use std::{
    fmt::{self, Display},
    io::{StderrLock, StdoutLock},
};

use anstream::AutoStream;
use anstyle::{AnsiColor, Style};

/// Success.
pub const OK: Style = AnsiColor::Green.on_default();
/// Warnings.
pub const WARNING: Style = AnsiColor::Yellow.on_default();
/// Errors.
pub const ERROR: Style = AnsiColor::Red.on_default().bold();
/// Skipped steps.
pub const SKIPPED: Style = AnsiColor::Cyan.on_default();
/// Headings, including those of tables.
pub const HEADING: Style = Style::new().bold();
/// Secondary text: positions in files, requests, IDs beside a title.
pub const SECONDARY: Style = Style::new().dimmed();

/// Text in a style. Width and alignment count visible characters: `{:<8}` pads the text.
pub struct StyledText<T>(Style, T);

/// Puts text in a style. Nested paint ends the outer style.
#[must_use]
pub fn paint<T: Display>(style: Style, text: T) -> StyledText<T> {
    StyledText(style, text)
}

impl<T: Display> Display for StyledText<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0.render())?;
        self.1.fmt(f)?;
        write!(f, "{}", self.0.render_reset())
    }
}

/// Line width of human-readable output, in columns.
pub const LINE_WIDTH: usize = 100;

/// Wraps words into lines of at most [`LINE_WIDTH`] columns. The first line starts at column `indent`; the others are indented by it.
#[must_use]
pub fn wrap_words(input: &str, indent: usize) -> String {
    let (mut text, mut column) = (String::new(), indent);
    for word in input.split_whitespace() {
        let length = word.chars().count();
        if text.is_empty() {
            column += length;
        } else if column + 1 + length > LINE_WIDTH {
            text.push('\n');
            text.extend(std::iter::repeat_n(' ', indent));
            column = indent + length;
        } else {
            text.push(' ');
            column += 1 + length;
        }
        text.push_str(word);
    }
    text
}

/// Returns standard output for painted text. Byte-exact output goes to [`std::io::stdout`].
#[must_use]
pub fn stdout() -> AutoStream<StdoutLock<'static>> {
    anstream::stdout().lock()
}

/// Returns standard error for painted text.
#[must_use]
pub fn stderr() -> AutoStream<StderrLock<'static>> {
    anstream::stderr().lock()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wrapped_lines_fit_line_width() {
        let text = wrap_words(&"word ".repeat(50), 4);
        assert!(text.lines().skip(1).all(|line| line.starts_with("    word") && line.len() <= LINE_WIDTH), "{text}");
        assert!(
            text.lines().next().is_some_and(|line| line.starts_with("word") && line.len() + 4 <= LINE_WIDTH),
            "{text}"
        );
        assert_eq!(text.split_whitespace().count(), 50);
    }

    #[test]
    fn paint_padding_counts_visible_characters() {
        assert_eq!(format!("{:<4}|", paint(OK, "ok")), "\u{1b}[32mok  \u{1b}[0m|");
        assert_eq!(anstream::adapter::strip_str(&format!("{:>4}|", paint(ERROR, 7))).to_string(), "   7|");
    }
}
