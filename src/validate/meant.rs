//! Classes by almost the right name: a mistyped kind, API group or provider, which everybody else would skip in silence.

use super::source::Source;
use crate::{
    error::Cause,
    manifest::{CLASS_GROUP, is},
    text::{nearest, quoted},
    yaml::node::Node,
};

/// The kind of classes.
const CLASS: &str = "SecretProviderClass";

/// The driver's own record of what a pod mounts.
const STATUS: &str = "SecretProviderClassPodStatus";

/// The providers that are ours.
const PROVIDERS: [&str; 2] = ["vault", "openbao"];

/// Whether a resource is a class, or was surely meant to be; what makes it none is noted.
pub(super) fn is_class(resource: &Node, source: &mut Source<'_>) -> bool {
    if is(resource, CLASS_GROUP, CLASS) {
        return true;
    }
    let Some((kind_key, kind)) = resource.entry("kind") else { return false };
    let Some(named) = kind.text().filter(|named| is_near(named)) else { return false };
    let version = resource.get("apiVersion").filter(|version| !version.is_null());
    let text = version.and_then(Node::text).unwrap_or_default();
    let group = text.split_once('/').map(|(group, _)| group);
    let (node, what) = match version {
        Some(_) if group == Some(CLASS_GROUP) => {
            (kind, format!("kind: {} is none of {CLASS_GROUP}; did you mean {CLASS}?", quoted(named)))
        }
        _ if named != CLASS => return false,
        None => (
            resource.entry("apiVersion").map_or(kind_key, |(key, _)| key),
            format!("apiVersion: missing; write {CLASS_GROUP}/v1"),
        ),
        // Nobody can add a kind to the core group, which is that of a version alone.
        Some(version) if group.is_none_or(|group| nearest(group, [CLASS_GROUP]).is_some()) => {
            (version, format!("apiVersion: {} has no {CLASS}; write {CLASS_GROUP}/v1", quoted(text)))
        }
        Some(_) => return false,
    };
    source.wrong(Cause::Manifest, node, what);
    true
}

fn is_near(kind: &str) -> bool {
    nearest(kind, [CLASS, STATUS]) == Some(CLASS) && !kind.ends_with("List")
}

/// Whether a provider is one of ours, or was surely meant to be; that it is mistyped is noted. A number behind it is no
/// slip: it tells one provider of a cluster from another.
pub(super) fn is_ours(provider: &str, spec: &Node, source: &mut Source<'_>) -> bool {
    if PROVIDERS.contains(&provider) {
        return true;
    }
    let meant = nearest(provider, PROVIDERS).filter(|_| !provider.ends_with(|end: char| end.is_ascii_digit()));
    let (Some(meant), Some(node)) = (meant, spec.get("provider")) else { return false };
    source.wrong(Cause::Manifest, node, format!("spec.provider: is {}; did you mean {meant}?", quoted(provider)));
    true
}
