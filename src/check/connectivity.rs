//! Checks the address, TLS and health of the server.

use jiff::Timestamp;

use super::{Check, Step, format_seconds};
use crate::{
    error::Cause,
    mount::MountContext,
    vault::{
        Address, Endpoint,
        client::health::{Health, NodeState},
        error::RequestError,
    },
};

/// Clock skew above which tokens may be rejected, in seconds. The jwt method tolerates 60 s or more.
pub(super) const MAX_CLOCK_SKEW_SECONDS: i64 = 60;

/// Remaining validity below which a certificate causes a warning, in seconds.
const EXPIRY_WARNING_SECONDS: i64 = 24 * 3600;

impl Check<'_> {
    /// Checks address, TLS and health with one request.
    pub(super) async fn check_connectivity(
        &self,
        context: &MountContext,
        on_step: &mut impl FnMut(Step),
    ) -> Result<(), Step> {
        let endpoint = &context.target.endpoint;
        let choice = &self.spec.class.choice;
        let address_source = match (&choice.address, &choice.endpoint) {
            (Some(_), _) => "from the class".to_owned(),
            (None, Some(name)) => format!("endpoint {name} of the policy file"),
            (None, None) => "from flags or environment".to_owned(),
        };
        let address = Step::pass("address", format!("{} ({address_source})", endpoint.address));
        let client = context.session.vault_client().map_err(|error| Step::fail("TLS", error))?;
        let health_result = client.health(self.step_deadline()).await;
        if let Err(failure) = &health_result {
            let error = failure.explain_transport(client.address());
            if is_tls_cause(error.cause()) {
                on_step(address.timed_with_next());
                return Err(Step::fail("TLS", error));
            }
            if matches!(failure, RequestError::Connect(_)) {
                let is_from_class = self.spec.class.choice.address.is_some();
                let error = if is_from_class { error.with_subject("the class's own address") } else { error };
                return Err(Step::fail("address", error));
            }
        }
        on_step(address.timed_with_next());
        let is_verified = matches!(endpoint.address, Address::Tcp { https: true, .. }) && !endpoint.tls.skip_verify;
        let certificate_expires_at =
            if is_verified { client.fetch_certificate_expiry(self.step_deadline()).await } else { None };
        on_step(tls_step(endpoint, certificate_expires_at).timed_with_next());
        match health_result {
            Ok(health) => match health.unavailable_error(client.address()) {
                Some(problem) => return Err(Step::fail("health", problem)),
                None => on_step(health_step(&health)),
            },
            Err(failure) => {
                let error = failure.explain_transport(client.address());
                // A proxy may block sys/health but allow logins.
                let may_be_blocked_path = matches!(failure, RequestError::ErrorResponse(_) | RequestError::NotVault(_));
                if !may_be_blocked_path || error.is_transient() {
                    return Err(Step::fail("health", error));
                }
                on_step(Step::warn("health", format!("sys/health is unavailable: {}", error.summary())));
            }
        }
        Ok(())
    }
}

/// Reports the TLS verification and the remaining validity of the certificate.
fn tls_step(endpoint: &Endpoint, certificate_expires_at: Option<Timestamp>) -> Step {
    match &endpoint.address {
        Address::Unix(_) => Step::skip("TLS", "a unix socket"),
        Address::Tcp { https: false, .. } => {
            Step::warn("TLS", "http: an attacker on the network path can read the token and every secret")
        }
        Address::Tcp { .. } if endpoint.tls.skip_verify => {
            Step::warn("TLS", "the certificate is not verified: an attacker on the network path can read every secret")
        }
        Address::Tcp { .. } => {
            let trusted = "the certificate is trusted and valid for this name";
            let remaining = certificate_expires_at.map(|end| (end, end.as_second() - Timestamp::now().as_second()));
            match remaining {
                Some((end, seconds)) if seconds < EXPIRY_WARNING_SECONDS => {
                    Step::warn("TLS", format!("{trusted}, but expires in {}, at {end}", format_seconds(seconds)))
                }
                Some((end, _)) => Step::pass("TLS", format!("{trusted}, until {end}")),
                None => Step::pass("TLS", trusted),
            }
        }
    }
}

fn health_step(health: &Health) -> Step {
    let role = if health.state == NodeState::Standby { "standby" } else { "active" };
    let state = format!("unsealed, {role}, version {}", health.version);
    let Some(skew) = health.server_time_seconds.map(|theirs| theirs - Timestamp::now().as_second()) else {
        return Step::pass("health", state);
    };
    if skew.abs() <= MAX_CLOCK_SKEW_SECONDS {
        return Step::pass("health", format!("{state}; the clocks agree"));
    }
    let (skew_seconds, direction) = (skew.abs(), if skew > 0 { "ahead of" } else { "behind" });
    let id = Cause::ClockSkew.id();
    Step::warn(
        "health",
        format!(
            "{state}; its clock is {skew_seconds} s {direction} this machine's, so that tokens may be rejected [{id}]"
        ),
    )
}

fn is_tls_cause(cause: Cause) -> bool {
    cause.is_tls() || matches!(cause, Cause::PlainToTls | Cause::TlsToPlain)
}
