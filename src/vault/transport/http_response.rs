//! HTTP response with a bounded body.

use std::{pin::pin, time::Duration};

use http::{HeaderMap, StatusCode, header};
use http_body_util::BodyExt;
use hyper_util::client::legacy::connect::CaptureConnection;
use jiff::Timestamp;

use crate::{
    secret::SecretBuffer,
    vault::{connect::innermost_message, error::RequestError, memory_budget::Reservation},
};

/// Response to one request.
pub(super) struct HttpResponse {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) body: ResponseBody,
    pub(super) connection: CaptureConnection,
}

/// Response body with its memory reservation.
pub(in crate::vault) struct ResponseBody {
    /// The body.
    pub(in crate::vault) bytes: Vec<u8>,
    /// Reservation for `bytes`.
    pub(in crate::vault) reservation: Reservation,
}

impl HttpResponse {
    /// Closes this connection to further requests. The next request uses another connection, which may lead to another server
    /// behind the same address.
    pub(super) fn avoid_connection(&self) {
        if let Some(connection) = &*self.connection.connection_metadata() {
            connection.poison();
        }
    }

    /// Parses the `Date` header, which has the format of email dates (RFC 2822).
    pub(super) fn date(&self) -> Option<Timestamp> {
        jiff::fmt::rfc2822::DateTimeParser::new().parse_timestamp(self.headers.get(header::DATE)?).ok()
    }

    /// Parses `Retry-After` in seconds, limited to an hour. Vault does not use the date form.
    pub(super) fn retry_after(&self) -> Option<Duration> {
        let seconds: u64 = self.headers.get(header::RETRY_AFTER)?.to_str().ok()?.trim().parse().ok()?;
        Some(Duration::from_secs(seconds.min(3600)))
    }
}

impl ResponseBody {
    /// Reads the whole body, at most `max_bytes`, and reserves its memory.
    ///
    /// The buffer never leaves an unzeroed copy behind when it grows.
    pub(super) async fn read(
        body: hyper::body::Incoming,
        max_bytes: usize,
        mut reservation: Reservation,
        mutating: bool,
    ) -> Result<Self, RequestError> {
        let expected_bytes =
            hyper::body::Body::size_hint(&body).exact().and_then(|n| usize::try_from(n).ok()).unwrap_or(4096);
        if expected_bytes > max_bytes {
            return Err(RequestError::ResponseTooLarge(max_bytes));
        }
        let mut capacity = expected_bytes;
        reservation.resize(capacity)?;
        let mut buffer = SecretBuffer::with_capacity(capacity);
        let mut body = pin!(body);
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|e| RequestError::ConnectionLost { detail: innermost_message(&e), mutating })?;
            let Some(data) = frame.data_ref() else { continue };
            if buffer.len() + data.len() > max_bytes {
                return Err(RequestError::ResponseTooLarge(max_bytes));
            }
            let needed = buffer.len() + data.len();
            if needed > capacity {
                // Same growth as in `SecretBuffer::append`.
                capacity = needed.next_power_of_two();
                reservation.resize(capacity)?;
            }
            buffer.append(data);
        }
        Ok(Self { bytes: buffer.into_inner(), reservation })
    }
}
