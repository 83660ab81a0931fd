//! Server addresses (`http`, `https` or `unix`), normalized so that equivalent addresses are equal values.

use std::{fmt, net::IpAddr, path::PathBuf};

use http::Uri;
use serde::{Deserialize, Serialize};

/// A server's address, as in `VAULT_ADDR`.
#[derive(Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub enum Address {
    /// A server reached over TCP.
    Tcp {
        /// Selects TLS.
        https: bool,
        /// Lower case; IPv6 without brackets.
        host: String,
        /// The port, the scheme's own when the address names none.
        port: u16,
        /// The path prefix before `/v1`, without trailing slash; usually empty.
        prefix: String,
    },
    /// A unix socket, such as a Vault Agent's.
    Unix(PathBuf),
}

impl From<Address> for String {
    fn from(address: Address) -> Self {
        address.to_string()
    }
}

impl TryFrom<String> for Address {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        Self::parse(&text)
    }
}

/// Characters that no valid address contains: `@` follows a user name and a password, `?` starts a query, `#` a fragment.
/// Messages never repeat a text with any of them, as it may hold a secret.
pub const SENSITIVE_URL_CHARS: [char; 3] = ['@', '?', '#'];

impl Address {
    /// Parses an address. The error is a clause that follows the address and names the problem.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        if let Some(path) = text.strip_prefix("unix://") {
            if !path.starts_with('/') || path.contains('\0') {
                return Err("has no absolute path; write unix:///path/to/socket");
            }
            if path.split('/').any(|part| matches!(part, "." | "..")) {
                return Err("has a `.` or `..` part; write the path without it");
            }
            return Ok(Self::Unix(path.into()));
        }
        let uri: Uri = text.parse().map_err(|_| "is not a URL; write https://host:port")?;
        let https = match uri.scheme_str() {
            Some("https") => true,
            Some("http") => false,
            Some(_) => return Err("has a scheme other than https, http, unix"),
            None => return Err("has no scheme; write https://host:port"),
        };
        let authority = uri.authority().ok_or("has no host; write https://host:port")?;
        if authority.as_str().contains('@') {
            return Err("carries a user name; vaultmount logs in as the pod");
        }
        if uri.query().is_some() || text.contains('#') {
            return Err("carries a query or fragment; an address ends with host, port and path");
        }
        let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_ascii_lowercase();
        if host.is_empty() {
            return Err("has no host; write https://host:port");
        }
        let port = match authority.as_str().rsplit_once(':') {
            Some((_, port)) if !port.ends_with(']') => {
                port.parse().map_err(|_| "has a port that is not a number up to 65535")?
            }
            _ if https => 443,
            _ => 80,
        };
        let prefix = uri.path().trim_end_matches('/').to_owned();
        let decoded_prefix = prefix.to_ascii_lowercase().replace("%2e", ".");
        if decoded_prefix.split(['/', '\\']).any(|part| matches!(part, "." | "..")) {
            return Err("has a `.` or `..` part; write the path without it");
        }
        // The Go client would also request /v1/v1/… for such an address.
        if prefix.ends_with("/v1") {
            return Err("ends with /v1, which vaultmount adds; write the address without it");
        }
        Ok(Self::Tcp { https, host, port, prefix })
    }

    /// Returns the origin of requests: scheme, host and port. The origin of a unix socket is `http://localhost`.
    #[must_use]
    pub fn origin(&self) -> String {
        match self {
            Self::Tcp { https, host, port, .. } => {
                let scheme = if *https { "https" } else { "http" };
                if host.contains(':') {
                    format!("{scheme}://[{host}]:{port}")
                } else {
                    format!("{scheme}://{host}:{port}")
                }
            }
            Self::Unix(_) => "http://localhost".to_owned(),
        }
    }

    /// Returns true when both addresses lead to the same server. Ignores scheme, path prefix and a trailing root dot of the
    /// name.
    #[must_use]
    pub fn is_same_server(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Tcp { host, port, .. }, Self::Tcp { host: other, port: other_port, .. }) => {
                let without_root_dot = |name| str::strip_suffix(name, ".").unwrap_or(name);
                port == other_port && without_root_dot(host) == without_root_dot(other)
            }
            (Self::Unix(path), Self::Unix(other)) => path == other,
            (Self::Tcp { .. }, Self::Unix(_)) | (Self::Unix(_), Self::Tcp { .. }) => false,
        }
    }

    /// Returns the path prefix before `/v1` in every request.
    #[must_use]
    pub fn prefix(&self) -> &str {
        match self {
            Self::Tcp { prefix, .. } => prefix,
            Self::Unix(_) => "",
        }
    }

    /// Returns the path of a unix socket.
    #[must_use]
    pub fn unix_socket(&self) -> Option<&std::path::Path> {
        match self {
            Self::Tcp { .. } => None,
            Self::Unix(path) => Some(path),
        }
    }

    /// Returns true for an address of this node: a unix socket, a loopback, unspecified or link-local address.
    /// A host name is checked when it is resolved.
    #[must_use]
    pub fn is_local(&self) -> bool {
        match self {
            Self::Unix(_) => true,
            Self::Tcp { host, .. } => {
                host == "localhost" || host.ends_with(".localhost") || host.parse::<IpAddr>().is_ok_and(is_local_ip)
            }
        }
    }
}

/// Returns true for an IP address of this node or this link, also in its IPv6-mapped form.
#[must_use]
pub fn is_local_ip(ip: IpAddr) -> bool {
    match ip.to_canonical() {
        IpAddr::V4(v4) => {
            v4.is_loopback() || v4.is_unspecified() || v4.is_link_local() || v4.is_broadcast() || v4.is_multicast()
        }
        IpAddr::V6(v6) => v6.is_loopback() || v6.is_unspecified() || v6.is_unicast_link_local() || v6.is_multicast(),
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp { prefix, .. } => write!(f, "{}{prefix}", self.origin()),
            Self::Unix(path) => write!(f, "unix://{}", path.display()),
        }
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Address {
        Address::parse(text).unwrap()
    }

    #[test]
    fn address_parse_normalizes_equivalent_spellings() {
        assert_eq!(parse("HTTPS://Vault.Example.com/"), parse("https://vault.example.com:443"));
        assert_eq!(parse("http://[::1]:8200/a/").to_string(), "http://[::1]:8200/a");
        assert_eq!(parse("http://proxy/v1/vault").prefix(), "/v1/vault");
        assert_ne!(parse("https://vault:8200"), parse("http://vault:8200"));
        assert_eq!(parse("unix:///run/agent.sock").to_string(), "unix:///run/agent.sock");
    }

    #[test]
    fn address_parse_error_names_the_reason() {
        for (text, why) in [
            ("vault:8200", "scheme"),
            ("vault", "scheme"),
            ("ftp://vault", "scheme"),
            ("https://", "URL"),
            ("https://me:pw@vault", "user name"),
            ("https://vault?x=1", "query"),
            ("https://vault:99999", "port"),
            ("https://vault:8200/v1/", "ends with /v1"),
            ("https://proxy/vault/v1", "ends with /v1"),
            ("unix://run/x", "absolute"),
            ("", "URL"),
        ] {
            let reason = Address::parse(text).unwrap_err();
            assert!(reason.contains(why), "{text}: {reason}");
        }
    }

    #[test]
    fn address_is_local_in_every_spelling() {
        for text in [
            "unix:///x",
            "http://localhost:1",
            "http://LOCALHOST",
            "http://127.9.9.9",
            "http://0.0.0.0",
            "http://[::1]",
            "http://[::]",
            "http://[::ffff:127.0.0.1]",
            "http://169.254.169.254",
            "http://[fe80::1]",
        ] {
            assert!(parse(text).is_local(), "{text}");
        }
        for text in ["http://10.0.0.1", "https://vault", "http://[fd00::1]"] {
            assert!(!parse(text).is_local(), "{text}");
        }
    }
}
