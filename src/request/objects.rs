//! The `objects` parameter: the list of secrets to fetch and the files to write from them.

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

/// The maximum length of `objects`, in bytes.
const MAX_OBJECTS_TEXT_BYTES: usize = 1 << 20;

/// The maximum number of objects in one class.
const MAX_OBJECTS: usize = 256;

/// The parsed list.
#[derive(Default)]
pub(super) struct ParsedObjects {
    /// The objects without mistakes.
    pub(super) objects: Vec<Object>,
    /// The files that all entries would produce, including entries with mistakes.
    pub(super) files: Vec<OutputFile>,
}

/// Parses the list and records every mistake as a finding. The result is complete only if there were no mistakes.
///
/// `default_permission` applies to objects that set no permission.
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

/// Returns the text with a line break appended. A block scalar is then always followed by a line break, which
/// distinguishes it from a plain scalar.
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
        // Go skips null entries.
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
