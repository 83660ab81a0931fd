//! Classes by almost the right name: a mistyped kind, API group or provider, which everybody else would skip in silence.

use super::source::SourceFile;
use crate::{
    error::Cause,
    manifest::{CLASS_GROUP, is_kind},
    text::{closest_match, quote},
    yaml::node::Node,
};

/// The kind of classes.
const CLASS_KIND: &str = "SecretProviderClass";

/// The driver's own record of what a pod mounts.
const POD_STATUS_KIND: &str = "SecretProviderClassPodStatus";

/// The providers that are ours.
const OUR_PROVIDERS: [&str; 2] = ["vault", "openbao"];

/// Whether a resource is a class, or was surely meant to be; what makes it none is noted.
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
            (kind, format!("kind: {} is none of {CLASS_GROUP}; did you mean {CLASS_KIND}?", quote(kind_text)))
        }
        _ if kind_text != CLASS_KIND => return false,
        None => (
            resource.entry("apiVersion").map_or(kind_key, |(key, _)| key),
            format!("apiVersion: missing; write {CLASS_GROUP}/v1"),
        ),
        // Nobody can add a kind to the core group, which is that of a version alone.
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

/// Whether a provider is one of ours, or was surely meant to be; that it is mistyped is noted. A number behind it is no
/// slip: it tells one provider of a cluster from another.
pub(super) fn is_our_provider(provider: &str, spec: &Node, source: &mut SourceFile<'_>) -> bool {
    if OUR_PROVIDERS.contains(&provider) {
        return true;
    }
    let suggestion =
        closest_match(provider, OUR_PROVIDERS).filter(|_| !provider.ends_with(|end: char| end.is_ascii_digit()));
    let (Some(meant), Some(node)) = (suggestion, spec.get("provider")) else { return false };
    source.report_error(Cause::Manifest, node, format!("spec.provider: is {}; did you mean {meant}?", quote(provider)));
    true
}
