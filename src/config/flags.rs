//! Flags as typed. What they mean is [`Config`](super::Config)'s to say, so that all errors are reported at once.
//! The doc comments are the help texts.

#![expect(clippy::doc_markdown, reason = "help texts are printed as they are, backticks included")]

use clap::Args;

/// The server's flags under one of their two prefixes. One list, so that the families cannot differ.
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

            /// Namespace of logins and secrets (VAULT_NAMESPACE)
            #[arg(id = concat!($prefix, "-namespace"), long = concat!($prefix, "-namespace"), value_name = "NAME", hide = $hide)]
            pub namespace: Option<String>,

            /// PEM file of the authority to trust (VAULT_CACERT)
            #[arg(id = concat!($prefix, "-tls-ca-cert"), long = concat!($prefix, "-tls-ca-cert"), value_name = "FILE", hide = $hide)]
            pub ca_cert: Option<String>,

            /// Directory of such files (VAULT_CAPATH)
            #[arg(id = concat!($prefix, "-tls-ca-directory"), long = concat!($prefix, "-tls-ca-directory"), value_name = "DIR", hide = $hide)]
            pub ca_directory: Option<String>,

            /// Name in its certificate (VAULT_TLS_SERVER_NAME)
            #[arg(id = concat!($prefix, "-tls-server-name"), long = concat!($prefix, "-tls-server-name"), value_name = "NAME", hide = $hide)]
            pub server_name: Option<String>,

            /// PEM file of our certificate (VAULT_CLIENT_CERT)
            #[arg(id = concat!($prefix, "-tls-client-cert"), long = concat!($prefix, "-tls-client-cert"), value_name = "FILE", hide = $hide)]
            pub client_cert: Option<String>,

            /// PEM file of its key (VAULT_CLIENT_KEY)
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
    /// `--vault-…`: the server that classes use which name none.
    VaultFlags, "vault", hide = false
);
server_flags!(
    /// `--openbao-…`: the same settings under OpenBao's names.
    OpenBaoFlags, "openbao", hide = true
);

/// How to reach the server, and which other servers a class may name.
#[derive(Args, Clone, Debug, Default)]
pub struct ConnectionArgs {
    /// `--vault-…`.
    #[command(flatten)]
    pub vault: VaultFlags,

    /// `--openbao-…`.
    #[command(flatten)]
    pub openbao: OpenBaoFlags,

    /// Addresses a class may name, as https://*.corp:8200, or none
    #[arg(long, value_name = "PATTERN")]
    pub allow_address: Vec<String>,

    /// File of named endpoints, and of what each namespace may use
    #[arg(long, value_name = "FILE")]
    pub policy_file: Option<String>,

    /// Folder in which certificate files of classes must be
    #[arg(long, value_name = "DIR")]
    pub tenant_tls_dir: Option<String>,

    /// Let classes trust any certificate [default: true]
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub allow_skip_verify: Option<String>,

    /// Let pods that share a Vault token have it, and its cubbyhole
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub allow_shared_token: Option<String>,

    /// Oldest version of TLS: 1.2 or 1.3 [default: 1.2]
    #[arg(long, value_name = "VERSION")]
    pub tls_min_version: Option<String>,

    /// Host that a redirect may take the token to; repeatable
    #[arg(long, value_name = "HOST[:PORT]")]
    pub follow_redirects: Vec<String>,
}

/// What is logged, and how.
#[derive(Args, Clone, Debug, Default)]
pub struct LogArgs {
    /// trace, debug, info, warn, error or off [default: info]
    #[arg(long, value_name = "LEVEL")]
    pub log_level: Option<String>,

    /// text or json [default: text]
    #[arg(long, value_name = "FORMAT")]
    pub log_format: Option<String>,

    /// File of a level, read at start and at SIGHUP
    #[arg(long, value_name = "FILE")]
    pub log_filter_file: Option<String>,

    /// Same as --log-level=debug, unless that is given
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true", hide = true)]
    pub debug: Option<String>,
}

/// Flags of `vaultmount serve`.
#[derive(Args, Clone, Debug, Default)]
pub struct ServeArgs {
    /// Socket for the driver; repeatable, one per provider name [default: /tmp/vault.sock]
    #[arg(long, value_name = "PATH")]
    pub endpoint: Vec<String>,

    /// Where probes are answered, or off [default: :8080]
    #[arg(long, value_name = "ADDRESS")]
    pub health_addr: Option<String>,

    /// Where metrics are scraped, such as :8081 [default: off]
    #[arg(long, value_name = "ADDRESS")]
    pub metrics_addr: Option<String>,

    /// Where vaultmount status asks, or off [default: /tmp/vault.status]
    #[arg(long, value_name = "PATH")]
    pub status_socket: Option<String>,

    /// How much is logged.
    #[command(flatten)]
    pub log: LogArgs,

    /// File of a JSON line for each decision about a secret, or stdout
    #[arg(long, value_name = "FILE")]
    pub audit_log: Option<String>,

    /// How long running mounts may take to end at shutdown [default: 20s]
    #[arg(long, value_name = "DURATION")]
    pub drain_timeout: Option<String>,

    /// Print the version and exit
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true", hide = true)]
    pub version: Option<String>,

    /// Format of --version: json or text
    #[arg(long, value_name = "FORMAT", hide = true)]
    pub output: Option<String>,

    /// How to reach the server.
    #[command(flatten)]
    pub connection: ConnectionArgs,

    /// How to reach the Kubernetes API.
    #[command(flatten)]
    pub kubernetes: KubernetesArgs,

    /// Write events of pods [default: true]
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true",
          help_heading = "Kubernetes")]
    pub events: Option<String>,

    /// This node, whose pods are watched for their end (NODE_NAME)
    #[arg(long, value_name = "NAME", help_heading = "Kubernetes")]
    pub node_name: Option<String>,

    /// Secret of the key of object versions [default: vault-csi-provider-hmac-key]
    #[arg(long, value_name = "NAME", help_heading = "Kubernetes")]
    pub hmac_secret_name: Option<String>,

    /// File that holds that key, instead of the Secret
    #[arg(long, value_name = "FILE", help_heading = "Kubernetes")]
    pub hmac_key_file: Option<String>,

    /// When what pods have is renewed, and taken back.
    #[command(flatten)]
    pub keeping: SessionArgs,

    /// What is bounded.
    #[command(flatten)]
    pub limits: LimitArgs,
}

/// How to reach the Kubernetes API, and what for.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "Kubernetes")]
pub struct KubernetesArgs {
    /// Reach the API by this file instead of the pod's service account
    #[arg(long, value_name = "FILE")]
    pub kubeconfig: Option<String>,

    /// Request tokens that the driver did not pass: auto or off [default: auto]
    #[arg(long, value_name = "WHEN")]
    pub mint_tokens: Option<String>,
}

/// Where what pods have is kept, when it is read anew, and when a pod counts as gone.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "Limits")]
pub struct SessionArgs {
    /// Folder where what pods have is kept, sealed, for the next process (VAULTMOUNT_STATE_DIR)
    #[arg(long, value_name = "DIR")]
    pub state_dir: Option<String>,

    /// Silence after which an unseen pod counts as gone [default: 1h]
    #[arg(long, value_name = "TIME")]
    pub orphan_after: Option<String>,

    /// Age at which unleased values are read anew, or never [default: 2m]
    #[arg(long, value_name = "TIME")]
    pub refresh_interval: Option<String>,
}

/// What is bounded, and how much is enough.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "Limits")]
pub struct LimitArgs {
    /// Mounts under way at once, half of them of one namespace [default: 256]
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    pub max_mounts: Option<String>,

    /// Sessions of pods at once, half of them of one namespace [default: 4096]
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    pub max_sessions: Option<String>,

    /// Requests to one server at once [default: 16]
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    pub max_in_flight: Option<String>,

    /// Of these, on one mount path, that create credentials [default: 4]
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    pub max_mutating: Option<String>,

    /// Accepted for the Go provider's sake; bounds nothing
    #[arg(long, value_name = "N", allow_negative_numbers = true, hide = true)]
    pub cache_size: Option<String>,
}
