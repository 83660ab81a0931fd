//! YAML document as a tree of nodes with positions.

use std::ops::Range;

use serde::{Deserialize, Deserializer};
use serde_saphyr::Spanned;

use super::{Budget, ParseError, Position, value::AnyValue};

/// Key or value. Do not print it: it may contain a secret.
pub struct Node {
    /// Position of the first character. Nodes from an alias or merge have the anchor's position.
    pub position: Position,
    /// Byte range in the text.
    pub span: Range<usize>,
    /// Value of the node.
    pub value: Value,
}

/// Value of a node.
pub enum Value {
    /// Empty value.
    Null,
    /// True or false, unquoted.
    Bool(bool),
    /// A number, unquoted.
    Number,
    /// Text, quoted or not.
    Text(String),
    /// A list.
    List(Vec<Node>),
    /// A mapping, in document order.
    Map(Vec<(Node, Node)>),
}

/// Offset of a document in its file.
#[derive(Clone, Copy, Default)]
pub struct Offset {
    /// Number of lines before the document.
    pub lines: usize,
    /// Number of bytes before the document.
    pub bytes: usize,
}

/// Parses one document that starts at `offset` of its file.
pub fn parse(text: &str, offset: Offset, budget: Budget) -> Result<Node, ParseError> {
    match super::parse::<RawNode>(text, budget) {
        Ok(raw) => Ok(raw.into_node(offset)),
        Err(error) => {
            let parse_error = ParseError::from_error(&error, text, &[]);
            Err(ParseError { position: parse_error.position.map(|at| at.offset_by(offset)), ..parse_error })
        }
    }
}

impl Node {
    /// Returns the value of a key, if this is a mapping with that key.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&Self> {
        self.entry(key).map(|(_, value)| value)
    }

    /// Returns a key and its value, if this is a mapping with that key.
    #[must_use]
    pub fn entry(&self, key: &str) -> Option<&(Self, Self)> {
        self.entries().iter().find(|(name, _)| name.as_text() == Some(key))
    }

    /// Returns the entries. Empty unless this is a mapping.
    #[must_use]
    pub fn entries(&self) -> &[(Self, Self)] {
        if let Value::Map(entries) = &self.value { entries } else { &[] }
    }

    /// Returns the items. Empty unless this is a list.
    #[must_use]
    pub fn items(&self) -> &[Self] {
        if let Value::List(items) = &self.value { items } else { &[] }
    }

    /// Returns the text, if this is text.
    #[must_use]
    pub fn as_text(&self) -> Option<&str> {
        if let Value::Text(text) = &self.value { Some(text) } else { None }
    }

    /// Returns true if the value is empty.
    #[must_use]
    pub fn is_null(&self) -> bool {
        matches!(self.value, Value::Null)
    }

    /// Returns the type of the value for messages.
    #[must_use]
    pub fn type_name(&self) -> &'static str {
        match self.value {
            Value::Null => "empty",
            Value::Bool(_) => "true or false",
            Value::Number => "a number",
            Value::Text(_) => "text",
            Value::List(_) => "a list",
            Value::Map(_) => "a mapping",
        }
    }
}

impl Position {
    fn offset_by(self, offset: Offset) -> Self {
        Self { line: self.line + offset.lines, column: self.column }
    }
}

struct RawNode(Spanned<AnyValue<RawNode>>);

impl RawNode {
    /// Converts recursively. The budget limits the depth.
    fn into_node(self, offset: Offset) -> Node {
        let (location, span) = (self.0.defined, self.0.defined.span());
        let bytes = |bytes: Option<u64>| bytes.and_then(|bytes| usize::try_from(bytes).ok()).unwrap_or_default();
        let start = offset.bytes + bytes(span.byte_offset());
        Node {
            position: Position::from_location(&location).unwrap_or(Position { line: 1, column: 1 }).offset_by(offset),
            span: start..start + bytes(span.byte_len()),
            value: match self.0.value {
                AnyValue::Null => Value::Null,
                AnyValue::Bool(word) => Value::Bool(word),
                AnyValue::Int(_) | AnyValue::Float(_) => Value::Number,
                AnyValue::Text(text) => Value::Text(text.expose().to_owned()),
                AnyValue::List(items) => Value::List(items.into_iter().map(|item| item.into_node(offset)).collect()),
                AnyValue::Map(entries) => {
                    let entry = |(key, value): (Self, Self)| (key.into_node(offset), value.into_node(offset));
                    Value::Map(entries.into_iter().map(entry).collect())
                }
            },
        }
    }
}

impl<'de> Deserialize<'de> for RawNode {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Spanned::deserialize(deserializer).map(Self)
    }
}
