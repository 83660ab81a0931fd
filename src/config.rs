//! Configuration from flags and environment.
//!
//! [`ServeArgs`] holds the flags as typed. [`Config::load`] merges them with the environment into a [`Config`]: flags
//! override the environment, which overrides defaults. It reports every error at once, each on one line that names the flag
//! or variable.

mod client;
mod connection;
mod endpoint;
mod environment;
mod flags;
mod server_flags;
mod session;
mod status_socket;
mod summary;
mod tls;
mod value;

use std::{ffi::OsString, fmt, net::SocketAddr, path::PathBuf, time::Duration};

use tracing::level_filters::LevelFilter;

use crate::{
    observe::audit,
    telemetry::{self, Filter, LogFormat},
};
use environment::Environment;
use value::{ConfigReport, Setting};

pub use connection::ConnectionConfig;
pub use environment::SERVE_VARIABLES;
pub use flags::{ConnectionArgs, KubernetesArgs, LimitArgs, LogArgs, OpenBaoFlags, ServeArgs, SessionArgs, VaultFlags};
pub use session::STATE_DIR_VARIABLE;
pub use status_socket::{STATUS_SOCKET_VARIABLE, StatusSocket};

/// The whole configuration of a server.
#[derive(Clone, Debug)]
pub struct Config {
    /// Distinct sockets for the driver, at least one. Each file name is a provider name.
    pub endpoints: Vec<PathBuf>,
    /// Listen address of the health probes, or none to disable them. `[::]` means both IP versions.
    pub health_addr: Option<SocketAddr>,
    /// Listen address of the metrics, or none to disable them. May equal `health_addr`.
    pub metrics_addr: Option<SocketAddr>,
    /// Status socket, or none to disable it. Differs from every endpoint.
    pub status_socket: Option<StatusSocket>,
    /// Log filter, format and filter file.
    pub log: telemetry::LogSettings,
    /// Enables pod events, if a Kubernetes API is available.
    pub events_enabled: bool,
    /// Destination of the audit log, or none to disable it.
    pub audit_log: Option<audit::AuditSink>,
    /// Time limit for running mounts to finish at shutdown.
    pub drain_timeout: Duration,
    /// The Vault server and the client settings.
    pub connection: ConnectionConfig,
    /// Kubeconfig file, or none to use the pod's service account.
    pub kubeconfig: Option<PathBuf>,
    /// Policy for requesting service account tokens.
    pub mint_tokens: MintTokens,
    /// Name of the Secret with the object version key, in the provider's own namespace.
    pub hmac_secret_name: String,
    /// File with the object version key, used instead of the Secret.
    pub hmac_key_file: Option<PathBuf>,
    /// Directory of encrypted state for the successor process, or none to keep no state.
    pub state_dir: Option<PathBuf>,
    /// Maximum concurrent mounts. Further mounts are rejected immediately.
    pub max_mounts: usize,
    /// Maximum open sessions. A new pod beyond them is rejected.
    pub max_sessions: usize,
    /// Name of this node, whose pods are watched, or none to disable the pod watch.
    pub node_name: Option<String>,
    /// Time after its last poll at which an unwatched pod counts as gone, from one minute to seven days.
    pub orphan_after: Duration,
    /// Maximum age of a cached secret without a lease, at least ten seconds, or none to never refresh it.
    pub refresh_interval: Option<Duration>,
}

/// Policy for requesting a service account token if the driver passed none for the audience.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MintTokens {
    /// Requests a token, as the Go provider does.
    #[default]
    Auto,
    /// Never requests a token.
    Off,
}

/// Every error of a configuration, one line each.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigErrors(Vec<String>);

impl ConfigErrors {
    /// Returns the error lines, at least one.
    #[must_use]
    pub fn lines(&self) -> &[String] {
        &self.0
    }
}

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join("\n"))
    }
}

impl std::error::Error for ConfigErrors {}

impl Config {
    /// Loads flags and environment. Returns the configuration and warnings, one line each, to log at startup.
    pub fn load<K: Into<OsString>, V: Into<OsString>>(
        args: &ServeArgs,
        env: impl IntoIterator<Item = (K, V)>,
    ) -> Result<(Self, Vec<String>), ConfigErrors> {
        let env = Environment::new(env);
        let mut report = ConfigReport::default();
        let config = Self::read(args, &env, &mut report);
        env.warn_of_ignored(&mut report);
        if report.errors.is_empty() { Ok((config, report.warnings)) } else { Err(ConfigErrors(report.errors)) }
    }

    /// Reads every setting. For an invalid value it reports an error and uses the default.
    fn read(args: &ServeArgs, env: &Environment, report: &mut ConfigReport) -> Self {
        let mut connection = connection::read(&args.connection, env, report);
        let limits = &args.limits;
        let vault_config = &mut connection.vault;
        vault_config.max_in_flight =
            read_limit("--max-in-flight", limits.max_in_flight.as_ref(), vault_config.max_in_flight, report);
        vault_config.max_mutating =
            read_limit("--max-mutating", limits.max_mutating.as_ref(), vault_config.max_mutating, report);
        warn_of_cache_size(limits.cache_size.as_ref(), report);
        let endpoints = endpoint::read(&args.endpoint, report);
        let drain_timeout = Setting::non_empty("--drain-timeout", args.drain_timeout.as_ref());
        Self {
            status_socket: status_socket::read(args.status_socket.as_ref(), &endpoints, env, report),
            endpoints,
            health_addr: read_health_addr(args.health_addr.as_ref(), report),
            metrics_addr: read_metrics_addr(args.metrics_addr.as_ref(), report),
            log: read_log_settings(&args.log, report),
            events_enabled: report
                .read(Setting::non_empty("--events", args.events.as_ref()).as_ref(), value::boolean)
                .unwrap_or(true),
            audit_log: read_audit_log(args.audit_log.as_ref(), report),
            drain_timeout: report.read(drain_timeout.as_ref(), value::duration).unwrap_or(Duration::from_secs(20)),
            connection,
            kubeconfig: read_file("--kubeconfig", args.kubernetes.kubeconfig.as_ref(), report),
            mint_tokens: read_mint_tokens(args.kubernetes.mint_tokens.as_ref(), report),
            hmac_secret_name: read_hmac_secret_name(args.hmac_secret_name.as_ref(), report),
            hmac_key_file: read_file("--hmac-key-file", args.hmac_key_file.as_ref(), report),
            state_dir: session::read_state_dir(args.session.state_dir.as_ref(), env, report),
            max_mounts: read_limit("--max-mounts", limits.max_mounts.as_ref(), 256, report),
            max_sessions: read_limit("--max-sessions", limits.max_sessions.as_ref(), 4096, report),
            node_name: session::read_node_name(args.node_name.as_ref(), env, report),
            orphan_after: session::read_orphan_after(args.session.orphan_after.as_ref(), report),
            refresh_interval: session::read_refresh_interval(args.session.refresh_interval.as_ref(), report),
        }
    }
}

fn read_limit(name: &'static str, value: Option<&String>, default_value: usize, report: &mut ConfigReport) -> usize {
    let number = report.read(Setting::non_empty(name, value).as_ref(), |text| value::integer(text, 1..=1_000_000));
    number.and_then(|n| usize::try_from(n).ok()).unwrap_or(default_value)
}

fn read_file(name: &'static str, value: Option<&String>, report: &mut ConfigReport) -> Option<PathBuf> {
    report.read(Setting::non_empty(name, value).as_ref(), value::file)
}

/// Warns if the size differs from the Go provider's default, because it has no effect here.
fn warn_of_cache_size(value: Option<&String>, report: &mut ConfigReport) {
    let setting = Setting::non_empty("--cache-size", value);
    let size = report.read(setting.as_ref(), |text| text.parse::<i64>().map_err(|_| "is not a whole number"));
    if let (Some(setting), Some(_)) = (setting, size.filter(|s| *s != 1000)) {
        report.warn(format!("{setting} has no effect: sessions are not evicted; use --max-sessions to limit them"));
    }
}

/// Reads `--health-addr`. Unlike with other flags, an empty value means `off`, not the default.
fn read_health_addr(value: Option<&String>, report: &mut ConfigReport) -> Option<SocketAddr> {
    let value = value.cloned().unwrap_or_else(|| ":8080".to_owned());
    report.read(Some(&Setting { name: "--health-addr".into(), value }), value::listen_address).flatten()
}

fn read_metrics_addr(value: Option<&String>, report: &mut ConfigReport) -> Option<SocketAddr> {
    report.read(Setting::non_empty("--metrics-addr", value).as_ref(), value::listen_address).flatten()
}

/// Reads the log settings. As in Go, an unknown level means `info`, and `--log-level` overrides `--debug`.
fn read_log_settings(args: &LogArgs, report: &mut ConfigReport) -> telemetry::LogSettings {
    let debug = report.read(Setting::non_empty("--debug", args.debug.as_ref()).as_ref(), value::boolean);
    let filter = match Setting::non_empty("--log-level", args.log_level.as_ref()) {
        Some(setting) => Filter::parse(setting.value.trim()).unwrap_or_else(|error| {
            report.warn(format!("{}: {error}; info is used", setting.name));
            Filter::default()
        }),
        None if debug == Some(true) => Filter::from_level(LevelFilter::DEBUG),
        None => Filter::default(),
    };
    let format = |text: &str| match text {
        "text" => Ok(LogFormat::Text),
        "json" => Ok(LogFormat::Json),
        _ => Err("is neither text nor json"),
    };
    telemetry::LogSettings {
        format: report
            .read(Setting::non_empty("--log-format", args.log_format.as_ref()).as_ref(), format)
            .unwrap_or_default(),
        filter,
        filter_file: read_file("--log-filter-file", args.log_filter_file.as_ref(), report),
    }
}

fn read_audit_log(value: Option<&String>, report: &mut ConfigReport) -> Option<audit::AuditSink> {
    let setting = Setting::non_empty("--audit-log", value);
    report.read(setting.as_ref(), |text| match text {
        "stdout" => Ok(audit::AuditSink::Stdout),
        path => Ok::<_, &str>(audit::AuditSink::File(path.into())),
    })
}

fn read_mint_tokens(value: Option<&String>, report: &mut ConfigReport) -> MintTokens {
    let parse = |text: &str| match text {
        "auto" => Ok(MintTokens::Auto),
        "off" => Ok(MintTokens::Off),
        _ => Err("is neither auto nor off"),
    };
    report.read(Setting::non_empty("--mint-tokens", value).as_ref(), parse).unwrap_or_default()
}

/// Reads `--hmac-secret-name`. The name is checked here, so that a typo is found before the first mount.
fn read_hmac_secret_name(value: Option<&String>, report: &mut ConfigReport) -> String {
    let setting = Setting::non_empty("--hmac-secret-name", value);
    let name = report.read(setting.as_ref(), |text| value::kubernetes_name(text, "Secret"));
    name.unwrap_or_else(|| "vault-csi-provider-hmac-key".to_owned())
}

#[cfg(test)]
mod tests;
