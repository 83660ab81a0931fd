//! Parsing and checking of the driver's Mount request. Later stages see neither JSON nor YAML.

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
    /// The permission of files when their object sets none, as a JSON number.
    pub permission: &'a str,
}

/// A parsed Mount request: the pod, its class and its service account tokens.
#[derive(Clone, Debug)]
pub struct MountSpec {
    /// The pod that the volume belongs to.
    pub pod: Pod,
    /// The SecretProviderClass's name; empty if the driver does not send it (drivers up to 1.5.6, on polls).
    pub class_name: String,
    /// The class's settings, overlaid with the pod's volumeAttributes.
    pub class: Arc<Class>,
    /// The volume's directory on the node.
    pub target_path: String,
    /// The service account tokens the driver passed.
    pub tokens: ServiceAccountTokens,
    /// True if the caller itself reports failed polls: drivers up to 1.5.6, which send versions with their polls.
    pub driver_reports_failures: bool,
}

/// The settings of a class, independent of the pod.
#[derive(Clone, Debug)]
pub struct Class {
    /// The driver's permission bits, for files when their object sets none.
    pub permission: u32,
    /// The login role.
    pub role: String,
    /// The audience that the class requests; the socket's default audience if absent.
    pub audience: Option<String>,
    /// The time for which plain secrets are fresh; the operator's interval if absent.
    pub refresh: Option<Refresh>,
    /// True if pods of one service account share a session: one Vault token and the secrets fetched with it.
    pub is_token_shared: bool,
    /// The server settings that the class chose.
    pub choice: ServerChoice,
    /// The secrets to fetch and the files to write from them; not empty, with distinct file names.
    pub objects: Vec<Object>,
    /// The number of distinct requests among the objects.
    pub distinct_requests: usize,
    /// Warnings for the operator that do not fail the mount, such as unknown fields.
    pub warnings: Vec<String>,
}

impl Class {
    /// Returns the names of the class's objects for a log line, and truncates a long list.
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
    /// The pod's name.
    pub name: String,
    /// The pod's namespace.
    pub namespace: String,
    /// The pod's UID, which is never reused.
    pub uid: String,
    /// The name of the pod's service account.
    pub service_account: String,
}

/// One entry of `objects`.
#[derive(Clone, Debug)]
pub struct Object {
    /// The request to Vault.
    pub request: Arc<SecretRequest>,
    /// The file or files to write from the response.
    pub file_spec: FileSpec,
    /// True if a path or key that does not exist is not an error.
    pub optional: bool,
    /// The object's configuration as the Go provider's JSON, an input of the object's version. Contains arguments,
    /// which may be secret.
    pub version_config: SecretText,
}

/// Service account tokens by audience.
#[derive(Clone, Debug, Default)]
pub struct ServiceAccountTokens(pub BTreeMap<String, SecretText>);

/// Parses and checks a request. One error ([`crate::error::Cause::InvalidRequest`]) lists every mistake with its
/// object, field and fix. The error contains no token, argument value or secret.
///
/// Parameters and fields have the meaning of the Go providers (vault-csi-provider 1.7, openbao-csi-provider 2), except
/// where a module documents a difference.
pub fn parse(raw: &RawRequest<'_>) -> Result<MountSpec, Error> {
    ClassCache::default().parse(raw)
}

/// Returns the pod and class name of a request that may be invalid otherwise. Parts missing from the request are empty.
#[must_use]
pub fn identify_pod(attributes: &str) -> (Pod, String) {
    let attributes = Attributes::parse(attributes).unwrap_or_default();
    let pod = pod::parse(&attributes, &mut Findings::default());
    (pod, attributes.get(CLASS_NAME_ATTRIBUTE).unwrap_or_default().to_owned())
}

/// Parses a request when its class is not cached.
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

/// Parses the rest of a request when its class is cached. Returns `None` if the request has a mistake.
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

/// The maximum number of objects named in one log line.
const MAX_DISPLAYED_OBJECTS: usize = 10;

/// The attribute in which the driver names the class.
const CLASS_NAME_ATTRIBUTE: &str = "secretProviderClass";

/// Parses a class's parameters and objects, independent of the pod.
fn parse_class(
    attributes: &Attributes,
    permission: u32,
    findings: &mut Findings,
    warnings: &mut Warnings,
) -> (parameters::Parameters, objects::ParsedObjects) {
    let parameters = parameters::parse(attributes, findings, warnings);
    (parameters, objects::parse(attributes.get("objects"), permission, findings, warnings))
}

/// The result of checking a class's parameters without a pod or a driver.
#[derive(Debug, Default)]
pub struct ClassReview {
    /// Mistakes that a mount would reject, followed by unknown names, which a mount would ignore.
    pub errors: Vec<Finding>,
    /// Findings that do not fail a mount.
    pub warnings: Vec<Finding>,
    /// The number of errors and warnings left out, in a class with hundreds of them.
    pub omitted: usize,
    /// The files that the objects would produce; empty if the objects cannot be parsed.
    pub files: Vec<OutputFile>,
    /// The server settings that the class chose.
    pub choice: ServerChoice,
    /// The audience that the class requests, if any.
    pub audience: Option<String>,
}

impl ClassReview {
    /// Returns the class's choices as a request to the policy, for a pod in `namespace`.
    #[must_use]
    pub fn policy_request<'a>(&'a self, namespace: &'a str, default_audience: &'a str) -> PolicyRequest<'a> {
        let audience = self.audience.as_deref().unwrap_or(default_audience);
        PolicyRequest { choice: &self.choice, namespace, audience, default_audience }
    }
}

/// A file or directory that an object produces.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutputFile {
    /// The `objectName`.
    pub name: String,
    /// True for a directory with one file per key; `.` is the mount itself.
    pub is_directory: bool,
}

/// Checks a class's parameters by the rules of [`parse`].
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

/// Parses a decimal JSON number of at most 0o777. 0 is a valid permission.
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
