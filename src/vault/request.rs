//! Requests for secrets, as a class names them, and the redaction of their arguments.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::secret::{self, SecretText};

/// The HTTP methods that a class may select for a request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Method {
    /// Read (the default).
    #[default]
    Get,
    /// List the names below a path.
    List,
    /// Write and read the response: dynamic certificates, signatures.
    Put,
    /// The same as [`Method::Put`] to Vault.
    Post,
}

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Get => "GET",
            Self::List => "LIST",
            Self::Put => "PUT",
            Self::Post => "POST",
        })
    }
}

/// Minimum length of a redacted argument, in bytes: shorter values also occur as ordinary words.
const MIN_REDACTED_BYTES: usize = 4;

/// One request for a secret, normalized: equal requests are equal values and are sent once.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct SecretRequest {
    /// The method.
    pub method: Method,
    /// The path below `/v1/`, without leading slash, query or dot segments; not percent-encoded.
    pub path: String,
    /// Query parameters, form-encoded and sorted by name. May come from arguments, so they are secret.
    #[serde(default, serialize_with = "secret::serialize_exposed_opt")]
    pub query: Option<SecretText>,
    /// The JSON body, keys sorted.
    #[serde(default, serialize_with = "secret::serialize_exposed_opt")]
    pub body: Option<SecretText>,
}

impl SecretRequest {
    /// Returns the placeholder for the Vault token itself, which needs no request: its path is empty.
    #[must_use]
    pub fn for_token() -> Self {
        Self { method: Method::Get, path: String::new(), query: None, body: None }
    }

    /// Returns true for the placeholder of the Vault token itself.
    #[must_use]
    pub fn is_for_token(&self) -> bool {
        self.path.is_empty()
    }

    /// Returns true when the response depends on the token: the token itself, a request to `auth/token`, or the token's
    /// cubbyhole, which no other token sees. Matches behind any namespaces, so a secret with such a name counts too.
    #[must_use]
    pub fn is_token_scoped(&self) -> bool {
        let parts: Vec<&str> = self.path.split('/').collect();
        self.is_for_token() || parts.contains(&"cubbyhole") || parts.windows(2).any(|pair| pair == ["auth", "token"])
    }

    /// Returns the path for messages.
    #[must_use]
    pub fn display_path(&self) -> &str {
        if self.is_for_token() { "(the token itself)" } else { &self.path }
    }

    /// Returns the secret version that a read of KV version 2 requests. Other parameters may be secret; a number is not.
    #[must_use]
    pub fn secret_version(&self) -> Option<&str> {
        let number = self.query.as_ref()?.expose().split('&').find_map(|pair| pair.strip_prefix("version="))?;
        (number.len() <= 10 && number.bytes().all(|b| b.is_ascii_digit())).then_some(number)
    }

    /// Redacts this request's argument values in Vault's `text`: they may be secret.
    #[must_use]
    pub fn redact(&self, text: &str) -> String {
        let mut values = Vec::new();
        if let Some(Ok(body)) = self.body.as_ref().map(|body| serde_json::from_str(body.expose())) {
            collect_strings(&body, &mut values);
        }
        if let Some(query) = &self.query {
            values.extend(form_urlencoded::parse(query.expose().as_bytes()).map(|(_, value)| value.into_owned()));
            values.extend(query.expose().split('&').filter_map(|pair| Some(pair.split_once('=')?.1.to_owned())));
        }
        let mut values: Vec<&str> = values.iter().map(String::as_str).collect();
        // Longest first: replacing a contained value first would leave parts of the longer value.
        values.sort_by_key(|value| std::cmp::Reverse(value.len()));
        redact_values(text, &values, "[argument]")
    }
}

/// Replaces each value in `text` with a mark, also a value that is cut off at the end of the text.
pub(super) fn redact_values(text: &str, values: &[&str], mark: &str) -> String {
    let values = || values.iter().filter(|value| value.len() >= MIN_REDACTED_BYTES);
    let mut redacted = values().fold(text.to_owned(), |text, value| text.replace(value, mark));
    for value in values() {
        let is_cut_at = |n: &usize| value.get(..*n).is_some_and(|start| redacted.ends_with(start));
        if let Some(cut_len) = (MIN_REDACTED_BYTES..value.len().min(redacted.len() + 1)).rev().find(is_cut_at) {
            redacted.truncate(redacted.len() - cut_len);
            redacted.push_str(mark);
        }
    }
    redacted
}

/// Collects every string and number in a JSON value, strings also in their JSON-escaped form.
fn collect_strings(value: &serde_json::Value, collected: &mut Vec<String>) {
    match value {
        serde_json::Value::String(text) => {
            collected.push(text.clone());
            collected.push(value.to_string().trim_matches('"').to_owned());
        }
        serde_json::Value::Number(number) => collected.push(number.to_string()),
        serde_json::Value::Array(values) => values.iter().for_each(|value| collect_strings(value, collected)),
        serde_json::Value::Object(map) => map.values().for_each(|value| collect_strings(value, collected)),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn redact_hides_arguments_in_vault_message() {
        let request = SecretRequest {
            method: Method::Put,
            path: "pki/issue/web".into(),
            query: Some("pin=caf%C3%A9+au+lait".into()),
            body: Some(r#"{"common_name":"hunter2.example","ttl":"1h","list":[{"deep":"hunter2"}]}"#.into()),
        };
        let redacted = request.redact("common name hunter2.example not allowed; hunter2, café au lait, 1h");
        assert_eq!(redacted, "common name [argument] not allowed; [argument], [argument], 1h");
    }

    #[test]
    fn redact_hides_arguments_in_echoed_request() {
        let request = SecretRequest {
            method: Method::Put,
            path: "pki/issue/web".into(),
            query: Some("pin=caf%C3%A9+au+lait".into()),
            body: Some(r#"{"key":"line\nline","number":271828,"long":"hunter2.example"}"#.into()),
        };
        let redacted =
            request.redact(r#"PUT /v1/x?pin=caf%C3%A9+au+lait {"key":"line\nline","number":271828,"long":"hunter2.ex"#);
        assert_eq!(redacted, r#"PUT /v1/x?pin=[argument] {"key":"[argument]","number":[argument],"long":"[argument]"#);
    }
}
