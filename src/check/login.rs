//! Who logs in: the service account token, and what Vault makes of it.

use jiff::Timestamp;

use super::{Check, Step, reach::CLOCKS_APART, span};
use crate::{
    error::{Cause, Error},
    mount::Way,
    request::token::{self, Expected},
    vault::client::VaultToken,
};

impl Check<'_> {
    /// What the service account token says of itself.
    pub(super) fn token(&self) -> Result<Step, Step> {
        let audience = self.spec.class.audience.as_deref().unwrap_or(self.audience);
        let pod = &self.spec.pod;
        if let Some(error) = &self.no_token {
            return Err(Step::failed("token", self.by_hand(error.clone(), audience)));
        }
        let Some(jwt) = self.spec.tokens.for_audience(audience) else {
            let error =
                Error::new(Cause::TokenMissing, format!("there is no service account token for audience {audience:?}"));
            return Err(Step::failed(
                "token",
                error.advice(format!(
                    "give one with --token-file ({} > token), or a --kubeconfig to request one",
                    self.fresh(audience)
                )),
            ));
        };
        let now = Timestamp::now();
        let claims = token::look(jwt, &Expected { audience: Some(audience), pod, now });
        let claims = claims.map_err(|error| Step::failed("token", self.by_hand(error, audience)))?;
        if !token::is_jwt(jwt) {
            let error = Error::new(Cause::TokenMissing, format!("{} holds no service account token", self.token_from));
            let fresh = self.fresh(audience);
            return Err(Step::failed(
                "token",
                error.advice(format!("a token is one line of three parts with dots between: {fresh} > token")),
            ));
        }
        let Some(end) = claims.expires else {
            let odd = "it names no end, as tokens in Secrets do; roles want one of kubectl create token";
            return Ok(Step::odd("token", format!("{}: {odd}", self.token_from)));
        };
        let of = format!("{}: of service account {}/{}", self.token_from, pod.namespace, pod.service_account);
        let audiences = claims.audiences.unwrap_or_default().join(", ");
        let left = span(end.as_second() - now.as_second());
        let begins = claims.begins.map_or(0, |begin| begin.as_second() - now.as_second());
        if begins > CLOCKS_APART {
            let (begins, id) = (span(begins), Cause::ClockSkew.id());
            let odd = format!(
                "{of}, for {audiences}; it begins in {begins}: this machine's clock or the API server's is wrong [{id}]"
            );
            return Ok(Step::odd("token", odd));
        }
        Ok(Step::good("token", format!("{of}, for {audiences}, valid for {left}")))
    }

    /// The command that makes a token.
    fn fresh(&self, audience: &str) -> String {
        let pod = &self.spec.pod;
        format!("kubectl create token {} -n {} --audience {audience}", pod.service_account, pod.namespace)
    }

    /// The error of a token that a person brought or asked for, and no driver.
    fn by_hand(&self, error: Error, audience: &str) -> Error {
        let fresh = self.fresh(audience);
        match error.cause() {
            Cause::TokenIdentity => {
                error.advice(format!("set --namespace and --service-account to the pod's, or bring its token: {fresh}"))
            }
            Cause::TokenAudience => {
                error.advice(format!("bring one for it ({fresh}), or correct the class's audience"))
            }
            Cause::TokenExpired => error.advice(format!("bring a fresh one: {fresh}")),
            Cause::KubernetesConfig | Cause::KubernetesApi | Cause::TokenRequest => {
                let mend = error.next_step().map(|mend| format!("{mend}; or ")).unwrap_or_default();
                error.advice(format!("{mend}make one yourself and name it with --token-file: {fresh} > token"))
            }
            _ => error,
        }
    }

    pub(super) fn login(&self, way: &Way, token: &VaultToken) -> Step {
        let target = &way.target;
        let namespace = target.auth_namespace.as_ref().map(|name| format!(" in Vault namespace {name}"));
        let kind = if token.is_batch { "batch token" } else { "token" };
        let life = if token.ttl.is_zero() {
            "without end".to_owned()
        } else {
            format!("for {}", span(i64::try_from(token.ttl.as_secs()).unwrap_or(i64::MAX)))
        };
        let uses = if token.num_uses > 0 { format!(", {} uses", token.num_uses) } else { String::new() };
        let detail = format!(
            "auth/{}{}, role {:?}: policies {}; {kind} {life}{uses}",
            target.auth_mount,
            namespace.unwrap_or_default(),
            self.spec.class.role,
            token.policies.join(", ")
        );
        if token.policies.iter().any(|policy| policy == "root") {
            return Step::odd(
                "login",
                format!("{detail}; policy root allows everything, also to whoever has this pod"),
            );
        }
        Step::good("login", detail)
    }
}
