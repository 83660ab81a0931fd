//! Part of a line, the unit in which findings and redactions are located.

use crate::yaml::Position;

/// A part of one line, to which an excerpt points.
#[derive(Clone, Copy)]
pub(super) struct Span {
    pub(super) start: Position,
    pub(super) end_column: usize,
}

impl Span {
    /// Limits the span to the lines of a text. A span after the last line with content moves to the end of that line, because
    /// content that is missing at the end of a text is reported there.
    pub(super) fn clamped_to(self, lines: &[&str]) -> Self {
        let last = lines.iter().rposition(|line| !line.trim().is_empty()).unwrap_or_default();
        if self.start.line <= last + 1 {
            return self;
        }
        let column = lines.get(last).map_or(1, |line| line.trim_end().chars().count() + 1);
        Self { start: Position { line: last + 1, column }, end_column: column + 1 }
    }
}
