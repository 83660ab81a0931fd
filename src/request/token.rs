//! The service account tokens that the driver passes, and what they say of themselves.

mod claims;

use std::collections::BTreeMap;

use serde::Deserialize;

pub use self::claims::{Claims, Expected, is_jwt, look, service_account_uid};
use super::{
    Tokens,
    attributes::Attributes,
    mistakes::{Mistakes, Place},
};
use crate::secret::SecretText;

/// The attribute, and from Kubernetes 1.35 the secret, that holds the tokens.
pub const NAME: &str = "csi.storage.k8s.io/serviceAccount.tokens";

/// The most `secrets` text, in bytes.
const MOST_TEXT: usize = 4 << 20;

/// Of nodePublishSecretRef's data, the one entry that matters here.
#[derive(Deserialize)]
struct Secrets {
    #[serde(rename = "csi.storage.k8s.io/serviceAccount.tokens")]
    tokens: Option<SecretText>,
}

/// What kubelet writes for one audience.
#[derive(Deserialize)]
struct Issued {
    #[serde(default)]
    token: Option<SecretText>,
}

impl Tokens {
    /// The token for an audience.
    #[must_use]
    pub fn for_audience(&self, audience: &str) -> Option<&SecretText> {
        self.0.get(audience)
    }

    /// The audiences there are tokens for.
    pub fn audiences(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }
}

/// The tokens out of `secrets` and attributes. Where both have one for an audience it is that of `secrets`, which a pod's
/// own volumeAttributes cannot reach.
pub(super) fn parse(attributes: &Attributes, secrets: &str, mistakes: &mut Mistakes) -> Tokens {
    let mut tokens = Tokens::default();
    if let Some(text) = attributes.get(NAME) {
        add(&mut tokens, text, &format!("attribute {NAME}"), mistakes);
    }
    match secrets_entry(secrets) {
        Ok(Some(text)) => add(&mut tokens, text.expose(), &format!("secret {NAME}"), mistakes),
        Ok(None) => {}
        Err(why) => mistakes.add(Place::Request("the driver's secrets".to_owned()), why),
    }
    tokens
}

/// The entry for tokens, if any. Up to Kubernetes 1.34 the driver writes `{}`, or the word `null`, unless the volume has a
/// nodePublishSecretRef, whose data is nobody's business here.
fn secrets_entry(text: &str) -> Result<Option<SecretText>, String> {
    if text.trim().is_empty() {
        return Ok(None);
    }
    if text.len() > MOST_TEXT {
        return Err(format!("are {} bytes long, more than the {MOST_TEXT} accepted", text.len()));
    }
    let secrets: Option<Secrets> = serde_json::from_str(text)
        .map_err(|e| format!("are no JSON object of strings (line {}, column {})", e.line(), e.column()))?;
    Ok(secrets.and_then(|secrets| secrets.tokens).filter(|tokens| !tokens.expose().is_empty()))
}

fn add(tokens: &mut Tokens, text: &str, place: &str, mistakes: &mut Mistakes) {
    let issued: Option<BTreeMap<String, Option<Issued>>> = match serde_json::from_str(text) {
        Ok(issued) => issued,
        Err(e) => {
            let position = format!("line {}, column {}", e.line(), e.column());
            return mistakes.add(
                Place::Request(place.to_owned()),
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

    /// The tokens as `audience=token`, and what was wrong.
    fn parsed(attribute: &str, secrets: &str) -> (Vec<String>, String) {
        let mut map = BTreeMap::new();
        map.insert(NAME, attribute);
        let attributes = Attributes::parse(&serde_json::to_string(&map).unwrap()).unwrap();
        let mut mistakes = Mistakes::default();
        let tokens = parse(&attributes, secrets, &mut mistakes);
        let found = tokens.audiences().map(|a| format!("{a}={}", tokens.for_audience(a).unwrap().expose())).collect();
        (found, mistakes.into_error("", None).map(|e| e.to_string()).unwrap_or_default())
    }

    fn secrets(tokens: &str) -> String {
        serde_json::to_string(&BTreeMap::from([(NAME, tokens), ("user", "x")])).unwrap()
    }

    #[test]
    fn tokens_come_from_either_place() {
        assert_eq!(parsed(ATTRIBUTE, "{}").0, ["=t-api", "vault=t-vault"]);
        assert_eq!(parsed("", &secrets(ATTRIBUTE)).0, ["=t-api", "vault=t-vault"]);
        let (both, mistakes) = parsed(ATTRIBUTE, &secrets(r#"{"vault":{"token":"newer"},"openbao":{"token":"o"}}"#));
        assert_eq!(both, ["=t-api", "openbao=o", "vault=newer"]);
        assert_eq!(mistakes, "");
    }

    #[test]
    fn none_is_no_mistake() {
        for (attribute, secrets) in
            [("", ""), ("", "null"), ("{}", "{}"), ("null", " \n"), (r#"{"vault":{"token":""},"a":null,"b":{}}"#, "{}")]
        {
            assert_eq!(parsed(attribute, secrets), (vec![], String::new()), "{attribute} {secrets}");
        }
        assert_eq!(parsed("", r#"{"user":"x","other":"y"}"#).1, "");
    }

    #[test]
    fn garbage_is_a_mistake_that_repeats_nothing_of_it() {
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
            let (found, said) = parsed(attribute, secrets);
            assert!(found.is_empty() && said.contains("column") && !said.contains("hunter2"), "{said}");
        }
    }

    #[test]
    fn debug_shows_no_token() {
        let tokens = Tokens(BTreeMap::from([("vault".to_owned(), SecretText::from("hunter2"))]));
        assert_eq!(format!("{tokens:?}"), r#"Tokens({"vault": [secret]})"#);
    }
}
