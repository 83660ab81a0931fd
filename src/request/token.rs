//! The service account tokens that the driver passes, and their claims.

mod claims;

use std::collections::BTreeMap;

use serde::Deserialize;

pub use self::claims::{Claims, ExpectedClaims, inspect, is_jwt, service_account_uid};
use super::{
    ServiceAccountTokens,
    attributes::Attributes,
    findings::{FindingLocation, Findings},
};
use crate::secret::SecretText;

/// The attribute, and from Kubernetes 1.35 the secret, that holds the tokens.
pub const TOKENS_ATTRIBUTE: &str = "csi.storage.k8s.io/serviceAccount.tokens";

/// The maximum length of `secrets`, in bytes.
const MAX_SECRETS_BYTES: usize = 4 << 20;

/// The one entry of nodePublishSecretRef's data that vaultmount uses.
#[derive(Deserialize)]
struct NodePublishSecrets {
    #[serde(rename = "csi.storage.k8s.io/serviceAccount.tokens")]
    tokens: Option<SecretText>,
}

/// The JSON that kubelet writes for one audience.
#[derive(Deserialize)]
struct IssuedToken {
    #[serde(default)]
    token: Option<SecretText>,
}

impl ServiceAccountTokens {
    /// Returns the token for an audience.
    #[must_use]
    pub fn for_audience(&self, audience: &str) -> Option<&SecretText> {
        self.0.get(audience)
    }

    /// Returns the audiences that have a token.
    pub fn audiences(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }
}

/// Parses the tokens in `secrets` and in the attributes. If both contain a token for an audience, the one in `secrets`
/// is used, because a pod's volumeAttributes cannot change it.
pub(super) fn parse(attributes: &Attributes, secrets: &str, findings: &mut Findings) -> ServiceAccountTokens {
    let mut tokens = ServiceAccountTokens::default();
    if let Some(text) = attributes.get(TOKENS_ATTRIBUTE) {
        add_tokens(&mut tokens, text, &format!("attribute {TOKENS_ATTRIBUTE}"), findings);
    }
    match tokens_in_secrets(secrets) {
        Ok(Some(text)) => add_tokens(&mut tokens, text.expose(), &format!("secret {TOKENS_ATTRIBUTE}"), findings),
        Ok(None) => {}
        Err(why) => findings.add(FindingLocation::DriverRequest("the driver's secrets".to_owned()), why),
    }
    tokens
}

/// Returns the entry for tokens, if any. Up to Kubernetes 1.34 the driver writes `{}`, or the word `null`, unless the
/// volume has a nodePublishSecretRef. The other data of that Secret is ignored.
fn tokens_in_secrets(text: &str) -> Result<Option<SecretText>, String> {
    if text.trim().is_empty() {
        return Ok(None);
    }
    if text.len() > MAX_SECRETS_BYTES {
        return Err(format!("are {} bytes long, more than the {MAX_SECRETS_BYTES} accepted", text.len()));
    }
    let secrets: Option<NodePublishSecrets> = serde_json::from_str(text)
        .map_err(|e| format!("are no JSON object of strings (line {}, column {})", e.line(), e.column()))?;
    Ok(secrets.and_then(|secrets| secrets.tokens).filter(|tokens| !tokens.expose().is_empty()))
}

fn add_tokens(tokens: &mut ServiceAccountTokens, text: &str, source: &str, findings: &mut Findings) {
    let issued: Option<BTreeMap<String, Option<IssuedToken>>> = match serde_json::from_str(text) {
        Ok(issued) => issued,
        Err(e) => {
            let position = format!("line {}, column {}", e.line(), e.column());
            return findings.add(
                FindingLocation::DriverRequest(source.to_owned()),
                format!("is no JSON object of tokens by audience ({position}); is it kubelet's own?"),
            );
        }
    };
    for (audience, issued) in issued.unwrap_or_default() {
        if let Some(token) = issued.and_then(|issued| issued.token).filter(|token| !token.expose().is_empty()) {
            tokens.0.insert(audience, token);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ATTRIBUTE: &str =
        r#"{"vault":{"token":"t-vault","expirationTimestamp":"2026-11-22T08:00:00Z"},"":{"token":"t-api"}}"#;

    /// Returns the tokens as `audience=token`, and the error if any.
    fn parse_tokens(attribute: &str, secrets: &str) -> (Vec<String>, String) {
        let mut map = BTreeMap::new();
        map.insert(TOKENS_ATTRIBUTE, attribute);
        let attributes = Attributes::parse(&serde_json::to_string(&map).unwrap()).unwrap();
        let mut findings = Findings::default();
        let tokens = parse(&attributes, secrets, &mut findings);
        let found = tokens.audiences().map(|a| format!("{a}={}", tokens.for_audience(a).unwrap().expose())).collect();
        (found, findings.into_error("", None).map(|e| e.to_string()).unwrap_or_default())
    }

    fn secrets_json(tokens: &str) -> String {
        serde_json::to_string(&BTreeMap::from([(TOKENS_ATTRIBUTE, tokens), ("user", "x")])).unwrap()
    }

    #[test]
    fn tokens_are_read_from_attributes_and_secrets() {
        assert_eq!(parse_tokens(ATTRIBUTE, "{}").0, ["=t-api", "vault=t-vault"]);
        assert_eq!(parse_tokens("", &secrets_json(ATTRIBUTE)).0, ["=t-api", "vault=t-vault"]);
        let (both, error) =
            parse_tokens(ATTRIBUTE, &secrets_json(r#"{"vault":{"token":"newer"},"openbao":{"token":"o"}}"#));
        assert_eq!(both, ["=t-api", "openbao=o", "vault=newer"]);
        assert_eq!(error, "");
    }

    #[test]
    fn tokens_absent_is_no_mistake() {
        for (attribute, secrets) in
            [("", ""), ("", "null"), ("{}", "{}"), ("null", " \n"), (r#"{"vault":{"token":""},"a":null,"b":{}}"#, "{}")]
        {
            assert_eq!(parse_tokens(attribute, secrets), (vec![], String::new()), "{attribute} {secrets}");
        }
        assert_eq!(parse_tokens("", r#"{"user":"x","other":"y"}"#).1, "");
    }

    #[test]
    fn tokens_malformed_are_rejected_without_echo() {
        for (attribute, secrets) in [
            ("hunter2", "{}"),
            (r#"["hunter2"]"#, "{}"),
            (r#"{"vault":"hunter2"}"#, "{}"),
            (r#"{"vault":{"token":["hunter2"]}}"#, "{}"),
            ("", "hunter2"),
            ("", r#"["hunter2"]"#),
            ("", r#"{"csi.storage.k8s.io/serviceAccount.tokens":{"hunter2":1}}"#),
            ("", r#"{"csi.storage.k8s.io/serviceAccount.tokens":"hunter2"}"#),
        ] {
            let (found, message) = parse_tokens(attribute, secrets);
            assert!(found.is_empty() && message.contains("column") && !message.contains("hunter2"), "{message}");
        }
    }

    #[test]
    fn tokens_are_redacted_in_debug() {
        let tokens = ServiceAccountTokens(BTreeMap::from([("vault".to_owned(), SecretText::from("hunter2"))]));
        assert_eq!(format!("{tokens:?}"), r#"ServiceAccountTokens({"vault": [secret]})"#);
    }
}
