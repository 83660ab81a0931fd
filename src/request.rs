//! A driver's Mount request, parsed and checked; nothing after it sees JSON or YAML.

mod attributes;
mod go_json;
mod go_yaml;
mod mistakes;
mod objects;
mod parameters;
mod path;
mod pod;
mod query;
pub mod token;
mod warnings;

use self::{
    attributes::Attributes,
    mistakes::{Mistakes, quoted},
    warnings::Warnings,
};
use crate::{error::Error, policy::Choice, render::Recipe, secret::SecretText, vault::wire::Read};

/// A Mount request as the driver sends it.
#[derive(Clone, Copy)]
pub struct RawRequest<'a> {
    /// JSON of the class's parameters, the pod's volumeAttributes and what kubelet adds.
    pub attributes: &'a str,
    /// JSON of the secrets, which may be the word `null`.
    pub secrets: &'a str,
    /// The volume's directory on the node.
    pub target_path: &'a str,
    /// The permission of files whose object names none, as a JSON number.
    pub permission: &'a str,
}

/// What a pod asked for.
#[derive(Clone, Debug)]
pub struct MountSpec {
    /// Who asks.
    pub pod: Pod,
    /// The SecretProviderClass's name; empty when the driver does not say (up to 1.5.6 on polls).
    pub class: String,
    /// The volume's directory on the node.
    pub target_path: String,
    /// The permission bits of files whose object names none.
    pub permission: u32,
    /// The login role.
    pub role: String,
    /// The audience the class asks for; the socket's own otherwise.
    pub audience: Option<String>,
    /// What the class chose of the server.
    pub choice: Choice,
    /// What to read and which files to make of it; not empty, file names distinct.
    pub objects: Vec<Object>,
    /// The service account tokens the driver passed.
    pub tokens: Tokens,
    /// What to tell the operator, though it stops nothing: unknown fields and the like.
    pub warnings: Vec<String>,
}

/// The pod a volume belongs to.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Pod {
    /// Its name.
    pub name: String,
    /// Its namespace.
    pub namespace: String,
    /// Its UID, which no other pod ever has.
    pub uid: String,
    /// Its service account.
    pub service_account: String,
}

/// One entry of `objects`.
#[derive(Clone, Debug)]
pub struct Object {
    /// The request to Vault.
    pub read: Read,
    /// What becomes of the answer.
    pub recipe: Recipe,
    /// A path or key that does not exist is no error.
    pub optional: bool,
    /// The object's configuration as the Go provider's JSON, which enters its version. Holds arguments.
    pub version_config: SecretText,
}

/// Service account tokens by audience.
#[derive(Clone, Debug, Default)]
pub struct Tokens(pub std::collections::BTreeMap<String, SecretText>);

/// Parses and checks a request. Every mistake in it is part of the one error ([`crate::error::Cause::InvalidRequest`]), with
/// the object and field it is in and the way to mend it; no token, argument value or secret is.
///
/// What the parameters and fields mean is the Go providers' rule (vault-csi-provider 1.7, openbao-csi-provider 2), save where
/// a module says otherwise.
pub fn parse(raw: &RawRequest<'_>) -> Result<MountSpec, Error> {
    let attributes = Attributes::parse(raw.attributes)?;
    let (mut mistakes, mut warnings) = (Mistakes::default(), Warnings::default());
    if raw.target_path.is_empty() {
        mistakes.add("target path", "missing in the driver's request; compare its version with this provider's");
    }
    let permission = permission(raw.permission, &mut mistakes);
    let pod = pod::parse(&attributes, &mut mistakes);
    let parameters = parameters::parse(&attributes, &mut mistakes, &mut warnings);
    let objects = objects::parse(attributes.get("objects"), permission, &mut mistakes, &mut warnings);
    let tokens = token::parse(&attributes, raw.secrets, &mut mistakes);
    let class = attributes.get("secretProviderClass").unwrap_or_default().to_owned();
    if let Some(error) = mistakes.into_error(&class) {
        return Err(error);
    }
    warnings.names(&attributes);
    Ok(MountSpec {
        pod,
        class,
        target_path: raw.target_path.to_owned(),
        permission,
        role: parameters.role,
        audience: parameters.audience,
        choice: parameters.choice,
        objects,
        tokens,
        warnings: warnings.into_texts(),
    })
}

/// A decimal JSON number of at most 0o777; 0 is a permission like any other.
fn permission(json: &str, mistakes: &mut Mistakes) -> u32 {
    if let Ok(mode @ 0..=0o777) = serde_json::from_str(json) {
        return mode;
    }
    let what = format!("is {}, not a decimal number up to 511; it comes from the driver", quoted(json));
    mistakes.add("permission", what);
    0
}

#[cfg(test)]
mod tests;
