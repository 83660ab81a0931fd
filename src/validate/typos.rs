//! Typos: unknown fields, and a mistyped kind, API group or provider of a class, which the driver and other tools would skip
//! silently.

use super::source::{SourceFile, display_name};
use crate::{
    error::Cause,
    manifest::{CLASS_GROUP, is_kind},
    request,
    text::{closest_match, quote},
    yaml::node::Node,
};

/// The kind of a class.
const CLASS_KIND: &str = "SecretProviderClass";

/// The kind of the driver's record of the mounted classes of a pod.
const POD_STATUS_KIND: &str = "SecretProviderClassPodStatus";

/// The provider names that select this provider.
const OUR_PROVIDERS: [&str; 2] = ["vault", "openbao"];

/// Returns true if a resource is a class, or is one but for a typo. Reports the typo.
pub(super) fn is_class(resource: &Node, source: &mut SourceFile<'_>) -> bool {
    if is_kind(resource, CLASS_GROUP, CLASS_KIND) {
        return true;
    }
    let Some((kind_key, kind)) = resource.entry("kind") else { return false };
    let Some(kind_text) = kind.as_text().filter(|named| is_class_kind_typo(named)) else { return false };
    let version = resource.get("apiVersion").filter(|version| !version.is_null());
    let text = version.and_then(Node::as_text).unwrap_or_default();
    let group = text.split_once('/').map(|(group, _)| group);
    let (node, problem) = match version {
        Some(_) if group == Some(CLASS_GROUP) => {
            (kind, format!("kind: {} does not exist in {CLASS_GROUP}; did you mean {CLASS_KIND}?", quote(kind_text)))
        }
        _ if kind_text != CLASS_KIND => return false,
        None => (
            resource.entry("apiVersion").map_or(kind_key, |(key, _)| key),
            format!("apiVersion: missing; write {CLASS_GROUP}/v1"),
        ),
        // A version without a group names the core group, and custom resources cannot add a kind to that.
        Some(version) if group.is_none_or(|group| closest_match(group, [CLASS_GROUP]).is_some()) => {
            (version, format!("apiVersion: {} has no {CLASS_KIND}; write {CLASS_GROUP}/v1", quote(text)))
        }
        Some(_) => return false,
    };
    source.report_error(Cause::Manifest, node, problem);
    true
}

fn is_class_kind_typo(kind: &str) -> bool {
    closest_match(kind, [CLASS_KIND, POD_STATUS_KIND]) == Some(CLASS_KIND) && !kind.ends_with("List")
}

/// Returns true if a provider is one of [`OUR_PROVIDERS`], or is one but for a typo. Reports the typo. A number at the end is not
/// a typo: it distinguishes several providers of a cluster.
pub(super) fn is_our_provider(provider: &str, spec: &Node, source: &mut SourceFile<'_>) -> bool {
    if OUR_PROVIDERS.contains(&provider) {
        return true;
    }
    let suggestion =
        closest_match(provider, OUR_PROVIDERS).filter(|_| !provider.ends_with(|end: char| end.is_ascii_digit()));
    let (Some(suggestion), Some(node)) = (suggestion, spec.get("provider")) else { return false };
    let problem = format!("spec.provider: is {}; did you mean {suggestion}?", quote(provider));
    source.report_error(Cause::Manifest, node, problem);
    true
}

/// Reports the unknown fields of a mapping, and redacts their values.
pub(super) fn report_unknown_fields(node: &Node, prefix: &str, known: &[&str], source: &mut SourceFile<'_>) {
    for (key, value) in node.entries() {
        let Some(name) = key.as_text().filter(|name| !known.contains(name)) else { continue };
        source.redact_node(value);
        let fix = match closest_match(name, known.iter().copied()) {
            _ if prefix == "spec." && request::is_parameter(name) => "move it below spec.parameters".to_owned(),
            Some(suggestion) => format!("did you mean {suggestion}?"),
            None => "remove it".to_owned(),
        };
        source.report_error(
            Cause::UnknownName,
            key,
            format!("{prefix}{}: is unknown and ignored; {fix}", display_name(name)),
        );
    }
}
