//! `vaultmount install` and `vaultmount uninstall`: the socket directory and links on a node.

use std::{
    io::{self, Write},
    path::PathBuf,
    pin::pin,
    process::ExitCode,
    time::Duration,
};

use clap::Args;
use tokio::time;

use crate::install::{self, InstallLog, Owner};

/// Default providers directory of drivers, also used by the charts of other providers.
const DEFAULT_PROVIDERS_DIR: &str = "/var/run/secrets-store-csi-providers";

/// Delay between two attempts with `--wait`.
const INSTALL_RETRY_DELAY: Duration = Duration::from_secs(1);

/// Flags of `vaultmount install`.
#[derive(Args, Clone, Debug)]
pub struct InstallArgs {
    /// The driver's providers directory
    #[arg(long, value_name = "DIR", default_value = DEFAULT_PROVIDERS_DIR)]
    pub providers_dir: PathBuf,

    /// Provider name to serve; repeatable
    #[arg(long, value_name = "NAME", default_values = ["vault", "openbao"], value_parser = parse_provider_name)]
    pub provider: Vec<String>,

    /// Numeric user and group of serve
    #[arg(long, value_name = "UID:GID", default_value = "65532:65532", value_parser = parse_owner)]
    pub owner: Owner,

    /// Retry until it succeeds
    #[arg(long)]
    pub wait: bool,
}

/// Flags of `vaultmount uninstall`.
#[derive(Args, Clone, Debug)]
pub struct UninstallArgs {
    /// The driver's providers directory
    #[arg(long, value_name = "DIR", default_value = DEFAULT_PROVIDERS_DIR)]
    pub providers_dir: PathBuf,

    /// Keep running until a signal arrives, as the container of a `DaemonSet` must
    #[arg(long)]
    pub wait_for_signal: bool,
}

/// Creates the private directory and the links.
#[must_use]
pub fn install(args: &InstallArgs) -> ExitCode {
    super::exit_code(super::block_on(install_with_retries(args)))
}

async fn install_with_retries(args: &InstallArgs) -> Result<(), String> {
    let mut stop = pin!(super::shutdown_signal());
    let mut last_error = String::new();
    loop {
        match install::install(&args.providers_dir, &args.provider, args.owner).await {
            Err(error) if args.wait => {
                if error != last_error {
                    super::print_error(&error);
                    last_error = error;
                }
            }
            done => return done.and_then(print_log),
        }
        // The first process of a container ignores signals that it does not handle.
        tokio::select! {
            () = &mut stop => return Err("stopped by a signal".to_owned()),
            () = time::sleep(INSTALL_RETRY_DELAY) => {}
        }
    }
}

/// Removes the links and the private directory.
#[must_use]
pub fn uninstall(args: &UninstallArgs) -> ExitCode {
    super::exit_code(super::block_on(async {
        print_log(install::uninstall(&args.providers_dir).await?)?;
        if args.wait_for_signal {
            super::shutdown_signal().await;
        }
        Ok(())
    }))
}

fn print_log(log: InstallLog) -> Result<(), String> {
    let nothing_found = vec!["vaultmount is not installed here".to_owned()];
    let lines = if log.is_empty() { nothing_found } else { log };
    super::ignore_broken_pipe(lines.iter().try_for_each(|line| writeln!(io::stdout(), "{line}")))
}

/// Parses a provider's name. Drivers accept `^[a-zA-Z0-9_-]{0,30}$`; here it must not be empty.
fn parse_provider_name(text: &str) -> Result<String, String> {
    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    if (1..=30).contains(&text.len()) && text.chars().all(is_name) {
        Ok(text.to_owned())
    } else {
        Err("a provider's name has 1 to 30 letters, digits, _ and -".to_owned())
    }
}

fn parse_owner(text: &str) -> Result<Owner, String> {
    let parsed =
        text.split_once(':').and_then(|(uid, gid)| Some(Owner { uid: uid.parse().ok()?, gid: gid.parse().ok()? }));
    parsed.ok_or_else(|| "an owner is a numeric user and group ID, such as 65532:65532".to_owned())
}
