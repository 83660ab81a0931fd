//! Positions in the `objects` text, and their positions in the manifest file.

use super::{
    source::{NON_SECRET_KEYS, SourceFile},
    span::Span,
};
use crate::{
    request::{FindingLocation, OBJECT_FIELDS},
    yaml::{
        Budget, Position,
        node::{self, Node, Offset, Value},
    },
};

/// The text of `objects` with its position in a file.
pub(super) struct ObjectsSource<'a> {
    value: &'a Node,
    text: &'a str,
    /// The parsed list, if the text is valid YAML.
    list: Option<Node>,
    literal: Option<LiteralBlock>,
}

/// A literal block: its lines appear verbatim in the file, indented.
struct LiteralBlock {
    /// The line in the file of the first line with content. The offset of text lines to file lines follows from it and may be
    /// negative if the text begins with empty lines.
    first_line: usize,
    /// The number of empty lines at the beginning of the text.
    leading_blank_lines: usize,
    indent: usize,
}

impl<'a> ObjectsSource<'a> {
    /// Returns nothing if `value` is not text.
    pub(super) fn new(value: &'a Node, source: &SourceFile<'_>) -> Option<Self> {
        let text = value.as_text()?;
        let list = node::parse(text, Offset::default(), Budget::OBJECTS).ok();
        Some(Self { value, text, list, literal: LiteralBlock::detect(value, text, source) })
    }

    /// Returns the span in the file of an object's field or of a position in the text. `prefer_key` selects the key of a field
    /// instead of its value.
    pub(super) fn span(&self, location: &FindingLocation, prefer_key: bool, source: &SourceFile<'_>) -> Span {
        let span_in_text = match location {
            FindingLocation::Object(entry, fields, None) => self.field_span(entry.index, fields.last(), prefer_key),
            location => {
                let lines: Vec<&str> = self.text.lines().collect();
                location.position().map(|at| Span { start: at, end_column: at.column + 1 }.clamped_to(&lines))
            }
        };
        span_in_text.and_then(|span| self.to_file_span(span)).unwrap_or_else(|| source.span(self.value))
    }

    /// Returns true if each position in the text has a position in the file.
    pub(super) fn is_literal(&self) -> bool {
        self.literal.is_some()
    }

    /// Redacts arguments, and values that could be arguments, in excerpts.
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
                .filter_map(|span| self.to_file_span(span))
                .for_each(|span| source.redact(span));
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

    /// Returns the spans of the part of a node that is redacted, one per line.
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

    /// Returns the spans of a node in the text, one per line. A list or mapping has only the span of its beginning.
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
    /// Detects a literal block. The parser provides the position of the first line that is not empty. The other lines are compared
    /// with the file, so a text with folds, quotes or escapes is not a literal block.
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

/// The part of a value that may be an argument.
#[derive(Clone, Copy)]
enum RedactedPart {
    Whole,
    /// The part after the question mark of a path.
    Query,
}

/// Collects the values that may be arguments. The values of an object's known fields are not, except for `secretArgs` and the
/// query of a path.
fn collect_arguments<'n>(node: &'n Node, depth: usize, redacted: &mut Vec<(&'n Node, RedactedPart)>) {
    match &node.value {
        Value::List(items) => items.iter().for_each(|item| collect_arguments(item, depth + 1, redacted)),
        Value::Map(entries) => {
            for (key, value) in entries {
                let known = key.as_text().is_some_and(|key| key != "secretArgs" && OBJECT_FIELDS.contains(&key));
                let is_visible = depth == 1 && known && !matches!(value.value, Value::List(_) | Value::Map(_));
                if !is_visible {
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

/// Returns true if the query of a path holds more than a version, the only query parameter that is not an argument.
fn has_query_arguments(path: &str) -> bool {
    let is_version = |query: &str| {
        query.strip_prefix("version=").is_some_and(|number| number.bytes().all(|digit| digit.is_ascii_digit()))
    };
    path.split_once('?').is_some_and(|(_, query)| !is_version(query))
}
