//! Replication index of each response, so that no later response is older.
//!
//! Servers whose standbys serve reads send the index in `X-Vault-Index`. OpenBao sends base64 of
//! `{"cluster":"…","value":"237"}` (measured against 2.7.2: in responses to reads and writes, not in error responses; with
//! PostgreSQL storage the value is `0/173B580`). Vault Enterprise sends base64 of `v1:cluster:local:replicated:hmac`.
//! With the index and `X-Vault-Inconsistent: forward-active-node` in a request, a stale standby forwards to the active node.
//! <https://developer.hashicorp.com/vault/docs/enterprise/consistency>

use std::sync::{Mutex, MutexGuard, PoisonError};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use http::{HeaderMap, HeaderName, HeaderValue};
use serde::Deserialize;

const INDEX_HEADER: HeaderName = HeaderName::from_static("x-vault-index");
const INCONSISTENT_HEADER: HeaderName = HeaderName::from_static("x-vault-inconsistent");
const FORWARD_TO_ACTIVE_NODE: HeaderValue = HeaderValue::from_static("forward-active-node");
/// Maximum length of a parsed index header, in bytes.
const MAX_INDEX_BYTES: usize = 1024;

/// The newest replication index seen at one endpoint.
#[derive(Default)]
pub(super) struct SeenIndex(Mutex<Option<ReplicationIndex>>);

/// The replication index of one response.
#[derive(Clone, Debug, PartialEq, Eq)]
struct ReplicationIndex {
    header: HeaderValue,
    cluster: String,
    /// One or two numbers that only increase.
    positions: Vec<u64>,
}

impl SeenIndex {
    /// Adds the headers that demand a response no older than the newest index seen.
    pub(super) fn add_headers(&self, headers: &mut HeaderMap) {
        if let Some(index) = &*self.lock() {
            headers.insert(INDEX_HEADER, index.header.clone());
            headers.insert(INCONSISTENT_HEADER, FORWARD_TO_ACTIVE_NODE);
        }
    }

    /// Records the index in a response's headers. Ignores an index that cannot be parsed.
    pub(super) fn observe(&self, headers: &HeaderMap) {
        // A response of Vault may carry indexes of several clusters. Only the cluster that was asked counts.
        if let Some(index) = headers.get(INDEX_HEADER).and_then(ReplicationIndex::parse) {
            self.advance(index);
        }
    }

    /// Returns true when the server rejected the index that was sent, as a replacement server does. Clears the index then, so
    /// that later requests omit it.
    pub(super) fn clear_if_rejected(&self, status: u16, body: &[u8]) -> bool {
        let contains = |word: &[u8]| body.windows(word.len()).any(|part| part == word);
        let is_rejected = status == 400 && contains(b"X-Vault-Index") && self.lock().take().is_some();
        if is_rejected {
            tracing::info!("server rejected the replication index; later requests omit it");
        }
        is_rejected
    }

    /// Returns the newest index seen, for another process.
    pub(super) fn export(&self) -> Option<String> {
        self.lock().as_ref().and_then(|index| index.header.to_str().ok().map(str::to_owned))
    }

    /// Records the index that another process has seen.
    pub(super) fn import(&self, exported: &str) {
        if let Some(index) = HeaderValue::from_str(exported).ok().as_ref().and_then(ReplicationIndex::parse) {
            self.advance(index);
        }
    }

    fn advance(&self, index: ReplicationIndex) {
        let mut seen = self.lock();
        // A different cluster has replaced the previous one. Positions of two clusters are not comparable.
        if seen.as_ref().is_none_or(|seen| seen.cluster != index.cluster || index.is_newer_than(seen)) {
            *seen = Some(index);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Option<ReplicationIndex>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ReplicationIndex {
    fn parse(header: &HeaderValue) -> Option<Self> {
        #[derive(Deserialize)]
        struct OpenBao {
            cluster: String,
            value: String,
        }
        let text = STANDARD.decode(header.as_bytes().get(..header.len().min(MAX_INDEX_BYTES))?).ok()?;
        if let Ok(OpenBao { cluster, value }) = serde_json::from_slice(&text) {
            return Some(Self { header: header.clone(), cluster, positions: vec![parse_position(&value)?] });
        }
        let text = String::from_utf8(text).ok()?;
        let mut parts = text.split(':');
        let ("v1", cluster) = (parts.next()?, parts.next()?) else { return None };
        let reached = [parts.next()?.parse().ok()?, parts.next()?.parse().ok()?];
        Some(Self { header: header.clone(), cluster: cluster.to_owned(), positions: reached.to_vec() })
    }

    /// Returns true when a position is ahead of another index of the same cluster and no position is behind.
    fn is_newer_than(&self, other: &Self) -> bool {
        self.positions.len() == other.positions.len()
            && self.positions.iter().zip(&other.positions).all(|(a, b)| a >= b)
            && self.positions != other.positions
    }
}

/// Parses a log position: a decimal number for raft, two hexadecimal halves for PostgreSQL.
fn parse_position(value: &str) -> Option<u64> {
    let Some((high, low)) = value.split_once('/') else { return value.parse().ok() };
    let half = |half| u32::from_str_radix(half, 16).ok().map(u64::from);
    Some(half(high)? << 32 | half(low)?)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn headers_with_index(text: &str) -> HeaderMap {
        HeaderMap::from_iter([(INDEX_HEADER, HeaderValue::from_str(&STANDARD.encode(text)).unwrap())])
    }

    fn sent_index(seen: &SeenIndex) -> Option<String> {
        let mut headers = HeaderMap::new();
        seen.add_headers(&mut headers);
        assert_eq!(
            headers.contains_key(INDEX_HEADER),
            headers.get(INCONSISTENT_HEADER) == Some(&FORWARD_TO_ACTIVE_NODE)
        );
        headers.get(INDEX_HEADER).map(|index| String::from_utf8(STANDARD.decode(index).unwrap()).unwrap())
    }

    #[test]
    fn seen_index_sends_newest_index_per_cluster() {
        let seen = SeenIndex::default();
        assert_eq!(sent_index(&seen), None);
        let bao = |cluster: &str, value: &str| format!(r#"{{"cluster":"{cluster}","value":"{value}"}}"#);
        for (received, demands) in [
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
            seen.observe(&headers_with_index(&received));
            assert_eq!(sent_index(&seen), Some(demands), "{received}");
        }
        let next = SeenIndex::default();
        next.import(&seen.export().unwrap());
        assert_eq!(sent_index(&next), sent_index(&seen));
    }

    proptest! {
        #[test]
        fn replication_index_parse_never_panics(bytes: Vec<u8>, text: String) {
            if let Ok(header) = HeaderValue::from_bytes(&bytes) {
                let _ = ReplicationIndex::parse(&header);
            }
            let seen = SeenIndex::default();
            seen.observe(&headers_with_index(&text));
            seen.import(&text);
        }
    }
}
