//! Everything wrong with one request, gathered so that a class is mended in one go.

use std::fmt;

use crate::{
    error::{Cause, Error},
    text::{MOST_QUOTED, one_line, quoted},
    yaml::At,
};

/// The most items that one message lists.
pub(super) const MOST_LISTED: usize = 20;

/// The most findings of one request that are kept.
const MOST_KEPT: usize = 500;

/// The most of one mistake's description, in bytes.
const MOST_OF_ONE: usize = 400;

/// Where in a request something is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// In what the driver sends beside the parameters.
    Request(String),
    /// In parameters that do not go together, or in the one that is named.
    Parameters(Vec<String>),
    /// In the text of `objects`.
    Text(At),
    /// In an object.
    Object(Entry, Vec<String>, Option<At>),
}

/// An entry of `objects`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its place in the list, from 0.
    pub index: usize,
    /// Its `objectName`; empty if it has none.
    pub name: String,
}

/// Something that should be mended: where, and what. Names are in it, never argument values or tokens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Its row in the table.
    pub cause: Cause,
    /// Where it is.
    pub place: Place,
    /// What is wrong and how to mend it; begins in the middle of a sentence about the place.
    pub what: String,
}

/// What is wrong with a request, in the order it was found.
#[derive(Debug, Default)]
pub(super) struct Mistakes(Kept<Finding>);

/// The beginning of a list, and how long it is in all.
#[derive(Debug)]
pub(super) struct Kept<T> {
    pub(super) items: Vec<T>,
    pub(super) count: usize,
}

impl Mistakes {
    /// Notes one: where it is, and what is wrong and how to mend it.
    pub(super) fn add(&mut self, place: impl Into<Place>, what: impl fmt::Display) {
        self.add_as(Cause::InvalidRequest, place, what);
    }

    /// Notes one of another cause than [`Cause::InvalidRequest`].
    pub(super) fn add_as(&mut self, cause: Cause, place: impl Into<Place>, what: impl fmt::Display) {
        let what = || one_line(&what.to_string(), MOST_OF_ONE);
        self.0.add(|| Finding { cause, place: place.into(), what: what() });
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.0.count
    }

    /// Those that were kept.
    pub(super) fn into_findings(self) -> Kept<Finding> {
        self.0
    }

    /// All of them as one error about `class` (the SecretProviderClass's name, which may be empty); nothing if there are none.
    /// `slips` are names that may explain why others are missing.
    ///
    /// Those of one cause end with its id once, others each with its own.
    pub(super) fn into_error(self, class: &str, slips: Option<String>) -> Option<Error> {
        let Self(Kept { items, count }) = self;
        let cause = items.first()?.cause;
        let shown = &items[..items.len().min(MOST_LISTED)];
        let uniform = items.iter().all(|mistake| mistake.cause == cause);
        let told = |mistake: &Finding| {
            if uniform { mistake.told() } else { format!("{} [{}]", mistake.told(), mistake.cause.id()) }
        };
        let list = shown.iter().map(told).chain(slips).collect::<Vec<_>>().join("; ");
        let subject = if class.is_empty() { String::new() } else { format!(" {}", quoted(class)) };
        let has = match count {
            1 => ":".to_owned(),
            _ if count == shown.len() => format!(" has {count} mistakes:"),
            _ => format!(" has {count} mistakes, of which {} are shown:", shown.len()),
        };
        let text = format!("SecretProviderClass{subject}{has} {list}");
        Some(if uniform { Error::new(cause, text) } else { Error::listing(cause, text) })
    }
}

impl Finding {
    /// The place by name, and what is wrong there.
    #[must_use]
    pub fn message(&self) -> String {
        format!("{}: {}", self.place, self.what)
    }

    /// The same for whoever has only the class, with the position in `objects`.
    #[must_use]
    pub fn told(&self) -> String {
        let at = self.place.at().map(|at| format!(" (line {}, column {} of objects)", at.line, at.column));
        self.message() + &at.unwrap_or_default()
    }
}

impl Place {
    /// The position in the text of `objects`, if it is known.
    #[must_use]
    pub fn at(&self) -> Option<At> {
        match self {
            Self::Text(at) => Some(*at),
            Self::Object(_, _, at) => *at,
            Self::Request(_) | Self::Parameters(_) => None,
        }
    }
}

impl Entry {
    /// One of its fields.
    pub(super) fn field(&self, field: &str) -> Place {
        self.fields(&[field])
    }

    /// Fields that do not go together.
    pub(super) fn fields(&self, fields: &[&str]) -> Place {
        Place::Object(self.clone(), fields.iter().map(|&field| field.to_owned()).collect(), None)
    }
}

impl From<&str> for Place {
    fn from(parameter: &str) -> Self {
        Self::Parameters(vec![parameter.to_owned()])
    }
}

impl From<Entry> for Place {
    fn from(entry: Entry) -> Self {
        Self::Object(entry, Vec::new(), None)
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Request(part) => f.write_str(part),
            Self::Parameters(names) => f.write_str(&joined(names)),
            Self::Text(_) => f.write_str("objects"),
            Self::Object(entry, fields, _) if fields.is_empty() => entry.fmt(f),
            Self::Object(entry, fields, _) => write!(f, "{entry}: {}", joined(fields)),
        }
    }
}

/// By its name, or by its place in the list when it has none.
impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.name.is_empty() {
            write!(f, "objects[{}]", self.index)
        } else {
            write!(f, "object {}", quoted(&self.name))
        }
    }
}

impl<T> Default for Kept<T> {
    fn default() -> Self {
        Self { items: Vec::new(), count: 0 }
    }
}

impl<T> Kept<T> {
    /// Adds an item, which is made only if it will be kept.
    pub(super) fn add(&mut self, item: impl FnOnce() -> T) {
        if self.items.len() < MOST_KEPT {
            self.items.push(item());
        }
        self.count += 1;
    }
}

/// The first few of `count` items, and how many more there are.
pub(super) fn row(items: impl Iterator<Item = String>, count: usize) -> String {
    let mut shown: Vec<String> = items.take(MOST_LISTED).collect();
    if count > shown.len() {
        shown.push(format!("and {} more", count - shown.len()));
    }
    shown.join(", ")
}

/// Names in a row; what is no plain word is in quotes.
fn joined(names: &[String]) -> String {
    let plain = |name: &str| name.len() <= MOST_QUOTED && name.bytes().all(|b| b.is_ascii_alphanumeric());
    let shown = names.iter().map(|name| if plain(name) { name.clone() } else { quoted(name) });
    shown.collect::<Vec<_>>().join(" and ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mistakes(count: usize) -> Mistakes {
        let mut mistakes = Mistakes::default();
        for index in 0..count {
            mistakes.add(Entry { index, name: String::new() }.field("secretPath"), "missing");
        }
        mistakes
    }

    #[test]
    fn none_is_no_error() {
        assert_eq!(mistakes(0).into_error("db", None), None);
    }

    #[test]
    fn one_stands_alone_and_several_are_counted_on_one_line() {
        let said = |count, class| mistakes(count).into_error(class, None).unwrap().to_string();
        assert_eq!(said(1, "db"), "SecretProviderClass \"db\": objects[0]: secretPath: missing [VM0080]");
        assert_eq!(
            said(2, ""),
            "SecretProviderClass has 2 mistakes: objects[0]: secretPath: missing; objects[1]: secretPath: missing [VM0080]"
        );
    }

    #[test]
    fn each_has_its_own_id_when_causes_differ() {
        let mut mistakes = mistakes(1);
        mistakes.add_as(Cause::ObjectsYaml, Place::Text(At { line: 3, column: 1 }), "is no valid YAML");
        let error = mistakes.into_error("db", None).unwrap();
        assert_eq!(error.cause(), Cause::InvalidRequest);
        assert_eq!(
            error.to_string(),
            "SecretProviderClass \"db\" has 2 mistakes: objects[0]: secretPath: missing [VM0080]; objects: is no valid YAML (line 3, column 1 of objects) [VM0081]"
        );
    }

    #[test]
    fn a_long_list_is_cut() {
        let said = mistakes(53).into_error("db", None).unwrap().to_string();
        assert!(
            said.contains("has 53 mistakes, of which 20 are shown: ") && said.ends_with("missing [VM0080]"),
            "{said}"
        );
        assert_eq!(said.matches("secretPath").count(), MOST_LISTED);
        let Kept { items, count } = mistakes(2000).into_findings();
        assert_eq!((items.len(), count), (MOST_KEPT, 2000));
    }

    #[test]
    fn a_name_that_is_no_plain_word_is_quoted() {
        assert_eq!(Place::from("a\nb").to_string(), "\"a b\"");
    }
}
