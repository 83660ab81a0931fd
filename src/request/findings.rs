//! Everything wrong with one request, gathered so that a class is mended in one go.

use std::fmt;

use crate::{
    error::{Cause, Error},
    text::{MAX_QUOTED_BYTES, one_line, quote},
    yaml::Position,
};

/// The most items that one message lists.
pub(super) const MAX_LISTED_FINDINGS: usize = 20;

/// The most findings of one request that are kept.
const MAX_STORED_FINDINGS: usize = 500;

/// The most of one mistake's description, in bytes.
const MAX_FINDING_BYTES: usize = 400;

/// Where in a request something is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FindingLocation {
    /// In what the driver sends beside the parameters.
    DriverRequest(String),
    /// In parameters that do not go together, or in the one that is named.
    Parameters(Vec<String>),
    /// In the text of `objects`.
    ObjectsText(Position),
    /// In an object.
    Object(ObjectEntry, Vec<String>, Option<Position>),
}

/// An entry of `objects`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObjectEntry {
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
    pub location: FindingLocation,
    /// What is wrong and how to mend it; begins in the middle of a sentence about the place.
    pub problem: String,
}

/// What is wrong with a request, in the order it was found.
#[derive(Debug, Default)]
pub(super) struct Findings(BoundedList<Finding>);

/// The beginning of a list, and how long it is in all.
#[derive(Debug)]
pub(super) struct BoundedList<T> {
    pub(super) items: Vec<T>,
    pub(super) total: usize,
}

impl Findings {
    /// Notes one: where it is, and what is wrong and how to mend it.
    pub(super) fn add(&mut self, location: impl Into<FindingLocation>, problem: impl fmt::Display) {
        self.add_with_cause(Cause::InvalidRequest, location, problem);
    }

    /// Notes one of another cause than [`Cause::InvalidRequest`].
    pub(super) fn add_with_cause(
        &mut self,
        cause: Cause,
        location: impl Into<FindingLocation>,
        problem: impl fmt::Display,
    ) {
        let bounded = || one_line(&problem.to_string(), MAX_FINDING_BYTES);
        self.0.push_with(|| Finding { cause, location: location.into(), problem: bounded() });
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.0.total
    }

    /// Those that were kept.
    pub(super) fn into_list(self) -> BoundedList<Finding> {
        self.0
    }

    /// All of them as one error about `class` (the SecretProviderClass's name, which may be empty); nothing if there are none.
    /// `slips` are names that may explain why others are missing.
    ///
    /// Those of one cause end with its id once, others each with its own.
    pub(super) fn into_error(self, class: &str, typos: Option<String>) -> Option<Error> {
        let Self(BoundedList { items, total }) = self;
        let cause = items.first()?.cause;
        let listed = &items[..items.len().min(MAX_LISTED_FINDINGS)];
        let uniform = items.iter().all(|mistake| mistake.cause == cause);
        let describe = |mistake: &Finding| {
            if uniform {
                mistake.message_with_position()
            } else {
                format!("{} [{}]", mistake.message_with_position(), mistake.cause.id())
            }
        };
        let list = listed.iter().map(describe).chain(typos).collect::<Vec<_>>().join("; ");
        let subject = if class.is_empty() { String::new() } else { format!(" {}", quote(class)) };
        let has = match total {
            1 => ":".to_owned(),
            _ if total == listed.len() => format!(" has {total} mistakes:"),
            _ => format!(" has {total} mistakes, of which {} are shown:", listed.len()),
        };
        let text = format!("SecretProviderClass{subject}{has} {list}");
        Some(if uniform { Error::new(cause, text) } else { Error::aggregate(cause, text) })
    }
}

impl Finding {
    /// The place by name, and what is wrong there.
    #[must_use]
    pub fn message(&self) -> String {
        format!("{}: {}", self.location, self.problem)
    }

    /// The same for whoever has only the class, with the position in `objects`.
    #[must_use]
    pub fn message_with_position(&self) -> String {
        let suffix = self.location.position().map(|at| format!(" (line {}, column {} of objects)", at.line, at.column));
        self.message() + &suffix.unwrap_or_default()
    }
}

impl FindingLocation {
    /// The position in the text of `objects`, if it is known.
    #[must_use]
    pub fn position(&self) -> Option<Position> {
        match self {
            Self::ObjectsText(at) => Some(*at),
            Self::Object(_, _, at) => *at,
            Self::DriverRequest(_) | Self::Parameters(_) => None,
        }
    }
}

impl ObjectEntry {
    /// One of its fields.
    pub(super) fn field_location(&self, field: &str) -> FindingLocation {
        self.fields_location(&[field])
    }

    /// Fields that do not go together.
    pub(super) fn fields_location(&self, fields: &[&str]) -> FindingLocation {
        FindingLocation::Object(self.clone(), fields.iter().map(|&field| field.to_owned()).collect(), None)
    }
}

impl From<&str> for FindingLocation {
    fn from(parameter: &str) -> Self {
        Self::Parameters(vec![parameter.to_owned()])
    }
}

impl From<ObjectEntry> for FindingLocation {
    fn from(entry: ObjectEntry) -> Self {
        Self::Object(entry, Vec::new(), None)
    }
}

impl fmt::Display for FindingLocation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::DriverRequest(part) => f.write_str(part),
            Self::Parameters(names) => f.write_str(&join_names(names)),
            Self::ObjectsText(_) => f.write_str("objects"),
            Self::Object(entry, fields, _) if fields.is_empty() => entry.fmt(f),
            Self::Object(entry, fields, _) => write!(f, "{entry}: {}", join_names(fields)),
        }
    }
}

/// By its name, or by its place in the list when it has none.
impl fmt::Display for ObjectEntry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.name.is_empty() {
            write!(f, "objects[{}]", self.index)
        } else {
            write!(f, "object {}", quote(&self.name))
        }
    }
}

impl<T> Default for BoundedList<T> {
    fn default() -> Self {
        Self { items: Vec::new(), total: 0 }
    }
}

impl<T> BoundedList<T> {
    /// Adds an item, which is made only if it will be kept.
    pub(super) fn push_with(&mut self, item: impl FnOnce() -> T) {
        if self.items.len() < MAX_STORED_FINDINGS {
            self.items.push(item());
        }
        self.total += 1;
    }
}

/// The first few of `count` items, and how many more there are.
pub(super) fn join_truncated(items: impl Iterator<Item = String>, count: usize) -> String {
    let mut listed: Vec<String> = items.take(MAX_LISTED_FINDINGS).collect();
    if count > listed.len() {
        listed.push(format!("and {} more", count - listed.len()));
    }
    listed.join(", ")
}

/// Names in a row; what is no plain word is in quotes.
fn join_names(names: &[String]) -> String {
    let is_plain = |name: &str| name.len() <= MAX_QUOTED_BYTES && name.bytes().all(|b| b.is_ascii_alphanumeric());
    let shown = names.iter().map(|name| if is_plain(name) { name.clone() } else { quote(name) });
    shown.collect::<Vec<_>>().join(" and ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn missing_paths(count: usize) -> Findings {
        let mut findings = Findings::default();
        for index in 0..count {
            findings.add(ObjectEntry { index, name: String::new() }.field_location("secretPath"), "missing");
        }
        findings
    }

    #[test]
    fn findings_empty_is_no_error() {
        assert_eq!(missing_paths(0).into_error("db", None), None);
    }

    #[test]
    fn findings_error_counts_several_on_one_line() {
        let message = |count, class| missing_paths(count).into_error(class, None).unwrap().to_string();
        assert_eq!(message(1, "db"), "SecretProviderClass \"db\": objects[0]: secretPath: missing [VM0080]");
        assert_eq!(
            message(2, ""),
            "SecretProviderClass has 2 mistakes: objects[0]: secretPath: missing; objects[1]: secretPath: missing [VM0080]"
        );
    }

    #[test]
    fn findings_error_shows_each_id_when_causes_differ() {
        let mut findings = missing_paths(1);
        findings.add_with_cause(
            Cause::ObjectsYaml,
            FindingLocation::ObjectsText(Position { line: 3, column: 1 }),
            "is not valid YAML",
        );
        let error = findings.into_error("db", None).unwrap();
        assert_eq!(error.cause(), Cause::InvalidRequest);
        assert_eq!(
            error.to_string(),
            "SecretProviderClass \"db\" has 2 mistakes: objects[0]: secretPath: missing [VM0080]; objects: is not valid YAML (line 3, column 1 of objects) [VM0081]"
        );
    }

    #[test]
    fn findings_beyond_limit_are_truncated_and_counted() {
        let message = missing_paths(53).into_error("db", None).unwrap().to_string();
        assert!(
            message.contains("has 53 mistakes, of which 20 are shown: ") && message.ends_with("missing [VM0080]"),
            "{message}"
        );
        assert_eq!(message.matches("secretPath").count(), MAX_LISTED_FINDINGS);
        let BoundedList { items, total } = missing_paths(2000).into_list();
        assert_eq!((items.len(), total), (MAX_STORED_FINDINGS, 2000));
    }

    #[test]
    fn finding_location_quotes_unusual_parameter_name() {
        assert_eq!(FindingLocation::from("a\nb").to_string(), "\"a b\"");
    }
}
