//! A Kubernetes cluster whose service accounts log in to the real OpenBao by its `kubernetes` method.

use serde_json::{Value, json};

use super::{
    bao::{Tenant, root},
    pod::Pod,
    unique,
};
use crate::kube_api::{Builder, KubeApi};

/// A fake API server and the auth mount that asks it; role `app` takes service account `shop/app`.
pub struct Cluster {
    pub api: KubeApi,
    pub auth: String,
    policy: String,
}

/// A certificate that OpenBao insists on, though the API server speaks plain HTTP.
fn authority() -> String {
    let key = rcgen::KeyPair::generate().unwrap();
    rcgen::CertificateParams::default().self_signed(&key).unwrap().pem()
}

/// What OpenBao shows the API server; any will do there.
const REVIEWER: &str = "eyJhbGciOiJub25lIn0.e30.";

impl Cluster {
    pub async fn of(tenant: &Tenant) -> Self {
        Self::with(tenant, KubeApi::builder()).await
    }

    /// One with more (or less) than a service account and its pod.
    pub async fn with(tenant: &Tenant, api: Builder) -> Self {
        let api = api.service_account("shop", "app").pod("shop", "web-1", "uid-1").start().await;
        let cluster = Self { api, auth: unique("k8s"), policy: tenant.policy.clone() };
        root("POST", &format!("sys/auth/{}", cluster.auth), json!({"type": "kubernetes"})).await;
        cluster.host(&cluster.api.url()).await;
        cluster.role("app", json!({})).await;
        cluster
    }

    /// Sets where OpenBao looks for the API server.
    pub async fn host(&self, url: &str) {
        let config = json!({
            "kubernetes_host": url, "kubernetes_ca_cert": authority(), "token_reviewer_jwt": REVIEWER,
            "disable_local_ca_jwt": true,
        });
        root("POST", &format!("auth/{}/config", self.auth), config).await;
    }

    /// Writes a login role with defaults for what `more` leaves out.
    pub async fn role(&self, name: &str, more: Value) {
        let mut role = json!({
            "bound_service_account_names": ["app"], "bound_service_account_namespaces": ["shop"], "audience": "vault",
            "token_policies": [self.policy], "token_ttl": "10m",
        });
        role.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        root("POST", &format!("auth/{}/role/{name}", self.auth), role).await;
    }

    /// A pod of service account `shop/app`, with the token that kubelet would pass.
    pub fn pod(&self, tenant: &Tenant) -> Pod {
        let mut pod = Pod::of(tenant).with("vaultAuthMountPath", self.auth.clone());
        (pod.name, pod.uid) = ("web-1".into(), "uid-1".into());
        pod.pass(&[("vault", &self.api.token("shop", "app", "vault", Some(("web-1", "uid-1"))))])
    }
}
