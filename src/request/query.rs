//! Query parameters as Go's `url.Values` holds and writes them.

use std::{collections::BTreeMap, fmt::Write as _};

use zeroize::Zeroizing;

use crate::secret::SecretText;

/// Parameters by name. A name may have several values, which keep their order.
#[derive(Default)]
pub(super) struct Query(BTreeMap<Vec<u8>, Vec<Zeroizing<Vec<u8>>>>);

/// The error of inserting a name that already has another value.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct QueryConflict;

impl Query {
    /// Parses the text after the `?`. The error contains the fix and no value.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let mut query = Self::default();
        for pair in text.split('&').filter(|pair| !pair.is_empty()) {
            if pair.contains(';') {
                return Err("has a `;` in its query; separate parameters with `&`, or write the sign as %3B".to_owned());
            }
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let (Some(name), Some(value)) = (unescape(name), unescape(value)) else {
                return Err("has a percent sign in its query that escapes nothing; write it as %25".to_owned());
            };
            query.0.entry(name.to_vec()).or_default().push(value);
        }
        Ok(query)
    }

    /// Adds a parameter, unless it already has the same value.
    pub(super) fn insert(&mut self, name: &str, value: &str) -> Result<(), QueryConflict> {
        let values = self.0.entry(name.as_bytes().to_vec()).or_default();
        match values.as_slice() {
            [] => values.push(Zeroizing::new(value.as_bytes().to_vec())),
            [one] if one.as_slice() == value.as_bytes() => {}
            _ => return Err(QueryConflict),
        }
        Ok(())
    }

    /// Returns the parameters form-encoded and sorted by name, or `None` if there are none.
    pub(super) fn encode(&self) -> Option<SecretText> {
        let pairs = || self.0.iter().flat_map(|(name, values)| values.iter().map(move |value| (name, value)));
        // Reserve the full capacity, so that growth leaves no copy of a secret in memory.
        let capacity = pairs().map(|(name, value)| 3 * (name.len() + value.len()) + 2).sum();
        let mut text = String::with_capacity(capacity);
        for (name, value) in pairs() {
            if !text.is_empty() {
                text.push('&');
            }
            escape(name, &mut text);
            text.push('=');
            escape(value, &mut text);
        }
        (!text.is_empty()).then(|| text.into())
    }
}

fn unescape(text: &str) -> Option<Zeroizing<Vec<u8>>> {
    let mut bytes = Zeroizing::new(Vec::with_capacity(text.len()));
    let mut rest = text.as_bytes().iter();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'+' => b' ',
            b'%' => {
                let mut digit = || char::from(*rest.next()?).to_digit(16);
                let (high, low) = (digit()?, digit()?);
                u8::try_from(high * 16 + low).ok()?
            }
            other => *other,
        });
    }
    Some(bytes)
}

fn escape(bytes: &[u8], text: &mut String) {
    for byte in bytes {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => text.push(char::from(*byte)),
            b' ' => text.push('+'),
            _ => {
                // Writing to a string cannot fail.
                let _ = write!(text, "%{byte:02X}");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn encoded(query: &Query) -> String {
        query.encode().map(|q| q.expose().to_owned()).unwrap_or_default()
    }

    /// Encodings checked against the real Go client.
    #[test]
    fn query_is_encoded_like_go() {
        for (text, want) in [
            ("", ""),
            ("&&", ""),
            ("version=1", "version=1"),
            ("version", "version="),
            ("b=1&a=2&b=0&=x&c=%20+", "=x&a=2&b=1&b=0&c=++"),
            ("x=a/b~*'()!é", "x=a%2Fb~%2A%27%28%29%21%C3%A9"),
            ("a=1#f", "a=1%23f"),
            ("a=%FF%00", "a=%FF%00"),
            ("a=b=c", "a=b%3Dc"),
        ] {
            assert_eq!(encoded(&Query::parse(text).unwrap()), want, "{text}");
        }
        for text in ["a=1;b=2", "a=%zz", "a=%", "%4=1", "a=%é"] {
            assert!(Query::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn query_insert_of_other_value_is_a_conflict() {
        let mut query = Query::parse("version=1&x=1&x=2").unwrap();
        assert_eq!(query.insert("version", "1"), Ok(()));
        assert_eq!(query.insert("version", "2"), Err(QueryConflict));
        assert_eq!(query.insert("x", "1"), Err(QueryConflict));
        assert_eq!(query.insert("a b", "&"), Ok(()));
        assert_eq!(encoded(&query), "a+b=%26&version=1&x=1&x=2");
    }

    proptest! {
        #[test]
        fn query_encoding_round_trips(text in "[a-c=&%+;0-9 é]*") {
            if let Ok(query) = Query::parse(&text) {
                let once = encoded(&query);
                prop_assert_eq!(encoded(&Query::parse(&once).unwrap()), once);
            }
        }
    }
}
