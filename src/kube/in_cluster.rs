//! The pod's own service account, which kubelet projects into every container.

use std::{fs, io::ErrorKind, path::PathBuf};

use super::{
    Config,
    connection::{Connection, ServerUrl},
    credentials::{Credentials, TokenFile},
};
use crate::{
    error::{Cause, Error},
    tls::{Ca, Tls},
};

/// Returns the connection of a pod with a service account; `None` outside such a pod.
pub(super) fn read(config: &Config) -> Result<Option<Connection>, Error> {
    let (Some(host), Some(port)) =
        (non_empty(config.service_host.as_deref()), non_empty(config.service_port.as_deref()))
    else {
        return Ok(None);
    };
    let folder = &config.service_account;
    let token = folder.join("token");
    if !token.exists() {
        tracing::warn!(file = %token.display(), "service account token not found, continuing without the Kubernetes API");
        return Ok(None);
    }
    Ok(Some(Connection {
        server: server_url(host, port)?,
        tls: Tls { ca: cluster_ca(folder.join("ca.crt")), ..Tls::default() },
        identity: None,
        credentials: Credentials::File(TokenFile::new(token)),
        namespace: read_namespace(config)?,
    }))
}

fn non_empty(variable: Option<&str>) -> Option<&str> {
    variable.map(str::trim).filter(|value| !value.is_empty())
}

fn server_url(host: &str, port: &str) -> Result<ServerUrl, Error> {
    let host = if host.contains(':') && !host.starts_with('[') { format!("[{host}]") } else { host.to_owned() };
    let address = format!("https://{host}:{port}");
    ServerUrl::parse(&address).map_err(|reason| {
        let summary =
            format!("KUBERNETES_SERVICE_HOST and KUBERNETES_SERVICE_PORT make {address:?}, which is {reason}");
        Error::new(Cause::KubernetesConfig, summary)
    })
}

/// Returns the cluster's CA. Without the file, the API server's certificate is verified with the system's CAs.
fn cluster_ca(file: PathBuf) -> Ca {
    if file.exists() { Ca::File(file) } else { Ca::System }
}

fn read_namespace(config: &Config) -> Result<String, Error> {
    let file = config.service_account.join("namespace");
    let text = fs::read_to_string(&file).map_err(|e| {
        let error =
            Error::new(Cause::KubernetesConfig, format!("the pod's namespace file {} cannot be read", file.display()));
        match e.kind() {
            ErrorKind::NotFound => error.with_fix("project metadata.namespace beside the service account token"),
            _ => error.with_server_message(e.to_string()),
        }
    })?;
    Ok(text.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn config_fixture(files: &[(&str, &str)]) -> (tempfile::TempDir, Config) {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in files {
            fs::write(folder.path().join(name), text).unwrap();
        }
        let config = Config {
            kubeconfig: None,
            service_host: Some("10.96.0.1".into()),
            service_port: Some("443".into()),
            service_account: folder.path().into(),
            ..Config::from_env(None)
        };
        (folder, config)
    }

    const SERVICE_ACCOUNT_FILES: &[(&str, &str)] = &[("token", "t"), ("namespace", "csi\n"), ("ca.crt", "")];

    #[test]
    fn in_cluster_config_has_address_namespace_and_ca() {
        let (folder, config) = config_fixture(SERVICE_ACCOUNT_FILES);
        let connection = read(&config).unwrap().unwrap();
        assert_eq!(connection.server.as_str(), "https://10.96.0.1:443");
        assert_eq!(connection.namespace, "csi");
        assert_eq!(connection.tls.ca, Ca::File(folder.path().join("ca.crt")));
    }

    #[test]
    fn in_cluster_config_without_ca_trusts_system_roots() {
        let (_folder, config) = config_fixture(&SERVICE_ACCOUNT_FILES[..2]);
        assert_eq!(read(&config).unwrap().unwrap().tls.ca, Ca::System);
    }

    #[test]
    fn in_cluster_config_brackets_ipv6_host() {
        let (_folder, config) = config_fixture(SERVICE_ACCOUNT_FILES);
        let config = Config { service_host: Some("fd00:10::1".into()), ..config };
        assert_eq!(read(&config).unwrap().unwrap().server.as_str(), "https://[fd00:10::1]:443");
    }

    #[test]
    fn in_cluster_config_outside_cluster_is_none() {
        let (_folder, config) = config_fixture(SERVICE_ACCOUNT_FILES);
        for host in [None, Some(String::new())] {
            assert!(read(&Config { service_host: host, ..config.clone() }).unwrap().is_none());
        }
        assert!(read(&Config { service_port: None, ..config }).unwrap().is_none());
    }

    #[test]
    fn in_cluster_config_without_token_is_none() {
        let (_folder, config) = config_fixture(&[("namespace", "csi")]);
        assert!(read(&config).unwrap().is_none());
        assert!(read(&Config { service_account: Path::new("/nonexistent").into(), ..config }).unwrap().is_none());
    }

    #[test]
    fn in_cluster_config_names_missing_namespace_file() {
        let (_folder, config) = config_fixture(&[("token", "t")]);
        let error = read(&config).err().unwrap().to_string();
        assert!(error.contains("/namespace cannot be read; project metadata.namespace"), "{error}");
    }

    #[test]
    fn in_cluster_config_shows_invalid_host() {
        let (_folder, config) = config_fixture(SERVICE_ACCOUNT_FILES);
        let error = read(&Config { service_host: Some("a b".into()), ..config }).err().unwrap().to_string();
        assert!(error.ends_with(r#"make "https://a b:443", which is not a URL [VM0091]"#), "{error}");
    }
}
