//! The pod, class and token of a mount by hand, as a driver would send them.

use std::{collections::BTreeMap, fs, path::Path};

use jiff::Timestamp;
use serde_json::{Value, json};

use super::PodArgs;
use crate::{
    app,
    config::Config,
    error::{Cause, Error},
    manifest::{self, Class},
    provider::client::Call,
    request::{
        Pod,
        token::{self, Expected},
    },
    secret::SecretText,
};

/// The class of a file, by name if there are several; the error of one that is for another provider.
pub(super) fn class(path: &Path, name: Option<&str>) -> Result<Class, Error> {
    let class = manifest::class(path, name)?;
    match class.provider.as_str() {
        "vault" | "openbao" => Ok(class),
        other => Err(Error::new(Cause::Manifest, format!("class {:?} is for provider {other:?}", class.name))
            .advice("set spec.provider to vault or openbao")),
    }
}

/// The pod's namespace: as given, else the class's, as a pod mounts only classes of its own.
fn namespace<'a>(pod: &'a PodArgs, class: &'a Class) -> &'a str {
    let own = Some(class.namespace.as_str()).filter(|name| !name.is_empty());
    pod.namespace.as_deref().or(own).unwrap_or("default")
}

/// The provider's name, which is also its default audience.
pub(super) fn provider(class: &Class) -> &'static str {
    if class.provider == "openbao" { "openbao" } else { "vault" }
}

/// The audience of the token: as given, else the class's, else the provider's.
pub(super) fn audience(pod: &PodArgs, class: &Class) -> String {
    let given = pod.audience.clone().or_else(|| class.parameters.get("audience").cloned());
    given.unwrap_or_else(|| provider(class).to_owned())
}

/// The service account token in the file, or one asked of the Kubernetes API when there is one.
pub(super) async fn token(
    pod: &PodArgs,
    config: &Config,
    class: &Class,
    audience: &str,
) -> Result<Option<SecretText>, Error> {
    if let Some(path) = &pod.token_file {
        let text = fs::read_to_string(path).map_err(|e| {
            Error::new(Cause::TokenMissing, format!("--token-file {} cannot be read", path.display()))
                .said(e.to_string())
        })?;
        return Ok(Some(SecretText::from(text.trim())));
    }
    match app::kube(config)? {
        Some(kube) => {
            kube.mint_token(namespace(pod, class), &pod.service_account, Some(audience), None).await.map(Some)
        }
        None => Ok(None),
    }
}

/// The call a driver would make.
pub(super) fn call(pod: &PodArgs, permission: u32, class: &Class, audience: &str, token: Option<&SecretText>) -> Call {
    let mut attributes: BTreeMap<&str, String> =
        class.parameters.iter().map(|(name, value)| (name.as_str(), value.clone())).collect();
    let uid = uid(pod, class, token);
    attributes.insert("csi.storage.k8s.io/pod.name", pod.name.clone());
    attributes.insert("csi.storage.k8s.io/pod.namespace", namespace(pod, class).to_owned());
    attributes.insert("csi.storage.k8s.io/pod.uid", uid.clone());
    attributes.insert("csi.storage.k8s.io/serviceAccount.name", pod.service_account.clone());
    attributes.insert("secretProviderClass", class.name.clone());
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
fn uid(pod: &PodArgs, class: &Class, token: Option<&SecretText>) -> String {
    let said = pod.uid.clone().or_else(|| {
        let (name, namespace) = (pod.name.clone(), namespace(pod, class).to_owned());
        let expected = Pod { name, namespace, uid: String::new(), service_account: pod.service_account.clone() };
        token::look(token?, &Expected { audience: None, pod: &expected, now: Timestamp::now() }).ok()?.pod_uid
    });
    said.unwrap_or_else(|| "00000000-0000-0000-0000-000000000000".to_owned())
}
