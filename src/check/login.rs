//! Checks the service account token and the login.

use jiff::Timestamp;

use super::{Check, Step, connectivity::MAX_CLOCK_SKEW_SECONDS, format_seconds};
use crate::{
    error::{Cause, Error},
    mount::MountContext,
    request::token::{self, ExpectedClaims},
    vault::client::VaultToken,
};

impl Check<'_> {
    /// Checks the claims of the service account token.
    pub(super) fn check_token(&self) -> Result<Step, Step> {
        let audience = self.spec.class.audience.as_deref().unwrap_or(self.default_audience);
        let pod = &self.spec.pod;
        if let Some(error) = &self.missing_token_error {
            return Err(Step::fail("token", self.manual_token_error(error.clone(), audience)));
        }
        let Some(jwt) = self.spec.tokens.for_audience(audience) else {
            let error = Error::new(Cause::TokenMissing, format!("no service account token for audience {audience:?}"));
            return Err(Step::fail(
                "token",
                error.with_fix(format!(
                    "pass one with --token-file ({} > token), or pass --kubeconfig to request one",
                    self.create_token_command(audience)
                )),
            ));
        };
        let now = Timestamp::now();
        let claims = token::inspect(jwt, &ExpectedClaims { audience: Some(audience), pod, now });
        let claims = claims.map_err(|error| Step::fail("token", self.manual_token_error(error, audience)))?;
        if !token::is_jwt(jwt) {
            let error = Error::new(
                Cause::TokenMissing,
                format!("{} does not contain a service account token", self.token_source),
            );
            let create_command = self.create_token_command(audience);
            return Err(Step::fail(
                "token",
                error.with_fix(format!(
                    "a token is one line of three parts, separated by dots: {create_command} > token"
                )),
            ));
        }
        let Some(expires_at) = claims.expires_at else {
            let warning = "it has no expiry, as tokens in Secrets have none; use one of kubectl create token, which roles require";
            return Ok(Step::warn("token", format!("{}: {warning}", self.token_source)));
        };
        let identity = format!("{}: of service account {}/{}", self.token_source, pod.namespace, pod.service_account);
        let audiences = claims.audiences.unwrap_or_default().join(", ");
        let remaining = format_seconds(expires_at.as_second() - now.as_second());
        let seconds_until_valid = claims.not_before.map_or(0, |begin| begin.as_second() - now.as_second());
        if seconds_until_valid > MAX_CLOCK_SKEW_SECONDS {
            let (starts_in, id) = (format_seconds(seconds_until_valid), Cause::ClockSkew.id());
            let warning = format!(
                "{identity}, for {audiences}; it is not valid for another {starts_in}: this machine's clock or the API server's is wrong [{id}]"
            );
            return Ok(Step::warn("token", warning));
        }
        Ok(Step::pass("token", format!("{identity}, for {audiences}, valid for {remaining}")))
    }

    /// Returns the command that creates a token.
    fn create_token_command(&self, audience: &str) -> String {
        let pod = &self.spec.pod;
        format!("kubectl create token {} -n {} --audience {audience}", pod.service_account, pod.namespace)
    }

    /// Adapts the fix of a token error to a token that a person passed or requested.
    fn manual_token_error(&self, error: Error, audience: &str) -> Error {
        let create_command = self.create_token_command(audience);
        match error.cause() {
            Cause::TokenIdentity => error.with_fix(format!(
                "set --namespace and --service-account to the pod's, or pass its token: {create_command}"
            )),
            Cause::TokenAudience => {
                error.with_fix(format!("pass a token for it ({create_command}), or correct the class's audience"))
            }
            Cause::TokenExpired => error.with_fix(format!("pass a fresh token: {create_command}")),
            Cause::KubernetesConfig | Cause::KubernetesApi | Cause::TokenRequest => {
                let fix = error.fix().map(|fix| format!("{fix}; or ")).unwrap_or_default();
                error.with_fix(format!(
                    "{fix}create one yourself and pass it with --token-file: {create_command} > token"
                ))
            }
            _ => error,
        }
    }

    pub(super) fn login_step(&self, context: &MountContext, token: &VaultToken) -> Step {
        let target = &context.target;
        let namespace = target.auth_namespace.as_ref().map(|name| format!(" in Vault namespace {name}"));
        let kind = if token.is_batch { "batch token" } else { "token" };
        let lifetime = if token.ttl.is_zero() {
            "that never expires".to_owned()
        } else {
            format!("for {}", format_seconds(i64::try_from(token.ttl.as_secs()).unwrap_or(i64::MAX)))
        };
        let uses = if token.num_uses > 0 { format!(", {} uses", token.num_uses) } else { String::new() };
        let detail = format!(
            "auth/{}{}, role {:?}: policies {}; {kind} {lifetime}{uses}",
            target.auth_mount,
            namespace.unwrap_or_default(),
            self.spec.class.role,
            token.policies.join(", ")
        );
        if token.policies.iter().any(|policy| policy == "root") {
            return Step::warn(
                "login",
                format!("{detail}; policy root allows everything, also to an attacker in this pod"),
            );
        }
        Step::pass("login", detail)
    }
}
