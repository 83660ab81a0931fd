//! What a walk leaves at Vault, and how it is cleared away.

use std::sync::Arc;

use super::{Check, Step, count, span};
use crate::{
    error::Cause,
    lease::Lease,
    mount::Way,
    vault::{client::VaultToken, wire::Method, wire::SecretRequest},
};

/// What was made so far.
#[derive(Default)]
pub(super) struct Traces {
    /// Every token of a login; those of few uses are several.
    tokens: Vec<Arc<VaultToken>>,
    leases: usize,
    /// What does not end with its token, or may not, for a person.
    left: Vec<String>,
    /// The path of a request that may create and whose answer is awaited.
    under_way: Option<String>,
}

impl Traces {
    /// Remembers the token that the session holds now.
    pub(super) fn note(&mut self, way: &Way) {
        let token = way.session.logged_in();
        self.tokens.extend(token.filter(|token| !self.tokens.iter().any(|known| Arc::ptr_eq(known, token))));
    }

    /// Remembers a request that creates, which is sent now.
    pub(super) fn sent(&mut self, read: &SecretRequest) {
        self.under_way = Some(read.path.clone());
    }

    /// Remembers what came of it.
    pub(super) fn created(&mut self, read: &SecretRequest, lease: &Lease) {
        self.under_way = None;
        if lease.answer.lease_id.is_empty() { self.left.push(named(read, lease)) } else { self.leases += 1 }
    }

    /// Remembers that it may have created something, though its answer is of no use.
    pub(super) fn may_have_created(&mut self, read: &SecretRequest, cause: Cause) {
        self.under_way = None;
        let is_certain = matches!(cause, Cause::NoData);
        let unknown = matches!(
            cause,
            Cause::Unconfirmed
                | Cause::Deadline
                | Cause::AnswerTooLarge
                | Cause::NotVault
                | Cause::ServerFault
                | Cause::Internal
        );
        if is_certain {
            self.left.push(format!("what {} wrote or made", read.path));
        } else if unknown {
            self.left.push(format!("what {} may have made", read.path));
        }
    }
}

fn named(read: &SecretRequest, lease: &Lease) -> String {
    let issued = serde_json::from_str::<Issued>(lease.answer.data().unwrap_or_default());
    let serial = issued.ok().and_then(|issued| issued.serial_number).filter(|serial| is_serial(serial));
    match (serial, read.method) {
        (Some(serial), _) => format!("certificate {serial}, which {} issued", read.path),
        (None, Method::Get | Method::List) => format!("what reading {} made, if anything", read.path),
        (None, _) => format!("what {} wrote or made", read.path),
    }
}

#[derive(serde::Deserialize)]
struct Issued {
    serial_number: Option<String>,
}

/// Whether it is a certificate's number as Vault writes them, and no secret of that name.
fn is_serial(text: &str) -> bool {
    let is_byte = |byte: &str| byte.len() == 2 && byte.bytes().all(|b| b.is_ascii_hexdigit());
    text.len() <= 64 && text.split([':', '-']).all(is_byte)
}

impl Check<'_> {
    /// Revokes the tokens, and names what does not end with them.
    pub(super) async fn clear(&self, way: &Way, traces: &Traces, tell: &mut impl FnMut(Step)) {
        let (mut revoked, mut stay) = (0, false);
        for token in &traces.tokens {
            let end = end(token);
            let ended = way.session.revoke(token, self.deadline()).await;
            stay |= ended.is_err();
            match ended {
                Ok(true) => revoked += 1,
                Ok(false) => tell(Step::good("clean-up", "a token is used up, and so over")),
                Err(_) if token.is_batch => {
                    tell(Step::odd("clean-up", format!("a batch token cannot be revoked; it {end}")));
                }
                Err(error) => {
                    let why = match error.cause() {
                        Cause::ReadRefused => "its policies lack \"update\" on auth/token/revoke-self",
                        _ => error.what(),
                    };
                    let accessor = &token.accessor;
                    let stays = format!("a token could not be revoked ({why}); it {end}, or by");
                    tell(Step::odd("clean-up", format!("{stays} vault token revoke -accessor {accessor}")));
                }
            }
        }
        let leases = count(traces.leases, "lease");
        match (revoked, traces.leases) {
            (0, 0) => {}
            (_, 0) => tell(Step::good("clean-up", format!("{} revoked", count(revoked, "token")))),
            _ if stay => tell(Step::odd("clean-up", format!("{leases} with the tokens: each ends with its own"))),
            _ => tell(Step::good("clean-up", format!("{} revoked, and so {leases}", count(revoked, "token")))),
        }
        let under_way = traces.under_way.iter().map(|path| format!("what {path} may be making still"));
        for left in traces.left.iter().cloned().chain(under_way) {
            tell(Step::odd("left behind", left));
        }
    }
}

/// When a token that stays will be over.
fn end(token: &VaultToken) -> String {
    match token.ttl.as_secs() {
        0 => "has no end".to_owned(),
        seconds => format!("ends within {}", span(i64::try_from(seconds).unwrap_or(i64::MAX))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn serial_numbers_are_shown_and_secrets_of_that_name_are_not() {
        for (text, is) in
            [("39:dd:2e:90", true), ("39-DD", true), ("hunter2", false), ("", false), ("1234", false), ("39:d", false)]
        {
            assert_eq!(is_serial(text), is, "{text}");
        }
    }
}
