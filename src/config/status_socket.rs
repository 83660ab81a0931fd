//! The status socket.

use std::path::{Path, PathBuf};

use super::{
    endpoint,
    environment::Environment,
    value::{ConfigReport, Setting},
};

/// Variable with the socket's path, for `serve` and for the commands that connect to it.
pub const STATUS_SOCKET_VARIABLE: &str = "VAULTMOUNT_STATUS_SOCKET";

/// File extension of the default socket.
const DEFAULT_EXTENSION: &str = "status";

/// Path of the status socket and its origin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StatusSocket {
    /// Public path of the socket.
    pub path: PathBuf,
    /// True if the path was set explicitly. Failing to bind a default path is not an error.
    pub is_explicit: bool,
}

/// Reads `--status-socket`. The default is beside the first endpoint.
pub(super) fn read(
    value: Option<&String>,
    endpoints: &[PathBuf],
    env: &Environment,
    report: &mut ConfigReport,
) -> Option<StatusSocket> {
    let is_endpoint = |path: &Path| endpoints.iter().any(|endpoint| endpoint == path);
    let Some(setting) =
        Setting::non_empty("--status-socket", value).or_else(|| env.find_serve_variable(STATUS_SOCKET_VARIABLE))
    else {
        let path = endpoints.first()?.with_extension(DEFAULT_EXTENSION);
        return (!is_endpoint(&path)).then_some(StatusSocket { path, is_explicit: false });
    };
    let parse = |text: &str| match text {
        "off" => Ok(None),
        _ => endpoint::parse_socket_path(text, "/vaultmount/vault.status").map(Some),
    };
    let path = report.read(Some(&setting), parse)??;
    if is_endpoint(&path) {
        report.error(format!("{setting} is the driver's socket (--endpoint)"));
    }
    Some(StatusSocket { path, is_explicit: true })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_all(value: Option<&str>, endpoints: &[&str], variable: &str) -> (Option<(String, bool)>, String) {
        let mut report = ConfigReport::default();
        let endpoints: Vec<PathBuf> = endpoints.iter().map(PathBuf::from).collect();
        let env = Environment::new([(STATUS_SOCKET_VARIABLE, variable)]);
        let socket = read(value.map(str::to_owned).as_ref(), &endpoints, &env, &mut report);
        (socket.map(|s| (s.path.display().to_string(), s.is_explicit)), report.errors.join("\n"))
    }

    #[test]
    fn status_socket_defaults_to_directory_of_first_endpoint() {
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
    fn invalid_status_socket_is_rejected_with_reason() {
        for (value, why) in [("status", "absolute"), ("/tmp", "directory"), ("/p/vault.sock", "--endpoint")] {
            let (_, errors) = read_all(Some(value), &["/p/vault.sock"], "");
            assert!(errors.starts_with(&format!("--status-socket={value} is ")) && errors.contains(why), "{errors}");
        }
    }
}
