//! Redirects that a request follows.

use http::{StatusCode, Uri, header};

use super::http_response::HttpResponse;
use crate::vault::{Address, VaultConfig, error::RequestError};

/// Returns the target of a redirect if it may be followed. `origin` completes a location without a server.
///
/// One redirect is followed, with status 307 or 308 and the same scheme. Another host or port needs the operator's
/// permission, because the token and the body are sent along.
pub(super) fn redirect_target(
    config: &VaultConfig,
    origin: &str,
    response: &HttpResponse,
    current_uri: &Uri,
    was_redirected: bool,
) -> Result<Uri, RequestError> {
    let location = response.headers.get(header::LOCATION).and_then(|l| l.to_str().ok()).unwrap_or_default();
    let target_url = if location.starts_with('/') { format!("{origin}{location}") } else { location.to_owned() };
    let not_followed = |target: &str, reason| {
        Err(RequestError::RedirectNotFollowed { location: target.to_owned(), reason, is_other_server: false })
    };
    // An invalid location is not repeated in the error, because its query may contain arguments.
    let unknown = "an unknown location";
    let Ok(uri) = target_url.parse::<Uri>() else {
        return not_followed(unknown, "its location is not a valid URL");
    };
    let parse_server = |uri: &Uri| {
        Address::parse(&format!(
            "{}://{}",
            uri.scheme_str().unwrap_or_default(),
            uri.authority().map_or("", |a| a.as_str())
        ))
    };
    let (Ok(target_address), Ok(current_address)) = (parse_server(&uri), parse_server(current_uri)) else {
        let scheme = uri.scheme_str().unwrap_or_default();
        let target =
            uri.authority().map(|a| format!("{scheme}://{}", a.as_str().rsplit('@').next().unwrap_or_default()));
        return not_followed(target.as_deref().unwrap_or(unknown), "its location is not the URL of a server");
    };
    let target = target_address.to_string();
    if !config.redirects_enabled {
        return not_followed(&target, "redirects are disabled (VAULT_DISABLE_REDIRECTS)");
    }
    if was_redirected {
        return not_followed(&target, "the request was redirected before");
    }
    if !matches!(response.status, StatusCode::TEMPORARY_REDIRECT | StatusCode::PERMANENT_REDIRECT) {
        return not_followed(&target, "only 307 and 308 keep the method");
    }
    if uri.scheme() != current_uri.scheme() {
        return not_followed(&target, "the scheme differs");
    }
    if target_address != current_address
        && !config.allowed_redirect_hosts.iter().any(|allowed| matches_allowed_host(allowed, &target_address))
    {
        let reason = "the token or login would go to another host";
        return Err(RequestError::RedirectNotFollowed { location: target, reason, is_other_server: true });
    }
    Ok(uri)
}

/// Returns true if a `host` or `host:port` of `--follow-redirects` matches this address.
fn matches_allowed_host(allowed_host: &str, address: &Address) -> bool {
    match address {
        Address::Tcp { host, port, .. } => {
            allowed_host.eq_ignore_ascii_case(host) || allowed_host.eq_ignore_ascii_case(&format!("{host}:{port}"))
        }
        Address::Unix(_) => false,
    }
}
