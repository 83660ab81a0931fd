//! A SecretProviderClass: its shape, its parameters and objects, and what it wants copied into Secrets.

use std::collections::BTreeMap;

use super::{
    Severity, meant,
    objects::Objects,
    secret_objects,
    source::{Source, Spot, shown},
};
use crate::{
    error::Cause,
    manifest::{metadata, no_text},
    policy::{Foreseen, Policy},
    request::{self, Finding, Place},
    text::nearest,
    vault::SENSITIVE_URL_CHARS,
    yaml::node::{Node, Value},
};

/// The fields of `spec`.
const FIELDS: [&str; 3] = ["provider", "parameters", "secretObjects"];

/// A class that was looked at, and what pods that use it need of it.
pub(super) struct Reviewed {
    pub(super) name: String,
    pub(super) namespace: String,
    pub(super) file: String,
    pub(super) line: usize,
    /// It is for `vault` or `openbao`.
    pub(super) ours: bool,
    /// Which of them.
    pub(super) provider: &'static str,
    pub(super) parameters: BTreeMap<String, String>,
    /// What is wrong with it on its own.
    pub(super) found: Vec<Finding>,
    /// What the policy does not allow of it on its own.
    pub(super) refused: Vec<Foreseen>,
}

/// Parameters, or a pod's volumeAttributes, where they stand.
pub(super) struct Written<'a> {
    pub(super) values: BTreeMap<String, String>,
    entries: &'a [(Node, Node)],
    objects: Option<Objects<'a>>,
    /// What is said to be missing or wrong here was said before.
    no_text: Vec<&'a str>,
}

/// Notes everything wrong with a class. One of another provider is not looked at; nothing if it names none.
pub(super) fn review(class: &Node, policy: Option<&Policy>, source: &mut Source<'_>) -> Option<Reviewed> {
    let kind = class.entry("kind").map_or(class, |(_, kind)| kind);
    let (spec_key, spec) = mapping(class, kind, "", "spec", "write provider and parameters below it", source)?;
    let provider = source.required((spec_key, spec), "spec.", "provider", "write vault or openbao")?;
    let mut reviewed = Reviewed {
        name: metadata(class, "name").to_owned(),
        namespace: metadata(class, "namespace").to_owned(),
        file: source.name.to_owned(),
        line: kind.at.line,
        ours: meant::is_ours(provider, spec, source),
        provider: if provider == "openbao" { "openbao" } else { "vault" },
        parameters: BTreeMap::new(),
        found: Vec::new(),
        refused: Vec::new(),
    };
    if !reviewed.ours {
        return Some(reviewed);
    }
    if metadata(class, "generateName").is_empty() {
        let (key, node) = class.entry("metadata").map_or((kind, kind), |(key, node)| (key, node));
        source.required((key, node), "metadata.", "name", "name the class");
    }
    unknown_fields(spec, "spec.", &FIELDS, source);
    let next = "write roleName and objects below it";
    let Some((key, parameters)) = mapping(spec, spec_key, "spec.", "parameters", next, source) else {
        source.hide_node(spec);
        return Some(reviewed);
    };
    let written = Written::new(parameters, "", source);
    let review = request::review(&written.values);
    for (severity, finding) in both(&review) {
        written.report(severity, finding, "", key, source);
    }
    if review.more > 0 {
        source.wrong(Cause::InvalidRequest, key, format!("there are {} more mistakes; mend these first", review.more));
    }
    if let Some(list) = spec.get("secretObjects") {
        secret_objects::check(list, &review.files, source);
    }
    if let Some(policy) = policy.filter(|_| review.mistakes.is_empty() && !reviewed.namespace.is_empty()) {
        reviewed.refused = policy.review(&review.ask(&reviewed.namespace, reviewed.provider));
        for foreseen in &reviewed.refused {
            written.refused(foreseen, "", key, source);
        }
    }
    reviewed.found = both(&review).map(|(_, finding)| finding.clone()).collect();
    reviewed.parameters = written.values;
    Some(reviewed)
}

/// A mapping in another and its key; if it is missing, empty, or something else, that is noted, at `otherwise` if there is
/// no better place.
fn mapping<'n>(
    node: &'n Node,
    otherwise: &Node,
    place: &str,
    field: &str,
    next: &str,
    source: &mut Source<'_>,
) -> Option<(&'n Node, &'n Node)> {
    let (at, what) = match node.entry(field) {
        Some((key, value)) => match value.value {
            Value::Map(_) => match source.rendered(value) {
                None => return Some((key, value)),
                Some(next) => (key, format!("is not there yet{next}")),
            },
            Value::Null => (key, format!("is empty; {next}")),
            _ => (key, format!("is {}, not a mapping; {next}", value.kind())),
        },
        None => (otherwise, format!("missing; {next}")),
    };
    source.wrong(Cause::Manifest, at, format!("{place}{field}: {what}"));
    None
}

/// All findings of a review, with how bad they are.
pub(super) fn both(review: &request::Review) -> impl Iterator<Item = (Severity, &Finding)> {
    let mistakes = review.mistakes.iter().map(|finding| (Severity::Error, finding));
    mistakes.chain(review.warnings.iter().map(|finding| (Severity::Warning, finding)))
}

/// Notes the fields of a mapping that nobody knows.
pub(super) fn unknown_fields(node: &Node, place: &str, known: &[&str], source: &mut Source<'_>) {
    for (key, value) in node.entries() {
        let Some(name) = key.text().filter(|name| !known.contains(name)) else { continue };
        source.hide_node(value);
        let next = match nearest(name, known.iter().copied()) {
            _ if place == "spec." && request::is_parameter(name) => "move it below spec.parameters".to_owned(),
            Some(meant) => format!("did you mean {meant}?"),
            None => "remove it".to_owned(),
        };
        source.wrong(Cause::UnknownName, key, format!("{place}{}: is unknown and ignored; {next}", shown(name)));
    }
}

impl<'a> Written<'a> {
    /// Reads them and notes those that are no text.
    pub(super) fn new(node: &'a Node, place: &str, source: &mut Source<'_>) -> Self {
        let mut written = Self { values: BTreeMap::new(), entries: node.entries(), objects: None, no_text: Vec::new() };
        for (key, value) in written.entries {
            let Some(name) = key.text() else { continue };
            if name == request::token::NAME {
                source.hide_node(value);
                let what = "tokens do not belong into a manifest; remove it, kubelet passes its own";
                source.wrong(Cause::TokenIdentity, key, format!("{place}{name}: {what}"));
            }
            if let Some(mut why) = no_text(name, value) {
                why.push_str(source.rendered(value).unwrap_or_default());
                let whole = matches!(value.value, Value::List(_) | Value::Map(_));
                source.wrong(
                    Cause::Manifest,
                    if whole { key } else { value },
                    format!("{place}{}: {why}", shown(name)),
                );
                if whole {
                    source.hide_node(value);
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
                source.hide_node(value);
            }
            match text {
                Some(text) => drop(written.values.insert(name.to_owned(), text.to_owned())),
                None if value.is_null() => {}
                None => written.no_text.push(name),
            }
        }
        written.objects = node.get("objects").and_then(|value| Objects::new(value, source));
        if let Some(objects) = &written.objects {
            objects.hide_arguments(source);
        }
        written
    }

    /// Whether a finding is about something that is written here.
    pub(super) fn holds(&self, place: &Place) -> bool {
        match place {
            Place::Request(_) => false,
            Place::Parameters(names) => names.iter().any(|name| self.entry(name).is_some()),
            Place::Text(_) | Place::Object(..) => self.objects.is_some(),
        }
    }

    /// Notes a finding where it belongs, or else at `otherwise`.
    pub(super) fn report(
        &self,
        severity: Severity,
        finding: &Finding,
        subject: &str,
        otherwise: &Node,
        source: &mut Source<'_>,
    ) {
        let (place, mut message) = (&finding.place, finding.message());
        let unknown = finding.cause == Cause::UnknownName;
        let spot = match (place, &self.objects) {
            (Place::Parameters(names), _) => {
                if names.iter().all(|name| self.no_text.contains(&name.as_str())) {
                    return;
                }
                self.parameter(names, unknown, source)
            }
            (Place::Text(_) | Place::Object(..), Some(objects)) => {
                if !objects.is_literal() {
                    message = finding.told();
                }
                Some(objects.spot(place, unknown, source))
            }
            _ => None,
        };
        let spot = spot.unwrap_or_else(|| source.spot(otherwise));
        if finding.cause == Cause::ObjectsYaml {
            message.push_str(source.templated(spot).unwrap_or_default());
        }
        source.say(severity, finding.cause, spot, format!("{subject}{message}"));
    }

    /// Notes what a policy does not allow where it was chosen, or else at `otherwise`.
    pub(super) fn refused(&self, foreseen: &Foreseen, subject: &str, otherwise: &Node, source: &mut Source<'_>) {
        let Foreseen { refusal, unless_own } = foreseen;
        let names = refusal.rule.parameters();
        let chosen = self
            .entries
            .iter()
            .find(|(key, _)| key.text().is_some_and(|name| names.iter().any(|end| name.ends_with(end))));
        let spot = source.spot(chosen.map_or(otherwise, |(_, value)| value));
        let (error, severity) = (&refusal.error, if *unless_own { Severity::Warning } else { Severity::Error });
        let unless = if *unless_own { ", unless it is the operator's own" } else { "" };
        let next = error.next_step().map(|next| format!("; {next}")).unwrap_or_default();
        source.say(severity, error.cause(), spot, format!("{subject}{}{unless}{next}", error.what()));
    }

    /// The last of some parameters that is there. The value of one that nobody knows may be anything, and is covered.
    fn parameter(&self, names: &[String], unknown: bool, source: &mut Source<'_>) -> Option<Spot> {
        let (key, value) = names.iter().rev().find_map(|name| self.entry(name))?;
        if unknown {
            source.hide_node(value);
        }
        Some(source.spot(if unknown || value.is_null() { key } else { value }))
    }

    fn entry(&self, name: &str) -> Option<&'a (Node, Node)> {
        self.entries.iter().find(|(key, _)| key.text() == Some(name))
    }
}
