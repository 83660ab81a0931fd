//! A driver's Mount request, parsed and checked; nothing after it sees JSON or YAML.

mod attributes;
mod class;
mod class_cache;
mod findings;
mod go_json;
mod go_yaml;
mod known_names;
mod objects;
mod parameters;
mod pod;
mod query;
pub mod token;
mod vault_path;
mod warnings;

use std::{
    collections::{BTreeMap, HashSet},
    fmt::{self, Display},
    sync::Arc,
};

use self::{
    attributes::Attributes,
    findings::{BoundedList, Findings},
    warnings::Warnings,
};
pub use self::{
    class_cache::ClassCache,
    findings::{Finding, FindingLocation, ObjectEntry},
    known_names::is_parameter,
    objects::OBJECT_FIELDS,
};
use crate::{
    cache::Refresh,
    error::Error,
    policy::{PolicyRequest, ServerChoice},
    render::FileSpec,
    secret::SecretText,
    text::quote,
    vault::request::SecretRequest,
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
    pub tokens: ServiceAccountTokens,
    /// Whether the caller reports failures of polls itself: drivers up to 1.5.6, which send versions with them.
    pub driver_reports_failures: bool,
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
    pub is_token_shared: bool,
    /// What the class chose of the server.
    pub choice: ServerChoice,
    /// What to read and which files to make of it; not empty, file names distinct.
    pub objects: Vec<Object>,
    /// How many distinct requests the objects make.
    pub distinct_requests: usize,
    /// What to tell the operator, though it stops nothing: unknown fields and the like.
    pub warnings: Vec<String>,
}

impl Class {
    /// The names of its objects, for a line of a log: not of all, if there are many.
    #[must_use]
    pub fn display_object_names(&self) -> impl Display {
        DisplayObjectNames(&self.objects)
    }
}

struct DisplayObjectNames<'a>(&'a [Object]);

impl Display for DisplayObjectNames<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, object) in self.0.iter().take(MAX_DISPLAYED_OBJECTS).enumerate() {
            write!(f, "{}{}", if n == 0 { "" } else { ", " }, object.file_spec.path)?;
        }
        if self.0.len() > MAX_DISPLAYED_OBJECTS { f.write_str(", …") } else { Ok(()) }
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
    pub request: Arc<SecretRequest>,
    /// What becomes of the answer.
    pub file_spec: FileSpec,
    /// A path or key that does not exist is no error.
    pub optional: bool,
    /// The object's configuration as the Go provider's JSON, which enters its version. Holds arguments.
    pub version_config: SecretText,
}

/// Service account tokens by audience.
#[derive(Clone, Debug, Default)]
pub struct ServiceAccountTokens(pub BTreeMap<String, SecretText>);

/// Parses and checks a request. Every mistake in it is part of the one error ([`crate::error::Cause::InvalidRequest`]), with
/// the object and field it is in and the way to mend it; no token, argument value or secret is.
///
/// What the parameters and fields mean is the Go providers' rule (vault-csi-provider 1.7, openbao-csi-provider 2), save where
/// a module says otherwise.
pub fn parse(raw: &RawRequest<'_>) -> Result<MountSpec, Error> {
    ClassCache::default().parse(raw)
}

/// The pod and the class of a request that cannot be understood otherwise, as far as it says them: the rest is empty.
#[must_use]
pub fn identify_pod(attributes: &str) -> (Pod, String) {
    let attributes = Attributes::parse(attributes).unwrap_or_default();
    let pod = pod::parse(&attributes, &mut Findings::default());
    (pod, attributes.get(CLASS_NAME_ATTRIBUTE).unwrap_or_default().to_owned())
}

/// What a request says, when its class is not known from another.
fn parse_uncached(raw: &RawRequest<'_>, attributes: &Attributes) -> Result<MountSpec, Error> {
    let (mut findings, mut warnings) = (Findings::default(), Warnings::default());
    if raw.target_path.is_empty() {
        findings.add(
            FindingLocation::DriverRequest("target path".to_owned()),
            "missing in the driver's request; compare its version with this provider's",
        );
    }
    let permission = parse_permission(raw.permission, &mut findings);
    let pod = pod::parse(attributes, &mut findings);
    let (parameters, parsed) = parse_class(attributes, permission, &mut findings, &mut warnings);
    let tokens = token::parse(attributes, raw.secrets, &mut findings);
    let class_name = attributes.get(CLASS_NAME_ATTRIBUTE).unwrap_or_default().to_owned();
    warnings.check_parameter_names(attributes);
    if let Some(error) = findings.into_error(&class_name, warnings.typo_summary()) {
        return Err(error);
    }
    let class = Class {
        permission,
        role: parameters.role,
        audience: parameters.audience,
        refresh: parameters.refresh,
        is_token_shared: parameters.is_token_shared,
        choice: parameters.choice,
        distinct_requests: parsed.objects.iter().map(|object| &object.request).collect::<HashSet<_>>().len(),
        objects: parsed.objects,
        warnings: warnings.into_messages(),
    };
    Ok(MountSpec {
        pod,
        class_name,
        class: Arc::new(class),
        target_path: raw.target_path.to_owned(),
        tokens,
        driver_reports_failures: false,
    })
}

/// The same of a class that is known; nothing if there is a mistake.
fn parse_with_cached_class(raw: &RawRequest<'_>, attributes: &Attributes, class: Arc<Class>) -> Option<MountSpec> {
    let mut findings = Findings::default();
    let pod = pod::parse(attributes, &mut findings);
    let tokens = token::parse(attributes, raw.secrets, &mut findings);
    let class_name = attributes.get(CLASS_NAME_ATTRIBUTE).unwrap_or_default().to_owned();
    let target_path = raw.target_path.to_owned();
    (findings.len() == 0 && !target_path.is_empty()).then_some(MountSpec {
        pod,
        class_name,
        class,
        target_path,
        tokens,
        driver_reports_failures: false,
    })
}

/// The most objects that a line names.
const MAX_DISPLAYED_OBJECTS: usize = 10;

/// The attribute in which the driver names the class.
const CLASS_NAME_ATTRIBUTE: &str = "secretProviderClass";

/// What a class says for itself, whoever the pod is.
fn parse_class(
    attributes: &Attributes,
    permission: u32,
    findings: &mut Findings,
    warnings: &mut Warnings,
) -> (parameters::Parameters, objects::ParsedObjects) {
    let parameters = parameters::parse(attributes, findings, warnings);
    (parameters, objects::parse(attributes.get("objects"), permission, findings, warnings))
}

/// What a class's parameters come to, without a pod or a driver.
#[derive(Debug, Default)]
pub struct ClassReview {
    /// What a mount would refuse, and then the names nobody knows, which a mount would ignore.
    pub errors: Vec<Finding>,
    /// What stops nothing.
    pub warnings: Vec<Finding>,
    /// How many more there are of both, in a class that has hundreds.
    pub omitted: usize,
    /// What the objects would make; empty if they cannot be read.
    pub files: Vec<OutputFile>,
    /// What is chosen of the server.
    pub choice: ServerChoice,
    /// The audience, if one is named.
    pub audience: Option<String>,
}

impl ClassReview {
    /// What is chosen, as a policy judges it of a pod of this namespace.
    #[must_use]
    pub fn policy_request<'a>(&'a self, namespace: &'a str, default_audience: &'a str) -> PolicyRequest<'a> {
        let audience = self.audience.as_deref().unwrap_or(default_audience);
        PolicyRequest { choice: &self.choice, namespace, audience, default_audience }
    }
}

/// A file that an object makes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutputFile {
    /// The `objectName`.
    pub name: String,
    /// It is a directory with one file for each key; `.` is the mount itself.
    pub is_directory: bool,
}

/// Looks at parameters by the rules of [`parse`].
#[must_use]
pub fn review_class(parameters: &BTreeMap<String, String>) -> ClassReview {
    let attributes = Attributes::from_parameters(parameters);
    let (mut findings, mut warnings) = (Findings::default(), Warnings::default());
    let (parameters, parsed) = parse_class(&attributes, 0o644, &mut findings, &mut warnings);
    warnings.check_parameter_names(&attributes);
    let (unknown, warnings) = warnings.into_findings();
    let errors = findings.into_list();
    let omitted_count = |list: &BoundedList<Finding>| list.total - list.items.len();
    ClassReview {
        omitted: omitted_count(&errors) + omitted_count(&unknown) + omitted_count(&warnings),
        errors: errors.items.into_iter().chain(unknown.items).collect(),
        warnings: warnings.items,
        files: parsed.files,
        choice: parameters.choice,
        audience: parameters.audience,
    }
}

/// A decimal JSON number of at most 0o777; 0 is a permission like any other.
fn parse_permission(json: &str, findings: &mut Findings) -> u32 {
    if let Ok(mode @ 0..=0o777) = serde_json::from_str(json) {
        return mode;
    }
    let problem = format!("is {}, not a decimal number up to 511; it comes from the driver", quote(json));
    findings.add(FindingLocation::DriverRequest("permission".to_owned()), problem);
    0
}

#[cfg(test)]
mod tests;
