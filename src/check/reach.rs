//! The way to the server, and how it is.

use jiff::Timestamp;

use super::{Check, Step, span};
use crate::{
    error::Cause,
    mount::Way,
    vault::{
        Address, Endpoint,
        client::health::{Health, State},
        failure::RequestError,
    },
};

/// Clocks that are further apart than this, in seconds, make tokens fail: the jwt method forgives 60 s or more.
pub(super) const CLOCKS_APART: i64 = 60;

/// A certificate that ends so soon is worth a look, in seconds.
const SOON: i64 = 24 * 3600;

impl Check<'_> {
    /// Address, TLS and health: one request shows them all.
    pub(super) async fn reach(&self, way: &Way, tell: &mut impl FnMut(Step)) -> Result<(), Step> {
        let endpoint = &way.target.endpoint;
        let choice = &self.spec.class.choice;
        let from = match (&choice.address, &choice.endpoint) {
            (Some(_), _) => "from the class".to_owned(),
            (None, Some(name)) => format!("endpoint {name} of the policy file"),
            (None, None) => "from flags or environment".to_owned(),
        };
        let address = Step::good("address", format!("{} ({from})", endpoint.address));
        let client = way.session.endpoint().map_err(|error| Step::failed("TLS", error))?;
        let asked = client.health(self.deadline()).await;
        if let Err(failure) = &asked {
            let error = failure.explain_transport(client.address());
            if is_about_tls(error.cause()) {
                tell(address.at_once());
                return Err(Step::failed("TLS", error));
            }
            if matches!(failure, RequestError::Connect(_)) {
                let of_class = self.spec.class.choice.address.is_some();
                let error = if of_class { error.about("the class's own address") } else { error };
                return Err(Step::failed("address", error));
            }
        }
        tell(address.at_once());
        let is_verified = matches!(endpoint.address, Address::Tcp { https: true, .. }) && !endpoint.tls.skip_verify;
        let end = if is_verified { client.certificate_end(self.deadline()).await } else { None };
        tell(secrecy(endpoint, end).at_once());
        match asked {
            Ok(health) => match health.problem(client.address()) {
                Some(problem) => return Err(Step::failed("health", problem)),
                None => tell(healthy(&health)),
            },
            Err(failure) => {
                let error = failure.explain_transport(client.address());
                // What stands before it may let logins pass and this not.
                let may_be_the_path = matches!(failure, RequestError::ErrorResponse(_) | RequestError::NotVault(_));
                if !may_be_the_path || error.is_passing() {
                    return Err(Step::failed("health", error));
                }
                tell(Step::odd("health", format!("sys/health does not tell: {}", error.what())));
            }
        }
        Ok(())
    }
}

/// Who can read along, and how long the certificate still says nobody.
fn secrecy(endpoint: &Endpoint, end: Option<Timestamp>) -> Step {
    match &endpoint.address {
        Address::Unix(_) => Step::skipped("TLS", "a unix socket"),
        Address::Tcp { https: false, .. } => {
            Step::odd("TLS", "http: whoever sits between reads the token and every secret")
        }
        Address::Tcp { .. } if endpoint.tls.skip_verify => {
            Step::odd("TLS", "the certificate is not verified: whoever sits between reads every secret")
        }
        Address::Tcp { .. } => {
            let trusted = "the certificate is trusted, and for this name";
            let left = end.map(|end| (end, end.as_second() - Timestamp::now().as_second()));
            match left {
                Some((end, left)) if left < SOON => {
                    Step::odd("TLS", format!("{trusted}, but only until {end}, which is in {}", span(left)))
                }
                Some((end, _)) => Step::good("TLS", format!("{trusted}, until {end}")),
                None => Step::good("TLS", trusted),
            }
        }
    }
}

fn healthy(health: &Health) -> Step {
    let role = if health.state == State::Standby { "standby" } else { "active" };
    let state = format!("unsealed, {role}, version {}", health.version);
    let Some(apart) = health.clock.map(|theirs| theirs - Timestamp::now().as_second()) else {
        return Step::good("health", state);
    };
    if apart.abs() <= CLOCKS_APART {
        return Step::good("health", format!("{state}; the clocks agree"));
    }
    let (apart, way) = (apart.abs(), if apart > 0 { "ahead of" } else { "behind" });
    let id = Cause::ClockSkew.id();
    Step::odd(
        "health",
        format!("{state}; its clock is {apart} s {way} this machine's, and tokens may fail for it [{id}]"),
    )
}

fn is_about_tls(cause: Cause) -> bool {
    cause.is_tls() || matches!(cause, Cause::PlainToTls | Cause::TlsToPlain)
}
