//! The status socket.

use std::path::{Path, PathBuf};

use super::{
    endpoint,
    environment::Environment,
    value::{ConfigReport, Setting},
};

/// Variable with the socket's path, for `serve` and for the commands that connect to it.
pub const SOCKET_VARIABLE: &str = "VAULTMOUNT_STATUS_SOCKET";

/// File extension of the default socket.
const EXTENSION: &str = "status";

/// Path of the status socket and its origin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StatusSocket {
    /// Public path of the socket.
    pub path: PathBuf,
    /// True if the path was set explicitly. Failing to bind a default path is not an error.
    pub is_asked_for: bool,
}

/// Reads `--status-socket`. The default is beside the first endpoint.
pub(super) fn read(
    value: Option<&String>,
    endpoints: &[PathBuf],
    env: &Environment,
    report: &mut ConfigReport,
) -> Option<StatusSocket> {
    let is_taken = |path: &Path| endpoints.iter().any(|endpoint| endpoint == path);
    let Some(setting) = Setting::flag("--status-socket", value).or_else(|| env.find_serve_variable(SOCKET_VARIABLE))
    else {
        let path = endpoints.first()?.with_extension(EXTENSION);
        return (!is_taken(&path)).then_some(StatusSocket { path, is_asked_for: false });
    };
    let rule = |text: &str| match text {
        "off" => Ok(None),
        _ => endpoint::parse(text, "/vaultmount/vault.status").map(Some),
    };
    let path = report.read(Some(&setting), rule)??;
    if is_taken(&path) {
        report.error(format!("{setting} is the driver's socket (--endpoint)"));
    }
    Some(StatusSocket { path, is_asked_for: true })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_all(value: Option<&str>, endpoints: &[&str], variable: &str) -> (Option<(String, bool)>, String) {
        let mut report = ConfigReport::default();
        let endpoints: Vec<PathBuf> = endpoints.iter().map(PathBuf::from).collect();
        let env = Environment::new([(SOCKET_VARIABLE, variable)]);
        let socket = read(value.map(str::to_owned).as_ref(), &endpoints, &env, &mut report);
        (socket.map(|s| (s.path.display().to_string(), s.is_asked_for)), report.errors.join("\n"))
    }

    #[test]
    fn the_default_is_beside_the_first_endpoint() {
        for (value, endpoints, variable, expected) in [
            (None, &["/p/vault.sock", "/p/openbao.sock"][..], "", Some(("/p/vault.status", false))),
            (Some(""), &["/p/vault"], "", Some(("/p/vault.status", false))),
            (None, &["/p/vault.sock", "/p/vault.status"], "", None),
            (None, &["/p/vault.sock"], "/s/x", Some(("/s/x", true))),
            (Some("/f/x"), &["/p/vault.sock"], "/s/x", Some(("/f/x", true))),
            (Some("off"), &["/p/vault.sock"], "/s/x", None),
            (None, &["/p/vault.sock"], "off", None),
        ] {
            let (socket, errors) = read_all(value, endpoints, variable);
            assert_eq!(socket, expected.map(|(path, asked)| (path.to_owned(), asked)), "{value:?} {variable}");
            assert!(errors.is_empty(), "{errors}");
        }
    }

    #[test]
    fn what_is_no_socket_path_says_why() {
        for (value, why) in [("status", "absolute"), ("/tmp", "directory"), ("/p/vault.sock", "--endpoint")] {
            let (_, errors) = read_all(Some(value), &["/p/vault.sock"], "");
            assert!(errors.starts_with(&format!("--status-socket={value} is ")) && errors.contains(why), "{errors}");
        }
    }
}
