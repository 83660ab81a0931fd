//! The pod's own service account, as kubelet projects it into every container.

use std::{fs, io::ErrorKind, path::PathBuf};

use super::{
    Config,
    connection::{Connection, Server},
    credentials::{Credentials, TokenFile},
};
use crate::{
    error::{Cause, Error},
    tls::{Ca, Tls},
};

/// The connection of a pod with a service account; `None` anywhere else.
pub(super) fn read(config: &Config) -> Result<Option<Connection>, Error> {
    let (Some(host), Some(port)) = (set(config.service_host.as_deref()), set(config.service_port.as_deref())) else {
        return Ok(None);
    };
    let folder = &config.service_account;
    let token = folder.join("token");
    if !token.exists() {
        tracing::warn!(file = %token.display(), "no service account token: working without the Kubernetes API");
        return Ok(None);
    }
    Ok(Some(Connection {
        server: server(host, port)?,
        tls: Tls { ca: authority(folder.join("ca.crt")), ..Tls::default() },
        identity: None,
        credentials: Credentials::File(TokenFile::new(token)),
        namespace: namespace(config)?,
    }))
}

fn set(variable: Option<&str>) -> Option<&str> {
    variable.map(str::trim).filter(|value| !value.is_empty())
}

fn server(host: &str, port: &str) -> Result<Server, Error> {
    let host = if host.contains(':') && !host.starts_with('[') { format!("[{host}]") } else { host.to_owned() };
    let address = format!("https://{host}:{port}");
    Server::parse(&address).map_err(|why| {
        let what = format!("KUBERNETES_SERVICE_HOST and KUBERNETES_SERVICE_PORT make {address:?}, which is {why}");
        Error::new(Cause::KubernetesConfig, what)
    })
}

/// The cluster's own authority; without the file, the API server's certificate is a public one.
fn authority(file: PathBuf) -> Ca {
    if file.exists() { Ca::File(file) } else { Ca::System }
}

fn namespace(config: &Config) -> Result<String, Error> {
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

    fn pod(files: &[(&str, &str)]) -> (tempfile::TempDir, Config) {
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

    const ACCOUNT: &[(&str, &str)] = &[("token", "t"), ("namespace", "csi\n"), ("ca.crt", "")];

    #[test]
    fn a_pod_has_address_namespace_and_authority() {
        let (folder, config) = pod(ACCOUNT);
        let connection = read(&config).unwrap().unwrap();
        assert_eq!(connection.server.as_str(), "https://10.96.0.1:443");
        assert_eq!(connection.namespace, "csi");
        assert_eq!(connection.tls.ca, Ca::File(folder.path().join("ca.crt")));
    }

    #[test]
    fn without_an_authority_of_its_own_the_systems_are_trusted() {
        let (_folder, config) = pod(&ACCOUNT[..2]);
        assert_eq!(read(&config).unwrap().unwrap().tls.ca, Ca::System);
    }

    #[test]
    fn an_ipv6_host_gets_brackets() {
        let (_folder, config) = pod(ACCOUNT);
        let config = Config { service_host: Some("fd00:10::1".into()), ..config };
        assert_eq!(read(&config).unwrap().unwrap().server.as_str(), "https://[fd00:10::1]:443");
    }

    #[test]
    fn outside_a_cluster_there_is_no_connection() {
        let (_folder, config) = pod(ACCOUNT);
        for host in [None, Some(String::new())] {
            assert!(read(&Config { service_host: host, ..config.clone() }).unwrap().is_none());
        }
        assert!(read(&Config { service_port: None, ..config }).unwrap().is_none());
    }

    #[test]
    fn a_pod_without_a_token_has_no_connection() {
        let (_folder, config) = pod(&[("namespace", "csi")]);
        assert!(read(&config).unwrap().is_none());
        assert!(read(&Config { service_account: Path::new("/nonexistent").into(), ..config }).unwrap().is_none());
    }

    #[test]
    fn a_missing_namespace_file_is_named() {
        let (_folder, config) = pod(&[("token", "t")]);
        let error = read(&config).err().unwrap().to_string();
        assert!(error.contains("/namespace cannot be read; project metadata.namespace"), "{error}");
    }

    #[test]
    fn a_host_that_makes_no_address_is_shown() {
        let (_folder, config) = pod(ACCOUNT);
        let error = read(&Config { service_host: Some("a b".into()), ..config }).err().unwrap().to_string();
        assert!(error.ends_with(r#"make "https://a b:443", which is not a URL [VM0091]"#), "{error}");
    }
}
