//! Metrics: `GET /metrics`.

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header::ACCEPT};
use http_body_util::Full;

use super::{AdminState, response};
use crate::observe::metrics::TextFormat;

/// Text about this route in 404 responses.
pub(super) const USAGE: &str = "metrics are at /metrics\n";

pub(super) async fn respond<B>(request: &Request<B>, state: &AdminState) -> Option<Response<Full<Bytes>>> {
    if request.method() != Method::GET || request.uri().path() != "/metrics" {
        return None;
    }
    // One header line may be split into several: RFC 9110, section 5.3.
    let accept: Vec<&str> = request.headers().get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok()).collect();
    let format = TextFormat::from_accept(&accept.join(","));
    let gauges = state.inspector.gauges().await;
    Some(response(StatusCode::OK, format.content_type(), state.metrics.encode(&gauges, format)))
}
