//! Probes: `/livez`, `/readyz` and `/health/ready`.

use std::sync::OnceLock;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use tokio::sync::watch;

use super::text_response;
use crate::single_flight::SingleFlight;

/// Text about these routes in 404 responses.
pub(super) const USAGE: &str = "probes are at /livez, /readyz and /health/ready\n";

/// State of the process for liveness and readiness probes.
pub struct Probes {
    phase: watch::Sender<Phase>,
    liveness_check: OnceLock<LivenessCheck>,
    /// Shares one check of the sockets between concurrent probes.
    check_in_flight: SingleFlight<Result<(), String>>,
}

/// Check that the sockets answer. The error names the socket that does not.
pub type LivenessCheck = Box<dyn Fn() -> BoxFuture<'static, Result<(), String>> + Send + Sync>;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Sockets are not bound yet.
    Starting,
    Serving,
    /// Only calls in flight are answered.
    Draining,
}

impl Default for Probes {
    fn default() -> Self {
        Self {
            phase: watch::Sender::new(Phase::Starting),
            liveness_check: OnceLock::new(),
            check_in_flight: SingleFlight::default(),
        }
    }
}

impl Probes {
    /// Marks the process as serving its sockets.
    pub fn start_serving(&self, liveness_check: LivenessCheck) {
        if self.liveness_check.set(liveness_check).is_ok() {
            self.phase.send_replace(Phase::Serving);
        }
    }

    /// Marks the process as draining.
    pub fn start_draining(&self) {
        self.phase.send_replace(Phase::Draining);
    }

    /// Returns the phase as a word.
    pub(super) fn as_str(&self) -> &'static str {
        match *self.phase.borrow() {
            Phase::Starting => "starting",
            Phase::Serving => "serving",
            Phase::Draining => "draining",
        }
    }

    /// Answers a probe. Returns `None` for other paths.
    ///
    /// `/health/ready` always succeeds, because existing charts use it for liveness too. `/readyz` succeeds while the sockets are
    /// served, even if Vault is down: polls of running pods must still be answered from the cache. `/livez` fails if a socket that
    /// should answer does not.
    pub(super) async fn respond<B>(&self, request: &Request<B>) -> Option<Response<Full<Bytes>>> {
        let phase = *self.phase.borrow();
        let failure = match request.uri().path() {
            "/readyz" => (phase != Phase::Serving).then(|| self.as_str().to_owned()),
            "/livez" if phase == Phase::Serving => self.check_liveness().await.err(),
            "/livez" | "/health/ready" => None,
            _ => return None,
        };
        Some(match failure {
            None => text_response(StatusCode::OK, "ok\n"),
            Some(failure) => text_response(StatusCode::SERVICE_UNAVAILABLE, failure + "\n"),
        })
    }

    async fn check_liveness(&self) -> Result<(), String> {
        let Some(check) = self.liveness_check.get() else { return Ok(()) };
        self.check_in_flight
            .join(check)
            .await
            .unwrap_or_else(|| Err("internal error: the liveness check panicked; see the log".to_owned()))
    }
}
