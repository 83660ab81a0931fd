//! A file under validation: its findings, and the parts of it that excerpts must redact.

use std::ops::Range;

use super::{Excerpt, Input, ManifestFinding, Severity, span::Span};
use crate::{
    error::Cause,
    manifest::{DRIVER_MARKER, Document, NotText},
    policy,
    text::one_line,
    yaml::{
        ParseError, Position,
        node::{Node, Value},
    },
};

/// A file under validation, with its findings and redactions.
pub(super) struct SourceFile<'a> {
    pub(super) name: &'a str,
    pub(super) text: &'a str,
    pub(super) lines: Vec<&'a str>,
    /// The offset of each line, in bytes.
    line_starts: Vec<usize>,
    findings: Vec<(Severity, Cause, Span, String)>,
    /// Byte ranges that every excerpt redacts.
    redacted_bytes: Vec<Range<usize>>,
    /// Spans that every excerpt redacts.
    redacted_spans: Vec<Span>,
}

impl<'a> SourceFile<'a> {
    pub(super) fn new(input: &'a Input) -> Self {
        let text = input.text();
        let mut line_starts = vec![0];
        line_starts.extend(text.match_indices('\n').map(|(at, _)| at + 1));
        Self {
            name: &input.name,
            text,
            lines: text.lines().collect(),
            line_starts,
            findings: Vec::new(),
            redacted_bytes: Vec::new(),
            redacted_spans: Vec::new(),
        }
    }

    /// Reports a finding.
    pub(super) fn report(&mut self, severity: Severity, cause: Cause, span: Span, message: String) {
        self.findings.push((severity, cause, span.clamped_to(&self.lines), message));
    }

    /// Reports an error at a node.
    pub(super) fn report_error(&mut self, cause: Cause, node: &Node, message: String) {
        self.report(Severity::Error, cause, self.span(node), message);
    }

    /// Returns the text of a field. If the field is missing or is not text, reports an error at the field, or else at the key
    /// of the mapping that lacks it.
    pub(super) fn require_text<'n>(
        &mut self,
        (key, node): (&'n Node, &'n Node),
        prefix: &str,
        field: &str,
        fix: &str,
    ) -> Option<&'n str> {
        let (anchor, problem) = match node.entry(field) {
            Some((_, value)) if value.as_text().is_some_and(|text| !text.trim().is_empty()) => return value.as_text(),
            Some((at, value)) if !value.is_null() && value.as_text().is_none() => {
                let type_fix = match value.value {
                    Value::List(_) | Value::Map(_) => self.template_hint(value).unwrap_or("; write one value"),
                    _ => "; put it in quotes",
                };
                (at, format!("is {}, not text{type_fix}", value.type_name()))
            }
            Some((at, _)) => (at, format!("missing; {fix}")),
            None => (key, format!("missing; {fix}")),
        };
        self.report_error(Cause::Manifest, anchor, format!("{prefix}{field}: {problem}"));
        None
    }

    /// Returns the fix for a mapping that is an expression of a template, `{{ … }}`.
    pub(super) fn template_hint(&self, node: &Node) -> Option<&'static str> {
        self.text.get(node.span.start..).is_some_and(|text| text.starts_with("{{")).then_some(TEMPLATE_HINT)
    }

    /// Returns the fix for a line of `objects` that does not parse because it holds an expression of a template.
    pub(super) fn line_template_hint(&self, span: Span) -> Option<&'static str> {
        self.lines.get(span.start.line - 1).is_some_and(|line| line.contains("{{")).then_some(TEMPLATE_HINT)
    }

    /// Reports that the file is not usable as text.
    pub(super) fn report_not_text(&mut self, no_text: &NotText) {
        let span = Span { start: no_text.position, end_column: no_text.position.column + 1 };
        self.findings.push((Severity::Error, Cause::Manifest, span, format!("the file {}", no_text.problem)));
    }

    /// Reports that a document is not valid YAML.
    ///
    /// The structure of the document is unknown, so excerpts redact all values except those of [`NON_SECRET_KEYS`]. They redact
    /// those, too, if the document may hold a Secret.
    pub(super) fn report_parse_error(&mut self, fault: &ParseError, document: &Document<'_>) {
        let start = fault.position.unwrap_or(Position { line: document.first_line, column: 1 });
        let length = document.text.lines().count();
        let safe_keys = if document.text.lines().any(is_secret_kind_line) { &[][..] } else { &NON_SECRET_KEYS };
        self.redact_line_values(document.first_line..document.first_line + length, safe_keys);
        self.report(
            Severity::Error,
            Cause::Manifest,
            Span { start, end_column: start.column + 1 },
            format!("is not valid YAML: {}{}", fault.problem, if is_template(document) { TEMPLATE_HINT } else { "" }),
        );
    }

    /// Returns the span of a node's first line.
    pub(super) fn span(&self, node: &Node) -> Span {
        self.first_line_span(node.position, node.span.clone())
    }

    /// Returns the span of the first line of a byte range. `start` is the position of the range.
    pub(super) fn first_line_span(&self, start: Position, byte_range: Range<usize>) -> Span {
        let first_line = self.text.get(byte_range).and_then(|text| text.lines().next()).unwrap_or_default();
        Span { start, end_column: start.column + first_line.trim_end().chars().count().max(1) }
    }

    /// Redacts a span in all excerpts.
    pub(super) fn redact(&mut self, span: Span) {
        self.redacted_spans.push(span);
    }

    /// Redacts every value of a node in all excerpts.
    pub(super) fn redact_node(&mut self, node: &Node) {
        match &node.value {
            Value::List(items) => items.iter().for_each(|item| self.redact_node(item)),
            Value::Map(entries) => entries.iter().for_each(|(_, value)| self.redact_node(value)),
            Value::Null => {}
            Value::Bool(_) | Value::Number | Value::Text(_) => self.redacted_bytes.push(node.span.clone()),
        }
    }

    /// Redacts the values of some lines in all excerpts. The keys stay visible, and so do the values of `safe_keys`.
    pub(super) fn redact_line_values(&mut self, lines: Range<usize>, safe_keys: &[&str]) {
        for line in lines {
            let Some(text) = line.checked_sub(1).and_then(|index| self.lines.get(index)) else { return };
            let indent = text.len() - text.trim_start_matches([' ', '-']).len();
            let (key, rest) = text[indent..]
                .split_once(':')
                .filter(|(_, rest)| rest.is_empty() || rest.starts_with(' '))
                .unwrap_or(("", ""));
            let is_safe = safe_keys.contains(&key) && !rest.contains(['{', '[', '#', '?']);
            if !is_safe {
                let space = rest.len() - rest.trim_start().len();
                let shown_chars =
                    text[..indent].chars().count() + if is_plain_key(key) { key.len() + 1 + space } else { 0 };
                self.redacted_spans.push(Span {
                    start: Position { line, column: shown_chars + 1 },
                    end_column: text.chars().count() + 1,
                });
            }
        }
    }

    /// Returns the spans to redact in a line. They include comments, because a comment may hold a former secret value.
    fn redacted_in_line(&self, line: usize) -> Vec<Span> {
        let from = self.redacted_spans.partition_point(|span| span.start.line < line);
        let mut spans: Vec<Span> =
            self.redacted_spans[from..].iter().take_while(|span| span.start.line == line).copied().collect();
        let (Some(text), Some(start)) = (self.lines.get(line - 1), self.line_starts.get(line - 1)) else {
            return spans;
        };
        let (mut byte, mut column) = (0, 1);
        let mut column_at = |to: usize| {
            let to = to.saturating_sub(*start).clamp(byte, text.len());
            column += text.get(byte..to).map_or(0, |between| between.chars().count());
            byte = to;
            column
        };
        // The ranges do not overlap, because each of them is one scalar.
        let from = self.redacted_bytes.partition_point(|bytes| bytes.end <= *start);
        for bytes in self.redacted_bytes[from..].iter().take_while(|bytes| bytes.start < start + text.len()) {
            let at = Position { line, column: column_at(bytes.start) };
            spans.push(Span { start: at, end_column: column_at(bytes.end) });
        }
        if let Some(at) = comment_start(text) {
            let before = text[..at].chars().count();
            spans.push(Span {
                start: Position { line, column: before + 1 },
                end_column: before + 1 + text[at..].chars().count(),
            });
        }
        spans
    }

    /// Returns the findings with their excerpts, in the order of lines.
    pub(super) fn into_findings(mut self) -> Vec<ManifestFinding> {
        let mut findings = std::mem::take(&mut self.findings);
        findings.sort_by_key(|(severity, _, span, _)| (span.start, *severity));
        findings.dedup_by(|a, b| a.1 == b.1 && a.2.start == b.2.start && a.3 == b.3);
        self.redacted_bytes.sort_by_key(|bytes| (bytes.start, bytes.end));
        self.redacted_bytes.dedup();
        self.redacted_spans.sort_by_key(|span| (span.start, span.end_column));
        let mut line = (0, Vec::new());
        let finding = |(severity, cause, span, message): (Severity, Cause, Span, String)| ManifestFinding {
            severity,
            cause,
            file: self.name.to_owned(),
            position: span.start,
            end_column: span.end_column,
            message,
            excerpt: {
                if line.0 != span.start.line {
                    line = (span.start.line, self.redacted_in_line(span.start.line));
                }
                Excerpt::new(self.lines.get(span.start.line - 1).copied().unwrap_or_default(), span, &line.1)
            },
        };
        findings.into_iter().map(finding).collect()
    }
}

/// Returns the offset after the `#` of an apparent comment, in bytes. A `#` inside quotes is not a comment, but redacting the text
/// after it does little harm.
fn comment_start(line: &str) -> Option<usize> {
    let hashes = line.match_indices('#').map(|(at, _)| at);
    let mut comment_starts = hashes.filter(|at| *at == 0 || line[..*at].ends_with([' ', '\t']));
    comment_starts.next().map(|at| at + 1)
}

/// The fix for a manifest that is a template.
const TEMPLATE_HINT: &str = "; it is a template: pass the rendered manifest (helm template . | vaultmount validate)";

/// Returns true if a document is written for a template engine.
fn is_template(document: &Document<'_>) -> bool {
    ["{{", "{%"].iter().any(|mark| document.text.contains(mark))
}

/// Returns true if a document may hold resources for this driver or this provider.
pub(super) fn mentions_driver(document: &Document<'_>) -> bool {
    document.text.contains(DRIVER_MARKER) || policy::is_policy_text(document.text)
}

/// Returns true if a line sets the kind of its resource to Secret.
fn is_secret_kind_line(line: &str) -> bool {
    let kind = line.split_once("kind:").map(|(_, kind)| kind.trim_start_matches([' ', '"', '\'']));
    kind.and_then(|kind| kind.strip_prefix("Secret")).is_some_and(|rest| !rest.starts_with(char::is_alphanumeric))
}

/// Keys with values that are not secret. They apply to a line of which only the key is known.
pub(super) const NON_SECRET_KEYS: [&str; 19] = [
    "apiVersion",
    "kind",
    "metadata",
    "name",
    "namespace",
    "spec",
    "provider",
    "parameters",
    "roleName",
    "objects",
    "objectName",
    "secretPath",
    "secretKey",
    "method",
    "filePermission",
    "encoding",
    "format",
    "optional",
    "secretPointer",
];

/// Formats a name of a manifest for a message: on one line, with at most 80 bytes.
pub(super) fn display_name(name: &str) -> String {
    one_line(name, 80)
}

fn is_plain_key(key: &str) -> bool {
    !key.is_empty() && key.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-/".contains(&b))
}
