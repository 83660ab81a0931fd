//! One file under the eye of the rules: what was found in it, and what of it must not be shown.

use std::ops::Range;

use super::{Excerpt, Input, ManifestFinding, Severity, class::ReviewedClass};
use crate::{
    error::Cause,
    manifest::{DRIVER_MARKER, Document, NotText},
    policy,
    text::{one_line, quote},
    yaml::{
        ParseError, Position,
        node::{Node, Value},
    },
};

/// A piece of a line, which the excerpt points at.
#[derive(Clone, Copy)]
pub(super) struct Span {
    pub(super) start: Position,
    pub(super) end_column: usize,
}

impl Span {
    /// One line of a text, at most its last one: what is missing at the end is said there.
    pub(super) fn clamped_to(self, lines: &[&str]) -> Self {
        let last = lines.iter().rposition(|line| !line.trim().is_empty()).unwrap_or_default();
        if self.start.line <= last + 1 {
            return self;
        }
        let column = lines.get(last).map_or(1, |line| line.trim_end().chars().count() + 1);
        Self { start: Position { line: last + 1, column }, end_column: column + 1 }
    }
}

/// A file.
pub(super) struct SourceFile<'a> {
    pub(super) name: &'a str,
    pub(super) text: &'a str,
    pub(super) lines: Vec<&'a str>,
    /// Where each line begins, in bytes.
    line_starts: Vec<usize>,
    findings: Vec<(Severity, Cause, Span, String)>,
    /// What no excerpt may show, in bytes.
    redacted_bytes: Vec<Range<usize>>,
    /// The same, in columns.
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

    /// Notes something.
    pub(super) fn report(&mut self, severity: Severity, cause: Cause, span: Span, message: String) {
        self.findings.push((severity, cause, span.clamped_to(&self.lines), message));
    }

    /// Notes a mistake at a node.
    pub(super) fn report_error(&mut self, cause: Cause, node: &Node, message: String) {
        self.report(Severity::Error, cause, self.span(node), message);
    }

    /// The text of a field; if it is missing, or no text, that is noted: at the field, or else at the key of what it is
    /// missing in.
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

    /// What to do with a mapping that is a template's `{{ … }}`, if it is one.
    pub(super) fn template_hint(&self, node: &Node) -> Option<&'static str> {
        self.text.get(node.span.start..).is_some_and(|text| text.starts_with("{{")).then_some(TEMPLATE_HINT)
    }

    /// The same for a line of `objects`, where it is nothing that can be read.
    pub(super) fn line_template_hint(&self, span: Span) -> Option<&'static str> {
        self.lines.get(span.start.line - 1).is_some_and(|line| line.contains("{{")).then_some(TEMPLATE_HINT)
    }

    /// Notes that the file is no text.
    pub(super) fn report_not_text(&mut self, no_text: &NotText) {
        let span = Span { start: no_text.position, end_column: no_text.position.column + 1 };
        self.findings.push((Severity::Error, Cause::Manifest, span, format!("the file {}", no_text.problem)));
    }

    /// Notes that a document is no YAML. As nothing is known of what stands where, only values of a few keys are shown, and
    /// none if it may be a Secret's.
    pub(super) fn report_parse_error(&mut self, fault: &ParseError, document: &Document<'_>) {
        let start = fault.position.unwrap_or(Position { line: document.first_line, column: 1 });
        let length = document.text.lines().count();
        let safe_keys = if document.text.lines().any(is_secret_kind_line) { &[][..] } else { &NON_SECRET_KEYS };
        self.redact_line_values(document.first_line..document.first_line + length, safe_keys);
        self.report(
            Severity::Error,
            Cause::Manifest,
            Span { start, end_column: start.column + 1 },
            format!("is no valid YAML: {}{}", fault.problem, if is_template(document) { TEMPLATE_HINT } else { "" }),
        );
    }

    /// Notes a class that another file, or this one, has already: the overlays of several clusters may well do that.
    pub(super) fn report_duplicate(&mut self, class: &Node, first: &ReviewedClass) {
        let name = class.get("metadata").and_then(|metadata| metadata.get("name")).unwrap_or(class);
        let first_position = format!("{}:{}", first.file, first.line);
        let namespace = match first.namespace.as_str() {
            "" => String::new(),
            namespace => format!(" in namespace {}", quote(namespace)),
        };
        let (severity, next) = if first.file == self.name {
            (Severity::Error, "remove one")
        } else {
            (Severity::Warning, "of the same cluster one is too many")
        };
        let message = format!("class {}{namespace} is also at {first_position}; {next}", quote(&first.name));
        self.report(severity, Cause::Manifest, self.span(name), message);
    }

    /// The first line of a node.
    pub(super) fn span(&self, node: &Node) -> Span {
        self.first_line_span(node.position, node.span.clone())
    }

    /// The first line of some bytes, which begin there.
    pub(super) fn first_line_span(&self, start: Position, byte_range: Range<usize>) -> Span {
        let first_line = self.text.get(byte_range).and_then(|text| text.lines().next()).unwrap_or_default();
        Span { start, end_column: start.column + first_line.trim_end().chars().count().max(1) }
    }

    /// Keeps a piece out of all excerpts.
    pub(super) fn redact(&mut self, span: Span) {
        self.redacted_spans.push(span);
    }

    /// Keeps every value in a node out of all excerpts.
    pub(super) fn redact_node(&mut self, node: &Node) {
        match &node.value {
            Value::List(items) => items.iter().for_each(|item| self.redact_node(item)),
            Value::Map(entries) => entries.iter().for_each(|(_, value)| self.redact_node(value)),
            Value::Null => {}
            Value::Bool(_) | Value::Number | Value::Text(_) => self.redacted_bytes.push(node.span.clone()),
        }
    }

    /// Keeps the values of lines out of all excerpts: only keys are shown, and the values of those that are known to be
    /// harmless.
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

    /// What excerpts of a line may not show: comments, too, as they may be what was there before.
    fn redacted_in_line(&self, line: usize) -> Vec<Span> {
        let from = self.redacted_spans.partition_point(|spot| spot.start.line < line);
        let mut spans: Vec<Span> =
            self.redacted_spans[from..].iter().take_while(|spot| spot.start.line == line).copied().collect();
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
        // They do not overlap: each is one scalar.
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

    /// What was found, in the order of lines, with excerpts.
    pub(super) fn into_findings(mut self) -> Vec<ManifestFinding> {
        let mut findings = std::mem::take(&mut self.findings);
        findings.sort_by_key(|(severity, _, spot, _)| (spot.start, *severity));
        findings.dedup_by(|a, b| a.1 == b.1 && a.2.start == b.2.start && a.3 == b.3);
        self.redacted_bytes.sort_by_key(|bytes| (bytes.start, bytes.end));
        self.redacted_bytes.dedup();
        self.redacted_spans.sort_by_key(|spot| (spot.start, spot.end_column));
        let mut line = (0, Vec::new());
        let finding = |(severity, cause, spot, message): (Severity, Cause, Span, String)| ManifestFinding {
            severity,
            cause,
            file: self.name.to_owned(),
            position: spot.start,
            end_column: spot.end_column,
            message,
            excerpt: {
                if line.0 != spot.start.line {
                    line = (spot.start.line, self.redacted_in_line(spot.start.line));
                }
                Excerpt::new(self.lines.get(spot.start.line - 1).copied().unwrap_or_default(), spot, &line.1)
            },
        };
        findings.into_iter().map(finding).collect()
    }
}

/// Where what looks like a comment begins behind its mark, in bytes; inside quotes it is none, which costs little.
fn comment_start(line: &str) -> Option<usize> {
    let hashes = line.match_indices('#').map(|(at, _)| at);
    let mut comment_starts = hashes.filter(|at| *at == 0 || line[..*at].ends_with([' ', '\t']));
    comment_starts.next().map(|at| at + 1)
}

/// What to do with a template.
const TEMPLATE_HINT: &str = "; it is a template: pass what becomes of it (helm template . | vaultmount validate)";

/// Whether a document is written for a template engine.
fn is_template(document: &Document<'_>) -> bool {
    ["{{", "{%"].iter().any(|mark| document.text.contains(mark))
}

/// Whether a document can have anything for this driver, or this provider, in it.
pub(super) fn mentions_driver(document: &Document<'_>) -> bool {
    document.text.contains(DRIVER_MARKER) || policy::is_policy_text(document.text)
}

/// Whether a line says that what it stands in is a Secret.
fn is_secret_kind_line(line: &str) -> bool {
    let kind = line.split_once("kind:").map(|(_, kind)| kind.trim_start_matches([' ', '"', '\'']));
    kind.and_then(|kind| kind.strip_prefix("Secret")).is_some_and(|rest| !rest.starts_with(char::is_alphanumeric))
}

/// Keys whose values are no secrets, where nothing more is known of a line than its key.
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

/// A name out of a manifest on one line, bounded.
pub(super) fn display_name(name: &str) -> String {
    one_line(name, 80)
}

fn is_plain_key(key: &str) -> bool {
    !key.is_empty() && key.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-/".contains(&b))
}
