//! The pod, class and token of a mount by hand, as a driver would send them.

use std::{collections::BTreeMap, fs, path::Path};

use jiff::Timestamp;
use serde::Deserialize;
use serde_json::{Value, json};

use super::PodArgs;
use crate::{
    app,
    config::Config,
    error::{Cause, Error},
    provider::client::Call,
    request::{
        Pod,
        token::{self, Expected},
    },
    secret::SecretText,
};

/// A SecretProviderClass, as far as a mount needs it.
#[derive(Deserialize)]
pub(super) struct Class {
    #[serde(default)]
    pub(super) metadata: Metadata,
    spec: Spec,
}

#[derive(Default, Deserialize)]
pub(super) struct Metadata {
    #[serde(default)]
    pub(super) name: String,
}

#[derive(Deserialize)]
struct Spec {
    #[serde(default)]
    provider: String,
    #[serde(default)]
    parameters: BTreeMap<String, String>,
}

impl Class {
    /// The provider's name, which is also its default audience.
    pub(super) fn provider(&self) -> &'static str {
        if self.spec.provider == "openbao" { "openbao" } else { "vault" }
    }
}

/// The class in a file.
pub(super) fn class(path: &Path) -> Result<Class, String> {
    let text = fs::read_to_string(path).map_err(|e| format!("{} cannot be read: {e}", path.display()))?;
    serde_saphyr::from_str(&text).map_err(|e| format!("{} is no SecretProviderClass: {e}", path.display()))
}

/// The audience of the token: as given, else the class's, else the provider's.
pub(super) fn audience(pod: &PodArgs, class: &Class) -> String {
    let given = pod.audience.clone().or_else(|| class.spec.parameters.get("audience").cloned());
    given.unwrap_or_else(|| class.provider().to_owned())
}

/// The service account token in the file, or one asked of the Kubernetes API when there is one.
pub(super) async fn token(pod: &PodArgs, config: &Config, audience: &str) -> Result<Option<SecretText>, Error> {
    if let Some(path) = &pod.token_file {
        let text = fs::read_to_string(path).map_err(|e| {
            Error::new(Cause::TokenMissing, format!("--token-file {} cannot be read", path.display()))
                .said(e.to_string())
        })?;
        return Ok(Some(SecretText::from(text.trim())));
    }
    match app::kube(config)? {
        Some(kube) => kube.mint_token(&pod.namespace, &pod.service_account, Some(audience), None).await.map(Some),
        None => Ok(None),
    }
}

/// The call a driver would make.
pub(super) fn call(pod: &PodArgs, permission: u32, class: &Class, audience: &str, token: Option<&SecretText>) -> Call {
    let mut attributes: BTreeMap<&str, String> =
        class.spec.parameters.iter().map(|(name, value)| (name.as_str(), value.clone())).collect();
    let uid = uid(pod, token);
    attributes.insert("csi.storage.k8s.io/pod.name", pod.name.clone());
    attributes.insert("csi.storage.k8s.io/pod.namespace", pod.namespace.clone());
    attributes.insert("csi.storage.k8s.io/pod.uid", uid.clone());
    attributes.insert("csi.storage.k8s.io/serviceAccount.name", pod.service_account.clone());
    attributes.insert("secretProviderClass", class.metadata.name.clone());
    if let Some(token) = token {
        let tokens: Value = json!({ audience: { "token": token.expose() } });
        attributes.insert("csi.storage.k8s.io/serviceAccount.tokens", tokens.to_string());
    }
    let target_path = pod.target_path.clone();
    Call {
        attributes: json!(attributes).to_string(),
        secrets: "null".to_owned(),
        target_path: target_path
            .unwrap_or_else(|| format!("/var/lib/kubelet/pods/{uid}/volumes/kubernetes.io~csi/secrets/mount")),
        permission: permission.to_string(),
        timeout: None,
    }
}

/// The pod's UID: as given, else as the token says, so that each pod has a session of its own at a running server.
fn uid(pod: &PodArgs, token: Option<&SecretText>) -> String {
    let said = pod.uid.clone().or_else(|| {
        let (name, namespace) = (pod.name.clone(), pod.namespace.clone());
        let expected = Pod { name, namespace, uid: String::new(), service_account: pod.service_account.clone() };
        token::look(token?, &Expected { audience: None, pod: &expected, now: Timestamp::now() }).ok()?.pod_uid
    });
    said.unwrap_or_else(|| "00000000-0000-0000-0000-000000000000".to_owned())
}
