//! Everything wrong with one request, gathered so that a class is mended in one go.

use std::fmt::Display;

use crate::{
    error::{Cause, Error},
    text::one_line,
};

/// The most items that one message lists.
const MOST_LISTED: usize = 20;

/// The most of one mistake's description, in bytes.
const MOST_OF_ONE: usize = 400;

/// The most of a name or word out of a class that a message repeats, in bytes.
const MOST_QUOTED: usize = 80;

/// What is wrong with a request, in the order it was found.
#[derive(Debug, Default)]
pub(super) struct Mistakes(Listed);

/// A list of which a message shows the beginning.
#[derive(Debug, Default)]
pub(super) struct Listed {
    shown: Vec<String>,
    more: usize,
}

impl Mistakes {
    /// Notes one: where it is (an object, a parameter), and what is wrong and how to mend it.
    pub(super) fn add(&mut self, place: impl Display, what: impl Display) {
        self.0.add(|| one_line(&format!("{place}: {what}"), MOST_OF_ONE));
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// All of them as one error about `class` (the SecretProviderClass's name, which may be empty); nothing if there are none.
    pub(super) fn into_error(self, class: &str) -> Option<Error> {
        let count = self.len();
        let subject = if class.is_empty() {
            "SecretProviderClass".to_owned()
        } else {
            format!("SecretProviderClass {}", quoted(class))
        };
        let list = self.0.joined("; ");
        match count {
            0 => None,
            1 => Some(Error::new(Cause::InvalidRequest, format!("{subject}: {list}"))),
            _ => Some(Error::new(Cause::InvalidRequest, format!("{subject} has {count} mistakes: {list}"))),
        }
    }
}

impl Listed {
    /// Adds an item, which is made only if it will be shown.
    pub(super) fn add(&mut self, item: impl FnOnce() -> String) {
        if self.shown.len() < MOST_LISTED {
            self.shown.push(item());
        } else {
            self.more += 1;
        }
    }

    /// How many there are, shown or not.
    pub(super) fn len(&self) -> usize {
        self.shown.len() + self.more
    }

    /// The items in a row, and how many more there are.
    pub(super) fn joined(&self, separator: &str) -> String {
        let row = self.shown.join(separator);
        if self.more > 0 { format!("{row}{separator}and {} more", self.more) } else { row }
    }
}

/// A name or word out of a class in quotes, bounded, control characters escaped.
pub(super) fn quoted(text: &str) -> String {
    format!("{:?}", one_line(text, MOST_QUOTED))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mistakes(count: usize) -> Mistakes {
        let mut mistakes = Mistakes::default();
        for i in 0..count {
            mistakes.add(format!("objects[{i}]"), "secretPath: missing");
        }
        mistakes
    }

    #[test]
    fn none_is_no_error() {
        assert_eq!(mistakes(0).into_error("db"), None);
    }

    #[test]
    fn one_stands_alone_and_several_are_counted_on_one_line() {
        let said = |count, class| mistakes(count).into_error(class).unwrap().to_string();
        assert_eq!(said(1, "db"), "SecretProviderClass \"db\": objects[0]: secretPath: missing");
        assert_eq!(
            said(2, ""),
            "SecretProviderClass has 2 mistakes: objects[0]: secretPath: missing; objects[1]: secretPath: missing"
        );
    }

    #[test]
    fn a_long_list_is_cut() {
        let said = mistakes(53).into_error("db").unwrap().to_string();
        assert!(said.contains("has 53 mistakes") && said.ends_with("; and 33 more"), "{said}");
        assert_eq!(said.matches("secretPath").count(), MOST_LISTED);
    }

    #[test]
    fn what_is_quoted_is_bounded_and_on_one_line() {
        assert_eq!(quoted("a\n\"b\""), r#""a \"b\"""#);
        assert!(quoted(&"x".repeat(5000)).len() < 100);
        let mut listed = Listed::default();
        (0..22).for_each(|i| listed.add(|| i.to_string()));
        assert!(listed.joined(", ").ends_with("18, 19, and 2 more"));
    }
}
