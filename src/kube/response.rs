//! What the API server answered: an object, or a Status that says why not.

use http::StatusCode;
use serde::{Deserialize, de::DeserializeOwned};

use crate::{
    error::{Cause, Error},
    secret::SecretBytes,
};

/// One answer, whole and bounded.
pub(super) struct ApiResponse<'a> {
    /// Whose answer it is.
    pub(super) server: &'a str,
    pub(super) status: StatusCode,
    pub(super) body: SecretBytes,
}

/// The API's own account of a failure; only what we repeat or decide by.
#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct ApiStatus {
    /// `Status`, if it is one.
    pub(super) kind: String,
    pub(super) message: String,
    /// One word for a program: `NotFound`.
    pub(super) reason: String,
    /// The HTTP status that it stands for where no HTTP status can be told: in a watch.
    pub(super) code: u16,
    pub(super) details: ApiStatusDetails,
}

/// What a Status is about.
#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct ApiStatusDetails {
    /// The resource's plural: `serviceaccounts`, `pods`.
    pub(super) kind: String,
}

impl ApiResponse<'_> {
    /// The object in a 2xx answer; any other is a failure, with `refused` as its cause unless it may pass by itself.
    pub(super) fn parse_object<T: DeserializeOwned>(&self, default_cause: Cause) -> Result<T, Error> {
        if !self.status.is_success() {
            return Err(self.to_error(default_cause));
        }
        serde_json::from_slice(self.body.expose()).map_err(|e| {
            // The parser's own words may repeat a value; its position does not.
            let place = format!("line {}, column {}", e.line(), e.column());
            Error::new(
                default_cause,
                format!("API server {} answers {} without the object asked for", self.server, self.status),
            )
            .with_server_message(format!("unexpected JSON at {place}"))
            .with_fix("check that the address is a Kubernetes API server")
        })
    }

    /// The failure in the API server's words.
    pub(super) fn to_error(&self, default_cause: Cause) -> Error {
        let (cause, fix) = match self.status {
            StatusCode::UNAUTHORIZED => {
                (default_cause, Some("check the service account token or the kubeconfig's user: it is not accepted"))
            }
            StatusCode::TOO_MANY_REQUESTS => (Cause::KubernetesApi, None),
            status if status.is_server_error() => (Cause::KubernetesApi, None),
            status if status.is_redirection() => {
                (Cause::KubernetesConfig, Some("redirects are not followed; name the server itself"))
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

    /// The Status in the body; an empty one when there is none.
    pub(super) fn api_status(&self) -> ApiStatus {
        serde_json::from_slice(self.body.expose()).unwrap_or_default()
    }
}
