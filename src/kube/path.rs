//! API paths, built from validated names.

use crate::{
    error::{Cause, Error},
    observe::metrics::KubeOperation,
};

/// Returns the path of a collection in a namespace: `/api/v1/namespaces/NAMESPACE/secrets`.
pub(super) fn collection(namespace: &str, resource: &'static str) -> Result<String, Error> {
    Ok(format!("/api/v1/namespaces/{}/{resource}", validate_name("namespace", namespace)?))
}

/// Returns the path of one object in a namespace.
pub(super) fn object(namespace: &str, resource: &'static str, name: &str) -> Result<String, Error> {
    Ok(format!("{}/{}", collection(namespace, resource)?, validate_name(resource, name)?))
}

/// Returns the operation of a request, as labelled in metrics, from its path.
pub(super) fn operation(path: &str) -> KubeOperation {
    // /api/v1/namespaces/NAMESPACE/RESOURCE/NAME
    match path.split('/').nth(5) {
        Some("serviceaccounts") => KubeOperation::Token,
        Some("events") => KubeOperation::Events,
        Some("secrets") => KubeOperation::HmacKey,
        _ => KubeOperation::Pods,
    }
}

/// Returns `name` if it is a valid Kubernetes name (RFC 1123: lower case letters, digits, `-` and `.`, at most 253 bytes).
/// Such a name is exactly one path segment and cannot contain `..` alone or a query.
pub(super) fn validate_name<'a>(kind: &str, name: &'a str) -> Result<&'a str, Error> {
    let is_alphanumeric = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let is_name_byte = |b: u8| is_alphanumeric(b) || b == b'-' || b == b'.';
    let bytes = name.as_bytes();
    let has_valid_ends =
        bytes.first().is_some_and(|b| is_alphanumeric(*b)) && bytes.last().is_some_and(|b| is_alphanumeric(*b));
    if has_valid_ends && bytes.len() <= 253 && bytes.iter().all(|b| is_name_byte(*b)) {
        return Ok(name);
    }
    Err(Error::new(Cause::InvalidRequest, format!("{name:.253?} is not a valid Kubernetes name ({kind})")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn api_path_joins_names() {
        assert_eq!(object("shop", "secrets", "a.b-1").unwrap(), "/api/v1/namespaces/shop/secrets/a.b-1");
    }

    #[test]
    fn api_path_rejects_invalid_names() {
        for bad in ["", ".", "..", "a/b", "a?b", "a%2fb", "-a", "a.", "A", "ä", "a b", &"a".repeat(254)] {
            assert_eq!(object("shop", "secrets", bad).unwrap_err().cause(), Cause::InvalidRequest, "{bad}");
            assert!(object(bad, "secrets", "x").is_err(), "{bad}");
        }
        let shown = object("shop", "serviceaccounts", "../x").unwrap_err().to_string();
        assert_eq!(shown, r#""../x" is not a valid Kubernetes name (serviceaccounts) [VM0080]"#);
    }
}
