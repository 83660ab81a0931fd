//! `vaultmount install` and `vaultmount uninstall`: our place among the driver's providers on a node.

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

/// Where drivers look for providers by default, and where charts of providers put theirs.
const PROVIDERS: &str = "/var/run/secrets-store-csi-providers";

/// Between two looks at whether a name is free.
const PAUSE: Duration = Duration::from_secs(1);

/// Flags of `vaultmount install`.
#[derive(Args, Clone, Debug)]
pub struct InstallArgs {
    /// The driver's folder of providers
    #[arg(long, value_name = "DIR", default_value = PROVIDERS)]
    pub providers_dir: PathBuf,

    /// Provider name to answer to; repeatable
    #[arg(long, value_name = "NAME", default_values = ["vault", "openbao"], value_parser = provider)]
    pub provider: Vec<String>,

    /// Who serves, by number
    #[arg(long, value_name = "UID:GID", default_value = "65532:65532", value_parser = owner)]
    pub owner: Owner,

    /// Try again until it works
    #[arg(long)]
    pub wait: bool,
}

/// Flags of `vaultmount uninstall`.
#[derive(Args, Clone, Debug)]
pub struct UninstallArgs {
    /// The driver's folder of providers
    #[arg(long, value_name = "DIR", default_value = PROVIDERS)]
    pub providers_dir: PathBuf,

    /// Stay until told to stop, as the container of a daemon set must
    #[arg(long)]
    pub wait_for_signal: bool,
}

/// Makes the private folder and the links.
#[must_use]
pub fn install(args: &InstallArgs) -> ExitCode {
    super::finish(super::block_on(installed(args)))
}

async fn installed(args: &InstallArgs) -> Result<(), String> {
    let mut stop = pin!(super::told_to_stop());
    let mut told = String::new();
    loop {
        match install::install(&args.providers_dir, &args.provider, args.owner).await {
            Err(error) if args.wait => {
                if error != told {
                    super::complain(&error);
                    told = error;
                }
            }
            done => return done.and_then(tell),
        }
        // The first process of a container dies of no signal that it does not ask for.
        tokio::select! {
            () = &mut stop => return Err("told to stop".to_owned()),
            () = time::sleep(PAUSE) => {}
        }
    }
}

/// Removes them.
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
    let nothing = vec!["nothing of vaultmount is here".to_owned()];
    let lines = if report.is_empty() { nothing } else { report };
    super::printed(lines.iter().try_for_each(|line| writeln!(io::stdout(), "{line}")))
}

/// A provider's name, as drivers take it: `^[a-zA-Z0-9_-]{0,30}$`, here not empty.
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
    parsed.ok_or_else(|| "an owner is a user's and a group's number, such as 65532:65532".to_owned())
}
