//! `objects`: the list of what to read and which files to make of it.

mod args;
mod file_names;
mod parse;
mod raw;
mod type_errors;
mod version_config;

use zeroize::Zeroizing;

pub use self::raw::OBJECT_FIELDS;
use self::{file_names::FileNames, raw::RawObject};
use super::{
    Object, OutputFile,
    findings::{Findings, ObjectEntry},
    warnings::Warnings,
};
use crate::{
    error::Cause,
    yaml::{self, Budget},
};

/// The most text, in bytes.
const MAX_OBJECTS_TEXT_BYTES: usize = 1 << 20;

/// The most objects of one class.
const MAX_OBJECTS: usize = 256;

/// The list as it was understood.
#[derive(Default)]
pub(super) struct ParsedObjects {
    /// The objects without mistakes.
    pub(super) objects: Vec<Object>,
    /// What every one of them would make.
    pub(super) files: Vec<OutputFile>,
}

/// Reads the list and notes every mistake in it; what it returns is whole only if there was none.
///
/// `permission` is that of objects which name none.
pub(super) fn parse(
    text: Option<&str>,
    default_permission: u32,
    findings: &mut Findings,
    warnings: &mut Warnings,
) -> ParsedObjects {
    let fix = "list at least one, with objectName and secretPath";
    let Some(text) = text else {
        findings.add("objects", format!("missing; {fix}"));
        return ParsedObjects::default();
    };
    if text.len() > MAX_OBJECTS_TEXT_BYTES {
        findings.add(
            "objects",
            format!("is {} bytes long, more than the {MAX_OBJECTS_TEXT_BYTES} accepted; split the class", text.len()),
        );
        return ParsedObjects::default();
    }
    let source = with_trailing_newline(text);
    let entries: Vec<Option<RawObject>> = match yaml::parse::<Option<_>>(&source, Budget::OBJECTS) {
        Ok(entries) => entries.unwrap_or_default(),
        Err(error) => {
            type_errors::report_type_errors(&source, &error, findings);
            return ParsedObjects::default();
        }
    };
    match entries.iter().flatten().count() {
        0 => findings.add("objects", format!("there are none; {fix}")),
        count if count > MAX_OBJECTS => {
            findings.add("objects", format!("there are {count}, more than {MAX_OBJECTS}; split the class"));
        }
        _ => return parse_entries(entries, &source, default_permission, findings, warnings),
    }
    ParsedObjects::default()
}

/// The text with a line break at its end. Behind a block scalar there is then always one, which tells it from a plain one.
fn with_trailing_newline(text: &str) -> Zeroizing<String> {
    let mut terminated = Zeroizing::new(String::with_capacity(text.len() + 1));
    terminated.push_str(text);
    terminated.push('\n');
    terminated
}

fn parse_entries(
    entries: Vec<Option<RawObject>>,
    source: &str,
    default_permission: u32,
    findings: &mut Findings,
    warnings: &mut Warnings,
) -> ParsedObjects {
    let mut files = Vec::new();
    let mut file_names = FileNames::default();
    let mut objects = Vec::with_capacity(entries.len());
    for (index, entry) in entries.into_iter().enumerate() {
        // Go leaves out what is null.
        let Some(raw) = entry else {
            warnings.add(ObjectEntry { index, name: String::new() }, "is empty and ignored".to_owned());
            continue;
        };
        let entry = ObjectEntry { index, name: raw.object_name.clone() };
        for field in &raw.unknown_fields {
            warnings.add_unknown(entry.field_location(field), field, OBJECT_FIELDS);
        }
        files.push(OutputFile { name: raw.object_name.clone(), is_directory: raw.selects_all_keys() });
        match file_names::check_name(&raw.object_name, raw.selects_all_keys()) {
            Ok(()) => file_names.add(index, &raw.object_name, raw.selects_all_keys(), findings),
            Err(why) => {
                let cause = if entry.name.is_empty() { Cause::InvalidRequest } else { Cause::UnsafeName };
                findings.add_with_cause(cause, entry.field_location("objectName"), why);
            }
        }
        objects.extend(parse::parse_object(raw, source, default_permission, &entry, findings, warnings));
    }
    file_names.check_no_file_is_directory(findings);
    ParsedObjects { objects, files }
}

#[cfg(test)]
mod tests;
