//! Flags as typed. [`Config`](super::Config) parses their values, so that all errors are reported at once.
//! The doc comments are the help texts.

#![expect(clippy::doc_markdown, reason = "help texts are printed as they are, backticks included")]

use clap::Args;

/// Defines the server flags under one of their two prefixes, so that both families have the same flags.
macro_rules! server_flags {
    ($(#[$meta:meta])* $name:ident, $prefix:literal, hide = $hide:literal) => {
        $(#[$meta])*
        #[derive(Args, Clone, Debug, Default)]
        #[command(next_help_heading = "Server")]
        pub struct $name {
            /// Address (VAULT_ADDR) [default: https://127.0.0.1:8200]
            #[arg(id = concat!($prefix, "-addr"), long = concat!($prefix, "-addr"), value_name = "URL", hide = $hide)]
            pub addr: Option<String>,

            /// Auth mount where pods log in [default: kubernetes]
            #[arg(id = concat!($prefix, "-mount"), long = concat!($prefix, "-mount"), value_name = "PATH", hide = $hide)]
            pub mount: Option<String>,

            /// Vault namespace of logins and secrets (VAULT_NAMESPACE)
            #[arg(id = concat!($prefix, "-namespace"), long = concat!($prefix, "-namespace"), value_name = "NAME", hide = $hide)]
            pub namespace: Option<String>,

            /// PEM file of the CA to trust (VAULT_CACERT)
            #[arg(id = concat!($prefix, "-tls-ca-cert"), long = concat!($prefix, "-tls-ca-cert"), value_name = "FILE", hide = $hide)]
            pub ca_cert: Option<String>,

            /// Directory of PEM files of CAs to trust (VAULT_CAPATH)
            #[arg(id = concat!($prefix, "-tls-ca-directory"), long = concat!($prefix, "-tls-ca-directory"), value_name = "DIR", hide = $hide)]
            pub ca_directory: Option<String>,

            /// Name in the server's certificate (VAULT_TLS_SERVER_NAME)
            #[arg(id = concat!($prefix, "-tls-server-name"), long = concat!($prefix, "-tls-server-name"), value_name = "NAME", hide = $hide)]
            pub server_name: Option<String>,

            /// PEM file of the client certificate (VAULT_CLIENT_CERT)
            #[arg(id = concat!($prefix, "-tls-client-cert"), long = concat!($prefix, "-tls-client-cert"), value_name = "FILE", hide = $hide)]
            pub client_cert: Option<String>,

            /// PEM file of the client key (VAULT_CLIENT_KEY)
            #[arg(id = concat!($prefix, "-tls-client-key"), long = concat!($prefix, "-tls-client-key"), value_name = "FILE", hide = $hide)]
            pub client_key: Option<String>,

            /// Trust any certificate (VAULT_SKIP_VERIFY)
            #[arg(id = concat!($prefix, "-tls-skip-verify"), long = concat!($prefix, "-tls-skip-verify"), value_name = "BOOL", hide = $hide,
                  num_args = 0..=1, require_equals = true, default_missing_value = "true")]
            pub skip_verify: Option<String>,
        }
    };
}

server_flags!(
    /// `--vault-…`: the default server of classes.
    VaultFlags, "vault", hide = false
);
server_flags!(
    /// `--openbao-…`: the same settings under OpenBao's names.
    OpenBaoFlags, "openbao", hide = true
);

/// Flags of the server, and of the other servers that a class may choose.
#[derive(Args, Clone, Debug, Default)]
pub struct ConnectionArgs {
    /// `--vault-…`.
    #[command(flatten)]
    pub vault: VaultFlags,

    /// `--openbao-…`.
    #[command(flatten)]
    pub openbao: OpenBaoFlags,

    /// Addresses a class may choose: https://*.corp:8200, or none
    #[arg(long, value_name = "PATTERN")]
    pub allow_address: Vec<String>,

    /// File with named endpoints and limits for each namespace
    #[arg(long, value_name = "FILE")]
    pub policy_file: Option<String>,

    /// Directory that certificate files of classes must be in
    #[arg(long, value_name = "DIR")]
    pub tenant_tls_dir: Option<String>,

    /// Allow classes to trust any certificate [default: true]
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub allow_skip_verify: Option<String>,

    /// Allow pods with a shared Vault token to read the token and its cubbyhole
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub allow_shared_token: Option<String>,

    /// Minimum TLS version: 1.2 or 1.3 [default: 1.2]
    #[arg(long, value_name = "VERSION")]
    pub tls_min_version: Option<String>,

    /// Host that a redirect may send the token to; repeatable
    #[arg(long, value_name = "HOST[:PORT]")]
    pub follow_redirects: Vec<String>,
}

/// Log flags.
#[derive(Args, Clone, Debug, Default)]
pub struct LogArgs {
    /// Level: trace, debug, info, warn, error or off [default: info]
    #[arg(long, value_name = "LEVEL")]
    pub log_level: Option<String>,

    /// Format: text or json [default: text]
    #[arg(long, value_name = "FORMAT")]
    pub log_format: Option<String>,

    /// File with a level, read at start and on SIGHUP
    #[arg(long, value_name = "FILE")]
    pub log_filter_file: Option<String>,

    /// Same as --log-level=debug, unless --log-level is set
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true", hide = true)]
    pub debug: Option<String>,
}

/// Flags of `vaultmount serve`.
#[derive(Args, Clone, Debug, Default)]
pub struct ServeArgs {
    /// Socket for the driver; repeatable, one per provider name [default: /tmp/vault.sock]
    #[arg(long, value_name = "PATH")]
    pub endpoint: Vec<String>,

    /// Listen address of health probes, or off [default: :8080]
    #[arg(long, value_name = "ADDRESS")]
    pub health_addr: Option<String>,

    /// Listen address of metrics, such as :8081 [default: off]
    #[arg(long, value_name = "ADDRESS")]
    pub metrics_addr: Option<String>,

    /// Socket of vaultmount status, or off [default: /tmp/vault.status]
    #[arg(long, value_name = "PATH")]
    pub status_socket: Option<String>,

    /// Log flags.
    #[command(flatten)]
    pub log: LogArgs,

    /// File for a JSON line per decision about a secret, or stdout
    #[arg(long, value_name = "FILE")]
    pub audit_log: Option<String>,

    /// Time for running mounts to finish at shutdown [default: 20s]
    #[arg(long, value_name = "DURATION")]
    pub drain_timeout: Option<String>,

    /// Print the version and exit
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true", hide = true)]
    pub version: Option<String>,

    /// Format of --version: json or text
    #[arg(long, value_name = "FORMAT", hide = true)]
    pub output: Option<String>,

    /// Server flags.
    #[command(flatten)]
    pub connection: ConnectionArgs,

    /// Kubernetes API flags.
    #[command(flatten)]
    pub kubernetes: KubernetesArgs,

    /// Write pod events [default: true]
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true",
          help_heading = "Kubernetes")]
    pub events: Option<String>,

    /// Name of this node, whose pods are watched (NODE_NAME)
    #[arg(long, value_name = "NAME", help_heading = "Kubernetes")]
    pub node_name: Option<String>,

    /// Secret with the object version key [default: vault-csi-provider-hmac-key]
    #[arg(long, value_name = "NAME", help_heading = "Kubernetes")]
    pub hmac_secret_name: Option<String>,

    /// File with the object version key, instead of the Secret
    #[arg(long, value_name = "FILE", help_heading = "Kubernetes")]
    pub hmac_key_file: Option<String>,

    /// Session flags.
    #[command(flatten)]
    pub session: SessionArgs,

    /// Limit flags.
    #[command(flatten)]
    pub limits: LimitArgs,
}

/// Flags of the Kubernetes API.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "Kubernetes")]
pub struct KubernetesArgs {
    /// Kubeconfig file to use instead of the pod's service account
    #[arg(long, value_name = "FILE")]
    pub kubeconfig: Option<String>,

    /// Request tokens that the driver did not pass: auto or off [default: auto]
    #[arg(long, value_name = "WHEN")]
    pub mint_tokens: Option<String>,
}

/// Flags of saved state, refreshing and orphaned pods.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "Limits")]
pub struct SessionArgs {
    /// Directory for encrypted state, used by the next process (VAULTMOUNT_STATE_DIR)
    #[arg(long, value_name = "DIR")]
    pub state_dir: Option<String>,

    /// Stop renewing for an unwatched pod after this long without a poll [default: 1h]
    #[arg(long, value_name = "TIME")]
    pub orphan_after: Option<String>,

    /// Age at which a poll refreshes plain secrets, or never [default: 2m]
    #[arg(long, value_name = "TIME")]
    pub refresh_interval: Option<String>,
}

/// Flags of limits.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "Limits")]
pub struct LimitArgs {
    /// Concurrent mounts, at most half of them of one namespace [default: 256]
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    pub max_mounts: Option<String>,

    /// Open sessions, at most half of them of one namespace [default: 4096]
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    pub max_sessions: Option<String>,

    /// Concurrent requests to one server [default: 16]
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    pub max_in_flight: Option<String>,

    /// Concurrent mutating requests on one mount path [default: 4]
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    pub max_mutating: Option<String>,

    /// Ignored; accepted for compatibility with the Go provider
    #[arg(long, value_name = "N", allow_negative_numbers = true, hide = true)]
    pub cache_size: Option<String>,
}
