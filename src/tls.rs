//! TLS settings and the client configuration made from them.

use std::path::PathBuf;

/// Which certificate authorities a server's certificate may come from.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub enum Ca {
    /// The system's own.
    #[default]
    System,
    /// A PEM file.
    File(PathBuf),
    /// Every PEM file of a directory.
    Directory(PathBuf),
    /// PEM text.
    Pem(String),
}

/// A client certificate and its key, as PEM files.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ClientCertificate {
    /// The certificate chain.
    pub certificate: PathBuf,
    /// Its private key.
    pub key: PathBuf,
}

/// How to speak TLS to one endpoint.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Tls {
    /// Trusted authorities.
    pub ca: Ca,
    /// Shown to a server that asks for one.
    pub client: Option<ClientCertificate>,
    /// The name the certificate must be for, when it is not the address's host.
    pub server_name: Option<String>,
    /// Do not verify the server's certificate. Whoever sits between reads every secret.
    pub skip_verify: bool,
}
