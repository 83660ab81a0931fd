//! A driver's Mount request, parsed and checked; nothing after it sees JSON or YAML.

mod attributes;
mod classes;
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

use std::{
    collections::{BTreeMap, HashSet},
    fmt::{self, Display},
    sync::Arc,
};

use self::{
    attributes::Attributes,
    mistakes::{Kept, Mistakes},
    warnings::Warnings,
};
pub use self::{
    classes::Classes,
    mistakes::{Entry, Finding, Place},
    objects::FIELDS as OBJECT_FIELDS,
    warnings::is_known as is_parameter,
};
use crate::{
    error::Error,
    lease::Refresh,
    policy::{Ask, Choice},
    render::Recipe,
    secret::SecretText,
    text::quoted,
    vault::wire::SecretRequest,
};

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
    pub class_name: String,
    /// What the class says, with the pod's volumeAttributes laid over it.
    pub class: Arc<Class>,
    /// The volume's directory on the node.
    pub target_path: String,
    /// The service account tokens the driver passed.
    pub tokens: Tokens,
    /// Whether the caller reports failures of polls itself: drivers up to 1.5.6, which send versions with them.
    pub is_reported: bool,
}

/// What a class says for itself, whoever the pod is.
#[derive(Clone, Debug)]
pub struct Class {
    /// The permission bits of files whose object names none; the driver's.
    pub permission: u32,
    /// The login role.
    pub role: String,
    /// The audience the class asks for; the socket's own otherwise.
    pub audience: Option<String>,
    /// How long plain secrets count as fresh; the operator's interval otherwise.
    pub refresh: Option<Refresh>,
    /// Whether pods of one service account share what is read under one Vault token.
    pub shares: bool,
    /// What the class chose of the server.
    pub choice: Choice,
    /// What to read and which files to make of it; not empty, file names distinct.
    pub objects: Vec<Object>,
    /// How many distinct requests the objects make.
    pub distinct: usize,
    /// What to tell the operator, though it stops nothing: unknown fields and the like.
    pub warnings: Vec<String>,
}

impl Class {
    /// The names of its objects, for a line of a log: not of all, if there are many.
    #[must_use]
    pub fn names(&self) -> impl Display {
        Names(&self.objects)
    }
}

struct Names<'a>(&'a [Object]);

impl Display for Names<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, object) in self.0.iter().take(MOST_NAMED).enumerate() {
            write!(f, "{}{}", if n == 0 { "" } else { ", " }, object.recipe.file)?;
        }
        if self.0.len() > MOST_NAMED { f.write_str(", …") } else { Ok(()) }
    }
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
    pub read: Arc<SecretRequest>,
    /// What becomes of the answer.
    pub recipe: Recipe,
    /// A path or key that does not exist is no error.
    pub optional: bool,
    /// The object's configuration as the Go provider's JSON, which enters its version. Holds arguments.
    pub version_config: SecretText,
}

/// Service account tokens by audience.
#[derive(Clone, Debug, Default)]
pub struct Tokens(pub BTreeMap<String, SecretText>);

/// Parses and checks a request. Every mistake in it is part of the one error ([`crate::error::Cause::InvalidRequest`]), with
/// the object and field it is in and the way to mend it; no token, argument value or secret is.
///
/// What the parameters and fields mean is the Go providers' rule (vault-csi-provider 1.7, openbao-csi-provider 2), save where
/// a module says otherwise.
pub fn parse(raw: &RawRequest<'_>) -> Result<MountSpec, Error> {
    Classes::default().parse(raw)
}

/// The pod and the class of a request that cannot be understood otherwise, as far as it says them: the rest is empty.
#[must_use]
pub fn whose(attributes: &str) -> (Pod, String) {
    let attributes = Attributes::parse(attributes).unwrap_or_default();
    let pod = pod::parse(&attributes, &mut Mistakes::default());
    (pod, attributes.get(CLASS_NAME).unwrap_or_default().to_owned())
}

/// What a request says, when its class is not known from another.
fn parse_whole(raw: &RawRequest<'_>, attributes: &Attributes) -> Result<MountSpec, Error> {
    let (mut mistakes, mut warnings) = (Mistakes::default(), Warnings::default());
    if raw.target_path.is_empty() {
        mistakes.add(
            Place::Request("target path".to_owned()),
            "missing in the driver's request; compare its version with this provider's",
        );
    }
    let permission = permission(raw.permission, &mut mistakes);
    let pod = pod::parse(attributes, &mut mistakes);
    let (parameters, listed) = class(attributes, permission, &mut mistakes, &mut warnings);
    let tokens = token::parse(attributes, raw.secrets, &mut mistakes);
    let class_name = attributes.get(CLASS_NAME).unwrap_or_default().to_owned();
    warnings.names(attributes);
    if let Some(error) = mistakes.into_error(&class_name, warnings.slips()) {
        return Err(error);
    }
    let class = Class {
        permission,
        role: parameters.role,
        audience: parameters.audience,
        refresh: parameters.refresh,
        shares: parameters.shares,
        choice: parameters.choice,
        distinct: listed.objects.iter().map(|object| &object.read).collect::<HashSet<_>>().len(),
        objects: listed.objects,
        warnings: warnings.into_texts(),
    };
    Ok(MountSpec {
        pod,
        class_name,
        class: Arc::new(class),
        target_path: raw.target_path.to_owned(),
        tokens,
        is_reported: false,
    })
}

/// The same of a class that is known; nothing if there is a mistake.
fn parse_pod(raw: &RawRequest<'_>, attributes: &Attributes, class: Arc<Class>) -> Option<MountSpec> {
    let mut mistakes = Mistakes::default();
    let pod = pod::parse(attributes, &mut mistakes);
    let tokens = token::parse(attributes, raw.secrets, &mut mistakes);
    let class_name = attributes.get(CLASS_NAME).unwrap_or_default().to_owned();
    let target_path = raw.target_path.to_owned();
    (mistakes.len() == 0 && !target_path.is_empty()).then_some(MountSpec {
        pod,
        class_name,
        class,
        target_path,
        tokens,
        is_reported: false,
    })
}

/// The most objects that a line names.
const MOST_NAMED: usize = 10;

/// The attribute in which the driver names the class.
const CLASS_NAME: &str = "secretProviderClass";

/// What a class says for itself, whoever the pod is.
fn class(
    attributes: &Attributes,
    permission: u32,
    mistakes: &mut Mistakes,
    warnings: &mut Warnings,
) -> (parameters::Parameters, objects::Listed) {
    let parameters = parameters::parse(attributes, mistakes, warnings);
    (parameters, objects::parse(attributes.get("objects"), permission, mistakes, warnings))
}

/// What a class's parameters come to, without a pod or a driver.
#[derive(Debug, Default)]
pub struct Review {
    /// What a mount would refuse, and then the names nobody knows, which a mount would ignore.
    pub mistakes: Vec<Finding>,
    /// What stops nothing.
    pub warnings: Vec<Finding>,
    /// How many more there are of both, in a class that has hundreds.
    pub more: usize,
    /// What the objects would make; empty if they cannot be read.
    pub files: Vec<Made>,
    /// What is chosen of the server.
    pub choice: Choice,
    /// The audience, if one is named.
    pub audience: Option<String>,
}

impl Review {
    /// What is chosen, as a policy judges it of a pod of this namespace.
    #[must_use]
    pub fn ask<'a>(&'a self, namespace: &'a str, default_audience: &'a str) -> Ask<'a> {
        let audience = self.audience.as_deref().unwrap_or(default_audience);
        Ask { choice: &self.choice, namespace, audience, default_audience }
    }
}

/// A file that an object makes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Made {
    /// The `objectName`.
    pub name: String,
    /// It is a directory with one file for each key; `.` is the mount itself.
    pub each_key: bool,
}

/// Looks at parameters by the rules of [`parse`].
#[must_use]
pub fn review(parameters: &BTreeMap<String, String>) -> Review {
    let attributes = Attributes::of(parameters);
    let (mut mistakes, mut warnings) = (Mistakes::default(), Warnings::default());
    let (parameters, listed) = class(&attributes, 0o644, &mut mistakes, &mut warnings);
    warnings.names(&attributes);
    let (unknown, warnings) = warnings.into_findings();
    let mistakes = mistakes.into_findings();
    let cut = |kept: &Kept<Finding>| kept.count - kept.items.len();
    Review {
        more: cut(&mistakes) + cut(&unknown) + cut(&warnings),
        mistakes: mistakes.items.into_iter().chain(unknown.items).collect(),
        warnings: warnings.items,
        files: listed.files,
        choice: parameters.choice,
        audience: parameters.audience,
    }
}

/// A decimal JSON number of at most 0o777; 0 is a permission like any other.
fn permission(json: &str, mistakes: &mut Mistakes) -> u32 {
    if let Ok(mode @ 0..=0o777) = serde_json::from_str(json) {
        return mode;
    }
    let what = format!("is {}, not a decimal number up to 511; it comes from the driver", quoted(json));
    mistakes.add(Place::Request("permission".to_owned()), what);
    0
}

#[cfg(test)]
mod tests;
