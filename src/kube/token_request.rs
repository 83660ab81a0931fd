//! TokenRequest: mints a short-lived service account token if the driver passed none.

use http::StatusCode;
use serde::{Deserialize, Serialize};

use super::{Kube, path, response::ApiResponse};
use crate::{
    error::{Cause, Error},
    secret::SecretText,
};

/// TTL of a minted token in seconds. It is needed for one login. The Go provider requests the same.
const TOKEN_TTL_SECONDS: u32 = 900;

/// Pod that a token is bound to. The token becomes invalid when the pod is deleted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BoundPod<'a> {
    /// Name of the pod.
    pub name: &'a str,
    /// UID of the pod.
    pub uid: &'a str,
}

impl Kube {
    /// Mints a token for a service account with a TTL of 15 minutes. Without an audience, the token is for the API server.
    pub async fn mint_token(
        &self,
        namespace: &str,
        service_account: &str,
        audience: Option<&str>,
        pod: Option<BoundPod<'_>>,
    ) -> Result<SecretText, Error> {
        let token = self.request_token(namespace, service_account, audience, pod).await;
        token.map_err(|e| {
            let audience = audience.map_or("without audience".to_owned(), |a| format!("for audience {a:?}"));
            e.with_subject(format_args!("token of service account {namespace}/{service_account} {audience}"))
        })
    }

    async fn request_token(
        &self,
        namespace: &str,
        service_account: &str,
        audience: Option<&str>,
        pod: Option<BoundPod<'_>>,
    ) -> Result<SecretText, Error> {
        let path = path::object(namespace, "serviceaccounts", service_account)? + "/token";
        let response = self.client.post(&path, &TokenRequest::new(audience, pod)).await?;
        if let Some(fix) = suggest_fix(&response, namespace, audience) {
            return Err(response.to_error(Cause::TokenRequest).with_fix(fix));
        }
        let minted: TokenResponse = response.parse_object(Cause::TokenRequest)?;
        if minted.status.token.expose().is_empty() {
            return Err(Error::new(
                Cause::TokenRequest,
                format!("API server {} answers without a token", self.server()),
            ));
        }
        Ok(minted.status.token)
    }
}

/// Returns the fix for rejections with a known reason.
fn suggest_fix(response: &ApiResponse<'_>, namespace: &str, audience: Option<&str>) -> Option<String> {
    match response.status {
        StatusCode::FORBIDDEN => Some(format!(
            "grant our service account the rule {{apiGroups: [\"\"], resources: [serviceaccounts/token], verbs: [create]}} \
             in namespace {namespace}, or list the audience{} in spec.tokenRequests of CSIDriver \
             secrets-store.csi.k8s.io so that the driver passes a token",
            audience.map_or(String::new(), |a| format!(" {a:?}"))
        )),
        StatusCode::NOT_FOUND if response.api_status().details.kind == "pods" => {
            Some("no action needed: the pod no longer exists".to_owned())
        }
        StatusCode::NOT_FOUND => Some("create the pod's service account".to_owned()),
        StatusCode::CONFLICT => Some("no action needed: another pod with the same name replaced this pod".to_owned()),
        _ => None,
    }
}

#[derive(Deserialize)]
struct TokenResponse {
    status: TokenResponseStatus,
}

#[derive(Deserialize)]
struct TokenResponseStatus {
    token: SecretText,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct TokenRequest<'a> {
    api_version: &'static str,
    kind: &'static str,
    spec: TokenRequestSpec<'a>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct TokenRequestSpec<'a> {
    audiences: Vec<&'a str>,
    expiration_seconds: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    bound_object_ref: Option<BoundObjectRef<'a>>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct BoundObjectRef<'a> {
    kind: &'static str,
    api_version: &'static str,
    name: &'a str,
    uid: &'a str,
}

impl<'a> TokenRequest<'a> {
    fn new(audience: Option<&'a str>, pod: Option<BoundPod<'a>>) -> Self {
        let bound_object_ref =
            pod.map(|BoundPod { name, uid }| BoundObjectRef { kind: "Pod", api_version: "v1", name, uid });
        Self {
            api_version: "authentication.k8s.io/v1",
            kind: "TokenRequest",
            spec: TokenRequestSpec {
                audiences: audience.into_iter().collect(),
                expiration_seconds: TOKEN_TTL_SECONDS,
                bound_object_ref,
            },
        }
    }
}
