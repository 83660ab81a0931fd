//! What a 404 means: nothing there, a version that is gone, a path of the other KV version, no engine.

use std::fmt;

use super::{ReadContext, Refusal};
use crate::{
    error::{Cause, Error},
    vault::{engine::Engine, wire::Method},
};

/// The error of a read that found nothing.
pub(super) fn missing(refusal: &Refusal, at: &ReadContext<'_>) -> Error {
    let path = at.path();
    if let Some(deleted) = &refusal.deleted {
        let (fate, mend) = if deleted.destroyed {
            ("destroyed".to_owned(), "write a new version")
        } else {
            (format!("deleted at {}", deleted.deletion_time), "write a new version, undelete it")
        };
        return Error::new(Cause::VersionDeleted, format!("version {} of {path} was {fate}", deleted.version))
            .advice(format!("{mend}, or ask for another with ?version=N"));
    }
    if refusal.says(&["unsupported path", "unsupported operation"]) {
        let rest = at.read.path.strip_prefix(at.mount()).unwrap_or_default();
        let name = at.engine.map_or_else(|| "secrets".to_owned(), Engine::name);
        let what = format!("the {name} engine at {} has no path {rest:?} for method {}", at.mount(), at.read.method);
        return Error::new(Cause::EngineMissing, what)
            .advice(at.engine.and_then(ways).unwrap_or_else(|| "correct secretPath after the mount path".to_owned()));
    }
    if refusal.says(&["no handler for route"]) {
        return Error::new(Cause::EngineMissing, format!("no secrets engine answers at {path}"))
            .advice("correct secretPath: it starts with the engine's mount path");
    }
    let what = match (at.read.method, at.read.version()) {
        (Method::List, _) => format!("nothing to list at {path}"),
        (_, Some(version)) => format!("no version {version} of {path}, or no such secret"),
        (_, None) => format!("no secret at {path}"),
    };
    let (cause, mend) = match kv_path(refusal, at) {
        Some(meant) if meant.version == 2 => (Cause::Kv2Path, meant.to_string()),
        Some(meant) => (Cause::Kv1Path, format!("{meant} If not, create the secret ({OPTIONAL})")),
        None => (Cause::SecretMissing, format!("correct secretPath, or create the secret ({OPTIONAL})")),
    };
    Error::new(cause, format!("Vault at {} has {what}", at.address)).advice(mend)
}

/// What people read at an engine, and where.
fn ways(engine: &Engine) -> Option<String> {
    let at = &engine.path;
    Some(match engine.kind.as_str() {
        "database" => format!("credentials are read at {at}creds/ROLE, those of static roles at {at}static-creds/ROLE"),
        "aws" | "azure" | "consul" | "ldap" | "nomad" | "rabbitmq" => format!("credentials are read at {at}creds/ROLE"),
        "pki" => format!("certificates are issued with `method: PUT` at {at}issue/ROLE, and read at {at}cert/SERIAL"),
        "ssh" => format!("keys are signed with `method: PUT` at {at}sign/ROLE"),
        "totp" => format!("codes are read at {at}code/NAME"),
        "transit" => format!("`method: PUT` belongs to {at}encrypt/KEY, {at}decrypt/KEY and {at}datakey/plaintext/KEY"),
        _ => return None,
    })
}

const OPTIONAL: &str = "`optional: true` makes its absence no error";

/// Where a KV engine has what was asked for the other version's way. Displayed, it is a question.
pub(super) struct Meant {
    /// The engine's version.
    version: u8,
    path: String,
}

impl fmt::Display for Meant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "did you mean secretPath: {} (the engine there is KV version {})?", self.path, self.version)
    }
}

/// The folders at the top of a KV engine of version 2.
const FOLDERS: [&str; 8] =
    ["data", "metadata", "config", "delete", "undelete", "destroy", "subkeys", "detailed-metadata"];

/// The path that was meant, when the engine is KV and the path is of its other version: in version 2 secrets are below
/// `data/` and their names below `metadata/`, in version 1 below nothing.
pub(super) fn kv_path(refusal: &Refusal, at: &ReadContext<'_>) -> Option<Meant> {
    let told = refusal.says(&["Invalid path for a versioned K/V"]);
    let (version, mount) = match at.engine {
        Some(engine) if engine.is_kv2() => (2, engine.path.as_str()),
        Some(engine) if engine.kind == "kv" => (1, engine.path.as_str()),
        None if told => (2, at.read.path.split_inclusive('/').next()?),
        _ => return None,
    };
    let rest = at.read.path.strip_prefix(mount)?;
    let (folder, inner) = rest.split_once('/').unwrap_or((rest, ""));
    let right = if at.read.method == Method::List { "metadata" } else { "data" };
    let rest = match version {
        1 if folder == right => inner,
        2 if folder == "data" && right == "metadata" => inner,
        2 if told || !FOLDERS.contains(&folder) => rest,
        _ => return None,
    };
    let folder = if version == 2 { format!("{right}/") } else { String::new() };
    Some(Meant { version, path: format!("{mount}{folder}{rest}") })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vault::wire::Read;

    /// What was meant by a read of `kv/REST`; `version` is the engine's, if it is known.
    fn meant(method: Method, rest: &str, version: Option<&str>, warning: &str) -> Option<String> {
        let options = version.map(|v| [("version".to_owned(), v.to_owned())].into());
        let engine = version.map(|_| Engine { path: "kv/".into(), kind: "kv".into(), options });
        let read = Read { method, path: format!("kv/{rest}"), query: None, body: None };
        let refusal = Refusal { status: 404, warnings: warning.into(), ..Refusal::default() };
        let at = ReadContext {
            address: "",
            namespace: None,
            auth_namespace: None,
            role: "",
            policies: &[],
            read: &read,
            engine: engine.as_ref(),
        };
        kv_path(&refusal, &at).map(|meant| meant.path)
    }

    #[test]
    fn the_path_of_the_other_kv_version_is_told() {
        let told = "Invalid path for a versioned K/V secrets engine.";
        for (method, rest, version, warning, expected) in [
            (Method::Get, "db", Some("2"), told, Some("kv/data/db")),
            (Method::Get, "a/db", Some("2"), "", Some("kv/data/a/db")),
            (Method::Get, "config/db", Some("2"), told, Some("kv/data/config/db")),
            (Method::Get, "data/db", Some("2"), "", None),
            (Method::Get, "metadata/db", Some("2"), "", None),
            (Method::Get, "db", None, told, Some("kv/data/db")),
            (Method::Get, "db", None, "", None),
            (Method::List, "team", Some("2"), told, Some("kv/metadata/team")),
            (Method::List, "data/team", Some("2"), "", Some("kv/metadata/team")),
            (Method::List, "data", Some("2"), "", Some("kv/metadata/")),
            (Method::List, "metadata", Some("2"), "", None),
            (Method::List, "", Some("2"), told, Some("kv/metadata/")),
            (Method::Get, "data/db", Some("1"), "", Some("kv/db")),
            (Method::Get, "metadata/db", Some("1"), "", None),
            (Method::List, "metadata/team", Some("1"), "", Some("kv/team")),
            (Method::Get, "db", Some("1"), "", None),
        ] {
            assert_eq!(meant(method, rest, version, warning).as_deref(), expected, "{method} {rest} {version:?}");
        }
    }
}
