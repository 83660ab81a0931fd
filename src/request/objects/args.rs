//! `secretArgs` as YAML gives them and as Go's yaml.v3 would have understood them.

use std::ops::Range;

use serde::{Deserialize, Deserializer};
use serde_saphyr::{Spanned, Tagged};

use crate::{
    request::{
        go_json::{Map, Value},
        go_yaml,
    },
    yaml::{At, shape},
};

/// A value with the place it stands at in the text, which is needed to read a plain scalar as Go does.
pub(super) struct Node(Tagged<Spanned<Shape>>);

type Shape = shape::Shape<Node>;

/// What Go could not have sent, and where it stands.
#[derive(Debug)]
pub(super) struct Unfit {
    pub(super) what: &'static str,
    pub(super) at: At,
}

impl Node {
    /// The arguments by name; nothing for `secretArgs:` with nothing behind it.
    pub(super) fn arguments(self, source: &str) -> Result<Option<Map>, Unfit> {
        match self.0.0.value {
            Shape::Null => Ok(None),
            Shape::Map(entries) => {
                let entry = |(name, value): (Self, Self)| Ok((name.argument_name(source)?, value.value(source)?));
                entries.into_iter().map(entry).collect::<Result<_, _>>().map(Some)
            }
            _ => Err(self.unfit("is no mapping; write names and values below it")),
        }
    }

    /// The name of an argument: Go takes the text of any scalar.
    fn argument_name(&self, source: &str) -> Result<String, Unfit> {
        match &self.0.0.value {
            Shape::Text(text) => Ok(text.expose().to_owned()),
            Shape::Bool(_) | Shape::Int(_) | Shape::Float(_) => Ok(self.written(source).to_owned()),
            _ => Err(self.unfit("has a name that is no text")),
        }
    }

    /// The name of an entry further down, which must be text for Go too: no number, and no time.
    fn entry_name(self, source: &str) -> Result<String, Unfit> {
        let unfit = self.unfit("has a name that is no text; put it in quotes");
        let plain = self.implicit(source);
        match self.value(source)? {
            Value::Text(text) if plain.is_none_or(|plain| plain == text.expose()) => Ok(text.expose().to_owned()),
            _ => Err(unfit),
        }
    }

    fn value(self, source: &str) -> Result<Value, Unfit> {
        let at = self.at();
        let resolved = match self.implicit(source) {
            Some(text) => go_yaml::resolve(text),
            None => self.explicit(source)?,
        };
        resolved.ok_or(Unfit { what: "has a number that JSON cannot say", at })
    }

    /// The text of a plain scalar without a tag, whose type is to be found out.
    fn implicit<'s>(&self, source: &'s str) -> Option<&'s str> {
        let written = self.written(source);
        let plain = match &self.0.0.value {
            // Quotes, folds and block scalars leave a mark in the text: at least the line break behind a block. Nothing at
            // all behind a block's sign is empty text, while plain nothing is null.
            Shape::Text(text) => text.expose() == written && !written.is_empty(),
            Shape::Null | Shape::Bool(_) | Shape::Int(_) | Shape::Float(_) => true,
            Shape::List(_) | Shape::Map(_) => false,
        };
        (plain && self.0.1.is_none()).then_some(written)
    }

    fn explicit(self, source: &str) -> Result<Option<Value>, Unfit> {
        let standard = self.0.1.as_deref().is_some_and(|tag| tag.starts_with("tag:yaml.org,2002:"));
        let written = self.written(source);
        Ok(match self.0.0.value {
            Shape::List(items) => {
                Some(Value::List(items.into_iter().map(|item| item.value(source)).collect::<Result<_, _>>()?))
            }
            Shape::Map(entries) => {
                let entry = |(name, value): (Self, Self)| Ok((name.entry_name(source)?, value.value(source)?));
                Some(Value::Map(entries.into_iter().map(entry).collect::<Result<_, _>>()?))
            }
            Shape::Text(text) => Some(Value::Text(text)),
            // Whatever carries a tag of somebody's own is text to Go.
            _ if !standard => Some(Value::Text(written.into())),
            Shape::Null => Some(Value::Null),
            Shape::Bool(word) => Some(Value::Bool(word)),
            Shape::Int(number) => Some(Value::Int(number)),
            Shape::Float(number) => number.is_finite().then_some(Value::Float(number)),
        })
    }

    /// The scalar as it stands in the text.
    fn written<'s>(&self, source: &'s str) -> &'s str {
        self.range().and_then(|range| source.get(range)).unwrap_or_default()
    }

    fn range(&self) -> Option<Range<usize>> {
        let span = self.0.0.defined.span();
        let start = usize::try_from(span.byte_offset()?).ok()?;
        Some(start..start.checked_add(usize::try_from(span.byte_len()?).ok()?)?)
    }

    fn at(&self) -> At {
        At::of(&self.0.0.defined).unwrap_or(At { line: 1, column: 1 })
    }

    fn unfit(&self, what: &'static str) -> Unfit {
        Unfit { what, at: self.at() }
    }
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Tagged::deserialize(deserializer).map(Self)
    }
}
