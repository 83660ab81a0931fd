//! Responses of the API server: an object, or a Status with the reason of a failure.

use http::StatusCode;
use serde::{Deserialize, de::DeserializeOwned};

use crate::{
    error::{Cause, Error},
    secret::SecretBytes,
};

/// Complete response with a limited body.
pub(super) struct ApiResponse<'a> {
    /// Address of the API server.
    pub(super) server: &'a str,
    pub(super) status: StatusCode,
    pub(super) body: SecretBytes,
}

/// Kubernetes `Status` object, with only the fields that vaultmount reports or evaluates.
#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct ApiStatus {
    /// `Status` for a valid object.
    pub(super) kind: String,
    pub(super) message: String,
    /// Machine-readable reason, such as `NotFound`.
    pub(super) reason: String,
    /// HTTP status code of a failure inside a watch.
    pub(super) code: u16,
    pub(super) details: ApiStatusDetails,
}

/// Subject of a Status.
#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct ApiStatusDetails {
    /// Plural name of the resource: `serviceaccounts`, `pods`.
    pub(super) kind: String,
}

impl ApiResponse<'_> {
    /// Parses the object of a 2xx response. Any other status is an error, with `default_cause` unless it is transient or a
    /// redirect.
    pub(super) fn parse_object<T: DeserializeOwned>(&self, default_cause: Cause) -> Result<T, Error> {
        if !self.status.is_success() {
            return Err(self.to_error(default_cause));
        }
        serde_json::from_slice(self.body.expose()).map_err(|e| {
            // The parser's message may repeat a value; its position does not.
            let place = format!("line {}, column {}", e.line(), e.column());
            Error::new(
                default_cause,
                format!("API server {} answers {} without the requested object", self.server, self.status),
            )
            .with_server_message(format!("unexpected JSON at {place}"))
            .with_fix("check that the address is a Kubernetes API server")
        })
    }

    /// Returns the error for this response, with the API server's message.
    pub(super) fn to_error(&self, default_cause: Cause) -> Error {
        let (cause, fix) = match self.status {
            StatusCode::UNAUTHORIZED => (
                default_cause,
                Some("check the service account token or the kubeconfig's user: the API server rejected it"),
            ),
            StatusCode::TOO_MANY_REQUESTS => (Cause::KubernetesApi, None),
            status if status.is_server_error() => (Cause::KubernetesApi, None),
            status if status.is_redirection() => {
                (Cause::KubernetesConfig, Some("redirects are not followed; use the address of the server itself"))
            }
            _ => (default_cause, None),
        };
        let error = Error::new(cause, format!("API server {} answers {}", self.server, self.status));
        let error = error.with_server_message(self.api_status().message);
        match fix {
            Some(fix) => error.with_fix(fix),
            None => error,
        }
    }

    /// Returns the Status in the body, or an empty Status without one.
    pub(super) fn api_status(&self) -> ApiStatus {
        serde_json::from_slice(self.body.expose()).unwrap_or_default()
    }
}
