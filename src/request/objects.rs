//! `objects`: the list of what to read and which files to make of it.

mod args;
mod check;
mod names;
mod shape;
mod version;
mod written;

use zeroize::Zeroizing;

use self::{names::Names, written::Written};
use super::{
    Object,
    mistakes::{Mistakes, quoted},
    warnings::Warnings,
};
use crate::yaml::{self, Budget};

/// The most text, in bytes.
const MOST_TEXT: usize = 1 << 20;

/// The most objects of one class.
const MOST: usize = 256;

/// Reads the list and notes every mistake in it; what it returns is whole only if there was none.
///
/// `permission` is that of objects which name none.
pub(super) fn parse(
    text: Option<&str>,
    permission: u32,
    mistakes: &mut Mistakes,
    warnings: &mut Warnings,
) -> Vec<Object> {
    let none = "list at least one, with objectName and secretPath";
    let Some(text) = text else {
        mistakes.add("objects", format!("missing; {none}"));
        return Vec::new();
    };
    if text.len() > MOST_TEXT {
        mistakes.add(
            "objects",
            format!("is {} bytes long, more than the {MOST_TEXT} accepted; split the class", text.len()),
        );
        return Vec::new();
    }
    let source = with_end_of_line(text);
    let entries: Vec<Option<Written>> = match yaml::read::<Option<_>>(&source, Budget::OBJECTS) {
        Ok(entries) => entries.unwrap_or_default(),
        Err(fault) => {
            shape::explain(&source, &fault, mistakes);
            return Vec::new();
        }
    };
    match entries.iter().flatten().count() {
        0 => mistakes.add("objects", format!("there are none; {none}")),
        count if count > MOST => {
            mistakes.add("objects", format!("there are {count}, more than {MOST}; split the class"));
        }
        _ => return judge(entries, &source, permission, mistakes, warnings),
    }
    Vec::new()
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
) -> Vec<Object> {
    let mut names = Names::default();
    let mut objects = Vec::with_capacity(entries.len());
    for (index, entry) in entries.into_iter().enumerate() {
        // Go leaves out what is null.
        let Some(written) = entry else {
            warnings.say(format!("objects[{index}] is empty and ignored"));
            continue;
        };
        let place = place(index, &written.object_name);
        for field in &written.unknown {
            warnings.unknown(&format!("{place} field"), field, written::FIELDS);
        }
        match names::check(&written.object_name, written.is_each_key()) {
            Ok(()) => names.add(index, &written.object_name, written.is_each_key(), mistakes),
            Err(why) => mistakes.add(&place, format!("objectName: {why}")),
        }
        objects.extend(check::object(written, source, permission, &place, mistakes, warnings));
    }
    names.check_directories(mistakes);
    objects
}

/// How a message names an object: by its name, or by its place in the list when it has none.
fn place(index: usize, name: &str) -> String {
    if name.is_empty() { format!("objects[{index}]") } else { format!("object {}", quoted(name)) }
}

#[cfg(test)]
mod tests;
