//! What is asked after a failure, to make it clearer. Never before one; what cannot be learnt changes nothing.

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

/// The most time that a failure takes to become clearer.
const DIAGNOSIS_TIMEOUT: Duration = Duration::from_secs(2);

/// By when something of this kind must be answered: the caller still wants to hear of the failure.
fn diagnosis_deadline(deadline: Instant) -> Instant {
    let now = Instant::now();
    now + (deadline.saturating_duration_since(now) / 2).min(DIAGNOSIS_TIMEOUT)
}

impl Client {
    /// What takes logins at an auth mount. Vault denies one at a path without a mount, or with a mount of another kind, as
    /// it denies one that a TokenReview refused. One without a token is denied only where no method is to miss it, and each
    /// method misses it in its own words.
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

    /// What there is near a path where a read found nothing, in a line; nothing where the token may not list, or has few uses
    /// left for the secrets themselves.
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

    /// Whether a server that says it is sealed was never initialized.
    pub(super) async fn is_uninitialized(&self, deadline: Instant) -> bool {
        self.health(diagnosis_deadline(deadline)).await.is_ok_and(|health| health.state == NodeState::Uninitialized)
    }
}
