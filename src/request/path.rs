//! Paths at Vault: where a secret is read, and where a login goes.
//!
//! The Go client cleans a path (`a//b/` is `a/b`), takes percent signs literally and escapes what a URL cannot hold, so
//! `a b` and `a%20b` are two secrets. The same here, but dot segments and `#` are refused: they are mistakes, or worse.

use super::query::Query;

/// The longest path accepted, in bytes, far beyond what any storage behind Vault takes.
const LONGEST: usize = 4096;

/// Splits a `secretPath` into the clean path below `/v1/` and its query. The error says what is wrong and how to mend it.
pub(super) fn secret_path(text: &str) -> Result<(String, Query), String> {
    let (path, query) = text.split_once('?').unwrap_or((text, ""));
    let below = path.strip_prefix("/v1/").or_else(|| path.strip_prefix("v1/")).unwrap_or(path);
    if below.contains('#') {
        return Err("contains a `#`; name the path alone, and the key in secretKey".to_owned());
    }
    if below.len() > LONGEST {
        return Err(format!("is {} bytes long, more than the {LONGEST} accepted", below.len()));
    }
    let path = clean(below)?;
    if path.is_empty() {
        return Err("names no secret; write mount and path, as in secret/data/app".to_owned());
    }
    Ok((path, Query::parse(query)?))
}

/// An auth method's mount path without slashes around it; empty when the operator's is meant.
pub(super) fn mount_path(text: &str) -> Result<String, String> {
    match text.find(['?', '#']) {
        Some(_) => Err("contains a `?` or `#`; write the mount's path alone, as in kubernetes".to_owned()),
        None => clean(text),
    }
}

/// Without empty parts; dot segments and control characters are errors.
fn clean(path: &str) -> Result<String, String> {
    if path.chars().any(char::is_control) {
        return Err("contains a control character or line break; remove it".to_owned());
    }
    let mut parts = Vec::new();
    let mut dots = false;
    for part in path.split('/') {
        match part {
            "" => {}
            "." => dots = true,
            ".." => {
                dots = true;
                parts.pop();
            }
            _ => parts.push(part),
        }
    }
    let clean = parts.join("/");
    if dots { Err(format!("contains a `.` or `..` part; write {}", crate::text::quoted(&clean))) } else { Ok(clean) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parsed(text: &str) -> Result<(String, Option<String>), String> {
        secret_path(text).map(|(path, query)| (path, query.encode().map(|q| q.expose().to_owned())))
    }

    /// What the real Go client sends for each (vault/api 1.20), below `/v1/` and before escaping.
    #[test]
    fn paths_mean_what_they_mean_to_the_go_client() {
        for (text, path, query) in [
            ("secret/data/x", "secret/data/x", None),
            ("/secret/data/x", "secret/data/x", None),
            ("v1/secret/data/x", "secret/data/x", None),
            ("/v1/secret/data/x", "secret/data/x", None),
            ("//v1/x", "v1/x", None),
            ("/v1//x", "x", None),
            ("v1//v1/x", "v1/x", None),
            ("v1", "v1", None),
            ("a//b", "a/b", None),
            ("a/b/", "a/b", None),
            ("a b", "a b", None),
            ("a%20b", "a%20b", None),
            ("a%zz", "a%zz", None),
            ("é/ü", "é/ü", None),
            ("a+b:c@d;e=f&g,h$", "a+b:c@d;e=f&g,h$", None),
            ("a.b/..c/.d/e..", "a.b/..c/.d/e..", None),
            ("a?version=1", "a", Some("version=1")),
            ("a?", "a", None),
            ("a?version", "a", Some("version=")),
            ("a?v=../?#", "a", Some("v=..%2F%3F%23")),
        ] {
            assert_eq!(parsed(text), Ok((path.to_owned(), query.map(str::to_owned))), "{text}");
        }
    }

    #[test]
    fn what_is_no_path_is_refused_with_the_way_out() {
        for (text, says) in [
            ("", "names no secret"),
            ("/", "names no secret"),
            ("v1/", "names no secret"),
            ("?version=1", "names no secret"),
            ("a/./b", "write \"a/b\""),
            ("a/../b", "write \"b\""),
            ("../../sys/seal", "write \"sys/seal\""),
            ("/v1/../b", "write \"b\""),
            ("a\nb", "control character"),
            ("a\0b", "control character"),
            ("secret/data/x#pass", "secretKey"),
            (&"a/".repeat(2100), "is 4200 bytes long"),
            ("a?b=1;c=2", "`;`"),
            ("a?b=%zz", "percent"),
        ] {
            let why = parsed(text).unwrap_err();
            assert!(why.contains(says), "{text}: {why}");
        }
    }

    #[test]
    fn mount_paths_lose_their_slashes() {
        for (text, mount) in [("kubernetes", "kubernetes"), ("/kubernetes/", "kubernetes"), ("/", ""), ("a//b", "a/b")]
        {
            assert_eq!(mount_path(text).as_deref(), Ok(mount), "{text}");
        }
        for text in ["a/../b", "./a", "a?b", "a#b", "a\nb", "a\u{7f}"] {
            assert!(mount_path(text).is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn a_clean_path_is_its_own_clean_form(text in ".*") {
            if let Ok((path, _)) = secret_path(&text) {
                let again = secret_path(&format!("/v1/{path}/")).unwrap().0;
                prop_assert_eq!(again, path);
            }
        }
    }
}
