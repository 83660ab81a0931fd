//! Vault paths of secrets and logins.
//!
//! The Go client normalizes a path (`a//b/` is `a/b`), keeps percent signs literal and escapes characters that a URL
//! cannot hold. Therefore `a b` and `a%20b` are two secrets. vaultmount does the same, but rejects dot segments and
//! `#`, because they are mistakes or worse.

use super::query::Query;

/// The maximum length of a path, in bytes; far above the limit of any storage backend of Vault.
const MAX_SECRET_PATH_BYTES: usize = 4096;

/// Splits a `secretPath` into the normalized path below `/v1/` and its query. The error contains the problem and its
/// fix.
pub(super) fn parse_secret_path(text: &str) -> Result<(String, Query), String> {
    let (path, query) = text.split_once('?').unwrap_or((text, ""));
    let api_path = path.strip_prefix("/v1/").or_else(|| path.strip_prefix("v1/")).unwrap_or(path);
    if api_path.contains('#') {
        return Err("contains a `#`; name the path alone, and the key in secretKey".to_owned());
    }
    if api_path.len() > MAX_SECRET_PATH_BYTES {
        return Err(format!("is {} bytes long, more than the {MAX_SECRET_PATH_BYTES} accepted", api_path.len()));
    }
    let path = normalize(api_path)?;
    if path.is_empty() {
        return Err("names no secret; write mount and path, as in secret/data/app".to_owned());
    }
    Ok((path, Query::parse(query)?))
}

/// Returns an auth method's mount path without surrounding slashes. An empty path means the operator's mount.
pub(super) fn parse_mount_path(text: &str) -> Result<String, String> {
    match text.find(['?', '#']) {
        Some(_) => Err("contains a `?` or `#`; write the mount's path alone, as in kubernetes".to_owned()),
        None => normalize(text),
    }
}

/// Removes empty parts, and rejects dot segments and control characters.
fn normalize(path: &str) -> Result<String, String> {
    if path.chars().any(char::is_control) {
        return Err("contains a control character or line break; remove it".to_owned());
    }
    let mut parts = Vec::new();
    let mut has_dot_segments = false;
    for part in path.split('/') {
        match part {
            "" => {}
            "." => has_dot_segments = true,
            ".." => {
                has_dot_segments = true;
                parts.pop();
            }
            _ => parts.push(part),
        }
    }
    let normalized = parts.join("/");
    if has_dot_segments {
        Err(format!("contains a `.` or `..` part; write {}", crate::text::quote(&normalized)))
    } else {
        Ok(normalized)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parse_text(text: &str) -> Result<(String, Option<String>), String> {
        parse_secret_path(text).map(|(path, query)| (path, query.encode().map(|q| q.expose().to_owned())))
    }

    /// Paths that the real Go client (vault/api 1.20) sends, below `/v1/` and before escaping.
    #[test]
    fn secret_path_is_parsed_like_go_client() {
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
            assert_eq!(parse_text(text), Ok((path.to_owned(), query.map(str::to_owned))), "{text}");
        }
    }

    #[test]
    fn secret_path_invalid_is_rejected_with_fix() {
        for (text, expected) in [
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
            let why = parse_text(text).unwrap_err();
            assert!(why.contains(expected), "{text}: {why}");
        }
    }

    #[test]
    fn auth_mount_path_loses_outer_slashes_or_is_rejected() {
        for (text, mount) in [("kubernetes", "kubernetes"), ("/kubernetes/", "kubernetes"), ("/", ""), ("a//b", "a/b")]
        {
            assert_eq!(parse_mount_path(text).as_deref(), Ok(mount), "{text}");
        }
        for text in ["a/../b", "./a", "a?b", "a#b", "a\nb", "a\u{7f}"] {
            assert!(parse_mount_path(text).is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn secret_path_normalization_is_idempotent(text in ".*") {
            if let Ok((path, _)) = parse_secret_path(&text) {
                let again = parse_secret_path(&format!("/v1/{path}/")).unwrap().0;
                prop_assert_eq!(again, path);
            }
        }
    }
}
