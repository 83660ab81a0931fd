//! Value of any type, deserialized generically. Callers add context such as the position or the tag.

use std::{fmt, marker::PhantomData};

use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, SeqAccess, Visitor},
};

use crate::secret::SecretText;

/// Value of any type, with items and entries of the caller's node type.
pub(crate) enum AnyValue<N> {
    /// Empty value.
    Null,
    /// True or false.
    Bool(bool),
    /// A whole number.
    Int(i128),
    /// Any other number.
    Float(f64),
    /// Text, which may be a secret.
    Text(SecretText),
    /// A list.
    List(Vec<N>),
    /// A mapping, in document order.
    Map(Vec<(N, N)>),
}

impl<'de, N: Deserialize<'de>> Deserialize<'de> for AnyValue<N> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(AnyValueVisitor(PhantomData))
    }
}

struct AnyValueVisitor<N>(PhantomData<N>);

impl<'de, N: Deserialize<'de>> Visitor<'de> for AnyValueVisitor<N> {
    type Value = AnyValue<N>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_unit<E>(self) -> Result<AnyValue<N>, E> {
        Ok(AnyValue::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<AnyValue<N>, E> {
        Ok(AnyValue::Bool(value))
    }

    fn visit_i64<E>(self, number: i64) -> Result<AnyValue<N>, E> {
        Ok(AnyValue::Int(number.into()))
    }

    fn visit_u64<E>(self, number: u64) -> Result<AnyValue<N>, E> {
        Ok(AnyValue::Int(number.into()))
    }

    fn visit_f64<E>(self, number: f64) -> Result<AnyValue<N>, E> {
        Ok(AnyValue::Float(number))
    }

    fn visit_str<E>(self, text: &str) -> Result<AnyValue<N>, E> {
        Ok(AnyValue::Text(text.into()))
    }

    fn visit_string<E>(self, text: String) -> Result<AnyValue<N>, E> {
        Ok(AnyValue::Text(text.into()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<AnyValue<N>, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = access.next_element()? {
            items.push(item);
        }
        Ok(AnyValue::List(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<AnyValue<N>, A::Error> {
        let mut entries = Vec::new();
        while let Some(entry) = access.next_entry()? {
            entries.push(entry);
        }
        Ok(AnyValue::Map(entries))
    }
}
