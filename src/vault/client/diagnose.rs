//! Follow-up requests that explain a failure. They run only after a failure, and their own failure changes nothing.

use std::time::Duration;

use serde::Deserialize;
use tokio::time::Instant;
use vaultrs::api::auth::kubernetes::requests::LoginWithKubernetesRequest;

use super::{Client, VaultToken, health::NodeState};
use crate::vault::{
    auth_method::AuthMethod,
    error::{DetectedAuthMethod, RequestError},
    path_suggestions::ListedFolder,
    request::SecretRequest,
    transport::CallOptions,
};

/// Timeout of a diagnosis.
const DIAGNOSIS_TIMEOUT: Duration = Duration::from_secs(2);

/// Returns the deadline of a diagnosis. It leaves the caller time to receive the failure.
fn diagnosis_deadline(deadline: Instant) -> Instant {
    let now = Instant::now();
    now + (deadline.saturating_duration_since(now) / 2).min(DIAGNOSIS_TIMEOUT)
}

impl Client {
    /// Detects the auth method at an auth mount by a login without a token. Vault denies a login at a path without a mount, or
    /// with a mount of another kind, just like a login that a TokenReview rejected. A login without a token is denied only where
    /// neither method is mounted, and each method reports the missing token with its own error text.
    pub async fn detect_auth_method(
        &self,
        mount: &str,
        namespace: Option<&str>,
        role: &str,
        deadline: Instant,
    ) -> Option<DetectedAuthMethod> {
        let login_without_token =
            LoginWithKubernetesRequest { mount: mount.to_owned(), role: role.to_owned(), jwt: String::new() };
        let http_request = self.build_request(&login_without_token, None, namespace).ok()?;
        let call = CallOptions::with_deadline(diagnosis_deadline(deadline));
        let Err(RequestError::ErrorResponse(response)) = self.send(http_request, call).await else { return None };
        let auth_method = response.auth_method();
        self.shared.auth_methods.record(namespace, mount, auth_method);
        match auth_method {
            AuthMethod::Kubernetes => Some(DetectedAuthMethod::Kubernetes),
            AuthMethod::Jwt => Some(DetectedAuthMethod::Jwt),
            AuthMethod::Unknown => response.is_unexplained_denial().then_some(DetectedAuthMethod::Neither),
        }
    }

    /// Suggests paths near a path without a secret, in one line. `None` when the token may not list, or when its uses are limited
    /// and needed for the secrets.
    pub async fn suggest_path(
        &self,
        token: &VaultToken,
        namespace: Option<&str>,
        request: &SecretRequest,
        deadline: Instant,
    ) -> Option<String> {
        #[derive(Deserialize)]
        struct ListBody {
            keys: Vec<String>,
        }
        let engine = self.cached_engine(namespace, &request.path).filter(|_| token.num_uses == 0)?;
        let deadline = diagnosis_deadline(deadline);
        let folders = ListedFolder::candidates(request, &engine);
        for (folders_left, folder) in (0..folders.len()).rev().zip(&folders) {
            let keys = match self.read(token, namespace, &folder.list_request(), deadline).await {
                Ok(result) => serde_json::from_str::<ListBody>(result.response.data()?).ok()?.keys,
                Err(RequestError::ErrorResponse(response)) if response.status == 404 && folders_left == 0 => Vec::new(),
                Err(RequestError::ErrorResponse(response)) if response.status == 404 => continue,
                Err(_) => return None,
            };
            return Some(folder.describe(&keys));
        }
        None
    }

    /// Returns true when a server that reports itself sealed was never initialized.
    pub(super) async fn is_uninitialized(&self, deadline: Instant) -> bool {
        self.health(diagnosis_deadline(deadline)).await.is_ok_and(|health| health.state == NodeState::Uninitialized)
    }
}
