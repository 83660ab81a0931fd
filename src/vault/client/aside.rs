//! What is asked after a failure, to make it clearer. Never before one; what cannot be learnt changes nothing.

use std::time::Duration;

use tokio::time::Instant;
use vaultrs::api::auth::kubernetes::requests::LoginWithKubernetesRequest;

use super::{Client, inspect::State};
use crate::vault::{failure::Failure, transport::Call};

/// The most time that a failure takes to become clearer.
const ASIDE: Duration = Duration::from_secs(2);

/// By when something of this kind must be answered: the caller still wants to hear of the failure.
fn aside(deadline: Instant) -> Instant {
    let now = Instant::now();
    now + (deadline.saturating_duration_since(now) / 2).min(ASIDE)
}

impl Client {
    /// Whether nothing at an auth mount takes logins of service accounts. Vault denies one at a path without a mount, or
    /// with a mount of another kind, as it denies one that a TokenReview refused. One without role and token is denied only
    /// where no method is to miss them.
    pub async fn is_unmounted(&self, mount: &str, namespace: Option<&str>, deadline: Instant) -> bool {
        let nobody = LoginWithKubernetesRequest { mount: mount.to_owned(), role: String::new(), jwt: String::new() };
        let Ok(request) = self.build(&nobody, None, namespace) else { return false };
        let call = Call { creates: false, deadline: aside(deadline) };
        match self.shared.transport.send(request, call).await {
            Err(Failure::Refused(refusal)) => refusal.status == 403,
            _ => false,
        }
    }

    /// Whether a server that says it is sealed was never initialized.
    pub(super) async fn is_uninitialized(&self, deadline: Instant) -> bool {
        self.health(aside(deadline)).await.is_ok_and(|health| health.state == State::Uninitialized)
    }
}
