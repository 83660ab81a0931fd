//! Probes: `/livez`, `/readyz` and `/health/ready`.

use std::sync::OnceLock;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use tokio::sync::watch;

use super::text_response;
use crate::single_flight::SingleFlight;

/// Where probes are, for whoever asks elsewhere.
pub(super) const USAGE: &str = "probes are at /livez, /readyz and /health/ready\n";

/// How the process stands, for those who start and end it.
pub struct Probes {
    phase: watch::Sender<Phase>,
    liveness_check: OnceLock<LivenessCheck>,
    /// However many ask at once, its sockets are asked once.
    check_in_flight: SingleFlight<Result<(), String>>,
}

/// Finds out whether its sockets answer; the error says which does not.
pub type LivenessCheck = Box<dyn Fn() -> BoxFuture<'static, Result<(), String>> + Send + Sync>;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// There is no socket yet.
    Starting,
    Serving,
    /// Calls in flight are answered, and no others.
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
    /// The sockets are served from now on.
    pub fn start_serving(&self, liveness_check: LivenessCheck) {
        if self.liveness_check.set(liveness_check).is_ok() {
            self.phase.send_replace(Phase::Serving);
        }
    }

    /// The process is about to end.
    pub fn start_draining(&self) {
        self.phase.send_replace(Phase::Draining);
    }

    /// How it stands, in a word.
    pub(super) fn as_str(&self) -> &'static str {
        match *self.phase.borrow() {
            Phase::Starting => "starting",
            Phase::Serving => "serving",
            Phase::Draining => "draining",
        }
    }

    /// Existing charts ask `/health/ready` for liveness too, so it says yes from the first moment to the last. `/readyz` says yes
    /// while the sockets are served, whether Vault is there or not: without it, running pods keep what they have, and their polls
    /// are to be answered. `/livez` says no when a socket does not answer that should.
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
            .unwrap_or_else(|| Err("asking the sockets panicked; see the log".to_owned()))
    }
}
