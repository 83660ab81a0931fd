//! A response to a read: Vault's parsed envelope, and its content as one text, from which files are rendered.

use std::{fmt, ops::Range, str, sync::Arc};

use serde::Deserialize;
use serde_json::{Value, value::RawValue};
use zeroize::Zeroizing;

use super::{error::RequestError, memory_budget::Reservation};
use crate::secret::{SecretBuffer, SecretBytes};

/// One response of Vault. Its data is never parsed into values here, so numbers keep the server's spelling. Escapes do too,
/// except for those that [`compact_json`] adds.
#[derive(Clone)]
pub struct SecretResponse {
    /// The lease ID; empty when there is none. Only the ID makes a response leased, not the duration.
    pub lease_id: String,
    /// The lease's duration in seconds; 0 when absent or negative.
    pub lease_duration: u64,
    /// Set when the lease can be renewed.
    pub renewable: bool,
    /// The server's warnings; no secrets.
    pub warnings: Vec<String>,
    json: SecretBytes,
    /// The byte range of `data` in `json`.
    data_range: Option<Range<usize>>,
    /// The reservation in the memory budget; `None` for a response that no server sent.
    _reservation: Option<Arc<Reservation>>,
}

/// Maximum length of a valid request ID, in bytes.
const MAX_REQUEST_ID_BYTES: usize = 64;
/// Maximum number of warnings kept beside the text.
const MAX_WARNINGS: usize = 16;

/// The body is not a JSON object in Vault's format. Names the position, never the content.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a Vault response: {problem} at line {line}, column {column}")]
pub struct InvalidResponse {
    problem: &'static str,
    line: usize,
    column: usize,
}

/// The envelope as it is on the wire. Unknown fields are ignored; any field may be absent or null.
#[derive(Deserialize)]
struct ResponseEnvelope<'a> {
    request_id: Option<String>,
    lease_id: Option<String>,
    lease_duration: Option<i64>,
    renewable: Option<bool>,
    warnings: Option<Vec<String>>,
    #[serde(borrow)]
    data: Option<&'a RawValue>,
    #[serde(borrow)]
    auth: Option<&'a RawValue>,
    #[serde(borrow)]
    wrap_info: Option<&'a RawValue>,
}

impl SecretResponse {
    /// Parses a body. A duplicate envelope field, or one of another type than Vault's, is an error; `data` may be any JSON.
    /// Parsing does not recurse, so deep nesting is safe. The transport limits the body's size.
    pub fn parse(body: Vec<u8>) -> Result<Self, InvalidResponse> {
        let body = Zeroizing::new(body);
        let bytes = body.as_slice();
        // A derived struct would also be read from an array.
        if bytes.trim_ascii_start().first() != Some(&b'{') {
            return Err(InvalidResponse { problem: "not a JSON object", line: 1, column: 1 });
        }
        let envelope: ResponseEnvelope<'_> = serde_json::from_slice(bytes)?;
        let ResponseEnvelope { lease_id, warnings, data, .. } = &envelope;
        let lease_duration = envelope.lease_duration.and_then(|seconds| seconds.try_into().ok()).unwrap_or_default();
        let renewable = envelope.renewable.unwrap_or_default();
        let json_string = |text: &Option<String>| Value::from(text.as_deref().unwrap_or_default()).to_string();
        let head = format!(
            r#"{{"request_id":{},"lease_id":{},"lease_duration":{lease_duration},"renewable":{renewable},"data":"#,
            json_string(&envelope.request_id),
            json_string(lease_id),
        );
        let warnings = warnings.as_deref().filter(|warnings| !warnings.is_empty()).map_or(Value::Null, Value::from);
        let tail = format!(r#","warnings":{warnings}"#);
        let mut pieces = vec![head.as_str(), data.map_or("null", RawValue::get), tail.as_str()];
        for (name, part) in [(r#","auth":"#, envelope.auth), (r#","wrap_info":"#, envelope.wrap_info)] {
            pieces.extend(part.into_iter().flat_map(|part| [name, part.get()]));
        }
        pieces.push("}");
        let (json, starts) = compact_pieces(&pieces);
        Ok(Self {
            data_range: data.map(|_| starts[1]..starts[2]),
            lease_id: envelope.lease_id.unwrap_or_default(),
            lease_duration,
            renewable,
            // These copies are for messages. The text contains all warnings.
            warnings: envelope.warnings.into_iter().flatten().take(MAX_WARNINGS).collect(),
            json: SecretBytes::from(json),
            _reservation: None,
        })
    }

    /// Creates the response for a request of the token itself: its `data` is `{"token": …}`.
    #[must_use]
    pub(super) fn from_token(token: &str) -> Self {
        let mut data = SecretBuffer::default();
        data.append(br#"{"data":{"token":"#);
        // Writing text into memory does not fail.
        let _ = serde_json::to_writer(&mut data, token);
        data.append(b"}}");
        Self::parse(data.into_inner()).unwrap_or_else(|_| unreachable!("it is JSON"))
    }

    /// Attaches the reservation, held until the last clone is dropped. Resizes it first, as escapes may have made the text longer
    /// than the body.
    pub(super) fn with_reservation(self, mut reservation: Reservation) -> Result<Self, RequestError> {
        reservation.resize(self.json.expose().len())?;
        Ok(Self { _reservation: Some(Arc::new(reservation)), ..self })
    }

    /// Returns the JSON text of `data`, as in [`Self::as_json`]; `None` when absent or null.
    #[must_use]
    pub fn data(&self) -> Option<&str> {
        // The parser has checked the text; checking again costs less than an invariant to keep.
        self.json.expose().get(self.data_range.clone()?).and_then(|bytes| str::from_utf8(bytes).ok())
    }

    /// Returns Vault's request ID, which identifies the response in Vault's audit log; `None` when Vault sent none.
    #[must_use]
    pub fn request_id(&self) -> Option<&str> {
        let rest = self.json.expose().strip_prefix(br#"{"request_id":""#)?;
        let id = rest.get(..rest.iter().take(MAX_REQUEST_ID_BYTES + 1).position(|byte| *byte == b'"')?)?;
        let is_plain = !id.is_empty() && id.iter().all(|byte| byte.is_ascii_alphanumeric() || *byte == b'-');
        str::from_utf8(id).ok().filter(|_| is_plain)
    }

    /// Returns true when both responses hold the same data, byte for byte after [`compact_json`]. Other differences between equal
    /// reads (request ID, lease, warnings) do not count.
    #[must_use]
    pub fn has_same_data(&self, other: &Self) -> bool {
        self.data() == other.data()
    }

    /// Returns the whole response as the Go provider 1.7.4 writes it: `request_id`, `lease_id`, `lease_duration`, `renewable`,
    /// `data`, `warnings` (null when there are none), then `auth` and `wrap_info` if the server sent them, on one line.
    ///
    /// The last four are the server's own bytes after [`compact_json`]. Vault and OpenBao respond compact, escaped and
    /// with sorted keys, so nothing changes there. (The Go provider would also sort keys and rewrite `auth` by the
    /// fields it knows; no such server is known.)
    #[must_use]
    pub fn as_json(&self) -> &SecretBytes {
        &self.json
    }
}

impl fmt::Debug for SecretResponse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SecretResponse")
            .field("lease_duration", &self.lease_duration)
            .field("renewable", &self.renewable)
            .field("json", &self.json)
            .finish_non_exhaustive()
    }
}

impl From<serde_json::Error> for InvalidResponse {
    // serde_json's own message may repeat a value.
    fn from(error: serde_json::Error) -> Self {
        let problem = match error.classify() {
            serde_json::error::Category::Data => "a field of another type or a duplicate field,",
            serde_json::error::Category::Eof => "the body ends early,",
            _ => "JSON syntax error",
        };
        Self { problem, line: error.line(), column: error.column() }
    }
}

/// Valid JSON text as Go's `json.Marshal` writes a `RawMessage`: no white space between tokens, `<`, `>`, `&`, U+2028
/// and U+2029 escaped, everything else unchanged. Files contain this form of a value that is not a string.
#[must_use]
pub fn compact_json(json: &str) -> Zeroizing<String> {
    compact_pieces(&[json]).0
}

/// Compacts pieces of one JSON text. No piece may end inside a string. Returns the text and the start of each piece in it.
fn compact_pieces(pieces: &[&str]) -> (Zeroizing<String>, Vec<usize>) {
    // Sized before it is written, so that no outgrown copy of a secret stays in freed memory.
    let mut capacity = 0;
    for piece in pieces {
        for_each_compact_run(piece, |run| capacity += run.len());
    }
    let mut text = Zeroizing::new(String::with_capacity(capacity));
    let mut starts = Vec::with_capacity(pieces.len());
    for piece in pieces {
        starts.push(text.len());
        for_each_compact_run(piece, |run| text.push_str(run));
    }
    (text, starts)
}

/// The first byte of U+2028 and U+2029, and of other characters.
const LINE_SEPARATOR_LEAD_BYTE: u8 = 0xe2;

/// Emits the compacted text run by run. Every character to replace starts with an ASCII byte or
/// [`LINE_SEPARATOR_LEAD_BYTE`].
fn for_each_compact_run<'a>(json: &'a str, mut emit: impl FnMut(&'a str)) {
    let (mut emitted_to, mut position, mut in_string) = (0, 0, false);
    let bytes = json.as_bytes();
    while let Some(run) = bytes[position..].iter().position(|byte| STOP_BYTES[usize::from(*byte)]) {
        position += run;
        let (length, replacement) = match bytes[position] {
            b'"' => {
                in_string = !in_string;
                (1, None)
            }
            // With the character it escapes, which may be a quote.
            b'\\' => (2.min(bytes.len() - position), None),
            b' ' | b'\t' | b'\n' | b'\r' => (1, (!in_string).then_some("")),
            b'<' => (1, Some("\\u003c")),
            b'>' => (1, Some("\\u003e")),
            b'&' => (1, Some("\\u0026")),
            _ if bytes[position..].starts_with("\u{2028}".as_bytes()) => (3, Some("\\u2028")),
            _ if bytes[position..].starts_with("\u{2029}".as_bytes()) => (3, Some("\\u2029")),
            _ => (1, None),
        };
        if let Some(replacement) = replacement {
            emit(&json[emitted_to..position]);
            emit(replacement);
            emitted_to = position + length;
        }
        position += length;
    }
    emit(&json[emitted_to..]);
}

/// The bytes at which [`for_each_compact_run`] stops.
const STOP_BYTES: [bool; 256] = {
    let mut special = [false; 256];
    let stops = *b"\"\\ \t\n\r<>&";
    let mut i = 0;
    while i < stops.len() {
        special[stops[i] as usize] = true;
        i += 1;
    }
    special[LINE_SEPARATOR_LEAD_BYTE as usize] = true;
    special
};

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn response(body: &str) -> SecretResponse {
        SecretResponse::parse(body.as_bytes().to_vec()).unwrap()
    }

    fn json_text(response: &SecretResponse) -> &str {
        str::from_utf8(response.as_json().expose()).unwrap()
    }

    const KV2: &str = r#"{"request_id":"r-1","lease_id":"","renewable":false,"lease_duration":0,"data":{"data":{"n":1.50,"p":"\u003c\u0026"},"metadata":{"version":1}},"wrap_info":null,"warnings":null,"auth":null,"mount_type":"kv"}
"#;

    #[test]
    fn response_as_json_matches_go_provider() {
        for (body, text) in [
            (
                KV2,
                r#"{"request_id":"r-1","lease_id":"","lease_duration":0,"renewable":false,"data":{"data":{"n":1.50,"p":"\u003c\u0026"},"metadata":{"version":1}},"warnings":null}"#,
            ),
            (
                "{}",
                r#"{"request_id":"","lease_id":"","lease_duration":0,"renewable":false,"data":null,"warnings":null}"#,
            ),
            (
                r#"{"request_id":null,"lease_id":"a/<b>\n","lease_duration":3600,"renewable":true,"data":null,"warnings":["a & b"],"auth":{"client_token":"t"},"wrap_info":{"ttl":1}}"#,
                r#"{"request_id":"","lease_id":"a/\u003cb\u003e\n","lease_duration":3600,"renewable":true,"data":null,"warnings":["a \u0026 b"],"auth":{"client_token":"t"},"wrap_info":{"ttl":1}}"#,
            ),
        ] {
            assert_eq!(json_text(&response(body)), text);
        }
    }

    #[test]
    fn compact_json_allocates_exact_capacity() {
        let (text, starts) = compact_pieces(&["\"<<<\u{2028}€–\"", "{\"a\" : \"&&&&&&\u{2029}\\\"<\"}"]);
        assert_eq!(text.get(starts[1]..), Some(r#"{"a":"\u0026\u0026\u0026\u0026\u0026\u0026\u2029\"\u003c"}"#));
        assert_eq!(text.capacity(), text.len());
    }

    #[test]
    fn response_data_keeps_server_encoding() {
        assert_eq!(response(r#"{"data": {"b":"\u003c",  "a":1.0} }"#).data(), Some(r#"{"b":"\u003c","a":1.0}"#));
        assert_eq!(response(r#"{"data":{"a":"<"},"lease_id":"<"}"#).data(), Some(r#"{"a":"\u003c"}"#));
        assert_eq!(response(r#"{"data":null}"#).data(), None);
        assert_eq!(response("{}").data(), None);
        assert_eq!(response(r#"{"data":{"lone":"\ud800"}}"#).data(), Some(r#"{"lone":"\ud800"}"#));
    }

    #[test]
    fn response_has_same_data_ignores_envelope() {
        let (first, second) =
            (response(r#"{"request_id":"1","data":{"a":1}}"#), response(r#"{"request_id":"2","data":{"a":1}}"#));
        assert!(first.has_same_data(&second));
        assert!(!first.has_same_data(&response(r#"{"request_id":"1","data":{"a":2}}"#)));
        assert!(!first.has_same_data(&response("{}")));
    }

    #[test]
    fn compact_json_strips_whitespace_and_escapes_html() {
        for (json, expected) in [
            ("{ \"a b\" :\n[ 1 ,\t2 ]\r\n}", r#"{"a b":[1,2]}"#),
            (r#"{"a\" ": "\\", "b" : " "}"#, r#"{"a\" ":"\\","b":" "}"#),
            ("\"<>&\u{2028}\u{2029}é\"", "\"\\u003c\\u003e\\u0026\\u2028\\u2029é\""),
            ("-0.0e+10", "-0.0e+10"),
        ] {
            assert_eq!(compact_json(json).as_str(), expected, "{json}");
        }
    }

    #[test]
    fn response_parse_error_does_not_repeat_body() {
        for (body, message) in [
            ("", "not a Vault response: not a JSON object at line 1, column 1"),
            ("<html>hunter2", "not a Vault response: not a JSON object at line 1, column 1"),
            ("[]", "not a Vault response: not a JSON object at line 1, column 1"),
            (r#"{"data":"#, "not a Vault response: the body ends early, at line 1, column 8"),
            (r#"{"data":{}} x"#, "not a Vault response: JSON syntax error at line 1, column 13"),
            (
                r#"{"renewable":"hunter2"}"#,
                "not a Vault response: a field of another type or a duplicate field, at line 1, column 22",
            ),
            (
                r#"{"data":1,"data":2}"#,
                "not a Vault response: a field of another type or a duplicate field, at line 1, column 16",
            ),
        ] {
            assert_eq!(SecretResponse::parse(body.into()).map(|_| ()).unwrap_err().to_string(), message, "{body}");
        }
    }

    #[test]
    fn response_lease_duration_accepts_null_and_negative() {
        assert_eq!(response(r#"{"lease_duration":2764800}"#).lease_duration, 2_764_800);
        assert_eq!(response(r#"{"lease_duration":-1}"#).lease_duration, 0);
        assert_eq!(response(r#"{"lease_duration":null}"#).lease_duration, 0);
    }

    #[test]
    fn response_debug_redacts_secrets() {
        let shown = format!("{:?}", response(r#"{"data":{"hunter1":"hunter2"},"auth":{"client_token":"hunter3"}}"#));
        assert!(!shown.contains("hunter"), "{shown}");
    }

    #[test]
    fn response_parse_accepts_deep_nesting() {
        let deep = format!(r#"{{"data":{}{}}}"#, "[".repeat(500_000), "]".repeat(500_000));
        assert_eq!(
            response(&deep).as_json().len(),
            deep.len() + r#""request_id":"","lease_id":"","lease_duration":0,"renewable":false,,"warnings":null"#.len()
        );
    }

    proptest! {
        #[test]
        fn response_parse_never_panics(body: Vec<u8>) {
            let _ = SecretResponse::parse(body);
        }

        #[test]
        fn response_as_json_escapes_any_text(id: String, value: String) {
            let body = serde_json::json!({"request_id": id, "data": {"value": value}}).to_string();
            let answer = response(&body);
            let whole = json_text(&answer);
            let read: Value = serde_json::from_str(whole).unwrap();
            prop_assert_eq!(&read["request_id"], &Value::from(id));
            prop_assert_eq!(&read["data"]["value"], &Value::from(value));
            let unescaped = ['<', '>', '&', '\u{2028}', '\u{2029}'];
            prop_assert!(!whole.contains(unescaped));
        }
    }
}
