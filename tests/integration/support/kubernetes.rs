//! A Kubernetes cluster with service accounts that log in to the real OpenBao with the `kubernetes` method.

use serde_json::{Value, json};

use super::{
    bao::{Tenant, root_request},
    pod::Pod,
    unique_name,
};
use crate::kube_api::{KubeApi, KubeApiBuilder};

/// A fake API server and the auth mount that uses it; role `app` accepts service account `shop/app`.
pub struct KubernetesCluster {
    pub api: KubeApi,
    pub auth: String,
    policy: String,
}

/// Returns a placeholder CA, which OpenBao requires although the API server speaks plain HTTP.
fn placeholder_ca() -> String {
    let key = rcgen::KeyPair::generate().unwrap();
    rcgen::CertificateParams::default().self_signed(&key).unwrap().pem()
}

/// Token that OpenBao sends to the API server; any value is accepted there.
const REVIEWER_JWT: &str = "eyJhbGciOiJub25lIn0.e30.";

impl KubernetesCluster {
    pub async fn for_tenant(tenant: &Tenant) -> Self {
        Self::with_api(tenant, KubeApi::builder()).await
    }

    /// Creates a cluster with other contents than one service account and its pod.
    pub async fn with_api(tenant: &Tenant, api: KubeApiBuilder) -> Self {
        let api = api.service_account("shop", "app").pod("shop", "web-1", "uid-1").start().await;
        let cluster = Self { api, auth: unique_name("k8s"), policy: tenant.policy.clone() };
        root_request("POST", &format!("sys/auth/{}", cluster.auth), json!({"type": "kubernetes"})).await;
        cluster.set_kubernetes_host(&cluster.api.url()).await;
        cluster.write_role("app", json!({})).await;
        cluster
    }

    /// Sets the API server address of the auth mount.
    pub async fn set_kubernetes_host(&self, url: &str) {
        let config = json!({
            "kubernetes_host": url, "kubernetes_ca_cert": placeholder_ca(), "token_reviewer_jwt": REVIEWER_JWT,
            "disable_local_ca_jwt": true,
        });
        root_request("POST", &format!("auth/{}/config", self.auth), config).await;
    }

    /// Writes a login role; `more` overrides the defaults.
    pub async fn write_role(&self, name: &str, more: Value) {
        let mut role = json!({
            "bound_service_account_names": ["app"], "bound_service_account_namespaces": ["shop"], "audience": "vault",
            "token_policies": [self.policy], "token_ttl": "10m",
        });
        role.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        root_request("POST", &format!("auth/{}/role/{name}", self.auth), role).await;
    }

    /// Returns a pod of service account `shop/app`, with the token that kubelet would pass.
    pub fn pod(&self, tenant: &Tenant) -> Pod {
        let mut pod = Pod::for_tenant(tenant).with_parameter("vaultAuthMountPath", self.auth.clone());
        (pod.name, pod.uid) = ("web-1".into(), "uid-1".into());
        pod.with_tokens(&[("vault", &self.api.token("shop", "app", "vault", Some(("web-1", "uid-1"))))])
    }
}
