//! TokenRequest.

use serde_json::{Value, json};
use vaultmount::{
    error::{Cause, Error},
    kube::BoundPod,
};

use crate::{
    kube_api::{Builder, Fault, KubeApi, OWN_AUDIENCE, claims},
    started,
};

const POD: BoundPod<'_> = BoundPod { name: "web-1", uid: "uid-1" };

fn shop() -> Builder {
    KubeApi::builder().service_account("shop", "web").pod("shop", "web-1", "uid-1")
}

async fn mint(api: Builder, audience: Option<&str>, pod: BoundPod<'_>) -> Result<Value, Error> {
    let (_api, kube) = started(api).await;
    let token = kube.mint_token("shop", "web", audience, Some(pod)).await?;
    Ok(claims(token.expose()).unwrap())
}

#[tokio::test]
async fn asks_as_the_go_provider_does() {
    let (api, kube) = started(shop()).await;
    kube.mint_token("shop", "web", Some("vault"), Some(POD)).await.unwrap();
    let seen = &api.seen()[0];
    assert_eq!(seen.path, "/api/v1/namespaces/shop/serviceaccounts/web/token");
    let pod = json!({"kind": "Pod", "apiVersion": "v1", "name": "web-1", "uid": "uid-1"});
    let spec = json!({"audiences": ["vault"], "expirationSeconds": 900, "boundObjectRef": pod});
    let expected = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": spec});
    assert_eq!(seen.body, expected);
}

#[tokio::test]
async fn gives_a_token_for_the_audience_bound_to_the_pod() {
    let minted = mint(shop(), Some("vault"), POD).await.unwrap();
    assert_eq!(minted["aud"], json!(["vault"]));
    assert_eq!(minted["kubernetes.io"]["pod"]["uid"], "uid-1");
    assert_eq!(mint(shop(), None, POD).await.unwrap()["aud"], json!([OWN_AUDIENCE]));

    let (api, kube) = started(shop()).await;
    let token = kube.mint_token("shop", "web", Some("vault"), None).await.unwrap();
    assert_eq!(api.seen()[0].body["spec"], json!({"audiences": ["vault"], "expirationSeconds": 900}));
    assert!(claims(token.expose()).unwrap()["kubernetes.io"].get("pod").is_none());
}

#[tokio::test]
async fn denied_names_the_right_and_both_ways_out() {
    let error = mint(shop().deny("create", "serviceaccounts/token"), Some("vault"), POD).await.unwrap_err();
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
async fn of_who_is_not_there_says_who() {
    let cases = [
        (KubeApi::builder(), POD, "serviceaccounts \"web\" not found); create the service account the pod runs as"),
        (shop(), BoundPod { name: "web-2", ..POD }, "pods \"web-2\" not found); the pod is gone"),
        (shop(), BoundPod { uid: "uid-0", ..POD }, "in record); the pod was replaced by another of the same name"),
    ];
    for (api, pod, expected) in cases {
        let error = mint(api, None, pod).await.unwrap_err();
        assert_eq!(error.cause(), Cause::TokenRequest);
        let error = error.to_string();
        assert!(error.starts_with("token of service account shop/web without audience: "), "{error}");
        assert!(error.contains(expected), "{error}");
    }
}

#[tokio::test]
async fn a_passing_failure_stays_one() {
    let api = shop().fault(Fault::Answer(503, String::new()));
    assert!(mint(api, None, POD).await.unwrap_err().is_passing());
}

#[tokio::test]
async fn an_answer_without_a_token_is_refused() {
    for body in ["{}", "[]", "", "<html>", r#"{"status":{"token":""}}"#, r#"{"status":{"token":7}}"#] {
        let error = mint(shop().fault(Fault::Answer(201, body.to_owned())), None, POD).await.unwrap_err();
        assert_eq!(error.cause(), Cause::TokenRequest, "{error}");
    }
}

#[tokio::test]
async fn of_no_kubernetes_name_sends_nothing() {
    let (_api, kube) = started(shop()).await;
    for (namespace, account) in [("shop", "web/../x"), ("../shop", "web"), ("", "web")] {
        let error = kube.mint_token(namespace, account, None, None).await.unwrap_err();
        assert_eq!(error.cause(), Cause::InvalidRequest);
    }
    assert_eq!(kube.requests(), 0);
}
