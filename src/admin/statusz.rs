//! `/statusz`: status page for browsers, with numbers and errors but without secrets.

use std::{
    cmp::Reverse,
    fmt::{self, Display, Write as _},
};

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, header, uri::Authority};
use http_body_util::Full;

use super::{AdminState, response};
use crate::{
    cache::kind::{SecretKind, SecretState},
    observe::status::{LastErrorStatus, MountFailure, ServerState, ServerStatus, SessionStatus, Status},
};

/// Text about this route in 404 responses.
pub(super) const USAGE: &str = "status is at /statusz, from this host only (kubectl port-forward)\n";

/// Maximum number of errors shown, the latest first.
const MAX_SHOWN_ERRORS: usize = 20;

const STYLESHEET: &str = "td:first-child{white-space:nowrap}body{font:15px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:70rem;padding:0 1rem;color:#1b1f24;background:#fff}\
h1{font-size:1.5rem}h2{font-size:1.1rem;margin-top:2rem}table{border-collapse:collapse;width:100%}\
th,td{text-align:left;padding:.3rem .7rem;border-bottom:1px solid #d7dce1;vertical-align:top}\
td.n,th.n{text-align:right;font-variant-numeric:tabular-nums}code{font-size:.92em}p.bad,td.bad{color:#a4161a}p.good,td.good{color:#176639}\
@media(prefers-color-scheme:dark){body{color:#e3e7eb;background:#15181c}th,td{border-color:#343a41}p.bad,td.bad{color:#ff8b8b}p.good,td.good{color:#7ddb9f}}";

/// Returns the page. The caller checks access.
pub(super) fn respond<B>(request: &Request<B>, state: &AdminState) -> Option<Response<Full<Bytes>>> {
    if request.method() != Method::GET || request.uri().path() != "/statusz" {
        return None;
    }
    Some(html_response(
        &StatusPage { status: &state.inspector.status(), phase: state.probes.as_str(), settings: &state.settings }
            .to_string(),
    ))
}

/// Returns true if the `Host` header names this host, in any case. A browser under DNS rebinding sends the attacker's name
/// instead.
pub(super) fn is_for_this_host<B>(request: &Request<B>) -> bool {
    let host = request.headers().get(header::HOST).and_then(|host| host.to_str().ok());
    let host = host.and_then(|host| host.parse::<Authority>().ok());
    let names = ["localhost", "127.0.0.1", "[::1]"];
    host.is_some_and(|host| names.iter().any(|name| host.host().eq_ignore_ascii_case(name)))
}

fn html_response(text: &str) -> Response<Full<Bytes>> {
    let mut response = response(StatusCode::OK, "text/html; charset=utf-8", text.to_owned());
    for (name, value) in [
        (header::CONTENT_SECURITY_POLICY, "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'"),
        (header::CACHE_CONTROL, "no-store"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
    ] {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    response
}

struct StatusPage<'a> {
    status: &'a Status,
    phase: &'a str,
    settings: &'a [(&'static str, String)],
}

impl Display for StatusPage<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let node = self.status.watch.node.as_deref().unwrap_or("this host");
        write!(
            f,
            "<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content=\"width=device-width\">\
             <title>vaultmount on {0}</title><style>{STYLESHEET}</style><h1>vaultmount on {0}</h1>",
            EscapedHtml(node)
        )?;
        self.write_head(f)?;
        self.write_servers(f)?;
        self.write_counts(f)?;
        self.write_errors(f)?;
        self.write_settings(f)
    }
}

impl StatusPage<'_> {
    fn write_head(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Status { version, pid, started_at: started, now, mounts_disabled, .. } = self.status;
        let css_class = if self.phase == "serving" && !mounts_disabled { "good" } else { "bad" };
        let disabled_note = if *mounts_disabled { ", rejecting mounts: everything was revoked" } else { "" };
        write!(f, "<p class={css_class}>{}{disabled_note}</p>", self.phase)?;
        write!(f, "<p>Version {}, process {pid}, since {started:.0}. Generated at {now:.0}.</p>", EscapedHtml(version))
    }

    fn write_servers(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Status { servers, sessions, outages, .. } = self.status;
        write!(f, "<h2>Servers</h2><table><tr><th>server<th>state<th class=n>sessions")?;
        for ServerStatus { address, state, error } in servers {
            write!(f, "<tr><td><code>{}</code>", EscapedHtml(address))?;
            let error = EscapedHtml(error.as_deref().unwrap_or_default());
            match state {
                ServerState::Unknown => write!(f, "<td>no request yet")?,
                ServerState::NotVault => write!(f, "<td class=bad>responds, but not as Vault does")?,
                ServerState::Failing => write!(f, "<td class=bad>failing: {error}")?,
                ServerState::Up => write!(f, "<td class=good>up")?,
                ServerState::Down => {
                    let since = outages.iter().find(|outage| outage.address == *address).map(|outage| outage.since);
                    let since = since.map(|since| format!(" since {since:.0}")).unwrap_or_default();
                    write!(f, "<td class=bad>down{since}: {error}")?;
                }
            }
            let count = sessions.iter().filter(|session| session.address == *address).count();
            write!(f, "<td class=n>{count}")?;
        }
        write!(f, "</table>")
    }

    fn write_counts(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Status { sessions, revocations, watch, .. } = self.status;
        let pods: usize = sessions.iter().map(|session| session.pods).sum();
        let volumes: usize = sessions.iter().map(|session| session.volumes.len()).sum();
        write!(f, "<h2>Sessions</h2><table><tr><th>item<th class=n>number")?;
        for (label, number) in [
            ("pods with a session", pods),
            ("sessions", sessions.len()),
            ("volumes", volumes),
            ("Vault tokens", token_count(sessions)),
            ("pending revocations", revocations.len()),
        ] {
            write!(f, "<tr><td>{label}<td class=n>{number}")?;
        }
        write!(f, "<tr><td>watch of this node's pods<td class=n>{}</table>", watch.state.as_str())?;
        write!(f, "<h2>Cached secrets</h2><table><tr><th>kind")?;
        for state in SecretState::ALL {
            write!(f, "<th class=n>{}", state.as_str())?;
        }
        for kind in SecretKind::ALL {
            write!(f, "<tr><td>{}", kind.as_str())?;
            for state in SecretState::ALL {
                let secrets = sessions.iter().flat_map(|session| &session.secrets);
                let count = secrets.filter(|secret| secret.kind == *kind && secret.state == *state).count();
                write!(f, "<td class=n>{count}")?;
            }
        }
        write!(f, "</table>")
    }

    fn write_errors(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let failures = &self.status.failures;
        let of_mounts = failures.iter().map(|MountFailure { at, count: times, pod, namespace, error, .. }| {
            let operation = if *times > 1 { format!("mounting, {times} times") } else { "mounting".to_owned() };
            (format!("{namespace}/{pod}"), LastErrorStatus { at: *at, operation, error: error.clone() })
        });
        // The failure of a mount includes the errors of its objects.
        let is_reported = |session: &SessionStatus, error: &LastErrorStatus| {
            let mut of_pod =
                failures.iter().filter(|failure| failure.pod == session.pod && failure.namespace == session.namespace);
            of_pod.any(|failure| failure.error.contains(&error.error))
        };
        let of_sessions = self.status.sessions.iter().filter_map(|session| {
            let error = session.last_error.as_ref().filter(|error| !is_reported(session, error))?;
            Some((format!("{}/{}", session.namespace, session.pod), error.clone()))
        });
        let of_watch = self.status.watch.last_error.iter().map(|error| ("watch of pods".to_owned(), error.clone()));
        let mut errors: Vec<(String, LastErrorStatus)> = of_mounts.chain(of_sessions).chain(of_watch).collect();
        errors.sort_by_key(|(_, error)| Reverse(error.at));
        write!(f, "<h2>Last errors</h2>")?;
        if errors.is_empty() {
            return write!(f, "<p class=good>None.</p>");
        }
        write!(f, "<table><tr><th>time<th>subject<th>error")?;
        for (subject, LastErrorStatus { at, operation, error }) in errors.iter().take(MAX_SHOWN_ERRORS) {
            write!(
                f,
                "<tr><td>{at:.0}<td>{}<td>{}: {}",
                EscapedHtml(subject),
                EscapedHtml(operation),
                EscapedHtml(error)
            )?;
        }
        write!(f, "</table>")?;
        match errors.len().saturating_sub(MAX_SHOWN_ERRORS) {
            0 => Ok(()),
            hidden => write!(f, "<p>And {hidden} more: run <code>vaultmount status</code> to see all.</p>"),
        }
    }

    fn write_settings(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "<h2>Configuration</h2><table><tr><th>setting<th>value")?;
        for (name, value) in self.settings {
            write!(f, "<tr><td><code>{}</code><td>{}", EscapedHtml(name), EscapedHtml(value))?;
        }
        writeln!(f, "</table></html>")
    }
}

fn token_count(sessions: &[SessionStatus]) -> usize {
    sessions.iter().map(|session| usize::from(session.token.is_some()) + session.superseded_tokens).sum()
}

/// Text escaped for HTML.
struct EscapedHtml<'a>(&'a str);

impl Display for EscapedHtml<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.chars().try_for_each(|c| match c {
            '&' => f.write_str("&amp;"),
            '<' => f.write_str("&lt;"),
            '>' => f.write_str("&gt;"),
            '"' => f.write_str("&quot;"),
            '\'' => f.write_str("&#39;"),
            c => f.write_char(c),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statusz_escapes_html() {
        assert_eq!(EscapedHtml("<script>'\"&").to_string(), "&lt;script&gt;&#39;&quot;&amp;");
    }
}
