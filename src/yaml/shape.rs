//! What a value of any type is, read once for whoever adds what stands around it: its place, its tag.

use std::{fmt, marker::PhantomData};

use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, SeqAccess, Visitor},
};

use crate::secret::SecretText;

/// A value whose items and entries are nodes of somebody's own.
pub(crate) enum Shape<N> {
    /// Nothing.
    Null,
    /// True or false.
    Bool(bool),
    /// A whole number.
    Int(i128),
    /// Any other number.
    Float(f64),
    /// Text; it may be anybody's secret.
    Text(SecretText),
    /// A list.
    List(Vec<N>),
    /// A mapping, in the order it is written.
    Map(Vec<(N, N)>),
}

impl<'de, N: Deserialize<'de>> Deserialize<'de> for Shape<N> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ShapeVisitor(PhantomData))
    }
}

struct ShapeVisitor<N>(PhantomData<N>);

impl<'de, N: Deserialize<'de>> Visitor<'de> for ShapeVisitor<N> {
    type Value = Shape<N>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_unit<E>(self) -> Result<Shape<N>, E> {
        Ok(Shape::Null)
    }

    fn visit_bool<E>(self, word: bool) -> Result<Shape<N>, E> {
        Ok(Shape::Bool(word))
    }

    fn visit_i64<E>(self, number: i64) -> Result<Shape<N>, E> {
        Ok(Shape::Int(number.into()))
    }

    fn visit_u64<E>(self, number: u64) -> Result<Shape<N>, E> {
        Ok(Shape::Int(number.into()))
    }

    fn visit_f64<E>(self, number: f64) -> Result<Shape<N>, E> {
        Ok(Shape::Float(number))
    }

    fn visit_str<E>(self, text: &str) -> Result<Shape<N>, E> {
        Ok(Shape::Text(text.into()))
    }

    fn visit_string<E>(self, text: String) -> Result<Shape<N>, E> {
        Ok(Shape::Text(text.into()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Shape<N>, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = access.next_element()? {
            items.push(item);
        }
        Ok(Shape::List(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Shape<N>, A::Error> {
        let mut entries = Vec::new();
        while let Some(entry) = access.next_entry()? {
            entries.push(entry);
        }
        Ok(Shape::Map(entries))
    }
}
