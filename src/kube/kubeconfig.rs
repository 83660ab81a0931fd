//! Current context of a kubeconfig file. Unsupported fields are rejected.

use std::{
    fs,
    path::{Path, PathBuf},
};

use base64::{Engine, engine::general_purpose::STANDARD};
use serde::{Deserialize, de::IgnoredAny};
use zeroize::Zeroizing;

use super::{
    connection::{Connection, Identity, Pem, ServerUrl},
    credentials::{Credentials, TokenFile},
};
use crate::{
    error::{Cause, Error},
    secret::SecretText,
    tls::{Ca, Tls},
};

/// Reads the current context of a kubeconfig. Relative paths are resolved against the file's directory.
pub(super) fn read(file: &Path) -> Result<Connection, Error> {
    let with_subject = |error: Error| error.with_subject(format_args!("kubeconfig {}", file.display()));
    let text = fs::read_to_string(file)
        .map_err(|e| with_subject(config_error("cannot be read").with_server_message(e.to_string())))?;
    let text = Zeroizing::new(text);
    let folder = file.parent().unwrap_or(Path::new(""));
    parse(&text).and_then(|parsed| build_connection(parsed, folder)).map_err(with_subject)
}

fn parse(text: &str) -> Result<Kubeconfig, Error> {
    serde_saphyr::from_str(text).map_err(|e| {
        // The parser's message quotes the lines around the error, which may contain a token.
        let place = e.location().map_or(String::new(), |at| format!(" (line {}, column {})", at.line(), at.column()));
        config_error(format!("is not valid{place}"))
    })
}

fn config_error(problem: impl Into<String>) -> Error {
    Error::new(Cause::KubernetesConfig, problem)
}

fn build_connection(file: Kubeconfig, folder: &Path) -> Result<Connection, Error> {
    let current = file.current_context.filter(|name| !name.is_empty());
    let current = current
        .ok_or_else(|| config_error("has no current-context").with_fix("set it with kubectl config use-context"))?;
    let context = find_entry(file.contexts, "context", &current)?;
    let cluster = find_entry(file.clusters, "cluster", &context.cluster)?;
    let user = match context.user.filter(|name| !name.is_empty()) {
        Some(name) => find_entry(file.users, "user", &name)?.reject_unsupported(&name)?,
        None => User::default(),
    };
    Ok(Connection {
        server: cluster.server()?,
        tls: cluster.tls(folder)?,
        identity: user.identity(folder)?,
        credentials: user.credentials(folder),
        namespace: context.namespace.filter(|name| !name.is_empty()).unwrap_or_else(|| "default".to_owned()),
    })
}

fn find_entry<T>(entries: Option<Vec<NamedEntry<T>>>, kind: &str, name: &str) -> Result<T, Error> {
    let mut entries = entries.unwrap_or_default().into_iter();
    let found = entries.find(|e| e.name == name).and_then(|e| e.value);
    found.ok_or_else(|| config_error(format!("has no {kind} {name:?}, which the current context names")))
}

#[derive(Deserialize)]
struct Kubeconfig {
    #[serde(rename = "current-context")]
    current_context: Option<String>,
    contexts: Option<Vec<NamedEntry<Context>>>,
    clusters: Option<Vec<NamedEntry<Cluster>>>,
    users: Option<Vec<NamedEntry<User>>>,
}

#[derive(Deserialize)]
struct NamedEntry<T> {
    name: String,
    #[serde(alias = "context", alias = "cluster", alias = "user")]
    value: Option<T>,
}

#[derive(Deserialize)]
struct Context {
    cluster: String,
    user: Option<String>,
    namespace: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Cluster {
    server: String,
    certificate_authority: Option<PathBuf>,
    certificate_authority_data: Option<SecretText>,
    tls_server_name: Option<String>,
    insecure_skip_tls_verify: Option<bool>,
    proxy_url: Option<String>,
}

impl Cluster {
    fn server(&self) -> Result<ServerUrl, Error> {
        if self.proxy_url.as_ref().is_some_and(|url| !url.is_empty()) {
            return Err(config_error("has a cluster with proxy-url, which is not supported"));
        }
        ServerUrl::parse(&self.server).map_err(|reason| config_error(format!("has a cluster whose server is {reason}")))
    }

    fn tls(&self, folder: &Path) -> Result<Tls, Error> {
        let ca = match (&self.certificate_authority_data, &self.certificate_authority) {
            (Some(data), _) => Ca::Pem(decode_pem(data, "certificate-authority-data")?.expose().to_owned()),
            (None, Some(path)) => Ca::File(folder.join(path)),
            (None, None) => Ca::System,
        };
        let server_name = self.tls_server_name.clone().filter(|name| !name.is_empty());
        Ok(Tls { ca, client: None, server_name, skip_verify: self.insecure_skip_tls_verify.unwrap_or(false) })
    }
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct User {
    token: Option<SecretText>,
    #[serde(rename = "tokenFile")]
    token_file: Option<PathBuf>,
    client_certificate: Option<PathBuf>,
    client_certificate_data: Option<SecretText>,
    client_key: Option<PathBuf>,
    client_key_data: Option<SecretText>,
    exec: Option<IgnoredAny>,
    auth_provider: Option<IgnoredAny>,
    username: Option<IgnoredAny>,
    #[serde(rename = "as")]
    impersonated: Option<IgnoredAny>,
}

impl User {
    /// Rejects unsupported fields: ignoring them would send requests as another user.
    fn reject_unsupported(self, name: &str) -> Result<Self, Error> {
        let unsupported = [
            ("exec", &self.exec),
            ("auth-provider", &self.auth_provider),
            ("username", &self.username),
            ("as", &self.impersonated),
        ];
        match unsupported.iter().find(|(_, field)| field.is_some()) {
            None => Ok(self),
            Some((field, _)) => Err(config_error(format!("has user {name:?} with {field:?}, which is not supported"))
                .with_fix("use token, tokenFile, or client-certificate and client-key (or their -data)")),
        }
    }

    /// Returns the credentials. A token file takes precedence over a token, as with kubectl.
    fn credentials(&self, folder: &Path) -> Credentials {
        match (&self.token_file, &self.token) {
            (Some(path), _) => Credentials::File(TokenFile::new(folder.join(path))),
            (None, Some(token)) if !token.expose().is_empty() => Credentials::Token(token.clone()),
            _ => Credentials::None,
        }
    }

    fn identity(&self, folder: &Path) -> Result<Option<Identity>, Error> {
        let certificate = select_pem(
            self.client_certificate_data.as_ref(),
            self.client_certificate.as_deref(),
            "client-certificate",
            folder,
        )?;
        let key = select_pem(self.client_key_data.as_ref(), self.client_key.as_deref(), "client-key", folder)?;
        match (certificate, key) {
            (Some(certificate), Some(key)) => Ok(Some(Identity { certificate, key })),
            (None, None) => Ok(None),
            (Some(_), None) => Err(config_error("has a user with a client-certificate but no client-key")),
            (None, Some(_)) => Err(config_error("has a user with a client-key but no client-certificate")),
        }
    }
}

fn select_pem(
    data: Option<&SecretText>,
    path: Option<&Path>,
    field: &str,
    folder: &Path,
) -> Result<Option<Pem>, Error> {
    match (data, path) {
        (Some(data), _) => decode_pem(data, &format!("{field}-data")).map(Pem::Text).map(Some),
        (None, path) => Ok(path.map(|path| Pem::File(folder.join(path)))),
    }
}

fn decode_pem(data: &SecretText, field: &str) -> Result<SecretText, Error> {
    let text = STANDARD.decode(data.expose().trim()).ok().and_then(|bytes| String::from_utf8(bytes).ok());
    text.map(SecretText::from).ok_or_else(|| config_error(format!("has {field} that is not PEM in base64")))
}

#[cfg(test)]
mod tests;
