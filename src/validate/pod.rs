//! Pods, and what makes pods: their volumes of this driver, and where they change the class.

use std::collections::BTreeMap;

use super::{
    Severity,
    class::{Reviewed, Written, both},
    source::{Source, shown},
};
use crate::{
    error::Cause,
    manifest::{is, metadata},
    policy::Policy,
    request,
    text::quoted,
    yaml::node::{Node, Value},
};

/// The driver's name in a volume.
const DRIVER: &str = "secrets-store.csi.k8s.io";

/// Kinds with pods in them: API group, kind, and the way to the pod's spec.
const KINDS: [(&str, &str, &[&str]); 9] = [
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

/// A resource with a pod in it.
pub(super) struct Pod<'a> {
    /// `Deployment "web"`.
    subject: String,
    namespace: &'a str,
    spec: Option<&'a Node>,
}

/// The pod in a resource, if it is of a kind that has one.
pub(super) fn of(resource: &Node) -> Option<Pod<'_>> {
    let (_, kind, way) = KINDS.iter().find(|(group, kind, _)| is(resource, group, kind))?;
    let spec = way.iter().try_fold(resource, |node, field| node.get(field));
    Some(Pod {
        subject: format!("{kind} {}", quoted(metadata(resource, "name"))),
        namespace: metadata(resource, "namespace"),
        spec,
    })
}

/// Notes everything wrong with the volumes of this driver; whether there were any.
pub(super) fn check(
    pod: &Pod<'_>,
    classes: &BTreeMap<(String, String), Reviewed>,
    policy: Option<&Policy>,
    source: &mut Source<'_>,
) -> bool {
    let fields = pod.spec.map(Node::entries).unwrap_or_default();
    // A container's environment may be anything, and on one line with a volume.
    fields.iter().filter(|(key, _)| key.text() != Some("volumes")).for_each(|(_, value)| source.hide_node(value));
    let volumes = pod.spec.and_then(|spec| spec.get("volumes")).map(Node::items).unwrap_or_default();
    let mut any = false;
    for volume in volumes {
        let Some((key, csi)) = volume.entry("csi") else { continue };
        if csi.get("driver").and_then(Node::text) == Some(DRIVER) {
            any = true;
            let name = volume.get("name").and_then(Node::text).unwrap_or_default();
            let subject = format!("{}: volume {}: ", pod.subject, quoted(name));
            check_volume(csi, key, &subject, pod.namespace, (classes, policy), source);
        }
    }
    any
}

fn check_volume(
    csi: &Node,
    key: &Node,
    subject: &str,
    namespace: &str,
    (classes, policy): (&BTreeMap<(String, String), Reviewed>, Option<&Policy>),
    source: &mut Source<'_>,
) {
    if !csi.get("readOnly").is_some_and(|value| matches!(value.value, Value::Bool(true))) {
        let at = csi.get("readOnly").filter(|value| !value.is_null()).unwrap_or(key);
        source.wrong(Cause::Manifest, at, format!("{subject}readOnly: is not true; the driver refuses the volume"));
    }
    let (key, attributes) = csi.entry("volumeAttributes").map_or((key, key), |(key, attributes)| (key, attributes));
    let place = format!("{subject}volumeAttributes.");
    let Some(class) = source.required((key, attributes), &place, "secretProviderClass", "name the class") else {
        return;
    };
    let known = classes.get(&(namespace.to_owned(), class.to_owned()));
    if known.is_some_and(|class| !class.ours) {
        return;
    }
    if known.is_none()
        && let Some(meant) =
            classes.iter().find(|((of, name), meant)| of == namespace && meant.ours && is_slip(class, name))
    {
        let node = attributes.get("secretProviderClass").unwrap_or(key);
        let what = format!("class {} is not among the files; did you mean {}?", quoted(class), quoted(&meant.0.1));
        source.say(
            Severity::Warning,
            Cause::Manifest,
            source.spot(node),
            format!("{place}secretProviderClass: {what}"),
        );
    }
    let written = Written::new(attributes, subject, source);
    let mut first = None;
    for (key, _) in attributes.entries() {
        let Some(name) = key.text().filter(|name| *name != "secretProviderClass") else { continue };
        // Without the class nobody knows whose provider it is for.
        if known.is_none() && !request::is_parameter(name) {
            continue;
        }
        first = first.or(Some(key));
        let does =
            if known.is_some_and(|class| class.parameters.contains_key(name)) { "replaces that of" } else { "adds to" };
        let (name, class) = (shown(name), quoted(class));
        let message = format!("{subject}{name}: {does} class {class} for this pod; move it to a class of its own");
        source.say(Severity::Warning, Cause::PodOverride, source.spot(key), message);
    }
    if let (Some(known), Some(first)) = (known, first) {
        check_merged(known, policy, &written, subject, first, source);
    }
}

/// Whether one name is the other but for one slip. Names of numbers (`web-1`, `web-2`) are no slips, and two letters may well
/// tell `shop-db` from `shop-web`.
fn is_slip(name: &str, other: &str) -> bool {
    let letters = |name: &str| name.chars().filter(|c| !c.is_ascii_digit()).collect::<String>();
    let alike = name.len().abs_diff(other.len()) <= 1 && name.len() <= 256;
    alike && letters(name) != letters(other) && strsim::damerau_levenshtein(name, other) == 1
}

/// Notes what is wrong only since the attributes lie over the class.
fn check_merged(
    class: &Reviewed,
    policy: Option<&Policy>,
    written: &Written<'_>,
    subject: &str,
    first: &Node,
    source: &mut Source<'_>,
) {
    let mut merged = class.parameters.clone();
    merged.extend(written.values.clone());
    let review = request::review(&merged);
    for (severity, finding) in both(&review) {
        let of_the_class = class.found.contains(finding) && !written.holds(&finding.place);
        if !of_the_class {
            written.report(severity, finding, subject, first, source);
        }
    }
    if let Some(policy) = policy.filter(|_| review.mistakes.is_empty() && !class.namespace.is_empty()) {
        for foreseen in policy.review(&review.ask(&class.namespace, class.provider)) {
            if !class.refused.contains(&foreseen) {
                written.refused(&foreseen, subject, first, source);
            }
        }
    }
}
