//! What is asked after a failure, to make it clearer. Never before one; what cannot be learnt changes nothing.

use std::time::Duration;

use serde::Deserialize;
use tokio::time::Instant;
use vaultrs::api::auth::kubernetes::requests::LoginWithKubernetesRequest;

use super::{Client, Token, health::State};
use crate::{
    metrics::AuthKind,
    vault::{failure::AuthMethod, failure::Failure, near::Spot, transport::Call, wire::Read},
};

/// The most time that a failure takes to become clearer.
const ASIDE: Duration = Duration::from_secs(2);

/// By when something of this kind must be answered: the caller still wants to hear of the failure.
fn aside(deadline: Instant) -> Instant {
    let now = Instant::now();
    now + (deadline.saturating_duration_since(now) / 2).min(ASIDE)
}

impl Client {
    /// What takes logins at an auth mount. Vault denies one at a path without a mount, or with a mount of another kind, as
    /// it denies one that a TokenReview refused. One without a token is denied only where no method is to miss it, and each
    /// method misses it in its own words.
    pub async fn auth_method(
        &self,
        mount: &str,
        namespace: Option<&str>,
        role: &str,
        deadline: Instant,
    ) -> Option<AuthMethod> {
        let nobody = LoginWithKubernetesRequest { mount: mount.to_owned(), role: role.to_owned(), jwt: String::new() };
        let request = self.build(&nobody, None, namespace).ok()?;
        let call = Call::until(aside(deadline));
        let Err(Failure::Refused(refusal)) = self.send(request, call).await else { return None };
        let kind = refusal.auth_kind();
        self.shared.methods.learn(namespace, mount, kind);
        match kind {
            AuthKind::Kubernetes => Some(AuthMethod::Kubernetes),
            AuthKind::Jwt => Some(AuthMethod::Jwt),
            AuthKind::Unknown => refusal.is_bare_denial().then_some(AuthMethod::None),
        }
    }

    /// What there is near a path where a read found nothing, in a line; nothing where the token may not list, or has few uses
    /// left for the secrets themselves.
    pub async fn near(&self, token: &Token, namespace: Option<&str>, read: &Read, deadline: Instant) -> Option<String> {
        #[derive(Deserialize)]
        struct Listed {
            keys: Vec<String>,
        }
        let engine = self.known_engine(namespace, &read.path).filter(|_| token.num_uses == 0)?;
        let deadline = aside(deadline);
        let spots = Spot::all(read, &engine);
        for (steps_left, spot) in (0..spots.len()).rev().zip(&spots) {
            let keys = match self.read(token, namespace, &spot.list(), deadline).await {
                Ok(reading) => serde_json::from_str::<Listed>(reading.answer.data()?).ok()?.keys,
                Err(Failure::Refused(refusal)) if refusal.status == 404 && steps_left == 0 => Vec::new(),
                Err(Failure::Refused(refusal)) if refusal.status == 404 => continue,
                Err(_) => return None,
            };
            return Some(spot.told(&keys));
        }
        None
    }

    /// Whether a server that says it is sealed was never initialized.
    pub(super) async fn is_uninitialized(&self, deadline: Instant) -> bool {
        self.health(aside(deadline)).await.is_ok_and(|health| health.state == State::Uninitialized)
    }
}
