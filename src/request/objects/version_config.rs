//! The configuration that enters an object's version: Go's JSON of the object, so that a migration from the Go provider
//! changes no version.

use super::raw::RawObject;
use crate::{
    request::go_json::{GoMap, JsonWriter},
    secret::SecretText,
};

/// Returns the Go provider's fields in its order, as written in the class. The Go provider also hashes them without
/// normalizing. vaultmount's own fields that change the file's content follow, only when set: `SecretPointer`, `Format`
/// and `Type`. `optional` does not change an existing file and is left out.
pub(super) fn version_config(raw: &RawObject, args: Option<&GoMap>, file_permission: u32) -> SecretText {
    let mut json = JsonWriter::default();
    for (before, text) in [
        ("{\"ObjectName\":", &raw.object_name),
        (",\"SecretPath\":", &raw.secret_path),
        (",\"SecretKey\":", &raw.secret_key),
        (",\"Method\":", &raw.method),
    ] {
        json.push_raw(before);
        json.push_string(text);
    }
    json.push_raw(",\"SecretArgs\":");
    match args {
        Some(map) => json.push_map(map),
        None => json.push_raw("null"),
    }
    json.push_raw(&format!(",\"FilePermission\":{file_permission},\"Encoding\":"));
    json.push_string(&raw.encoding);
    if let Some(pointer) = &raw.secret_pointer {
        json.push_raw(",\"SecretPointer\":");
        json.push_string(pointer);
    }
    if !raw.format.is_empty() {
        json.push_raw(",\"Format\":");
        json.push_string(&raw.format);
    }
    if raw.is_token() {
        json.push_raw(",\"Type\":\"token\"");
    }
    json.push_raw("}");
    json.into()
}
