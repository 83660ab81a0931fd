//! `objects`: from a place in its text to the place in the file.

use super::source::{HARMLESS, Source, Spot};
use crate::{
    request::{OBJECT_FIELDS, Place},
    yaml::{
        At, Budget,
        node::{self, Node, Offset, Value},
    },
};

/// The text of `objects` where it stands in a file.
pub(super) struct Objects<'a> {
    value: &'a Node,
    text: &'a str,
    /// The list, if it can be read.
    list: Option<Node>,
    literal: Option<Literal>,
}

/// A block whose lines stand in the file as they are, indented.
struct Literal {
    /// What to add to a line of the text, which may be less than nothing when the text begins with empty lines.
    first: usize,
    blank: usize,
    indent: usize,
}

impl<'a> Objects<'a> {
    /// Nothing if `value` is no text.
    pub(super) fn new(value: &'a Node, source: &Source<'_>) -> Option<Self> {
        let text = value.text()?;
        let list = node::read(text, Offset::default(), Budget::OBJECTS).ok();
        Some(Self { value, text, list, literal: Literal::of(value, text, source) })
    }

    /// Where an object's field, or a position in the text, is in the file. `key` is wanted, or else the value.
    pub(super) fn spot(&self, place: &Place, key: bool, source: &Source<'_>) -> Spot {
        let inside = match place {
            Place::Object(entry, fields, None) => self.field(entry.index, fields.last(), key),
            place => {
                let lines: Vec<&str> = self.text.lines().collect();
                place.at().map(|at| Spot { at, end: at.column + 1 }.within(&lines))
            }
        };
        inside.and_then(|spot| self.in_file(spot)).unwrap_or_else(|| source.spot(self.value))
    }

    /// Whether positions in the text are positions in the file.
    pub(super) fn is_literal(&self) -> bool {
        self.literal.is_some()
    }

    /// Keeps arguments, and whatever else might be one, out of excerpts.
    pub(super) fn hide_arguments(&self, source: &mut Source<'_>) {
        let mut hidden = Vec::new();
        match (&self.list, &self.literal) {
            (None, Some(literal)) => {
                let first = literal.first.saturating_sub(literal.blank);
                source.hide_values(first..first + self.text.lines().count(), &HARMLESS);
            }
            (None, None) => source.hide_node(self.value),
            (Some(list), _) => collect(list, 0, &mut hidden),
        }
        for (node, part) in hidden {
            if self.literal.is_none() {
                return source.hide_node(self.value);
            }
            self.part(node, part).into_iter().filter_map(|spot| self.in_file(spot)).for_each(|spot| source.hide(spot));
        }
    }

    fn field(&self, index: usize, field: Option<&String>, key: bool) -> Option<Spot> {
        let item = self.list.as_ref()?.items().get(index)?;
        let node = match field.and_then(|field| item.entry(field)) {
            Some((name, value)) => {
                if key || value.is_null() {
                    name
                } else {
                    value
                }
            }
            None => item.get("objectName").unwrap_or(item),
        };
        self.lines(node).into_iter().next()
    }

    /// The lines of what may not be shown of a node.
    fn part(&self, node: &Node, part: Part) -> Vec<Spot> {
        let mut lines = self.lines(node);
        let text = self.text.get(node.span.clone()).unwrap_or_default();
        if let (Part::Query, Some((path, _))) = (part, text.split_once('?')) {
            lines.drain(..path.matches('\n').count());
            let before = path.rsplit('\n').next().unwrap_or_default().chars().count();
            lines.iter_mut().take(1).for_each(|first| first.at.column += before + 1);
        }
        lines
    }

    /// The lines of a node in the text; of a list or mapping where it begins.
    fn lines(&self, node: &Node) -> Vec<Spot> {
        let text = self.text.get(node.span.clone()).unwrap_or_default();
        let begins = Spot { at: node.at, end: node.at.column + 1 };
        if text.is_empty() || matches!(node.value, Value::List(_) | Value::Map(_)) {
            return vec![begins];
        }
        let mut column = node.at.column;
        text.lines()
            .enumerate()
            .map(|(index, line)| {
                let at = At { line: node.at.line + index, column };
                column = 1;
                Spot { at, end: at.column + line.chars().count().max(1) }
            })
            .collect()
    }

    fn in_file(&self, spot: Spot) -> Option<Spot> {
        let literal = self.literal.as_ref()?;
        let line = (literal.first + spot.at.line).checked_sub(literal.blank + 1)?;
        let at = At { line, column: spot.at.column + literal.indent };
        Some(Spot { at, end: spot.end + literal.indent })
    }
}

impl Literal {
    /// The parser says where the first line that is not empty begins. The rest is compared, so that a text with folds,
    /// quotes or escapes is none.
    fn of(value: &Node, text: &str, source: &Source<'_>) -> Option<Self> {
        let quoted = source.text.get(value.span.start..).is_some_and(|text| text.starts_with(['"', '\'']));
        if quoted {
            return None;
        }
        let blank = text.lines().position(|line| !line.trim().is_empty())?;
        let literal = Self { first: value.at.line, blank, indent: value.at.column - 1 };
        let same = text.lines().enumerate().skip(blank).all(|(index, line)| {
            let in_file = source.lines.get(literal.first + index - blank - 1);
            in_file.is_some_and(|whole| {
                whole.trim().is_empty() && line.is_empty() || whole.chars().skip(literal.indent).eq(line.chars())
            })
        });
        same.then_some(literal)
    }
}

/// How much of a value may be an argument.
#[derive(Clone, Copy)]
enum Part {
    Whole,
    /// What stands behind the question mark of a path.
    Query,
}

/// The values that may be arguments: all but those of an object's known fields, `secretArgs` and what a path asks for
/// excepted.
fn collect<'n>(node: &'n Node, depth: usize, hidden: &mut Vec<(&'n Node, Part)>) {
    match &node.value {
        Value::List(items) => items.iter().for_each(|item| collect(item, depth + 1, hidden)),
        Value::Map(entries) => {
            for (key, value) in entries {
                let known = key.text().is_some_and(|key| key != "secretArgs" && OBJECT_FIELDS.contains(&key));
                let shown = depth == 1 && known && !matches!(value.value, Value::List(_) | Value::Map(_));
                if !shown {
                    collect(value, depth + 2, hidden);
                } else if value.text().is_some_and(asks) {
                    hidden.push((value, Part::Query));
                }
            }
        }
        Value::Null => {}
        Value::Bool(_) | Value::Number | Value::Text(_) => hidden.push((node, Part::Whole)),
    }
}

/// Whether a path asks for more than a version, which is the one parameter that is no argument.
fn asks(path: &str) -> bool {
    let is_version = |query: &str| {
        query.strip_prefix("version=").is_some_and(|number| number.bytes().all(|digit| digit.is_ascii_digit()))
    };
    path.split_once('?').is_some_and(|(_, query)| !is_version(query))
}
