//! Probes: `/livez`, `/readyz` and `/health/ready`.

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::Full;

use super::text;

/// Where probes are, for whoever asks elsewhere.
pub(super) const WHERE: &str = "probes are at /livez, /readyz and /health/ready\n";

/// Existing charts ask `/health/ready` for liveness too, so it says yes from bind to exit; `/readyz` says no while draining.
pub(super) fn answer<B>(request: &Request<B>, stopping: bool) -> Option<Response<Full<Bytes>>> {
    match request.uri().path() {
        "/readyz" if stopping => Some(text(StatusCode::SERVICE_UNAVAILABLE, "draining\n")),
        "/livez" | "/readyz" | "/health/ready" => Some(text(StatusCode::OK, "ok\n")),
        _ => None,
    }
}
