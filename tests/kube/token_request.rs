//! TokenRequest: service account tokens bound to a pod.

use serde_json::{Value, json};
use vaultmount::{
    error::{Cause, Error},
    kube::BoundPod,
};

use crate::{
    kube_api::{API_SERVER_AUDIENCE, Fault, KubeApi, KubeApiBuilder, claims},
    start_with_client,
};

const POD: BoundPod<'_> = BoundPod { name: "web-1", uid: "uid-1" };

fn api_with_service_account() -> KubeApiBuilder {
    KubeApi::builder().service_account("shop", "web").pod("shop", "web-1", "uid-1")
}

async fn mint_claims(api: KubeApiBuilder, audience: Option<&str>, pod: BoundPod<'_>) -> Result<Value, Error> {
    let (_api, kube) = start_with_client(api).await;
    let token = kube.mint_token("shop", "web", audience, Some(pod)).await?;
    Ok(claims(token.expose()).unwrap())
}

#[tokio::test]
async fn token_request_body_matches_go_provider() {
    let (api, kube) = start_with_client(api_with_service_account()).await;
    kube.mint_token("shop", "web", Some("vault"), Some(POD)).await.unwrap();
    let requests = &api.requests()[0];
    assert_eq!(requests.path, "/api/v1/namespaces/shop/serviceaccounts/web/token");
    let pod = json!({"kind": "Pod", "apiVersion": "v1", "name": "web-1", "uid": "uid-1"});
    let spec = json!({"audiences": ["vault"], "expirationSeconds": 900, "boundObjectRef": pod});
    let expected = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": spec});
    assert_eq!(requests.body, expected);
}

#[tokio::test]
async fn token_request_yields_audience_token_bound_to_pod() {
    let minted = mint_claims(api_with_service_account(), Some("vault"), POD).await.unwrap();
    assert_eq!(minted["aud"], json!(["vault"]));
    assert_eq!(minted["kubernetes.io"]["pod"]["uid"], "uid-1");
    assert_eq!(mint_claims(api_with_service_account(), None, POD).await.unwrap()["aud"], json!([API_SERVER_AUDIENCE]));

    let (api, kube) = start_with_client(api_with_service_account()).await;
    let token = kube.mint_token("shop", "web", Some("vault"), None).await.unwrap();
    assert_eq!(api.requests()[0].body["spec"], json!({"audiences": ["vault"], "expirationSeconds": 900}));
    assert!(claims(token.expose()).unwrap()["kubernetes.io"].get("pod").is_none());
}

#[tokio::test]
async fn token_request_forbidden_names_rbac_rule_and_fixes() {
    let error = mint_claims(api_with_service_account().deny("create", "serviceaccounts/token"), Some("vault"), POD)
        .await
        .unwrap_err();
    assert_eq!(error.cause(), Cause::TokenRequest);
    let error = error.to_string();
    assert!(error.starts_with("token of service account shop/web for audience \"vault\": API server "), "{error}");
    assert!(error.contains("cannot create resource \"serviceaccounts/token\""), "{error}");
    let advice = "; grant our service account the rule {apiGroups: [\"\"], resources: [serviceaccounts/token], \
         verbs: [create]} in namespace shop, or list the audience \"vault\" in spec.tokenRequests of CSIDriver \
         secrets-store.csi.k8s.io so that the driver passes a token [VM0092]";
    assert!(error.ends_with(advice), "{error}");
}

#[tokio::test]
async fn token_request_missing_account_or_pod_is_named() {
    let cases = [
        (KubeApi::builder(), POD, "serviceaccounts \"web\" not found); create the pod's service account"),
        (
            api_with_service_account(),
            BoundPod { name: "web-2", ..POD },
            "pods \"web-2\" not found); no action needed: the pod no longer exists",
        ),
        (
            api_with_service_account(),
            BoundPod { uid: "uid-0", ..POD },
            "in record); no action needed: another pod with the same name replaced this pod",
        ),
    ];
    for (api, pod, expected) in cases {
        let error = mint_claims(api, None, pod).await.unwrap_err();
        assert_eq!(error.cause(), Cause::TokenRequest);
        let error = error.to_string();
        assert!(error.starts_with("token of service account shop/web without audience: "), "{error}");
        assert!(error.contains(expected), "{error}");
    }
}

#[tokio::test]
async fn token_request_503_is_transient() {
    let api = api_with_service_account().fault(Fault::Respond(503, String::new()));
    assert!(mint_claims(api, None, POD).await.unwrap_err().is_transient());
}

#[tokio::test]
async fn token_request_response_without_token_is_rejected() {
    for body in ["{}", "[]", "", "<html>", r#"{"status":{"token":""}}"#, r#"{"status":{"token":7}}"#] {
        let error = mint_claims(api_with_service_account().fault(Fault::Respond(201, body.to_owned())), None, POD)
            .await
            .unwrap_err();
        assert_eq!(error.cause(), Cause::TokenRequest, "{error}");
    }
}

#[tokio::test]
async fn token_request_invalid_name_sends_no_request() {
    let (_api, kube) = start_with_client(api_with_service_account()).await;
    for (namespace, account) in [("shop", "web/../x"), ("../shop", "web"), ("", "web")] {
        let error = kube.mint_token(namespace, account, None, None).await.unwrap_err();
        assert_eq!(error.cause(), Cause::InvalidRequest);
    }
    assert_eq!(kube.request_count(), 0);
}
