//! The command line: a file per command, and what they print with.
//!
//! Go's flags are taken as Go takes them: one dash or two, the last one given wins, and a boolean flag
//! never takes the next argument. Without a command, `serve` is meant.

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
use version::{Output, VersionArgs};

#[derive(Parser)]
#[command(
    name = "vaultmount",
    about = "Secrets Store CSI driver provider for HashiCorp Vault and OpenBao",
    args_override_self = true,
    max_term_width = 100,
    override_usage = "vaultmount [COMMAND] [OPTIONS]",
    after_help = "Without a command it serves; see vaultmount serve --help. Flags take one dash or two;\n\
                  each --vault-… may be --openbao-…, each VAULT_… variable BAO_….\n\nExample:\n  \
                  vaultmount -endpoint=/provider/vault.sock -vault-addr=https://vault.vault:8200"
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

/// What to do.
#[derive(Clone, Debug, Subcommand)]
pub enum Command {
    /// Serve the driver's mount requests
    #[command(
        after_help = "Example:\n  vaultmount serve --endpoint=/provider/vault.sock --vault-addr=https://vault.vault:8200"
    )]
    Serve(Box<ServeArgs>),

    /// Make a place for `serve` among the driver's providers on this node
    #[command(
        after_help = "A private folder, and a link into it for each provider name.\n\nExample:\n  vaultmount install --provider vault"
    )]
    Install(install::InstallArgs),

    /// Remove what install made
    #[command(after_help = "Fails while vaultmount serves there.\n\nExample:\n  vaultmount uninstall")]
    Uninstall(install::UninstallArgs),

    /// Show what a process that serves holds: pods, tokens, leases, what failed
    #[command(after_help = "In its container, for kubectl exec; it prints no secret.\n\nExample:\n  vaultmount status")]
    Status(status::StatusArgs),

    /// Revoke everything that a process that serves holds, before it is uninstalled
    #[command(after_help = "Pods lose access at once, and mounts are refused until it is restarted.\n\n\
                      Exit code: 0 when everything was revoked, 1 otherwise.\n\nExample:\n  vaultmount revoke --all")]
    Revoke(revoke::RevokeArgs),

    /// Look at what is kept for the next process on this node
    State(state::StateArgs),

    /// Do one mount by hand, to see what a pod would get
    #[command(
        after_help = "What it makes at Vault (a token, database users) stays until it ends by itself.\n\nExample:\n  vaultmount mount -f class.yaml --namespace shop --service-account web --token-file token --show"
    )]
    Mount(Box<MountArgs>),

    /// Find what is wrong with a mount, without a pod
    #[command(
        after_help = "Example:\n  vaultmount check -f class.yaml --namespace shop --service-account web --token-file token"
    )]
    Check(Box<check::CheckArgs>),

    /// Look for mistakes in manifests, without a server
    #[command(
        after_help = "Exit code: 0 when nothing is wrong, 1 when something is, 2 when a file cannot be read.\n\nExample:\n  \
                      vaultmount validate deploy/\n  kustomize build . | vaultmount validate --output github"
    )]
    Validate(ValidateArgs),

    /// Explain the id at the end of a message
    #[command(
        after_help = "A pasted message will do; the ids in it are explained.\n\nExample:\n  vaultmount explain VM0050"
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
            // Standard output for help that was asked for, standard error otherwise; neither may be gone.
            let _ = error.print();
            ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2))
        }
    }
}

/// The whole command line, for what is made of it.
fn command() -> clap::Command {
    let mut command = Cli::command();
    command.build();
    command
}

/// What a server's flags and environment mean, with warnings; or the exit code after everything wrong with them is told.
fn configured(args: &ServeArgs) -> Result<(Config, Vec<String>), ExitCode> {
    Config::load(args, std::env::vars_os()).map_err(|errors| refused(&errors))
}

/// The same for a command that serves nobody.
fn configured_by_hand(args: &ServeArgs) -> Result<(Config, Vec<String>), ExitCode> {
    let env = std::env::vars_os().filter(|(name, _)| SERVE_VARIABLES.iter().all(|own| name != own));
    Config::load(args, env).map_err(|errors| refused(&errors))
}

fn refused(errors: &ConfigErrors) -> ExitCode {
    complain(&errors.to_string());
    ExitCode::from(2)
}

/// Waits for SIGTERM or SIGINT, which from this call on end the process no more by themselves.
fn told_to_stop() -> impl Future<Output = ()> {
    let signals = (signal(SignalKind::terminate()), signal(SignalKind::interrupt()));
    async move {
        let (Ok(mut terminate), Ok(mut interrupt)) = signals else {
            tracing::error!("signals cannot be received; only SIGKILL ends this process");
            return std::future::pending().await;
        };
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    }
}

/// What became of printing: that nobody reads on is no failure.
fn printed(done: io::Result<()>) -> Result<(), String> {
    match done {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(format!("the output cannot be written: {error}"))
        }
        _ => Ok(()),
    }
}

/// The exit code of an outcome; a failure is told.
fn finish(outcome: Result<(), String>) -> ExitCode {
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            complain(&error);
            ExitCode::FAILURE
        }
    }
}

/// Says on standard error why the command fails.
fn complain(what: &str) {
    for line in what.lines() {
        let _ =
            writeln!(style::stderr(), "{} {}", style::paint(style::ERROR, "vaultmount:"), replace_control_chars(line));
    }
}

/// Runs to the end on a runtime of few threads: the work is waiting, not computing. Their stacks are as large as a main
/// thread's: whoever writes a class says how deep its YAML nests.
fn block_on<T>(work: impl Future<Output = Result<T, String>>) -> Result<T, String> {
    let threads = std::thread::available_parallelism().map_or(2, |n| n.get().min(2));
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    let runtime =
        builder.worker_threads(threads).max_blocking_threads(16).thread_stack_size(8 << 20).enable_all().build();
    runtime.map_err(|e| format!("no runtime could be made: {e}"))?.block_on(work)
}

impl Command {
    /// Reads the arguments, the program's name first. An error knows how to print itself and the exit code,
    /// and may be the help that was asked for.
    pub fn parse(args: impl IntoIterator<Item = OsString>) -> Result<Self, clap::Error> {
        match Cli::try_parse_from(with_command(args))?.command {
            Self::Serve(args) => Self::serve_or_version(args),
            command => Ok(command),
        }
    }

    /// `-version` among the flags goes before serving.
    fn serve_or_version(args: Box<ServeArgs>) -> Result<Self, clap::Error> {
        let wrong = |what: String| clap::Error::raw(ErrorKind::InvalidValue, what + "\n");
        let Some(text) = &args.version else { return Ok(Self::Serve(args)) };
        match parse_go_bool(text) {
            None => Err(wrong(format!("--version={text} is neither true nor false"))),
            Some(false) => Ok(Self::Serve(args)),
            Some(true) => {
                let output = args.output.as_deref().map_or(Ok(Output::default()), |o| Output::from_str(o, true));
                let output = output.map_err(|_| wrong("--output takes json or text".to_owned()))?;
                Ok(Self::Version(VersionArgs { output }))
            }
        }
    }
}

/// The arguments as clap wants them: a command first, and long flags with two dashes.
fn with_command(args: impl IntoIterator<Item = OsString>) -> Vec<OsString> {
    let mut args = args.into_iter();
    let mut all = vec![args.next().unwrap_or_else(|| "vaultmount".into())];
    let mut rest = args.peekable();
    if rest.peek().is_none_or(|first| is_flag(first) && !asks_help(first)) {
        all.push("serve".into());
    }
    // `help mount` is `mount -h`: there is one help, which fits a screen, and no longer one.
    let asked = rest.next_if(|first| first == "help").is_some();
    while let Some(arg) = rest.next_if(|arg| arg != "--") {
        all.push(if asks_help(&arg) { "-h".into() } else { two_dashes(arg) });
    }
    if asked {
        all.push("-h".into());
    }
    all.extend(rest);
    all
}

fn is_flag(arg: &OsString) -> bool {
    arg.as_encoded_bytes().starts_with(b"-")
}

fn asks_help(arg: &OsString) -> bool {
    ["-h", "-help", "--help"].iter().any(|help| arg == help)
}

/// `-endpoint=/x` becomes `--endpoint=/x`; `-f`, `-f=x`, `-fx.yaml`, `-ojson`, `-1` and everything else stay.
fn two_dashes(arg: OsString) -> OsString {
    let Some(flag) = arg.to_str().and_then(|a| a.strip_prefix('-')) else { return arg };
    let name = flag.split('=').next().unwrap_or_default();
    let is_name = name.len() > 1
        && name.starts_with(|c: char| c.is_ascii_alphabetic())
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_');
    // As kubectl's users write it; no flag of ours goes by such a name.
    let is_format = matches!(flag, "ojson" | "otext" | "osarif" | "ogithub");
    if is_name && !is_format { format!("--{flag}").into() } else { arg }
}

#[cfg(test)]
mod tests;
