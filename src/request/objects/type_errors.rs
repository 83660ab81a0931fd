//! Findings for a list of objects that does not parse: every value of the wrong type by object and field, or else the
//! parser's error.

use serde_json::Value;

use super::raw::OBJECT_FIELDS;
use crate::{
    error::Cause,
    request::findings::{FindingLocation, Findings, ObjectEntry},
    yaml::{self, Budget, ParseError},
};

/// Parses the text again as untyped YAML and records what is wrong.
pub(super) fn report_type_errors(text: &str, error: &serde_saphyr::Error, findings: &mut Findings) {
    let findings_before = findings.len();
    match yaml::parse(text, Budget::OBJECTS) {
        Ok(Value::Array(entries)) => {
            for (index, entry) in entries.iter().enumerate() {
                report_entry_type_errors(index, entry, findings);
            }
        }
        Ok(other) => {
            let found_type = type_name(&other);
            findings.add("objects", format!("is {found_type}, not a list; start each object with `- objectName:`"));
        }
        // The text is not valid YAML at all.
        Err(error) => report_yaml_error(&error, text, findings),
    }
    if findings.len() == findings_before {
        report_yaml_error(error, text, findings);
    }
}

fn report_yaml_error(error: &serde_saphyr::Error, text: &str, findings: &mut Findings) {
    let parse_error = ParseError::from_error(error, text, &OBJECT_FIELDS);
    let location = parse_error.position.map_or_else(|| "objects".into(), FindingLocation::ObjectsText);
    findings.add_with_cause(Cause::ObjectsYaml, location, format!("is not valid YAML: {}", parse_error.problem));
}

fn report_entry_type_errors(index: usize, entry: &Value, findings: &mut Findings) {
    let fields = match entry {
        Value::Object(fields) => fields,
        Value::Null => return,
        other => {
            let found_type = type_name(other);
            return findings.add(
                ObjectEntry { index, name: String::new() },
                format!("is {found_type}; write objectName, secretPath and so on as its fields"),
            );
        }
    };
    let name = fields.get("objectName").and_then(Value::as_str).unwrap_or_default();
    let entry = ObjectEntry { index, name: name.to_owned() };
    for (name, value) in fields.iter().filter(|(name, _)| OBJECT_FIELDS.contains(&name.as_str())) {
        let expected = match (name.as_str(), value) {
            ("secretArgs", Value::Object(_) | Value::Null) => continue,
            ("secretArgs", _) => "names and values below it",
            (_, Value::Array(_) | Value::Object(_)) => "one value",
            _ => continue,
        };
        findings.add(entry.field_location(name), format!("is {}; write {expected}", type_name(value)));
    }
}

fn type_name(value: &Value) -> &'static str {
    match value {
        Value::Null => "empty",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "text",
        Value::Array(_) => "a list",
        Value::Object(_) => "a mapping",
    }
}
