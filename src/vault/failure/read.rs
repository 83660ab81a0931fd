//! What a refused read means.

use super::{ReadContext, Refusal, missing};
use crate::{
    error::{Cause, Denial, Error},
    vault::wire::Method,
};

/// The most policies of a token that are named.
const MAX_POLICIES: usize = 8;

pub(super) fn refused(refusal: &Refusal, at: &ReadContext<'_>) -> Error {
    let words = if refusal.errors.is_empty() { &refusal.warnings } else { &refusal.errors };
    let (path, verb) = (at.path(), at.verb());
    let (cause, what, advice) = match refusal.status {
        _ if refusal.says(&["namespace not found"]) => (
            Cause::VaultNamespaceMissing,
            format!("there is no Vault namespace {:?} at {}", at.namespace.unwrap_or_default(), at.address),
            "correct vaultNamespace, or create the namespace".to_owned(),
        ),
        404 => return missing::missing(refusal, at).said(words),
        403 => return denied(refusal, at).said(words),
        405 => (
            Cause::Method,
            format!("{path} does not take method {}", at.read.method),
            match at.read.method {
                Method::Get => {
                    "set `method: PUT`, and `secretArgs`, for paths that issue something, such as pki/issue/ROLE"
                        .to_owned()
                }
                Method::List => match missing::kv_path(refusal, at) {
                    Some(meant) => meant.to_string(),
                    None => "remove `method` to read".to_owned(),
                },
                Method::Put | Method::Post => "remove `method` to read".to_owned(),
            },
        ),
        400 | 500 if refusal.says(&["unknown role", "role not found", "unable to find role"]) => (
            Cause::EngineRoleMissing,
            format!("the secrets engine has no role for {path}"),
            "correct the role at the end of secretPath, or create it".to_owned(),
        ),
        400 | 500 if refusal.says(&["is not an allowed role"]) => (
            Cause::EngineSetup,
            format!("a connection of the secrets engine does not take the role of {path}"),
            format!(
                "add the role to allowed_roles of its connection ({}config/NAME), or name another in secretPath",
                at.mount()
            ),
        ),
        400 | 500 if refusal.says(&["failed to find entry for connection"]) => (
            Cause::EngineSetup,
            format!("the role of {path} is of a connection that the secrets engine does not have"),
            format!("write the connection ({}config/NAME), or correct the role's db_name", at.mount()),
        ),
        400 if refusal.says(&["token had one use left"]) => (
            Cause::TokenUses,
            format!("{path} gives a lease, which a token of one use cannot hold"),
            format!("raise token_num_uses of role {:?}, or set it to 0: a lease ends with its token", at.role),
        ),
        400 if refusal.says(&["not allowed by this role"]) => (
            Cause::ArgumentRefused,
            format!("the role of {path} does not allow these arguments"),
            "correct secretArgs, or the role's allowed names".to_owned(),
        ),
        500 if refusal.says(&[
            "connection refused",
            "failed to connect",
            "dial tcp",
            "no such host",
            "connection reset",
            "i/o timeout",
        ]) =>
        {
            (
                Cause::BackendDown,
                format!("Vault cannot reach what stands behind {path}"),
                "check that it runs, and the engine's connection settings; the mount is tried again by itself"
                    .to_owned(),
            )
        }
        _ => match refusal.general(at.address) {
            Some(error) => return error.about(format_args!("{verb} {path}")),
            None if refusal.status >= 500 => (
                Cause::ServerFault,
                format!("{verb} {path} failed at {} with status {}", at.address, refusal.status),
                "look into Vault's server log".to_owned(),
            ),
            None => (
                Cause::ReadRefused,
                format!("{verb} {path} was refused with status {}", refusal.status),
                "correct secretPath, method or secretArgs".to_owned(),
            ),
        },
    };
    Error::new(cause, what).said(words).advice(advice)
}

/// The error of a read that a policy denies.
fn denied(refusal: &Refusal, at: &ReadContext<'_>) -> Error {
    let policies = match at.policies {
        [] => "none".to_owned(),
        few if few.len() <= MAX_POLICIES => few.join(", "),
        many => format!("{} and {} more", many[..MAX_POLICIES].join(", "), many.len() - MAX_POLICIES),
    };
    let mend = match missing::kv_path(refusal, at) {
        Some(meant) => format!("{meant} If not,"),
        None if at.read.path.contains('*') => "correct secretPath, which takes no wildcards, or".to_owned(),
        None => "correct secretPath, or".to_owned(),
    };
    let request = format!("{} {}", at.verb(), at.path());
    let what = format!("role {:?} (policies {policies}) is denied {request} at {}", at.role, at.address);
    let denied = Error::new(Cause::Denied, what);
    match at.stanza() {
        Ok(stanza) => {
            denied.advice(format!("{mend} add to a policy of the role: {stanza}")).denial(Denial { request, stanza })
        }
        Err(instead) => denied.advice(format!("{mend} {instead}")),
    }
}

/// Where what a path answers raw is to be had as JSON.
pub(super) fn json_instead(at: &ReadContext<'_>) -> String {
    let mount = at.mount();
    let raw = at.read.path.strip_prefix(mount).unwrap_or_default().split('/').next().unwrap_or_default();
    match (at.engine.map(|engine| engine.kind.as_str()), raw) {
        (Some("pki"), "ca" | "ca_chain" | "crl") => {
            format!("read {mount}cert/{raw} instead, with `secretKey: certificate`")
        }
        (Some("pki"), "cert") => "leave out /raw and what follows, with `secretKey: certificate`".to_owned(),
        _ => "read a path that answers with JSON".to_owned(),
    }
}
