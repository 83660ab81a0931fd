//! The configuration that enters an object's version: Go's JSON of the object, so that moving over changes no version.

use super::written::Written;
use crate::{
    request::go_json::{Json, Map},
    secret::SecretText,
};

/// The fields of the Go provider in its order, as the class writes them (not normalized: so it hashes them), and then those
/// of ours that change what the file holds, only when set: `SecretPointer`, `Format` and `Type`. `optional` changes nothing of a file
/// that is there, and stays out.
pub(super) fn config(written: &Written, args: Option<&Map>, file_permission: u32) -> SecretText {
    let mut json = Json::default();
    for (before, text) in [
        ("{\"ObjectName\":", &written.object_name),
        (",\"SecretPath\":", &written.secret_path),
        (",\"SecretKey\":", &written.secret_key),
        (",\"Method\":", &written.method),
    ] {
        json.raw(before);
        json.string(text);
    }
    json.raw(",\"SecretArgs\":");
    match args {
        Some(map) => json.map(map),
        None => json.raw("null"),
    }
    json.raw(&format!(",\"FilePermission\":{file_permission},\"Encoding\":"));
    json.string(&written.encoding);
    if let Some(pointer) = &written.secret_pointer {
        json.raw(",\"SecretPointer\":");
        json.string(pointer);
    }
    if !written.format.is_empty() {
        json.raw(",\"Format\":");
        json.string(&written.format);
    }
    if written.is_token() {
        json.raw(",\"Type\":\"token\"");
    }
    json.raw("}");
    json.into()
}
