//! `objects`: from a place in its text to the place in the file.

use super::source::{NON_SECRET_KEYS, SourceFile, Span};
use crate::{
    request::{FindingLocation, OBJECT_FIELDS},
    yaml::{
        Budget, Position,
        node::{self, Node, Offset, Value},
    },
};

/// The text of `objects` where it stands in a file.
pub(super) struct ObjectsSource<'a> {
    value: &'a Node,
    text: &'a str,
    /// The list, if it can be read.
    list: Option<Node>,
    literal: Option<LiteralBlock>,
}

/// A block whose lines stand in the file as they are, indented.
struct LiteralBlock {
    /// What to add to a line of the text, which may be less than nothing when the text begins with empty lines.
    first_line: usize,
    leading_blank_lines: usize,
    indent: usize,
}

impl<'a> ObjectsSource<'a> {
    /// Nothing if `value` is no text.
    pub(super) fn new(value: &'a Node, source: &SourceFile<'_>) -> Option<Self> {
        let text = value.as_text()?;
        let list = node::parse(text, Offset::default(), Budget::OBJECTS).ok();
        Some(Self { value, text, list, literal: LiteralBlock::detect(value, text, source) })
    }

    /// Where an object's field, or a position in the text, is in the file. `key` is wanted, or else the value.
    pub(super) fn span(&self, location: &FindingLocation, prefer_key: bool, source: &SourceFile<'_>) -> Span {
        let span_in_text = match location {
            FindingLocation::Object(entry, fields, None) => self.field_span(entry.index, fields.last(), prefer_key),
            place => {
                let lines: Vec<&str> = self.text.lines().collect();
                place.position().map(|at| Span { start: at, end_column: at.column + 1 }.clamped_to(&lines))
            }
        };
        span_in_text.and_then(|spot| self.to_file_span(spot)).unwrap_or_else(|| source.span(self.value))
    }

    /// Whether positions in the text are positions in the file.
    pub(super) fn is_literal(&self) -> bool {
        self.literal.is_some()
    }

    /// Keeps arguments, and whatever else might be one, out of excerpts.
    pub(super) fn redact_arguments(&self, source: &mut SourceFile<'_>) {
        let mut redacted = Vec::new();
        match (&self.list, &self.literal) {
            (None, Some(literal)) => {
                let first = literal.first_line.saturating_sub(literal.leading_blank_lines);
                source.redact_line_values(first..first + self.text.lines().count(), &NON_SECRET_KEYS);
            }
            (None, None) => source.redact_node(self.value),
            (Some(list), _) => collect_arguments(list, 0, &mut redacted),
        }
        for (node, part) in redacted {
            if self.literal.is_none() {
                return source.redact_node(self.value);
            }
            self.part_spans(node, part)
                .into_iter()
                .filter_map(|spot| self.to_file_span(spot))
                .for_each(|spot| source.redact(spot));
        }
    }

    fn field_span(&self, index: usize, field: Option<&String>, prefer_key: bool) -> Option<Span> {
        let item = self.list.as_ref()?.items().get(index)?;
        let node = match field.and_then(|field| item.entry(field)) {
            Some((name, value)) => {
                if prefer_key || value.is_null() {
                    name
                } else {
                    value
                }
            }
            None => item.get("objectName").unwrap_or(item),
        };
        self.line_spans(node).into_iter().next()
    }

    /// The lines of what may not be shown of a node.
    fn part_spans(&self, node: &Node, part: RedactedPart) -> Vec<Span> {
        let mut lines = self.line_spans(node);
        let text = self.text.get(node.span.clone()).unwrap_or_default();
        if let (RedactedPart::Query, Some((path, _))) = (part, text.split_once('?')) {
            lines.drain(..path.matches('\n').count());
            let before = path.rsplit('\n').next().unwrap_or_default().chars().count();
            lines.iter_mut().take(1).for_each(|first| first.start.column += before + 1);
        }
        lines
    }

    /// The lines of a node in the text; of a list or mapping where it begins.
    fn line_spans(&self, node: &Node) -> Vec<Span> {
        let text = self.text.get(node.span.clone()).unwrap_or_default();
        let start = Span { start: node.position, end_column: node.position.column + 1 };
        if text.is_empty() || matches!(node.value, Value::List(_) | Value::Map(_)) {
            return vec![start];
        }
        let mut column = node.position.column;
        text.lines()
            .enumerate()
            .map(|(index, line)| {
                let at = Position { line: node.position.line + index, column };
                column = 1;
                Span { start: at, end_column: at.column + line.chars().count().max(1) }
            })
            .collect()
    }

    fn to_file_span(&self, span: Span) -> Option<Span> {
        let literal = self.literal.as_ref()?;
        let line = (literal.first_line + span.start.line).checked_sub(literal.leading_blank_lines + 1)?;
        let at = Position { line, column: span.start.column + literal.indent };
        Some(Span { start: at, end_column: span.end_column + literal.indent })
    }
}

impl LiteralBlock {
    /// The parser says where the first line that is not empty begins. The rest is compared, so that a text with folds,
    /// quotes or escapes is none.
    fn detect(value: &Node, text: &str, source: &SourceFile<'_>) -> Option<Self> {
        let quoted = source.text.get(value.span.start..).is_some_and(|text| text.starts_with(['"', '\'']));
        if quoted {
            return None;
        }
        let leading_blank_lines = text.lines().position(|line| !line.trim().is_empty())?;
        let literal = Self { first_line: value.position.line, leading_blank_lines, indent: value.position.column - 1 };
        let is_verbatim = text.lines().enumerate().skip(leading_blank_lines).all(|(index, line)| {
            let in_file = source.lines.get(literal.first_line + index - leading_blank_lines - 1);
            in_file.is_some_and(|whole| {
                whole.trim().is_empty() && line.is_empty() || whole.chars().skip(literal.indent).eq(line.chars())
            })
        });
        is_verbatim.then_some(literal)
    }
}

/// How much of a value may be an argument.
#[derive(Clone, Copy)]
enum RedactedPart {
    Whole,
    /// What stands behind the question mark of a path.
    Query,
}

/// The values that may be arguments: all but those of an object's known fields, `secretArgs` and what a path asks for
/// excepted.
fn collect_arguments<'n>(node: &'n Node, depth: usize, redacted: &mut Vec<(&'n Node, RedactedPart)>) {
    match &node.value {
        Value::List(items) => items.iter().for_each(|item| collect_arguments(item, depth + 1, redacted)),
        Value::Map(entries) => {
            for (key, value) in entries {
                let known = key.as_text().is_some_and(|key| key != "secretArgs" && OBJECT_FIELDS.contains(&key));
                let shown = depth == 1 && known && !matches!(value.value, Value::List(_) | Value::Map(_));
                if !shown {
                    collect_arguments(value, depth + 2, redacted);
                } else if value.as_text().is_some_and(has_query_arguments) {
                    redacted.push((value, RedactedPart::Query));
                }
            }
        }
        Value::Null => {}
        Value::Bool(_) | Value::Number | Value::Text(_) => redacted.push((node, RedactedPart::Whole)),
    }
}

/// Whether a path asks for more than a version, which is the one parameter that is no argument.
fn has_query_arguments(path: &str) -> bool {
    let is_version = |query: &str| {
        query.strip_prefix("version=").is_some_and(|number| number.bytes().all(|digit| digit.is_ascii_digit()))
    };
    path.split_once('?').is_some_and(|(_, query)| !is_version(query))
}
