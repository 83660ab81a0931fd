//! RFC 6901 pointers into the data.

use super::{
    json::JsonText,
    key_suggestions::{closest_key, describe_keys, quote_key, quote_name},
};
use crate::error::{Cause, Error};

const POINTER_FIX: &str = "correct secretPointer, or set `optional: true` if it may be absent";

/// Returns the value that an RFC 6901 pointer refers to.
pub(super) fn resolve<'a>(pointer: &str, data: JsonText<'a>) -> Result<JsonText<'a>, Error> {
    let mut value = data;
    if pointer.is_empty() {
        return Ok(value);
    }
    let Some(steps) = pointer.strip_prefix('/') else {
        return Err(invalid_pointer(pointer, "it does not begin with a slash"));
    };
    for (i, raw) in steps.split('/').enumerate() {
        let name = raw.replace("~1", "/").replace("~0", "~");
        if raw.split('~').skip(1).any(|escape| !escape.starts_with(['0', '1'])) {
            return Err(invalid_pointer(pointer, "`~` stands only in `~0` (for `~`) and `~1` (for `/`)"));
        }
        value = resolve_step(value, &name)
            .map_err(|error| error.with_subject(format!("secretPointer {}, step {}", quote_name(pointer), i + 1)))?;
    }
    Ok(value)
}

/// Follows one step of a pointer down from `value`.
fn resolve_step<'a>(value: JsonText<'a>, name: &str) -> Result<JsonText<'a>, Error> {
    if let Some(members) = value.fields() {
        return members.get(name).copied().ok_or_else(|| {
            let advice = match closest_key(name, &members) {
                Some(meant) => format!("did you mean {}?", quote_name(meant)),
                None if name == "data" => "the data of KV v2 begins inside `data.data`: leave that out".to_owned(),
                None => POINTER_FIX.to_owned(),
            };
            missing_step(format!(
                "{} is not in the object there, which has {}",
                quote_key(name),
                describe_keys(&members)
            ))
            .with_fix(advice)
        });
    }
    let Some(elements) = value.elements() else {
        return Err(missing_step(format!(
            "there is {}, which has nothing inside, not {}",
            value.type_name(),
            quote_key(name)
        ))
        .with_fix(POINTER_FIX));
    };
    let index = name.parse::<usize>().ok().filter(|index| index.to_string() == name);
    index.and_then(|index| elements.get(index).copied()).ok_or_else(|| {
        missing_step(format!(
            "{} is no index of the array there, which has {} elements, counted from 0",
            quote_name(name),
            elements.len()
        ))
        .with_fix(POINTER_FIX)
    })
}

fn missing_step(problem: String) -> Error {
    Error::new(Cause::KeyMissing, problem)
}

fn invalid_pointer(pointer: &str, problem: &str) -> Error {
    Error::new(
        Cause::InvalidRequest,
        format!("secretPointer {} is no JSON pointer (RFC 6901): {problem}", quote_name(pointer)),
    )
    .with_fix("write it as /outer/inner")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secret_pointer_follows_rfc_6901() {
        let data = r#"{"foo":["bar","baz"],"":0,"a/b":1,"m~n":8,"~1":9,"deep":[{"x":{"y":"z"}}]}"#;
        for (name, text) in [
            ("/foo", r#"["bar","baz"]"#),
            ("/foo/0", "bar"),
            ("/", "0"),
            ("/a~1b", "1"),
            ("/m~0n", "8"),
            ("/~01", "9"),
            ("/deep/0/x/y", "z"),
            ("", data),
        ] {
            assert_eq!(resolve(name, JsonText::new(data)).unwrap().to_file_text().as_str(), text, "{name}");
        }
    }

    #[test]
    fn secret_pointer_error_names_failed_step() {
        let data = r#"{"db":{"host":"hunter2","ports":[1,2]}}"#;
        for (name, cause, part) in [
            ("db", Cause::InvalidRequest, "does not begin with a slash"),
            ("/d~b", Cause::InvalidRequest, "`~` stands only in"),
            ("/d~~10", Cause::InvalidRequest, "`~` stands only in"),
            ("/bd", Cause::KeyMissing, r#"step 1: key "bd" is not in the object there, which has the keys "db""#),
            ("/data/db", Cause::KeyMissing, "KV v2 begins inside `data.data`: leave that out"),
            (
                "/db/hots",
                Cause::KeyMissing,
                r#"step 2: key "hots" is not in the object there, which has the keys "host", "ports"; did you mean "host"?"#,
            ),
            ("/db/host/x", Cause::KeyMissing, r#"step 3: there is a string, which has nothing inside, not key "x""#),
            ("/db/ports/2", Cause::KeyMissing, r#"step 3: "2" is no index of the array there, which has 2 elements"#),
            ("/db/ports/01", Cause::KeyMissing, r#""01" is no index"#),
            ("/db/ports/-", Cause::KeyMissing, r#""-" is no index"#),
            ("/db/ports/+1", Cause::KeyMissing, r#""+1" is no index"#),
        ] {
            let error = resolve(name, JsonText::new(data)).map(|_| ()).unwrap_err();
            assert_eq!(error.cause(), cause, "{name}");
            assert!(error.to_string().contains(part), "{error}");
            assert!(!error.to_string().contains("hunter2"), "{error}");
        }
    }
}
