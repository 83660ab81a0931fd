//! Selection of the part of a response that an object needs.

use super::{
    FileSpec, RenderedFile,
    encoding::decode,
    json::{Fields, JsonText},
    key_suggestions::{missing_key_error as missing_key, quote_key},
};
use crate::{
    error::{Cause, Error},
    vault::response::SecretResponse,
};

/// The driver's limits for the length of a file name and of a path, in bytes.
const MAX_FILE_NAME_BYTES: usize = 255;
const MAX_FILE_PATH_BYTES: usize = 4096;

/// Returns the value of `secretKey`: from `data.data` if that is an object with the key, else from `data`. Like the Go
/// provider, does not check that the response is from KV v2.
pub(super) fn select_key<'a>(response: &'a SecretResponse, key: &str) -> Result<JsonText<'a>, Error> {
    let outer = require_object(response_data(response)?)?;
    let inner = outer.get("data").and_then(|data| data.fields());
    if let Some(value) = inner.as_ref().and_then(|inner| inner.get(key)).or_else(|| outer.get(key)) {
        return Ok(*value);
    }
    // Unwrap first, to distinguish a deleted version from a missing key.
    let root = data_fields(response)?;
    let mut known = root.clone();
    known.extend(inner.into_iter().flatten());
    Err(missing_key(key, &known, &root))
}

/// Returns the members of the data, with KV v2 unwrapped.
pub(super) fn data_fields(response: &SecretResponse) -> Result<Fields<'_>, Error> {
    require_object(unwrap_kv2(response)?)
}

/// Renders one file per key of the data.
pub(super) fn render_all_keys(spec: &FileSpec, response: &SecretResponse) -> Result<Vec<RenderedFile>, Error> {
    let file = |(key, value): (&String, &JsonText<'_>)| {
        let path = file_path(&spec.path, key)?;
        let contents =
            decode(value.to_file_text(), spec.encoding).map_err(|error| error.with_subject(quote_key(key)))?;
        Ok(RenderedFile { path, mode: spec.mode, contents })
    };
    data_fields(response)?.iter().map(file).collect()
}

fn response_data(response: &SecretResponse) -> Result<JsonText<'_>, Error> {
    response.data().map(JsonText::new).ok_or_else(|| {
        Error::new(Cause::NoData, "Vault's answer holds no data")
            .with_fix("correct secretPath; this one has nothing to read")
    })
}

fn require_object(data: JsonText<'_>) -> Result<Fields<'_>, Error> {
    data.fields().ok_or_else(|| {
        Error::new(
            Cause::RenderFailed,
            format!("the data of Vault's answer is {}, not an object with keys", data.type_name()),
        )
        .with_fix("leave out secretKey and format to get the whole answer")
    })
}

/// Returns the data without the envelope of KV v2.
pub(super) fn unwrap_kv2(response: &SecretResponse) -> Result<JsonText<'_>, Error> {
    let all_data = response_data(response)?;
    match all_data.fields() {
        Some(members) if is_kv2_envelope(&members) => {
            let data = members.get("data").copied().filter(|data| !data.is_null());
            data.ok_or_else(|| {
                Error::new(Cause::VersionDeleted, "this version of the secret was deleted or destroyed")
                    .with_fix("undelete it, write a new version, or ask for another one with `?version=`")
            })
        }
        _ => Ok(all_data),
    }
}

/// Returns true for KV v2's envelope: `data` (an object, or null if deleted), `metadata` with the `version` number that
/// KV v2 always sends, and nothing else. A KV v1 secret with a map named `data`, alone or beside other keys, is not an
/// envelope.
fn is_kv2_envelope(fields: &Fields<'_>) -> bool {
    let data = fields.get("data").is_some_and(|data| data.is_null() || data.type_name() == "an object");
    let metadata = fields.get("metadata").and_then(|metadata| metadata.fields());
    data && fields.len() == 2
        && metadata.and_then(|m| m.get("version").copied()).is_some_and(|version| version.type_name() == "a number")
}

/// Returns the path of a key's file in a directory below the mount; `.` is the mount itself.
fn file_path(directory: &str, key: &str) -> Result<String, Error> {
    let path = if directory == "." { key.to_owned() } else { format!("{directory}/{key}") };
    let problem = match key {
        "" => "it is empty",
        "." | ".." => "it means a directory",
        _ if key.contains('/') => "it contains a slash",
        _ if key.chars().any(char::is_control) => "it contains a control character",
        _ if key.len() > MAX_FILE_NAME_BYTES => "it is longer than 255 bytes",
        // The driver keeps its own files there under such names (`..data`).
        _ if path.starts_with("..") => "the driver refuses names that begin with `..` in the mount's root",
        _ if path.len() > MAX_FILE_PATH_BYTES => "the path would be longer than 4096 bytes",
        _ => return Ok(path),
    };
    Err(Error::new(Cause::UnsafeName, format!("{} cannot be a file's name: {problem}", quote_key(key)))
        .with_fix("rename the key in Vault, or list the keys as objects of their own with secretKey and objectName"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn response(data: &str) -> SecretResponse {
        SecretResponse::parse(format!(r#"{{"data":{data}}}"#).into_bytes()).unwrap()
    }

    fn kv2_response(data: &str) -> SecretResponse {
        response(&format!(r#"{{"data":{data},"metadata":{{"created_time":"t","custom_metadata":null,"version":1}}}}"#))
    }

    #[test]
    fn secret_key_is_looked_up_in_inner_data_first() {
        for (answer, name, text) in [
            (response(r#"{"a":"x"}"#), "a", "x"),
            (response(r#"{"a":1.50}"#), "a", "1.50"),
            (response(r#"{"a":null}"#), "a", "null"),
            (response(r#"{"a":{"a": "\u003c"}}"#), "a", r#"{"a":"\u003c"}"#),
            (response(r#"{"a":"\u003c\ud800"}"#), "a", "<\u{fffd}"),
            (response(r#"{"data":"x"}"#), "data", "x"),
            (response(r#"{"data":{"a":"in"},"a":"out","b":"out"}"#), "a", "in"),
            (response(r#"{"data":{"a":"in"},"a":"out","b":"out"}"#), "b", "out"),
            (kv2_response(r#"{"a":"x"}"#), "a", "x"),
            (kv2_response(r#"{"data":"x"}"#), "data", "x"),
        ] {
            assert_eq!(select_key(&answer, name).unwrap().to_file_text().as_str(), text);
        }
    }

    #[test]
    fn missing_key_error_lists_outer_keys_unless_kv2() {
        let message = |answer: &SecretResponse| select_key(answer, "zzz").map(|_| ()).unwrap_err().to_string();
        assert!(message(&response(r#"{"data":{"a":1},"b":2}"#)).contains(r#"which has the keys "a", "b", "data";"#));
        assert!(message(&kv2_response(r#"{"a":1}"#)).contains(r#"which has the keys "a";"#));
        assert!(message(&kv2_response(r#"{"a":{"zzz":1}}"#)).contains("secretPointer: /a/zzz"));
        assert_eq!(select_key(&kv2_response("null"), "a").map(|_| ()).unwrap_err().cause(), Cause::VersionDeleted);
        assert_eq!(select_key(&response("null"), "a").map(|_| ()).unwrap_err().cause(), Cause::NoData);
        assert_eq!(select_key(&response("[1]"), "a").map(|_| ()).unwrap_err().cause(), Cause::RenderFailed);
    }

    #[test]
    fn kv2_envelope_is_unwrapped_and_lookalikes_are_not() {
        let names = |answer: &SecretResponse| data_fields(answer).unwrap().into_keys().collect::<Vec<_>>().join(" ");
        assert_eq!(names(&kv2_response(r#"{"a":1}"#)), "a");
        assert_eq!(names(&response(r#"{"data":{"a":1}}"#)), "data");
        assert_eq!(names(&response(r#"{"data":{"a":1},"b":1}"#)), "b data");
        assert_eq!(names(&response(r#"{"data":{"a":1},"metadata":{"version":1},"b":1}"#)), "b data metadata");
        assert_eq!(names(&response(r#"{"data":{"a":1},"metadata":{"owner":"me"}}"#)), "data metadata");
        assert_eq!(names(&response(r#"{"data":"x","metadata":{"created_time":"t","version":1}}"#)), "data metadata");
        assert_eq!(data_fields(&kv2_response("null")).map(|_| ()).unwrap_err().cause(), Cause::VersionDeleted);
    }

    #[test]
    fn all_keys_selector_renders_one_file_per_key() {
        let file_spec = |file: &str| FileSpec {
            path: file.into(),
            mode: 0o440,
            selector: super::super::Selector::AllKeys,
            encoding: super::super::Encoding::Utf8,
        };
        let files = |file, data| render_all_keys(&file_spec(file), &kv2_response(data)).unwrap();
        let seen: Vec<_> = files("db", r#"{"b":2,"a":"x y","..c":null}"#)
            .into_iter()
            .map(|file| (file.path, file.mode, String::from_utf8(file.contents.expose().to_vec()).unwrap()))
            .collect();
        let expected = [("db/..c", "null"), ("db/a", "x y"), ("db/b", "2")];
        assert_eq!(seen, expected.map(|(path, text)| (path.to_owned(), 0o440, text.to_owned())));
        assert_eq!(files(".", r#"{"tls.crt":""}"#)[0].path, "tls.crt");
        assert!(files(".", "{}").is_empty());
    }

    #[test]
    fn all_keys_selector_rejects_key_unfit_for_file_name() {
        let long = "é".repeat(128);
        let deep = "d/".repeat(2000) + "d";
        for (directory, name, part) in [
            (".", "", r#"key "" cannot be a file's name: it is empty"#),
            ("d", ".", "it means a directory"),
            ("d", "..", "it means a directory"),
            ("d", "a/b", r#"key "a/b" cannot be a file's name: it contains a slash"#),
            ("d", "a\0b", r#"key "a\0b" cannot be a file's name: it contains a control character"#),
            (".", "a\u{1b}[2J", r#"key "a\u{1b}[2J" cannot be a file's name: it contains a control character"#),
            ("d", "a\nb", "it contains a control character"),
            ("d", &long, "it is longer than 255 bytes"),
            (".", "..data", "begin with `..`"),
            (&deep, &long[..200], "longer than 4096 bytes"),
        ] {
            let message = file_path(directory, name).unwrap_err().to_string();
            assert!(message.contains(part) && message.len() < 400, "{message}");
        }
        assert_eq!(file_path("d", &long[..254]).unwrap().len(), 256);
    }
}
