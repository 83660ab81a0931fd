//! Client for the status socket of the running provider: finds the socket, sends one request, and prepares the response
//! for printing.

use std::{
    fmt::Write as _,
    path::{Path, PathBuf},
    time::Duration,
};

use bytes::Bytes;
use clap::{Args, ValueEnum};
use http::{Method, Request, StatusCode, header::HOST};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::{net::UnixStream, time::timeout};

use crate::{
    config::STATUS_SOCKET_VARIABLE,
    text::{is_terminal_control, one_line, replace_control_chars},
};

/// Flags of commands that connect to the running provider.
#[derive(Args, Clone, Debug)]
pub struct StatusClientArgs {
    /// Status socket; found automatically in the provider's container
    #[arg(long, value_name = "PATH")]
    pub socket: Option<PathBuf>,

    /// Format: text or json
    #[arg(long, short, value_enum, value_name = "FORMAT", default_value_t, hide_possible_values = true)]
    pub output: OutputFormat,
}

/// The output format.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum OutputFormat {
    /// Human-readable text.
    #[default]
    Text,
    /// The response as received.
    Json,
}

/// A successful response.
pub(super) struct StatusResponse {
    json: String,
}

/// Usual paths of the status socket: with our manifests, with both charts, and by default.
const DEFAULT_SOCKETS: [&str; 4] =
    ["/vaultmount/vault.status", "/provider/vault.status", "/provider/openbao.status", "/tmp/vault.status"];
/// Maximum size of a response, in bytes. Thousands of pods fit.
const MAX_RESPONSE_BYTES: usize = 64 << 20;
/// Maximum length of an unexpected response that an error quotes, in bytes.
const MAX_QUOTED_RESPONSE_BYTES: usize = 200;

/// Sends a request to the provider at the socket, with a timeout.
pub(super) async fn send_request(
    args: &StatusClientArgs,
    method: Method,
    path: &str,
    max_wait: Duration,
) -> Result<StatusResponse, String> {
    let socket = find_socket(
        args.socket.clone(),
        std::env::var_os(STATUS_SOCKET_VARIABLE).map(PathBuf::from),
        &DEFAULT_SOCKETS,
    )?;
    let socket_error = |error: String| format!("request to {} failed: {error}", socket.display());
    let timeout_error = |_| socket_error(format!("timed out after {} s", max_wait.as_secs()));
    let (status, body) = timeout(max_wait, request_over_socket(&socket, method, path))
        .await
        .map_err(timeout_error)?
        .map_err(socket_error)?;
    let text = String::from_utf8_lossy(&body).into_owned();
    if status != StatusCode::OK {
        return Err(socket_error(format!("status {status}: {}", one_line(&text, MAX_QUOTED_RESPONSE_BYTES))));
    }
    Ok(StatusResponse { json: text })
}

/// Returns the socket of the flag or variable, else the first path that exists.
fn find_socket(explicit: Option<PathBuf>, variable: Option<PathBuf>, defaults: &[&str]) -> Result<PathBuf, String> {
    let variable = variable.filter(|path| !path.as_os_str().is_empty() && path != Path::new("off"));
    if let Some(path) = explicit.or(variable) {
        return Ok(path);
    }
    defaults.iter().map(PathBuf::from).find(|path| path.exists()).ok_or_else(|| {
        let places = defaults.join(", ");
        format!("status socket not found at {places}; pass --socket PATH or set {STATUS_SOCKET_VARIABLE}")
    })
}

async fn request_over_socket(socket: &Path, method: Method, path: &str) -> Result<(StatusCode, Bytes), String> {
    let stream = UnixStream::connect(socket).await.map_err(|e| e.to_string())?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(|e| e.to_string())?;
    tokio::spawn(connection);
    let request = Request::builder().method(method).uri(path).header(HOST, "localhost").body(Empty::<Bytes>::new());
    let response = sender.send_request(request.map_err(|e| e.to_string())?).await.map_err(|e| e.to_string())?;
    let (parts, body) = response.into_parts();
    let body = Limited::new(body, MAX_RESPONSE_BYTES).collect().await.map_err(|e| e.to_string())?;
    Ok((parts.status, body.to_bytes()))
}

impl StatusResponse {
    /// Parses the response. Control characters in every string are replaced for the terminal.
    pub(super) fn parse<T: DeserializeOwned>(&self) -> Result<T, String> {
        let mut value: Value = serde_json::from_str(&self.json).map_err(|e| invalid_response_error(&e))?;
        sanitize_strings(&mut value);
        serde_json::from_value(value).map_err(|e| invalid_response_error(&e))
    }

    /// Returns the JSON as received, with terminal control characters escaped, which changes no value.
    pub(super) fn to_terminal_json(&self) -> String {
        let mut escaped = String::with_capacity(self.json.len());
        for c in self.json.trim_end().chars() {
            if is_terminal_control(c) && c != '\n' {
                for unit in c.encode_utf16(&mut [0; 2]) {
                    let _ = write!(escaped, "\\u{unit:04x}");
                }
            } else {
                escaped.push(c);
            }
        }
        escaped
    }
}

fn invalid_response_error(error: &serde_json::Error) -> String {
    format!("cannot parse the response: {error}; check that the provider has the same version as this command")
}

fn sanitize_strings(value: &mut Value) {
    match value {
        Value::String(text) => *text = replace_control_chars(text),
        Value::Array(values) => values.iter_mut().for_each(sanitize_strings),
        Value::Object(fields) => fields.values_mut().for_each(sanitize_strings),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn status_socket_is_found_by_flag_variable_or_default() {
        let folder = tempfile::tempdir().unwrap();
        let there = folder.path().join("vault.status");
        std::fs::write(&there, "").unwrap();
        let places = ["/not/there", there.to_str().unwrap()];
        let path = |text: &str| Some(PathBuf::from(text));
        assert_eq!(find_socket(path("/a"), path("/b"), &places), Ok("/a".into()));
        assert_eq!(find_socket(None, path("/b"), &places), Ok("/b".into()));
        for unset in [None, path(""), path("off")] {
            assert_eq!(find_socket(None, unset, &places), Ok(there.clone()));
        }
        let error = find_socket(None, None, &places[..1]).unwrap_err();
        for part in ["/not/there", "--socket", STATUS_SOCKET_VARIABLE] {
            assert!(error.contains(part), "{error}");
        }
    }

    #[test]
    fn status_output_escapes_terminal_controls() {
        let odd = "a\u{1b}[31m\u{9b}\u{202e}\u{e0001}\nb";
        let answer = StatusResponse { json: serde_json::to_string_pretty(&serde_json::json!({ "pod": odd })).unwrap() };
        let written = answer.to_terminal_json();
        assert!(written.chars().all(|c| c == '\n' || !is_terminal_control(c)), "{written:?}");
        assert_eq!(serde_json::from_str::<Value>(&written).unwrap()["pod"], odd);
        let read: Value = answer.parse().unwrap();
        assert_eq!(read["pod"], "a�[31m����b");
    }
}
