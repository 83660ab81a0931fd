//! Arguments of commands that act as the driver: the class, the pod and its token, as a driver would send them.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use clap::Args;
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::{
    app,
    config::{Config, ConnectionArgs, KubernetesArgs, LogArgs, ServeArgs},
    error::{Cause, Error},
    manifest::{self, ClassManifest},
    provider::client::MountCall,
    request::{
        Pod,
        token::{self, ExpectedClaims},
    },
    secret::SecretText,
};

/// The class, the pod, and the connections to use. The last flags are below a heading, which a command's own flags reset.
#[derive(Args, Clone, Debug)]
pub struct DriverArgs {
    /// File with the SecretProviderClass; `-` for standard input
    #[arg(short, long, value_name = "FILE")]
    pub file: PathBuf,

    /// Name of the class, if the file contains several
    #[arg(long, value_name = "NAME")]
    pub class: Option<String>,

    /// Octal file mode for objects that set none
    #[arg(long, value_name = "MODE", default_value = "0644", value_parser = parse_file_mode)]
    pub permission: u32,

    /// Log flags.
    #[command(flatten)]
    pub log: LogArgs,

    /// Pod flags.
    #[command(flatten)]
    pub pod: PodArgs,

    /// Server flags.
    #[command(flatten)]
    pub connection: ConnectionArgs,

    /// Kubernetes API flags.
    #[command(flatten)]
    pub kubernetes: KubernetesArgs,
}

/// The pod to mount for, as the driver would describe it.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Pod")]
pub struct PodArgs {
    /// Namespace [default: the class's, else default]
    #[arg(long, value_name = "NAME")]
    pub namespace: Option<String>,

    /// Pod name
    #[arg(long = "pod", value_name = "NAME", default_value = "vaultmount")]
    pub name: String,

    /// Pod UID [default: the token's, else zeros]
    #[arg(long = "pod-uid", value_name = "UID")]
    pub uid: Option<String>,

    /// Service account
    #[arg(long, value_name = "NAME", default_value = "default")]
    pub service_account: String,

    /// Service account token file; requested from Kubernetes if omitted
    #[arg(long, value_name = "FILE")]
    pub token_file: Option<PathBuf>,

    /// Audience of the token [default: the class's, else vault]
    #[arg(long, value_name = "NAME")]
    pub audience: Option<String>,

    /// Path at which the driver would mount
    #[arg(long, value_name = "PATH")]
    pub target_path: Option<String>,
}

impl DriverArgs {
    /// Returns the equivalent flags of `serve`, from which [`Config`] is loaded.
    #[must_use]
    pub fn to_serve_args(&self) -> ServeArgs {
        ServeArgs {
            log: self.log.clone(),
            connection: self.connection.clone(),
            kubernetes: self.kubernetes.clone(),
            ..ServeArgs::default()
        }
    }
}

/// Reads the class of a file, by name if there are several. Fails for a class of another provider.
pub(super) fn read_class(path: &Path, name: Option<&str>) -> Result<ClassManifest, Error> {
    let class = manifest::read_class(path, name)?;
    match class.provider.as_str() {
        "vault" | "openbao" => Ok(class),
        other => Err(Error::new(Cause::Manifest, format!("class {:?} is for provider {other:?}", class.name))
            .with_fix("set spec.provider to vault or openbao")),
    }
}

/// Returns the pod's namespace: the flag, else the class's, because a pod mounts only classes of its own namespace.
fn pod_namespace<'a>(pod: &'a PodArgs, class: &'a ClassManifest) -> &'a str {
    let class_namespace = Some(class.namespace.as_str()).filter(|name| !name.is_empty());
    pod.namespace.as_deref().filter(|name| !name.is_empty()).or(class_namespace).unwrap_or("default")
}

/// Returns the provider's name, which is also its default audience.
pub(super) fn provider_name(class: &ClassManifest) -> &'static str {
    if class.provider == "openbao" { "openbao" } else { "vault" }
}

/// Returns the audience of the token: the flag, else the class's, else the provider's.
pub(super) fn token_audience(pod: &PodArgs, class: &ClassManifest) -> String {
    let explicit =
        pod.audience.clone().or_else(|| class.parameters.get("audience").cloned()).filter(|name| !name.is_empty());
    explicit.unwrap_or_else(|| provider_name(class).to_owned())
}

/// Reads the service account token from its file, or requests one from the Kubernetes API if it is configured.
pub(super) async fn obtain_token(
    pod: &PodArgs,
    config: &Config,
    class: &ClassManifest,
    audience: &str,
) -> Result<Option<SecretText>, Error> {
    if let Some(path) = &pod.token_file {
        let text = fs::read_to_string(path).map_err(|e| {
            Error::new(Cause::TokenMissing, format!("--token-file {} cannot be read", path.display()))
                .with_server_message(e.to_string())
        })?;
        return Ok(Some(SecretText::from(text.trim())));
    }
    match app::kube(config, &Arc::default())? {
        Some(kube) => {
            kube.mint_token(pod_namespace(pod, class), &pod.service_account, Some(audience), None).await.map(Some)
        }
        None => Ok(None),
    }
}

/// Builds the call that a driver would make.
pub(super) fn build_call(
    pod: &PodArgs,
    permission: u32,
    class: &ClassManifest,
    audience: &str,
    token: Option<&SecretText>,
) -> MountCall {
    let mut attributes: BTreeMap<&str, String> =
        class.parameters.iter().map(|(name, value)| (name.as_str(), value.clone())).collect();
    let uid = pod_uid(pod, class, token);
    attributes.insert("csi.storage.k8s.io/pod.name", pod.name.clone());
    attributes.insert("csi.storage.k8s.io/pod.namespace", pod_namespace(pod, class).to_owned());
    attributes.insert("csi.storage.k8s.io/pod.uid", uid.clone());
    attributes.insert("csi.storage.k8s.io/serviceAccount.name", pod.service_account.clone());
    attributes.insert("secretProviderClass", class.name.clone());
    if let Some(token) = token {
        let tokens: Value = json!({ audience: { "token": token.expose() } });
        attributes.insert("csi.storage.k8s.io/serviceAccount.tokens", tokens.to_string());
    }
    let target_path = pod.target_path.clone();
    MountCall {
        attributes: json!(attributes).to_string(),
        secrets: "null".to_owned(),
        target_path: target_path
            .unwrap_or_else(|| format!("/var/lib/kubelet/pods/{uid}/volumes/kubernetes.io~csi/secrets/mount")),
        permission: permission.to_string(),
        versions: Vec::new(),
        timeout: None,
    }
}

/// Returns the pod's UID: the flag, else the UID in the token, so that each pod has its own session at a running provider.
fn pod_uid(pod: &PodArgs, class: &ClassManifest, token: Option<&SecretText>) -> String {
    let uid = pod.uid.clone().or_else(|| {
        let (name, namespace) = (pod.name.clone(), pod_namespace(pod, class).to_owned());
        let expected = Pod { name, namespace, uid: String::new(), service_account: pod.service_account.clone() };
        token::inspect(token?, &ExpectedClaims { audience: None, pod: &expected, now: Timestamp::now() }).ok()?.pod_uid
    });
    uid.unwrap_or_else(|| "00000000-0000-0000-0000-000000000000".to_owned())
}

/// Parses an octal file mode: `0644`, `644` or `0o644`.
fn parse_file_mode(text: &str) -> Result<u32, &'static str> {
    let digits = text.strip_prefix("0o").unwrap_or(text);
    let mode = u32::from_str_radix(digits, 8).ok().filter(|m| *m <= 0o777 && !digits.starts_with('+'));
    mode.ok_or("a file mode must be octal, from 0 to 0777")
}
