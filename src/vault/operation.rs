//! What a request asks of Vault, told by its method and path: for metrics.

use http::Method;

use crate::observe::metrics::Operation;

/// The operation of a request whose path starts below `/v1`.
pub(super) fn classify_operation(method: &Method, path: &str) -> Operation {
    let path = path.trim_start_matches('/');
    if path.starts_with("auth/token/") || path.starts_with("sys/leases/") {
        let verb = path.split('/').nth(2).unwrap_or_default();
        for (start, operation) in
            [("renew", Operation::Renew), ("revoke", Operation::Revoke), ("lookup", Operation::Lookup)]
        {
            if verb.starts_with(start) {
                return operation;
            }
        }
    }
    match method.as_str() {
        _ if path.starts_with("auth/") && path.ends_with("/login") => Operation::Login,
        _ if path.starts_with("sys/") => Operation::Other,
        "GET" => Operation::Read,
        "LIST" => Operation::List,
        "PUT" | "POST" => Operation::Write,
        _ => Operation::Other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operation_is_classified_by_method_and_path() {
        for (method, path, expected) in [
            ("POST", "/auth/kubernetes/login", Operation::Login),
            ("POST", "/auth/k8s/prod/login", Operation::Login),
            ("GET", "/secret/data/login", Operation::Read),
            ("LIST", "/secret/metadata/", Operation::List),
            ("PUT", "/pki/issue/web", Operation::Write),
            ("GET", "/database/creds/renew", Operation::Read),
            ("POST", "/auth/token/renew-self", Operation::Renew),
            ("PUT", "/sys/leases/renew", Operation::Renew),
            ("POST", "/auth/token/revoke-self", Operation::Revoke),
            ("GET", "/auth/token/lookup-self", Operation::Lookup),
            ("POST", "/auth/token/create", Operation::Write),
            ("GET", "/sys/health", Operation::Other),
            ("GET", "/sys/internal/ui/mounts/secret/data/x", Operation::Other),
            ("DELETE", "/secret/data/x", Operation::Other),
        ] {
            let method = Method::from_bytes(method.as_bytes()).unwrap();
            assert_eq!(classify_operation(&method, path), expected, "{method} {path}");
        }
    }
}
