//! RFC 6901 pointers into the data.

use super::{
    json::Json,
    missing::{keys, meant, shown, shown_key},
};
use crate::error::{Cause, Error};

const CORRECT: &str = "correct secretPointer, or set `optional: true` if it may be absent";

/// The value that an RFC 6901 pointer names.
pub(super) fn follow<'a>(pointer: &str, data: Json<'a>) -> Result<Json<'a>, Error> {
    let mut value = data;
    if pointer.is_empty() {
        return Ok(value);
    }
    let Some(steps) = pointer.strip_prefix('/') else {
        return Err(bad_pointer(pointer, "it does not begin with a slash"));
    };
    for (i, raw) in steps.split('/').enumerate() {
        let name = raw.replace("~1", "/").replace("~0", "~");
        if raw.split('~').skip(1).any(|escape| !escape.starts_with(['0', '1'])) {
            return Err(bad_pointer(pointer, "`~` stands only in `~0` (for `~`) and `~1` (for `/`)"));
        }
        value = step(value, &name)
            .map_err(|error| error.about(format!("secretPointer {}, step {}", shown(pointer), i + 1)))?;
    }
    Ok(value)
}

/// One step of a pointer, down from `value`.
fn step<'a>(value: Json<'a>, name: &str) -> Result<Json<'a>, Error> {
    if let Some(members) = value.members() {
        return members.get(name).copied().ok_or_else(|| {
            let advice = match meant(name, &members) {
                Some(meant) => format!("did you mean {}?", shown(meant)),
                None if name == "data" => "the data of KV v2 begins inside `data.data`: leave that out".to_owned(),
                None => CORRECT.to_owned(),
            };
            absent(format!("{} is not in the object there, which has {}", shown_key(name), keys(&members)))
                .advice(advice)
        });
    }
    let Some(elements) = value.elements() else {
        return Err(absent(format!("there is {}, which has nothing inside, not {}", value.kind(), shown_key(name)))
            .advice(CORRECT));
    };
    let index = name.parse::<usize>().ok().filter(|index| index.to_string() == name);
    index.and_then(|index| elements.get(index).copied()).ok_or_else(|| {
        absent(format!(
            "{} is no index of the array there, which has {} elements, counted from 0",
            shown(name),
            elements.len()
        ))
        .advice(CORRECT)
    })
}

fn absent(what: String) -> Error {
    Error::new(Cause::KeyMissing, what)
}

fn bad_pointer(pointer: &str, problem: &str) -> Error {
    Error::new(
        Cause::InvalidRequest,
        format!("secretPointer {} is no JSON pointer (RFC 6901): {problem}", shown(pointer)),
    )
    .advice("write it as /outer/inner")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pointers_follow_rfc_6901() {
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
            assert_eq!(follow(name, Json::new(data)).unwrap().text().as_str(), text, "{name}");
        }
    }

    #[test]
    fn a_pointer_says_which_step_failed() {
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
            let error = follow(name, Json::new(data)).map(|_| ()).unwrap_err();
            assert_eq!(error.cause(), cause, "{name}");
            assert!(error.to_string().contains(part), "{error}");
            assert!(!error.to_string().contains("hunter2"), "{error}");
        }
    }
}
