//! `vaultmount mount`: plays the driver for one class, and shows what a pod would get.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    fs,
    io::{self, Write as _},
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::{Component, Path},
    process::ExitCode,
    sync::Arc,
};

use jiff::Timestamp;
use serde_json::{Value, json};

use super::MountArgs;
use crate::{
    app,
    config::Config,
    manifest::{self, Class},
    mount::VersionKeySource,
    provider::{
        self,
        client::{Call, Client},
        pb::{File, MountResponse},
    },
    request::{
        Pod,
        token::{self, Expected},
    },
    secret::SecretText,
    telemetry,
};

/// Mounts once and prints names, modes, sizes and versions.
#[must_use]
pub fn run(args: &MountArgs) -> ExitCode {
    super::finish(super::block_on(async {
        let response = mount(args).await?;
        if let Some(folder) = &args.out {
            write(folder, &response.files)?;
        }
        print(&response, args.show).map_err(|e| e.to_string())
    }))
}

async fn mount(args: &MountArgs) -> Result<MountResponse, String> {
    let (config, warnings) = Config::load(&args.as_serve(), std::env::vars_os()).map_err(|e| e.to_string())?;
    telemetry::init(config.log_level);
    let class = manifest::class(&args.file, args.class.as_deref()).map_err(|e| e.to_string())?;
    let audience = args
        .pod
        .audience
        .clone()
        .or_else(|| class.parameters.get("audience").cloned())
        .unwrap_or_else(|| provider(&class).to_owned());
    let token = token(args, &config, &audience).await?;
    let call = call(args, &class, &audience, token.as_ref());
    let mut client = if let Some(socket) = &args.endpoint {
        Client::connect(socket).await.map_err(|e| format!("{} cannot be called: {e}", socket.display()))?
    } else {
        for warning in warnings {
            tracing::warn!("{warning}");
        }
        // The key in the cluster would have to be created there if absent; a look must not do that.
        let key =
            config.hmac_key_file.as_deref().map_or_else(|| Ok(VersionKeySource::process()), VersionKeySource::file);
        let mounter = app::mounter(&config, None, key?);
        provider::local(Arc::new(mounter), provider(&class)).await.map_err(|e| e.to_string())?
    };
    client.mount(call).await.map_err(|status| format!("{:?}: {}", status.code(), status.message()))
}

/// The provider's name, which is also its default audience.
fn provider(class: &Class) -> &'static str {
    if class.provider == "openbao" { "openbao" } else { "vault" }
}

/// The service account token in the file, or one asked of the Kubernetes API when there is one.
async fn token(args: &MountArgs, config: &Config, audience: &str) -> Result<Option<SecretText>, String> {
    if let Some(path) = &args.pod.token_file {
        let text =
            fs::read_to_string(path).map_err(|e| format!("--token-file {} cannot be read: {e}", path.display()))?;
        return Ok(Some(SecretText::from(text.trim())));
    }
    match app::kube(config).map_err(|e| e.to_string())? {
        Some(kube) => {
            let token = kube.mint_token(&args.pod.namespace, &args.pod.service_account, Some(audience), None).await;
            token.map(Some).map_err(|e| e.to_string())
        }
        None => Ok(None),
    }
}

/// The call a driver would make.
fn call(args: &MountArgs, class: &Class, audience: &str, token: Option<&SecretText>) -> Call {
    let mut attributes: BTreeMap<&str, String> =
        class.parameters.iter().map(|(name, value)| (name.as_str(), value.clone())).collect();
    let pod = &args.pod;
    let uid = uid(args, token);
    attributes.insert("csi.storage.k8s.io/pod.name", pod.name.clone());
    attributes.insert("csi.storage.k8s.io/pod.namespace", pod.namespace.clone());
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
        permission: args.permission.to_string(),
        timeout: None,
    }
}

/// The pod's UID: as given, else as the token says, so that each pod has a session of its own at a running server.
fn uid(args: &MountArgs, token: Option<&SecretText>) -> String {
    let pod = &args.pod;
    let said = pod.uid.clone().or_else(|| {
        let (name, namespace) = (pod.name.clone(), pod.namespace.clone());
        let expected = Pod { name, namespace, uid: String::new(), service_account: pod.service_account.clone() };
        token::look(token?, &Expected { audience: None, pod: &expected, now: Timestamp::now() }).ok()?.pod_uid
    });
    said.unwrap_or_else(|| "00000000-0000-0000-0000-000000000000".to_owned())
}

/// Writes the files below a folder.
fn write(folder: &Path, files: &[File]) -> Result<(), String> {
    for file in files {
        let relative = Path::new(&file.path);
        if !relative.components().all(|c| matches!(c, Component::Normal(_))) {
            return Err(format!("the file name {:?} leads out of {}", file.path, folder.display()));
        }
        let path = folder.join(relative);
        write_one(&path, file).map_err(|e| format!("{} cannot be written: {e}", path.display()))?;
    }
    Ok(())
}

fn write_one(path: &Path, file: &File) -> io::Result<()> {
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent)?;
    }
    let mut open = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
    open.write_all(&file.contents)?;
    open.set_permissions(fs::Permissions::from_mode(file.mode.cast_unsigned()))
}

fn print(response: &MountResponse, show: bool) -> io::Result<()> {
    let mut text = String::new();
    let width = response.files.iter().map(|f| f.path.len()).max().unwrap_or(0).max(4);
    let _ = writeln!(text, "{:width$}  MODE  BYTES", "FILE");
    for file in &response.files {
        let _ = writeln!(text, "{:width$}  {:04o}  {}", file.path, file.mode, file.contents.len());
    }
    let width = response.object_version.iter().map(|v| v.id.len()).max().unwrap_or(0).max(6);
    let _ = writeln!(text, "\n{:width$}  VERSION", "OBJECT");
    for version in &response.object_version {
        let _ = writeln!(text, "{:width$}  {}", version.id, version.version);
    }
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    for file in response.files.iter().filter(|_| show) {
        writeln!(out, "\n--- {}", file.path)?;
        match std::str::from_utf8(&file.contents) {
            Ok(text) => writeln!(out, "{}", text.trim_end_matches('\n'))?,
            Err(_) => writeln!(out, "(not text)")?,
        }
    }
    Ok(())
}
