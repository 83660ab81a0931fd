//! Cleans up the resources that a check created in Vault.

use std::sync::Arc;

use super::{Check, Step, format_count, format_seconds};
use crate::{
    cache::CachedSecret,
    error::Cause,
    mount::MountContext,
    vault::{client::VaultToken, request::Method, request::SecretRequest},
};

/// Resources created so far.
#[derive(Default)]
pub(super) struct CreatedResources {
    /// Every token from a login. Tokens with limited uses require several logins.
    tokens: Vec<Arc<VaultToken>>,
    lease_count: usize,
    /// Descriptions of resources that do not, or may not, expire with their token.
    leftovers: Vec<String>,
    /// Path of the mutating request in flight, if any.
    in_flight_path: Option<String>,
}

impl CreatedResources {
    /// Records the session's current token.
    pub(super) fn add_token(&mut self, context: &MountContext) {
        let token = context.session.last_login_token();
        self.tokens.extend(token.filter(|token| !self.tokens.iter().any(|known| Arc::ptr_eq(known, token))));
    }

    /// Records a mutating request before it is sent.
    pub(super) fn add_request(&mut self, request: &SecretRequest) {
        self.in_flight_path = Some(request.path.clone());
    }

    /// Records the response of a mutating request.
    pub(super) fn record_created(&mut self, request: &SecretRequest, secret: &CachedSecret) {
        self.in_flight_path = None;
        if secret.response.lease_id.is_empty() {
            self.leftovers.push(describe_created(request, secret));
        } else {
            self.lease_count += 1;
        }
    }

    /// Records a failed mutating request that may have created something.
    pub(super) fn record_possibly_created(&mut self, request: &SecretRequest, cause: Cause) {
        self.in_flight_path = None;
        let is_certain = matches!(cause, Cause::NoData);
        let is_unknown = matches!(
            cause,
            Cause::OutcomeUnknown
                | Cause::DeadlineExceeded
                | Cause::ResponseTooLarge
                | Cause::NotVault
                | Cause::ServerError
                | Cause::Internal
        );
        if is_certain {
            self.leftovers.push(format!("data or resources created by {}", request.path));
        } else if is_unknown {
            self.leftovers.push(format!("resources possibly created by {}", request.path));
        }
    }
}

fn describe_created(request: &SecretRequest, secret: &CachedSecret) -> String {
    let issued = serde_json::from_str::<IssuedCertificate>(secret.response.data().unwrap_or_default());
    let serial = issued.ok().and_then(|issued| issued.serial_number).filter(|serial| is_serial_number(serial));
    match (serial, request.method) {
        (Some(serial), _) => format!("certificate {serial}, issued by {}", request.path),
        (None, Method::Get | Method::List) => format!("resources created by reading {}, if any", request.path),
        (None, _) => format!("data or resources created by {}", request.path),
    }
}

#[derive(serde::Deserialize)]
struct IssuedCertificate {
    serial_number: Option<String>,
}

/// Returns true if the text is a certificate's serial number as Vault formats it, and not a secret in a field of that name.
fn is_serial_number(text: &str) -> bool {
    let is_byte = |byte: &str| byte.len() == 2 && byte.bytes().all(|b| b.is_ascii_hexdigit());
    text.len() <= 64 && text.split([':', '-']).all(is_byte)
}

impl Check<'_> {
    /// Revokes the tokens, and reports resources that do not expire with them.
    pub(super) async fn clean_up(
        &self,
        context: &MountContext,
        created: &CreatedResources,
        on_step: &mut impl FnMut(Step),
    ) {
        let (mut revoked_count, mut has_unrevoked) = (0, false);
        for token in &created.tokens {
            let expiry = describe_expiry(token);
            let result = context.session.revoke_token(token, self.step_deadline()).await;
            has_unrevoked |= result.is_err();
            match result {
                Ok(true) => revoked_count += 1,
                Ok(false) => on_step(Step::pass("clean-up", "a token has no uses left and is no longer valid")),
                Err(_) if token.is_batch => {
                    on_step(Step::warn("clean-up", format!("a batch token cannot be revoked; it {expiry}")));
                }
                Err(error) => {
                    let why = match error.cause() {
                        Cause::RequestRejected => "its policies do not allow \"update\" on auth/token/revoke-self",
                        _ => error.summary(),
                    };
                    let accessor = &token.accessor;
                    let unrevoked = format!("a token could not be revoked ({why}); it {expiry}; to revoke it, run:");
                    on_step(Step::warn("clean-up", format!("{unrevoked} vault token revoke -accessor {accessor}")));
                }
            }
        }
        let leases = format_count(created.lease_count, "lease");
        match (revoked_count, created.lease_count) {
            (0, 0) => {}
            (_, 0) => on_step(Step::pass("clean-up", format!("{} revoked", format_count(revoked_count, "token")))),
            _ if has_unrevoked => {
                on_step(Step::warn("clean-up", format!("{leases} remain: each expires with its token")));
            }
            _ => on_step(Step::pass(
                "clean-up",
                format!("{} revoked, with {leases}", format_count(revoked_count, "token")),
            )),
        }
        let in_flight = created.in_flight_path.iter().map(|path| format!("resources that {path} may still create"));
        for leftover in created.leftovers.iter().cloned().chain(in_flight) {
            on_step(Step::warn("left behind", leftover));
        }
    }
}

/// Describes the expiry of a token that was not revoked.
fn describe_expiry(token: &VaultToken) -> String {
    match token.ttl.as_secs() {
        0 => "never expires".to_owned(),
        seconds => format!("expires within {}", format_seconds(i64::try_from(seconds).unwrap_or(i64::MAX))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn certificate_serial_number_is_told_from_other_values() {
        for (text, is) in
            [("39:dd:2e:90", true), ("39-DD", true), ("hunter2", false), ("", false), ("1234", false), ("39:d", false)]
        {
            assert_eq!(is_serial_number(text), is, "{text}");
        }
    }
}
