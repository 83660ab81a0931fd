//! `secretArgs` as parsed from YAML, with the meaning that Go's yaml.v3 gives them.

use std::ops::Range;

use serde::{Deserialize, Deserializer};
use serde_saphyr::{Spanned, Tagged};

use crate::{
    request::{
        go_json::{GoMap, GoValue},
        go_yaml,
    },
    yaml::{Position, value},
};

/// A value with its position in the text. The position is needed to resolve a plain scalar as Go does.
pub(super) struct SpannedValue(Tagged<Spanned<AnyValue>>);

type AnyValue = value::AnyValue<SpannedValue>;

/// An argument that Go could not have sent, and its position.
#[derive(Debug)]
pub(super) struct UnsupportedArg {
    pub(super) problem: &'static str,
    pub(super) position: Position,
}

impl SpannedValue {
    /// Returns the arguments by name, or `None` if `secretArgs:` is null.
    pub(super) fn into_arguments(self, source: &str) -> Result<Option<GoMap>, UnsupportedArg> {
        match self.0.0.value {
            AnyValue::Null => Ok(None),
            AnyValue::Map(entries) => {
                let entry = |(name, value): (Self, Self)| Ok((name.argument_name(source)?, value.into_value(source)?));
                entries.into_iter().map(entry).collect::<Result<_, _>>().map(Some)
            }
            _ => Err(self.unsupported("is no mapping; write names and values below it")),
        }
    }

    /// Returns an argument's name. Like Go, accepts the text of any scalar.
    fn argument_name(&self, source: &str) -> Result<String, UnsupportedArg> {
        match &self.0.0.value {
            AnyValue::Text(text) => Ok(text.expose().to_owned()),
            AnyValue::Bool(_) | AnyValue::Int(_) | AnyValue::Float(_) => Ok(self.source_text(source).to_owned()),
            _ => Err(self.unsupported("has a name that is no text")),
        }
    }

    /// Returns the name of a nested entry, which must be text for Go too, not a number or a time.
    fn into_entry_name(self, source: &str) -> Result<String, UnsupportedArg> {
        let unsupported = self.unsupported("has a name that is no text; put it in quotes");
        let plain_text = self.untagged_plain_text(source);
        match self.into_value(source)? {
            GoValue::Text(text) if plain_text.is_none_or(|plain| plain == text.expose()) => {
                Ok(text.expose().to_owned())
            }
            _ => Err(unsupported),
        }
    }

    fn into_value(self, source: &str) -> Result<GoValue, UnsupportedArg> {
        let position = self.position();
        let resolved = match self.untagged_plain_text(source) {
            Some(text) => go_yaml::resolve_scalar(text),
            None => self.into_typed_value(source)?,
        };
        resolved.ok_or(UnsupportedArg { problem: "has a number that JSON cannot say", position })
    }

    /// Returns the text of a plain scalar without a tag, which still needs its type resolved.
    fn untagged_plain_text<'s>(&self, source: &'s str) -> Option<&'s str> {
        let source_text = self.source_text(source);
        let is_plain = match &self.0.0.value {
            // Quotes, folds and block scalars leave a mark in the source: at least the line break after a block. An
            // empty block scalar is empty text, but an empty plain scalar is null.
            AnyValue::Text(text) => text.expose() == source_text && !source_text.is_empty(),
            AnyValue::Null | AnyValue::Bool(_) | AnyValue::Int(_) | AnyValue::Float(_) => true,
            AnyValue::List(_) | AnyValue::Map(_) => false,
        };
        (is_plain && self.0.1.is_none()).then_some(source_text)
    }

    fn into_typed_value(self, source: &str) -> Result<Option<GoValue>, UnsupportedArg> {
        let is_standard_tag = self.0.1.as_deref().is_some_and(|tag| tag.starts_with("tag:yaml.org,2002:"));
        let source_text = self.source_text(source);
        Ok(match self.0.0.value {
            AnyValue::List(items) => {
                Some(GoValue::List(items.into_iter().map(|item| item.into_value(source)).collect::<Result<_, _>>()?))
            }
            AnyValue::Map(entries) => {
                let entry =
                    |(name, value): (Self, Self)| Ok((name.into_entry_name(source)?, value.into_value(source)?));
                Some(GoValue::Map(entries.into_iter().map(entry).collect::<Result<_, _>>()?))
            }
            AnyValue::Text(text) => Some(GoValue::Text(text)),
            // Go treats a scalar with a custom tag as text.
            _ if !is_standard_tag => Some(GoValue::Text(source_text.into())),
            AnyValue::Null => Some(GoValue::Null),
            AnyValue::Bool(word) => Some(GoValue::Bool(word)),
            AnyValue::Int(number) => Some(GoValue::Int(number)),
            AnyValue::Float(number) => number.is_finite().then_some(GoValue::Float(number)),
        })
    }

    /// Returns the scalar's source text.
    fn source_text<'s>(&self, source: &'s str) -> &'s str {
        self.byte_range().and_then(|range| source.get(range)).unwrap_or_default()
    }

    fn byte_range(&self) -> Option<Range<usize>> {
        let span = self.0.0.defined.span();
        let start = usize::try_from(span.byte_offset()?).ok()?;
        Some(start..start.checked_add(usize::try_from(span.byte_len()?).ok()?)?)
    }

    fn position(&self) -> Position {
        Position::from_location(&self.0.0.defined).unwrap_or(Position { line: 1, column: 1 })
    }

    fn unsupported(&self, problem: &'static str) -> UnsupportedArg {
        UnsupportedArg { problem, position: self.position() }
    }
}

impl<'de> Deserialize<'de> for SpannedValue {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Tagged::deserialize(deserializer).map(Self)
    }
}
