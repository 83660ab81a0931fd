//! Explains failed reads.

use super::{ErrorResponse, ReadContext, not_found};
use crate::{
    error::{Cause, Denial, Error},
    vault::request::Method,
};

/// Maximum number of a token's policies in a message.
const MAX_LISTED_POLICIES: usize = 8;

pub(super) fn explain_read_error(response: &ErrorResponse, context: &ReadContext<'_>) -> Error {
    let message = if response.errors.is_empty() { &response.warnings } else { &response.errors };
    let (path, verb) = (context.display_path(), context.verb());
    let (cause, summary, fix) = match response.status {
        _ if response.mentions(&["namespace not found"]) => (
            Cause::VaultNamespaceMissing,
            format!("there is no Vault namespace {:?} at {}", context.namespace.unwrap_or_default(), context.address),
            "correct vaultNamespace, or create the namespace".to_owned(),
        ),
        404 => return not_found::explain_not_found(response, context).with_server_message(message),
        403 => return explain_denial(response, context).with_server_message(message),
        405 => (
            Cause::MethodNotAllowed,
            format!("{path} does not take method {}", context.request.method),
            match context.request.method {
                Method::Get => {
                    "set `method: PUT`, and `secretArgs`, for paths that issue something, such as pki/issue/ROLE"
                        .to_owned()
                }
                Method::List => match not_found::suggest_kv_path(response, context) {
                    Some(suggestion) => suggestion.to_string(),
                    None => "remove `method` to read".to_owned(),
                },
                Method::Put | Method::Post => "remove `method` to read".to_owned(),
            },
        ),
        400 | 500 if response.mentions(&["unknown role", "role not found", "unable to find role"]) => (
            Cause::EngineRoleMissing,
            format!("the secrets engine has no role for {path}"),
            "correct the role at the end of secretPath, or create it".to_owned(),
        ),
        400 | 500 if response.mentions(&["is not an allowed role"]) => (
            Cause::EngineSetup,
            format!("a connection of the secrets engine does not take the role of {path}"),
            format!(
                "add the role to allowed_roles of its connection ({}config/NAME), or name another in secretPath",
                context.mount_path()
            ),
        ),
        400 | 500 if response.mentions(&["failed to find entry for connection"]) => (
            Cause::EngineSetup,
            format!("the role of {path} names a connection that does not exist in the secrets engine"),
            format!("write the connection ({}config/NAME), or correct the role's db_name", context.mount_path()),
        ),
        400 if response.mentions(&["token had one use left"]) => (
            Cause::TokenUsesTooFew,
            format!("{path} gives a lease, which a token of one use cannot hold"),
            format!("raise token_num_uses of role {:?}, or set it to 0: a lease ends with its token", context.role),
        ),
        400 if response.mentions(&["not allowed by this role"]) => (
            Cause::ArgumentNotAllowed,
            format!("the role of {path} does not allow these arguments"),
            "correct secretArgs, or the role's allowed names".to_owned(),
        ),
        500 if response.mentions(&[
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
                format!("Vault cannot reach the backend of {path}"),
                "check that it runs, and the engine's connection settings; the mount is tried again by itself"
                    .to_owned(),
            )
        }
        _ => match response.explain_server_error(context.address) {
            Some(error) => return error.with_subject(format_args!("{verb} {path}")),
            None if response.status >= 500 => (
                Cause::ServerError,
                format!("{verb} {path} failed at {} with status {}", context.address, response.status),
                "look into Vault's server log".to_owned(),
            ),
            None => (
                Cause::RequestRejected,
                format!("{verb} {path} was refused with status {}", response.status),
                "correct secretPath, method or secretArgs".to_owned(),
            ),
        },
    };
    Error::new(cause, summary).with_server_message(message).with_fix(fix)
}

/// Explains a read that a policy denies.
fn explain_denial(response: &ErrorResponse, context: &ReadContext<'_>) -> Error {
    let policies = match context.policies {
        [] => "none".to_owned(),
        few if few.len() <= MAX_LISTED_POLICIES => few.join(", "),
        many => format!("{} and {} more", many[..MAX_LISTED_POLICIES].join(", "), many.len() - MAX_LISTED_POLICIES),
    };
    let fix = match not_found::suggest_kv_path(response, context) {
        Some(suggestion) => format!("{suggestion} If not,"),
        None if context.request.path.contains('*') => "correct secretPath, which takes no wildcards, or".to_owned(),
        None => "correct secretPath, or".to_owned(),
    };
    let request = format!("{} {}", context.verb(), context.display_path());
    let summary = format!("role {:?} (policies {policies}) is denied {request} at {}", context.role, context.address);
    let error = Error::new(Cause::VaultPolicyDenied, summary);
    match context.policy_stanza() {
        Ok(stanza) => error
            .with_fix(format!("{fix} add to a policy of the role: {stanza}"))
            .with_denial(Denial { request, stanza }),
        Err(alternative) => error.with_fix(format!("{fix} {alternative}")),
    }
}

/// Suggests a path that returns as JSON the data of a path with a raw response.
pub(super) fn suggest_json_path(context: &ReadContext<'_>) -> String {
    let mount = context.mount_path();
    let raw_path = context.request.path.strip_prefix(mount).unwrap_or_default().split('/').next().unwrap_or_default();
    match (context.engine.map(|engine| engine.kind.as_str()), raw_path) {
        (Some("pki"), "ca" | "ca_chain" | "crl") => {
            format!("read {mount}cert/{raw_path} instead, with `secretKey: certificate`")
        }
        (Some("pki"), "cert") => "leave out /raw and what follows, with `secretKey: certificate`".to_owned(),
        _ => "read a path that answers with JSON".to_owned(),
    }
}
