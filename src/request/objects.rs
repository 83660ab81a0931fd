//! `objects`: the list of what to read and which files to make of it.

mod args;
mod check;
mod names;
mod shape;
mod version;
mod written;

use zeroize::Zeroizing;

pub use self::written::FIELDS;
use self::{names::Names, written::Written};
use super::{
    Made, Object,
    mistakes::{Entry, Mistakes},
    warnings::Warnings,
};
use crate::{
    error::Cause,
    yaml::{self, Budget},
};

/// The most text, in bytes.
const MOST_TEXT: usize = 1 << 20;

/// The most objects of one class.
const MOST: usize = 256;

/// The list as it was understood.
#[derive(Default)]
pub(super) struct Listed {
    /// The objects without mistakes.
    pub(super) objects: Vec<Object>,
    /// What every one of them would make.
    pub(super) files: Vec<Made>,
}

/// Reads the list and notes every mistake in it; what it returns is whole only if there was none.
///
/// `permission` is that of objects which name none.
pub(super) fn parse(text: Option<&str>, permission: u32, mistakes: &mut Mistakes, warnings: &mut Warnings) -> Listed {
    let none = "list at least one, with objectName and secretPath";
    let Some(text) = text else {
        mistakes.add("objects", format!("missing; {none}"));
        return Listed::default();
    };
    if text.len() > MOST_TEXT {
        mistakes.add(
            "objects",
            format!("is {} bytes long, more than the {MOST_TEXT} accepted; split the class", text.len()),
        );
        return Listed::default();
    }
    let source = with_end_of_line(text);
    let entries: Vec<Option<Written>> = match yaml::read::<Option<_>>(&source, Budget::OBJECTS) {
        Ok(entries) => entries.unwrap_or_default(),
        Err(fault) => {
            shape::explain(&source, &fault, mistakes);
            return Listed::default();
        }
    };
    match entries.iter().flatten().count() {
        0 => mistakes.add("objects", format!("there are none; {none}")),
        count if count > MOST => {
            mistakes.add("objects", format!("there are {count}, more than {MOST}; split the class"));
        }
        _ => return judge(entries, &source, permission, mistakes, warnings),
    }
    Listed::default()
}

/// The text with a line break at its end. Behind a block scalar there is then always one, which tells it from a plain one.
fn with_end_of_line(text: &str) -> Zeroizing<String> {
    let mut longer = Zeroizing::new(String::with_capacity(text.len() + 1));
    longer.push_str(text);
    longer.push('\n');
    longer
}

fn judge(
    entries: Vec<Option<Written>>,
    source: &str,
    permission: u32,
    mistakes: &mut Mistakes,
    warnings: &mut Warnings,
) -> Listed {
    let mut files = Vec::new();
    let mut names = Names::default();
    let mut objects = Vec::with_capacity(entries.len());
    for (index, entry) in entries.into_iter().enumerate() {
        // Go leaves out what is null.
        let Some(written) = entry else {
            warnings.say(Entry { index, name: String::new() }, "is empty and ignored".to_owned());
            continue;
        };
        let entry = Entry { index, name: written.object_name.clone() };
        for field in &written.unknown {
            warnings.unknown(entry.field(field), field, FIELDS);
        }
        files.push(Made { name: written.object_name.clone(), each_key: written.is_each_key() });
        match names::check(&written.object_name, written.is_each_key()) {
            Ok(()) => names.add(index, &written.object_name, written.is_each_key(), mistakes),
            Err(why) => {
                let cause = if entry.name.is_empty() { Cause::InvalidRequest } else { Cause::UnsafeName };
                mistakes.add_as(cause, entry.field("objectName"), why);
            }
        }
        objects.extend(check::object(written, source, permission, &entry, mistakes, warnings));
    }
    names.check_directories(mistakes);
    Listed { objects, files }
}

#[cfg(test)]
mod tests;
