//! Why a list of objects could not be read: every value of the wrong type by object and field, or else the parser's fault.

use serde_json::Value;

use super::written::FIELDS;
use crate::{
    error::Cause,
    request::mistakes::{Entry, Mistakes, Place},
    yaml::{self, Budget, Fault},
};

/// Reads the text again, whatever its types, and notes what is wrong.
pub(super) fn explain(text: &str, fault: &serde_saphyr::Error, mistakes: &mut Mistakes) {
    let before = mistakes.len();
    match yaml::read(text, Budget::OBJECTS) {
        Ok(Value::Array(entries)) => {
            for (index, entry) in entries.iter().enumerate() {
                explain_entry(index, entry, mistakes);
            }
        }
        Ok(other) => {
            let found = kind(&other);
            mistakes.add("objects", format!("is {found}, not a list; start each object with `- objectName:`"));
        }
        // Whatever the types, it cannot be read.
        Err(fault) => broken(&fault, text, mistakes),
    }
    if mistakes.len() == before {
        broken(fault, text, mistakes);
    }
}

fn broken(error: &serde_saphyr::Error, text: &str, mistakes: &mut Mistakes) {
    let fault = Fault::of(error, text, &FIELDS);
    let place = fault.at.map_or_else(|| "objects".into(), Place::Text);
    mistakes.add_as(Cause::ObjectsYaml, place, format!("is no valid YAML: {}", fault.what));
}

fn explain_entry(index: usize, entry: &Value, mistakes: &mut Mistakes) {
    let fields = match entry {
        Value::Object(fields) => fields,
        Value::Null => return,
        other => {
            let found = kind(other);
            return mistakes.add(
                Entry { index, name: String::new() },
                format!("is {found}; write objectName, secretPath and so on as its fields"),
            );
        }
    };
    let name = fields.get("objectName").and_then(Value::as_str).unwrap_or_default();
    let entry = Entry { index, name: name.to_owned() };
    for (name, value) in fields.iter().filter(|(name, _)| FIELDS.contains(&name.as_str())) {
        let wanted = match (name.as_str(), value) {
            ("secretArgs", Value::Object(_) | Value::Null) => continue,
            ("secretArgs", _) => "names and values below it",
            (_, Value::Array(_) | Value::Object(_)) => "one value",
            _ => continue,
        };
        mistakes.add(entry.field(name), format!("is {}; write {wanted}", kind(value)));
    }
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "empty",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "text",
        Value::Array(_) => "a list",
        Value::Object(_) => "a mapping",
    }
}
