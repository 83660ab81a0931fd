//! Classifies requests by method and path, for metrics.

use http::Method;

use crate::observe::metrics::VaultOperation;

/// Returns the operation of a request. The path starts below `/v1`.
pub(super) fn classify_operation(method: &Method, path: &str) -> VaultOperation {
    let path = path.trim_start_matches('/');
    if path.starts_with("auth/token/") || path.starts_with("sys/leases/") {
        let verb = path.split('/').nth(2).unwrap_or_default();
        for (start, operation) in
            [("renew", VaultOperation::Renew), ("revoke", VaultOperation::Revoke), ("lookup", VaultOperation::Lookup)]
        {
            if verb.starts_with(start) {
                return operation;
            }
        }
    }
    match method.as_str() {
        _ if path.starts_with("auth/") && path.ends_with("/login") => VaultOperation::Login,
        _ if path.starts_with("sys/") => VaultOperation::Other,
        "GET" => VaultOperation::Read,
        "LIST" => VaultOperation::List,
        "PUT" | "POST" => VaultOperation::Write,
        _ => VaultOperation::Other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operation_is_classified_by_method_and_path() {
        for (method, path, expected) in [
            ("POST", "/auth/kubernetes/login", VaultOperation::Login),
            ("POST", "/auth/k8s/prod/login", VaultOperation::Login),
            ("GET", "/secret/data/login", VaultOperation::Read),
            ("LIST", "/secret/metadata/", VaultOperation::List),
            ("PUT", "/pki/issue/web", VaultOperation::Write),
            ("GET", "/database/creds/renew", VaultOperation::Read),
            ("POST", "/auth/token/renew-self", VaultOperation::Renew),
            ("PUT", "/sys/leases/renew", VaultOperation::Renew),
            ("POST", "/auth/token/revoke-self", VaultOperation::Revoke),
            ("GET", "/auth/token/lookup-self", VaultOperation::Lookup),
            ("POST", "/auth/token/create", VaultOperation::Write),
            ("GET", "/sys/health", VaultOperation::Other),
            ("GET", "/sys/internal/ui/mounts/secret/data/x", VaultOperation::Other),
            ("DELETE", "/secret/data/x", VaultOperation::Other),
        ] {
            let method = Method::from_bytes(method.as_bytes()).unwrap();
            assert_eq!(classify_operation(&method, path), expected, "{method} {path}");
        }
    }
}
