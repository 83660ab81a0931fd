//! One file under the eye of the rules: what was found in it, and what of it must not be shown.

use std::ops::Range;

use super::{Excerpt, Finding, Input, Severity, class::Reviewed};
use crate::{
    error::Cause,
    manifest::{DRIVER_MARK, Document, NoText},
    policy,
    text::{one_line, quoted},
    yaml::{
        At, Fault,
        node::{Node, Value},
    },
};

/// A piece of a line, which the excerpt points at.
#[derive(Clone, Copy)]
pub(super) struct Spot {
    pub(super) at: At,
    pub(super) end: usize,
}

impl Spot {
    /// One line of a text, at most its last one: what is missing at the end is said there.
    pub(super) fn within(self, lines: &[&str]) -> Self {
        let last = lines.iter().rposition(|line| !line.trim().is_empty()).unwrap_or_default();
        if self.at.line <= last + 1 {
            return self;
        }
        let column = lines.get(last).map_or(1, |line| line.trim_end().chars().count() + 1);
        Self { at: At { line: last + 1, column }, end: column + 1 }
    }
}

/// A file.
pub(super) struct Source<'a> {
    pub(super) name: &'a str,
    pub(super) text: &'a str,
    pub(super) lines: Vec<&'a str>,
    /// Where each line begins, in bytes.
    starts: Vec<usize>,
    found: Vec<(Severity, Cause, Spot, String)>,
    /// What no excerpt may show, in bytes.
    hidden: Vec<Range<usize>>,
    /// The same, in columns.
    covered: Vec<Spot>,
}

impl<'a> Source<'a> {
    pub(super) fn new(input: &'a Input) -> Self {
        let text = input.text();
        let mut starts = vec![0];
        starts.extend(text.match_indices('\n').map(|(at, _)| at + 1));
        Self {
            name: &input.name,
            text,
            lines: text.lines().collect(),
            starts,
            found: Vec::new(),
            hidden: Vec::new(),
            covered: Vec::new(),
        }
    }

    /// Notes something.
    pub(super) fn say(&mut self, severity: Severity, cause: Cause, spot: Spot, message: String) {
        self.found.push((severity, cause, spot.within(&self.lines), message));
    }

    /// Notes a mistake at a node.
    pub(super) fn wrong(&mut self, cause: Cause, node: &Node, message: String) {
        self.say(Severity::Error, cause, self.spot(node), message);
    }

    /// The text of a field; if it is missing, or no text, that is noted: at the field, or else at the key of what it is
    /// missing in.
    pub(super) fn required<'n>(
        &mut self,
        (key, node): (&'n Node, &'n Node),
        place: &str,
        field: &str,
        next: &str,
    ) -> Option<&'n str> {
        let (at, what) = match node.entry(field) {
            Some((_, value)) if value.text().is_some_and(|text| !text.trim().is_empty()) => return value.text(),
            Some((at, value)) if !value.is_null() && value.text().is_none() => {
                let next = match value.value {
                    Value::List(_) | Value::Map(_) => self.rendered(value).unwrap_or("; write one value"),
                    _ => "; put it in quotes",
                };
                (at, format!("is {}, not text{next}", value.kind()))
            }
            Some((at, _)) => (at, format!("missing; {next}")),
            None => (key, format!("missing; {next}")),
        };
        self.wrong(Cause::Manifest, at, format!("{place}{field}: {what}"));
        None
    }

    /// What to do with a mapping that is a template's `{{ … }}`, if it is one.
    pub(super) fn rendered(&self, node: &Node) -> Option<&'static str> {
        self.text.get(node.span.start..).is_some_and(|text| text.starts_with("{{")).then_some(TEMPLATE)
    }

    /// The same for a line of `objects`, where it is nothing that can be read.
    pub(super) fn templated(&self, spot: Spot) -> Option<&'static str> {
        self.lines.get(spot.at.line - 1).is_some_and(|line| line.contains("{{")).then_some(TEMPLATE)
    }

    /// Notes that the file is no text.
    pub(super) fn no_text(&mut self, no_text: &NoText) {
        let spot = Spot { at: no_text.at, end: no_text.at.column + 1 };
        self.found.push((Severity::Error, Cause::Manifest, spot, format!("the file {}", no_text.what)));
    }

    /// Notes that a document is no YAML. As nothing is known of what stands where, only values of a few keys are shown, and
    /// none if it may be a Secret's.
    pub(super) fn broken(&mut self, fault: &Fault, document: &Document<'_>) {
        let at = fault.at.unwrap_or(At { line: document.first_line, column: 1 });
        let length = document.text.lines().count();
        let harmless = if document.text.lines().any(begins_secret) { &[][..] } else { &HARMLESS };
        self.hide_values(document.first_line..document.first_line + length, harmless);
        self.say(
            Severity::Error,
            Cause::Manifest,
            Spot { at, end: at.column + 1 },
            format!("is no valid YAML: {}{}", fault.what, if is_template(document) { TEMPLATE } else { "" }),
        );
    }

    /// Notes a class that another file, or this one, has already: the overlays of several clusters may well do that.
    pub(super) fn say_twice(&mut self, class: &Node, first: &Reviewed) {
        let name = class.get("metadata").and_then(|metadata| metadata.get("name")).unwrap_or(class);
        let other = format!("{}:{}", first.file, first.line);
        let namespace = match first.namespace.as_str() {
            "" => String::new(),
            namespace => format!(" in namespace {}", quoted(namespace)),
        };
        let (severity, next) = if first.file == self.name {
            (Severity::Error, "remove one")
        } else {
            (Severity::Warning, "of the same cluster one is too many")
        };
        let message = format!("class {}{namespace} is also at {other}; {next}", quoted(&first.name));
        self.say(severity, Cause::Manifest, self.spot(name), message);
    }

    /// The first line of a node.
    pub(super) fn spot(&self, node: &Node) -> Spot {
        self.spot_of(node.at, node.span.clone())
    }

    /// The first line of some bytes, which begin there.
    pub(super) fn spot_of(&self, at: At, bytes: Range<usize>) -> Spot {
        let shown = self.text.get(bytes).and_then(|text| text.lines().next()).unwrap_or_default();
        Spot { at, end: at.column + shown.trim_end().chars().count().max(1) }
    }

    /// Keeps a piece out of all excerpts.
    pub(super) fn hide(&mut self, spot: Spot) {
        self.covered.push(spot);
    }

    /// Keeps every value in a node out of all excerpts.
    pub(super) fn hide_node(&mut self, node: &Node) {
        match &node.value {
            Value::List(items) => items.iter().for_each(|item| self.hide_node(item)),
            Value::Map(entries) => entries.iter().for_each(|(_, value)| self.hide_node(value)),
            Value::Null => {}
            Value::Bool(_) | Value::Number | Value::Text(_) => self.hidden.push(node.span.clone()),
        }
    }

    /// Keeps the values of lines out of all excerpts: only keys are shown, and the values of those that are known to be
    /// harmless.
    pub(super) fn hide_values(&mut self, lines: Range<usize>, harmless: &[&str]) {
        for line in lines {
            let Some(text) = line.checked_sub(1).and_then(|index| self.lines.get(index)) else { return };
            let begin = text.len() - text.trim_start_matches([' ', '-']).len();
            let (key, rest) = text[begin..]
                .split_once(':')
                .filter(|(_, rest)| rest.is_empty() || rest.starts_with(' '))
                .unwrap_or(("", ""));
            let shown = harmless.contains(&key) && !rest.contains(['{', '[', '#', '?']);
            if !shown {
                let space = rest.len() - rest.trim_start().len();
                let shown = text[..begin].chars().count() + if plain(key) { key.len() + 1 + space } else { 0 };
                self.covered.push(Spot { at: At { line, column: shown + 1 }, end: text.chars().count() + 1 });
            }
        }
    }

    /// What excerpts of a line may not show: comments, too, as they may be what was there before.
    fn not_shown(&self, line: usize) -> Vec<Spot> {
        let from = self.covered.partition_point(|spot| spot.at.line < line);
        let mut spots: Vec<Spot> =
            self.covered[from..].iter().take_while(|spot| spot.at.line == line).copied().collect();
        let (Some(text), Some(start)) = (self.lines.get(line - 1), self.starts.get(line - 1)) else { return spots };
        let (mut byte, mut column) = (0, 1);
        let mut column_at = |to: usize| {
            let to = to.saturating_sub(*start).clamp(byte, text.len());
            column += text.get(byte..to).map_or(0, |between| between.chars().count());
            byte = to;
            column
        };
        // They do not overlap: each is one scalar.
        let from = self.hidden.partition_point(|bytes| bytes.end <= *start);
        for bytes in self.hidden[from..].iter().take_while(|bytes| bytes.start < start + text.len()) {
            let at = At { line, column: column_at(bytes.start) };
            spots.push(Spot { at, end: column_at(bytes.end) });
        }
        if let Some(at) = comment(text) {
            let before = text[..at].chars().count();
            spots.push(Spot { at: At { line, column: before + 1 }, end: before + 1 + text[at..].chars().count() });
        }
        spots
    }

    /// What was found, in the order of lines, with excerpts.
    pub(super) fn into_findings(mut self) -> Vec<Finding> {
        let mut found = std::mem::take(&mut self.found);
        found.sort_by_key(|(severity, _, spot, _)| (spot.at, *severity));
        found.dedup_by(|a, b| a.1 == b.1 && a.2.at == b.2.at && a.3 == b.3);
        self.hidden.sort_by_key(|bytes| (bytes.start, bytes.end));
        self.hidden.dedup();
        self.covered.sort_by_key(|spot| (spot.at, spot.end));
        let mut line = (0, Vec::new());
        let finding = |(severity, cause, spot, message): (Severity, Cause, Spot, String)| Finding {
            severity,
            cause,
            file: self.name.to_owned(),
            at: spot.at,
            end: spot.end,
            message,
            excerpt: {
                if line.0 != spot.at.line {
                    line = (spot.at.line, self.not_shown(spot.at.line));
                }
                Excerpt::of(self.lines.get(spot.at.line - 1).copied().unwrap_or_default(), spot, &line.1)
            },
        };
        found.into_iter().map(finding).collect()
    }
}

/// Where what looks like a comment begins behind its mark, in bytes; inside quotes it is none, which costs little.
fn comment(line: &str) -> Option<usize> {
    let marks = line.match_indices('#').map(|(at, _)| at);
    let mut begins = marks.filter(|at| *at == 0 || line[..*at].ends_with([' ', '\t']));
    begins.next().map(|at| at + 1)
}

/// What to do with a template.
const TEMPLATE: &str = "; it is a template: pass what becomes of it (helm template . | vaultmount validate)";

/// Whether a document is written for a template engine.
fn is_template(document: &Document<'_>) -> bool {
    ["{{", "{%"].iter().any(|mark| document.text.contains(mark))
}

/// Whether a document can have anything for this driver, or this provider, in it.
pub(super) fn names_driver(document: &Document<'_>) -> bool {
    document.text.contains(DRIVER_MARK) || policy::is_policy_text(document.text)
}

/// Whether a line says that what it stands in is a Secret.
fn begins_secret(line: &str) -> bool {
    let kind = line.split_once("kind:").map(|(_, kind)| kind.trim_start_matches([' ', '"', '\'']));
    kind.and_then(|kind| kind.strip_prefix("Secret")).is_some_and(|rest| !rest.starts_with(char::is_alphanumeric))
}

/// Keys whose values are no secrets, where nothing more is known of a line than its key.
pub(super) const HARMLESS: [&str; 19] = [
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
pub(super) fn shown(name: &str) -> String {
    one_line(name, 80)
}

fn plain(key: &str) -> bool {
    !key.is_empty() && key.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-/".contains(&b))
}
