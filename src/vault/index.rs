//! How far a cluster's storage had come when it answered, so that no later answer is older.
//!
//! Servers that let standbys read tell it in `X-Vault-Index`: OpenBao in base64 of `{"cluster":"…","value":"237"}` (measured against
//! 2.7.2: in answers to reads and writes, not in refusals; with PostgreSQL as its storage, `0/173B580`), Vault Enterprise in base64 of `v1:cluster:local:replicated:hmac`. Sent
//! along with `X-Vault-Inconsistent: forward-active-node`, a standby that is behind lets the active node answer.
//! <https://developer.hashicorp.com/vault/docs/enterprise/consistency>

use std::sync::{Mutex, MutexGuard, PoisonError};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use http::{HeaderMap, HeaderName, HeaderValue};
use serde::Deserialize;

const INDEX: HeaderName = HeaderName::from_static("x-vault-index");
const INCONSISTENT: HeaderName = HeaderName::from_static("x-vault-inconsistent");
const FORWARD: HeaderValue = HeaderValue::from_static("forward-active-node");
/// The longest that is understood, in bytes.
const MAX: usize = 1024;

/// The furthest that was seen of one endpoint.
#[derive(Default)]
pub(super) struct Seen(Mutex<Option<Index>>);

/// What one answer told.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Index {
    header: HeaderValue,
    cluster: String,
    /// One or two numbers that only grow.
    reached: Vec<u64>,
}

impl Seen {
    /// Asks that no answer be older than what was seen.
    pub(super) fn demand(&self, headers: &mut HeaderMap) {
        if let Some(index) = &*self.lock() {
            headers.insert(INDEX, index.header.clone());
            headers.insert(INCONSISTENT, FORWARD);
        }
    }

    /// Takes in what an answer tells. What is not understood is as if it was not there.
    pub(super) fn learn(&self, headers: &HeaderMap) {
        // One answer of Vault may tell of several clusters; what counts is the one that is asked.
        if let Some(index) = headers.get(INDEX).and_then(Index::read) {
            self.reach(index);
        }
    }

    /// Whether a refusal is one of the index that was sent, as of a server that another has taken the place of; then it is sent no
    /// more.
    pub(super) fn is_refused(&self, status: u16, body: &[u8]) -> bool {
        let says = |word: &[u8]| body.windows(word.len()).any(|part| part == word);
        let refused = status == 400 && says(b"X-Vault-Index") && self.lock().take().is_some();
        if refused {
            tracing::info!(
                "the server does not understand how far its cluster had come before, and is not asked for that"
            );
        }
        refused
    }

    /// As far as it was seen, for another process.
    pub(super) fn told(&self) -> Option<String> {
        self.lock().as_ref().and_then(|index| index.header.to_str().ok().map(str::to_owned))
    }

    /// Takes in what another process has seen.
    pub(super) fn take(&self, told: &str) {
        if let Some(index) = HeaderValue::from_str(told).ok().as_ref().and_then(Index::read) {
            self.reach(index);
        }
    }

    fn reach(&self, index: Index) {
        let mut seen = self.lock();
        // Another cluster stands in the place of the one before: its numbers are its own.
        if seen.as_ref().is_none_or(|seen| seen.cluster != index.cluster || index.is_beyond(seen)) {
            *seen = Some(index);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Option<Index>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Index {
    fn read(header: &HeaderValue) -> Option<Self> {
        #[derive(Deserialize)]
        struct OpenBao {
            cluster: String,
            value: String,
        }
        let text = STANDARD.decode(header.as_bytes().get(..header.len().min(MAX))?).ok()?;
        if let Ok(OpenBao { cluster, value }) = serde_json::from_slice(&text) {
            return Some(Self { header: header.clone(), cluster, reached: vec![place(&value)?] });
        }
        let text = String::from_utf8(text).ok()?;
        let mut parts = text.split(':');
        let ("v1", cluster) = (parts.next()?, parts.next()?) else { return None };
        let reached = [parts.next()?.parse().ok()?, parts.next()?.parse().ok()?];
        Some(Self { header: header.clone(), cluster: cluster.to_owned(), reached: reached.to_vec() })
    }

    /// Whether it is further than another of its cluster, and behind it in nothing.
    fn is_beyond(&self, other: &Self) -> bool {
        self.reached.len() == other.reached.len()
            && self.reached.iter().zip(&other.reached).all(|(a, b)| a >= b)
            && self.reached != other.reached
    }
}

/// A place in a log: raft's is a number, PostgreSQL's two halves of one in hexadecimal.
fn place(value: &str) -> Option<u64> {
    let Some((high, low)) = value.split_once('/') else { return value.parse().ok() };
    let half = |half| u32::from_str_radix(half, 16).ok().map(u64::from);
    Some(half(high)? << 32 | half(low)?)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn answer(text: &str) -> HeaderMap {
        HeaderMap::from_iter([(INDEX, HeaderValue::from_str(&STANDARD.encode(text)).unwrap())])
    }

    fn demanded(seen: &Seen) -> Option<String> {
        let mut headers = HeaderMap::new();
        seen.demand(&mut headers);
        assert_eq!(headers.contains_key(INDEX), headers.get(INCONSISTENT) == Some(&FORWARD));
        headers.get(INDEX).map(|index| String::from_utf8(STANDARD.decode(index).unwrap()).unwrap())
    }

    #[test]
    fn the_furthest_is_demanded() {
        let seen = Seen::default();
        assert_eq!(demanded(&seen), None);
        let bao = |cluster: &str, value: &str| format!(r#"{{"cluster":"{cluster}","value":"{value}"}}"#);
        for (told, demands) in [
            (bao("a", "9"), bao("a", "9")),
            (bao("a", "10"), bao("a", "10")),
            (bao("a", "9"), bao("a", "10")),
            ("what is this".into(), bao("a", "10")),
            (bao("a", "x"), bao("a", "10")),
            (bao("b", "3"), bao("b", "3")),
            (bao("pg", "0/173B580"), bao("pg", "0/173B580")),
            (bao("pg", "1/0"), bao("pg", "1/0")),
            (bao("pg", "0/FFFFFFFF"), bao("pg", "1/0")),
            (bao("pg", "1/x"), bao("pg", "1/0")),
            ("v1:c:5:7:mac".into(), "v1:c:5:7:mac".into()),
            ("v1:c:4:8:mac".into(), "v1:c:5:7:mac".into()),
            ("v1:c:5:8:mac".into(), "v1:c:5:8:mac".into()),
            ("v2:c:9:9:mac".into(), "v1:c:5:8:mac".into()),
        ] {
            seen.learn(&answer(&told));
            assert_eq!(demanded(&seen), Some(demands), "{told}");
        }
        let next = Seen::default();
        next.take(&seen.told().unwrap());
        assert_eq!(demanded(&next), demanded(&seen));
    }

    proptest! {
        #[test]
        fn any_header_is_an_index_or_none(bytes: Vec<u8>, text: String) {
            if let Ok(header) = HeaderValue::from_bytes(&bytes) {
                let _ = Index::read(&header);
            }
            let seen = Seen::default();
            seen.learn(&answer(&text));
            seen.take(&text);
        }
    }
}
