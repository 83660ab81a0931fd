//! Checks of the provider's policy file: as a separate file, among manifests, or in a `ConfigMap`.

use super::{Severity, source::SourceFile, span::Span};
use crate::{
    error::Cause,
    manifest::{Document, is_kind},
    policy::{self, Policy, PolicyError},
    vault::SENSITIVE_URL_CHARS,
    yaml::{
        Budget, Position,
        node::{self, Node, Offset, Value},
    },
};

/// Reports all findings of a policy file. Returns the policy if it is valid.
pub(super) fn policy_of_file(documents: &[Document<'_>], source: &mut SourceFile<'_>) -> Option<Policy> {
    let [document] = documents else {
        let problem =
            if documents.is_empty() { "is empty" } else { "holds more than one document; remove the line `---`" };
        let span = Span { start: Position { line: 1, column: 1 }, end_column: 2 };
        source.report(Severity::Error, Cause::Manifest, span, format!("the policy file {problem}"));
        return None;
    };
    match &document.node {
        Ok(node) => review_policy(node, source),
        Err(fault) => {
            source.report_parse_error(fault, document);
            None
        }
    }
}

/// Returns true if a resource is a policy, or a `ConfigMap` that holds at least one.
pub(super) fn contains_policy(resource: &Node) -> bool {
    policy::is_policy(resource) || embedded_policies(resource).next().is_some()
}

/// Reports all findings of the policies of a resource. Returns the policy if the resource is a valid one.
pub(super) fn review_policy(resource: &Node, source: &mut SourceFile<'_>) -> Option<Policy> {
    if is_kind(resource, "", "ConfigMap") {
        for (key, value, text) in embedded_policies(resource) {
            let parsed = node::parse(text, Offset::default(), Budget::POLICY);
            let prefix = |at: Position| format!("{}: line {}: ", key.as_text().unwrap_or_default(), at.line);
            match parsed {
                Err(fault) => {
                    let prefix = fault.position.map(prefix).unwrap_or_default();
                    source.report_error(Cause::Manifest, key, format!("{prefix}is not valid YAML: {}", fault.problem));
                }
                Ok(policy) => {
                    for PolicyError { position, problem, .. } in policy::parse(&policy, source.name, false).1 {
                        source.report_error(Cause::Manifest, key, prefix(position) + &problem);
                    }
                }
            }
            source.redact_node(value);
        }
        return None;
    }
    redact_addresses(resource, source);
    let (policy, errors) = policy::parse(resource, source.name, false);
    for PolicyError { position, span, problem } in &errors {
        let first_line = source.first_line_span(*position, span.clone());
        source.report(Severity::Error, Cause::Manifest, first_line, problem.clone());
    }
    errors.is_empty().then_some(policy)
}

/// Returns the entries of a `ConfigMap` that are policy files: key, value and text of the value.
fn embedded_policies(resource: &Node) -> impl Iterator<Item = (&Node, &Node, &str)> {
    let data =
        resource.get("data").filter(|_| is_kind(resource, "", "ConfigMap")).map(Node::entries).unwrap_or_default();
    let texts = data.iter().filter_map(|(key, value)| Some((key, value, value.as_text()?)));
    texts.filter(|(_, _, text)| policy::is_policy_text(text))
}

/// Redacts addresses that may hold a secret.
fn redact_addresses(node: &Node, source: &mut SourceFile<'_>) {
    match &node.value {
        Value::Text(text) if text.contains(SENSITIVE_URL_CHARS) => source.redact_node(node),
        Value::List(items) => items.iter().for_each(|item| redact_addresses(item, source)),
        Value::Map(entries) => entries.iter().for_each(|(_, value)| redact_addresses(value, source)),
        Value::Text(_) | Value::Null | Value::Bool(_) | Value::Number => {}
    }
}
