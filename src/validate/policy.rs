//! The provider's policy file: on its own, among manifests, or in a `ConfigMap`.

use super::{
    Severity,
    source::{Source, Spot},
};
use crate::{
    error::Cause,
    manifest::{Document, is},
    policy::{self, Mistake, Policy},
    vault::SENSITIVE_URL_CHARS,
    yaml::{
        At, Budget,
        node::{self, Node, Offset, Value},
    },
};

/// The policy of a file that is meant to be one, if all of it is right.
pub(super) fn of_file(documents: &[Document<'_>], source: &mut Source<'_>) -> Option<Policy> {
    let [document] = documents else {
        let what =
            if documents.is_empty() { "is empty" } else { "holds more than one document; remove the line `---`" };
        let spot = Spot { at: At { line: 1, column: 1 }, end: 2 };
        source.say(Severity::Error, Cause::Manifest, spot, format!("the policy file {what}"));
        return None;
    };
    match &document.node {
        Ok(node) => review(node, source),
        Err(fault) => {
            source.broken(fault, document);
            None
        }
    }
}

/// Whether a resource is a policy, or a `ConfigMap` that holds some.
pub(super) fn is_in(resource: &Node) -> bool {
    policy::is_policy(resource) || held(resource).next().is_some()
}

/// Notes everything wrong with the policies of a resource; the policy, if it is one and all of it is right.
pub(super) fn review(resource: &Node, source: &mut Source<'_>) -> Option<Policy> {
    if is(resource, "", "ConfigMap") {
        for (key, value, text) in held(resource) {
            let inside = node::read(text, Offset::default(), Budget::POLICY);
            let place = |at: At| format!("{}: line {}: ", key.text().unwrap_or_default(), at.line);
            match inside {
                Err(fault) => {
                    let place = fault.at.map(place).unwrap_or_default();
                    source.wrong(Cause::Manifest, key, format!("{place}is no valid YAML: {}", fault.what));
                }
                Ok(inside) => {
                    for Mistake { at, what, .. } in policy::parse(&inside, source.name, false).1 {
                        source.wrong(Cause::Manifest, key, place(at) + &what);
                    }
                }
            }
            source.hide_node(value);
        }
        return None;
    }
    hide_passwords(resource, source);
    let (policy, mistakes) = policy::parse(resource, source.name, false);
    for Mistake { at, span, what } in &mistakes {
        let spot = source.spot_of(*at, span.clone());
        source.say(Severity::Error, Cause::Manifest, spot, what.clone());
    }
    mistakes.is_empty().then_some(policy)
}

/// The entries of a `ConfigMap` that are meant to be policy files: key, value and its text.
fn held(resource: &Node) -> impl Iterator<Item = (&Node, &Node, &str)> {
    let data = resource.get("data").filter(|_| is(resource, "", "ConfigMap")).map(Node::entries).unwrap_or_default();
    let texts = data.iter().filter_map(|(key, value)| Some((key, value, value.text()?)));
    texts.filter(|(_, _, text)| policy::is_policy_text(text))
}

/// Addresses that may hold a secret.
fn hide_passwords(node: &Node, source: &mut Source<'_>) {
    match &node.value {
        Value::Text(text) if text.contains(SENSITIVE_URL_CHARS) => source.hide_node(node),
        Value::List(items) => items.iter().for_each(|item| hide_passwords(item, source)),
        Value::Map(entries) => entries.iter().for_each(|(_, value)| hide_passwords(value, source)),
        Value::Text(_) | Value::Null | Value::Bool(_) | Value::Number => {}
    }
}
