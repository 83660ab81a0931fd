//! What goes to Vault and what comes back: requests as a class names them, answers as the server wrote them.

use std::fmt;

use crate::secret::SecretText;

/// How a class may ask for a secret.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Method {
    /// Read (the default).
    #[default]
    Get,
    /// List the names below a path.
    List,
    /// Write and read the answer: dynamic certificates, signatures.
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

/// The shortest argument that is covered in messages, in bytes: shorter ones are words of the language, too.
const MIN_COVERED: usize = 4;

/// One request for a secret, normalized: equal requests are equal values, and equal values are sent once.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Read {
    /// The method.
    pub method: Method,
    /// The path below `/v1/`, without leading slash, query or dot segments; not percent-encoded.
    pub path: String,
    /// Query parameters, form-encoded and sorted by name. May come from arguments, so they are secret.
    pub query: Option<SecretText>,
    /// The JSON body, keys sorted.
    pub body: Option<SecretText>,
}

impl Read {
    /// The version that a read of KV version 2 asks for. Other parameters may be secret, a number is not.
    #[must_use]
    pub fn version(&self) -> Option<&str> {
        let number = self.query.as_ref()?.expose().split('&').find_map(|pair| pair.strip_prefix("version="))?;
        (number.len() <= 10 && number.bytes().all(|b| b.is_ascii_digit())).then_some(number)
    }

    /// `words` of Vault's about this request, without the argument values that it repeats: they may be secret.
    #[must_use]
    pub fn cover(&self, words: &str) -> String {
        let mut values = Vec::new();
        if let Some(Ok(body)) = self.body.as_ref().map(|body| serde_json::from_str(body.expose())) {
            strings(&body, &mut values);
        }
        if let Some(query) = &self.query {
            values.extend(form_urlencoded::parse(query.expose().as_bytes()).map(|(_, value)| value.into_owned()));
        }
        // The longest first, so that no part of one stays because another is in it.
        values.sort_by_key(|value| std::cmp::Reverse(value.len()));
        let values = values.iter().filter(|value| value.len() >= MIN_COVERED);
        values.fold(words.to_owned(), |words, value| words.replace(value.as_str(), "[argument]"))
    }
}

/// Every string in a JSON value.
fn strings(value: &serde_json::Value, found: &mut Vec<String>) {
    match value {
        serde_json::Value::String(text) => found.push(text.clone()),
        serde_json::Value::Array(values) => values.iter().for_each(|value| strings(value, found)),
        serde_json::Value::Object(map) => map.values().for_each(|value| strings(value, found)),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_are_covered_in_vaults_words() {
        let read = Read {
            method: Method::Put,
            path: "pki/issue/web".into(),
            query: Some("pin=caf%C3%A9+au+lait".into()),
            body: Some(r#"{"common_name":"hunter2.example","ttl":"1h","list":[{"deep":"hunter2"}]}"#.into()),
        };
        let said = read.cover("common name hunter2.example not allowed; hunter2, café au lait, 1h");
        assert_eq!(said, "common name [argument] not allowed; [argument], [argument], 1h");
    }
}
