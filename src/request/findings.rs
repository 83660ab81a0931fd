//! All mistakes of one request, collected so that a class can be fixed in one pass.

use std::fmt;

use crate::{
    error::{Cause, Error},
    text::{MAX_QUOTED_BYTES, one_line, quote},
    yaml::Position,
};

/// The maximum number of items that one message lists.
pub(super) const MAX_LISTED_FINDINGS: usize = 20;

/// The maximum number of findings kept for one request.
const MAX_STORED_FINDINGS: usize = 500;

/// The maximum length of one finding's description, in bytes.
const MAX_FINDING_BYTES: usize = 400;

/// The location of a finding in a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FindingLocation {
    /// A part of the driver's request other than the parameters.
    DriverRequest(String),
    /// One parameter, or several that conflict.
    Parameters(Vec<String>),
    /// A position in the text of `objects`.
    ObjectsText(Position),
    /// An object, the fields concerned, and the position if it is known.
    Object(ObjectEntry, Vec<String>, Option<Position>),
}

/// An entry of `objects`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObjectEntry {
    /// The entry's index in the list, counted from 0.
    pub index: usize,
    /// The entry's `objectName`; empty if absent.
    pub name: String,
}

/// A mistake to fix, with its location. Contains names, but never argument values or tokens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// The finding's entry in the error table.
    pub cause: Cause,
    /// The finding's location.
    pub location: FindingLocation,
    /// The problem and its fix; continues a sentence that begins with the location.
    pub problem: String,
}

/// The findings of a request, in the order of discovery.
#[derive(Debug, Default)]
pub(super) struct Findings(BoundedList<Finding>);

/// The first items of a list, and the total number of items.
#[derive(Debug)]
pub(super) struct BoundedList<T> {
    pub(super) items: Vec<T>,
    pub(super) total: usize,
}

impl Findings {
    /// Records a finding of cause [`Cause::InvalidRequest`]. `problem` contains the problem and its fix.
    pub(super) fn add(&mut self, location: impl Into<FindingLocation>, problem: impl fmt::Display) {
        self.add_with_cause(Cause::InvalidRequest, location, problem);
    }

    /// Records a finding of any cause.
    pub(super) fn add_with_cause(
        &mut self,
        cause: Cause,
        location: impl Into<FindingLocation>,
        problem: impl fmt::Display,
    ) {
        let bounded = || one_line(&problem.to_string(), MAX_FINDING_BYTES);
        self.0.push_with(|| Finding { cause, location: location.into(), problem: bounded() });
    }

    /// Returns the number of findings, including those that were not kept.
    pub(super) fn len(&self) -> usize {
        self.0.total
    }

    /// Returns the findings that were kept, and the total.
    pub(super) fn into_list(self) -> BoundedList<Finding> {
        self.0
    }

    /// Returns all findings as one error about `class` (the SecretProviderClass's name, which may be empty), or `None`
    /// if there are none. `typos` lists unknown names that may explain missing ones.
    ///
    /// If all findings have one cause, its ID ends the error. Otherwise, each finding ends with its own ID.
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
    /// Returns the location by name, followed by the problem.
    #[must_use]
    pub fn message(&self) -> String {
        format!("{}: {}", self.location, self.problem)
    }

    /// Returns the message with the position in `objects`, for readers who have only the class.
    #[must_use]
    pub fn message_with_position(&self) -> String {
        let suffix = self.location.position().map(|at| format!(" (line {}, column {} of objects)", at.line, at.column));
        self.message() + &suffix.unwrap_or_default()
    }
}

impl FindingLocation {
    /// Returns the position in the text of `objects`, if it is known.
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
    /// Returns the location of one field of the entry.
    pub(super) fn field_location(&self, field: &str) -> FindingLocation {
        self.fields_location(&[field])
    }

    /// Returns the location of several fields of the entry that conflict.
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

/// Writes the entry's name, or its index in the list if it has no name.
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
    /// Counts an item, and calls `item` only if the list still has room for it.
    pub(super) fn push_with(&mut self, item: impl FnOnce() -> T) {
        if self.items.len() < MAX_STORED_FINDINGS {
            self.items.push(item());
        }
        self.total += 1;
    }
}

/// Joins the first [`MAX_LISTED_FINDINGS`] of `count` items and appends the number of the others.
pub(super) fn join_truncated(items: impl Iterator<Item = String>, count: usize) -> String {
    let mut listed: Vec<String> = items.take(MAX_LISTED_FINDINGS).collect();
    if count > listed.len() {
        listed.push(format!("and {} more", count - listed.len()));
    }
    listed.join(", ")
}

/// Joins names with "and". Names that are not short and alphanumeric are quoted.
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
