//! Checks of pods and workloads: their volumes of this driver, and attributes that override the class.

use std::collections::BTreeMap;

use super::{
    Severity,
    class::{ParameterMap, ReviewedClass, with_severity},
    source::{SourceFile, display_name},
};
use crate::{
    error::Cause,
    manifest::{is_kind, metadata_text},
    policy::Policy,
    request,
    text::quote,
    yaml::node::{Node, Value},
};

/// The name of the driver in a volume.
const DRIVER_NAME: &str = "secrets-store.csi.k8s.io";

/// Kinds that contain a pod: API group, kind, and the path to the spec of the pod.
const WORKLOAD_KINDS: [(&str, &str, &[&str]); 9] = [
    ("", "Pod", &["spec"]),
    ("", "PodTemplate", &["template", "spec"]),
    ("", "ReplicationController", &["spec", "template", "spec"]),
    ("apps", "Deployment", &["spec", "template", "spec"]),
    ("apps", "StatefulSet", &["spec", "template", "spec"]),
    ("apps", "DaemonSet", &["spec", "template", "spec"]),
    ("apps", "ReplicaSet", &["spec", "template", "spec"]),
    ("batch", "Job", &["spec", "template", "spec"]),
    ("batch", "CronJob", &["spec", "jobTemplate", "spec", "template", "spec"]),
];

/// A resource that contains a pod.
pub(super) struct Workload<'a> {
    /// Kind and name for messages, such as `Deployment "web"`.
    subject: String,
    namespace: &'a str,
    spec: Option<&'a Node>,
}

/// Returns the pod of a resource, if its kind contains one.
pub(super) fn find_workload(resource: &Node) -> Option<Workload<'_>> {
    let (_, kind, path_to_spec) = WORKLOAD_KINDS.iter().find(|(group, kind, _)| is_kind(resource, group, kind))?;
    let spec = path_to_spec.iter().try_fold(resource, |node, field| node.get(field));
    Some(Workload {
        subject: format!("{kind} {}", quote(metadata_text(resource, "name"))),
        namespace: metadata_text(resource, "namespace"),
        spec,
    })
}

/// Reports all findings of the volumes of this driver. Returns true if the pod has any.
pub(super) fn check_volumes(
    pod: &Workload<'_>,
    classes: &BTreeMap<(String, String), ReviewedClass>,
    policy: Option<&Policy>,
    source: &mut SourceFile<'_>,
) -> bool {
    let fields = pod.spec.map(Node::entries).unwrap_or_default();
    // The environment of a container may hold secrets, and may be on the same line as a volume.
    fields.iter().filter(|(key, _)| key.as_text() != Some("volumes")).for_each(|(_, value)| source.redact_node(value));
    let volumes = pod.spec.and_then(|spec| spec.get("volumes")).map(Node::items).unwrap_or_default();
    let mut uses_driver = false;
    for volume in volumes {
        let Some((key, csi)) = volume.entry("csi") else { continue };
        if csi.get("driver").and_then(Node::as_text) == Some(DRIVER_NAME) {
            uses_driver = true;
            let name = volume.get("name").and_then(Node::as_text).unwrap_or_default();
            let subject = format!("{}: volume {}: ", pod.subject, quote(name));
            check_volume(csi, key, &subject, pod.namespace, (classes, policy), source);
        }
    }
    uses_driver
}

fn check_volume(
    csi: &Node,
    key: &Node,
    subject: &str,
    namespace: &str,
    (classes, policy): (&BTreeMap<(String, String), ReviewedClass>, Option<&Policy>),
    source: &mut SourceFile<'_>,
) {
    if !csi.get("readOnly").is_some_and(|value| matches!(value.value, Value::Bool(true))) {
        let anchor = csi.get("readOnly").filter(|value| !value.is_null()).unwrap_or(key);
        source.report_error(
            Cause::Manifest,
            anchor,
            format!("{subject}readOnly: is not true; the driver rejects the volume"),
        );
    }
    let (key, attributes) = csi.entry("volumeAttributes").map_or((key, key), |(key, attributes)| (key, attributes));
    let prefix = format!("{subject}volumeAttributes.");
    let Some(class) = source.require_text((key, attributes), &prefix, "secretProviderClass", "name the class") else {
        return;
    };
    let reviewed = classes.get(&(namespace.to_owned(), class.to_owned()));
    if reviewed.is_some_and(|class| !class.is_our_provider) {
        return;
    }
    if reviewed.is_none()
        && let Some(similar) =
            classes.iter().find(|((of, name), other)| of == namespace && other.is_our_provider && is_typo(class, name))
    {
        let node = attributes.get("secretProviderClass").unwrap_or(key);
        let problem = format!("class {} is not among the files; did you mean {}?", quote(class), quote(&similar.0.1));
        source.report(
            Severity::Warning,
            Cause::Manifest,
            source.span(node),
            format!("{prefix}secretProviderClass: {problem}"),
        );
    }
    let attribute_map = ParameterMap::new(attributes, subject, source);
    let mut first_override = None;
    for (key, _) in attributes.entries() {
        let Some(name) = key.as_text().filter(|name| *name != "secretProviderClass") else { continue };
        // Without the class its provider is unknown, and another provider may know the parameter.
        if reviewed.is_none() && !request::is_parameter(name) {
            continue;
        }
        first_override = first_override.or(Some(key));
        let effect = if reviewed.is_some_and(|class| class.parameters.contains_key(name)) {
            "replaces that of"
        } else {
            "adds to"
        };
        let (name, class) = (display_name(name), quote(class));
        let message = format!("{subject}{name}: {effect} class {class} for this pod; move it to a separate class");
        source.report(Severity::Warning, Cause::PodOverride, source.span(key), message);
    }
    if let (Some(reviewed), Some(first)) = (reviewed, first_override) {
        check_merged(reviewed, policy, &attribute_map, subject, first, source);
    }
}

/// Returns true if two names differ by one typo. Names that differ only in digits (`web-1`, `web-2`) are not typos. Neither are
/// names that differ in two letters, which may be as distinct as `shop-db` and `shop-web`.
fn is_typo(name: &str, other: &str) -> bool {
    let letters = |name: &str| name.chars().filter(|c| !c.is_ascii_digit()).collect::<String>();
    let has_similar_length = name.len().abs_diff(other.len()) <= 1 && name.len() <= 256;
    has_similar_length && letters(name) != letters(other) && strsim::damerau_levenshtein(name, other) == 1
}

/// Reports findings and predicted denials that appear only when the attributes override the class.
fn check_merged(
    class: &ReviewedClass,
    policy: Option<&Policy>,
    attribute_map: &ParameterMap<'_>,
    subject: &str,
    first_override: &Node,
    source: &mut SourceFile<'_>,
) {
    let mut merged = class.parameters.clone();
    merged.extend(attribute_map.values.clone());
    let review = request::review_class(&merged);
    for (severity, finding) in with_severity(&review) {
        let is_from_class = class.findings.contains(finding) && !attribute_map.contains(&finding.location);
        if !is_from_class {
            attribute_map.report_finding(severity, finding, subject, first_override, source);
        }
    }
    if let Some(policy) = policy.filter(|_| review.errors.is_empty() && !class.namespace.is_empty()) {
        for denial in policy.preview(&review.policy_request(&class.namespace, class.provider)) {
            if !class.denials.contains(&denial) {
                attribute_map.report_denial(&denial, subject, first_override, source);
            }
        }
    }
}
