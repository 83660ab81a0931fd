//! Which part of an answer an object wants.

use super::{
    File, Recipe,
    encoding::decode,
    json::{Json, Members},
    missing::{key as missing_key, shown_key},
};
use crate::{
    error::{Cause, Error},
    vault::answer::SecretResponse,
};

/// The longest name of a file, and the longest path, in bytes: the driver's limits.
const MAX_NAME: usize = 255;
const MAX_PATH: usize = 4096;

/// The value of `secretKey`: from `data.data` if that is an object that has the key, else from `data`. Whether it looks
/// like KV v2 does not matter: the Go provider does not ask either.
pub(super) fn key<'a>(answer: &'a SecretResponse, key: &str) -> Result<Json<'a>, Error> {
    let outer = object(data(answer)?)?;
    let inner = outer.get("data").and_then(|data| data.members());
    if let Some(value) = inner.as_ref().and_then(|inner| inner.get(key)).or_else(|| outer.get(key)) {
        return Ok(*value);
    }
    // Unwrapping first tells a deleted version from a missing key.
    let root = members(answer)?;
    let mut known = root.clone();
    known.extend(inner.into_iter().flatten());
    Err(missing_key(key, &known, &root))
}

/// The members of the data, KV v2 unwrapped.
pub(super) fn members(answer: &SecretResponse) -> Result<Members<'_>, Error> {
    object(unwrapped(answer)?)
}

/// One file per key of the data.
pub(super) fn each_key(recipe: &Recipe, answer: &SecretResponse) -> Result<Vec<File>, Error> {
    let file = |(key, value): (&String, &Json<'_>)| {
        let path = path(&recipe.file, key)?;
        let contents = decode(value.text(), recipe.encoding).map_err(|error| error.about(shown_key(key)))?;
        Ok(File { path, mode: recipe.mode, contents })
    };
    members(answer)?.iter().map(file).collect()
}

fn data(answer: &SecretResponse) -> Result<Json<'_>, Error> {
    answer.data().map(Json::new).ok_or_else(|| {
        Error::new(Cause::NoData, "Vault's answer holds no data")
            .advice("correct secretPath; this one has nothing to read")
    })
}

fn object(data: Json<'_>) -> Result<Members<'_>, Error> {
    data.members().ok_or_else(|| {
        Error::new(Cause::Render, format!("the data of Vault's answer is {}, not an object with keys", data.kind()))
            .advice("leave out secretKey and format to get the whole answer")
    })
}

/// The data without the envelope of KV v2.
pub(super) fn unwrapped(answer: &SecretResponse) -> Result<Json<'_>, Error> {
    let whole = data(answer)?;
    match whole.members() {
        Some(members) if is_kv2(&members) => {
            let data = members.get("data").copied().filter(|data| !data.is_null());
            data.ok_or_else(|| {
                Error::new(Cause::VersionDeleted, "this version of the secret was deleted or destroyed")
                    .advice("undelete it, write a new version, or ask for another one with `?version=`")
            })
        }
        _ => Ok(whole),
    }
}

/// Whether this is KV v2's envelope: `data` (an object, or null when deleted), `metadata` with the `version` number that
/// KV v2 always sends, and nothing else. A KV v1 secret with a map named `data` beside other keys, or alone, is not.
fn is_kv2(members: &Members<'_>) -> bool {
    let data = members.get("data").is_some_and(|data| data.is_null() || data.kind() == "an object");
    let metadata = members.get("metadata").and_then(|metadata| metadata.members());
    data && members.len() == 2
        && metadata.and_then(|m| m.get("version").copied()).is_some_and(|version| version.kind() == "a number")
}

/// The path of a key's file in a directory below the mount; `.` is the mount itself.
fn path(directory: &str, key: &str) -> Result<String, Error> {
    let path = if directory == "." { key.to_owned() } else { format!("{directory}/{key}") };
    let problem = match key {
        "" => "it is empty",
        "." | ".." => "it means a directory",
        _ if key.contains('/') => "it contains a slash",
        _ if key.chars().any(char::is_control) => "it contains a control character",
        _ if key.len() > MAX_NAME => "it is longer than 255 bytes",
        // The driver keeps its own files there under such names (`..data`).
        _ if path.starts_with("..") => "the driver refuses names that begin with `..` in the mount's root",
        _ if path.len() > MAX_PATH => "the path would be longer than 4096 bytes",
        _ => return Ok(path),
    };
    Err(Error::new(Cause::UnsafeName, format!("{} cannot be a file's name: {problem}", shown_key(key)))
        .advice("rename the key in Vault, or list the keys as objects of their own with secretKey and objectName"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(data: &str) -> SecretResponse {
        SecretResponse::parse(format!(r#"{{"data":{data}}}"#).into_bytes()).unwrap()
    }

    fn kv2(data: &str) -> SecretResponse {
        answer(&format!(r#"{{"data":{data},"metadata":{{"created_time":"t","custom_metadata":null,"version":1}}}}"#))
    }

    #[test]
    fn keys_are_found_inside_data_first() {
        for (answer, name, text) in [
            (answer(r#"{"a":"x"}"#), "a", "x"),
            (answer(r#"{"a":1.50}"#), "a", "1.50"),
            (answer(r#"{"a":null}"#), "a", "null"),
            (answer(r#"{"a":{"a": "\u003c"}}"#), "a", r#"{"a":"\u003c"}"#),
            (answer(r#"{"a":"\u003c\ud800"}"#), "a", "<\u{fffd}"),
            (answer(r#"{"data":"x"}"#), "data", "x"),
            (answer(r#"{"data":{"a":"in"},"a":"out","b":"out"}"#), "a", "in"),
            (answer(r#"{"data":{"a":"in"},"a":"out","b":"out"}"#), "b", "out"),
            (kv2(r#"{"a":"x"}"#), "a", "x"),
            (kv2(r#"{"data":"x"}"#), "data", "x"),
        ] {
            assert_eq!(key(&answer, name).unwrap().text().as_str(), text);
        }
    }

    #[test]
    fn a_missing_key_names_the_keys_of_both_places_unless_it_is_kv2() {
        let message = |answer: &SecretResponse| key(answer, "zzz").map(|_| ()).unwrap_err().to_string();
        assert!(message(&answer(r#"{"data":{"a":1},"b":2}"#)).contains(r#"which has the keys "a", "b", "data";"#));
        assert!(message(&kv2(r#"{"a":1}"#)).contains(r#"which has the keys "a";"#));
        assert!(message(&kv2(r#"{"a":{"zzz":1}}"#)).contains("secretPointer: /a/zzz"));
        assert_eq!(key(&kv2("null"), "a").map(|_| ()).unwrap_err().cause(), Cause::VersionDeleted);
        assert_eq!(key(&answer("null"), "a").map(|_| ()).unwrap_err().cause(), Cause::NoData);
        assert_eq!(key(&answer("[1]"), "a").map(|_| ()).unwrap_err().cause(), Cause::Render);
    }

    #[test]
    fn only_kv2_is_unwrapped() {
        let names = |answer: &SecretResponse| members(answer).unwrap().into_keys().collect::<Vec<_>>().join(" ");
        assert_eq!(names(&kv2(r#"{"a":1}"#)), "a");
        assert_eq!(names(&answer(r#"{"data":{"a":1}}"#)), "data");
        assert_eq!(names(&answer(r#"{"data":{"a":1},"b":1}"#)), "b data");
        assert_eq!(names(&answer(r#"{"data":{"a":1},"metadata":{"version":1},"b":1}"#)), "b data metadata");
        assert_eq!(names(&answer(r#"{"data":{"a":1},"metadata":{"owner":"me"}}"#)), "data metadata");
        assert_eq!(names(&answer(r#"{"data":"x","metadata":{"created_time":"t","version":1}}"#)), "data metadata");
        assert_eq!(members(&kv2("null")).map(|_| ()).unwrap_err().cause(), Cause::VersionDeleted);
    }

    #[test]
    fn every_key_is_a_file() {
        let recipe = |file: &str| Recipe {
            file: file.into(),
            mode: 0o440,
            select: super::super::Select::EachKey,
            encoding: super::super::Encoding::Utf8,
        };
        let files = |file, data| each_key(&recipe(file), &kv2(data)).unwrap();
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
    fn a_key_that_is_no_file_name_is_refused_by_name() {
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
            let message = path(directory, name).unwrap_err().to_string();
            assert!(message.contains(part) && message.len() < 400, "{message}");
        }
        assert_eq!(path("d", &long[..254]).unwrap().len(), 256);
    }
}
