//! Metrics: `GET /metrics`.

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;

use super::page;
use crate::{metrics::CONTENT_TYPE, mount::Mounter};

/// Where metrics are, for whoever asks elsewhere.
pub(super) const WHERE: &str = "metrics are at /metrics\n";

pub(super) async fn answer<B>(request: &Request<B>, mounter: &Mounter) -> Option<Response<Full<Bytes>>> {
    if request.method() != Method::GET || request.uri().path() != "/metrics" {
        return None;
    }
    let levels = mounter.levels().await;
    Some(page(StatusCode::OK, CONTENT_TYPE, mounter.sessions.metrics().encode(&levels)))
}
