//! Explains a 404: a missing secret, a deleted version, a path of the other KV version, a missing engine.

use std::fmt;

use super::{ErrorResponse, ReadContext};
use crate::{
    error::{Cause, Error},
    vault::{engine::Engine, request::Method},
};

/// Explains a read that returned 404.
pub(super) fn explain_not_found(response: &ErrorResponse, context: &ReadContext<'_>) -> Error {
    let path = context.display_path();
    if let Some(deleted) = &response.deleted_version {
        let (deletion, fix) = if deleted.destroyed {
            ("destroyed".to_owned(), "write a new version")
        } else {
            (format!("deleted at {}", deleted.deletion_time), "write a new version, undelete it")
        };
        return Error::new(Cause::VersionDeleted, format!("version {} of {path} was {deletion}", deleted.version))
            .with_fix(format!("{fix}, or ask for another with ?version=N"));
    }
    if response.mentions(&["unsupported path", "unsupported operation"]) {
        let rest = context.request.path.strip_prefix(context.mount_path()).unwrap_or_default();
        let name = context.engine.map_or_else(|| "secrets".to_owned(), Engine::display_name);
        let summary = format!(
            "the {name} engine at {} has no path {rest:?} for method {}",
            context.mount_path(),
            context.request.method
        );
        return Error::new(Cause::EngineMissing, summary).with_fix(
            context
                .engine
                .and_then(usual_paths)
                .unwrap_or_else(|| "correct secretPath after the mount path".to_owned()),
        );
    }
    if response.mentions(&["no handler for route"]) {
        return Error::new(Cause::EngineMissing, format!("no secrets engine answers at {path}"))
            .with_fix("correct secretPath: it starts with the engine's mount path");
    }
    let summary = match (context.request.method, context.request.secret_version()) {
        (Method::List, _) => format!("nothing to list at {path}"),
        (_, Some(version)) => format!("no version {version} of {path}, or no such secret"),
        (_, None) => format!("no secret at {path}"),
    };
    let (cause, fix) = match suggest_kv_path(response, context) {
        Some(suggestion) if suggestion.kv_version == 2 => (Cause::Kv2Path, suggestion.to_string()),
        Some(suggestion) => (Cause::Kv1Path, format!("{suggestion} If not, create the secret ({OPTIONAL_HINT})")),
        None => (Cause::SecretMissing, format!("correct secretPath, or create the secret ({OPTIONAL_HINT})")),
    };
    Error::new(cause, format!("Vault at {} has {summary}", context.address)).with_fix(fix)
}

/// Returns the usual paths of an engine.
fn usual_paths(engine: &Engine) -> Option<String> {
    let mount_path = &engine.path;
    Some(match engine.kind.as_str() {
        "database" => format!(
            "credentials are read at {mount_path}creds/ROLE, those of static roles at {mount_path}static-creds/ROLE"
        ),
        "aws" | "azure" | "consul" | "ldap" | "nomad" | "rabbitmq" => {
            format!("credentials are read at {mount_path}creds/ROLE")
        }
        "pki" => format!(
            "certificates are issued with `method: PUT` at {mount_path}issue/ROLE, and read at {mount_path}cert/SERIAL"
        ),
        "ssh" => format!("keys are signed with `method: PUT` at {mount_path}sign/ROLE"),
        "totp" => format!("codes are read at {mount_path}code/NAME"),
        "transit" => format!(
            "`method: PUT` belongs to {mount_path}encrypt/KEY, {mount_path}decrypt/KEY and {mount_path}datakey/plaintext/KEY"
        ),
        _ => return None,
    })
}

const OPTIONAL_HINT: &str = "`optional: true` makes its absence no error";

/// The equivalent path for the KV engine's actual version. `Display` renders it as a question.
pub(super) struct SuggestedPath {
    /// The engine's version.
    kv_version: u8,
    path: String,
}

impl fmt::Display for SuggestedPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "did you mean secretPath: {} (the engine there is KV version {})?", self.path, self.kv_version)
    }
}

/// The folders at the top of a KV engine of version 2.
const KV2_FOLDERS: [&str; 8] =
    ["data", "metadata", "config", "delete", "undelete", "destroy", "subkeys", "detailed-metadata"];

/// Suggests the equivalent path when the engine is KV and the path is written for the other KV version. Version 2 has
/// secrets below `data/` and names below `metadata/`; version 1 has no such prefix.
pub(super) fn suggest_kv_path(response: &ErrorResponse, context: &ReadContext<'_>) -> Option<SuggestedPath> {
    let is_kv2_warning = response.mentions(&["Invalid path for a versioned K/V"]);
    let (kv_version, mount) = match context.engine {
        Some(engine) if engine.is_kv2() => (2, engine.path.as_str()),
        Some(engine) if engine.kind == "kv" => (1, engine.path.as_str()),
        None if is_kv2_warning => (2, context.request.path.split_inclusive('/').next()?),
        _ => return None,
    };
    let below_mount = context.request.path.strip_prefix(mount)?;
    let (folder, below_folder) = below_mount.split_once('/').unwrap_or((below_mount, ""));
    let expected_folder = if context.request.method == Method::List { "metadata" } else { "data" };
    let secret_path = match kv_version {
        1 if folder == expected_folder => below_folder,
        2 if folder == "data" && expected_folder == "metadata" => below_folder,
        2 if is_kv2_warning || !KV2_FOLDERS.contains(&folder) => below_mount,
        _ => return None,
    };
    let folder = if kv_version == 2 { format!("{expected_folder}/") } else { String::new() };
    Some(SuggestedPath { kv_version, path: format!("{mount}{folder}{secret_path}") })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vault::request::SecretRequest;

    /// Suggests a path for a request of `kv/REST`; `version` is the engine's, if known.
    fn suggest(method: Method, rest: &str, version: Option<&str>, warning: &str) -> Option<String> {
        let options = version.map(|v| [("version".to_owned(), v.to_owned())].into());
        let engine = version.map(|_| Engine { path: "kv/".into(), kind: "kv".into(), options });
        let request = SecretRequest { method, path: format!("kv/{rest}"), query: None, body: None };
        let response = ErrorResponse { status: 404, warnings: warning.into(), ..ErrorResponse::default() };
        let context = ReadContext {
            address: "",
            namespace: None,
            auth_namespace: None,
            role: "",
            policies: &[],
            request: &request,
            engine: engine.as_ref(),
        };
        suggest_kv_path(&response, &context).map(|suggestion| suggestion.path)
    }

    #[test]
    fn suggest_kv_path_translates_between_kv_versions() {
        let kv2_warning = "Invalid path for a versioned K/V secrets engine.";
        for (method, rest, version, warning, expected) in [
            (Method::Get, "db", Some("2"), kv2_warning, Some("kv/data/db")),
            (Method::Get, "a/db", Some("2"), "", Some("kv/data/a/db")),
            (Method::Get, "config/db", Some("2"), kv2_warning, Some("kv/data/config/db")),
            (Method::Get, "data/db", Some("2"), "", None),
            (Method::Get, "metadata/db", Some("2"), "", None),
            (Method::Get, "db", None, kv2_warning, Some("kv/data/db")),
            (Method::Get, "db", None, "", None),
            (Method::List, "team", Some("2"), kv2_warning, Some("kv/metadata/team")),
            (Method::List, "data/team", Some("2"), "", Some("kv/metadata/team")),
            (Method::List, "data", Some("2"), "", Some("kv/metadata/")),
            (Method::List, "metadata", Some("2"), "", None),
            (Method::List, "", Some("2"), kv2_warning, Some("kv/metadata/")),
            (Method::Get, "data/db", Some("1"), "", Some("kv/db")),
            (Method::Get, "metadata/db", Some("1"), "", None),
            (Method::List, "metadata/team", Some("1"), "", Some("kv/team")),
            (Method::Get, "db", Some("1"), "", None),
        ] {
            assert_eq!(suggest(method, rest, version, warning).as_deref(), expected, "{method} {rest} {version:?}");
        }
    }
}
