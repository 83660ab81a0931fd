//! Checks of a SecretProviderClass: its structure, its parameters and objects, and its `secretObjects`.

use std::collections::BTreeMap;

use super::{
    Severity,
    objects::ObjectsSource,
    secret_objects,
    source::{SourceFile, display_name},
    span::Span,
    typos,
};
use crate::{
    error::Cause,
    manifest::{metadata_text, not_a_string},
    policy::{Policy, PredictedDenial},
    request::{self, Finding, FindingLocation},
    text::quote,
    vault::SENSITIVE_URL_CHARS,
    yaml::node::{Node, Value},
};

/// The fields of `spec`.
const SPEC_FIELDS: [&str; 3] = ["provider", "parameters", "secretObjects"];

/// A checked class, with the data that checks of its pods need.
pub(super) struct ReviewedClass {
    pub(super) name: String,
    pub(super) namespace: String,
    pub(super) file: String,
    pub(super) line: usize,
    /// True if the provider is `vault` or `openbao`, or a typo of one.
    pub(super) is_our_provider: bool,
    /// The provider: `vault` or `openbao`.
    pub(super) provider: &'static str,
    pub(super) parameters: BTreeMap<String, String>,
    /// The findings of the class without any pod.
    pub(super) findings: Vec<Finding>,
    /// The predicted denials of the class without any pod.
    pub(super) denials: Vec<PredictedDenial>,
}

/// The parameters of a class, or the `volumeAttributes` of a pod, with their positions.
pub(super) struct ParameterMap<'a> {
    pub(super) values: BTreeMap<String, String>,
    entries: &'a [(Node, Node)],
    objects: Option<ObjectsSource<'a>>,
    /// Parameters that are not text and have an error already. Findings about them alone are not reported again.
    non_strings: Vec<&'a str>,
}

/// Reports all findings of a class. A class of another provider is not checked. Returns nothing if the class has no spec or names
/// no provider.
pub(super) fn review_class(
    class: &Node,
    policy: Option<&Policy>,
    source: &mut SourceFile<'_>,
) -> Option<ReviewedClass> {
    let kind = class.entry("kind").map_or(class, |(_, kind)| kind);
    let (spec_key, spec) = require_mapping(class, kind, "", "spec", "write provider and parameters below it", source)?;
    let provider = source.require_text((spec_key, spec), "spec.", "provider", "write vault or openbao")?;
    let mut reviewed = ReviewedClass {
        name: metadata_text(class, "name").to_owned(),
        namespace: metadata_text(class, "namespace").to_owned(),
        file: source.name.to_owned(),
        line: kind.position.line,
        is_our_provider: typos::is_our_provider(provider, spec, source),
        provider: if provider == "openbao" { "openbao" } else { "vault" },
        parameters: BTreeMap::new(),
        findings: Vec::new(),
        denials: Vec::new(),
    };
    if !reviewed.is_our_provider {
        return Some(reviewed);
    }
    if metadata_text(class, "generateName").is_empty() {
        let (key, node) = class.entry("metadata").map_or((kind, kind), |(key, node)| (key, node));
        source.require_text((key, node), "metadata.", "name", "name the class");
    }
    typos::report_unknown_fields(spec, "spec.", &SPEC_FIELDS, source);
    let fix = "write roleName and objects below it";
    let Some((key, parameters)) = require_mapping(spec, spec_key, "spec.", "parameters", fix, source) else {
        source.redact_node(spec);
        return Some(reviewed);
    };
    let parameter_map = ParameterMap::new(parameters, "", source);
    let review = request::review_class(&parameter_map.values);
    for (severity, finding) in with_severity(&review) {
        parameter_map.report_finding(severity, finding, "", key, source);
    }
    if review.omitted > 0 {
        source.report_error(
            Cause::InvalidRequest,
            key,
            format!("there are {} more errors; fix these first", review.omitted),
        );
    }
    if let Some(list) = spec.get("secretObjects") {
        secret_objects::check_secret_objects(list, &review.files, source);
    }
    if let Some(policy) = policy.filter(|_| review.errors.is_empty() && !reviewed.namespace.is_empty()) {
        reviewed.denials = policy.preview(&review.policy_request(&reviewed.namespace, reviewed.provider));
        for denial in &reviewed.denials {
            parameter_map.report_denial(denial, "", key, source);
        }
    }
    reviewed.findings = with_severity(&review).map(|(_, finding)| finding.clone()).collect();
    reviewed.parameters = parameter_map.values;
    Some(reviewed)
}

/// Returns the key and value of a field that must be a mapping. If the field is missing, empty or of another type, reports an
/// error, at `fallback` if the field has no position.
fn require_mapping<'n>(
    node: &'n Node,
    fallback: &Node,
    prefix: &str,
    field: &str,
    fix: &str,
    source: &mut SourceFile<'_>,
) -> Option<(&'n Node, &'n Node)> {
    let (anchor, problem) = match node.entry(field) {
        Some((key, value)) => match value.value {
            Value::Map(_) => match source.template_hint(value) {
                None => return Some((key, value)),
                Some(hint) => (key, format!("is not rendered yet{hint}")),
            },
            Value::Null => (key, format!("is empty; {fix}")),
            _ => (key, format!("is {}, not a mapping; {fix}", value.type_name())),
        },
        None => (fallback, format!("missing; {fix}")),
    };
    source.report_error(Cause::Manifest, anchor, format!("{prefix}{field}: {problem}"));
    None
}

/// Returns all findings of a review with their severities.
pub(super) fn with_severity(review: &request::ClassReview) -> impl Iterator<Item = (Severity, &Finding)> {
    let errors = review.errors.iter().map(|finding| (Severity::Error, finding));
    errors.chain(review.warnings.iter().map(|finding| (Severity::Warning, finding)))
}

impl ReviewedClass {
    /// Reports a second manifest of this class, `class`. In another file that is only a warning, because overlays for several
    /// clusters may repeat a class.
    pub(super) fn report_duplicate(&self, class: &Node, source: &mut SourceFile<'_>) {
        let name = class.get("metadata").and_then(|metadata| metadata.get("name")).unwrap_or(class);
        let first_position = format!("{}:{}", self.file, self.line);
        let namespace = match self.namespace.as_str() {
            "" => String::new(),
            namespace => format!(" in namespace {}", quote(namespace)),
        };
        let (severity, fix) = if self.file == source.name {
            (Severity::Error, "remove one")
        } else {
            (Severity::Warning, "remove one if both are for the same cluster")
        };
        let message = format!("class {}{namespace} is also at {first_position}; {fix}", quote(&self.name));
        source.report(severity, Cause::Manifest, source.span(name), message);
    }
}

impl<'a> ParameterMap<'a> {
    /// Reads parameters from a mapping. Reports those that are not text.
    pub(super) fn new(node: &'a Node, prefix: &str, source: &mut SourceFile<'_>) -> Self {
        let mut parameters =
            Self { values: BTreeMap::new(), entries: node.entries(), objects: None, non_strings: Vec::new() };
        for (key, value) in parameters.entries {
            let Some(name) = key.as_text() else { continue };
            if name == request::token::TOKENS_ATTRIBUTE {
                source.redact_node(value);
                let problem = "tokens do not belong in a manifest; remove it, kubelet passes its own";
                source.report_error(Cause::TokenIdentity, key, format!("{prefix}{name}: {problem}"));
            }
            if let Some(mut problem) = not_a_string(name, value) {
                problem.push_str(source.template_hint(value).unwrap_or_default());
                let is_collection = matches!(value.value, Value::List(_) | Value::Map(_));
                source.report_error(
                    Cause::Manifest,
                    if is_collection { key } else { value },
                    format!("{prefix}{}: {problem}", display_name(name)),
                );
                if is_collection {
                    source.redact_node(value);
                }
            }
            // A number or boolean is checked as the text that it would be in quotes.
            let text = match &value.value {
                Value::Text(text) => Some(text.as_str()),
                Value::Bool(_) | Value::Number => source.text.get(value.span.clone()),
                Value::Null | Value::List(_) | Value::Map(_) => None,
            };
            // Such an address may hold a secret, such as a password in it.
            if name != "objects"
                && text.is_some_and(|text| {
                    text.contains(SENSITIVE_URL_CHARS) && (text.contains("://") || name.ends_with("Address"))
                })
            {
                source.redact_node(value);
            }
            match text {
                Some(text) => drop(parameters.values.insert(name.to_owned(), text.to_owned())),
                None if value.is_null() => {}
                None => parameters.non_strings.push(name),
            }
        }
        parameters.objects = node.get("objects").and_then(|value| ObjectsSource::new(value, source));
        if let Some(objects) = &parameters.objects {
            objects.redact_arguments(source);
        }
        parameters
    }

    /// Returns true if a finding concerns a parameter in this map.
    pub(super) fn contains(&self, location: &FindingLocation) -> bool {
        match location {
            FindingLocation::DriverRequest(_) => false,
            FindingLocation::Parameters(names) => names.iter().any(|name| self.entry(name).is_some()),
            FindingLocation::ObjectsText(_) | FindingLocation::Object(..) => self.objects.is_some(),
        }
    }

    /// Reports a finding at its parameter or object, or else at `fallback`.
    pub(super) fn report_finding(
        &self,
        severity: Severity,
        finding: &Finding,
        subject: &str,
        fallback: &Node,
        source: &mut SourceFile<'_>,
    ) {
        let (location, mut message) = (&finding.location, finding.message());
        let is_unknown = finding.cause == Cause::UnknownName;
        let span = match (location, &self.objects) {
            (FindingLocation::Parameters(names), _) => {
                if names.iter().all(|name| self.non_strings.contains(&name.as_str())) {
                    return;
                }
                self.parameter_span(names, is_unknown, source)
            }
            (FindingLocation::ObjectsText(_) | FindingLocation::Object(..), Some(objects)) => {
                if !objects.is_literal() {
                    message = finding.message_with_position();
                }
                Some(objects.span(location, is_unknown, source))
            }
            _ => None,
        };
        let span = span.unwrap_or_else(|| source.span(fallback));
        if finding.cause == Cause::ObjectsYaml {
            message.push_str(source.line_template_hint(span).unwrap_or_default());
        }
        source.report(severity, finding.cause, span, format!("{subject}{message}"));
    }

    /// Reports a predicted denial at the parameter that causes it, or else at `fallback`.
    pub(super) fn report_denial(
        &self,
        predicted: &PredictedDenial,
        subject: &str,
        fallback: &Node,
        source: &mut SourceFile<'_>,
    ) {
        let PredictedDenial { denial, unless_operator_default } = predicted;
        let names = denial.rule.parameters();
        let chosen = self
            .entries
            .iter()
            .find(|(key, _)| key.as_text().is_some_and(|name| names.iter().any(|end| name.ends_with(end))));
        let span = source.span(chosen.map_or(fallback, |(_, value)| value));
        let (error, severity) =
            (&denial.error, if *unless_operator_default { Severity::Warning } else { Severity::Error });
        let condition = if *unless_operator_default { ", unless it equals the operator's default" } else { "" };
        let fix = error.fix().map(|fix| format!("; {fix}")).unwrap_or_default();
        source.report(severity, error.cause(), span, format!("{subject}{}{condition}{fix}", error.summary()));
    }

    /// Returns the span of the last of the `names` that is set. The value of an unknown parameter may be a secret, so it is
    /// redacted.
    fn parameter_span(&self, names: &[String], is_unknown: bool, source: &mut SourceFile<'_>) -> Option<Span> {
        let (key, value) = names.iter().rev().find_map(|name| self.entry(name))?;
        if is_unknown {
            source.redact_node(value);
        }
        Some(source.span(if is_unknown || value.is_null() { key } else { value }))
    }

    fn entry(&self, name: &str) -> Option<&'a (Node, Node)> {
        self.entries.iter().find(|(key, _)| key.as_text() == Some(name))
    }
}
