//! Paths of the API, made of names that were checked.

use crate::{
    error::{Cause, Error},
    observe::metrics::KubeOperation,
};

/// The path of a namespace's collection: `/api/v1/namespaces/NAMESPACE/secrets`.
pub(super) fn collection(namespace: &str, resource: &'static str) -> Result<String, Error> {
    Ok(format!("/api/v1/namespaces/{}/{resource}", checked("namespace", namespace)?))
}

/// The path of one object in a namespace.
pub(super) fn object(namespace: &str, resource: &'static str, name: &str) -> Result<String, Error> {
    Ok(format!("{}/{}", collection(namespace, resource)?, checked(resource, name)?))
}

/// What a request is for that is sent to such a path.
pub(super) fn operation(path: &str) -> KubeOperation {
    // /api/v1/namespaces/NAMESPACE/RESOURCE/NAME
    match path.split('/').nth(5) {
        Some("serviceaccounts") => KubeOperation::Token,
        Some("events") => KubeOperation::Events,
        Some("secrets") => KubeOperation::Key,
        _ => KubeOperation::Pods,
    }
}

/// A name that Kubernetes could have given (RFC 1123: lower case letters, digits, `-` and `.`), so that it is one
/// segment of a path and never a step up or a query.
pub(super) fn checked<'a>(kind: &str, name: &'a str) -> Result<&'a str, Error> {
    let edge = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let inner = |b: u8| edge(b) || b == b'-' || b == b'.';
    let bytes = name.as_bytes();
    let ends = bytes.first().is_some_and(|b| edge(*b)) && bytes.last().is_some_and(|b| edge(*b));
    if ends && bytes.len() <= 253 && bytes.iter().all(|b| inner(*b)) {
        return Ok(name);
    }
    Err(Error::new(Cause::InvalidRequest, format!("{name:.253?} is no Kubernetes name ({kind})")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_become_segments() {
        assert_eq!(object("shop", "secrets", "a.b-1").unwrap(), "/api/v1/namespaces/shop/secrets/a.b-1");
    }

    #[test]
    fn what_is_no_name_never_enters_a_path() {
        for bad in ["", ".", "..", "a/b", "a?b", "a%2fb", "-a", "a.", "A", "ä", "a b", &"a".repeat(254)] {
            assert_eq!(object("shop", "secrets", bad).unwrap_err().cause(), Cause::InvalidRequest, "{bad}");
            assert!(object(bad, "secrets", "x").is_err(), "{bad}");
        }
        let shown = object("shop", "serviceaccounts", "../x").unwrap_err().to_string();
        assert_eq!(shown, r#""../x" is no Kubernetes name (serviceaccounts) [VM0080]"#);
    }
}
