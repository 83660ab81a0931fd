//! Metrics: `GET /metrics`.

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;

use super::page;
use crate::{metrics::CONTENT_TYPE, renewal::Renewal};

/// Where metrics are, for whoever asks elsewhere.
pub(super) const WHERE: &str = "metrics are at /metrics\n";

pub(super) fn answer<B>(request: &Request<B>, renewal: &Renewal) -> Option<Response<Full<Bytes>>> {
    let is_ours = request.method() == Method::GET && request.uri().path() == "/metrics";
    is_ours.then(|| page(StatusCode::OK, CONTENT_TYPE, renewal.metrics().encode(&renewal.levels())))
}
