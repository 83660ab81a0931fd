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
const PROVIDERS: &str = "/var/run/secrets-store-csi-providers";

/// Delay between two attempts with `--wait`.
const PAUSE: Duration = Duration::from_secs(1);

/// Flags of `vaultmount install`.
#[derive(Args, Clone, Debug)]
pub struct InstallArgs {
    /// The driver's providers directory
    #[arg(long, value_name = "DIR", default_value = PROVIDERS)]
    pub providers_dir: PathBuf,

    /// Provider name to serve; repeatable
    #[arg(long, value_name = "NAME", default_values = ["vault", "openbao"], value_parser = provider)]
    pub provider: Vec<String>,

    /// Numeric user and group of serve
    #[arg(long, value_name = "UID:GID", default_value = "65532:65532", value_parser = owner)]
    pub owner: Owner,

    /// Retry until it succeeds
    #[arg(long)]
    pub wait: bool,
}

/// Flags of `vaultmount uninstall`.
#[derive(Args, Clone, Debug)]
pub struct UninstallArgs {
    /// The driver's providers directory
    #[arg(long, value_name = "DIR", default_value = PROVIDERS)]
    pub providers_dir: PathBuf,

    /// Keep running until a signal arrives, as the container of a DaemonSet must
    #[arg(long)]
    pub wait_for_signal: bool,
}

/// Creates the private directory and the links.
#[must_use]
pub fn install(args: &InstallArgs) -> ExitCode {
    super::finish(super::block_on(installed(args)))
}

async fn installed(args: &InstallArgs) -> Result<(), String> {
    let mut stop = pin!(super::told_to_stop());
    let mut last_error = String::new();
    loop {
        match install::install(&args.providers_dir, &args.provider, args.owner).await {
            Err(error) if args.wait => {
                if error != last_error {
                    super::complain(&error);
                    last_error = error;
                }
            }
            done => return done.and_then(tell),
        }
        // The first process of a container ignores signals that it does not handle.
        tokio::select! {
            () = &mut stop => return Err("stopped by a signal".to_owned()),
            () = time::sleep(PAUSE) => {}
        }
    }
}

/// Removes the links and the private directory.
#[must_use]
pub fn uninstall(args: &UninstallArgs) -> ExitCode {
    super::finish(super::block_on(async {
        tell(install::uninstall(&args.providers_dir).await?)?;
        if args.wait_for_signal {
            super::told_to_stop().await;
        }
        Ok(())
    }))
}

fn tell(report: InstallLog) -> Result<(), String> {
    let nothing = vec!["vaultmount is not installed here".to_owned()];
    let lines = if report.is_empty() { nothing } else { report };
    super::printed(lines.iter().try_for_each(|line| writeln!(io::stdout(), "{line}")))
}

/// Parses a provider's name. Drivers accept `^[a-zA-Z0-9_-]{0,30}$`; here it must not be empty.
fn provider(text: &str) -> Result<String, String> {
    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    if (1..=30).contains(&text.len()) && text.chars().all(is_name) {
        Ok(text.to_owned())
    } else {
        Err("a provider's name has 1 to 30 letters, digits, _ and -".to_owned())
    }
}

fn owner(text: &str) -> Result<Owner, String> {
    let parsed =
        text.split_once(':').and_then(|(uid, gid)| Some(Owner { uid: uid.parse().ok()?, gid: gid.parse().ok()? }));
    parsed.ok_or_else(|| "an owner is a numeric user and group ID, such as 65532:65532".to_owned())
}
