//! A SecretProviderClass: its shape, its parameters and objects, and what it wants copied into Secrets.

use std::collections::BTreeMap;

use super::{
    Severity,
    objects::ObjectsSource,
    secret_objects,
    source::{SourceFile, Span, display_name},
    typos,
};
use crate::{
    error::Cause,
    manifest::{metadata_text, not_a_string},
    policy::{Policy, PredictedDenial},
    request::{self, Finding, FindingLocation},
    text::closest_match,
    vault::SENSITIVE_URL_CHARS,
    yaml::node::{Node, Value},
};

/// The fields of `spec`.
const SPEC_FIELDS: [&str; 3] = ["provider", "parameters", "secretObjects"];

/// A class that was looked at, and what pods that use it need of it.
pub(super) struct ReviewedClass {
    pub(super) name: String,
    pub(super) namespace: String,
    pub(super) file: String,
    pub(super) line: usize,
    /// It is for `vault` or `openbao`.
    pub(super) is_our_provider: bool,
    /// Which of them.
    pub(super) provider: &'static str,
    pub(super) parameters: BTreeMap<String, String>,
    /// What is wrong with it on its own.
    pub(super) findings: Vec<Finding>,
    /// What the policy does not allow of it on its own.
    pub(super) denials: Vec<PredictedDenial>,
}

/// Parameters, or a pod's volumeAttributes, where they stand.
pub(super) struct ParameterMap<'a> {
    pub(super) values: BTreeMap<String, String>,
    entries: &'a [(Node, Node)],
    objects: Option<ObjectsSource<'a>>,
    /// What is said to be missing or wrong here was said before.
    non_strings: Vec<&'a str>,
}

/// Notes everything wrong with a class. One of another provider is not looked at; nothing if it names none.
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
    report_unknown_fields(spec, "spec.", &SPEC_FIELDS, source);
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
            format!("there are {} more mistakes; mend these first", review.omitted),
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

/// A mapping in another and its key; if it is missing, empty, or something else, that is noted, at `otherwise` if there is
/// no better place.
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
                Some(next) => (key, format!("is not there yet{next}")),
            },
            Value::Null => (key, format!("is empty; {fix}")),
            _ => (key, format!("is {}, not a mapping; {fix}", value.type_name())),
        },
        None => (fallback, format!("missing; {fix}")),
    };
    source.report_error(Cause::Manifest, anchor, format!("{prefix}{field}: {problem}"));
    None
}

/// All findings of a review, with how bad they are.
pub(super) fn with_severity(review: &request::ClassReview) -> impl Iterator<Item = (Severity, &Finding)> {
    let errors = review.errors.iter().map(|finding| (Severity::Error, finding));
    errors.chain(review.warnings.iter().map(|finding| (Severity::Warning, finding)))
}

/// Notes the fields of a mapping that nobody knows.
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

impl<'a> ParameterMap<'a> {
    /// Reads them and notes those that are no text.
    pub(super) fn new(node: &'a Node, prefix: &str, source: &mut SourceFile<'_>) -> Self {
        let mut parameters =
            Self { values: BTreeMap::new(), entries: node.entries(), objects: None, non_strings: Vec::new() };
        for (key, value) in parameters.entries {
            let Some(name) = key.as_text() else { continue };
            if name == request::token::TOKENS_ATTRIBUTE {
                source.redact_node(value);
                let problem = "tokens do not belong into a manifest; remove it, kubelet passes its own";
                source.report_error(Cause::TokenIdentity, key, format!("{prefix}{name}: {problem}"));
            }
            if let Some(mut why) = not_a_string(name, value) {
                why.push_str(source.template_hint(value).unwrap_or_default());
                let is_collection = matches!(value.value, Value::List(_) | Value::Map(_));
                source.report_error(
                    Cause::Manifest,
                    if is_collection { key } else { value },
                    format!("{prefix}{}: {why}", display_name(name)),
                );
                if is_collection {
                    source.redact_node(value);
                }
            }
            // What a number or word would be in quotes is looked at all the same.
            let text = match &value.value {
                Value::Text(text) => Some(text.as_str()),
                Value::Bool(_) | Value::Number => source.text.get(value.span.clone()),
                Value::Null | Value::List(_) | Value::Map(_) => None,
            };
            // An address that may hold a secret.
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

    /// Whether a finding is about something that is written here.
    pub(super) fn contains(&self, location: &FindingLocation) -> bool {
        match location {
            FindingLocation::DriverRequest(_) => false,
            FindingLocation::Parameters(names) => names.iter().any(|name| self.entry(name).is_some()),
            FindingLocation::ObjectsText(_) | FindingLocation::Object(..) => self.objects.is_some(),
        }
    }

    /// Notes a finding where it belongs, or else at `otherwise`.
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

    /// Notes what a policy does not allow where it was chosen, or else at `otherwise`.
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
        let condition = if *unless_operator_default { ", unless it is the operator's own" } else { "" };
        let fix = error.fix().map(|next| format!("; {next}")).unwrap_or_default();
        source.report(severity, error.cause(), span, format!("{subject}{}{condition}{fix}", error.summary()));
    }

    /// The last of some parameters that is there. The value of one that nobody knows may be anything, and is covered.
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
