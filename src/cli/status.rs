//! `vaultmount status`: prints the running provider's pods, tokens, secrets and recent failures.

mod text;

use std::{io::Write, process::ExitCode, time::Duration};

use clap::Args;
use http::Method;

use super::{
    status_client::{self, Output, SocketArgs},
    style,
};

/// Flags of `vaultmount status`.
#[derive(Args, Clone, Debug)]
pub struct StatusArgs {
    /// The provider's socket and the output format.
    #[command(flatten)]
    pub at: SocketArgs,
}

/// Timeout of the request, which the provider answers from memory.
const PATIENCE: Duration = Duration::from_secs(10);

/// Requests the status and prints it.
#[must_use]
pub fn run(args: &StatusArgs) -> ExitCode {
    super::finish(super::block_on(async {
        let answer = status_client::ask(&args.at, Method::GET, "/status", PATIENCE).await?;
        let output = match args.at.output {
            Output::Text => text::written(&answer.read()?),
            Output::Json => answer.json() + "\n",
        };
        super::printed(style::stdout().write_all(output.as_bytes()))
    }))
}
