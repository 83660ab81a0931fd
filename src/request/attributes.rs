//! The driver's `attributes`: the class's parameters, overlaid with the pod's volumeAttributes and kubelet's additions.

use std::collections::BTreeMap;

use crate::{
    error::{Cause, Error},
    secret::SecretText,
};

/// The maximum length of `attributes`, in bytes; the driver's own gRPC limit.
const MAX_ATTRIBUTES_BYTES: usize = 4 << 20;

/// The prefixes of parameter names, in order of precedence: `baoAddress`, `openbaoAddress`, `vaultAddress`.
pub(super) const PARAMETER_PREFIXES: [&str; 3] = ["bao", "openbao", "vault"];

/// The attributes. Every value is held as a secret, because some are service account tokens.
#[derive(Default)]
pub(super) struct Attributes(BTreeMap<String, Option<SecretText>>);

/// A parameter that is set, under the name that the class uses for it.
#[derive(Clone, Copy)]
pub(super) struct Parameter<'a> {
    pub(super) name: &'a str,
    pub(super) value: &'a str,
}

impl Attributes {
    /// Parses a JSON object of strings. The error contains none of the input.
    pub(super) fn parse(text: &str) -> Result<Self, Error> {
        let invalid = |why: String| {
            Error::new(Cause::InvalidRequest, format!("the driver's attributes {why}")).with_fix(
                "this is a fault between the driver and this provider, not of the class; compare their versions",
            )
        };
        if text.len() > MAX_ATTRIBUTES_BYTES {
            return Err(invalid(format!(
                "are {} bytes long, more than the {MAX_ATTRIBUTES_BYTES} accepted",
                text.len()
            )));
        }
        serde_json::from_str(text)
            .map(Self)
            .map_err(|e| invalid(format!("are no JSON object of strings (line {}, column {})", e.line(), e.column())))
    }

    /// Builds attributes from a class's parameters alone.
    pub(super) fn from_parameters(parameters: &BTreeMap<String, String>) -> Self {
        Self(parameters.iter().map(|(name, value)| (name.clone(), Some(value.as_str().into()))).collect())
    }

    /// Returns the value of a name if it is present and not empty. As in the Go provider, an empty value is unset.
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        let value = self.0.get(name)?.as_ref()?.expose();
        (!value.is_empty()).then_some(value)
    }

    /// Returns the parameters with any of the three prefixes that end in `suffix`, in order of precedence.
    pub(super) fn parameters_with_suffix<'a>(&'a self, suffix: &'a str) -> impl Iterator<Item = Parameter<'a>> {
        PARAMETER_PREFIXES.iter().filter_map(move |prefix| {
            let (name, _) = self.0.get_key_value(format!("{prefix}{suffix}").as_str())?;
            self.get(name).map(|value| Parameter { name, value })
        })
    }

    /// Returns all names, including those with empty values.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attributes(json: &str) -> Attributes {
        Attributes::parse(json).unwrap()
    }

    #[test]
    fn attribute_empty_or_null_is_unset() {
        let attributes = attributes(r#"{"roleName":"app","audience":"","objects":null}"#);
        assert_eq!(attributes.get("roleName"), Some("app"));
        for name in ["audience", "objects", "vaultAddress"] {
            assert_eq!(attributes.get(name), None, "{name}");
        }
        assert_eq!(attributes.names().count(), 3);
    }

    #[test]
    fn parameter_suffix_lookup_follows_prefix_precedence() {
        let attributes = attributes(r#"{"vaultAddress":"v","openbaoAddress":"o","baoAddress":"","baoNamespace":"n"}"#);
        let found: Vec<_> = attributes.parameters_with_suffix("Address").map(|p| (p.name, p.value)).collect();
        assert_eq!(found, [("openbaoAddress", "o"), ("vaultAddress", "v")]);
        assert_eq!(
            attributes.parameters_with_suffix("Namespace").map(|p| p.name).collect::<Vec<_>>(),
            ["baoNamespace"]
        );
    }

    #[test]
    fn attributes_not_a_string_map_are_rejected_without_echo() {
        for text in [
            "",
            "null",
            "[]",
            "hunter2",
            r#""hunter2""#,
            r#"{"hunter2":5}"#,
            r#"{"a":["hunter2"]}"#,
            "{\"a\":\"hunter2",
        ] {
            let error = Attributes::parse(text).err().unwrap();
            assert_eq!(error.cause(), Cause::InvalidRequest);
            assert!(!error.to_string().contains("hunter2"), "{error}");
            assert!(error.to_string().contains("column"), "{error}");
        }
        assert!(Attributes::parse(&"[".repeat(1 << 20)).is_err());
        assert!(
            Attributes::parse(&" ".repeat(MAX_ATTRIBUTES_BYTES + 1)).err().unwrap().to_string().contains("bytes long")
        );
    }
}
