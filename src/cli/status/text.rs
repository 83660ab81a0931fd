//! Renders the status as text: a header, then a block for each pod.

use std::fmt::{Display, Write as _};

use jiff::Timestamp;

use crate::{
    cache::kind::SecretState,
    cli::style::{ERROR, HEADING, OK, SECONDARY, WARNING, paint, wrap_words},
    kube::watch_state::WatchState,
    observe::status::{
        LastErrorStatus, MountFailure, OutageStatus, PendingRevocationStatus, SecretStatus, SessionStatus, Status,
        TokenStatus, VolumeStatus, WatchStatus,
    },
};

/// Width of the label column.
const FIELD_INDENT: usize = 12;

/// Renders the whole status. Its strings must contain no terminal control characters.
pub(super) fn render(status: &Status) -> String {
    let mut page = StatusText { text: String::new(), now: status.now };
    page.write_head(status);
    for session in &status.sessions {
        page.write_session(session);
    }
    page.write_pending_revocations(&status.revocations);
    page.write_mount_failures(&status.failures);
    page.text
}

struct StatusText {
    text: String,
    now: Timestamp,
}

impl StatusText {
    fn write_head(&mut self, status: &Status) {
        let (version, pid, up) = (&status.version, status.pid, self.format_distance(status.started_at));
        let name = paint(HEADING, format!("vaultmount {version}"));
        self.write_line(format_args!("{name}, process {pid}, up {up} (since {})", format_date(status.started_at)));
        self.write_watch(&status.watch);
        for OutageStatus { address, since, error } in &status.outages {
            let down = paint(ERROR, "down");
            self.write_line(format_args!(
                "{address}: {down} since {}, retried automatically",
                self.format_clock(*since)
            ));
            self.write_field("", error);
        }
        if status.mounts_disabled {
            self.write_line(paint(ERROR, "all tokens were revoked; mounts are rejected until you restart vaultmount"));
        }
        if status.sessions.is_empty() {
            self.write_line("no sessions");
        }
    }

    fn write_watch(&mut self, watch: &WatchStatus) {
        let pods = watch.node.as_ref().map_or("pods".to_owned(), |node| format!("pods of {node}"));
        let (style, description) = match watch.state {
            WatchState::Synced => (OK, "watched"),
            WatchState::Connecting => (WARNING, "not watched: the Kubernetes API is unreachable"),
            WatchState::Interrupted => (WARNING, "watch interrupted; it resumes when the Kubernetes API is back"),
            WatchState::Denied => (ERROR, "not watched: the Kubernetes API denies it"),
            WatchState::Off => (WARNING, "not watched: no --node-name, or not in a cluster"),
        };
        let since = watch.since.map(|at| format!(", since {}", self.format_clock(at))).unwrap_or_default();
        self.write_line(format_args!("{pods}: {}{since}", paint(style, description)));
        self.write_last_error("", watch.last_error.as_ref());
    }

    fn write_session(&mut self, session: &SessionStatus) {
        let SessionStatus { pod, namespace, uid, pods, service_account, auth_mount, role, .. } = session;
        if uid.is_empty() {
            let title = paint(HEADING, format!("{namespace}, service account {service_account}"));
            self.write_line(format_args!(
                "\n{title} {}",
                paint(SECONDARY, format_args!("(shared by its pods here: {pods})"))
            ));
        } else {
            let title = paint(HEADING, format!("{namespace}/{pod}"));
            self.write_line(format_args!("\n{title} {}", paint(SECONDARY, format_args!("({uid})"))));
        }
        let namespace_suffix = session.vault_namespace.as_ref().map(|n| format!(", namespace {n}")).unwrap_or_default();
        self.write_field(
            "at",
            &format!("{}{namespace_suffix}, auth/{auth_mount}, role {role}, as {service_account}", session.address),
        );
        match &session.token {
            Some(token) => self.write_token(token, session.superseded_tokens),
            None => self.write_field("token", "none"),
        }
        if !session.renewal_active {
            let reason = session.renewal_paused_reason.as_deref().unwrap_or("the session expires on its own");
            self.write_field("renewal", &format!("off: {reason}"));
        }
        if let Some(at) = session.last_success_at {
            self.write_field("success", &self.format_moment(at));
        }
        self.write_last_error("error", session.last_error.as_ref());
        for volume in &session.volumes {
            self.write_volume(volume);
        }
        self.write_secrets(&session.secrets);
    }

    fn write_token(&mut self, token: &TokenStatus, superseded: usize) {
        let mut text = token.state.as_str().to_owned();
        if let Some(at) = token.renew_at {
            let _ = write!(text, ", renewal {}", self.format_moment(at));
        }
        let _ = write!(text, ", {}", self.format_expiry(token.expires_at, token.max_expires_at));
        if !token.accessor.is_empty() {
            let _ = write!(text, ", accessor {}", token.accessor);
        }
        if superseded > 0 {
            let _ = write!(text, "; superseded tokens: {superseded}");
        }
        self.write_field("token", &text);
    }

    fn write_volume(&mut self, volume: &VolumeStatus) {
        let VolumeStatus { class, mounts, target_path, .. } = volume;
        let polls = volume
            .poll_interval_seconds
            .map(|interval| format!(", polled every {}", format_span(interval)))
            .unwrap_or_default();
        let last_mount = self.format_moment(volume.last_mount_at);
        self.write_field("volume", &format!("{class}, mounts: {mounts}, last {last_mount}{polls}, at {target_path}"));
    }

    /// Renders a table of cached secrets, with the path in the last column because it may be long.
    fn write_secrets(&mut self, secrets: &[SecretStatus]) {
        if secrets.is_empty() {
            return;
        }
        let expiries: Vec<String> = secrets.iter().map(|secret| self.format_secret_expiry(secret)).collect();
        let width = expiries.iter().map(String::len).max().unwrap_or(0).max(7);
        let [kind, state, end] = ["KIND", "STATE", "EXPIRES"].map(|title| paint(HEADING, title));
        self.write_line(format_args!("  {kind:11}  {state:10}  {end:width$}  {}", paint(HEADING, "PATH")));
        for (lease, end) in secrets.iter().zip(expiries) {
            let style = match lease.state {
                SecretState::Active => OK,
                SecretState::Failing => ERROR,
                SecretState::Expiring => WARNING,
                SecretState::Superseded => SECONDARY,
            };
            let (kind, state) = (lease.kind.as_str(), paint(style, lease.state.as_str()));
            self.write_line(format_args!("  {kind:11}  {state:10}  {end:width$}  {} {}", lease.method, lease.path));
            if let Some(max_expires_at) =
                lease.max_expires_at.filter(|_| lease.expires_at.is_some_and(|at| Some(at) != lease.max_expires_at))
            {
                self.write_field("", &format!("at the latest {}", self.format_moment(max_expires_at)));
            }
            if let Some(error) = &lease.last_error {
                self.write_field("", error);
            }
        }
    }

    /// Renders the expiry of a secret, or `-` if it does not expire.
    fn format_secret_expiry(&self, secret: &SecretStatus) -> String {
        secret.expires_at.or(secret.max_expires_at).map_or_else(|| "-".to_owned(), |at| self.format_moment(at))
    }

    fn write_pending_revocations(&mut self, pending: &[PendingRevocationStatus]) {
        if pending.is_empty() {
            return;
        }
        self.write_line(format_args!("\n{}", paint(HEADING, "Pending revocations")));
        for PendingRevocationStatus { pod, namespace, uid, address, since, attempts, expires_at, last_error } in pending
        {
            self.write_line(format_args!("  {namespace}/{pod} {}", paint(SECONDARY, format_args!("({uid})"))));
            let end = expires_at.map(|at| format!(", expires {}", self.format_moment(at))).unwrap_or_default();
            self.write_field(
                "at",
                &format!("{address}, since {}, attempts: {attempts}{end}", self.format_clock(*since)),
            );
            if !last_error.is_empty() {
                self.write_field("error", last_error);
            }
        }
    }

    fn write_mount_failures(&mut self, failures: &[MountFailure]) {
        if failures.is_empty() {
            return;
        }
        self.write_line(format_args!("\n{}", paint(HEADING, "Recent mount failures")));
        for MountFailure { at, count, pod, namespace, uid, error, .. } in failures {
            self.write_line(format_args!("  {namespace}/{pod} {}", paint(SECONDARY, format_args!("({uid})"))));
            let count_suffix = if *count > 1 { format!(", {count} times") } else { String::new() };
            self.write_field("error", &format!("{}{count_suffix}: {error}", self.format_moment(*at)));
        }
    }

    fn write_last_error(&mut self, label: &str, failed: Option<&LastErrorStatus>) {
        if let Some(LastErrorStatus { at, operation, error }) = failed {
            self.write_field(label, &format!("{}, {operation}: {error}", self.format_moment(*at)));
        }
    }

    /// Writes a labelled value, wrapped to the line width.
    fn write_field(&mut self, label: &str, text: &str) {
        let style = if label == "error" { ERROR } else { HEADING };
        let width = FIELD_INDENT - 2;
        self.write_line(format_args!("  {:width$}{}", paint(style, label), wrap_words(text, FIELD_INDENT)));
    }

    fn write_line(&mut self, line: impl Display) {
        let _ = writeln!(self.text, "{line}");
    }

    /// Renders `expires in 47m (14:29:12Z), at the latest in 3h (17:00:00Z)`.
    fn format_expiry(&self, expires_at: Option<Timestamp>, max_expires_at: Option<Timestamp>) -> String {
        let ends_at = expires_at.map_or("never expires".to_owned(), |at| format!("expires {}", self.format_moment(at)));
        match max_expires_at.filter(|forced| Some(*forced) != expires_at) {
            Some(forced) => format!("{ends_at}, at the latest {}", self.format_moment(forced)),
            None => ends_at,
        }
    }

    /// Renders `in 23m (14:05:12Z)` or `3m ago (14:01:00Z)`.
    fn format_moment(&self, at: Timestamp) -> String {
        let (span, clock) = (self.format_distance(at), self.format_clock(at));
        if at > self.now { format!("in {span} ({clock})") } else { format!("{span} ago ({clock})") }
    }

    /// Renders the time of day, with the date if it is a day or more from now.
    fn format_clock(&self, at: Timestamp) -> String {
        let far = at.duration_since(self.now).as_secs().unsigned_abs() >= SECONDS_PER_DAY;
        if far { format_date(at) } else { at.strftime("%H:%M:%SZ").to_string() }
    }

    /// Renders the distance of a time from now.
    fn format_distance(&self, at: Timestamp) -> String {
        format_span(at.duration_since(self.now).as_secs().unsigned_abs())
    }
}

const SECONDS_PER_DAY: u64 = 24 * 60 * 60;

fn format_date(at: Timestamp) -> String {
    at.strftime("%Y-%m-%d %H:%M:%SZ").to_string()
}

/// Renders seconds in their two largest units: `45s`, `23m`, `3h 12m`, `2d 4h`.
fn format_span(seconds: u64) -> String {
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / SECONDS_PER_DAY);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds}s"),
        (0, 0, _) => format!("{minutes}m"),
        (0, _, _) => format!("{hours}h {}m", minutes % 60),
        _ => format!("{days}d {}h", hours % 24),
    }
}

#[cfg(test)]
mod tests;
