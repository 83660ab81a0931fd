//! The command line: one file per command, and shared output helpers.
//!
//! Flags are parsed as Go parses them: one dash or two, the last value wins, and a boolean flag never takes the next
//! argument. Without a command, `serve` runs.

pub mod check;
pub mod completions;
mod driver_args;
pub mod explain;
pub mod install;
pub mod man;
pub mod mount;
pub mod revoke;
pub mod serve;
pub mod state;
pub mod status;
pub mod status_client;
pub mod style;
pub mod validate;
pub mod version;

use std::{
    ffi::OsString,
    io::{self, Write},
    process::ExitCode,
};

use clap::{CommandFactory as _, Parser, Subcommand, ValueEnum as _, error::ErrorKind};

use tokio::signal::unix::{SignalKind, signal};

use crate::{
    config::{Config, ConfigErrors, SERVE_VARIABLES, ServeArgs},
    text::{parse_go_bool, replace_control_chars},
};
use mount::MountArgs;
use validate::ValidateArgs;
use version::{VersionArgs, VersionFormat};

#[derive(Parser)]
#[command(
    name = "vaultmount",
    about = "Secrets Store CSI driver provider for HashiCorp Vault and OpenBao",
    args_override_self = true,
    max_term_width = 100,
    override_usage = "vaultmount [COMMAND] [OPTIONS]",
    after_help = "Without a command, serve runs; see vaultmount serve --help. Write flags with one dash or two.\n\
                  Each --vault-… may be --openbao-…, and each VAULT_… variable BAO_….\n\nExample:\n  \
                  vaultmount -endpoint=/provider/vault.sock -vault-addr=https://vault.vault:8200"
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

/// The command to run.
#[derive(Clone, Debug, Subcommand)]
pub enum Command {
    /// Serve the driver's mount requests
    #[command(
        after_help = "Example:\n  vaultmount serve --endpoint=/provider/vault.sock --vault-addr=https://vault.vault:8200"
    )]
    Serve(Box<ServeArgs>),

    /// Create the socket directory and links for `serve` on this node
    #[command(
        after_help = "Creates a private directory, and a link into it for each provider name.\n\nExample:\n  vaultmount install --provider vault"
    )]
    Install(install::InstallArgs),

    /// Remove the directory and links that install created
    #[command(after_help = "Fails while vaultmount serves there.\n\nExample:\n  vaultmount uninstall")]
    Uninstall(install::UninstallArgs),

    /// Show the running provider's pods, tokens, secrets and recent failures
    #[command(
        after_help = "Run it in the provider's container (kubectl exec). The output contains no secret.\n\nExample:\n  vaultmount status"
    )]
    Status(status::StatusArgs),

    /// Revoke all tokens of the running provider, before you uninstall it
    #[command(after_help = "Pods lose access at once, and mounts are rejected until you restart the provider.\n\n\
                      Exit code: 0 if everything was revoked, 1 otherwise.\n\nExample:\n  vaultmount revoke --all")]
    Revoke(revoke::RevokeArgs),

    /// Inspect the saved state on this node
    State(state::StateArgs),

    /// Perform one mount by hand, and show what a pod would get
    #[command(
        after_help = "The token and credentials that it creates in Vault remain until they expire.\n\nExample:\n  vaultmount mount -f class.yaml --namespace shop --service-account web --token-file token --show"
    )]
    Mount(Box<MountArgs>),

    /// Test a mount without a pod, and find its errors
    #[command(
        after_help = "Example:\n  vaultmount check -f class.yaml --namespace shop --service-account web --token-file token"
    )]
    Check(Box<check::CheckArgs>),

    /// Find mistakes in manifests, without a server
    #[command(after_help = "Exit code: 0 without errors, 1 with errors, 2 if a file cannot be read.\n\nExample:\n  \
                      vaultmount validate deploy/\n  kustomize build . | vaultmount validate --output github")]
    Validate(ValidateArgs),

    /// Explain the ID at the end of an error message
    #[command(
        after_help = "You can paste a whole message. All IDs in it are explained.\n\nExample:\n  vaultmount explain VM0050"
    )]
    Explain(explain::ExplainArgs),

    /// Print the version
    #[command(after_help = "Example:\n  vaultmount version --output text")]
    Version(VersionArgs),

    /// Print completions for a shell
    #[command(after_help = "Example:\n  vaultmount completions bash > /etc/bash_completion.d/vaultmount")]
    Completions(completions::CompletionsArgs),

    /// Print the manual page
    #[command(after_help = "Example:\n  vaultmount man | man -l -")]
    Man,
}

/// Runs the command that the arguments name.
#[must_use]
pub fn run(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    match Command::parse(args) {
        Ok(Command::Serve(args)) => serve::run(&args),
        Ok(Command::Install(args)) => install::install(&args),
        Ok(Command::Uninstall(args)) => install::uninstall(&args),
        Ok(Command::Status(args)) => status::run(&args),
        Ok(Command::Revoke(args)) => revoke::run(&args),
        Ok(Command::State(args)) => state::run(&args),
        Ok(Command::Mount(args)) => mount::run(&args),
        Ok(Command::Check(args)) => check::run(&args),
        Ok(Command::Validate(args)) => validate::run(&args),
        Ok(Command::Explain(args)) => explain::run(&args),
        Ok(Command::Version(args)) => version::run(args),
        Ok(Command::Completions(args)) => completions::run(args),
        Ok(Command::Man) => man::run(),
        Err(error) => {
            // Goes to standard output for requested help, else to standard error. A closed stream is ignored.
            let _ = error.print();
            ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2))
        }
    }
}

/// Returns the complete command line, for the generators of completions and the manual.
fn clap_command() -> clap::Command {
    let mut command = Cli::command();
    command.build();
    command
}

/// Returns the configuration of `serve` and its warnings, or the exit code after printing every error.
fn load_config(args: &ServeArgs) -> Result<(Config, Vec<String>), ExitCode> {
    Config::load(args, std::env::vars_os()).map_err(|errors| print_config_errors(&errors))
}

/// Returns the configuration of a command other than `serve`, which ignores the variables of `serve`.
fn load_oneshot_config(args: &ServeArgs) -> Result<(Config, Vec<String>), ExitCode> {
    let env = std::env::vars_os().filter(|(name, _)| SERVE_VARIABLES.iter().all(|variable| name != variable));
    Config::load(args, env).map_err(|errors| print_config_errors(&errors))
}

fn print_config_errors(errors: &ConfigErrors) -> ExitCode {
    print_error(&errors.to_string());
    ExitCode::from(2)
}

/// Waits for SIGTERM or SIGINT. From this call on, these signals no longer end the process by default.
fn shutdown_signal() -> impl Future<Output = ()> {
    let signals = (signal(SignalKind::terminate()), signal(SignalKind::interrupt()));
    async move {
        let (Ok(mut terminate), Ok(mut interrupt)) = signals else {
            tracing::error!("cannot listen for signals; only SIGKILL ends this process");
            return std::future::pending().await;
        };
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    }
}

/// Converts the result of printing. A closed pipe is not an error.
fn ignore_broken_pipe(result: io::Result<()>) -> Result<(), String> {
    match result {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(format!("cannot write the output: {error}")),
        _ => Ok(()),
    }
}

/// Returns the exit code of an outcome, and prints its error.
fn exit_code(result: Result<(), String>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            print_error(&error);
            ExitCode::FAILURE
        }
    }
}

/// Prints an error to standard error, line by line.
fn print_error(message: &str) {
    for line in message.lines() {
        let _ =
            writeln!(style::stderr(), "{} {}", style::paint(style::ERROR, "vaultmount:"), replace_control_chars(line));
    }
}

/// Runs a future to completion on a runtime of at most two worker threads, because the work is mostly I/O. Their stacks are
/// as large as a main thread's, because tenants control how deep the YAML of a class nests.
fn block_on<T>(future: impl Future<Output = Result<T, String>>) -> Result<T, String> {
    let threads = std::thread::available_parallelism().map_or(2, |n| n.get().min(2));
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    let runtime =
        builder.worker_threads(threads).max_blocking_threads(16).thread_stack_size(8 << 20).enable_all().build();
    runtime.map_err(|e| format!("cannot create the async runtime: {e}"))?.block_on(future)
}

impl Command {
    /// Parses the arguments, beginning with the program's name. The error carries its output and exit code, and is also
    /// used for requested help.
    pub fn parse(args: impl IntoIterator<Item = OsString>) -> Result<Self, clap::Error> {
        match Cli::try_parse_from(normalize_args(args))?.command {
            Self::Serve(args) => Self::serve_or_version(args),
            command => Ok(command),
        }
    }

    /// Returns `serve`, or `version` if `-version` is among the flags.
    fn serve_or_version(args: Box<ServeArgs>) -> Result<Self, clap::Error> {
        let usage_error = |message: String| clap::Error::raw(ErrorKind::InvalidValue, message + "\n");
        let Some(text) = &args.version else { return Ok(Self::Serve(args)) };
        match parse_go_bool(text) {
            None => Err(usage_error(format!("--version={text} is neither true nor false"))),
            Some(false) => Ok(Self::Serve(args)),
            Some(true) => {
                let output =
                    args.output.as_deref().map_or(Ok(VersionFormat::default()), |o| VersionFormat::from_str(o, true));
                let output = output.map_err(|_| usage_error("--output must be json or text".to_owned()))?;
                Ok(Self::Version(VersionArgs { output }))
            }
        }
    }
}

/// Rewrites the arguments for clap: a command first, and long flags with two dashes.
fn normalize_args(args: impl IntoIterator<Item = OsString>) -> Vec<OsString> {
    let mut args = args.into_iter();
    let mut normalized = vec![args.next().unwrap_or_else(|| "vaultmount".into())];
    let mut rest = args.peekable();
    if rest.peek().is_none_or(|first| is_flag(first) && !is_help_flag(first)) {
        normalized.push("serve".into());
    }
    // `help mount` is `mount -h`: each command has only one help text, which fits a screen.
    let wants_help = rest.next_if(|first| first == "help").is_some();
    while let Some(arg) = rest.next_if(|arg| arg != "--") {
        normalized.push(if is_help_flag(&arg) { "-h".into() } else { with_two_dashes(arg) });
    }
    if wants_help {
        normalized.push("-h".into());
    }
    normalized.extend(rest);
    normalized
}

fn is_flag(arg: &OsString) -> bool {
    arg.as_encoded_bytes().starts_with(b"-")
}

fn is_help_flag(arg: &OsString) -> bool {
    ["-h", "-help", "--help"].iter().any(|help| arg == help)
}

/// Rewrites `-endpoint=/x` to `--endpoint=/x`. `-f`, `-f=x`, `-fx.yaml`, `-ojson`, `-1` and everything else stay.
fn with_two_dashes(arg: OsString) -> OsString {
    let Some(flag) = arg.to_str().and_then(|a| a.strip_prefix('-')) else { return arg };
    let name = flag.split('=').next().unwrap_or_default();
    let is_name = name.len() > 1
        && name.starts_with(|c: char| c.is_ascii_alphabetic())
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_');
    // kubectl's notation; no vaultmount flag has such a name.
    let is_format = matches!(flag, "ojson" | "otext" | "osarif" | "ogithub");
    if is_name && !is_format { format!("--{flag}").into() } else { arg }
}

#[cfg(test)]
mod tests;
