//! Renders the status as text: a header, then a block for each pod.

use std::fmt::{Display, Write as _};

use jiff::Timestamp;

use crate::{
    cache::kind::SecretState,
    cli::style::{ERROR, HEADING, OK, PLACE, WARNING, paint, wrapped},
    kube::watch_state::WatchState,
    observe::status::{
        LastErrorStatus, MountFailure, OutageStatus, PendingRevocationStatus, SecretStatus, SessionStatus, Status,
        TokenStatus, VolumeStatus, WatchStatus,
    },
};

/// Width of the label column.
const INDENT: usize = 12;

/// Renders the whole status. Its strings must contain no terminal control characters.
pub(super) fn written(status: &Status) -> String {
    let mut page = Page { text: String::new(), now: status.now };
    page.head(status);
    for session in &status.sessions {
        page.session(session);
    }
    page.waiting(&status.revocations);
    page.failures(&status.failures);
    page.text
}

struct Page {
    text: String,
    now: Timestamp,
}

impl Page {
    fn head(&mut self, status: &Status) {
        let (version, pid, up) = (&status.version, status.pid, self.span(status.started_at));
        let name = paint(HEADING, format!("vaultmount {version}"));
        self.line(format_args!("{name}, process {pid}, up {up} (since {})", date(status.started_at)));
        self.watch(&status.watch);
        for OutageStatus { address, since, error } in &status.outages {
            let down = paint(ERROR, "down");
            self.line(format_args!("{address}: {down} since {}, retried automatically", self.clock(*since)));
            self.fact("", error);
        }
        if status.mounts_disabled {
            self.line(paint(ERROR, "all tokens were revoked; mounts are rejected until you restart vaultmount"));
        }
        if status.sessions.is_empty() {
            self.line("no sessions");
        }
    }

    fn watch(&mut self, watch: &WatchStatus) {
        let pods = watch.node.as_ref().map_or("pods".to_owned(), |node| format!("pods of {node}"));
        let (style, how) = match watch.state {
            WatchState::Synced => (OK, "watched"),
            WatchState::Connecting => (WARNING, "not watched: the Kubernetes API is unreachable"),
            WatchState::Interrupted => (WARNING, "watch interrupted; it resumes when the Kubernetes API is back"),
            WatchState::Denied => (ERROR, "not watched: the Kubernetes API denies it"),
            WatchState::Off => (WARNING, "not watched: no --node-name, or not in a cluster"),
        };
        let since = watch.since.map(|at| format!(", since {}", self.clock(at))).unwrap_or_default();
        self.line(format_args!("{pods}: {}{since}", paint(style, how)));
        self.failed("", watch.last_error.as_ref());
    }

    fn session(&mut self, session: &SessionStatus) {
        let SessionStatus { pod, namespace, uid, pods, service_account, auth_mount, role, .. } = session;
        if uid.is_empty() {
            let title = paint(HEADING, format!("{namespace}, service account {service_account}"));
            self.line(format_args!("\n{title} {}", paint(PLACE, format_args!("(shared by its pods here: {pods})"))));
        } else {
            let title = paint(HEADING, format!("{namespace}/{pod}"));
            self.line(format_args!("\n{title} {}", paint(PLACE, format_args!("({uid})"))));
        }
        let within = session.vault_namespace.as_ref().map(|n| format!(", namespace {n}")).unwrap_or_default();
        self.fact("at", &format!("{}{within}, auth/{auth_mount}, role {role}, as {service_account}", session.address));
        match &session.token {
            Some(token) => self.token(token, session.superseded_tokens),
            None => self.fact("token", "none"),
        }
        if !session.renewal_active {
            let why = session.renewal_paused_reason.as_deref().unwrap_or("the session expires on its own");
            self.fact("renewal", &format!("off: {why}"));
        }
        if let Some(at) = session.last_success_at {
            self.fact("success", &self.moment(at));
        }
        self.failed("error", session.last_error.as_ref());
        for volume in &session.volumes {
            self.volume(volume);
        }
        self.leases(&session.secrets);
    }

    fn token(&mut self, token: &TokenStatus, superseded: usize) {
        let mut words = token.state.as_str().to_owned();
        if let Some(at) = token.renew_at {
            let _ = write!(words, ", renewal {}", self.moment(at));
        }
        let _ = write!(words, ", {}", self.end(token.expires_at, token.max_expires_at));
        if !token.accessor.is_empty() {
            let _ = write!(words, ", accessor {}", token.accessor);
        }
        if superseded > 0 {
            let _ = write!(words, "; superseded tokens: {superseded}");
        }
        self.fact("token", &words);
    }

    fn volume(&mut self, volume: &VolumeStatus) {
        let VolumeStatus { class, mounts, target_path, .. } = volume;
        let polls = volume.poll_interval_seconds.map(|gap| format!(", polled every {}", span(gap))).unwrap_or_default();
        let last = self.moment(volume.last_mount_at);
        self.fact("volume", &format!("{class}, mounts: {mounts}, last {last}{polls}, at {target_path}"));
    }

    /// Renders a table of cached secrets, with the path in the last column because it may be long.
    fn leases(&mut self, leases: &[SecretStatus]) {
        if leases.is_empty() {
            return;
        }
        let ends: Vec<String> = leases.iter().map(|lease| self.ends(lease)).collect();
        let width = ends.iter().map(String::len).max().unwrap_or(0).max(7);
        let [kind, state, end] = ["KIND", "STATE", "EXPIRES"].map(|title| paint(HEADING, title));
        self.line(format_args!("  {kind:11}  {state:10}  {end:width$}  {}", paint(HEADING, "PATH")));
        for (lease, end) in leases.iter().zip(ends) {
            let style = match lease.state {
                SecretState::Active => OK,
                SecretState::Failing => ERROR,
                SecretState::Expiring => WARNING,
                SecretState::Superseded => PLACE,
            };
            let (kind, state) = (lease.kind.as_str(), paint(style, lease.state.as_str()));
            self.line(format_args!("  {kind:11}  {state:10}  {end:width$}  {} {}", lease.method, lease.path));
            if let Some(forced) =
                lease.max_expires_at.filter(|_| lease.expires_at.is_some_and(|at| Some(at) != lease.max_expires_at))
            {
                self.fact("", &format!("at the latest {}", self.moment(forced)));
            }
            if let Some(error) = &lease.last_error {
                self.fact("", error);
            }
        }
    }

    /// Renders the expiry of a secret, or `-` if it does not expire.
    fn ends(&self, lease: &SecretStatus) -> String {
        lease.expires_at.or(lease.max_expires_at).map_or_else(|| "-".to_owned(), |at| self.moment(at))
    }

    fn waiting(&mut self, waiting: &[PendingRevocationStatus]) {
        if waiting.is_empty() {
            return;
        }
        self.line(format_args!("\n{}", paint(HEADING, "Pending revocations")));
        for PendingRevocationStatus { pod, namespace, uid, address, since, attempts, expires_at: until, last_error } in
            waiting
        {
            self.line(format_args!("  {namespace}/{pod} {}", paint(PLACE, format_args!("({uid})"))));
            let end = until.map(|at| format!(", expires {}", self.moment(at))).unwrap_or_default();
            self.fact("at", &format!("{address}, since {}, attempts: {attempts}{end}", self.clock(*since)));
            if !last_error.is_empty() {
                self.fact("error", last_error);
            }
        }
    }

    fn failures(&mut self, failures: &[MountFailure]) {
        if failures.is_empty() {
            return;
        }
        self.line(format_args!("\n{}", paint(HEADING, "Recent mount failures")));
        for MountFailure { at, count: times, pod, namespace, uid, error, .. } in failures {
            self.line(format_args!("  {namespace}/{pod} {}", paint(PLACE, format_args!("({uid})"))));
            let often = if *times > 1 { format!(", {times} times") } else { String::new() };
            self.fact("error", &format!("{}{often}: {error}", self.moment(*at)));
        }
    }

    fn failed(&mut self, label: &str, failed: Option<&LastErrorStatus>) {
        if let Some(LastErrorStatus { at, operation: what, error }) = failed {
            self.fact(label, &format!("{}, {what}: {error}", self.moment(*at)));
        }
    }

    /// Writes a labelled value, wrapped to the line width.
    fn fact(&mut self, label: &str, words: &str) {
        let style = if label == "error" { ERROR } else { HEADING };
        let width = INDENT - 2;
        self.line(format_args!("  {:width$}{}", paint(style, label), wrapped(words, INDENT)));
    }

    fn line(&mut self, line: impl Display) {
        let _ = writeln!(self.text, "{line}");
    }

    /// Renders `expires in 47m (14:29:12Z), at the latest in 3h (17:00:00Z)`.
    fn end(&self, ends: Option<Timestamp>, forced: Option<Timestamp>) -> String {
        let ends_at = ends.map_or("never expires".to_owned(), |at| format!("expires {}", self.moment(at)));
        match forced.filter(|forced| Some(*forced) != ends) {
            Some(forced) => format!("{ends_at}, at the latest {}", self.moment(forced)),
            None => ends_at,
        }
    }

    /// Renders `in 23m (14:05:12Z)` or `3m ago (14:01:00Z)`.
    fn moment(&self, at: Timestamp) -> String {
        let (span, clock) = (self.span(at), self.clock(at));
        if at > self.now { format!("in {span} ({clock})") } else { format!("{span} ago ({clock})") }
    }

    /// Renders the time of day, with the date if it is a day or more from now.
    fn clock(&self, at: Timestamp) -> String {
        let far = at.duration_since(self.now).as_secs().unsigned_abs() >= DAY;
        if far { date(at) } else { at.strftime("%H:%M:%SZ").to_string() }
    }

    /// Renders the distance of a time from now.
    fn span(&self, at: Timestamp) -> String {
        span(at.duration_since(self.now).as_secs().unsigned_abs())
    }
}

const DAY: u64 = 24 * 60 * 60;

fn date(at: Timestamp) -> String {
    at.strftime("%Y-%m-%d %H:%M:%SZ").to_string()
}

/// Renders seconds in their two largest units: `45s`, `23m`, `3h 12m`, `2d 4h`.
fn span(seconds: u64) -> String {
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / DAY);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds}s"),
        (0, 0, _) => format!("{minutes}m"),
        (0, _, _) => format!("{hours}h {}m", minutes % 60),
        _ => format!("{days}d {}h", hours % 24),
    }
}

#[cfg(test)]
mod tests;
