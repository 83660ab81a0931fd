//! Connection settings of an API server, from a kubeconfig or a pod's service account.

use std::{
    fmt, fs,
    path::{Path, PathBuf},
};

use ::http::Uri;
use zeroize::Zeroizing;

use super::credentials::Credentials;
use crate::{
    error::{Cause, Error},
    secret::SecretText,
    tls::{self, Ca, Digest, Tls},
};

/// Address, TLS settings and credentials of an API server.
pub(super) struct Connection {
    pub(super) server: ServerUrl,
    /// `tls.client` is always `None`: [`Connection::identity`] holds the client certificate.
    pub(super) tls: Tls,
    pub(super) identity: Option<Identity>,
    pub(super) credentials: Credentials,
    pub(super) namespace: String,
}

impl Connection {
    /// Returns the digest of the current TLS files. Blocks while it reads them.
    pub(super) fn digest(&self) -> Digest {
        if !self.server.is_https() {
            return tls::compute_digest(&Tls { ca: Ca::Pem(String::new()), ..Tls::default() }, []);
        }
        let identity = self.identity.iter().flat_map(|identity| [&identity.certificate, &identity.key]);
        tls::compute_digest(&self.tls, identity.filter_map(Pem::file))
    }
}

/// Address of the API server: scheme, authority, and the path before `/api` without a trailing slash.
#[derive(Debug)]
pub(super) struct ServerUrl(String);

impl ServerUrl {
    /// Parses an address. The error is a phrase that follows "is", such as "not a URL".
    pub(super) fn parse(address: &str) -> Result<Self, &'static str> {
        let uri: Uri = address.parse().map_err(|_| "not a URL")?;
        if !matches!(uri.scheme_str(), Some("https" | "http")) {
            return Err("not an https:// or http:// URL");
        }
        if uri.authority().is_none_or(|a| a.as_str().contains('@')) {
            return Err("not allowed to carry a user name");
        }
        if uri.query().is_some() {
            return Err("not allowed to carry a query");
        }
        Ok(Self(address.trim_end_matches('/').to_owned()))
    }

    pub(super) fn as_str(&self) -> &str {
        &self.0
    }

    pub(super) fn is_https(&self) -> bool {
        self.0.get(..6).is_some_and(|scheme| scheme.eq_ignore_ascii_case("https:"))
    }
}

impl fmt::Display for ServerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A client certificate and its key.
pub(super) struct Identity {
    pub(super) certificate: Pem,
    pub(super) key: Pem,
}

/// PEM text or a file with it. The file is read at each TLS setup, so that a rotated file takes effect.
pub(super) enum Pem {
    Text(SecretText),
    File(PathBuf),
}

impl Pem {
    fn file(&self) -> Option<&Path> {
        match self {
            Self::Text(_) => None,
            Self::File(path) => Some(path),
        }
    }

    pub(super) fn read(&self) -> Result<Zeroizing<Vec<u8>>, Error> {
        match self {
            Self::Text(text) => Ok(Zeroizing::new(text.expose().as_bytes().to_vec())),
            Self::File(path) => fs::read(path).map(Zeroizing::new).map_err(|e| {
                Error::new(Cause::KubernetesConfig, format!("{} cannot be read", path.display()))
                    .with_server_message(e.to_string())
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn server_url_keeps_path_without_trailing_slash() {
        let parsed = |a| ServerUrl::parse(a).map(|s| s.0);
        assert_eq!(
            parsed("https://rancher.example/k8s/clusters/c-1/"),
            Ok("https://rancher.example/k8s/clusters/c-1".into())
        );
        assert_eq!(parsed("https://[fd00::1]:6443"), Ok("https://[fd00::1]:6443".into()));
    }

    #[test]
    fn server_url_invalid_is_rejected() {
        for bad in ["10.0.0.1:6443", "", "ftp://x", "https://", "https://root:pw@x", "https://x/?a=b", "unix:///x"] {
            assert!(ServerUrl::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn server_url_scheme_selects_tls() {
        assert!(ServerUrl::parse("HTTPS://x").is_ok_and(|s| s.is_https()));
        assert!(ServerUrl::parse("http://x").is_ok_and(|s| !s.is_https()));
    }
}
