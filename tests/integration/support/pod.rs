//! Pods under test: attributes as the driver writes them, and service account tokens as the API server signs them.

use std::time::{SystemTime, UNIX_EPOCH};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use ring::{
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair},
};
use serde_json::{Value, json};
use vaultmount::provider::client::MountCall;

use super::{
    bao::{Tenant, issuer_key},
    unique_name,
};

/// A pod with one volume of one class.
#[derive(Clone)]
pub struct Pod {
    pub name: String,
    pub namespace: String,
    pub uid: String,
    pub service_account: String,
    pub service_account_uid: String,
    pub parameters: Vec<(String, String)>,
    /// Value that the driver passes as `serviceAccount.tokens`; `None` if it passes none.
    pub tokens: Option<Value>,
    pub permission: String,
}

impl Pod {
    /// Creates a pod of service account `app` that logs in with role `app` of a tenant.
    pub fn for_tenant(tenant: &Tenant) -> Self {
        let uid = unique_name("uid");
        let pod = Self {
            name: unique_name("pod"),
            namespace: "shop".into(),
            uid,
            service_account: "app".into(),
            service_account_uid: "5a5a".into(),
            parameters: vec![("roleName".into(), "app".into()), ("vaultAuthMountPath".into(), tenant.auth.clone())],
            tokens: None,
            permission: "420".into(),
        };
        let token = pod.sign_token("vault", 600);
        pod.with_tokens(&[("vault", &token)])
    }

    /// Sets the service account tokens that the driver passes, by audience.
    pub fn with_tokens(mut self, tokens: &[(&str, &str)]) -> Self {
        let issued = |token: &str| json!({"token": token, "expirationTimestamp": "2099-01-01T00:00:00Z"});
        self.tokens = Some(tokens.iter().map(|(audience, token)| ((*audience).to_owned(), issued(token))).collect());
        self
    }

    /// Returns the first token that the driver passes, if any.
    pub fn first_token(&self) -> Option<String> {
        let tokens = self.tokens.as_ref()?.as_object()?;
        tokens.values().next().and_then(|issued| issued["token"].as_str()).map(str::to_owned)
    }

    /// Sets a parameter of the class.
    pub fn with_parameter(mut self, name: &str, value: impl Into<String>) -> Self {
        self.parameters.retain(|(n, _)| n != name);
        self.parameters.push((name.into(), value.into()));
        self
    }

    /// Sets the objects of the class.
    pub fn with_objects(self, yaml: impl Into<String>) -> Self {
        self.with_parameter("objects", yaml)
    }

    /// Signs a service account token of this pod for an audience; it expires in `expires_in` seconds.
    pub fn sign_token(&self, audience: &str, expires_in: i64) -> String {
        let now = i64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()).unwrap();
        sign_jwt(&json!({
            "iss": "https://kubernetes.default.svc", "aud": [audience],
            "iat": now.min(now + expires_in - 10), "nbf": now.min(now + expires_in - 10), "exp": now + expires_in,
            "sub": format!("system:serviceaccount:{}:{}", self.namespace, self.service_account),
            "kubernetes.io": {
                "namespace": self.namespace,
                "pod": {"name": self.name, "uid": self.uid},
                "serviceaccount": {"name": self.service_account, "uid": self.service_account_uid},
            },
        }))
    }

    /// Returns the driver's Mount call for this pod.
    pub fn mount_call(&self) -> MountCall {
        let mut attributes = serde_json::Map::new();
        for (name, value) in &self.parameters {
            attributes.insert(name.clone(), value.clone().into());
        }
        attributes.insert("csi.storage.k8s.io/pod.name".into(), self.name.clone().into());
        attributes.insert("csi.storage.k8s.io/pod.namespace".into(), self.namespace.clone().into());
        attributes.insert("csi.storage.k8s.io/pod.uid".into(), self.uid.clone().into());
        attributes.insert("csi.storage.k8s.io/serviceAccount.name".into(), self.service_account.clone().into());
        attributes.insert("csi.storage.k8s.io/ephemeral".into(), "true".into());
        attributes.insert("secretProviderClass".into(), "test-class".into());
        if let Some(tokens) = &self.tokens {
            attributes.insert("csi.storage.k8s.io/serviceAccount.tokens".into(), tokens.to_string().into());
        }
        MountCall {
            attributes: Value::Object(attributes).to_string(),
            secrets: "null".into(),
            target_path: format!("/var/lib/kubelet/pods/{}/volumes/kubernetes.io~csi/s/mount", self.uid),
            permission: self.permission.clone(),
            versions: Vec::new(),
            timeout: None,
        }
    }
}

/// Returns a JWT with these claims, signed with ES256 and the run's issuer key.
pub fn sign_jwt(claims: &Value) -> String {
    let random = SystemRandom::new();
    let key =
        EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, issuer_key().serialized_der(), &random).unwrap();
    let part = |v: &Value| URL_SAFE_NO_PAD.encode(v.to_string());
    let signed = format!("{}.{}", part(&json!({"alg": "ES256", "typ": "JWT"})), part(claims));
    let signature = key.sign(&random, signed.as_bytes()).unwrap();
    format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
}
