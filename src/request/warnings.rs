//! Warnings that do not fail a mount, such as unknown names and names that this version does not support yet.

use super::{
    attributes::Attributes,
    findings::{BoundedList, Finding, FindingLocation, MAX_LISTED_FINDINGS, join_truncated},
    known_names::{UNSUPPORTED_PARAMETERS, candidates, find_alias, is_parameter},
};
use crate::{
    error::Cause,
    text::{closest_match, quote},
};

/// Warnings, with unknown names kept separately.
#[derive(Default)]
pub(super) struct Warnings {
    others: BoundedList<Finding>,
    unknown: BoundedList<UnrecognizedName>,
}

/// An unknown name and its suggestion, if any.
struct UnrecognizedName {
    location: FindingLocation,
    suggestion: Option<String>,
}

impl Warnings {
    /// Adds a warning of cause [`Cause::InvalidRequest`].
    pub(super) fn add(&mut self, location: impl Into<FindingLocation>, problem: String) {
        self.add_with_cause(Cause::InvalidRequest, location, problem);
    }

    fn add_with_cause(&mut self, cause: Cause, location: impl Into<FindingLocation>, problem: String) {
        self.others.push_with(|| Finding { cause, location: location.into(), problem });
    }

    /// Adds a warning about a name that is not supported yet. `value` is set if only that value of the name is
    /// unsupported.
    pub(super) fn add_unsupported(&mut self, location: impl Into<FindingLocation>, value: &str) {
        let value = if value.is_empty() { String::new() } else { format!("{} ", quote(value)) };
        self.add_with_cause(
            Cause::UnknownName,
            location,
            format!("{value}is not supported yet by this version and is ignored"),
        );
    }

    /// Adds an unknown name, with a suggestion from `known`.
    pub(super) fn add_unknown<'a>(
        &mut self,
        location: impl Into<FindingLocation>,
        name: &str,
        known: impl IntoIterator<Item = &'a str>,
    ) {
        self.unknown.push_with(|| {
            let known: Vec<&str> = known.into_iter().collect();
            let suggestion = find_alias(name, &known).or_else(|| closest_match(name, known.iter().copied()));
            UnrecognizedName { location: location.into(), suggestion: suggestion.map(str::to_owned) }
        });
    }

    /// Checks the names of all attributes.
    pub(super) fn check_parameter_names(&mut self, attributes: &Attributes) {
        for name in attributes.names().filter(|name| !is_parameter(name)) {
            if UNSUPPORTED_PARAMETERS.contains(&name) {
                self.add_unsupported(name, "");
            } else {
                let known = candidates(name);
                self.add_unknown(name, name, known.iter().map(String::as_str));
            }
        }
    }

    /// Returns the first [`MAX_LISTED_FINDINGS`] warnings for the log, and one more message for the unknown names.
    pub(super) fn into_messages(self) -> Vec<String> {
        let mut texts: Vec<String> =
            self.others.items.iter().take(MAX_LISTED_FINDINGS).map(Finding::message_with_position).collect();
        let BoundedList { items, total } = self.unknown;
        if total > 0 {
            texts.push(format!(
                "unknown and ignored: {}",
                join_truncated(items.iter().map(UnrecognizedName::describe), total)
            ));
        }
        texts
    }

    /// Returns one line with the unknown names that have a suggestion, or `None` if there are none.
    pub(super) fn typo_summary(&self) -> Option<String> {
        let typos: Vec<&UnrecognizedName> =
            self.unknown.items.iter().filter(|unknown| unknown.suggestion.is_some()).collect();
        (!typos.is_empty()).then(|| {
            format!(
                "unknown and ignored: {}",
                join_truncated(typos.iter().map(|unknown| unknown.describe()), typos.len())
            )
        })
    }

    /// Returns the unknown names as findings, and the other warnings.
    pub(super) fn into_findings(self) -> (BoundedList<Finding>, BoundedList<Finding>) {
        let BoundedList { items, total } = self.unknown;
        (BoundedList { items: items.into_iter().map(UnrecognizedName::into_finding).collect(), total }, self.others)
    }
}

impl UnrecognizedName {
    fn describe(&self) -> String {
        let names = |names: &[String]| names.iter().map(|name| quote(name)).collect::<String>();
        let subject = match &self.location {
            FindingLocation::Object(entry, fields, _) => format!("{entry} field {}", names(fields)),
            FindingLocation::Parameters(parameters) => format!("parameter {}", names(parameters)),
            other => other.to_string(),
        };
        let suggestion = self.suggestion.as_ref().map(|meant| format!(" (did you mean {meant}?)"));
        subject + &suggestion.unwrap_or_default()
    }

    fn into_finding(self) -> Finding {
        let problem = match (&self.suggestion, &self.location) {
            (Some(meant), _) => format!("is unknown and would be ignored; did you mean {meant}?"),
            (None, FindingLocation::Object(..)) => {
                "is no field of an object and would be ignored; remove it".to_owned()
            }
            (None, _) => "is no parameter and would be ignored; remove it".to_owned(),
        };
        Finding { cause: Cause::UnknownName, location: self.location, problem }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn warnings_of(json: &str) -> Vec<String> {
        let mut warnings = Warnings::default();
        warnings.check_parameter_names(&Attributes::parse(json).unwrap());
        warnings.into_messages()
    }

    #[test]
    fn known_parameters_cause_no_warning() {
        let known = r#"{"roleName":"","audience":"","objects":"","secretProviderClass":"","vaultAddress":"","openbaoRoleName":"",
            "baoCACert":"","csi.storage.k8s.io/ephemeral":"true","csi.storage.k8s.io/anything":""}"#;
        assert_eq!(warnings_of(known), Vec::<String>::new());
    }

    #[test]
    fn unknown_parameters_are_one_warning_with_suggestions() {
        assert_eq!(
            warnings_of(r#"{"vaultAdress":"","rolename":"","openbaoNamespce":"","usePodIdentity":"","a\nb":""}"#),
            [
                r#"unknown and ignored: parameter "a b", parameter "openbaoNamespce" (did you mean openbaoNamespace?), parameter "rolename" (did you mean roleName?), parameter "usePodIdentity", parameter "vaultAdress" (did you mean vaultAddress?)"#
            ]
        );
    }

    #[test]
    fn unknown_parameter_suggestion_knows_aliases() {
        for (name, meant) in [
            ("role", "roleName"),
            ("vaultRole", "roleName"),
            ("vaultAuthPath", "vaultAuthMountPath"),
            ("openbaoMountPath", "openbaoAuthMountPath"),
            ("namespace", "vaultNamespace"),
            ("vaultAddr", "vaultAddress"),
            ("skipVerify", "vaultSkipTLSVerify"),
        ] {
            let message = format!("unknown and ignored: parameter \"{name}\" (did you mean {meant}?)");
            assert_eq!(warnings_of(&format!("{{\"{name}\":\"\"}}")), [message]);
        }
    }

    #[test]
    fn unsupported_parameter_is_a_warning() {
        assert_eq!(warnings_of(r#"{"auth":"5m"}"#), ["auth: is not supported yet by this version and is ignored"]);
    }

    #[test]
    fn unknown_parameters_warning_is_bounded() {
        let names: Vec<String> = (0..10_000).map(|i| format!("\"{}{i}\":\"\"", "x".repeat(300))).collect();
        let texts = warnings_of(&format!("{{{}}}", names.join(",")));
        assert!(texts.len() == 1 && texts[0].len() < 3000 && texts[0].ends_with("and 9980 more"), "{texts:?}");
    }
}
